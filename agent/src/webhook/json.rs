//! A message as JSON: the envelope of the Standard Webhooks specification around the product's vocabulary.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use serde::Serialize;

use super::message::{Content, Message};
use crate::{
    delivery::cut,
    event::{
        Analysis, Approval, ApprovalAction, Destination, Effects, Episode, Facts, Origin, Severity,
        TableAccess, Verdict, WallTime,
    },
};

/// Receivers take some hundred kilobytes; the ledger has the whole.
const TEXT_BYTES: usize = 16 << 10;
const NAMES: usize = 100;

#[derive(Serialize)]
struct Envelope<T> {
    #[serde(rename = "type")]
    kind: String,
    timestamp: WallTime,
    data: T,
}

/// A row of the ledger's findings, with what makes its two ends one.
#[derive(Serialize)]
struct Finding<'a> {
    record: &'static str,
    /// The same at both ends.
    episode: &'a str,
    action: &'static str,
    began: WallTime,
    time: WallTime,
    severity: Severity,
    verdict: Verdict,
    rule: &'a str,
    message: &'a str,
    dry_run: bool,
    #[serde(flatten)]
    origin: &'a Origin,
    sequence: Option<u64>,
    /// Of the first statement; never with literals.
    text: Option<Cow<'a, str>>,
    fingerprint: Option<String>,
    summary: Option<&'a str>,
    effects: Option<Effects>,
    tables: Option<&'a [TableAccess]>,
    columns: Option<&'a [Arc<str>]>,
    functions: Option<&'a [Arc<str>]>,
    restricted: Option<bool>,
    analysis: Option<Analysis>,
    /// Where the database connected to; null for findings about statements.
    destination_address: Option<String>,
    destination_port: Option<u16>,
    destination_region: Option<&'a str>,
    destination_server: Option<&'a str>,
    destination_program: Option<&'a str>,
    destination_by_server: Option<bool>,
    /// Null until it has ended.
    counts: Option<BTreeMap<&'a str, u64>>,
}

/// A row of the ledger's approvals, with what to do about it.
#[derive(Serialize)]
struct Asked<'a> {
    record: &'static str,
    approval: &'a str,
    action: &'static str,
    time: WallTime,
    verdict: Verdict,
    rule: &'a str,
    message: &'a str,
    /// What an approver types on the server's host; null once it is decided.
    approve: Option<String>,
    #[serde(flatten)]
    origin: &'a Origin,
    /// Never with literals.
    text: Option<Cow<'a, str>>,
    fingerprint: Option<String>,
    summary: Option<&'a str>,
    effects: Option<Effects>,
    tables: Option<&'a [TableAccess]>,
    counts: BTreeMap<&'a str, u64>,
}

impl<'a> Asked<'a> {
    fn of(row: &'a Approval) -> Self {
        let facts = row.facts.as_deref();
        Self {
            record: "approval",
            approval: &row.id,
            action: row.action.name(),
            time: row.time,
            verdict: row.verdict,
            rule: &row.rule,
            message: &row.message,
            approve: command(row),
            origin: &row.origin,
            text: facts.map(|facts| cut(&facts.text, TEXT_BYTES)),
            fingerprint: facts.map(Facts::fingerprint_text),
            summary: facts.map(|facts| &*facts.summary),
            effects: facts.map(|facts| facts.effects),
            tables: facts.map(|facts| first(&facts.tables)),
            counts: row.counts.iter().map(|(name, n)| (&**name, *n)).collect(),
        }
    }
}

/// What an approver types, as long as it waits for one.
pub(super) fn command(row: &Approval) -> Option<String> {
    (row.action == ApprovalAction::Requested)
        .then(|| format!("dbwarden approvals approve {}", row.id))
}

#[derive(Serialize)]
struct Test<'a> {
    host: &'a str,
    message: &'a str,
}

/// What is said in a test.
pub const TEST: &str = "This is a test by `dbwarden webhook test`: nothing has happened.";

pub fn body(message: &Message) -> Vec<u8> {
    let written = match &message.content {
        Content::Finding(episode) => serde_json::to_vec(&Envelope {
            kind: format!("finding.{}", episode.action.name()),
            timestamp: episode.time,
            data: Finding::of(&message.episode, episode),
        }),
        Content::Approval(approval) => serde_json::to_vec(&Envelope {
            kind: format!("approval.{}", approval.action.name()),
            timestamp: approval.time,
            data: Asked::of(approval),
        }),
        Content::Test { host, time } => serde_json::to_vec(&Envelope {
            kind: "test".to_owned(),
            timestamp: *time,
            data: Test { host, message: TEST },
        }),
    };
    // Nothing in them can't be written.
    written.unwrap_or_default()
}

impl<'a> Finding<'a> {
    fn of(id: &'a str, episode: &'a Episode) -> Self {
        let Episode { time, began, action, finding, origin, sequence, facts, counts, .. } = episode;
        let (facts, destination) = (facts.as_deref(), episode.destination.as_deref());
        Self {
            record: "finding",
            episode: id,
            action: action.name(),
            began: *began,
            time: *time,
            severity: finding.severity,
            verdict: finding.verdict,
            rule: &finding.rule,
            message: &finding.message,
            dry_run: finding.dry_run,
            origin,
            sequence: Some(*sequence).filter(|sequence| *sequence > 0),
            text: facts.map(|facts| cut(&facts.text, TEXT_BYTES)),
            fingerprint: facts.map(Facts::fingerprint_text),
            summary: facts.map(|facts| &*facts.summary),
            effects: facts.map(|facts| facts.effects),
            tables: facts.map(|facts| first(&facts.tables)),
            columns: facts.map(|facts| first(&facts.columns)),
            functions: facts.map(|facts| first(&facts.functions)),
            restricted: facts.and_then(|facts| facts.restricted),
            analysis: facts.map(|facts| facts.analysis),
            destination_address: destination.and_then(Destination::address),
            destination_port: destination.and_then(Destination::port),
            destination_region: destination.and_then(|to| to.region.as_deref()),
            destination_server: destination.and_then(|to| to.server.as_deref()),
            destination_program: destination.and_then(|to| to.program.as_deref()),
            destination_by_server: destination.map(|to| to.by_server),
            counts: (!counts.is_empty())
                .then(|| counts.iter().map(|(name, n)| (&**name, *n)).collect()),
        }
    }
}

fn first<T>(names: &[T]) -> &[T] {
    names.get(..NAMES).unwrap_or(names)
}
