//! What OpenTelemetry backends and Prometheus are told: spans, metrics, logs.
//!
//! The recorder's thread hands over ([`Feed`]), and never waits; a thread of its own sends. What a
//! receiver is too slow for is counted and gone: the ledger has it all the same.

mod attributes;
mod export;
mod exporter;
mod identity;
mod log;
mod metrics;
mod resource;
#[cfg(test)]
mod samples;
mod sampling;
mod scrape;
mod span;
mod transactions;
mod transport;

use std::{
    collections::BTreeMap,
    future::Future,
    io,
    net::SocketAddr,
    path::PathBuf,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
};

use opentelemetry_proto::tonic::logs::v1::LogRecord;
use tokio::sync::watch;

use self::{
    export::Pipe,
    metrics::Book,
    sampling::Sampling,
    span::{Ids, Item, Kinship},
    transactions::{Transaction, Transactions},
};
pub use self::{
    export::{Pace, SignalStatus},
    log::Severity,
    metrics::{Data, Label, Labels, Metric, Point},
};
use crate::{
    config::{self, Signal},
    delivery::Limits,
    event::{Approval, Episode, Occurrence, OccurrenceKind, Origin, Outbound, Record, WallTime},
};

/// A few seconds of a busy host; sent in messages that every receiver takes.
const LIMITS: Limits =
    Limits { items: 16_384, bytes: 16 << 20, batch_items: 512, batch_bytes: 1 << 20 };

/// Metrics that others count, asked for when they are told.
pub type Gather = Box<dyn Fn() -> Pin<Box<dyn Future<Output = Vec<Metric>> + Send>> + Send + Sync>;

/// What the two ends share.
pub struct Telemetry {
    settings: config::Telemetry,
    host: Arc<Origin>,
    /// The resource, by name.
    facts: BTreeMap<String, String>,
    traces: Option<Pipe<Item>>,
    logs: Option<Pipe<LogRecord>>,
    metrics: Option<Pipe<()>>,
    book: Mutex<Book>,
    gather: Gather,
    scrape_trouble: Mutex<Option<String>>,
    /// The ledger's newest checkpoint.
    checkpoint: Option<PathBuf>,
    start: WallTime,
}

/// What is told to whom, and how well that goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TelemetryStatus {
    pub signals: Vec<SignalStatus>,
    /// Where Prometheus may scrape, and why it can't.
    pub prometheus: Option<(SocketAddr, Option<String>)>,
}

/// The recorder's end.
pub struct Feed {
    shared: Arc<Telemetry>,
    sampling: Sampling,
    transactions: Transactions,
    thread: JoinHandle<()>,
    ending: watch::Sender<bool>,
}

/// Where it comes from.
pub struct Source {
    pub host: Arc<Origin>,
    pub gather: Gather,
    pub checkpoint: Option<PathBuf>,
    pub now: WallTime,
}

impl Telemetry {
    /// Begins to send. What a receiver makes impossible is told by `status`, and tried again.
    ///
    /// # Errors
    /// No thread, or no runtime in it, can be had.
    pub fn start(settings: &config::Telemetry, source: Source, pace: Pace) -> io::Result<Feed> {
        let Source { host, gather, checkpoint, now } = source;
        fn pipe<T>(signal: Signal, otlp: &Option<config::Otlp>) -> Option<Pipe<T>> {
            otlp.as_ref().map(|otlp| Pipe::new(signal, otlp, LIMITS))
        }
        let shared = Arc::new(Self {
            facts: resource::facts(&host, &settings.resource),
            traces: pipe(Signal::Traces, &settings.traces.otlp),
            logs: pipe(Signal::Logs, &settings.logs.otlp),
            metrics: pipe(Signal::Metrics, &settings.metrics.otlp),
            settings: settings.clone(),
            host,
            book: Mutex::default(),
            gather,
            scrape_trouble: Mutex::default(),
            checkpoint,
            start: now,
        });
        let (ending, ended) = watch::channel(false);
        let thread = exporter::start(shared.clone(), pace, ended)?;
        let sampling = Sampling::new(&settings.traces);
        Ok(Feed { shared, sampling, transactions: Transactions::default(), thread, ending })
    }

    pub fn status(&self) -> TelemetryStatus {
        let signals = [
            self.traces.as_ref().map(Pipe::status),
            self.metrics.as_ref().map(Pipe::status),
            self.logs.as_ref().map(Pipe::status),
        ];
        let trouble = || self.scrape_trouble.lock().unwrap_or_else(PoisonError::into_inner).clone();
        TelemetryStatus {
            signals: signals.into_iter().flatten().collect(),
            prometheus: self.settings.prometheus.map(|address| (address, trouble())),
        }
    }

    fn book(&self) -> std::sync::MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Feed {
    /// For whoever asks how it goes.
    pub fn shared(&self) -> Arc<Telemetry> {
        self.shared.clone()
    }

    /// Every statement, in the order of its connection, once it has been analysed.
    pub fn statement(&mut self, record: &Arc<Record>, now: WallTime) {
        self.shared.book().statement(record, now);
        let Some(traces) = &self.shared.traces else { return };
        let send = |item: Item| {
            let weight = item.weight();
            traces.queue.push(item, weight);
        };
        let transaction = self.transactions.of(record);
        let (kinship, parent_sampled) = match claimed_parent(record) {
            Some(Parent { trace, span, is_sampled }) => {
                (Kinship::Remote { trace, parent: span }, Some(is_sampled))
            }
            None => match &transaction {
                Some(Transaction { ids, .. }) => {
                    (Kinship::Local { trace: ids.trace, parent: ids.span }, None)
                }
                None => (Kinship::Root, None),
            },
        };
        let ids = Ids::new(kinship);
        if self.sampling.takes(record, ids.trace, parent_sampled) {
            let mut linked = None;
            if let Some(transaction) = transaction {
                transaction.has_sent_child = true;
                let its = transaction.ids;
                linked = (ids.trace != its.trace).then_some((its.trace, its.span));
            }
            send(Item::Statement { record: record.clone(), ids, transaction: linked });
        }
        if let Some(ended) = self.transactions.ended(record) {
            self.transaction(ended);
        }
    }

    /// Every row that is no statement.
    pub fn occurrence(&mut self, occurrence: &Occurrence) {
        self.shared.book().occurrence(occurrence);
        self.log(|| log::occurrence(occurrence));
        if occurrence.kind == OccurrenceKind::Connection
            && occurrence.action == "closed"
            && let Some(connection) = occurrence.origin.connection
            && let Some(cut_off) = self.transactions.disconnected(connection)
        {
            self.transaction(cut_off);
        }
    }

    /// Each end of a burst of connections that a database opens.
    pub fn outbound(&mut self, outbound: &Outbound) {
        self.log(|| log::outbound(outbound));
    }

    /// Each step of an approval.
    pub fn approval(&mut self, approval: &Approval) {
        self.shared.book().approval(approval);
        self.log(|| log::approval(approval));
    }

    /// Each end of an episode.
    pub fn finding(&mut self, episode: &Episode) {
        self.shared.book().finding(episode);
        self.log(|| log::finding(episode));
    }

    /// `subject` is a short stable word.
    pub fn alert(&self, time: WallTime, severity: Severity, subject: &str, message: &str) {
        self.log(|| log::alert(time, severity, subject, message));
    }

    /// Sends what is left, for a few seconds at most.
    pub fn close(self) {
        let _ = self.ending.send(true);
        if self.thread.join().is_err() {
            tracing::error!("the telemetry thread panicked");
        }
        for signal in self.shared.status().signals.iter().filter(|signal| signal.waiting > 0) {
            let (name, n) = (signal.signal.name(), signal.waiting);
            tracing::warn!(signal = name, n, "not sent, down to the end");
        }
    }

    fn transaction(&self, transaction: Transaction) {
        let Some(traces) = &self.shared.traces else { return };
        if transaction.has_sent_child || self.sampling.takes_trace(transaction.ids.trace) {
            let item = Item::Transaction(Box::new(transaction));
            let weight = item.weight();
            traces.queue.push(item, weight);
        }
    }

    fn log(&self, record: impl FnOnce() -> LogRecord) {
        if let Some(logs) = &self.shared.logs {
            let record = record();
            let weight = log::weight(&record);
            logs.queue.push(record, weight);
        }
    }
}

/// A span that a client says is the parent of its statement's.
struct Parent {
    trace: u128,
    span: u64,
    is_sampled: bool,
}

fn claimed_parent(record: &Record) -> Option<Parent> {
    let trace = record.claims.as_ref()?.trace.as_ref()?;
    Some(Parent {
        trace: u128::from_str_radix(&trace.trace_id, 16).ok()?,
        span: u64::from_str_radix(&trace.span_id, 16).ok()?,
        is_sampled: trace.is_sampled,
    })
}

#[cfg(test)]
mod tests;
