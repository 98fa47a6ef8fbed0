//! A statement as one protocol session understood it, before anybody asks who sent it.

use std::{borrow::Cow, sync::Arc};

use super::BootTime;

/// One statement from its request to the end of its response.
#[derive(Clone, Debug, Default)]
pub struct Statement {
    pub kind: StatementKind,
    /// Counts the statements of the connection, from 1.
    pub sequence: u64,
    /// The exact text, or `None` where it was never seen (`text_known = false`): prepared before
    /// capture began, or lost.
    pub text: Option<Arc<str>>,
    /// PostgreSQL's setting of that name when the server read the text: off, a backslash escapes in
    /// plain `'…'` too. `None` where it isn't known.
    pub standard_conforming_strings: Option<bool>,
    /// The name of the prepared statement that was executed; `None` for simple queries, empty for
    /// the unnamed one.
    pub prepared: Option<Arc<str>>,
    pub parameters: Vec<Parameter>,
    pub start: BootTime,
    /// First byte of the response.
    pub first_byte: Option<BootTime>,
    pub end: BootTime,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub outcome: Outcome,
    /// After the statement.
    pub transaction: Option<TransactionStatus>,
    /// Bytes of the request that exist but were left out by budget.
    pub truncated_bytes: u64,
    /// Bytes of request and response that were lost.
    pub lost_bytes: u64,
    /// The session was joined after it had begun.
    pub joined_midstream: bool,
}

/// What sort of request carried the statement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StatementKind {
    /// A whole text in one message (PostgreSQL `Query`).
    #[default]
    Simple,
    /// Prepared, bound and executed (PostgreSQL `Parse`/`Bind`/`Execute`).
    Extended,
    /// A function called by id without a text (PostgreSQL `FunctionCall`).
    FunctionCall,
    /// A replication command.
    Replication,
}

/// One bound parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parameter {
    Null,
    /// As sent in text, or decoded from a binary form whose type is known.
    Text(String),
    /// Binary of a type that is not decoded; at most the first 64 bytes are kept.
    Binary {
        type_oid: u32,
        len: u32,
        head: Vec<u8>,
    },
    /// Its bytes were not captured.
    Unknown,
}

impl Parameter {
    /// For people; `None` is SQL's NULL.
    pub fn shown(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Null => None,
            Self::Text(text) => Some(Cow::Borrowed(text)),
            Self::Binary { type_oid, len, .. } => {
                Some(Cow::Owned(format!("<{len} bytes of type {type_oid}>")))
            }
            Self::Unknown => Some(Cow::Borrowed("<not captured>")),
        }
    }

    /// Bytes that it holds for itself.
    pub fn held_bytes(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Binary { head, .. } => head.len(),
            Self::Null | Self::Unknown => 0,
        }
    }
}

/// How a statement ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing was seen of the end (connection closed, bytes lost).
    #[default]
    Unknown,
    /// The server's completion; `rows` where its tag counts some.
    Done {
        tag: Tag,
        rows: Option<u64>,
    },
    /// A portal gave its rows in part and was left there.
    Suspended {
        rows: Option<u64>,
    },
    Failed {
        code: String,
        message: String,
    },
    /// The server skipped it after an earlier error of the same pipeline.
    Skipped,
    /// An empty text.
    Empty,
}

/// A completion tag without its counts, as in `INSERT` or `CREATE TABLE`; the common ones are static.
pub type Tag = Cow<'static, str>;

/// Where the session stands after a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionStatus {
    Idle,
    InTransaction,
    Failed,
}
