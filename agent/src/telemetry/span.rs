//! Records and transactions as spans, by the stable conventions for database clients.

use std::sync::Arc;

use opentelemetry_proto::tonic::trace::v1::{
    Span, Status,
    span::{Link, SpanKind},
    status::StatusCode,
};

use super::{
    attributes::{Attributes, TEXT_BYTES},
    identity,
    transactions::{self, Transaction},
};
use crate::event::{Record, WallTime};

/// A span's place in a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ids {
    pub trace: u128,
    pub span: u64,
    pub kinship: Kinship,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kinship {
    Root,
    /// The parent is a span of dbwarden.
    Local {
        trace: u128,
        parent: u64,
    },
    /// The parent is somebody else's, by that one's own claim.
    Remote {
        trace: u128,
        parent: u64,
    },
}

/// What waits to become a span.
#[derive(Clone, Debug)]
pub enum Item {
    Statement {
        record: Arc<Record>,
        ids: Ids,
        /// The transaction that it is part of, where that isn't its parent.
        transaction: Option<(u128, u64)>,
    },
    Transaction(Box<Transaction>),
}

const SAMPLED: u32 = 0x01;
/// It is known whether the parent is remote, and it is.
const REMOTE_KNOWN: u32 = 0x100;
const REMOTE: u32 = 0x200;

impl Ids {
    /// New ones; neither may be 0.
    pub fn new(kinship: Kinship) -> Self {
        let trace = match kinship {
            Kinship::Root => rand::random::<u128>().max(1),
            Kinship::Local { trace, .. } | Kinship::Remote { trace, .. } => trace,
        };
        Self { trace, span: rand::random::<u64>().max(1), kinship }
    }

    fn span(self) -> Span {
        let (parent, flags) = match self.kinship {
            Kinship::Root => (Vec::new(), REMOTE_KNOWN),
            Kinship::Local { parent, .. } => (parent.to_be_bytes().to_vec(), REMOTE_KNOWN),
            Kinship::Remote { parent, .. } => {
                (parent.to_be_bytes().to_vec(), REMOTE_KNOWN | REMOTE)
            }
        };
        Span {
            trace_id: self.trace.to_be_bytes().to_vec(),
            span_id: self.span.to_be_bytes().to_vec(),
            parent_span_id: parent,
            flags: SAMPLED | flags,
            kind: SpanKind::Client.into(),
            ..Span::default()
        }
    }
}

impl Item {
    /// Bytes of the span, roughly.
    pub fn weight(&self) -> usize {
        match self {
            Self::Statement { record, .. } => {
                let text = record.facts.as_ref().map_or(0, |facts| facts.text.len());
                2_048 + text.min(TEXT_BYTES)
            }
            Self::Transaction(_) => 2_048,
        }
    }

    pub fn span(&self, returned_rows: bool) -> Span {
        match self {
            Self::Statement { record, ids, transaction } => {
                statement(record, *ids, *transaction, returned_rows)
            }
            Self::Transaction(transaction) => self::transaction(transaction),
        }
    }
}

fn statement(
    record: &Record,
    ids: Ids,
    transaction: Option<(u128, u64)>,
    returned_rows: bool,
) -> Span {
    let facts = record.facts.as_deref();
    let summary = facts.map(|facts| &*facts.summary).filter(|summary| !summary.is_empty());
    let mut attributes = Attributes::default();
    let a = &mut attributes;
    a.text("db.query.summary", summary);
    // Never `record.text`, which may hold literals.
    a.text("db.query.text", facts.map(|facts| &*facts.text));
    a.text("db.response.status_code", record.error_code.as_deref());
    let is_error = record.error_code.is_some() || record.error_message.is_some();
    // Without a code: an earlier statement of its pipeline has failed.
    a.text("error.type", is_error.then(|| record.error_code.as_deref().unwrap_or("skipped")));
    if returned_rows {
        a.int("db.response.returned_rows", record.rows);
    }
    identity::describe(a, &record.origin);
    for (name, value) in record.claims.iter().flat_map(|claims| claims.shown(false)) {
        a.text(&format!("dbwarden.claims.{name}"), Some(value));
    }
    a.int("dbwarden.sequence", Some(record.sequence));
    a.text("dbwarden.fingerprint", facts.map(|facts| facts.fingerprint_text()).as_deref());
    if let Some(facts) = facts {
        a.list("dbwarden.effects", facts.effects.iter().map(|effect| effect.name()));
        a.text("dbwarden.analysis", Some(facts.analysis.name()));
    }
    if let Some(judgement) = record.judgement.as_deref() {
        a.text("dbwarden.verdict", Some(judgement.verdict.name()));
        a.text("dbwarden.rule", judgement.rule.as_deref());
        a.list("dbwarden.findings", judgement.findings.iter().map(|finding| &*finding.rule));
    }
    a.text("dbwarden.transaction", record.transaction);
    a.int("dbwarden.first_byte_us", record.first_byte_us);
    a.int("dbwarden.bytes_in", Some(record.bytes_in));
    a.int("dbwarden.bytes_out", Some(record.bytes_out));
    a.int(
        "dbwarden.truncated_bytes",
        (record.truncated_bytes > 0).then_some(record.truncated_bytes),
    );
    a.int("dbwarden.lost_bytes", (record.lost_bytes > 0).then_some(record.lost_bytes));
    a.flag("dbwarden.joined_midstream", record.joined_midstream);
    a.flag("dbwarden.end_unknown", record.duration_us.is_none());
    let links = transaction.map(|(trace, span)| Link {
        trace_id: trace.to_be_bytes().to_vec(),
        span_id: span.to_be_bytes().to_vec(),
        flags: SAMPLED | REMOTE_KNOWN,
        ..Link::default()
    });
    let name = summary.or(identity::system(record.origin.engine)).unwrap_or("statement");
    Span {
        name: name.to_owned(),
        start_time_unix_nano: nanos(record.time),
        end_time_unix_nano: nanos(transactions::end(record)),
        attributes: attributes.0,
        links: links.into_iter().collect(),
        status: is_error.then(|| failed(record.redacted_error.as_deref())),
        ..ids.span()
    }
}

fn transaction(transaction: &Transaction) -> Span {
    let mut attributes = Attributes::default();
    let a = &mut attributes;
    identity::describe(a, &transaction.origin);
    a.int("dbwarden.statements", Some(transaction.n_statements));
    a.int("dbwarden.errors", (transaction.n_errors > 0).then_some(transaction.n_errors));
    a.flag("dbwarden.joined_midstream", transaction.joined_midstream);
    a.flag("dbwarden.end_unknown", !transaction.is_complete);
    Span {
        name: "transaction".to_owned(),
        kind: SpanKind::Internal.into(),
        start_time_unix_nano: nanos(transaction.start),
        end_time_unix_nano: nanos(transaction.end),
        attributes: attributes.0,
        ..transaction.ids.span()
    }
}

fn failed(message: Option<&str>) -> Status {
    let message = super::attributes::cut(message.unwrap_or_default());
    Status { message, code: StatusCode::Error.into() }
}

pub fn nanos(time: WallTime) -> u64 {
    u64::try_from(time.0).unwrap_or(0).saturating_mul(1_000)
}
