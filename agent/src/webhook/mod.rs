//! Findings posted to webhooks: signed JSON, and what Slack takes.
//!
//! The recorder's thread hands over ([`Feed`]), and never waits; a thread of its own posts, in order, one
//! message of a webhook at a time. What a receiver doesn't take in time is counted and lost: the ledger
//! has the finding all the same.

mod deliver;
mod json;
mod message;
mod post;
mod private;
mod signature;
mod slack;

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tokio::{runtime, sync::watch, task::JoinSet, time::timeout};

pub use self::{
    message::Message,
    post::{Receiver, shown},
};
use crate::{
    config,
    delivery::{Ending, Limits, Queue},
    event::{Approval, ApprovalAction, Episode},
    principal::Pattern,
};

/// Of one webhook: hours of findings, or a burst of them.
const LIMITS: Limits = Limits { items: 1_024, bytes: 8 << 20, batch_items: 1, batch_bytes: 0 };

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// After a failure; doubled each time, up to the longest.
    pub first_pause: Duration,
    pub longest_pause: Duration,
    /// For the last messages when the agent stops.
    pub farewell: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            first_pause: Duration::from_secs(1),
            longest_pause: Duration::from_secs(60),
            farewell: Duration::from_secs(3),
        }
    }
}

/// What the two ends share.
pub struct Webhooks(Vec<Webhook>);

struct Webhook {
    settings: config::Webhook,
    /// Empty: all.
    rules: Vec<Pattern>,
    queue: Queue<Message>,
    tally: Tally,
}

/// What has become of messages.
#[derive(Debug, Default)]
struct Tally {
    sent: AtomicU64,
    /// The receiver doesn't want it.
    refused: AtomicU64,
    /// It has not been taken for too long.
    expired: AtomicU64,
    /// The agent has stopped before.
    stopped: AtomicU64,
    in_flight: AtomicU64,
    trouble: Mutex<Option<String>>,
}

/// The figures of one webhook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookStatus {
    pub name: String,
    /// Where to, without anything secret.
    pub target: String,
    pub waiting: u64,
    pub sent: u64,
    /// Messages that nobody will get, by reason.
    pub lost: [(&'static str, u64); 4],
    /// Why it doesn't go on, or what wasn't taken.
    pub trouble: Option<String>,
}

/// The recorder's end.
pub struct Feed {
    shared: Arc<Webhooks>,
    thread: JoinHandle<()>,
    ending: watch::Sender<bool>,
}

impl Webhooks {
    /// Begins to post what it will be fed. What a receiver makes impossible is told by `status`, and tried
    /// again.
    ///
    /// # Errors
    /// No thread, or no runtime in it, can be had.
    pub fn start(settings: &[config::Webhook], pace: Pace) -> io::Result<Feed> {
        let shared = Arc::new(Self(settings.iter().map(Webhook::new).collect()));
        let (ending, ended) = watch::channel(false);
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = thread::Builder::new().name("webhook".into()).spawn({
            let shared = shared.clone();
            move || {
                runtime.block_on(work(&shared, pace, Ending(ended)));
                // What a receiver still holds up is not waited for.
                runtime.shutdown_background();
            }
        })?;
        Ok(Feed { shared, thread, ending })
    }

    pub fn status(&self) -> Vec<WebhookStatus> {
        self.0.iter().map(Webhook::status).collect()
    }
}

impl Feed {
    /// For whoever asks how it goes.
    pub fn shared(&self) -> Arc<Webhooks> {
        self.shared.clone()
    }

    /// Each end of an episode.
    pub fn finding(&self, episode: &Episode) {
        let mut message = None;
        for webhook in self.shared.0.iter().filter(|webhook| webhook.wants(episode)) {
            let message = message.get_or_insert_with(|| Message::finding(episode, Instant::now()));
            webhook.queue.push(message.clone(), message.weight());
        }
    }

    /// What is asked of people, and what they have decided.
    pub fn approval(&self, approval: &Approval) {
        let is_news = !matches!(
            approval.action,
            ApprovalAction::Used | ApprovalAction::Executed | ApprovalAction::Refused
        );
        let mut message = None;
        let wants = |webhook: &&Webhook| is_news && webhook.wants_approval(approval);
        for webhook in self.shared.0.iter().filter(wants) {
            let message =
                message.get_or_insert_with(|| Message::approval(approval, Instant::now()));
            webhook.queue.push(message.clone(), message.weight());
        }
    }

    /// Posts what is left, for a few seconds at most; the rest is lost.
    pub fn close(self) -> Vec<WebhookStatus> {
        let _ = self.ending.send(true);
        if self.thread.join().is_err() {
            tracing::error!("the webhooks' thread panicked");
        }
        self.shared.0.iter().for_each(Webhook::give_up);
        self.shared.status()
    }
}

impl Webhook {
    fn new(settings: &config::Webhook) -> Self {
        Self {
            settings: settings.clone(),
            rules: settings.rules.iter().map(|rule| Pattern::text(rule)).collect(),
            queue: Queue::new(LIMITS),
            tally: Tally::default(),
        }
    }

    fn wants(&self, episode: &Episode) -> bool {
        let finding = &episode.finding;
        finding.severity >= self.settings.min_severity
            && (self.settings.dry_run || !finding.dry_run)
            && (self.rules.is_empty() || self.rules.iter().any(|rule| rule.matches(&finding.rule)))
    }

    fn wants_approval(&self, approval: &Approval) -> bool {
        self.settings.approvals
            && (self.rules.is_empty() || self.rules.iter().any(|rule| rule.matches(&approval.rule)))
    }

    /// Nobody posts any more.
    fn give_up(&self) {
        let n_waiting = self.n_waiting();
        while !self.queue.take().is_empty() {}
        self.tally.in_flight.store(0, Relaxed);
        self.tally.stopped.fetch_add(n_waiting, Relaxed);
    }

    fn n_waiting(&self) -> u64 {
        self.queue.n_waiting() as u64 + self.tally.in_flight.load(Relaxed)
    }

    fn status(&self) -> WebhookStatus {
        let Tally { sent, refused, expired, stopped, trouble, .. } = &self.tally;
        WebhookStatus {
            name: self.settings.name.clone(),
            target: post::shown(&self.settings.target),
            waiting: self.n_waiting(),
            sent: sent.load(Relaxed),
            lost: [
                ("queue_full", self.queue.n_refused()),
                ("refused", refused.load(Relaxed)),
                ("expired", expired.load(Relaxed)),
                ("stopped", stopped.load(Relaxed)),
            ],
            trouble: trouble.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}

async fn work(shared: &Arc<Webhooks>, pace: Pace, mut ending: Ending) {
    let mut tasks = JoinSet::new();
    for at in 0..shared.0.len() {
        let (shared, ending) = (shared.clone(), ending.clone());
        tasks.spawn(async move {
            if let Some(webhook) = shared.0.get(at) {
                deliver::deliver(webhook, pace, ending).await;
            }
        });
    }
    ending.begun().await;
    let all = async { while tasks.join_next().await.is_some() {} };
    let _ = timeout(pace.farewell, all).await;
}

#[cfg(test)]
mod tests;
