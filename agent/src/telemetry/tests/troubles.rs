//! Receivers that are down, slow, refusing, choosy, or not who they should be: capture never waits.

use std::{
    io::Read,
    time::{Duration, Instant},
};

use dbwarden_tests::Certificates;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceResponse,
};
use prost_otlp::Message;

use super::{
    super::{Feed, SignalStatus},
    arrived, await_that, otlp, start, statement, traces_to,
};
use crate::{
    config::{Compression, Otlp, Protocol, SecretHeaders},
    delivery::receiver::{Receiver, Reply, over_tls},
    event::WallTime,
};

fn status(feed: &Feed) -> SignalStatus {
    feed.shared().status().signals.remove(0)
}

fn dropped(feed: &Feed, reason: &str) -> u64 {
    status(feed).dropped.into_iter().find(|(name, _)| *name == reason).unwrap().1
}

#[test]
fn a_receiver_that_is_down_gets_everything_when_it_comes_back() {
    // An address that nobody listens on any more.
    let address = Receiver::start(|_| Reply::ok()).address;
    let mut feed = start(&traces_to(otlp(format!("http://{address}/v1/traces"))));
    for n in 0..1_000 {
        feed.statement(&statement(&format!("SELECT t{n}")), WallTime(0));
    }
    await_that("the trouble", || status(&feed).trouble.is_some());
    assert!(status(&feed).trouble.unwrap().contains("refused"));
    assert_eq!((status(&feed).sent, status(&feed).waiting), (0, 1_000));

    let receiver = Receiver::at(address, |_| Reply::ok());
    await_that("all spans", || status(&feed).sent == 1_000);
    assert_eq!((arrived(&receiver).len(), status(&feed).trouble), (1_000, None));
    assert_eq!(dropped(&feed, "queue_full"), 0);
    feed.close();
}

#[test]
fn a_receiver_that_does_not_answer_holds_up_nobody() {
    let receiver = Receiver::start(|_| Reply::Silence);
    let mut feed = start(&traces_to(otlp(receiver.url("/v1/traces"))));
    let record = statement("SELECT t");
    let before = Instant::now();
    for _ in 0..40_000 {
        feed.statement(&record, WallTime(0));
    }
    let took = before.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?} for 40000 statements");
    let (waiting, full) = (status(&feed).waiting, dropped(&feed, "queue_full"));
    assert!(full > 20_000 && waiting + full == 40_000, "{waiting} wait, {full} dropped");
    await_that("the trouble", || status(&feed).trouble.is_some());
    assert!(status(&feed).trouble.unwrap().contains("no answer within"));
    let before = Instant::now();
    feed.close();
    assert!(before.elapsed() < Duration::from_secs(5), "{:?} to stop", before.elapsed());
}

#[test]
fn a_receiver_that_is_busy_is_asked_again_and_one_that_refuses_is_not() {
    let receiver = Receiver::start(|n| match n {
        0 => Reply::Http(503, "retry-after: 0\r\n", b"busy".to_vec()),
        1 => Reply::Http(429, "", Vec::new()),
        3 => Reply::Http(400, "", b"no such thing".to_vec()),
        4 => Reply::Http(307, "location: http://127.0.0.1:1/\r\n", Vec::new()),
        _ => Reply::ok(),
    });
    let mut feed = start(&traces_to(otlp(receiver.url("/v1/traces"))));
    feed.statement(&statement("SELECT a"), WallTime(0));
    await_that("the first", || status(&feed).sent == 1);
    assert_eq!(receiver.requests().len(), 3);

    for n in 1..=2 {
        feed.statement(&statement("SELECT b"), WallTime(0));
        await_that("a refusal", || dropped(&feed, "refused") == n);
        assert!(status(&feed).trouble.unwrap().contains("HTTP "));
    }
    feed.statement(&statement("SELECT c"), WallTime(0));
    await_that("the next", || status(&feed).sent == 2);
    assert_eq!((status(&feed).trouble, status(&feed).waiting), (None, 0));
    feed.close();
}

#[test]
fn what_a_receiver_takes_in_part_is_counted_and_not_sent_again() {
    let receiver = Receiver::start(|n| {
        let rejected_spans = if n == 0 { 2 } else { 0 };
        let error_message = if n == 0 { "too old" } else { "" }.to_owned();
        let partial_success = Some(ExportTracePartialSuccess { rejected_spans, error_message });
        let answer = ExportTraceServiceResponse { partial_success }.encode_to_vec();
        Reply::Http(200, "content-type: application/x-protobuf\r\n", answer)
    });
    let mut feed = start(&traces_to(otlp(receiver.url("/v1/traces"))));
    for _ in 0..5 {
        feed.statement(&statement("SELECT t"), WallTime(0));
    }
    await_that("the rejection", || dropped(&feed, "rejected") == 2);
    assert_eq!(status(&feed).sent, 3);
    assert_eq!(status(&feed).trouble.unwrap(), "2 of 5 were rejected: too old");
    feed.statement(&statement("SELECT t"), WallTime(0));
    await_that("the rest", || status(&feed).sent == 4);
    assert_eq!((status(&feed).trouble, receiver.requests().len()), (None, 2));
    feed.close();
}

#[test]
fn headers_and_compression_reach_the_receiver() {
    let receiver = Receiver::start(|_| Reply::ok());
    let secret = [("authorization".to_owned(), "Bearer hush".to_owned())];
    let mut feed = start(&traces_to(Otlp {
        compression: Compression::Gzip,
        headers: [("x-org".to_owned(), "dba".to_owned())].into(),
        secret_headers: SecretHeaders(secret.into()),
        ..otlp(receiver.url("/v1/traces"))
    }));
    feed.statement(&statement("SELECT t"), WallTime(0));
    await_that("the span", || status(&feed).sent == 1);
    let request = receiver.requests().remove(0);
    for line in ["authorization: bearer hush", "x-org: dba", "content-encoding: gzip"] {
        assert!(request.head.iter().any(|head| head == line), "{:?}", request.head);
    }
    let mut unpacked = Vec::new();
    flate2::read::GzDecoder::new(request.body.as_slice()).read_to_end(&mut unpacked).unwrap();
    assert!(unpacked.windows(8).any(|window| window == b"SELECT t"));
    feed.close();
}

#[test]
fn both_ends_of_tls_must_be_who_they_should_be() {
    let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let own = Certificates::create(folder.path()).unwrap();
    let other = Certificates::create(elsewhere.path()).unwrap();
    let (_receiver, port) = over_tls(folder.path(), &own, "127.0.0.1", true);
    // The certificate is of 127.0.0.1 and localhost.
    let (_misnamed, other_port) = over_tls(folder.path(), &own, "127.0.0.2", true);
    let known = Otlp {
        certificate: Some(own.authority.clone()),
        client_certificate: Some(own.certificate.clone()),
        client_key: Some(own.key.clone()),
        ..otlp(format!("https://127.0.0.1:{port}/v1/traces"))
    };
    let mut feed = start(&traces_to(known.clone()));
    feed.statement(&statement("SELECT t"), WallTime(0));
    await_that("the span", || status(&feed).sent == 1);
    feed.close();

    let wrong = Some(other.authority.clone());
    let nowhere = Some(folder.path().join("nowhere.pem"));
    let grpc = |otlp: Otlp| Otlp {
        protocol: Protocol::Grpc,
        endpoint: format!("https://127.0.0.1:{port}"),
        ..otlp
    };
    let misnamed =
        Otlp { endpoint: format!("https://127.0.0.2:{other_port}/v1/traces"), ..known.clone() };
    let misnamed_grpc =
        Otlp { endpoint: format!("https://127.0.0.2:{other_port}"), ..grpc(known.clone()) };
    for (otlp, expected) in [
        (misnamed, "127.0.0.2"),
        (misnamed_grpc, "127.0.0.2"),
        (Otlp { certificate: wrong.clone(), ..known.clone() }, "certificate"),
        (Otlp { certificate: None, ..known.clone() }, "certificate"),
        (Otlp { client_certificate: None, client_key: None, ..known.clone() }, "ertificate"),
        (Otlp { certificate: nowhere.clone(), ..known.clone() }, "nowhere.pem: No such file"),
        (Otlp { certificate: Some(own.key.clone()), ..known.clone() }, ""),
        (grpc(Otlp { certificate: wrong, ..known.clone() }), "certificate"),
        (grpc(Otlp { certificate: nowhere, ..known.clone() }), "nowhere.pem: No such file"),
    ] {
        let mut feed = start(&traces_to(otlp.clone()));
        feed.statement(&statement("SELECT t"), WallTime(0));
        await_that("the trouble", || status(&feed).trouble.is_some());
        let SignalStatus { trouble, sent, waiting, .. } = status(&feed);
        assert_eq!((sent, waiting), (0, 1), "{otlp:?}");
        assert!(trouble.as_ref().unwrap().contains(expected), "{trouble:?} of {otlp:?}");
        feed.close();
    }
}
