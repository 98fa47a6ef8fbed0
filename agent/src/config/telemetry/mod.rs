//! What is told to OpenTelemetry backends and to Prometheus: the settings, and how they are made.
//!
//! What stands in the file counts; the standard `OTEL_*` variables fill in what does not.

mod environment;
mod otlp;

use std::{collections::BTreeMap, net::SocketAddr, ops::RangeInclusive, time::Duration};

use serde::Serialize;
use toml::Spanned;

pub(super) use self::environment::Environment;
use self::otlp::Partial;
pub use self::otlp::{Compression, Otlp, Protocol, SecretHeaders, Signal};
use super::{Span, error::Complaint, file, settings::within};

/// Nothing is sent where no `otlp` says where to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Telemetry {
    /// `GET /metrics` is answered there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prometheus: Option<SocketAddr>,
    /// Said of this host besides what dbwarden knows; by OpenTelemetry's names.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub resource: BTreeMap<String, String>,
    pub traces: Traces,
    pub metrics: Metrics,
    pub logs: Logs,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Traces {
    pub enabled: bool,
    /// Of the statements that are neither errors nor slow, this part; from 0 to 1.
    pub ratio: f64,
    /// Statements that take as long are always sent.
    pub slow: Span,
    /// A parent that isn't sampled has unsampled children.
    pub follow_parent: bool,
    /// Spans say how many rows there were.
    pub returned_rows: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub otlp: Option<Otlp>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Metrics {
    pub enabled: bool,
    pub interval: Span,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub otlp: Option<Otlp>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Logs {
    pub enabled: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub otlp: Option<Otlp>,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self {
            prometheus: None,
            resource: BTreeMap::new(),
            traces: Traces {
                enabled: true,
                ratio: 0.1,
                slow: Span(Duration::from_secs(1)),
                follow_parent: true,
                returned_rows: false,
                otlp: None,
            },
            metrics: Metrics { enabled: true, interval: INTERVAL, otlp: None },
            logs: Logs { enabled: true, otlp: None },
        }
    }
}

impl Telemetry {
    /// Whether anything is told to anybody.
    pub fn is_wanted(&self) -> bool {
        let otlp = [&self.traces.otlp, &self.metrics.otlp, &self.logs.otlp];
        self.prometheus.is_some() || otlp.into_iter().any(Option::is_some)
    }
}

const INTERVAL: Span = Span(Duration::from_secs(60));
const INTERVALS: RangeInclusive<Span> =
    Span(Duration::from_secs(1))..=Span(Duration::from_secs(3_600));
const SLOW: RangeInclusive<Span> =
    Span(Duration::from_micros(1))..=Span(Duration::from_secs(86_400));

pub(super) fn telemetry(
    written: file::Telemetry,
    environment: &Environment,
) -> Result<Telemetry, Complaint> {
    let default = Telemetry::default();
    let common = written.otlp.map(Partial::of_file).transpose()?.unwrap_or_default();
    let is_on = written.enabled.unwrap_or(true) && !environment.is_disabled();
    let target = |signal: Signal, enabled: Option<bool>, own: Option<Spanned<file::Otlp>>| {
        let enabled = is_on && enabled.unwrap_or(true) && environment.exports(signal)?;
        let own = own.map(|own| Partial::of_file(own).map(Partial::for_one_signal)).transpose()?;
        let partial = own.unwrap_or_default().or(common.clone()).or(environment.otlp(signal)?);
        let otlp = if enabled { partial.complete(signal)? } else { None };
        Ok::<_, Complaint>((enabled, otlp))
    };
    let file::Traces { enabled, ratio, slow, follow_parent, returned_rows, otlp } = written.traces;
    let sampler = environment.sampler()?;
    let (enabled, otlp) = target(Signal::Traces, enabled, otlp)?;
    let traces = Traces {
        enabled,
        ratio: ratio.map(part).transpose()?.or(sampler.ratio).unwrap_or(default.traces.ratio),
        slow: within("slow", slow, &SLOW)?.unwrap_or(default.traces.slow),
        follow_parent: follow_parent.or(sampler.follow_parent).unwrap_or(true),
        returned_rows: returned_rows.unwrap_or(false),
        otlp,
    };
    let file::Metrics { enabled, interval, otlp } = written.metrics;
    let interval = within("interval", interval, &INTERVALS)?;
    let (enabled, otlp) = target(Signal::Metrics, enabled, otlp)?;
    let interval = interval.or(environment.metric_interval(&INTERVALS)?).unwrap_or(INTERVAL);
    let metrics = Metrics { enabled, interval, otlp };
    let file::Logs { enabled, otlp } = written.logs;
    let (enabled, otlp) = target(Signal::Logs, enabled, otlp)?;

    let mut resource = environment.resource()?;
    for (name, value) in written.resource {
        resource.insert(name.clone(), resource_attribute(&name, value)?);
    }
    let prometheus = written.prometheus.or(environment.prometheus()?).filter(|_| is_on);
    Ok(Telemetry { prometheus, resource, traces, metrics, logs: Logs { enabled, otlp } })
}

fn part(written: Spanned<f64>) -> Result<f64, Complaint> {
    let ratio = *written.get_ref();
    if (0.0..=1.0).contains(&ratio) {
        return Ok(ratio);
    }
    Err(Complaint::at(written.span(), format!("`ratio`: from 0 to 1; {ratio} is not")))
}

/// As long as backends take them.
const ATTRIBUTE_BYTES: usize = 1_024;

fn resource_attribute(name: &str, written: Spanned<String>) -> Result<String, Complaint> {
    let span = written.span();
    let value = written.into_inner();
    match is_attribute(name, &value) {
        true => Ok(value),
        false => Err(Complaint::at(
            span,
            format!(
                "[telemetry.resource] {name:?}: names are of letters, digits, `.`, `_` and `-`; \
                 values have 1 to {ATTRIBUTE_BYTES} bytes"
            ),
        )),
    }
}

fn is_attribute(name: &str, value: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/');
    !name.is_empty()
        && name.len() <= ATTRIBUTE_BYTES
        && name.chars().all(plain)
        && (1..=ATTRIBUTE_BYTES).contains(&value.len())
}

#[cfg(test)]
mod tests;
