//! The recorder's thread: analyses what the pipeline has seen, keeps it, and shows it to whoever watches.

use std::{
    mem,
    sync::{Arc, Mutex, PoisonError, mpsc::RecvTimeoutError},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result};

use super::{
    clock,
    keeping::Keeping,
    now,
    outbox::{Inbox, Lost},
    policing::Policing,
};
use crate::{
    analyst::{Analyst, Bounds},
    control::{Hub, Notice},
    event::{
        Effect, Effects, Entry, Episode, EpisodeAction, Facts, Finding, Occurrence, OccurrenceKind,
        Origin, Record, StatementKind, WallTime,
    },
    ledger::{Appended, LedgerStatus},
    statement::{self, Lexing},
};

/// How often the ledger is asked what is due, where nothing else happens.
const TICK: Duration = Duration::from_millis(100);

/// Made on the pipeline's thread, works on its own.
pub struct Recorder {
    live: Arc<Hub>,
    /// What the rows of the agent itself say of this host.
    host: Arc<Origin>,
    keeping: Option<Keeping>,
    policing: Option<Policing>,
    status: Arc<Mutex<LedgerStatus>>,
    /// The rows that the ledger refuses are one notice until it takes them again.
    refusing: bool,
}

/// What the pipeline's thread holds of it.
pub struct Recording {
    thread: JoinHandle<()>,
    status: Arc<Mutex<LedgerStatus>>,
}

impl Recording {
    pub fn status(&self) -> LedgerStatus {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until everything that was handed over has been dealt with.
    pub fn join(self) -> Result<()> {
        self.thread.join().map_err(|_| anyhow::anyhow!("the recorder's thread panicked"))
    }
}

impl Recorder {
    pub fn new(
        live: Arc<Hub>,
        host: Arc<Origin>,
        keeping: Option<Keeping>,
        policing: Option<Policing>,
    ) -> Self {
        Self { live, host, keeping, policing, status: Arc::default(), refusing: false }
    }

    /// Works until the other end of `inbox` is gone.
    pub fn start(self, inbox: Inbox) -> Result<Recording> {
        let status = self.status.clone();
        let thread = thread::Builder::new()
            .name("recorder".into())
            .spawn(move || self.work(&inbox))
            .context("can't start the recorder's thread")?;
        Ok(Recording { thread, status })
    }

    fn work(mut self, inbox: &Inbox) {
        // Started here: the process that parses dies with the thread that starts it.
        let mut analyst = Analyst::new(Bounds::default());
        let mut told = Vec::new();
        loop {
            match inbox.batches.recv_timeout(TICK) {
                Ok(mut batch) => {
                    if let Some(lost) = batch.lost.take() {
                        self.record(self.gap(lost));
                    }
                    for mut entry in mem::take(&mut batch.entries) {
                        if let Entry::Statement(record) = &mut entry {
                            self.analyse(record, &mut analyst);
                            if let Some(policing) = &mut self.policing {
                                policing.judge(record, &mut told);
                            }
                        }
                        self.record(entry);
                        told.drain(..).for_each(|entry| self.record(entry));
                    }
                    inbox.done(&batch);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if let Some(policing) = &mut self.policing {
                policing.tick(wall_time(), &mut told);
                told.drain(..).for_each(|entry| self.record(entry));
            }
            self.tick();
        }
        if let Some(policing) = &mut self.policing {
            policing.end(&mut told);
            told.drain(..).for_each(|entry| self.record(entry));
        }
        if let Some(keeping) = self.keeping.take()
            && let Err(error) = keeping.ledger.close()
        {
            tracing::error!(%error, "the ledger's last rows");
        }
    }

    fn analyse(&self, record: &mut Record, analyst: &mut Analyst) {
        // What is not the default is not known here: a text that it would change is redacted the more.
        let lexing = Lexing::default();
        if let Some(text) = &record.text {
            let mut facts = analyst.facts(text, lexing);
            if record.kind == StatementKind::Replication {
                facts = replicating(&facts);
            }
            if let Some(keeping) = &self.keeping {
                let keys = statement::key_values(&facts, text, lexing, &record.parameters);
                record.keys =
                    keys.map(|key| keeping.lookup.tag(&key.column, &key.value).into()).collect();
            }
            record.facts = Some(facts);
        }
        if let Some(message) = &record.error_message {
            record.redacted_error = Some(statement::redact_error(message));
        }
        // Whoever may see literals still sees no secret.
        let literals =
            self.live.watchers() > 0 || self.keeping.as_ref().is_some_and(|k| k.literals);
        if literals && let Some(text) = &record.text {
            record.text = Some(statement::redact_secrets(text, lexing).into());
        }
    }

    fn record(&mut self, entry: Entry) {
        if let Some(keeping) = &mut self.keeping {
            let refused = keeping.ledger.append(&entry) == Appended::Full;
            if refused && !self.refusing {
                self.complain();
            }
            self.refusing = refused;
        }
        match entry {
            Entry::Statement(record) => self.live.publish(|| record),
            Entry::Finding(episode) if episode.action == EpisodeAction::Began => {
                self.live.notice(|| notice(&episode));
            }
            Entry::Finding(_) | Entry::Occurrence(_) => {}
        }
    }

    fn complain(&self) {
        let message = "the ledger takes no more rows: they are counted; `dbwarden status` says why";
        tracing::error!("{message}");
        self.live.notice(|| Notice {
            time: wall_time(),
            notice: "ledger",
            server: None,
            message: message.to_owned(),
        });
    }

    fn tick(&mut self) {
        if let Some(keeping) = &mut self.keeping {
            keeping.ledger.tick(wall_time());
            *self.status.lock().unwrap_or_else(PoisonError::into_inner) = keeping.ledger.status();
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

/// An episode that begins, for whoever watches.
fn notice(episode: &Episode) -> Notice {
    let Finding { rule, severity, message, dry_run, .. } = &episode.finding;
    let mode = if *dry_run { ", dry-run" } else { "" };
    Notice {
        time: episode.time,
        notice: "finding",
        server: episode.origin.server.clone(),
        message: format!("{} finding, {rule}{mode}: {message}", severity.name()),
    }
}

/// A command of the replication protocol is no SQL, whatever its words look like.
fn replicating(facts: &Facts) -> Arc<Facts> {
    let effects = Effects::from_iter([Effect::Replicate]);
    Arc::new(Facts { effects, ..facts.clone() })
}

fn wall_time() -> WallTime {
    clock().wall(now())
}
