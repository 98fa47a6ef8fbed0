//! What isn't a statement, as log records: connections, coverage, losses, alerts, checkpoints.

use opentelemetry_proto::tonic::logs::v1::{LogRecord, SeverityNumber};

use super::{
    attributes::{Attributes, cut, text_value},
    identity,
    span::nanos,
};
use crate::event::{
    self, Approval, ApprovalAction, Destination, Episode, EpisodeAction, Occurrence,
    OccurrenceKind, Origin, Outbound, WallTime,
};

/// Something that an operator should hear of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    Info,
    Warn,
    Error,
}

/// `dbwarden.connection.opened` and so on.
pub fn occurrence(occurrence: &Occurrence) -> LogRecord {
    let Occurrence { time, kind, action, origin, message, counts } = occurrence;
    let severity = match (kind, *action) {
        (OccurrenceKind::Gap, _) | (OccurrenceKind::Connection, "broken" | "refused") => {
            Severity::Warn
        }
        _ => Severity::Info,
    };
    let body = message.clone().unwrap_or_else(|| format!("{} {action}", kind.name()));
    let name = format!("dbwarden.{}.{action}", kind.name());
    let mut attributes = Attributes::default();
    identity::describe(&mut attributes, origin);
    for (name, n) in counts {
        attributes.int(&format!("dbwarden.{name}"), Some(*n));
    }
    record(*time, severity, &name, &body, attributes)
}

/// An end of a burst of connections that a database opens.
pub fn outbound(outbound: &Outbound) -> LogRecord {
    let Outbound { time, action, origin, destination, judgement, connections, .. } = outbound;
    let mut attributes = Attributes::default();
    let a = &mut attributes;
    identity::describe(a, origin);
    describe(a, destination);
    a.text("dbwarden.verdict", judgement.as_ref().map(|found| found.verdict.name()));
    a.text("dbwarden.rule", judgement.as_ref().and_then(|found| found.rule.as_deref()));
    a.int("dbwarden.connections", *connections);
    let name = format!("dbwarden.destination.{}", action.name());
    record(*time, Severity::Info, &name, &outbound.message(), attributes)
}

/// A step of an approval, with what its statement does.
pub fn approval(approval: &Approval) -> LogRecord {
    let Approval { time, action, id, origin, rule, verdict, facts, message, .. } = approval;
    let mut attributes = Attributes::default();
    let a = &mut attributes;
    identity::describe(a, origin);
    a.text("dbwarden.approval", Some(id));
    a.text("dbwarden.verdict", Some(verdict.name()));
    a.text("dbwarden.rule", Some(rule));
    a.text("db.query.summary", facts.as_ref().map(|facts| &*facts.summary));
    a.text("db.response.status_code", approval.error_code.as_deref());
    a.int("db.response.returned_rows", approval.rows);
    let severity = match action {
        ApprovalAction::Refused => Severity::Warn,
        _ => Severity::Info,
    };
    record(*time, severity, &format!("dbwarden.approval.{}", action.name()), message, attributes)
}

fn describe(attributes: &mut Attributes, destination: &Destination) {
    let a = attributes;
    a.text("destination.address", destination.address().as_deref());
    a.int("destination.port", destination.port());
    a.text("dbwarden.destination.region", destination.region.as_deref());
    a.text("dbwarden.destination.server", destination.server.as_deref());
    a.text("dbwarden.destination.program", destination.program.as_deref());
    a.flag("dbwarden.destination.by_server", destination.by_server);
}

/// An end of an episode, with what its first statement did.
pub fn finding(episode: &Episode) -> LogRecord {
    let Episode { time, action, finding, origin, sequence, facts, destination, counts, .. } =
        episode;
    let severity = match finding.severity {
        _ if *action == EpisodeAction::Ended || finding.dry_run => Severity::Info,
        event::Severity::Low | event::Severity::Medium => Severity::Warn,
        event::Severity::High | event::Severity::Critical => Severity::Error,
    };
    let mut attributes = Attributes::default();
    let a = &mut attributes;
    a.text("dbwarden.rule", Some(&finding.rule));
    a.text("dbwarden.severity", Some(finding.severity.name()));
    a.text("dbwarden.verdict", Some(finding.verdict.name()));
    a.flag("dbwarden.dry_run", finding.dry_run);
    a.text("db.query.summary", facts.as_ref().map(|facts| &*facts.summary));
    a.text("db.query.text", facts.as_ref().map(|facts| &*facts.text));
    identity::describe(a, origin);
    if let Some(destination) = destination {
        describe(a, destination);
    }
    a.int("dbwarden.sequence", (*sequence > 0).then_some(*sequence));
    for (name, n) in counts {
        a.int(&format!("dbwarden.{name}"), Some(*n));
    }
    let name = format!("dbwarden.finding.{}", action.name());
    record(*time, severity, &name, &finding.message, attributes)
}

/// `subject`: a short stable word, as in `dbwarden.alert.ledger`.
pub fn alert(time: WallTime, severity: Severity, subject: &str, message: &str) -> LogRecord {
    let name = format!("dbwarden.alert.{subject}");
    record(time, severity, &name, message, Attributes::default())
}

/// A signed note as it stands in the ledger: whoever keeps it can tell whether the ledger was put back.
pub fn checkpoint(time: WallTime, host: &Origin, note: &str) -> LogRecord {
    let mut attributes = Attributes::default();
    identity::describe(&mut attributes, host);
    record(time, Severity::Info, "dbwarden.ledger.checkpoint", note, attributes)
}

pub fn weight(record: &LogRecord) -> usize {
    let body = match record.body.as_ref().and_then(|body| body.value.as_ref()) {
        Some(opentelemetry_proto::tonic::common::v1::any_value::Value::StringValue(text)) => {
            text.len()
        }
        _ => 0,
    };
    1_536 + body
}

fn record(
    time: WallTime,
    severity: Severity,
    name: &str,
    body: &str,
    attributes: Attributes,
) -> LogRecord {
    let (number, text) = match severity {
        Severity::Info => (SeverityNumber::Info, "INFO"),
        Severity::Warn => (SeverityNumber::Warn, "WARN"),
        Severity::Error => (SeverityNumber::Error, "ERROR"),
    };
    LogRecord {
        time_unix_nano: nanos(time),
        observed_time_unix_nano: nanos(time),
        severity_number: number.into(),
        severity_text: text.to_owned(),
        body: Some(text_value(cut(body))),
        attributes: attributes.0,
        event_name: name.to_owned(),
        ..LogRecord::default()
    }
}
