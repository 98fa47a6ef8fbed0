//! The exporter's thread: a task for each signal, one for Prometheus, one for checkpoints.

use std::{
    fs, io,
    sync::Arc,
    thread::{self, JoinHandle},
};

use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest,
        trace::v1::ExportTraceServiceRequest,
    },
    logs::v1::{LogRecord, ResourceLogs, ScopeLogs},
    metrics::v1::{ResourceMetrics, ScopeMetrics},
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans},
};
use time::UtcDateTime;
use tokio::{
    runtime,
    sync::watch,
    time::{sleep, timeout},
};

use super::{
    Telemetry,
    attributes::scope,
    export::{Pace, Pipe, Sender, drain},
    log, metrics,
    metrics::{Label, Metric},
    resource::{SCHEMA, resource},
    scrape,
    span::{Item, nanos},
    transport::Payload,
};
use crate::{delivery::Ending, event::WallTime};

/// A checkpoint is a few hundred bytes.
const CHECKPOINT_BYTES: u64 = 16 << 10;

pub fn start(
    shared: Arc<Telemetry>,
    pace: Pace,
    ending: watch::Receiver<bool>,
) -> io::Result<JoinHandle<()>> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().name("telemetry".into()).spawn(move || {
        runtime.block_on(work(shared, pace, Ending(ending)));
        // What a receiver still holds up is not waited for.
        runtime.shutdown_background();
    })
}

async fn work(shared: Arc<Telemetry>, pace: Pace, mut ending: Ending) {
    if let Some(address) = shared.settings.prometheus {
        let metrics = {
            let shared = shared.clone();
            move || {
                let shared = shared.clone();
                async move { metrics::encode_prometheus(&all_metrics(&shared).await, &shared.facts) }
            }
        };
        let shared = shared.clone();
        tokio::spawn(async move { scrape::serve(address, &shared.scrape_trouble, metrics).await });
    }
    let resource = resource(&shared.facts);
    let ended = ending.clone();
    let traces = async {
        let Some(pipe) = &shared.traces else { return };
        let returned_rows = shared.settings.traces.returned_rows;
        drain(pipe, pace, ended.clone(), |batch| spans(&resource, batch, returned_rows)).await;
    };
    let logs = async {
        let Some(pipe) = &shared.logs else { return };
        let sending = || drain(pipe, pace, ended.clone(), |batch| records(&resource, batch));
        tokio::join!(sending(), checkpoints(&shared, pipe, pace, ended.clone()));
        // The last checkpoint, which came after the rest.
        sending().await;
    };
    let metrics = async {
        let Some(pipe) = &shared.metrics else { return };
        report(&shared, pipe, &resource, pace, ended.clone()).await;
    };
    let all = async { tokio::join!(traces, logs, metrics) };
    tokio::pin!(all);
    tokio::select! {
        _ = &mut all => {}
        () = ending.begun() => {
            let _ = timeout(pace.farewell, all).await;
            return;
        }
    }
    // Only Prometheus is told.
    ending.begun().await;
}

async fn report(
    shared: &Telemetry,
    pipe: &Pipe<()>,
    resource: &Resource,
    pace: Pace,
    mut ending: Ending,
) {
    let mut sender = Sender::new(pipe, pace);
    loop {
        tokio::select! {
            () = sleep(shared.settings.metrics.interval.0) => {}
            () = ending.begun() => {}
        }
        let metrics = all_metrics(shared).await;
        let metrics = metrics::encode_otlp(&metrics, nanos(shared.start), nanos(now()));
        let n_metrics = metrics.len() as u64;
        let scope_metrics =
            vec![ScopeMetrics { scope: Some(scope()), metrics, schema_url: SCHEMA.to_owned() }];
        let payload = Payload::Metrics(ExportMetricsServiceRequest {
            resource_metrics: vec![ResourceMetrics {
                resource: Some(resource.clone()),
                scope_metrics,
                schema_url: SCHEMA.to_owned(),
            }],
        });
        // A failure is told by the status, and loses nothing: the next report says it all again.
        let _ = sender.attempt(n_metrics, payload).await;
        if ending.has_begun() {
            return;
        }
    }
}

/// Tells of the ledger's newest checkpoint, where there is a new one.
async fn checkpoints(shared: &Telemetry, pipe: &Pipe<LogRecord>, pace: Pace, mut ending: Ending) {
    let Some(file) = &shared.checkpoint else { return };
    let mut told = String::new();
    loop {
        // It is replaced as a whole, so that it can be read at any time.
        let is_sane = fs::metadata(file).is_ok_and(|file| file.len() <= CHECKPOINT_BYTES);
        if let Ok(note) = fs::read_to_string(file)
            && is_sane
            && note != told
        {
            let record = log::checkpoint(now(), &shared.host, &note);
            let weight = log::weight(&record);
            pipe.queue.push(record, weight);
            told = note;
        }
        if ending.has_begun() {
            return;
        }
        tokio::select! {
            () = sleep(pace.checkpoint) => {}
            () = ending.begun() => {}
        }
    }
}

async fn all_metrics(shared: &Telemetry) -> Vec<Metric> {
    let mut all = shared.book().metrics();
    all.extend((shared.gather)().await);
    let mut sent = Metric::counter("dbwarden.export.sent", "{item}", "Items that were sent.");
    let mut waiting = Metric::level("dbwarden.export.waiting", "{item}", "Items that wait.");
    let mut failing =
        Metric::gauge("dbwarden.export.failing", "1", "Whether a receiver takes nothing.");
    let mut dropped =
        Metric::counter("dbwarden.export.dropped", "{item}", "Items that will never be sent.");
    for signal in shared.status().signals {
        let labels = vec![("dbwarden.signal", Label::Text(signal.signal.name().into()))];
        sent = sent.with(labels.clone(), signal.sent as f64);
        waiting = waiting.with(labels.clone(), signal.waiting as f64);
        failing = failing.with(labels.clone(), f64::from(u8::from(signal.trouble.is_some())));
        for (reason, n) in signal.dropped {
            let mut labels = labels.clone();
            labels.push(("dbwarden.reason", Label::Text(reason.into())));
            dropped = dropped.with(labels, n as f64);
        }
    }
    all.extend([sent, waiting, failing, dropped]);
    all
}

fn spans(resource: &Resource, batch: &[Item], returned_rows: bool) -> Payload {
    let scope_spans = vec![ScopeSpans {
        scope: Some(scope()),
        spans: batch.iter().map(|item| item.span(returned_rows)).collect(),
        schema_url: SCHEMA.to_owned(),
    }];
    let resource_spans = vec![ResourceSpans {
        resource: Some(resource.clone()),
        scope_spans,
        schema_url: SCHEMA.to_owned(),
    }];
    Payload::Traces(ExportTraceServiceRequest { resource_spans })
}

fn records(resource: &Resource, batch: &[LogRecord]) -> Payload {
    let scope_logs = vec![ScopeLogs {
        scope: Some(scope()),
        log_records: batch.to_vec(),
        schema_url: SCHEMA.to_owned(),
    }];
    let resource_logs = vec![ResourceLogs {
        resource: Some(resource.clone()),
        scope_logs,
        schema_url: SCHEMA.to_owned(),
    }];
    Payload::Logs(ExportLogsServiceRequest { resource_logs })
}

fn now() -> WallTime {
    WallTime::from_utc(UtcDateTime::now())
}
