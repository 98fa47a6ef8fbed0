//! Findings on their way to webhooks, and rows about those that nobody got.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    config, control,
    event::{Approval, Episode, Occurrence, OccurrenceKind, Origin, WallTime},
    telemetry::{Label, Metric},
    webhook::{Feed, Pace, WebhookStatus, Webhooks},
};

/// How often losses are looked for.
const LOOK: Duration = Duration::from_secs(1);
/// Between two rows that tell of some.
const ROWS: Duration = Duration::from_secs(60);

/// The recorder's: it never waits for a receiver.
pub struct Posting {
    feed: Feed,
    host: Arc<Origin>,
    next_look: Instant,
    /// What rows have told of each webhook.
    told: Vec<[(&'static str, u64); 4]>,
}

impl Posting {
    /// # Errors
    /// No thread can be had.
    pub fn start(settings: &[config::Webhook], host: Arc<Origin>) -> io::Result<Self> {
        let feed = Webhooks::start(settings, Pace::default())?;
        let told = feed.shared().status().iter().map(|webhook| webhook.lost).collect();
        Ok(Self { feed, host, next_look: Instant::now(), told })
    }

    pub fn shared(&self) -> Arc<Webhooks> {
        self.feed.shared()
    }

    pub fn finding(&self, episode: &Episode) {
        self.feed.finding(episode);
    }

    pub fn approval(&self, approval: &Approval) {
        self.feed.approval(approval);
    }

    /// To be called often: rows about what has been lost since the last ones.
    pub fn tick(&mut self, now: WallTime) -> Vec<Occurrence> {
        if Instant::now() < self.next_look {
            return Vec::new();
        }
        let rows = losses(&self.feed.shared().status(), &mut self.told, &self.host, now);
        self.next_look = Instant::now() + if rows.is_empty() { LOOK } else { ROWS };
        rows
    }

    /// The last messages, and rows about those that are lost.
    pub fn close(mut self, now: WallTime) -> Vec<Occurrence> {
        losses(&self.feed.close(), &mut self.told, &self.host, now)
    }
}

fn losses(
    webhooks: &[WebhookStatus],
    told: &mut [[(&'static str, u64); 4]],
    host: &Arc<Origin>,
    now: WallTime,
) -> Vec<Occurrence> {
    let mut rows = Vec::new();
    for (webhook, told) in webhooks.iter().zip(told) {
        let new = webhook.lost.iter().zip(told.iter());
        let new: Vec<(&str, u64)> = new
            .map(|((reason, n), (_, told))| (*reason, n.saturating_sub(*told)))
            .filter(|(_, n)| *n > 0)
            .collect();
        *told = webhook.lost;
        let n_lost: u64 = new.iter().map(|(_, n)| n).sum();
        if n_lost == 0 {
            continue;
        }
        let reasons: Vec<String> = new.iter().map(|(reason, n)| format!("{reason} {n}")).collect();
        let why = webhook.trouble.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
        let message = format!(
            "notifications of findings to the webhook {} were lost ({}){why}",
            webhook.name,
            reasons.join(", ")
        );
        rows.push(Occurrence {
            time: now,
            kind: OccurrenceKind::Gap,
            action: "not-notified",
            origin: host.clone(),
            message: Some(message),
            counts: vec![("lost_notifications".into(), n_lost)],
        });
    }
    rows
}

/// As `dbwarden status` has it.
pub fn status(webhooks: &[WebhookStatus]) -> Vec<control::WebhookStatus> {
    let one = |webhook: &WebhookStatus| control::WebhookStatus {
        name: webhook.name.clone(),
        target: webhook.target.clone(),
        waiting: webhook.waiting,
        sent: webhook.sent,
        lost: webhook.lost.iter().map(|(reason, n)| ((*reason).to_owned(), *n)).collect(),
        trouble: webhook.trouble.clone(),
    };
    webhooks.iter().map(one).collect()
}

pub fn metrics(webhooks: &[control::WebhookStatus]) -> [Metric; 4] {
    let name = "dbwarden.webhook";
    let of = |metric: Metric, value: fn(&control::WebhookStatus) -> u64| {
        metric
            .with_each(name, webhooks.iter().map(|webhook| (webhook.name.clone(), value(webhook))))
    };
    let mut lost =
        Metric::counter("dbwarden.webhook.lost", "{message}", "Messages that nobody will get.");
    for webhook in webhooks {
        for (reason, n) in &webhook.lost {
            let text = |text: &String| Label::Text(text.clone().into());
            let labels = vec![(name, text(&webhook.name)), ("dbwarden.reason", text(reason))];
            lost = lost.with(labels, *n as f64);
        }
    }
    [
        of(
            Metric::counter("dbwarden.webhook.sent", "{message}", "Messages that were taken."),
            |webhook| webhook.sent,
        ),
        of(
            Metric::level("dbwarden.webhook.waiting", "{message}", "Messages that wait."),
            |webhook| webhook.waiting,
        ),
        of(
            Metric::gauge("dbwarden.webhook.failing", "1", "Whether a receiver takes nothing."),
            |webhook| u64::from(webhook.trouble.is_some()),
        ),
        lost,
    ]
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::losses;
    use crate::{
        event::{OccurrenceKind, WallTime},
        webhook::WebhookStatus,
    };

    #[test]
    fn a_loss_is_told_once() {
        let mut webhook = WebhookStatus {
            name: "oncall".to_owned(),
            target: String::new(),
            waiting: 0,
            sent: 0,
            lost: [("queue_full", 0), ("refused", 0), ("expired", 0), ("stopped", 0)],
            trouble: Some("no answer within 15s".to_owned()),
        };
        let mut told = vec![webhook.lost];
        let mut rows = |webhook: &WebhookStatus| {
            losses(std::slice::from_ref(webhook), &mut told, &Arc::default(), WallTime(5))
        };
        assert!(rows(&webhook).is_empty());
        webhook.lost[0].1 = 7;
        webhook.lost[2].1 = 2;
        let row = rows(&webhook).remove(0);
        assert_eq!((row.kind, row.action), (OccurrenceKind::Gap, "not-notified"));
        assert_eq!(row.counts, [("lost_notifications".into(), 9)]);
        assert_eq!(
            row.message.unwrap(),
            "notifications of findings to the webhook oncall were lost (queue_full 7, expired 2): no \
             answer within 15s"
        );
        assert!(rows(&webhook).is_empty());
        webhook.lost[0].1 = 8;
        assert_eq!(rows(&webhook).remove(0).counts, [("lost_notifications".into(), 1)]);
    }
}
