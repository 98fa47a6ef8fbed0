//! The recorder's thread: analyses what the pipeline has seen, keeps it, and shows it to whoever watches.

use std::{
    mem,
    sync::{Arc, Mutex, PoisonError, mpsc::RecvTimeoutError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::{
    destinations::Destinations,
    enforcing::Enforcing,
    guarding, inheriting,
    keeping::{Alert, Keeping},
    outbox::{Inbox, Lost},
    policing::Policing,
    posting::Posting,
    wall_time,
};
use crate::{
    analyst::{Analyst, Bounds},
    approval::Desk,
    control::{Hub, LedgerStatus, Notice},
    event::{
        Effect, Effects, Entry, Episode, EpisodeAction, Facts, Finding, LOST_ROWS, Occurrence,
        OccurrenceKind, Origin, Record, StatementKind, WallTime,
    },
    gate::Gate,
    inheritance::Inheritance,
    statement::{self, Analysed, Lexing},
    telemetry::{Feed, Severity},
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
    enforcing: Option<Enforcing>,
    destinations: Destinations,
    telemetry: Option<Feed>,
    posting: Option<Posting>,
    gate: Option<Arc<Gate>>,
    desk: Arc<Desk>,
    inheritance: Arc<Inheritance>,
    status: Arc<Mutex<Option<LedgerStatus>>>,
    next_look: Instant,
}

/// Those who say what becomes of what was seen.
pub struct Judges {
    pub policing: Option<Policing>,
    pub enforcing: Option<Enforcing>,
    /// Where servers are guarded.
    pub gate: Option<Arc<Gate>>,
    /// Where statements wait for people.
    pub desk: Arc<Desk>,
    pub inheritance: Arc<Inheritance>,
}

/// What the pipeline's thread holds of it.
pub struct Recording {
    thread: JoinHandle<()>,
    status: Arc<Mutex<Option<LedgerStatus>>>,
}

impl Recording {
    /// `None` where no ledger is wanted.
    pub fn status(&self) -> Option<LedgerStatus> {
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
        judges: Judges,
        telemetry: Option<Feed>,
        posting: Option<Posting>,
    ) -> Self {
        let Judges { policing, enforcing, gate, desk, inheritance } = judges;
        let status = keeping.as_ref().map(Keeping::status);
        let status = Arc::new(Mutex::new(status));
        Self {
            live,
            host,
            keeping,
            policing,
            enforcing,
            destinations: Destinations::default(),
            telemetry,
            posting,
            gate,
            desk,
            inheritance,
            status,
            next_look: Instant::now(),
        }
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
                    let now = wall_time();
                    if let Some(lost) = batch.lost.take() {
                        self.record(self.gap(lost), now);
                    }
                    for mut entry in mem::take(&mut batch.entries) {
                        let mut denied = None;
                        if let Entry::Statement(record) = &mut entry {
                            let gate = self.gate.as_deref();
                            denied = gate.and_then(|gate| guarding::unveil(gate, record));
                            if denied.is_none() {
                                denied = guarding::approved(&self.desk, record, now);
                                if let Some(gate) = gate {
                                    guarding::masked(gate, record);
                                }
                            }
                            self.analyse(record, &mut analyst);
                        }
                        if let Some(policing) = &mut self.policing {
                            policing.take(&mut entry, denied, &mut told);
                        }
                        if let Some(enforcing) = &mut self.enforcing {
                            enforcing.take(&entry, &mut told);
                        }
                        match entry {
                            // One of many, perhaps: a burst is what makes rows.
                            Entry::Outbound(outbound) => {
                                let mut rows = Vec::new();
                                self.destinations.take(outbound, &mut rows);
                                self.record_all(&mut rows, now);
                            }
                            entry => self.record(entry, now),
                        }
                        self.record_all(&mut told, now);
                    }
                    inbox.done(&batch);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if let Some(policing) = &mut self.policing {
                let now = wall_time();
                policing.tick(now, &mut told);
                self.record_all(&mut told, now);
            }
            if let Some(enforcing) = &mut self.enforcing {
                let now = wall_time();
                enforcing.tick(now, &mut told);
                self.record_all(&mut told, now);
            }
            let now = wall_time();
            self.approvals(now);
            inheriting::tick(&self.inheritance, &self.host, now, &mut told);
            self.destinations.tick(now, &mut told);
            self.record_all(&mut told, now);
            self.tick();
        }
        self.destinations.end(&mut told);
        self.record_all(&mut told, wall_time());
        if let Some(policing) = &mut self.policing {
            policing.end(&mut told);
            self.record_all(&mut told, wall_time());
        }
        self.approvals(wall_time());
        inheriting::tick(&self.inheritance, &self.host, wall_time(), &mut told);
        self.record_all(&mut told, wall_time());
        if let Some(posting) = self.posting.take() {
            let now = wall_time();
            posting.close(now).into_iter().for_each(|row| self.not_notified(row, now));
        }
        if let Some(keeping) = self.keeping.take() {
            keeping.close();
        }
        // After the ledger's last checkpoint.
        if let Some(telemetry) = self.telemetry.take() {
            telemetry.close();
        }
    }

    fn analyse(&self, record: &mut Record, analyst: &mut Analyst) {
        let lexing = record.text.as_ref().and_then(|text| {
            let is_whole = record.truncated_bytes + record.lost_bytes == 0;
            // Of a statement whose end wasn't seen there is no time.
            let has_run = record.duration_us.is_some() && record.error_message.is_none();
            statement::lexing(text, record.standard_conforming_strings, is_whole && has_run)
        });
        if let Some(text) = &record.text {
            let mut facts = match lexing {
                Some(lexing) => analyst.facts(text, lexing),
                None => Analysed::ambiguous(text).whole,
            };
            if record.kind == StatementKind::Replication {
                facts = replicating(&facts);
            }
            if let Some(lookup) = self.keeping.as_ref().and_then(Keeping::lookup) {
                let lexing = lexing.unwrap_or_default();
                let keys = statement::key_values(&facts, text, lexing, &record.parameters);
                record.keys = keys.map(|key| lookup.tag(&key.column, &key.value).into()).collect();
            }
            record.facts = Some(facts);
            if let Some(gate) = &self.gate {
                gate.has_run(record);
            }
        }
        if let Some(message) = &record.error_message {
            record.redacted_error = Some(statement::redact_error(message));
        }
        let literals =
            self.live.shows_literals() || self.keeping.as_ref().is_some_and(Keeping::literals);
        match literals {
            // Whoever may see literals still sees no secret.
            true => {
                let text = record.text.as_deref();
                record.text = text.map(|text| without_secrets(text, lexing).into());
            }
            // Nor does one who begins to watch before this record is shown.
            false => withhold_literals(record),
        }
    }

    /// Steps that approvals have taken.
    fn approvals(&mut self, now: WallTime) {
        self.desk.tick(now);
        let (mut rows, lost) = self.desk.take_rows();
        if lost > 0 {
            self.record(self.gap(Lost { entries: lost, from: now, to: now }), now);
        }
        self.record_all(&mut rows, now);
    }

    fn record_all(&mut self, entries: &mut Vec<Entry>, now: WallTime) {
        entries.drain(..).for_each(|entry| self.record(entry, now));
    }

    fn record(&mut self, entry: Entry, now: WallTime) {
        if let Some(keeping) = &mut self.keeping {
            keeping.append(&entry);
        }
        match (entry, &mut self.telemetry) {
            (Entry::Statement(record), Some(telemetry)) => {
                let record = Arc::new(record);
                telemetry.statement(&record, now);
                self.live.publish(|| record);
            }
            // Where nobody watches, nothing is allocated.
            (Entry::Statement(record), None) => self.live.publish(|| Arc::new(record)),
            (Entry::Occurrence(occurrence), Some(telemetry)) => telemetry.occurrence(&occurrence),
            (Entry::Outbound(outbound), Some(telemetry)) => telemetry.outbound(&outbound),
            (Entry::Approval(approval), telemetry) => {
                if let Some(telemetry) = telemetry {
                    telemetry.approval(&approval);
                }
                if let Some(posting) = &self.posting {
                    posting.approval(&approval);
                }
            }
            (Entry::Occurrence(_) | Entry::Outbound(_), None) => {}
            (Entry::Finding(episode), telemetry) => {
                if let Some(telemetry) = telemetry {
                    telemetry.finding(&episode);
                }
                if let Some(posting) = &self.posting {
                    posting.finding(&episode);
                }
                if episode.action == EpisodeAction::Began {
                    self.live.notice(|| notice(&episode));
                }
            }
        }
    }

    fn tick(&mut self) {
        if let Some(posting) = &mut self.posting {
            let now = wall_time();
            posting.tick(now).into_iter().for_each(|row| self.not_notified(row, now));
        }
        let Some(keeping) = &mut self.keeping else { return };
        let (time, now) = (wall_time(), Instant::now());
        keeping.tick(time);
        if now < self.next_look {
            return;
        }
        self.next_look = now + TICK;
        for Alert { message, is_over } in keeping.alerts() {
            let severity = if is_over { Severity::Info } else { Severity::Error };
            match is_over {
                true => tracing::info!("{message}"),
                false => tracing::error!("{message}"),
            }
            if let Some(telemetry) = &self.telemetry {
                telemetry.alert(time, severity, "ledger", &message);
            }
            self.live.notice(|| Notice { time, notice: "ledger", server: None, message });
        }
        if let Some(gate) = &self.gate {
            gate.ledger(keeping.down());
        }
        *self.status.lock().unwrap_or_else(PoisonError::into_inner) = Some(keeping.status());
    }

    /// A row about findings that a webhook didn't get.
    fn not_notified(&mut self, row: Occurrence, now: WallTime) {
        let message = row.message.clone().unwrap_or_default();
        tracing::error!("{message}");
        if let Some(telemetry) = &self.telemetry {
            telemetry.alert(now, Severity::Error, "webhook", &message);
        }
        self.live.notice(|| Notice { time: now, notice: "webhook", server: None, message });
        self.record(Entry::Occurrence(row), now);
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
            counts: vec![(LOST_ROWS.into(), lost.entries)],
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

fn without_secrets(text: &str, lexing: Option<Lexing>) -> String {
    match lexing {
        Some(lexing) => statement::redact_secrets(text, lexing),
        None => statement::redact_ambiguous_secrets(text),
    }
}

/// What is left of the record is for everybody's eyes.
fn withhold_literals(record: &mut Record) {
    record.text = record.facts.as_ref().map(|facts| facts.text.clone());
    record.parameters = Vec::new();
    record.error_message.clone_from(&record.redacted_error);
}

/// A command of the replication protocol is no SQL, whatever its words look like.
fn replicating(facts: &Facts) -> Arc<Facts> {
    let effects = Effects::from_iter([Effect::Replicate]);
    Arc::new(Facts { effects, ..facts.clone() })
}
