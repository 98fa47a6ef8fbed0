//! The API on the control socket: what the service tells those who may ask, and nothing about how it sees.
//!
//! HTTP/1.1 and JSON, versioned by path, so that `curl --unix-socket` is a client too. One rule
//! stands above all: nobody who asks, and nobody who stops reading, can slow or grow the agent.

mod access;
mod approvals;
mod client;
mod filter;
mod hub;
mod labels;
mod listener;
mod lock;
mod quarantine;
mod query;
mod server;
mod shutdown;
mod status;
mod whois;

use std::{
    io,
    path::PathBuf,
    sync::{Arc, atomic::AtomicBool},
};

pub use access::{Access, AccessError};
pub use approvals::ApprovalChange;
pub use client::{Client, ClientError, Lines};
pub use filter::Filter;
pub use hub::{Hub, Line, Notice, Watcher};
pub use labels::LabelChange;
pub use listener::{BindError, Listener};
pub use lock::{HOST_LOCK, HostLock, LockError};
pub use quarantine::QuarantineChange;
pub use query::QueryWorker;
pub use server::{own_cost, serve};
pub use shutdown::Shutdown;
pub use status::{
    AbsentServer, Agent, CopyStatus, GuardStatus, GuardedServer, Hooks, LedgerStatus,
    OpenApprovals, Ring, ServerStatus, SignalStatus, Snapshot, Status, StatusCell, TelemetryStatus,
    Totals, WebhookStatus,
};
pub use whois::{Asked, Identified, Question, Questions, Whois};

use crate::{
    approval::{Desk, Limits},
    enforce::Quarantine,
    event::WallTime,
    inheritance::Inheritance,
};

/// What the pipeline and the control server share; the pipeline only ever does short atomic things
/// to it.
#[derive(Debug)]
pub struct Service {
    /// Statements and notices for whoever watches.
    pub live: Arc<Hub>,
    /// Answers to `status`.
    pub status: StatusCell,
    /// Questions to the pipeline about who somebody is.
    pub questions: Questions,
    /// The pipeline shall end: somebody sent a signal.
    pub shutdown: Shutdown,
    /// The pipeline has ended and published its last: the control server shall end too.
    pub ended: Shutdown,
    /// The policies shall be read again: somebody sent SIGHUP.
    pub reload: Arc<AtomicBool>,
    /// Whose connections end.
    pub quarantine: Arc<Quarantine>,
    /// Columns that have inherited labels.
    pub inheritance: Arc<Inheritance>,
    /// Where statements wait for people.
    pub desk: Arc<Desk>,
    /// Where the ledger is that can be searched; `None` where none is kept.
    pub ledger: Option<LedgerPlace>,
    pub query_worker: QueryWorker,
}

/// The folders of a ledger.
#[derive(Clone, Debug)]
pub struct LedgerPlace {
    pub ledger: PathBuf,
    pub keys: PathBuf,
}

impl Service {
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            live: Arc::new(Hub::default()),
            status: StatusCell::default(),
            questions: Questions::default(),
            shutdown: Shutdown::new()?,
            ended: Shutdown::new()?,
            reload: Arc::default(),
            quarantine: Arc::default(),
            inheritance: Arc::default(),
            desk: Arc::new(Desk::new(Limits::default())),
            ledger: None,
            query_worker: QueryWorker::default(),
        })
    }

    /// Says good-bye to whoever watches, and lets the control server end.
    pub fn end(&self, now: WallTime) {
        self.live.notice(|| Notice {
            time: now,
            notice: "stopping",
            server: None,
            message: "the service stops".to_owned(),
        });
        self.ended.request();
    }
}

#[cfg(test)]
mod tests;
