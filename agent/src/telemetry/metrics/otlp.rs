//! Metrics as OTLP has them, cumulative since the agent's start.

use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, KeyValue, any_value::Value},
    metrics::v1::{
        self as proto, AggregationTemporality, HistogramDataPoint, NumberDataPoint,
        number_data_point,
    },
};

use super::{Data, Histogram, Label, Labels, Metric, Point};

/// `start` and `now` in nanoseconds since 1970.
pub fn encode(metrics: &[Metric], start: u64, now: u64) -> Vec<proto::Metric> {
    let number = |point: &Point<f64>| NumberDataPoint {
        attributes: attributes(&point.labels),
        start_time_unix_nano: start,
        time_unix_nano: now,
        value: Some(match point.value.fract() == 0.0 && point.value.abs() < 9e15 {
            true => number_data_point::Value::AsInt(point.value as i64),
            false => number_data_point::Value::AsDouble(point.value),
        }),
        ..NumberDataPoint::default()
    };
    let histogram = |point: &Point<Histogram>| HistogramDataPoint {
        attributes: attributes(&point.labels),
        start_time_unix_nano: start,
        time_unix_nano: now,
        count: point.value.count,
        sum: Some(point.value.sum),
        bucket_counts: point.value.counts.clone(),
        explicit_bounds: point.value.bounds.to_vec(),
        ..HistogramDataPoint::default()
    };
    let cumulative = AggregationTemporality::Cumulative.into();
    let sum = |points: &[Point<f64>], is_monotonic| proto::Sum {
        data_points: points.iter().map(number).collect(),
        aggregation_temporality: cumulative,
        is_monotonic,
    };
    metrics
        .iter()
        .filter(|metric| !metric.is_empty())
        .map(|metric| proto::Metric {
            name: metric.name.to_owned(),
            description: metric.description.to_owned(),
            unit: metric.unit.to_owned(),
            data: Some(match &metric.data {
                Data::Counter(points) => proto::metric::Data::Sum(sum(points, true)),
                Data::Level(points) => proto::metric::Data::Sum(sum(points, false)),
                Data::Gauge(points) => proto::metric::Data::Gauge(proto::Gauge {
                    data_points: points.iter().map(number).collect(),
                }),
                Data::Histogram(points) => proto::metric::Data::Histogram(proto::Histogram {
                    data_points: points.iter().map(histogram).collect(),
                    aggregation_temporality: cumulative,
                }),
            }),
            ..proto::Metric::default()
        })
        .collect()
}

fn attributes(labels: &Labels) -> Vec<KeyValue> {
    let value = |label: &Label| match label {
        Label::Text(text) => Value::StringValue(text.clone().into_owned()),
        Label::Shared(text) => Value::StringValue(text.to_string()),
        Label::Int(n) => Value::IntValue(*n),
        Label::Bool(is) => Value::BoolValue(*is),
    };
    labels
        .iter()
        .map(|(name, label)| KeyValue {
            key: (*name).to_owned(),
            value: Some(AnyValue { value: Some(value(label)) }),
            ..KeyValue::default()
        })
        .collect()
}
