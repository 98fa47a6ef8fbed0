//! The recorder's thread: keeps what the pipeline has seen, and shows it to whoever watches.

use std::{
    sync::Arc,
    thread::{self, JoinHandle},
};

use anyhow::{Context, Result};

use super::outbox::{Inbox, Lost};
use crate::{
    control::{Hub, Notice},
    event::{Entry, Occurrence, OccurrenceKind, Origin},
};

pub struct Recorder {
    live: Arc<Hub>,
    /// What the rows of the agent itself say of this host.
    host: Arc<Origin>,
}

impl Recorder {
    pub fn new(live: Arc<Hub>, host: Arc<Origin>) -> Self {
        Self { live, host }
    }

    /// Works until the other end of `inbox` is gone.
    pub fn start(mut self, inbox: Inbox) -> Result<JoinHandle<()>> {
        thread::Builder::new()
            .name("recorder".into())
            .spawn(move || {
                while let Ok(mut batch) = inbox.batches.recv() {
                    if let Some(lost) = batch.lost.take() {
                        self.record(self.gap(lost));
                    }
                    for entry in std::mem::take(&mut batch.entries) {
                        self.record(entry);
                    }
                    inbox.done(&batch);
                }
            })
            .context("can't start the recorder's thread")
    }

    fn record(&mut self, entry: Entry) {
        match entry {
            Entry::Statement(record) => self.live.publish(|| record),
            Entry::Occurrence(_) => {}
        }
    }

    fn gap(&self, lost: Lost) -> Entry {
        let message = format!("the recorder was too slow for {} entries", lost.entries);
        tracing::warn!("{message}");
        self.live.notice(|| Notice {
            time: lost.from,
            notice: "lost",
            server: None,
            message: message.clone(),
        });
        Entry::Occurrence(Occurrence {
            time: lost.from,
            kind: OccurrenceKind::Gap,
            action: "recorder_full",
            origin: self.host.clone(),
            message: Some(message),
            counts: vec![("lost_rows".into(), lost.entries)],
        })
    }
}
