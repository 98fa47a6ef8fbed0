//! What sessions understood → the records and rows that everybody outside sees.

use std::{ops::AddAssign, sync::Arc};

use super::{connections::Shared, profile::Profile};
use crate::event::{
    BootTime, Claims, Clock, Occurrence, OccurrenceKind, Origin, Outcome, Record, Statement,
    TransactionStatus,
};

/// What is said of a statement that the server never ran.
const SKIPPED: &str = "not run: an earlier statement of the same pipeline failed";

pub fn record(
    clock: Clock,
    origin: Arc<Origin>,
    claims: Option<Arc<Claims>>,
    statement: &Statement,
) -> Record {
    let (error_code, error_message) = match &statement.outcome {
        Outcome::Failed { code, message } => (Some(code.clone()), Some(message.clone())),
        // The server has no error for it, but it must not look like one that ran.
        Outcome::Skipped => (None, Some(SKIPPED.to_owned())),
        _ => (None, None),
    };
    Record {
        time: clock.wall(statement.start),
        // Without an end, its time would be a guess.
        duration_us: (statement.outcome != Outcome::Unknown)
            .then(|| statement.end.micros_since(statement.start)),
        first_byte_us: statement.first_byte.map(|first| first.micros_since(statement.start)),

        origin,
        sequence: statement.sequence,

        claims,

        text: statement.text.clone(),
        standard_conforming_strings: statement.standard_conforming_strings,
        parameters: statement.parameters.clone(),
        kind: statement.kind,
        facts: None,
        keys: Vec::new(),

        rows: match statement.outcome {
            Outcome::Done { rows, .. } | Outcome::Suspended { rows } => rows,
            _ => None,
        },
        bytes_in: statement.bytes_in,
        bytes_out: statement.bytes_out,
        error_code,
        error_message,
        redacted_error: None,
        transaction: statement.transaction.map(|status| match status {
            TransactionStatus::Idle => "idle",
            TransactionStatus::InTransaction => "in_transaction",
            TransactionStatus::Failed => "failed",
        }),
        judgement: None,
        approval: None,

        masked: Arc::default(),
        truncated_bytes: statement.truncated_bytes,
        lost_bytes: statement.lost_bytes,
        joined_midstream: statement.joined_midstream,
    }
}

/// A row of what happened to a connection.
pub fn connection_row(
    shared: &Shared,
    profile: &mut Profile,
    at: BootTime,
    action: &'static str,
) -> Occurrence {
    let origin = profile.origin(&shared.host, &shared.rules);
    let message = origin.past_guard.then(|| "past the guard of its server".to_owned());
    Occurrence {
        time: shared.clock.wall(at),
        kind: OccurrenceKind::Connection,
        action,
        origin,
        message,
        counts: Vec::new(),
    }
}

/// What was counted of a connection or a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub connections: u64,
    pub statements: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// Left out by budget.
    pub truncated_bytes: u64,
    pub lost_bytes: u64,
    /// Ciphertext.
    pub blind_bytes: u64,
    /// Went by while the message boundaries were unknown.
    pub skipped_bytes: u64,
}

impl Tally {
    /// By the names that the ledger has for them. `decoded_bytes` is what was read and understood.
    pub fn counts(&self) -> Vec<(Arc<str>, u64)> {
        let seen = self.bytes_in + self.bytes_out;
        let undecoded =
            self.truncated_bytes + self.lost_bytes + self.blind_bytes + self.skipped_bytes;
        [
            ("connections", self.connections),
            ("statements", self.statements),
            ("bytes_in", self.bytes_in),
            ("bytes_out", self.bytes_out),
            ("decoded_bytes", seen.saturating_sub(undecoded)),
            ("truncated_bytes", self.truncated_bytes),
            ("lost_bytes", self.lost_bytes),
            ("blind_bytes", self.blind_bytes),
            ("skipped_bytes", self.skipped_bytes),
        ]
        .into_iter()
        .filter(|(_, n)| *n > 0)
        .map(|(name, n)| (name.into(), n))
        .collect()
    }

    pub fn since(&self, before: &Self) -> Self {
        Self {
            connections: self.connections - before.connections,
            statements: self.statements - before.statements,
            bytes_in: self.bytes_in - before.bytes_in,
            bytes_out: self.bytes_out - before.bytes_out,
            truncated_bytes: self.truncated_bytes - before.truncated_bytes,
            lost_bytes: self.lost_bytes - before.lost_bytes,
            blind_bytes: self.blind_bytes - before.blind_bytes,
            skipped_bytes: self.skipped_bytes - before.skipped_bytes,
        }
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, more: Self) {
        self.connections += more.connections;
        self.statements += more.statements;
        self.bytes_in += more.bytes_in;
        self.bytes_out += more.bytes_out;
        self.truncated_bytes += more.truncated_bytes;
        self.lost_bytes += more.lost_bytes;
        self.blind_bytes += more.blind_bytes;
        self.skipped_bytes += more.skipped_bytes;
    }
}
