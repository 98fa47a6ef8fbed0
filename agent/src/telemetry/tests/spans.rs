//! What spans say, whose children they are, and which are sent.

use std::{sync::Arc, time::Duration};

use opentelemetry_proto::tonic::{
    common::v1::{KeyValue, any_value::Value},
    trace::v1::{Span, span::SpanKind, status::StatusCode},
};

use super::{
    super::{samples, sampling::Sampling, span::Ids},
    arrived, arrived_by_resource, await_that, otlp, start, statement, traces_to,
};
use crate::{
    config,
    delivery::receiver::{Receiver, Reply},
    event::{
        ClaimTag, Claims, Effect, Judgement, LoginStrength, Occurrence, OccurrenceKind, Record,
        Trace, Verdict, WallTime,
    },
};

fn said(attributes: &[KeyValue], key: &str) -> Option<String> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    Some(match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(n) => n.to_string(),
        Value::BoolValue(is) => is.to_string(),
        Value::ArrayValue(list) => format!("{} values", list.values.len()),
        other => format!("{other:?}"),
    })
}

/// Sends `records`, and the transactions that they end.
fn sent(settings: impl Fn(&mut config::Telemetry), records: &[Record]) -> Vec<Span> {
    let receiver = Receiver::start(|_| Reply::ok());
    let mut telemetry = traces_to(otlp(receiver.url("/v1/traces")));
    settings(&mut telemetry);
    let mut feed = start(&telemetry);
    for record in records {
        feed.statement(&Arc::new(record.clone()), WallTime(3_000_000));
    }
    feed.close();
    arrived(&receiver)
}

#[test]
fn a_statement_by_the_conventions() {
    let mut record =
        samples::record(1_000_000, 1_500, Some(samples::facts("SELECT t", &[Effect::Read])));
    record.error_code = Some("22012".into());
    record.error_message = Some("division by 'a literal'".into());
    record.redacted_error = Some("division by ?".into());
    let spans = sent(|telemetry| telemetry.traces.returned_rows = true, &[record]);
    let [span] = spans.as_slice() else { panic!("{spans:?}") };
    assert_eq!((span.name.as_str(), span.kind()), ("SELECT t", SpanKind::Client));
    assert_eq!(span.start_time_unix_nano, 1_000_000_000);
    assert_eq!(span.end_time_unix_nano, 1_001_500_000);
    assert_eq!((span.trace_id.len(), span.span_id.len(), span.parent_span_id.len()), (16, 8, 0));
    let status = span.status.as_ref().unwrap();
    assert_eq!((status.code(), status.message.as_str()), (StatusCode::Error, "division by ?"));
    for (key, expected) in [
        ("db.system.name", "postgresql"),
        ("db.namespace", "clinic"),
        ("db.query.summary", "SELECT t"),
        ("db.query.text", "SELECT t /* ? */"),
        ("db.response.status_code", "22012"),
        ("error.type", "22012"),
        ("db.response.returned_rows", "20"),
        ("server.address", "127.0.0.1"),
        ("server.port", "5432"),
        ("network.peer.address", "127.0.0.1"),
        ("network.peer.port", "5432"),
        ("client.port", "40000"),
        ("process.pid", "4711"),
        ("process.executable.path", "/usr/bin/python3.11"),
        ("process.parent_pid", "4000"),
        ("process.user.name", "ana"),
        ("user.name", "ana"),
        ("dbwarden.db_user", "app"),
        ("dbwarden.unit", "billing.service"),
        ("dbwarden.connection", "0000000000000007"),
        ("dbwarden.sequence", "3"),
        ("dbwarden.fingerprint", "0000000000000abc"),
        ("dbwarden.effects", "1 values"),
    ] {
        assert_eq!(said(&span.attributes, key).as_deref(), Some(expected), "{key}");
    }
    assert!(!format!("{span:?}").contains("a literal"), "{span:?}");
}

#[test]
fn a_login_uid_that_proves_nothing_is_nobody() {
    let mut record = samples::record(0, 1, None);
    let mut origin = samples::origin();
    origin.login_strength = Some(LoginStrength::Weak);
    record.origin = Arc::new(origin);
    let spans = sent(|_| {}, &[record]);
    assert_eq!(said(&spans[0].attributes, "user.name"), None);
    assert_eq!(said(&spans[0].attributes, "dbwarden.login_user").as_deref(), Some("ana"));
    assert_eq!(spans[0].name, "postgresql");
    assert_eq!(said(&spans[0].attributes, "db.response.returned_rows"), None);
}

#[test]
fn the_resource_says_which_host_it_was() {
    let receiver = Receiver::start(|_| Reply::ok());
    let mut settings = traces_to(otlp(receiver.url("/v1/traces")));
    settings.resource.insert("service.name".into(), "orders-db".into());
    let mut feed = start(&settings);
    feed.statement(&statement("SELECT t"), WallTime(0));
    feed.close();
    let resources = arrived_by_resource(&receiver);
    let attributes = &resources[0].resource.as_ref().unwrap().attributes;
    for (key, expected) in
        [("service.name", "orders-db"), ("host.name", "db1"), ("os.type", "linux")]
    {
        assert_eq!(said(attributes, key).as_deref(), Some(expected));
    }
    assert_eq!(receiver.requests()[0].path, "/v1/traces");
}

fn at(start: i64, transaction: &'static str) -> Record {
    let facts = samples::facts(&format!("S{start}"), &[]);
    let mut record = samples::record(start, 10, Some(facts));
    record.transaction = Some(transaction);
    record
}

#[test]
fn a_transaction_is_the_parent_of_its_statements() {
    let records = [
        at(1, "idle"),
        at(20, "in_transaction"),
        at(40, "in_transaction"),
        at(60, "idle"),
        at(80, "idle"),
    ];
    let spans = sent(|_| {}, &records);
    let named = |name: &str| spans.iter().find(|span| span.name == name).unwrap();
    let transaction = named("transaction");
    assert_eq!(
        (transaction.start_time_unix_nano, transaction.end_time_unix_nano),
        (20_000, 70_000)
    );
    assert_eq!(said(&transaction.attributes, "dbwarden.statements").as_deref(), Some("3"));
    assert_eq!(said(&transaction.attributes, "dbwarden.end_unknown"), None);
    for child in ["S20", "S40", "S60"] {
        assert_eq!(named(child).parent_span_id, transaction.span_id);
        assert_eq!(named(child).trace_id, transaction.trace_id);
    }
    for alone in ["S1", "S80"] {
        assert!(named(alone).parent_span_id.is_empty());
        assert_ne!(named(alone).trace_id, transaction.trace_id);
    }
    assert_eq!(spans.len(), 6);
}

#[test]
fn a_claimed_parent_counts_more_than_the_transaction() {
    let traced = |start, transaction, is_sampled| {
        let trace = Trace {
            trace_id: "0af7651916cd43dd8448eb211c80319c".into(),
            span_id: "b7ad6b7169203331".into(),
            is_sampled,
        };
        let tag = |name: &str, value: &str| ClaimTag { name: name.into(), value: value.into() };
        let tags = vec![tag("agent", "bot"), tag("route", "/patients/7")];
        let claims = Some(Arc::new(Claims { tags, trace: Some(trace) }));
        Record { claims, ..at(start, transaction) }
    };
    let records = [
        at(20, "in_transaction"),
        traced(40, "in_transaction", true),
        traced(50, "in_transaction", false),
        at(60, "idle"),
    ];
    let spans = sent(|_| {}, &records);
    let named = |name: &str| spans.iter().find(|span| span.name == name).unwrap();
    let (child, transaction) = (named("S40"), named("transaction"));
    assert_eq!(hex::encode(&child.trace_id), "0af7651916cd43dd8448eb211c80319c");
    assert_eq!(hex::encode(&child.parent_span_id), "b7ad6b7169203331");
    assert_eq!(child.flags, 0x301);
    assert_eq!(child.links[0].span_id, transaction.span_id);
    assert_eq!(said(&child.attributes, "dbwarden.claims.agent").as_deref(), Some("bot"));
    assert_eq!(said(&child.attributes, "dbwarden.claims.route").as_deref(), Some("?"));
    assert_eq!(said(&child.attributes, "dbwarden.principal.kind").as_deref(), Some("service"));
    assert_eq!(spans.len(), 4, "whose parent isn't sampled isn't sent");
}

#[test]
fn a_transaction_ends_with_its_connection() {
    let receiver = Receiver::start(|_| Reply::ok());
    let mut feed = start(&traces_to(otlp(receiver.url("/v1/traces"))));
    feed.statement(&Arc::new(at(20, "failed")), WallTime(0));
    feed.occurrence(&Occurrence {
        time: WallTime(50),
        kind: OccurrenceKind::Connection,
        action: "closed",
        origin: Arc::new(samples::origin()),
        message: None,
        counts: Vec::new(),
    });
    await_that("the transaction", || arrived(&receiver).len() == 2);
    let spans = arrived(&receiver);
    let transaction = spans.iter().find(|span| span.name == "transaction").unwrap();
    assert_eq!(said(&transaction.attributes, "dbwarden.end_unknown").as_deref(), Some("true"));
    feed.close();
}

#[test]
fn an_error_is_sent_whatever_the_ratio_and_its_transaction_with_it() {
    let mut failed = at(20, "failed");
    failed.error_code = Some("22012".into());
    let records = [
        at(10, "in_transaction"),
        failed,
        at(30, "idle"),
        at(40, "in_transaction"),
        at(50, "idle"),
    ];
    let spans = sent(|telemetry| telemetry.traces.ratio = 0.0, &records);
    let names: Vec<&str> = spans.iter().map(|span| span.name.as_str()).collect();
    assert_eq!(names, ["S20", "transaction"]);
}

#[test]
fn sampling_takes_what_is_remarkable_and_a_part_of_the_rest() {
    let quick = samples::record(0, 10, None);
    let slow = samples::record(0, 2_000_000, None);
    let failed = Record { error_code: Some("x".into()), ..quick.clone() };
    let skipped = Record { error_message: Some("x".into()), ..quick.clone() };
    let judgement = Judgement { verdict: Verdict::Flag, ..Judgement::allowed() };
    let flagged = Record { judgement: Some(Arc::new(judgement)), ..quick.clone() };
    let mut traces = config::Telemetry::default().traces;
    traces.slow = config::Span(Duration::from_secs(2));
    for (ratio, follow_parent, record, parent, expected) in [
        (0.0, true, &quick, None, false),
        (1.0, true, &quick, None, true),
        (0.0, true, &slow, None, true),
        (0.0, true, &failed, None, true),
        (0.0, true, &skipped, None, true),
        // A parent's decision counts.
        (0.0, true, &quick, Some(true), true),
        (1.0, true, &quick, Some(false), false),
        (1.0, true, &failed, Some(false), false),
        // What policy has flagged can't be hidden by it.
        (0.0, true, &flagged, Some(false), true),
        // Where it is asked for.
        (0.0, false, &quick, Some(true), false),
        (1.0, false, &quick, Some(false), true),
    ] {
        (traces.ratio, traces.follow_parent) = (ratio, follow_parent);
        let takes = Sampling::new(&traces).takes(record, 1 << 55, parent);
        assert_eq!(takes, expected, "{ratio} {follow_parent} {parent:?}");
    }
    traces.ratio = 0.25;
    let sampling = Sampling::new(&traces);
    let ids = (0..4_000).map(|_| Ids::new(super::super::span::Kinship::Root).trace);
    let taken = ids.filter(|trace| sampling.takes_trace(*trace)).count();
    assert!((800..1_200).contains(&taken), "{taken} of 4000");
}
