//! What the service says of itself, and how it is asked without ever waiting for the asker.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{sync::watch, time::timeout};

/// The answer to `/v1/status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    pub version: String,
    pub pid: u32,
    pub host: String,
    pub uptime_seconds: u64,
    pub agent: Agent,
    /// The pipeline did not answer in time: the rest is its last word before.
    pub stale: bool,
    #[serde(flatten)]
    pub capture: Snapshot,
}

/// What the agent itself costs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Agent {
    /// Resident memory.
    pub memory_bytes: u64,
    /// User and system time of all its threads since it started.
    pub cpu_ms: u64,
    pub watchers: u64,
    /// Lines that watchers were too slow for.
    pub watch_missed: u64,
}

/// What the pipeline knows, filled in by the pipeline's own thread.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Snapshot {
    pub hooks: Hooks,
    pub servers: Vec<ServerStatus>,
    /// Servers that the configuration names and nobody found.
    pub absent: Vec<AbsentServer>,
    pub totals: Totals,
    pub rings: Vec<Ring>,
    /// Null where none is kept.
    pub ledger: Option<LedgerStatus>,
    /// Null where nobody is told anything.
    pub telemetry: Option<TelemetryStatus>,
    /// Where findings are posted.
    pub webhooks: Vec<WebhookStatus>,
    /// Null where no server is guarded.
    pub guard: Option<GuardStatus>,
    /// Processes whose lineage is remembered.
    pub processes: u64,
}

/// What stands between clients and guarded servers. Counts are since the start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GuardStatus {
    /// Clients are taken in.
    pub stands: bool,
    /// What is wrong with its newest rules or certificates.
    pub problem: Option<String>,
    pub servers: Vec<GuardedServer>,
    /// Guards that were started: more than one where one has failed.
    pub starts: u64,
    pub clients: u64,
    pub clients_open: u64,
    /// Clients that did not get to their server.
    pub refused: u64,
    /// Clients that need no guard, and came to it because nobody had said so yet.
    pub unjudged: u64,
    /// Statements of sessions that are over.
    pub passed: u64,
    pub denied: u64,
    /// Of statements that wait for somebody's decision, or to be sent once more.
    pub approvals_open: Vec<OpenApprovals>,
    /// Columns that have inherited labels.
    pub inherited: u64,
    /// Stretches of requests, or parts of one under way, that servers were seen to get as the guard has sent them.
    pub compared: u64,
    /// Connections on which the two were not the same.
    pub differing: u64,
}

/// How many statements of a server's clients wait, by what their rules want.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OpenApprovals {
    pub server: String,
    pub hold: u64,
    pub ticket: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GuardedServer {
    pub name: String,
    /// Where clients may come in by themselves.
    pub listens: Option<String>,
    /// Why nobody gets to it through the guard.
    pub problem: Option<String>,
    /// Whether those who connect to the server itself are led to the guard, or why not.
    pub steering: String,
    /// Why clients from the network aren't.
    pub network: Option<String>,
    /// Why TLS is answered with the certificate of before, and not with the newest.
    pub certificate: Option<String>,
    /// Whether clients of its own unix socket are led to the guard, or why not.
    pub unix: Option<String>,
    /// The unix socket at which the guard listens in the server's place.
    pub socket: Option<String>,
    /// Why it doesn't.
    pub socket_problem: Option<String>,
    /// Whether the server is asked for what texts don't tell, or what is lacking for it; null where no `catalog` is
    /// configured.
    pub catalog: Option<Result<String, String>>,
    /// What is wrong with labels and masks in its databases.
    pub lacks: Vec<String>,
}

/// Which hooks see the socket calls, and why these.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Hooks {
    /// `tp_btf` or `syscalls`; empty before anything is attached.
    pub set: String,
    pub why: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServerStatus {
    pub name: String,
    pub engine: String,
    pub version: Option<String>,
    /// Of the process that listens.
    pub pid: u32,
    pub verified: bool,
    /// Why it is not verified.
    pub unverified_because: Option<String>,
    /// Addresses with ports, and socket paths.
    pub listens: Vec<String>,
    /// What is seen of TLS connections: `observed`, or why they are blind.
    pub tls: String,
    pub connections_open: u64,
    pub connections: u64,
    pub blind_connections: u64,
    pub statements: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AbsentServer {
    pub name: String,
    /// What the configuration says of it.
    pub looked_for: String,
}

/// Counted since the start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Totals {
    pub statements: u64,
    pub connections: u64,
    pub connections_open: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// Records that were lost, by reason.
    pub drops: BTreeMap<String, u64>,
    /// Bytes that were lost, by reason: the kernel side's count.
    pub dropped_bytes: BTreeMap<String, u64>,
    /// Of them, those whose place in a stream is known: once every stream has gone on after its loss,
    /// all of them.
    pub lost_bytes: u64,
    /// Connections that are encrypted where nothing can be seen of them.
    pub blind_connections: u64,
    /// Bytes that went past every hook (io_uring, splice).
    pub unobservable_bytes: u64,
    pub sync_losses: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ring {
    pub name: String,
    pub size_bytes: u64,
    /// Most that was found waiting at once.
    pub peak_bytes: u64,
}

/// What is kept, and how far it is safe.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LedgerStatus {
    pub directory: String,
    /// The segment that is appended to.
    pub open_segment: u64,
    pub open_rows: u64,
    pub open_bytes: u64,
    /// Segments that wait to be sealed.
    pub unsealed_segments: u64,
    pub sealed_segments: u64,
    pub sealed_bytes: u64,
    /// As in a record's `time`.
    pub last_commit: Option<String>,
    /// Rows that were refused since the start.
    pub missed_rows: u64,
    /// Why nothing is written, sealed or proven at the moment, in sentences.
    pub troubles: Vec<String>,
    /// Null where none are made.
    pub copies: Option<CopyStatus>,
}

/// How far the sealed segments are copied to another place.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CopyStatus {
    pub url: String,
    /// Segments that are there, and that wait.
    pub copied: u64,
    pub waiting: u64,
    /// Segments that retention removed here before they had been copied.
    pub missed: u64,
    /// Bytes that were sent since the start.
    pub sent_bytes: u64,
    /// Why it doesn't go on, in a sentence; it is tried again.
    pub trouble: Option<String>,
}

/// What OpenTelemetry backends and Prometheus are told.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TelemetryStatus {
    pub signals: Vec<SignalStatus>,
    /// Where Prometheus may scrape; null where it may not.
    pub prometheus: Option<String>,
    /// Why it can't.
    pub prometheus_trouble: Option<String>,
}

/// How one signal fares.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SignalStatus {
    /// `traces`, `metrics` or `logs`.
    pub signal: String,
    pub endpoint: String,
    pub waiting: u64,
    /// Counted since the start.
    pub sent: u64,
    /// What will never be sent, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// Why it isn't taken, in a sentence; it is tried again.
    pub trouble: Option<String>,
}

/// How the notifications of one webhook fare.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct WebhookStatus {
    pub name: String,
    /// Without anything secret.
    pub target: String,
    pub waiting: u64,
    /// Counted since the start.
    pub sent: u64,
    /// What nobody will get, by reason.
    pub lost: BTreeMap<String, u64>,
    /// Why it isn't taken, in a sentence; it is tried again.
    pub trouble: Option<String>,
}

/// Where an asker leaves a wish and the pipeline, when it comes by, an answer.
///
/// The pipeline asks `wanted` once a turn (one relaxed load) and calls `answer` when it is.
#[derive(Debug)]
pub struct StatusCell {
    wanted: AtomicBool,
    latest: watch::Sender<Arc<Snapshot>>,
}

impl Default for StatusCell {
    fn default() -> Self {
        Self { wanted: AtomicBool::new(false), latest: watch::Sender::new(Arc::default()) }
    }
}

impl StatusCell {
    /// Somebody waits for an answer.
    pub fn wanted(&self) -> bool {
        self.wanted.load(Ordering::Relaxed)
    }

    pub fn answer(&self, snapshot: Snapshot) {
        self.wanted.store(false, Ordering::Relaxed);
        self.latest.send_replace(Arc::new(snapshot));
    }

    /// A new snapshot, or after `patience` the last one; `true` if it is new.
    pub async fn ask(&self, patience: Duration) -> (Arc<Snapshot>, bool) {
        let mut latest = self.latest.subscribe();
        self.wanted.store(true, Ordering::Relaxed);
        let fresh = matches!(timeout(patience, latest.changed()).await, Ok(Ok(())));
        let snapshot = latest.borrow().clone();
        (snapshot, fresh)
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::{Snapshot, StatusCell};

    #[tokio::test]
    async fn a_wish_is_answered_by_the_pipeline() {
        let cell = Arc::new(StatusCell::default());
        assert!(!cell.wanted());
        let pipeline = std::thread::spawn({
            let cell = cell.clone();
            move || {
                while !cell.wanted() {
                    std::thread::yield_now();
                }
                cell.answer(Snapshot { processes: 7, ..Snapshot::default() });
            }
        });
        let (snapshot, fresh) = cell.ask(Duration::from_secs(60)).await;
        assert_eq!((snapshot.processes, fresh), (7, true));
        assert!(!cell.wanted());
        pipeline.join().unwrap();
    }

    #[tokio::test]
    async fn a_busy_pipeline_keeps_nobody_waiting_for_ever() {
        let cell = StatusCell::default();
        cell.answer(Snapshot { processes: 7, ..Snapshot::default() });
        let (snapshot, fresh) = cell.ask(Duration::from_secs(2)).await;
        assert_eq!((snapshot.processes, fresh), (7, false));
    }
}
