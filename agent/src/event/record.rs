//! The statement as everybody outside sees it: one vocabulary for views, the ledger and reports.

use std::sync::Arc;

use serde::Serialize;

use super::{ConnectionId, LoginStrength, Parent, WallTime};

/// One statement with everything known about it. The field names are the product's vocabulary: the
/// same in `watch --format json` and wherever else a statement is shown. Absent is null.
#[derive(Clone, Debug, Serialize)]
pub struct Record {
    pub time: WallTime,
    pub duration_us: Option<u64>,
    pub first_byte_us: Option<u64>,

    pub host: Arc<str>,
    pub server: Arc<str>,
    pub engine: Engine,
    /// An address, or the path of the unix socket.
    pub server_address: Option<Arc<str>>,
    pub server_port: Option<u16>,
    pub transport: Transport,
    pub lane: Lane,

    pub connection: ConnectionId,
    pub sequence: u64,
    pub database: Option<Arc<str>>,
    pub db_user: Option<Arc<str>>,
    pub application: Option<Arc<str>>,
    pub client_address: Option<Arc<str>>,
    pub client_port: Option<u16>,

    pub pid: Option<u32>,
    pub process_start: Option<WallTime>,
    pub exe: Option<Arc<str>>,
    pub command: Option<Arc<str>>,
    pub uid: Option<u32>,
    pub os_user: Option<Arc<str>>,
    pub login_uid: Option<u32>,
    pub login_user: Option<Arc<str>>,
    pub login_strength: Option<LoginStrength>,
    pub session: Option<u32>,
    pub tty: Option<Arc<str>>,
    pub parents: Arc<[Parent]>,
    pub cgroup: Option<Arc<str>>,
    pub unit: Option<Arc<str>>,
    pub container: Option<Arc<str>>,
    pub pod: Option<Arc<str>>,

    pub text: Option<Arc<str>>,
    pub text_known: bool,
    pub parameters: Option<Vec<Option<String>>>,

    /// What the statement does; null where nobody has analysed it.
    pub effects: Option<&'static [Effect]>,

    pub rows: Option<u64>,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub error_code: Option<String>,
    pub error_message: Option<String>,
    pub transaction: Option<&'static str>,

    pub truncated_bytes: u64,
    pub lost_bytes: u64,
    pub joined_midstream: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    Postgresql,
}

/// One of the things that a statement can do; the vocabulary's closed list grows with the analysis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// Speaks the replication protocol: the database's whole content can leave that way.
    Replicate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Transport {
    #[serde(rename = "tcp")]
    Tcp,
    #[serde(rename = "tls")]
    Tls,
    #[serde(rename = "unix")]
    Unix,
    #[serde(rename = "unix+tls")]
    UnixTls,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Lane {
    Observed,
}
