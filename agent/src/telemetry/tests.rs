//! What is handed over, and what a receiver gets of it: in good times, and in all sorts of bad ones.

mod expired;
mod spans;
mod troubles;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    trace::v1::{ResourceSpans, Span as ProtoSpan},
};
use prost_otlp::Message;

use super::{Feed, Gather, Metric, Pace, Source, Telemetry, samples};
use crate::{
    config::{self, Compression, Otlp, Protocol, Span},
    delivery::receiver::Receiver,
    event::{Record, WallTime},
};

const PACE: Pace = Pace {
    gather: Duration::from_millis(20),
    first_pause: Duration::from_millis(20),
    longest_pause: Duration::from_millis(100),
    farewell: Duration::from_millis(500),
    checkpoint: Duration::from_secs(60),
};

fn otlp(endpoint: String) -> Otlp {
    Otlp {
        endpoint,
        protocol: Protocol::Http,
        compression: Compression::None,
        timeout: Span(Duration::from_millis(300)),
        certificate: None,
        client_certificate: None,
        client_key: None,
        headers: Default::default(),
        secret_headers: Default::default(),
    }
}

/// Traces alone, all of them.
fn traces_to(otlp: Otlp) -> config::Telemetry {
    let mut settings = config::Telemetry::default();
    settings.traces.ratio = 1.0;
    settings.traces.otlp = Some(otlp);
    settings
}

fn start(settings: &config::Telemetry) -> Feed {
    let gather: Gather = Box::new(|| Box::pin(async { Vec::<Metric>::new() }));
    let source =
        Source { host: Arc::new(samples::origin()), gather, checkpoint: None, now: WallTime(0) };
    Telemetry::start(settings, source, PACE).unwrap()
}

fn statement(summary: &str) -> Arc<Record> {
    Arc::new(samples::record(1_000_000, 1_500, Some(samples::facts(summary, &[]))))
}

/// What arrived, request by request.
fn arrived_by_resource(receiver: &Receiver) -> Vec<ResourceSpans> {
    let requests = receiver.requests();
    let decoded = requests.iter().map(|request| {
        ExportTraceServiceRequest::decode(request.body.as_slice()).unwrap().resource_spans
    });
    decoded.flatten().collect()
}

fn arrived(receiver: &Receiver) -> Vec<ProtoSpan> {
    let resources = arrived_by_resource(receiver).into_iter();
    resources.flat_map(|spans| spans.scope_spans).flat_map(|scope| scope.spans).collect()
}

/// Waits for something that happens on another thread.
fn await_that(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(Instant::now() < until, "{what} did not come");
        std::thread::sleep(Duration::from_millis(2));
    }
}
