//! A statement as its session understood it → the record that everybody outside sees.

use std::sync::Arc;

use crate::event::{Clock, Origin, Outcome, Parameter, Record, Statement, TransactionStatus};

/// What is said of a statement that the server never ran.
const SKIPPED: &str = "not run: an earlier statement of the same pipeline failed";

pub fn record(clock: Clock, origin: Arc<Origin>, statement: &Statement) -> Record {
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

        text: statement.text.clone(),
        parameters: (!statement.parameters.is_empty())
            .then(|| statement.parameters.iter().map(parameter).collect()),
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
        transaction: statement.transaction.map(|status| match status {
            TransactionStatus::Idle => "idle",
            TransactionStatus::InTransaction => "in_transaction",
            TransactionStatus::Failed => "failed",
        }),

        truncated_bytes: statement.truncated_bytes,
        lost_bytes: statement.lost_bytes,
        joined_midstream: statement.joined_midstream,
    }
}

/// `None` is SQL's NULL.
fn parameter(parameter: &Parameter) -> Option<String> {
    match parameter {
        Parameter::Null => None,
        Parameter::Text(text) => Some(text.clone()),
        Parameter::Binary { type_oid, len, .. } => {
            Some(format!("<{len} bytes of type {type_oid}>"))
        }
        Parameter::Unknown => Some("<not captured>".to_owned()),
    }
}
