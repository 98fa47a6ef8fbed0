//! Sends what waits, batch by batch: waits longer after each failure, and goes on by itself.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::sleep;

use super::transport::{Accepted, Client, Payload};
use crate::{
    config::{Otlp, Signal},
    delivery::{Ending, Failure, Limits, Patience, Queue},
};

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// For a batch to gather.
    pub gather: Duration,
    /// After a failure; doubled each time, up to the longest.
    pub first_pause: Duration,
    pub longest_pause: Duration,
    /// For the last things to be sent when the agent stops.
    pub farewell: Duration,
    /// Between two looks at the ledger's checkpoint.
    pub checkpoint: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            gather: Duration::from_secs(1),
            first_pause: Duration::from_secs(1),
            longest_pause: Duration::from_secs(30),
            farewell: Duration::from_secs(3),
            checkpoint: Duration::from_secs(30),
        }
    }
}

/// One signal on its way to its receiver.
pub struct Pipe<T> {
    pub signal: Signal,
    pub otlp: Otlp,
    pub queue: Queue<T>,
    pub tally: Tally,
}

/// What has become of it.
#[derive(Debug, Default)]
pub struct Tally {
    sent: AtomicU64,
    /// In batches that the receiver didn't want.
    refused: AtomicU64,
    /// In batches that it took, without these.
    rejected: AtomicU64,
    in_flight: AtomicU64,
    trouble: Mutex<Option<String>>,
}

/// The figures of one signal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignalStatus {
    pub signal: Signal,
    pub endpoint: String,
    pub waiting: u64,
    pub sent: u64,
    /// Those that will never be sent, by reason.
    pub dropped: [(&'static str, u64); 3],
    /// Why it doesn't go on, or what isn't taken.
    pub trouble: Option<String>,
}

impl<T> Pipe<T> {
    pub fn new(signal: Signal, otlp: &Otlp, limits: Limits) -> Self {
        let (queue, tally) = (Queue::new(limits), Tally::default());
        Self { signal, otlp: otlp.clone(), queue, tally }
    }

    pub fn status(&self) -> SignalStatus {
        let Tally { sent, refused, rejected, in_flight, trouble } = &self.tally;
        SignalStatus {
            signal: self.signal,
            endpoint: self.otlp.endpoint.clone(),
            waiting: self.queue.n_waiting() as u64 + in_flight.load(Relaxed),
            sent: sent.load(Relaxed),
            dropped: [
                ("queue_full", self.queue.n_refused()),
                ("refused", refused.load(Relaxed)),
                ("rejected", rejected.load(Relaxed)),
            ],
            trouble: trouble.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}

/// Sends until the end, and then what is left.
pub async fn drain<T>(
    pipe: &Pipe<T>,
    pace: Pace,
    mut ending: Ending,
    payload: impl Fn(&[T]) -> Payload,
) {
    let mut sender = Sender::new(pipe, pace);
    loop {
        tokio::select! {
            () = pipe.queue.filled(pace.gather) => {}
            () = ending.begun() => {}
        }
        let batch = pipe.queue.take();
        if !batch.is_empty() {
            sender.deliver(batch.len() as u64, &mut ending, || payload(&batch)).await;
        } else if ending.has_begun() {
            return;
        }
    }
}

/// One receiver, and how patient we are with it.
pub struct Sender<'a, T> {
    pipe: &'a Pipe<T>,
    client: Option<Client>,
    patience: Patience,
}

impl<'a, T> Sender<'a, T> {
    pub fn new(pipe: &'a Pipe<T>, pace: Pace) -> Self {
        let patience = Patience::new(pace.first_pause, pace.longest_pause);
        Self { pipe, client: None, patience }
    }

    /// Tries until the receiver has it, or says that it never will, or the agent stops.
    async fn deliver(&mut self, n_items: u64, ending: &mut Ending, payload: impl Fn() -> Payload) {
        let tally = &self.pipe.tally;
        tally.in_flight.store(n_items, Relaxed);
        while let Err(failure) = self.attempt(n_items, payload()).await {
            let is_last = ending.has_begun();
            if !failure.is_passing {
                tally.in_flight.store(0, Relaxed);
            }
            if is_last {
                return;
            }
            let pause = self.patience.next(failure.again_after);
            tokio::select! {
                () = sleep(pause) => {}
                () = ending.begun() => {}
            }
            if !failure.is_passing {
                return;
            }
        }
        tally.in_flight.store(0, Relaxed);
    }

    /// Once; what became of it is counted.
    pub async fn attempt(&mut self, n_items: u64, payload: Payload) -> Result<(), Failure> {
        let tally = &self.pipe.tally;
        match self.send(payload).await {
            Ok(accepted) => {
                self.patience.renew();
                let n_rejected = accepted.n_rejected.min(n_items);
                tally.sent.fetch_add(n_items - n_rejected, Relaxed);
                tally.rejected.fetch_add(n_rejected, Relaxed);
                self.trouble(complaint(n_items, n_rejected, &accepted));
                Ok(())
            }
            Err(failure) => {
                self.client = None;
                if !failure.is_passing {
                    tally.refused.fetch_add(n_items, Relaxed);
                }
                self.trouble(Some(failure.why.clone()));
                Err(failure)
            }
        }
    }

    async fn send(&mut self, payload: Payload) -> Result<Accepted, Failure> {
        let client = match self.client.take() {
            Some(client) => client,
            None => Client::new(&self.pipe.otlp)?,
        };
        let answer = client.send(payload, self.pipe.otlp.timeout.0).await;
        self.client = Some(client);
        answer
    }

    fn trouble(&self, trouble: Option<String>) {
        let Pipe { signal, otlp, tally, .. } = self.pipe;
        let mut told = tally.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        let (signal, endpoint) = (signal.name(), &otlp.endpoint);
        match (&*told, &trouble) {
            (None, Some(why)) => tracing::warn!(signal, endpoint, "telemetry isn't taken: {why}"),
            (Some(_), None) => tracing::info!(signal, endpoint, "telemetry is taken again"),
            _ => {}
        }
        *told = trouble;
    }
}

fn complaint(n_items: u64, n_rejected: u64, accepted: &Accepted) -> Option<String> {
    match (n_rejected, accepted.message.as_str()) {
        (0, "") => None,
        (0, message) => Some(format!("taken, but: {message}")),
        (n, message) => Some(format!("{n} of {n_items} were rejected: {message}")),
    }
}
