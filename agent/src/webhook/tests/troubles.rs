//! Receivers that are down, slow, refusing, elsewhere, or not who they should be: nobody waits for them.

use std::{
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use dbwarden_tests::Certificates;

use super::{KEY, await_that, episode, lost, private, start, status, webhook};
use crate::{
    config::{Span, Webhook, WebhookTarget},
    delivery::receiver::{Receiver, Reply, Request, over_tls},
};

fn ids(requests: &[Request]) -> Vec<String> {
    requests.iter().map(|request| request.headers["webhook-id"].clone()).collect()
}

fn signed(folder: &Path, url: String) -> Webhook {
    webhook(url, Some(private(folder, "key", KEY)))
}

#[test]
fn a_receiver_that_comes_back_gets_everything_in_order() {
    let folder = tempfile::tempdir().unwrap();
    // An address that nobody listens on any more.
    let address = Receiver::start(|_| Reply::ok()).address;
    let feed = start(&signed(folder.path(), format!("http://{address}/")));
    (1..=50).for_each(|n| feed.finding(&episode(n)));
    await_that("the trouble", || status(&feed).trouble.is_some());
    assert!(status(&feed).trouble.unwrap().contains("refused"));
    assert_eq!((status(&feed).sent, status(&feed).waiting), (0, 50));

    let receiver = Receiver::at(address, |_| Reply::ok());
    await_that("all", || status(&feed).sent == 50);
    let sequences: Vec<u64> = receiver
        .requests()
        .iter()
        .map(|request| serde_json::from_slice::<serde_json::Value>(&request.body).unwrap())
        .map(|body| body["data"]["sequence"].as_u64().unwrap())
        .collect();
    assert_eq!(sequences, (1..=50).collect::<Vec<_>>());
    assert_eq!((status(&feed).trouble, status(&feed).lost.map(|(_, n)| n)), (None, [0; 4]));
    feed.close();
}

#[test]
fn an_attempt_more_is_the_same_message_with_a_signature_of_its_own_time() {
    let folder = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(|n| match n {
        0 | 1 => Reply::Http(500, "", b"oops".to_vec()),
        2 => Reply::Http(401, "", Vec::new()),
        3 => Reply::Http(301, "location: http://127.0.0.1:1/\r\n", Vec::new()),
        // It reads, and says nothing.
        4 => Reply::Silence,
        _ => Reply::ok(),
    });
    let feed = start(&signed(folder.path(), receiver.url("/hook")));
    feed.finding(&episode(1));
    feed.finding(&episode(2));
    await_that("both", || status(&feed).sent == 2);
    let requests = receiver.requests();
    let ids = ids(&requests);
    assert_eq!(ids.len(), 7);
    assert!(ids[..6].iter().all(|id| *id == ids[0]) && ids[6] != ids[0], "{ids:?}");
    assert!(requests[..6].iter().all(|request| request.body == requests[0].body));
    assert_eq!((status(&feed).waiting, status(&feed).trouble), (0, None));
    feed.close();
}

#[test]
fn redirects_are_told_and_not_followed() {
    let elsewhere = Receiver::start(|_| Reply::ok());
    let line = format!("location: {}\r\n", elsewhere.url("/"));
    let line: &'static str = line.leak();
    let receiver = Receiver::start(move |_| Reply::Http(301, line, Vec::new()));
    let feed = start(&webhook(receiver.url("/hook"), None));
    feed.finding(&episode(1));
    await_that("the trouble", || status(&feed).trouble.is_some());
    assert!(status(&feed).trouble.unwrap().contains("redirects aren't followed"));
    let last = feed.close().remove(0);
    assert_eq!((last.sent, lost(&last, "stopped"), last.waiting), (0, 1, 0));
    assert!(elsewhere.requests().is_empty());
}

#[test]
fn a_receiver_is_left_alone_as_long_as_it_asks() {
    let times = Arc::new(Mutex::new(Vec::new()));
    let receiver = Receiver::start({
        let times = times.clone();
        move |n| {
            times.lock().unwrap().push(Instant::now());
            match n {
                0 => Reply::Http(429, "retry-after: 1\r\n", Vec::new()),
                _ => Reply::ok(),
            }
        }
    });
    let feed = start(&webhook(receiver.url("/hook"), None));
    feed.finding(&episode(1));
    await_that("the message", || status(&feed).sent == 1);
    let times = times.lock().unwrap();
    assert!(times[1] - times[0] >= Duration::from_secs(1), "{:?}", times[1] - times[0]);
    feed.close();
}

#[test]
fn what_is_not_wanted_is_counted_and_holds_up_nothing() {
    let receiver = Receiver::start(|n| match n {
        0 => Reply::Http(400, "", b"invalid_payload".to_vec()),
        1 => Reply::Http(410, "", b"channel_is_archived".to_vec()),
        _ => Reply::ok(),
    });
    let feed = start(&webhook(receiver.url("/hook"), None));
    (1..=2).for_each(|n| feed.finding(&episode(n)));
    await_that("both", || lost(&status(&feed), "refused") == 2);
    assert!(status(&feed).trouble.unwrap().contains("channel_is_archived"));
    feed.finding(&episode(3));
    await_that("the third", || status(&feed).sent == 1);
    assert_eq!(receiver.requests().len(), 3);
    feed.close();
}

#[test]
fn a_receiver_that_never_answers_slows_nobody_and_what_does_not_fit_is_counted() {
    let receiver = Receiver::start(|_| Reply::Silence);
    let hook =
        Webhook { give_up: Span(Duration::from_secs(1)), ..webhook(receiver.url("/"), None) };
    let feed = start(&hook);
    let episode = episode(1);
    let before = Instant::now();
    (0..3_000).for_each(|_| feed.finding(&episode));
    let took = before.elapsed();
    assert!(took < Duration::from_secs(2), "{took:?} for 3000 findings");
    assert!(lost(&status(&feed), "queue_full") >= 3_000 - 1_025, "{:?}", status(&feed));
    await_that("the trouble", || status(&feed).trouble.is_some());
    assert!(status(&feed).trouble.unwrap().contains("no answer within"));
    await_that("one that is too old", || lost(&status(&feed), "expired") > 0);

    let before = Instant::now();
    let last = feed.close().remove(0);
    assert!(before.elapsed() < Duration::from_secs(5), "{:?} to stop", before.elapsed());
    let n_lost: u64 = last.lost.iter().map(|(_, n)| n).sum();
    assert_eq!((last.sent, last.waiting, n_lost), (0, 0, 3_000), "{last:?}");
}

#[test]
fn a_key_that_others_may_read_signs_nothing_until_that_is_mended() {
    let folder = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(|_| Reply::ok());
    let hook = signed(folder.path(), receiver.url("/hook"));
    let key = folder.path().join("key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let feed = start(&hook);
    feed.finding(&episode(1));
    await_that("the trouble", || status(&feed).trouble.is_some());
    let trouble = status(&feed).trouble.unwrap();
    assert!(trouble.contains("chmod 600") && trouble.contains("/key"), "{trouble}");
    assert!(receiver.requests().is_empty());
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    await_that("the message", || status(&feed).sent == 1);
    feed.close();
}

#[test]
fn a_receiver_must_be_who_it_should_be() {
    let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let own = Certificates::create(folder.path()).unwrap();
    let other = Certificates::create(elsewhere.path()).unwrap();
    let (_receiver, port) = over_tls(folder.path(), &own, "127.0.0.1", false);
    // The certificate is of 127.0.0.1 and localhost.
    let (_misnamed, other_port) = over_tls(folder.path(), &own, "127.0.0.2", false);
    let hook = Webhook {
        certificate: Some(own.authority.clone()),
        ..webhook(format!("https://127.0.0.1:{port}/"), None)
    };
    let feed = start(&hook);
    feed.finding(&episode(1));
    await_that("the message", || status(&feed).sent == 1);
    feed.close();

    let misnamed = Webhook {
        target: WebhookTarget::Url(format!("https://127.0.0.2:{other_port}/")),
        ..hook.clone()
    };
    for (hook, expected) in [
        (Webhook { certificate: Some(other.authority), ..hook.clone() }, "peer certificate"),
        (Webhook { certificate: None, ..hook.clone() }, "peer certificate"),
        (Webhook { certificate: Some("/nowhere.pem".into()), ..hook.clone() }, "/nowhere.pem"),
        (misnamed, "127.0.0.2"),
    ] {
        let feed = start(&hook);
        feed.finding(&episode(1));
        await_that("the trouble", || status(&feed).trouble.is_some());
        let trouble = status(&feed).trouble.unwrap();
        assert!(trouble.contains(expected), "{trouble}, not {expected}");
        assert_eq!(status(&feed).sent, 0);
        feed.close();
    }
}
