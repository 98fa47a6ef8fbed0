//! What is counted, how much of it there can be, and what both forms say.

use std::{collections::BTreeMap, sync::Arc};

use super::{Book, Data, Histogram, Label, Metric, Point, encode_otlp, encode_prometheus};
use crate::{
    event::{
        Approval, ApprovalAction, Effect, Occurrence, OccurrenceKind, Origin, Verdict, WallTime,
    },
    telemetry::samples::{facts, record},
};

#[test]
fn a_value_on_a_bound_is_in_its_bucket() {
    let mut histogram = Histogram::new(&[1.0, 2.0]);
    [0.5, 1.0, 1.5, 2.0, 3.0].into_iter().for_each(|value| histogram.record(value));
    assert_eq!((histogram.counts, histogram.count, histogram.sum), (vec![2, 2, 1], 5, 8.0));
}

fn points(book: &Book, name: &str) -> Vec<Point<Histogram>> {
    let metric = book.metrics().into_iter().find(|metric| metric.name == name).unwrap();
    match metric.data {
        Data::Histogram(points) => points,
        data => panic!("{data:?}"),
    }
}

#[test]
fn statements_are_counted_by_operation_and_outcome() {
    let mut book = Book::default();
    let read = record(1_000_000, 2_000, Some(facts("SELECT patients", &[Effect::Read])));
    book.statement(&read, WallTime(2_000_000));
    book.statement(&read, WallTime(2_000_000));
    let mut failed = read.clone();
    failed.error_code = Some("22012".into());
    book.statement(&failed, WallTime(2_000_000));
    let mut written = read.clone();
    written.facts = Some(facts("INSERT patients", &[Effect::Insert]));
    book.statement(&written, WallTime(2_000_000));

    let durations = points(&book, "db.client.operation.duration");
    assert_eq!(durations.len(), 3);
    let twice = durations.iter().find(|point| point.value.count == 2).unwrap();
    assert_eq!(twice.value.counts[1], 2, "2 ms are between 1 and 5");
    let text = |text: &'static str| Label::Shared(text.into());
    assert_eq!(
        twice.labels,
        [
            ("db.system.name", Label::Text("postgresql".into())),
            ("db.namespace", text("clinic")),
            ("db.query.summary", text("SELECT patients")),
            ("server.address", text("127.0.0.1")),
            ("server.port", Label::Int(5_432)),
            ("dbwarden.principal.kind", Label::Text("service".into())),
        ]
    );
    // Rows that were written are not returned.
    let rows: u64 = points(&book, "db.client.response.returned_rows")
        .iter()
        .map(|point| point.value.count)
        .sum();
    assert_eq!(rows, 3);
    let lag = points(&book, "dbwarden.recorder.lag");
    assert_eq!((lag[0].value.count, lag[0].value.counts[4]), (4, 4), "0.998 s");
}

#[test]
fn steps_of_approvals_are_counted_by_kind() {
    let mut book = Book::default();
    let (requested, denied) = (ApprovalAction::Requested, ApprovalAction::Denied);
    let (hold, ticket) = (Verdict::Hold, Verdict::Ticket);
    for (action, verdict) in
        [(requested, hold), (denied, hold), (requested, ticket), (requested, ticket)]
    {
        book.approval(&Approval {
            time: WallTime(0),
            action,
            id: "apr-1".into(),
            origin: Arc::new(Origin::default()),
            rule: "r".into(),
            verdict,
            facts: None,
            text: None,
            message: String::new(),
            counts: Vec::new(),
            rows: None,
            duration_us: None,
            error_code: None,
        });
    }
    let metric = book.metrics().into_iter().find(|metric| metric.name == "dbwarden.approvals");
    let Some(Metric { data: Data::Counter(points), .. }) = metric else { panic!() };
    let named = |label: &Label| match label {
        Label::Text(text) => text.to_string(),
        other => panic!("{other:?}"),
    };
    let counts: Vec<(Vec<String>, f64)> = points
        .iter()
        .map(|point| (point.labels.iter().map(|(_, label)| named(label)).collect(), point.value))
        .collect();
    let expected =
        [("requested", "hold", 1.0), ("requested", "ticket", 2.0), ("denied", "hold", 1.0)];
    assert_eq!(
        counts,
        expected.map(|(action, verdict, n)| (vec![action.into(), verdict.into()], n))
    );
}

#[test]
fn series_are_bounded_and_the_rest_is_one() {
    let mut book = Book::default();
    for n in 0..5_000 {
        let summary = format!("SELECT t{n}");
        let record = record(0, 1_000, Some(facts(&summary, &[Effect::Read])));
        book.statement(&record, WallTime(0));
    }
    let points = points(&book, "db.client.operation.duration");
    assert_eq!(points.len(), 2_000);
    let overflow: Vec<_> = points
        .iter()
        .filter(|point| point.labels == [("otel.metric.overflow", Label::Bool(true))])
        .collect();
    assert_eq!(overflow.len(), 1);
    assert_eq!(overflow[0].value.count, 5_000 - 1_999);
}

#[test]
fn coverage_adds_up() {
    let mut book = Book::default();
    let server = Origin { server: Some("main".into()), ..Origin::default() };
    for _ in 0..2 {
        book.occurrence(&Occurrence {
            time: WallTime(0),
            kind: OccurrenceKind::Coverage,
            action: "seen",
            origin: Arc::new(server.clone()),
            message: None,
            counts: vec![
                ("statements".into(), 3),
                ("decoded_bytes".into(), 70),
                ("lost_bytes".into(), 5),
            ],
        });
    }
    let text = encode_prometheus(&book.metrics(), &BTreeMap::new());
    let expected = "dbwarden_coverage_bytes_total{dbwarden_server=\"main\",dbwarden_coverage_state=\"decoded\"} 140";
    assert!(text.contains(expected), "{text}");
    assert!(text.contains("state=\"lost\"} 10\n") && !text.contains("statements"), "{text}");
}

#[test]
fn prometheus_reads_it() {
    let mut histogram = Histogram::new(&[0.005, 1.0]);
    [0.001, 0.5, 0.5, 7.0].into_iter().for_each(|value| histogram.record(value));
    let labels = vec![("db.query.summary", Label::Text("SELECT \"a\\b\"\n".into()))];
    let metrics = [
        Metric {
            name: "db.client.operation.duration",
            unit: "s",
            description: "How long.",
            data: Data::Histogram(vec![Point { labels, value: histogram }]),
        },
        Metric::gauge("dbwarden.ring.size", "By", "Room.").with(Vec::new(), 16.0),
        Metric::counter("dbwarden.drops", "{record}", "Lost."),
    ];
    let resource = BTreeMap::from([("host.name".to_owned(), "db1".to_owned())]);
    let expected = r#"# HELP target_info What the metrics are of.
# TYPE target_info gauge
target_info{host_name="db1"} 1
# HELP db_client_operation_duration_seconds How long.
# TYPE db_client_operation_duration_seconds histogram
db_client_operation_duration_seconds_bucket{db_query_summary="SELECT \"a\\b\"\n",le="0.005"} 1
db_client_operation_duration_seconds_bucket{db_query_summary="SELECT \"a\\b\"\n",le="1"} 3
db_client_operation_duration_seconds_bucket{db_query_summary="SELECT \"a\\b\"\n",le="+Inf"} 4
db_client_operation_duration_seconds_sum{db_query_summary="SELECT \"a\\b\"\n"} 8.001
db_client_operation_duration_seconds_count{db_query_summary="SELECT \"a\\b\"\n"} 4
# HELP dbwarden_ring_size_bytes Room.
# TYPE dbwarden_ring_size_bytes gauge
dbwarden_ring_size_bytes 16
"#;
    assert_eq!(encode_prometheus(&metrics, &resource), expected);
    let encoded = encode_otlp(&metrics, 1, 2);
    let names: Vec<&str> = encoded.iter().map(|metric| metric.name.as_str()).collect();
    assert_eq!(names, ["db.client.operation.duration", "dbwarden.ring.size"]);
}
