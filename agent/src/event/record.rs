//! The statement as everybody outside sees it: one vocabulary for views, the ledger and reports.

use std::sync::Arc;

use serde::Serialize;

use super::{
    Approval, Claims, Episode, Facts, Judgement, Origin, Outbound, Parameter, StatementKind,
    WallTime,
};

/// One statement with everything known about it. The field names are the product's vocabulary: the
/// same in `watch --format json`, in the ledger's columns and wherever else a statement is shown.
/// Absent is null.
///
/// Text, parameters and error message are as the client and the server sent them, literals and all:
/// a sink shows [`Facts::text`] and `redacted_error`, and leaves the parameters out, unless it was told
/// to keep literals.
#[derive(Clone, Debug)]
pub struct Record {
    pub time: WallTime,
    pub duration_us: Option<u64>,
    pub first_byte_us: Option<u64>,

    pub origin: Arc<Origin>,
    /// Of the statement in its connection, from 1.
    pub sequence: u64,

    /// What the client says of itself and of this statement.
    pub claims: Option<Arc<Claims>>,

    /// `None` where it was never seen (`text_known = false`).
    pub text: Option<Arc<str>>,
    /// As in [`Statement`](super::Statement).
    pub standard_conforming_strings: Option<bool>,
    pub parameters: Vec<Parameter>,
    /// What sort of request carried it.
    pub kind: StatementKind,
    /// What the text does; `None` until it has been analysed.
    pub facts: Option<Arc<Facts>>,
    /// Which rows it names, as `table.column=` and a keyed hash of the value.
    pub keys: Vec<Arc<str>>,

    pub rows: Option<u64>,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub error_code: Option<String>,
    pub error_message: Option<String>,
    /// The same without the values that it quotes.
    pub redacted_error: Option<String>,
    pub transaction: Option<&'static str>,

    /// What policy makes of it; `None` until it has been judged.
    pub judgement: Option<Arc<Judgement>>,
    /// The approval that it needs, or that has let it pass.
    pub approval: Option<Arc<str>>,
    /// What the client saw masked of the answer, each as `schema.table.column:mask`, or
    /// `…:null-flow` where the column was NULL for all of the statement.
    pub masked: Arc<[Arc<str>]>,

    pub truncated_bytes: u64,
    pub lost_bytes: u64,
    pub joined_midstream: bool,
}

/// Something that the ledger keeps a row of.
#[derive(Clone, Debug)]
pub enum Entry {
    Statement(Record),
    Occurrence(Occurrence),
    Finding(Episode),
    Outbound(Outbound),
    Approval(Approval),
}

impl Entry {
    pub fn time(&self) -> WallTime {
        match self {
            Self::Statement(record) => record.time,
            Self::Occurrence(occurrence) => occurrence.time,
            Self::Finding(episode) => episode.time,
            Self::Outbound(outbound) => outbound.time,
            Self::Approval(approval) => approval.time,
        }
    }

    /// How many rows are missing without it: itself, or all that the row of a gap tells of.
    pub fn stands_for(&self) -> u64 {
        let told = match self {
            Self::Occurrence(Occurrence { kind: OccurrenceKind::Gap, counts, .. }) => {
                counts.iter().filter(|(name, _)| &**name == LOST_ROWS).map(|(_, n)| *n).sum()
            }
            _ => 0,
        };
        told.max(1)
    }
}

/// Of a gap's counts: rows that are missing.
pub const LOST_ROWS: &str = "lost_rows";

/// A row that is no statement: what happened to a connection, a server, the agent itself.
#[derive(Clone, Debug)]
pub struct Occurrence {
    pub time: WallTime,
    pub kind: OccurrenceKind,
    /// A short stable word: `opened`, `closed`, `started`, `stopped`, `dropped`, …
    pub action: &'static str,
    pub origin: Arc<Origin>,
    /// A sentence for people, without literals of statements.
    pub message: Option<String>,
    /// Figures by stable names with their unit in the name, as in `lost_bytes`.
    pub counts: Vec<(Arc<str>, u64)>,
}

super::origin::named! {
    /// The `record` column of rows that are no `statement`, `finding`, `destination` or `approval`.
    OccurrenceKind {
        Connection = "connection",
        Coverage = "coverage",
        Gap = "gap",
        Service = "service",
        Configuration = "configuration",
        Retention = "retention",
    }
}
