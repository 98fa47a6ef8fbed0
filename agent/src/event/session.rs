//! What a protocol session reports besides statements.

use super::{Direction, Statement};

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
