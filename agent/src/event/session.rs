//! What a protocol session reports besides statements.

use serde::{Deserialize, Serialize};

use super::{Direction, Statement, TransactionStatus};

/// Yielded by a protocol session. Borrowed: a sink that keeps something copies it.
#[derive(Debug)]
pub enum SessionEvent<'a> {
    /// The start of a connection was understood: who asks for what. `parameters` are the client's
    /// start-up settings (claims), without secrets.
    Startup {
        user: &'a str,
        database: &'a str,
        application: &'a str,
        protocol: &'a str,
        replication: bool,
    },
    /// The server let the client in.
    Authenticated { method: &'static str },
    /// The server refused the client.
    Refused { code: &'a str, message: &'a str },
    /// A fact of the session changed later (`application_name`, `session_authorization`, …).
    Changed { name: &'a str, value: &'a str },
    /// The client asked for a statement to be run; told only by sessions that were told to. It bears
    /// the `sequence` of the statement that will be made of it.
    Asked { sequence: u64, request: RequestPrint },
    /// The server is ready for the next request: every statement before `unanswered` has its answer.
    /// Told only by sessions that were told to; without a status where answers and requests can't be
    /// paired any more.
    Ready { status: Option<TransactionStatus>, unanswered: u64 },
    /// A statement has ended.
    Statement(&'a Statement),
    /// A cancel request named the session with this backend process id.
    Cancel { backend_pid: u32 },
    /// The client and the server agreed on encryption; what follows on the socket is ciphertext.
    EncryptionStarted { method: &'static str },
    /// An asynchronous notice of the server (severity, SQLSTATE, message).
    Notice { severity: &'a str, code: &'a str, message: &'a str },
    /// The session no longer knows where messages begin in this direction.
    SyncLost { direction: Direction, why: SyncLoss },
    /// It found a plausible message boundary again after skipping `skipped` bytes.
    SyncFound { direction: Direction, skipped: u64 },
    /// The client said good-bye.
    Terminated,
    /// What was asked in a stretch of the stream; told only by sessions that were told to.
    Summed(RequestSum),
}

/// Of what a client has asked for in one stretch of its stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestSum {
    /// Numbers the stretches, from the beginning of the stream.
    pub stretch: u64,
    pub requests: u32,
    pub sum: u64,
    /// Not all of it, nor of what came before it, was seen.
    pub is_torn: bool,
}

/// Why a session lost the message boundaries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncLoss {
    /// Bytes are missing at a place where a message could begin.
    Gap,
    /// The connection was open before it was watched.
    JoinedMidstream,
    /// A message type that the protocol does not have.
    UnknownMessage(u8),
    /// A length that no message can have.
    BadLength(u32),
}

/// What a request asks for, whichever connection it is made on: the same bytes and parameters have the
/// same print, whatever the prepared statement is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RequestPrint {
    Known(u64),
    /// A text that poolers send of themselves.
    Common(u64),
    /// Its text or a part of it was never seen.
    Unknown,
}
