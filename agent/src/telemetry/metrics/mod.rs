//! Metrics: what is counted of statements and of the agent itself, and the two forms in which it is told.

mod book;
mod histogram;
mod otlp;
mod prometheus;

use std::{borrow::Cow, sync::Arc};

pub use self::{
    book::Book,
    histogram::{Bounds, Histogram},
    otlp::encode as encode_otlp,
    prometheus::encode as encode_prometheus,
};

/// One instrument with all its series.
#[derive(Clone, Debug, PartialEq)]
pub struct Metric {
    /// As OpenTelemetry writes names: `dbwarden.ring.size`.
    pub name: &'static str,
    /// UCUM: `s`, `By`, `{connection}`.
    pub unit: &'static str,
    pub description: &'static str,
    pub data: Data,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// Counted since the start; never goes down.
    Counter(Vec<Point<f64>>),
    /// Counted, and goes up and down.
    Level(Vec<Point<f64>>),
    Gauge(Vec<Point<f64>>),
    Histogram(Vec<Point<Histogram>>),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Point<T> {
    pub labels: Labels,
    pub value: T,
}

pub type Labels = Vec<(&'static str, Label)>;

#[derive(Clone, Debug, PartialEq)]
pub enum Label {
    Text(Cow<'static, str>),
    Shared(Arc<str>),
    Int(i64),
    Bool(bool),
}

impl Metric {
    pub fn counter(name: &'static str, unit: &'static str, description: &'static str) -> Self {
        Self { name, unit, description, data: Data::Counter(Vec::new()) }
    }

    pub fn level(name: &'static str, unit: &'static str, description: &'static str) -> Self {
        Self { name, unit, description, data: Data::Level(Vec::new()) }
    }

    pub fn gauge(name: &'static str, unit: &'static str, description: &'static str) -> Self {
        Self { name, unit, description, data: Data::Gauge(Vec::new()) }
    }

    /// With one more series; of a histogram, nothing.
    pub fn with(mut self, labels: Labels, value: f64) -> Self {
        match &mut self.data {
            Data::Counter(points) | Data::Level(points) | Data::Gauge(points) => {
                points.push(Point { labels, value });
            }
            Data::Histogram(_) => {}
        }
        self
    }

    /// With a series for each of `values`, told apart by `label`.
    pub fn with_each<T: Into<String>>(
        self,
        label: &'static str,
        values: impl IntoIterator<Item = (T, u64)>,
    ) -> Self {
        values.into_iter().fold(self, |metric, (name, value)| {
            metric.with(vec![(label, Label::Text(Cow::Owned(name.into())))], value as f64)
        })
    }

    pub fn is_empty(&self) -> bool {
        match &self.data {
            Data::Counter(points) | Data::Level(points) | Data::Gauge(points) => points.is_empty(),
            Data::Histogram(points) => points.is_empty(),
        }
    }
}

#[cfg(test)]
mod tests;
