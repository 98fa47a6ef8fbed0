//! The service's own figures: as metrics, and how telling them goes as `dbwarden status` has it.

use super::posting;
use crate::{
    control::{self, LedgerStatus, OpenApprovals, ServerStatus, Snapshot, own_cost},
    event::Verdict,
    telemetry::{Label, Labels, Metric, TelemetryStatus},
};

pub fn status(told: &TelemetryStatus) -> control::TelemetryStatus {
    let (prometheus, prometheus_trouble) = match &told.prometheus {
        Some((address, trouble)) => (Some(address.to_string()), trouble.clone()),
        None => (None, None),
    };
    let signals = told.signals.iter().map(|signal| control::SignalStatus {
        signal: signal.signal.name().to_owned(),
        endpoint: signal.endpoint.clone(),
        waiting: signal.waiting,
        sent: signal.sent,
        dropped: signal.dropped.iter().map(|(reason, n)| ((*reason).to_owned(), *n)).collect(),
        trouble: signal.trouble.clone(),
    });
    control::TelemetryStatus { signals: signals.collect(), prometheus, prometheus_trouble }
}

pub fn metrics(snapshot: &Snapshot) -> Vec<Metric> {
    let totals = &snapshot.totals;
    let reason = "dbwarden.reason";
    let drops = Metric::counter("dbwarden.drops", "{record}", "Records that were lost.")
        .with_each(reason, totals.drops.clone());
    let dropped = Metric::counter("dbwarden.dropped", "By", "Bytes that were lost.")
        .with_each(reason, totals.dropped_bytes.clone());
    let ring = "dbwarden.ring";
    let sizes = snapshot.rings.iter().map(|ring| (ring.name.clone(), ring.size_bytes));
    let peaks = snapshot.rings.iter().map(|ring| (ring.name.clone(), ring.peak_bytes));
    let (memory_bytes, cpu_ms) = own_cost();
    let mut metrics = vec![
        drops,
        dropped,
        one(
            Metric::counter("dbwarden.unobservable", "By", "Bytes that went past every hook."),
            totals.unobservable_bytes,
        ),
        one(
            Metric::counter("dbwarden.sync.losses", "{loss}", "Message boundaries that were lost."),
            totals.sync_losses,
        ),
        Metric::gauge("dbwarden.ring.size", "By", "Room of a ring buffer.").with_each(ring, sizes),
        Metric::gauge("dbwarden.ring.peak", "By", "Most that was found waiting in it at once.")
            .with_each(ring, peaks),
        one(
            Metric::gauge("dbwarden.processes", "{process}", "Processes that are remembered."),
            snapshot.processes,
        ),
        one(Metric::level("process.memory.usage", "By", "Resident memory."), memory_bytes),
        Metric::counter("process.cpu.time", "s", "Time on a processor.")
            .with(Labels::new(), cpu_ms as f64 / 1e3),
    ];
    metrics.extend(servers(&snapshot.servers));
    metrics.extend(snapshot.guard.iter().map(|guard| approvals(&guard.approvals_open)));
    metrics.extend(snapshot.ledger.iter().flat_map(ledger));
    if !snapshot.webhooks.is_empty() {
        metrics.extend(posting::metrics(&snapshot.webhooks));
    }
    metrics
}

fn servers(servers: &[ServerStatus]) -> [Metric; 5] {
    let of = |metric: Metric, value: fn(&ServerStatus) -> u64| {
        let values = servers.iter().map(|server| (server.name.clone(), value(server)));
        metric.with_each("dbwarden.server", values)
    };
    [
        of(
            Metric::level(
                "dbwarden.connections.open",
                "{connection}",
                "Connections that are open.",
            ),
            |server| server.connections_open,
        ),
        of(
            Metric::counter("dbwarden.connections", "{connection}", "Connections so far."),
            |server| server.connections,
        ),
        of(
            Metric::level(
                "dbwarden.connections.blind",
                "{connection}",
                "Open connections of which nothing can be seen.",
            ),
            |server| server.blind_connections,
        ),
        of(Metric::counter("dbwarden.statements", "{statement}", "Statements so far."), |server| {
            server.statements
        }),
        of(
            Metric::gauge("dbwarden.server.verified", "1", "Whether it is what it seems to be."),
            |server| u64::from(server.verified),
        ),
    ]
}

fn approvals(servers: &[OpenApprovals]) -> Metric {
    let open = Metric::level(
        "dbwarden.approvals.open",
        "{request}",
        "Statements that wait for a decision, or to be sent once more.",
    );
    servers.iter().fold(open, |open, of| {
        let labels = |verdict: Verdict| {
            let server = Label::Text(of.server.clone().into());
            let verdict = Label::Text(verdict.name().into());
            vec![("dbwarden.server", server), ("dbwarden.verdict", verdict)]
        };
        open.with(labels(Verdict::Hold), of.hold as f64)
            .with(labels(Verdict::Ticket), of.ticket as f64)
    })
}

fn ledger(ledger: &LedgerStatus) -> [Metric; 6] {
    [
        one(
            Metric::level("dbwarden.ledger.open.rows", "{row}", "Rows of the open segment."),
            ledger.open_rows,
        ),
        one(
            Metric::level("dbwarden.ledger.sealed.segments", "{segment}", "Sealed segments."),
            ledger.sealed_segments,
        ),
        one(
            Metric::level("dbwarden.ledger.unsealed.segments", "{segment}", "Those that wait."),
            ledger.unsealed_segments,
        ),
        Metric::level("dbwarden.ledger.size", "By", "Bytes of the ledger, by part.").with_each(
            "dbwarden.ledger.part",
            [("open", ledger.open_bytes), ("sealed", ledger.sealed_bytes)],
        ),
        one(
            Metric::counter("dbwarden.ledger.missed", "{row}", "Rows that could not be kept."),
            ledger.missed_rows,
        ),
        one(
            Metric::gauge("dbwarden.ledger.troubles", "{trouble}", "What is wrong with it now."),
            ledger.troubles.len() as u64,
        ),
    ]
}

fn one(metric: Metric, value: u64) -> Metric {
    metric.with(Labels::new(), value as f64)
}
