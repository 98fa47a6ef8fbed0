//! A record as JSON: the product's vocabulary, with or without literals.

use std::sync::Arc;

use serde::{Serialize, Serializer};

use super::{
    Effect, Effects, Facts, Finding, Origin, Parameter, Record, StatementKind, TableAccess,
    Verdict, WallTime, claims,
};

/// What somebody sees of a record who may, or may not, see literals.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a> {
    pub record: &'a Record,
    /// Texts, parameters and error messages as they were sent.
    pub literals: bool,
}

#[derive(Serialize)]
struct Line<'a> {
    time: WallTime,
    duration_us: Option<u64>,
    first_byte_us: Option<u64>,
    #[serde(flatten)]
    origin: &'a Origin,
    sequence: u64,

    claims: Option<claims::Shown<'a>>,
    trace_id: Option<&'a str>,
    span_id: Option<&'a str>,

    text: Option<&'a str>,
    text_known: bool,
    parameters: Option<Parameters<'a>>,
    fingerprint: Option<String>,
    summary: Option<&'a str>,
    /// Null where nobody has analysed the statement.
    effects: Option<Effects>,
    tables: Option<&'a [TableAccess]>,
    columns: Option<&'a [Arc<str>]>,
    functions: Option<&'a [Arc<str>]>,
    restricted: Option<bool>,
    analysis: Option<&'static str>,

    rows: Option<u64>,
    bytes_in: u64,
    bytes_out: u64,
    error_code: Option<&'a str>,
    error_message: Option<&'a str>,
    transaction: Option<&'static str>,
    verdict: Option<Verdict>,
    rule: Option<&'a str>,
    approval: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    findings: &'a [Finding],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    masked: &'a [Arc<str>],

    truncated_bytes: u64,
    lost_bytes: u64,
    joined_midstream: bool,
}

struct Parameters<'a>(&'a [Parameter]);

impl Serialize for Parameters<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(Parameter::shown))
    }
}

impl Serialize for Shown<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Record { facts, origin, kind, claims, .. } = self.record;
        let facts = facts.as_deref();
        let judgement = self.record.judgement.as_deref();
        let literals = self.literals || facts.is_none();
        let redacted = || facts.map(|facts| &*facts.text);
        let replicates = || {
            (*kind == StatementKind::Replication).then(|| Effects::from_iter([Effect::Replicate]))
        };
        let claims = claims.as_deref();
        let trace = claims.and_then(|claims| claims.trace.as_ref());
        Line {
            time: self.record.time,
            duration_us: self.record.duration_us,
            first_byte_us: self.record.first_byte_us,
            origin,
            sequence: self.record.sequence,
            claims: claims
                .filter(|claims| !claims.tags.is_empty())
                .map(|claims| claims::Shown { claims, literals: self.literals }),
            trace_id: trace.map(|trace| &*trace.trace_id),
            span_id: trace.map(|trace| &*trace.span_id),
            text: self
                .record
                .text
                .as_deref()
                .and_then(|text| if literals { Some(text) } else { redacted() }),
            text_known: self.record.text.is_some(),
            parameters: (literals && !self.record.parameters.is_empty())
                .then_some(Parameters(&self.record.parameters)),
            fingerprint: facts.map(Facts::fingerprint_text),
            summary: facts.map(|facts| &*facts.summary),
            effects: facts.map(|facts| facts.effects).or_else(replicates),
            tables: facts.map(|facts| &*facts.tables),
            columns: facts.map(|facts| &*facts.columns),
            functions: facts.map(|facts| &*facts.functions),
            restricted: facts.and_then(|facts| facts.restricted),
            analysis: facts.map(|facts| facts.analysis.name()),
            rows: self.record.rows,
            bytes_in: self.record.bytes_in,
            bytes_out: self.record.bytes_out,
            error_code: self.record.error_code.as_deref(),
            error_message: match literals {
                true => self.record.error_message.as_deref(),
                false => self.record.redacted_error.as_deref(),
            },
            transaction: self.record.transaction,
            verdict: judgement.map(|judgement| judgement.verdict),
            rule: judgement.and_then(|judgement| judgement.rule.as_deref()),
            approval: self.record.approval.as_deref(),
            findings: judgement.map_or(&[], |judgement| &judgement.findings),
            masked: &self.record.masked,
            truncated_bytes: self.record.truncated_bytes,
            lost_bytes: self.record.lost_bytes,
            joined_midstream: self.record.joined_midstream,
        }
        .serialize(serializer)
    }
}
