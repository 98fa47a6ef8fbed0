//! What is kept, whatever happens: a ledger that is open, or one that is tried again while rows are counted.

mod configuration;
mod open;

use std::{
    mem,
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::Result;

use self::open::Opened;
pub use self::{configuration::Configuration, open::Mistake};
use crate::{
    config, control,
    event::{Entry, LOST_ROWS, Occurrence, OccurrenceKind, Origin, WallTime, in_full},
    ledger::{Appended, LedgerStatus, copies::Copies, keys::LookupKey},
};

/// Between two attempts at opening it; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Used by one thread, which never waits for a ledger that can't be opened.
pub struct Keeping {
    settings: config::Ledger,
    host: Arc<Origin>,
    configuration: Configuration,
    state: State,
    copies: Option<Copies>,
    /// Why nothing is copied, beyond what the copies say themselves.
    copies_failed: Option<String>,
    /// What came while no ledger was open, since the last row that told of it.
    missed: Option<Missed>,
    /// All of that, ever.
    n_missed: u64,
    /// A row was refused since the last look.
    refusing: bool,
    /// What alerts have told, and is still so.
    told: Vec<&'static str>,
    /// Why nothing could be written at the last look.
    down: Option<String>,
}

enum State {
    Open(Box<Opened>),
    Shut(Shut),
}

/// It can't be opened.
struct Shut {
    why: String,
    pause: Duration,
    next: Instant,
    attempt: Option<JoinHandle<Result<Opened>>>,
}

#[derive(Clone, Copy, Debug)]
struct Missed {
    n_rows: u64,
    from: WallTime,
    to: WallTime,
}

/// Something that an operator should hear of.
#[derive(Debug, PartialEq, Eq)]
pub struct Alert {
    pub message: String,
    /// It is as it should be again.
    pub is_over: bool,
}

impl Keeping {
    /// Goes on with the ledger of last time, or begins one. One that can't be opened is tried again.
    ///
    /// # Errors
    /// What only the author of the configuration can mend.
    pub fn start(
        settings: &config::Ledger,
        host: Arc<Origin>,
        configuration: Configuration,
        now: WallTime,
    ) -> Result<Self, Mistake> {
        let mut keeping = Self {
            settings: settings.clone(),
            host,
            configuration,
            state: State::Shut(Shut::new("it is not open yet".to_owned(), FIRST_PAUSE)),
            copies: None,
            copies_failed: None,
            missed: None,
            n_missed: 0,
            refusing: false,
            told: Vec::new(),
            down: None,
        };
        match open::open(settings, &keeping.host.host, now) {
            Ok(opened) => {
                match open::copy(settings, &keeping.host.host) {
                    Ok(copies) => keeping.copies = copies,
                    Err(error) => keeping.not_copied(&open::mistake(error)?),
                }
                keeping.opened(opened, now);
            }
            Err(error) => {
                let why = in_full(open::mistake(error)?.as_ref());
                keeping.state = State::Shut(Shut::new(why, FIRST_PAUSE));
            }
        }
        Ok(keeping)
    }

    /// Literals are kept.
    pub fn literals(&self) -> bool {
        self.settings.literals == config::Literals::Keep
    }

    /// `None` while there is no ledger whose rows could need it.
    pub fn lookup(&self) -> Option<&LookupKey> {
        match &self.state {
            State::Open(opened) => Some(&opened.lookup),
            State::Shut(_) => None,
        }
    }

    /// Keeps it, or counts it.
    pub fn append(&mut self, entry: &Entry) {
        match &mut self.state {
            State::Open(opened) => {
                self.refusing |= opened.ledger.append(entry) == Appended::Full;
            }
            State::Shut(_) => {
                let (time, n_rows) = (entry.time(), entry.stands_for());
                self.n_missed += n_rows;
                let missed = self.missed.get_or_insert(Missed { n_rows: 0, from: time, to: time });
                missed.n_rows += n_rows;
                (missed.from, missed.to) = (missed.from.min(time), missed.to.max(time));
            }
        }
    }

    /// To be called several times a second, also when there is nothing to append.
    pub fn tick(&mut self, now: WallTime) {
        match &mut self.state {
            State::Open(opened) => opened.ledger.tick(now),
            State::Shut(shut) => match shut.attempt.take_if(|attempt| attempt.is_finished()) {
                None => self.try_again(now),
                Some(attempt) => match attempt.join() {
                    Ok(Ok(opened)) => self.opened_at_last(opened, now),
                    Ok(Err(error)) => shut.failed(in_full(error.as_ref())),
                    Err(_) => shut.failed("the thread that opens it panicked".to_owned()),
                },
            },
        }
    }

    /// What is wrong since the last call, or no more.
    pub fn alerts(&mut self) -> Vec<Alert> {
        let troubles = self.troubles();
        self.refusing = false;
        let new = troubles.iter().filter(|(kind, _)| !self.told.contains(kind));
        let mut alerts: Vec<Alert> =
            new.map(|(_, message)| Alert { message: message.clone(), is_over: false }).collect();
        if troubles.is_empty() && !self.told.is_empty() {
            let message = "the ledger is kept as it should be again".to_owned();
            alerts.push(Alert { message, is_over: true });
        }
        self.told = troubles.iter().map(|(kind, _)| *kind).collect();
        let is_down = |(kind, _): &(&str, String)| matches!(*kind, "shut" | "paused" | "refusing");
        self.down = troubles.into_iter().find(is_down).map(|(_, message)| message);
        alerts
    }

    /// Why nothing could be written when [`Self::alerts`] was last asked.
    pub fn down(&self) -> Option<&str> {
        self.down.as_deref()
    }

    /// In the words of `dbwarden status`.
    pub fn status(&self) -> control::LedgerStatus {
        let status = self.ledger_status();
        control::LedgerStatus {
            directory: self.settings.directory.display().to_string(),
            open_segment: status.open_segment,
            open_rows: status.open_rows,
            open_bytes: status.open_bytes,
            unsealed_segments: status.unsealed_segments,
            sealed_segments: status.sealed_segments,
            sealed_bytes: status.sealed_bytes,
            last_commit: status.last_commit.map(|time| time.to_string()),
            missed_rows: status.missed_rows + self.n_missed,
            troubles: self.troubles().into_iter().map(|(_, message)| message).collect(),
            copies: self.settings.copy.as_ref().map(|copy| self.copy_status(&copy.url)),
        }
    }

    /// Brings the last rows to the disk.
    pub fn close(self) {
        // In the middle of a file, if need be: it is copied after the next start.
        drop(self.copies);
        match self.state {
            State::Open(opened) => {
                if let Err(error) = opened.ledger.close() {
                    tracing::error!(%error, "the ledger's last rows");
                }
            }
            State::Shut(shut) => {
                let n_rows = self.n_missed;
                tracing::error!(n_rows, why = shut.why, "nothing was kept, down to the end");
            }
        }
    }

    fn ledger_status(&self) -> LedgerStatus {
        match &self.state {
            State::Open(opened) => opened.ledger.status(),
            State::Shut(_) => LedgerStatus::default(),
        }
    }

    /// Why not everything is written, sealed and proven at the moment; each with its kind.
    fn troubles(&self) -> Vec<(&'static str, String)> {
        let status = self.ledger_status();
        let shut = match &self.state {
            State::Open(_) => None,
            State::Shut(shut) => Some(format!(
                "nothing is kept, and rows are counted, until the ledger can be opened: {}",
                shut.why
            )),
        };
        let refusing = "the ledger takes no more rows: they are counted".to_owned();
        [
            ("shut", shut),
            ("paused", status.paused),
            ("failing", status.failing),
            ("unproven", status.unproven),
            ("refusing", self.refusing.then_some(refusing)),
        ]
        .into_iter()
        .filter_map(|(kind, message)| Some((kind, message?)))
        .collect()
    }

    fn copy_status(&self, url: &str) -> control::CopyStatus {
        let status = self.copies.as_ref().map(Copies::status).unwrap_or_default();
        let waits = || Some("waits for the ledger to be opened".to_owned());
        control::CopyStatus {
            url: url.to_owned(),
            copied: status.copied,
            waiting: status.waiting,
            missed: status.missed,
            sent_bytes: status.sent_bytes,
            trouble: match self.copies {
                Some(_) => status.trouble,
                None => self.copies_failed.clone().or_else(waits),
            },
        }
    }

    /// Opening takes as long as it takes: it has a thread of its own.
    fn try_again(&mut self, now: WallTime) {
        let State::Shut(shut) = &mut self.state else { return };
        if shut.attempt.is_some() || Instant::now() < shut.next {
            return;
        }
        let (settings, host) = (self.settings.clone(), self.host.host.clone());
        let attempt = thread::Builder::new()
            .name("ledger-open".to_owned())
            .spawn(move || open::open(&settings, &host, now));
        match attempt {
            Ok(attempt) => shut.attempt = Some(attempt),
            Err(error) => shut.failed(format!("no thread can be started: {error}")),
        }
    }

    fn opened_at_last(&mut self, opened: Opened, now: WallTime) {
        match open::copy(&self.settings, &self.host.host) {
            Ok(copies) => (self.copies, self.copies_failed) = (copies, None),
            Err(error) => self.not_copied(&error),
        }
        self.opened(opened, now);
    }

    fn not_copied(&mut self, error: &anyhow::Error) {
        let trouble = in_full(error.as_ref());
        tracing::error!(trouble, "the ledger isn't copied");
        self.copies_failed = Some(trouble);
    }

    /// Its first rows: what is missing before them, and which configuration applies.
    fn opened(&mut self, mut opened: Opened, now: WallTime) {
        opened.ledger.tick(now);
        let before = mem::replace(&mut self.state, State::Open(Box::new(opened)));
        if let (State::Shut(shut), Some(missed)) = (before, self.missed.take()) {
            self.append(&Entry::Occurrence(self.gap(&shut.why, missed)));
        }
        let folder = self.settings.directory.clone();
        let row = self.configuration.row(&folder, now, &self.host);
        self.append(&Entry::Occurrence(row));
        // If this comes to the disk and the row doesn't, the next row's hash still shows the change.
        if let Err(error) = self.configuration.remember(&folder) {
            tracing::warn!(%error, "what a later configuration changes won't be told");
        }
    }

    fn gap(&self, why: &str, missed: Missed) -> Occurrence {
        Occurrence {
            time: missed.from,
            kind: OccurrenceKind::Gap,
            action: "not-kept",
            origin: self.host.clone(),
            message: Some(format!("The ledger could not be opened: {why}.")),
            counts: vec![
                (LOST_ROWS.into(), missed.n_rows),
                ("from_us".into(), missed.from.0.max(0) as u64),
                ("to_us".into(), missed.to.0.max(0) as u64),
            ],
        }
    }
}

impl Shut {
    fn new(why: String, pause: Duration) -> Self {
        Self { why, pause, next: Instant::now() + pause, attempt: None }
    }

    fn failed(&mut self, why: String) {
        *self = Self::new(why, LONGEST_PAUSE.min(self.pause * 2));
    }
}

#[cfg(test)]
mod tests;
