//! What messages say, to whom, and by what they are known.

use std::process::Command;

use serde_json::Value;

use super::{KEY, approval, await_that, episode, private, start, status, webhook};
use crate::{
    config::{Webhook, WebhookTarget},
    delivery::receiver::{Receiver, Reply, Request},
    event::{Approval, ApprovalAction, EpisodeAction, Severity, Shown, WallTime},
    ledger::schema::COLUMNS,
};

/// What a receiver gets of both ends of one episode.
fn both_ends(webhook: &Webhook, receiver: &Receiver) -> Vec<Request> {
    let feed = start(webhook);
    let mut episode = episode(3);
    feed.finding(&episode);
    episode.action = EpisodeAction::Ended;
    episode.time = WallTime(episode.time.0 + 90_000_000);
    episode.counts = vec![("statements".into(), 4), ("rows".into(), 12)];
    feed.finding(&episode);
    await_that("both", || status(&feed).sent == 2);
    feed.close();
    receiver.requests()
}

/// Verifies with the specification's own library; ends with 0 if every signature holds.
const VERIFY: &str = "
import json, sys
from standardwebhooks import Webhook, WebhookVerificationError
key, requests = sys.argv[1], json.loads(sys.argv[2])
for headers, body in requests:
    Webhook(key).verify(body, headers)
    try:
        Webhook(key).verify(body + ' ', headers)
    except WebhookVerificationError:
        continue
    sys.exit('a changed body passes')
";

#[test]
fn json_is_signed_and_speaks_the_vocabulary() {
    let folder = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(|_| Reply::Http(204, "", Vec::new()));
    let key = private(folder.path(), "key", KEY);
    let requests = both_ends(&webhook(receiver.url("/hook"), Some(key)), &receiver);
    let bodies: Vec<Value> =
        requests.iter().map(|request| serde_json::from_slice(&request.body).unwrap()).collect();
    let (began, ended) = (&bodies[0], &bodies[1]);
    assert_eq!(
        (&began["type"], &ended["type"]),
        (&"finding.began".into(), &"finding.ended".into())
    );
    assert_eq!(began["timestamp"], "2025-11-24T16:00:00.000000Z");
    assert_eq!(ended["data"]["began"], began["data"]["time"]);
    assert_eq!(began["data"]["episode"], ended["data"]["episode"]);
    assert_eq!(
        (&began["data"]["counts"], &ended["data"]["counts"]["statements"]),
        (&Value::Null, &4.into())
    );
    assert_eq!(began["data"]["text"], "DELETE FROM visits WHERE note = ? OR true");
    assert_eq!(began["data"]["tables"][0]["name"], "visits");
    let id = |at: usize| requests[at].headers["webhook-id"].clone();
    assert_eq!(id(0), format!("{}-began", began["data"]["episode"].as_str().unwrap()));
    assert!(id(0) != id(1) && requests[0].headers["content-type"] == "application/json");

    // Whatever is said of a statement elsewhere has the same name here.
    let record = crate::ledger::samples::full_record();
    let shown = serde_json::to_value(Shown { record: &record, literals: false }).unwrap();
    let own = ["record", "episode", "action", "began", "severity", "message", "dry_run", "counts"];
    let is_column = |name: &str| COLUMNS.iter().any(|column| column.name == name);
    for name in began["data"].as_object().unwrap().keys() {
        let is_known = shown.get(name).is_some() || is_column(name) || own.contains(&name.as_str());
        assert!(is_known, "{name} is new");
    }

    let all: Vec<_> = requests
        .iter()
        .map(|request| (&request.headers, String::from_utf8(request.body.clone()).unwrap()))
        .collect();
    let Ok(python) = dbwarden_tests::place::python() else { panic!("no home") };
    if !python.is_file() {
        // `cargo xtask setup` has not been run; the end-to-end test says so.
        return;
    }
    let verified = Command::new(python)
        .args(["-c", VERIFY, KEY, &serde_json::to_string(&all).unwrap()])
        .output()
        .unwrap();
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
}

/// What is asked carries the command to run, and nothing that only approvers may see.
#[test]
fn a_request_says_what_to_do_about_it() {
    let folder = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(|_| Reply::ok());
    let key = private(folder.path(), "key", KEY);
    let row = approval();
    let quiet = Webhook { approvals: false, ..webhook(receiver.url("/quiet"), Some(key.clone())) };
    let json = webhook(receiver.url("/json"), Some(key));
    for webhook in [&json, &webhook(receiver.url("/slack"), None), &quiet] {
        let feed = start(webhook);
        feed.approval(&row);
        feed.approval(&Approval { action: ApprovalAction::Approved, ..row.clone() });
        // The ledger tells of these.
        feed.approval(&Approval { action: ApprovalAction::Used, ..row.clone() });
        let n = if webhook.approvals { 2 } else { 0 };
        await_that("both", || status(&feed).sent == n);
        feed.close();
    }
    let requests = receiver.requests();
    assert_eq!(requests.len(), 4);
    let command = "dbwarden approvals approve apr-4f0x7k2m";
    let asked: Value = serde_json::from_slice(&requests[0].body).unwrap();
    assert_eq!(asked["type"], "approval.requested");
    assert_eq!(asked["data"]["approve"], command);
    assert_eq!(asked["data"]["approval"], "apr-4f0x7k2m");
    assert_eq!(asked["data"]["text"], "DELETE FROM visits WHERE note = ? OR true");
    let decided: Value = serde_json::from_slice(&requests[1].body).unwrap();
    assert_eq!(
        (&decided["type"], &decided["data"]["approve"]),
        (&"approval.approved".into(), &Value::Null)
    );
    let chat = |at: usize| String::from_utf8(requests[at].body.clone()).unwrap();
    assert!(chat(2).contains(&format!("on db1: {command}")), "{}", chat(2));
    assert!(!chat(3).contains(command), "{}", chat(3));
    for request in &requests {
        let all = String::from_utf8_lossy(&request.body);
        assert!(!all.contains("4711"), "{all}");
    }
}

#[test]
fn nothing_that_is_posted_holds_a_literal_or_a_secret() {
    let folder = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(|_| Reply::ok());
    let key = private(folder.path(), "key", KEY);
    let url = private(folder.path(), "url", &format!("{}\n", receiver.url("/services/hush")));
    both_ends(&webhook(receiver.url("/hook"), Some(key)), &receiver);
    let slack = Webhook { target: WebhookTarget::UrlFile(url), ..webhook(String::new(), None) };
    let requests = both_ends(&slack, &receiver);
    assert_eq!((requests.len(), requests[3].path.as_str()), (4, "/services/hush"));
    for request in &requests {
        let all = format!("{:?} {}", request.head, String::from_utf8_lossy(&request.body));
        for secret in ["Wiedikon", "4711", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"] {
            assert!(!all.contains(secret), "{secret} in {all}");
        }
        assert!(!String::from_utf8_lossy(&request.body).contains("hush"));
    }
    assert!(requests[2].headers.keys().all(|name| !name.starts_with("webhook-")), "unsigned");
}

#[test]
fn slack_gets_text_and_blocks_that_nobody_can_shout_in() {
    let receiver = Receiver::start(|_| Reply::ok());
    let requests = both_ends(&webhook(receiver.url("/hook"), None), &receiver);
    let bodies: Vec<Value> =
        requests.iter().map(|request| serde_json::from_slice(&request.body).unwrap()).collect();
    assert_eq!(
        bodies[0]["text"],
        "high finding began:\u{200b} builtin:\u{200b}unrestricted-write: Nothing limits what it \
         changes. (∗ana∗ @\u{200b}here (human), as &lt;!channel&gt;, clinic, db1): DELETE FROM visits \
         WHERE note = ? OR true"
    );
    assert_eq!(bodies[0]["mrkdwn"], false);
    let blocks = bodies[1]["blocks"].as_array().unwrap();
    let kinds: Vec<_> = blocks.iter().filter_map(|block| block["type"].as_str()).collect();
    assert_eq!(kinds, ["header", "section", "section", "section", "section", "context"]);
    assert_eq!(blocks[4]["text"]["text"], "in all: 4 statements, 12 rows");
    let all = String::from_utf8_lossy(&requests[1].body);
    assert!(!all.contains("<!") && !all.contains("@here") && !all.contains("\"mrkdwn\":true"));
    assert!(!all.contains("\"type\":\"mrkdwn\""), "{all}");
}

#[test]
fn a_webhook_gets_what_it_asks_for() {
    let receiver = Receiver::start(|_| Reply::ok());
    let all = webhook(receiver.url("/hook"), None);
    let told = |webhook: Webhook, change: &dyn Fn(&mut crate::event::Finding)| {
        let feed = start(&webhook);
        let mut episode = episode(1);
        change(&mut episode.finding);
        feed.finding(&episode);
        feed.close().remove(0).sent == 1
    };
    let rules = |rule: &str| Webhook { rules: vec![rule.to_owned()], ..all.clone() };
    let critical = Webhook { min_severity: Severity::Critical, ..all.clone() };
    let same = |_: &mut crate::event::Finding| {};
    assert!(told(all.clone(), &same));
    assert!(told(rules("builtin:*"), &same));
    assert!(!told(rules("own-*"), &same));
    assert!(!told(critical.clone(), &same));
    assert!(told(critical, &|finding| finding.severity = Severity::Critical));
    assert!(!told(all.clone(), &|finding| finding.dry_run = true));
    assert!(told(Webhook { dry_run: true, ..all }, &|finding| finding.dry_run = true));
}
