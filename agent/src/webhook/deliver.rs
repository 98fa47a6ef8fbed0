//! The messages of one webhook, in their order: each until it is taken, refused or too old.

use std::sync::{PoisonError, atomic::Ordering::Relaxed};

use time::UtcDateTime;
use tokio::time::sleep;

use super::{Pace, Webhook, message::Message, post::Receiver};
use crate::{
    delivery::{Ending, Failure, Patience},
    event::WallTime,
};

/// Posts until the end, and then what is left, as long as it is taken.
pub async fn deliver(webhook: &Webhook, pace: Pace, mut ending: Ending) {
    let mut courier = Courier {
        webhook,
        receiver: Receiver::new(&webhook.settings),
        patience: Patience::new(pace.first_pause, pace.longest_pause),
    };
    loop {
        tokio::select! {
            () = webhook.queue.filled(std::time::Duration::ZERO) => {}
            () = ending.begun() => {}
        }
        let Some(message) = webhook.queue.take().pop() else {
            match ending.has_begun() {
                true => return,
                false => continue,
            }
        };
        webhook.tally.in_flight.store(1, Relaxed);
        if courier.bring(&message, &mut ending).await == Outcome::Unknown {
            return;
        }
        webhook.tally.in_flight.store(0, Relaxed);
    }
}

struct Courier<'a> {
    webhook: &'a Webhook,
    receiver: Receiver<'a>,
    patience: Patience,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// Whatever became of it has been counted.
    Known,
    /// The agent stops.
    Unknown,
}

impl Courier<'_> {
    async fn bring(&mut self, message: &Message, ending: &mut Ending) -> Outcome {
        let tally = &self.webhook.tally;
        loop {
            let failure = match self.receiver.post(message, now()).await {
                Ok(_) => {
                    self.patience.renew();
                    tally.sent.fetch_add(1, Relaxed);
                    self.trouble(None);
                    return Outcome::Known;
                }
                Err(failure) => failure,
            };
            self.trouble(Some(&failure));
            if !failure.is_passing {
                tally.refused.fetch_add(1, Relaxed);
                return Outcome::Known;
            }
            if ending.has_begun() {
                return Outcome::Unknown;
            }
            let left = self.webhook.settings.give_up.0.saturating_sub(message.since.elapsed());
            if left.is_zero() {
                tally.expired.fetch_add(1, Relaxed);
                return Outcome::Known;
            }
            tokio::select! {
                () = sleep(self.patience.next(failure.again_after).min(left)) => {}
                // One attempt more, but not with who has asked for a pause.
                () = ending.begun() => {
                    if failure.again_after.is_some() {
                        return Outcome::Unknown;
                    }
                }
            }
        }
    }

    fn trouble(&self, failure: Option<&Failure>) {
        let name = &self.webhook.settings.name;
        let mut told = self.webhook.tally.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        match (&*told, failure) {
            (None, Some(failure)) => {
                tracing::warn!(webhook = name, "a finding isn't taken: {}", failure.why);
            }
            (Some(_), None) => tracing::info!(webhook = name, "findings are taken again"),
            _ => {}
        }
        *told = failure.map(|failure| failure.why.clone());
    }
}

fn now() -> WallTime {
    WallTime::from_utc(UtcDateTime::now())
}
