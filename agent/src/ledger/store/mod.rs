//! The ledger as the one who writes it sees it: opened, appended to, ticked, closed.

mod directory;
mod keeper;
mod options;
mod recovery;
mod retention;
mod shared;
#[cfg(test)]
mod tests;

use std::{
    mem,
    sync::{
        Arc,
        mpsc::{self, Receiver, SyncSender, TrySendError},
    },
    thread::JoinHandle,
    time::Duration,
};

use thiserror::Error;

pub use self::{
    directory::{OpenError, check as check_directory},
    options::Options,
    shared::LedgerStatus,
};
use self::{
    keeper::{Keeper, Task},
    shared::Shared,
};
use super::{encoder::Encoder, witness::Witness};
use crate::event::{Entry, LOST_ROWS, Occurrence, OccurrenceKind, Origin, WallTime};

/// Rows that are so many bytes don't wait for company any more.
const HAND_OVER_BYTES: usize = 256 << 10;
/// Batches on their way to the keeper. Behind a slow disk each may be as large as what may wait.
const QUEUE: usize = 2;
/// What waits for a disk that is slow or full: some seconds of a busy host. Then entries are refused, and
/// counted.
const MAX_PENDING: usize = 12 << 20;

/// Appends to the open segment. Nothing here waits for the disk: a thread of its own, the keeper, writes,
/// commits, seals and removes.
///
/// An entry is visible to readers of the log within a fifth of a second and a `tick`, and durable within the commit
/// interval. Close it, or drop it, for the rest to be written.
pub struct Ledger {
    encoder: Encoder,
    tasks: Option<SyncSender<Task>>,
    /// Buffers that the keeper is done with.
    spare: Receiver<Vec<u8>>,
    keeper: Option<JoinHandle<u64>>,
    shared: Arc<Shared>,
    options: Options,
    /// Of rows that are about the ledger itself.
    origin: Arc<Origin>,
    now: WallTime,
    /// When the oldest row that waits was appended.
    waiting_since: Option<WallTime>,
    log: LogSize,
    missed: Option<Missed>,
}

/// What became of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Appended {
    Accepted,
    /// The disk is too slow, full or broken. The ledger counts what it refused and says so in a row of
    /// its own when it goes on.
    Full,
    /// No log can hold it. Counted likewise.
    TooLarge,
}

#[derive(Debug, Error)]
#[error("{n_rows} rows could not be written any more")]
pub struct CloseError {
    pub n_rows: u64,
}

/// How far the open log has grown, as far as the sealing of it goes.
#[derive(Clone, Copy, Debug, Default)]
struct LogSize {
    n_bytes: u64,
    /// When its first row came.
    since: Option<WallTime>,
}

/// Entries that were refused in a row.
#[derive(Clone, Copy, Debug)]
struct Missed {
    why: &'static str,
    n_rows: u64,
    from: WallTime,
    to: WallTime,
}

impl Ledger {
    /// Opens the ledger, after having made good what a crash left behind. `now` is the time of day.
    ///
    /// `witness` is told of every commit and every sealed or removed segment; [`Unproven`] is one for
    /// whoever needs no proof.
    ///
    /// [`Unproven`]: super::Unproven
    pub fn open(
        options: Options,
        host: &str,
        witness: Box<dyn Witness>,
        now: WallTime,
    ) -> Result<Self, OpenError> {
        let recovery = recovery::recover(&options, host, witness.as_ref(), now)?;
        let origin = Arc::new(Origin { host: host.into(), ..Origin::default() });
        let mut encoder = Encoder::new(options.literals);
        encoder.begin_log(recovery.n_origins, recovery.n_facts);
        let log = LogSize { n_bytes: recovery.log.n_bytes(), since: recovery.log_since };
        let shared = Arc::new(Shared::new(now));
        for torn in recovery.torn.iter().map(|torn| torn.occurrence(&origin, now)) {
            shared.notice(torn);
        }
        let (tasks, received) = mpsc::sync_channel(QUEUE);
        let (spares, spare) = mpsc::sync_channel(QUEUE);
        let keeper =
            Keeper::new(options.clone(), host, witness, recovery, shared.clone(), received, spares);
        let keeper = keeper.spawn().map_err(OpenError::Thread)?;
        Ok(Self {
            encoder,
            tasks: Some(tasks),
            spare,
            keeper: Some(keeper),
            shared,
            options,
            origin,
            now,
            waiting_since: None,
            log,
            missed: None,
        })
    }

    /// Appends a row. Costs about a microsecond, and never waits.
    pub fn append(&mut self, entry: &Entry) -> Appended {
        if !self.has_room() {
            self.miss("The ledger could not be written.", entry);
            return Appended::Full;
        }
        self.tell_missed();
        let appended = self.push(entry);
        if appended == Appended::TooLarge {
            self.miss("An entry was larger than the ledger's log can hold.", entry);
        }
        if self.encoder.n_bytes() >= HAND_OVER_BYTES {
            self.hand_over();
        }
        appended
    }

    /// To be called several times a second, also when there is nothing to append.
    pub fn tick(&mut self, now: WallTime) {
        self.now = now;
        self.shared.set_now(now);
        if self.has_room() {
            self.tell_missed();
            for occurrence in self.shared.take_notices() {
                // They are small and few: one that doesn't fit any more has been told to the witness.
                let _ = self.push(&Entry::Occurrence(occurrence));
            }
        }
        let hold = self.options.hold();
        if self.waiting_since.is_some_and(|since| has_passed(hold, since, now)) || self.seal_due() {
            self.hand_over();
        }
    }

    pub fn status(&self) -> LedgerStatus {
        let mut status = self.shared.status();
        if self.keeper.as_ref().is_some_and(JoinHandle::is_finished) {
            status.paused = Some("the ledger's thread has ended: restart the service".to_owned());
        }
        if let Some(missed) = self.missed {
            status.missed_rows += missed.n_rows;
        }
        status
    }

    /// Writes what is left and ends the keeper; waits for a segment that is being sealed.
    pub fn close(mut self) -> Result<(), CloseError> {
        match self.finish() {
            0 => Ok(()),
            n_rows => Err(CloseError { n_rows }),
        }
    }

    fn push(&mut self, entry: &Entry) -> Appended {
        if self.encoder.push(entry).is_err() {
            return Appended::TooLarge;
        }
        self.waiting_since.get_or_insert(self.now);
        self.log.since.get_or_insert(self.now);
        Appended::Accepted
    }

    fn has_room(&mut self) -> bool {
        if self.encoder.n_bytes() >= MAX_PENDING {
            self.hand_over();
        }
        self.encoder.n_bytes() < MAX_PENDING
    }

    /// Gives the rows that wait to the keeper, unless it is behind.
    fn hand_over(&mut self) {
        if self.encoder.n_bytes() > 0 {
            let n_bytes = self.encoder.n_bytes() as u64;
            let rows = self.encoder.take(self.spare.try_recv().unwrap_or_default());
            match self.send(Task::Rows(rows, self.now)) {
                Ok(()) => self.waiting_since = None,
                Err(Task::Rows(rows, _)) => return self.encoder.put_back(rows),
                Err(Task::Rotate) => return,
            }
            self.log.n_bytes += n_bytes;
        }
        if self.seal_due() && self.send(Task::Rotate).is_ok() {
            self.encoder.begin_log(0, 0);
            self.log = LogSize::default();
        }
    }

    fn send(&self, task: Task) -> Result<(), Task> {
        match &self.tasks {
            Some(tasks) => tasks.try_send(task).map_err(|error| match error {
                TrySendError::Full(task) | TrySendError::Disconnected(task) => task,
            }),
            None => Err(task),
        }
    }

    fn seal_due(&self) -> bool {
        self.log.n_bytes >= self.options.seal_bytes
            || self
                .log
                .since
                .is_some_and(|since| has_passed(self.options.seal_age, since, self.now))
    }

    fn miss(&mut self, why: &'static str, entry: &Entry) {
        let now = self.now;
        let missed = self.missed.get_or_insert(Missed { why, n_rows: 0, from: now, to: now });
        missed.n_rows += entry.stands_for();
        missed.to = now;
    }

    /// There is room again: a row tells what is missing.
    fn tell_missed(&mut self) {
        let Some(missed) = self.missed.take() else { return };
        self.shared.count_missed(missed.n_rows);
        let gap = Occurrence {
            time: missed.from,
            kind: OccurrenceKind::Gap,
            action: "not-kept",
            origin: self.origin.clone(),
            message: Some(missed.why.to_owned()),
            counts: vec![
                (LOST_ROWS.into(), missed.n_rows),
                ("from_us".into(), missed.from.0.max(0) as u64),
                ("to_us".into(), missed.to.0.max(0) as u64),
            ],
        };
        let _ = self.push(&Entry::Occurrence(gap));
    }

    /// The number of rows that could not be written.
    fn finish(&mut self) -> u64 {
        let Some(keeper) = self.keeper.take() else { return 0 };
        for occurrence in self.shared.take_notices() {
            let _ = self.push(&Entry::Occurrence(occurrence));
        }
        self.tell_missed();
        self.shared.close(self.encoder.take(Vec::new()), self.now);
        drop(mem::take(&mut self.tasks));
        keeper.thread().unpark();
        keeper.join().unwrap_or(u64::MAX)
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.finish();
    }
}

/// Also where the clock was set back in between.
fn has_passed(time: Duration, since: WallTime, now: WallTime) -> bool {
    now < since || now.0.abs_diff(since.0) >= time.as_micros() as u64
}
