//! What is counted of statements as they pass: durations and rows by operation, coverage, lag.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use rustc_hash::FxHashMap;

use super::{
    super::{identity, transactions},
    Data, Histogram, Label, Labels, Metric, Point,
    histogram::{DURATION, ROWS},
};
use crate::event::{
    Approval, ApprovalAction, Effect, Engine, Episode, EpisodeAction, Occurrence, OccurrenceKind,
    Origin, PrincipalKind, Record, Verdict, WallTime,
};

/// Series of statements, as many as the specification lets an instrument have; the others are one.
const MAX_SERIES: usize = 2_000;
/// Servers whose coverage is told.
const MAX_SERVERS: usize = 256;
/// How long a statement has waited for the recorder, in seconds.
const LAG: super::Bounds = &[0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0];

#[derive(Debug)]
pub struct Book {
    operations: FxHashMap<Operation, Series>,
    /// Of the operations that there was no room for.
    overflow: Option<Series>,
    /// Bytes by server and by what became of them.
    coverage: BTreeMap<Arc<str>, BTreeMap<&'static str, u64>>,
    lag: Histogram,
    /// Episodes by severity.
    findings: BTreeMap<&'static str, u64>,
    /// Steps of approvals.
    approvals: BTreeMap<(ApprovalAction, Verdict), u64>,
}

/// What tells one series from another.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Operation {
    engine: Option<Engine>,
    database: Option<Arc<str>>,
    summary: Option<Arc<str>>,
    /// SQLSTATE of an error.
    status: Option<Arc<str>>,
    address: Option<Arc<str>>,
    port: Option<u16>,
    kind: Option<PrincipalKind>,
}

#[derive(Clone, Debug)]
struct Series {
    duration: Histogram,
    rows: Histogram,
}

impl Default for Series {
    fn default() -> Self {
        Self { duration: Histogram::new(DURATION), rows: Histogram::new(ROWS) }
    }
}

impl Default for Book {
    fn default() -> Self {
        Self {
            operations: FxHashMap::default(),
            overflow: None,
            coverage: BTreeMap::new(),
            lag: Histogram::new(LAG),
            findings: BTreeMap::new(),
            approvals: BTreeMap::new(),
        }
    }
}

impl Book {
    pub fn statement(&mut self, record: &Record, now: WallTime) {
        let lag = now.0.saturating_sub(transactions::end(record).0).max(0);
        self.lag.record(lag as f64 / 1e6);
        let operation = Operation::of(record);
        let is_known = self.operations.contains_key(&operation);
        let series = match is_known || self.operations.len() < MAX_SERIES - 1 {
            true => self.operations.entry(operation).or_default(),
            false => self.overflow.get_or_insert_default(),
        };
        if let Some(micros) = record.duration_us {
            series.duration.record(micros as f64 / 1e6);
        }
        if let Some(rows) = record.rows.filter(|_| returns_rows(record)) {
            series.rows.record(rows as f64);
        }
    }

    pub fn occurrence(&mut self, occurrence: &Occurrence) {
        let Some(server) = occurrence.origin.server.as_ref() else { return };
        if occurrence.kind != OccurrenceKind::Coverage {
            return;
        }
        if !self.coverage.contains_key(server) && self.coverage.len() >= MAX_SERVERS {
            return;
        }
        let totals = self.coverage.entry(server.clone()).or_default();
        for (name, n) in &occurrence.counts {
            if let Some(state) =
                FATES.iter().find(|fate| name.strip_suffix("_bytes") == Some(**fate))
            {
                *totals.entry(state).or_default() += n;
            }
        }
    }

    pub fn finding(&mut self, episode: &Episode) {
        if episode.action == EpisodeAction::Began && !episode.finding.dry_run {
            *self.findings.entry(episode.finding.severity.name()).or_default() += 1;
        }
    }

    pub fn approval(&mut self, approval: &Approval) {
        *self.approvals.entry((approval.action, approval.verdict)).or_default() += 1;
    }

    pub fn metrics(&self) -> Vec<Metric> {
        let overflow = self
            .overflow
            .as_ref()
            .map(|series| (vec![("otel.metric.overflow", Label::Bool(true))], series));
        let series: Vec<(Labels, &Series)> = self
            .operations
            .iter()
            .map(|(operation, series)| (operation.labels(), series))
            .chain(overflow)
            .collect();
        let points = |histogram: fn(&Series) -> &Histogram| {
            let points = series.iter().filter(|(_, series)| histogram(series).count > 0);
            points
                .map(|(labels, series)| Point {
                    labels: labels.clone(),
                    value: histogram(series).clone(),
                })
                .collect()
        };
        let mut coverage = Metric::counter(
            "dbwarden.coverage",
            "By",
            "Bytes of database connections, by what became of them.",
        );
        for (server, totals) in &self.coverage {
            for (state, n) in totals {
                let labels = vec![
                    ("dbwarden.server", Label::Shared(server.clone())),
                    ("dbwarden.coverage.state", Label::Text(Cow::Borrowed(state))),
                ];
                coverage = coverage.with(labels, *n as f64);
            }
        }
        let steps = Metric::counter("dbwarden.approvals", "{step}", "Steps of approvals, by kind.");
        let approvals = self.approvals.iter().fold(steps, |steps, ((action, verdict), n)| {
            let labels = vec![
                ("dbwarden.approval.action", Label::Text(Cow::Borrowed(action.name()))),
                ("dbwarden.verdict", Label::Text(Cow::Borrowed(verdict.name()))),
            ];
            steps.with(labels, *n as f64)
        });
        vec![
            Metric {
                name: "db.client.operation.duration",
                unit: "s",
                description: "Duration of database client operations.",
                data: Data::Histogram(points(|series| &series.duration)),
            },
            Metric {
                name: "db.client.response.returned_rows",
                unit: "{row}",
                description: "The actual number of records returned by the database operation.",
                data: Data::Histogram(points(|series| &series.rows)),
            },
            coverage,
            approvals,
            Metric::counter("dbwarden.findings", "{finding}", "Findings, by severity.").with_each(
                "dbwarden.severity",
                self.findings.iter().map(|(severity, n)| (*severity, *n)),
            ),
            Metric {
                name: "dbwarden.recorder.lag",
                unit: "s",
                description: "Time from a statement's end until it is recorded.",
                data: Data::Histogram(vec![Point {
                    labels: Labels::new(),
                    value: self.lag.clone(),
                }]),
            },
        ]
    }
}

/// What becomes of a server's bytes, as in the counts of a coverage row.
const FATES: [&str; 5] = ["decoded", "truncated", "lost", "blind", "skipped"];

/// The server counts rows that were written too.
fn returns_rows(record: &Record) -> bool {
    let writes = [Effect::Insert, Effect::Update, Effect::Delete, Effect::CopyIn];
    record.facts.as_ref().is_some_and(|facts| {
        facts.effects.contains(Effect::Read)
            && !writes.into_iter().any(|effect| facts.effects.contains(effect))
    })
}

impl Operation {
    fn of(record: &Record) -> Self {
        let Origin { engine, database, server_address, server_port, principal_kind, .. } =
            &*record.origin;
        let summary = record.facts.as_ref().map(|facts| facts.summary.clone());
        let code = record.error_code.as_deref();
        let skipped = code.is_none() && record.error_message.is_some();
        Self {
            engine: *engine,
            database: database.clone(),
            summary: summary.filter(|summary| !summary.is_empty()),
            status: code.or(skipped.then_some("skipped")).map(Into::into),
            address: server_address.clone(),
            port: *server_port,
            kind: *principal_kind,
        }
    }

    fn labels(&self) -> Labels {
        let text = |name, value: &Option<Arc<str>>| {
            value.as_ref().map(|value| (name, Label::Shared(value.clone())))
        };
        let system = identity::system(self.engine);
        let kind = self.kind.map(PrincipalKind::name);
        let code = self.status.clone().filter(|status| &**status != "skipped");
        [
            system.map(|system| ("db.system.name", Label::Text(Cow::Borrowed(system)))),
            text("db.namespace", &self.database),
            text("db.query.summary", &self.summary),
            text("db.response.status_code", &code),
            text("error.type", &self.status),
            text("server.address", &self.address),
            self.port.map(|port| ("server.port", Label::Int(port.into()))),
            kind.map(|kind| ("dbwarden.principal.kind", Label::Text(Cow::Borrowed(kind)))),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}
