//! What a receiver gets of findings, in good times and in bad ones.

mod contents;
mod troubles;

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Feed, Pace, WebhookStatus, Webhooks};
use crate::{
    config::{Span, Webhook, WebhookFormat, WebhookTarget},
    event::{
        Approval, ApprovalAction, ConnectionId, Episode, EpisodeAction, Finding, Origin,
        PrincipalKind, Severity, Verdict, WallTime,
    },
};

const PACE: Pace = Pace {
    first_pause: Duration::from_millis(20),
    longest_pause: Duration::from_millis(100),
    farewell: Duration::from_millis(500),
};

/// The reference libraries' own.
const KEY: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// A file that only its owner may read.
fn private(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path
}

fn webhook(url: String, secret_file: Option<PathBuf>) -> Webhook {
    Webhook {
        name: "oncall".to_owned(),
        target: WebhookTarget::Url(url),
        format: if secret_file.is_some() { WebhookFormat::Json } else { WebhookFormat::Slack },
        secret_file,
        min_severity: Severity::Low,
        rules: Vec::new(),
        dry_run: false,
        approvals: true,
        timeout: Span(Duration::from_millis(300)),
        give_up: Span(Duration::from_secs(60)),
        certificate: None,
    }
}

fn start(webhook: &Webhook) -> Feed {
    Webhooks::start(std::slice::from_ref(webhook), PACE).unwrap()
}

/// The `n`th statement of a connection begins an episode.
fn episode(n: u64) -> Episode {
    let facts = crate::statement::analyse(
        "DELETE FROM visits WHERE note = 'Wiedikon-4711' OR true",
        crate::statement::Lexing::default(),
    );
    Episode {
        time: WallTime(1_764_000_000_000_000),
        began: WallTime(1_764_000_000_000_000),
        action: EpisodeAction::Began,
        finding: Finding {
            rule: "builtin:unrestricted-write".into(),
            verdict: Verdict::Flag,
            severity: Severity::High,
            message: "Nothing limits what it changes.".into(),
            dry_run: false,
        },
        origin: Arc::new(Origin {
            host: "db1".into(),
            connection: Some(ConnectionId(7)),
            database: Some("clinic".into()),
            db_user: Some("<!channel>".into()),
            principal: Some("*ana* @here".into()),
            principal_kind: Some(PrincipalKind::Human),
            ..Origin::default()
        }),
        sequence: n,
        facts: Some(facts.whole),
        destination: None,
        counts: Vec::new(),
    }
}

/// Somebody asks for the same statement.
fn approval() -> Approval {
    let Episode { time, origin, facts, .. } = episode(1);
    Approval {
        time,
        action: ApprovalAction::Requested,
        id: "apr-4f0x7k2m".into(),
        origin,
        rule: "hold-deletes".into(),
        verdict: Verdict::Hold,
        facts,
        text: Some("DELETE FROM visits WHERE note = 'Wiedikon-4711' OR true".into()),
        message: "ana (human) waits for the approval of a member of dba: look first".to_owned(),
        counts: vec![("ttl_seconds".into(), 120)],
        rows: None,
        duration_us: None,
        error_code: None,
    }
}

fn status(feed: &Feed) -> WebhookStatus {
    feed.shared().status().remove(0)
}

fn lost(status: &WebhookStatus, reason: &str) -> u64 {
    status.lost.into_iter().find(|(name, _)| *name == reason).unwrap().1
}

/// Waits for something that happens on another thread.
fn await_that(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(Instant::now() < until, "{what} did not come");
        std::thread::sleep(Duration::from_millis(2));
    }
}
