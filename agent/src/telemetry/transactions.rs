//! Open transactions: the parents of statements that name none themselves.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::span::{Ids, Kinship};
use crate::event::{ConnectionId, Origin, Record, WallTime};

/// Followed at a time; statements of others have no parent.
const MAX_OPEN: usize = 16_384;

#[derive(Debug, Default)]
pub struct Transactions {
    open: FxHashMap<ConnectionId, Transaction>,
}

/// One transaction of one connection, as far as it has come.
#[derive(Clone, Debug)]
pub struct Transaction {
    pub ids: Ids,
    pub origin: Arc<Origin>,
    pub start: WallTime,
    pub end: WallTime,
    pub n_statements: u64,
    pub n_errors: u64,
    /// It was there before its start could be seen.
    pub joined_midstream: bool,
    /// `false` where its connection ended first.
    pub is_complete: bool,
    /// One of its statements has been sent, so it has to be.
    pub has_sent_child: bool,
}

impl Transactions {
    /// What `record` belongs to. To be told every statement, in order.
    pub fn of(&mut self, record: &Record) -> Option<&mut Transaction> {
        let connection = record.origin.connection?;
        let begins = matches!(record.transaction, Some("in_transaction" | "failed"));
        if begins && !self.open.contains_key(&connection) && self.open.len() < MAX_OPEN {
            let transaction = Transaction {
                ids: Ids::new(Kinship::Root),
                origin: record.origin.clone(),
                start: record.time,
                end: record.time,
                n_statements: 0,
                n_errors: 0,
                joined_midstream: record.joined_midstream,
                is_complete: false,
                has_sent_child: false,
            };
            self.open.insert(connection, transaction);
        }
        let transaction = self.open.get_mut(&connection)?;
        transaction.n_statements += 1;
        transaction.n_errors += u64::from(record.error_code.is_some());
        transaction.end = transaction.end.max(end(record));
        Some(transaction)
    }

    /// What has ended with `record`.
    pub fn ended(&mut self, record: &Record) -> Option<Transaction> {
        if record.transaction != Some("idle") {
            return None;
        }
        let transaction = self.open.remove(&record.origin.connection?)?;
        Some(Transaction { is_complete: true, ..transaction })
    }

    /// What was open on a connection that has ended.
    pub fn disconnected(&mut self, connection: ConnectionId) -> Option<Transaction> {
        self.open.remove(&connection)
    }
}

pub fn end(record: &Record) -> WallTime {
    let micros = record.duration_us.and_then(|micros| i64::try_from(micros).ok());
    WallTime(record.time.0.saturating_add(micros.unwrap_or(0)))
}
