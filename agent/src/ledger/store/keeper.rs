//! The thread that writes, commits, seals and removes.

use std::{
    fs, io,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, SyncSender},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use thiserror::Error;

use super::{
    HAND_OVER_BYTES,
    directory::{self, Lock},
    options::{HOLD, Options},
    recovery::Recovery,
    retention::{self, Sealed},
    shared::Shared,
};
use crate::{
    event::{Occurrence, OccurrenceKind, Origin, WallTime, in_full},
    ledger::{
        Removal, SealedSegment, Witness,
        checkpoint::OpenSegment,
        layout::{self, Layout, SegmentFile},
        log::{Header, LogWriter, Rows},
        schema,
        seal::{SealError, seal},
    },
};

/// What isn't durable yet is in memory: with more than that, the next commit doesn't wait.
const MAX_UNSYNCED: usize = 8 << 20;
/// Between two attempts at what failed.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_SEALING: Duration = Duration::from_secs(10);
const BETWEEN_RETENTIONS: Duration = Duration::from_secs(5);

pub enum Task {
    Rows(Rows, WallTime),
    /// No row follows that belongs to this segment.
    Rotate,
}

/// Why nothing is written.
#[derive(Debug, Error)]
enum Trouble {
    #[error("the ledger can't be written")]
    Disk(#[from] io::Error),
    #[error(
        "only {free} bytes are free where the ledger is, of {floor} that are left alone: make room"
    )]
    NoRoom { free: u64, floor: u64 },
}

pub struct Keeper {
    options: Options,
    host: String,
    origin: Arc<Origin>,
    witness: Box<dyn Witness>,
    shared: Arc<Shared>,
    tasks: Receiver<Task>,
    spares: SyncSender<Vec<u8>>,
    _lock: Lock,
    layout: Layout,

    log: LogWriter,
    /// When the oldest row came that isn't durable.
    unsynced_since: Option<Instant>,
    /// The witness hasn't been told of the newest commit.
    untold: bool,
    /// The log is complete, and the next one isn't begun yet.
    rotating: bool,
    trouble: Option<Trouble>,

    /// Complete, oldest first.
    unsealed: Vec<OpenSegment>,
    sealing: Sealing,
    sealed: Vec<Sealed>,
    retention_at: Instant,
}

/// What is being done about the oldest segment that isn't sealed.
enum Sealing {
    Idle,
    Running(JoinHandle<Result<SealedSegment, SealError>>),
    /// The file is there, the witness doesn't know it.
    Untold(SealedSegment, Instant),
    FailedAt(Instant),
}

impl Keeper {
    pub fn new(
        options: Options,
        host: &str,
        witness: Box<dyn Witness>,
        recovery: Recovery,
        shared: Arc<Shared>,
        tasks: Receiver<Task>,
        spares: SyncSender<Vec<u8>>,
    ) -> Self {
        let Recovery { lock, layout, log, unsealed, sealed, .. } = recovery;
        Self {
            options,
            host: host.to_owned(),
            origin: Arc::new(Origin { host: host.into(), ..Origin::default() }),
            witness,
            shared,
            tasks,
            spares,
            _lock: lock,
            layout,
            // What recovery kept may be more than the witness was told.
            untold: log.n_rows() > 0 || !unsealed.is_empty(),
            log,
            unsynced_since: None,
            rotating: false,
            trouble: None,
            unsealed,
            sealing: Sealing::Idle,
            sealed,
            retention_at: Instant::now(),
        }
    }

    /// The thread ends when the tasks do, and gives the number of rows that could not be written.
    pub fn spawn(self) -> io::Result<JoinHandle<u64>> {
        self.tell_status();
        thread::Builder::new().name("ledger".to_owned()).spawn(|| self.run())
    }

    fn run(mut self) -> u64 {
        while self.receive() {
            self.work();
        }
        self.finish()
    }

    /// Takes the next task, or waits for a while; false if there won't be any more. While nothing can
    /// be written, tasks stay where they are, so that the appending thread notices.
    fn receive(&mut self) -> bool {
        if self.trouble.is_some() {
            if !self.shared.is_closing() {
                thread::park_timeout(RETRY.min(self.options.commit_interval));
            }
            return !self.shared.is_closing();
        }
        match self.tasks.recv_timeout(self.pause()) {
            Ok(task) => self.take(task),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return false,
        }
        true
    }

    /// Between two looks at what is due.
    fn pause(&self) -> Duration {
        (self.options.commit_interval / 8).clamp(Duration::from_millis(2), HOLD)
    }

    fn take(&mut self, task: Task) {
        match task {
            Task::Rotate => self.rotating = true,
            Task::Rows(rows, now) => {
                self.log.add(&rows, now);
                self.unsynced_since.get_or_insert_with(Instant::now);
                // If nobody wants the buffer back, it goes. So does one that grew behind a slow disk.
                if rows.payload.capacity() <= 4 * HAND_OVER_BYTES {
                    let _ = self.spares.try_send(rows.payload);
                }
            }
        }
    }

    fn work(&mut self) {
        self.trouble = self.write().err();
        self.tell_witness();
        self.seal();
        self.retain();
        self.tell_status();
    }

    /// Brings to the disk what is due.
    fn write(&mut self) -> Result<(), Trouble> {
        // Rows have waited already before they came here, and this may look a pause too late.
        let patience =
            self.options.commit_interval.saturating_sub(self.options.hold() + self.pause());
        let is_due = self.unsynced_since.is_some_and(|since| since.elapsed() >= patience)
            || self.log.unsynced() >= MAX_UNSYNCED
            || self.rotating;
        if self.trouble.is_some() || is_due {
            self.check_room()?;
        }
        if is_due {
            self.commit()?
        } else {
            self.log.write()?
        }
        if self.rotating {
            self.rotate()?;
        }
        Ok(())
    }

    fn check_room(&self) -> Result<(), Trouble> {
        let (free, floor) =
            (directory::free_bytes(self.layout.root())?, self.options.min_free_bytes);
        if free < floor { Err(Trouble::NoRoom { free, floor }) } else { Ok(()) }
    }

    fn commit(&mut self) -> Result<(), Trouble> {
        if self.log.unsynced() > 0 {
            self.log.sync()?;
            self.untold = true;
            let now = self.shared.now();
            self.shared.update(|status| status.last_commit = Some(now));
        }
        self.unsynced_since = None;
        Ok(())
    }

    fn rotate(&mut self) -> Result<(), Trouble> {
        let OpenSegment { number, commit } = self.open_segment();
        let header = Header {
            schema_version: schema::VERSION,
            segment: number + 1,
            time: self.shared.now(),
            previous: commit.chain,
            host: self.host.clone(),
        };
        self.log = LogWriter::create(&self.layout.log(header.segment), &header)?;
        self.unsealed.push(OpenSegment { number, commit });
        self.rotating = false;
        Ok(())
    }

    fn open_segment(&self) -> OpenSegment {
        OpenSegment { number: self.log.segment(), commit: self.log.commit() }
    }

    fn tell_witness(&mut self) {
        if !self.untold {
            return;
        }
        let mut open = self.unsealed.clone();
        open.push(self.open_segment());
        let told = self.witness.committed(&open, self.shared.now());
        self.untold = told.is_err();
        let unproven = told.err().map(|error| error.to_string());
        self.shared.update(|status| status.unproven = unproven);
    }

    /// Takes the sealing of the oldest segment a step further.
    fn seal(&mut self) {
        let Some(oldest) = self.unsealed.first() else { return };
        let number = oldest.number;
        self.sealing = match std::mem::replace(&mut self.sealing, Sealing::Idle) {
            Sealing::Running(thread) if !thread.is_finished() => Sealing::Running(thread),
            Sealing::Running(thread) => match thread.join() {
                Ok(Ok(segment)) => self.sealed(segment),
                Ok(Err(error)) => self.sealing_failed(number, &in_full(&error)),
                Err(_) => self.sealing_failed(number, "its thread panicked"),
            },
            Sealing::Untold(segment, at) if at <= Instant::now() => self.sealed(segment),
            Sealing::FailedAt(at) if at.elapsed() < RETRY_SEALING => Sealing::FailedAt(at),
            Sealing::Idle | Sealing::FailedAt(_) => {
                let (layout, now) = (self.layout.clone(), self.shared.now());
                let thread = thread::Builder::new()
                    .name("ledger-seal".to_owned())
                    .spawn(move || seal(&layout, number, now));
                match thread {
                    Ok(thread) => Sealing::Running(thread),
                    Err(error) => self.sealing_failed(number, &error.to_string()),
                }
            }
            waiting @ Sealing::Untold(..) => waiting,
        };
    }

    /// The file is durable: once the witness knows it, the log goes.
    fn sealed(&mut self, segment: SealedSegment) -> Sealing {
        if let Err(error) = self.witness.sealed(&segment, self.shared.now()) {
            self.shared.update(|status| status.unproven = Some(error.to_string()));
            return Sealing::Untold(segment, Instant::now() + RETRY);
        }
        let log = self.layout.log(segment.number);
        // If it stays, the next start removes it: the witness knows the segment.
        let _ = fs::remove_file(&log).and_then(|()| layout::sync_parent(&log));
        let SealedSegment { number, first_time, last_time, path, file_size: size, .. } = segment;
        self.sealed
            .push(Sealed { file: SegmentFile { number, first_time, last_time, path }, size });
        self.unsealed.retain(|open| open.number != number);
        self.shared.update(|status| status.failing = None);
        Sealing::Idle
    }

    fn sealing_failed(&self, number: u64, why: &str) -> Sealing {
        self.failing(format!("segment {number} can't be sealed: {why}"));
        Sealing::FailedAt(Instant::now())
    }

    fn failing(&self, why: String) {
        self.shared.update(|status| status.failing = Some(why));
    }

    /// Removes what has had its time, oldest first.
    fn retain(&mut self) {
        if self.retention_at > Instant::now() {
            return;
        }
        self.retention_at = Instant::now() + BETWEEN_RETENTIONS.min(self.options.commit_interval);
        let now = self.shared.now();
        while let Some(reason) = retention::due(&self.sealed, self.open_bytes(), &self.options, now)
        {
            let Some(oldest) = self.sealed.first() else { return };
            let removal = retention::removal(oldest, reason);
            let told = self.witness.removed(&removal, now).map_err(|error| error.to_string());
            let removed = told.and_then(|()| remove(&removal).map_err(|error| error.to_string()));
            if let Err(why) = removed {
                return self.failing(format!("{} can't be removed: {why}", removal.path.display()));
            }
            self.sealed.remove(0);
            self.shared.notice(self.removal_row(&removal, now));
        }
    }

    fn removal_row(&self, removal: &Removal, now: WallTime) -> Occurrence {
        Occurrence {
            time: now,
            kind: OccurrenceKind::Retention,
            action: "removed",
            origin: self.origin.clone(),
            message: Some(format!("Segment {} was removed by {}.", removal.number, removal.reason)),
            counts: vec![
                ("segment".into(), removal.number),
                ("rows".into(), removal.n_rows),
                ("bytes".into(), removal.file_size),
                ("from_us".into(), removal.first_time.0.max(0) as u64),
                ("to_us".into(), removal.last_time.0.max(0) as u64),
            ],
        }
    }

    /// Of logs. One that is complete is as large as they become.
    fn open_bytes(&self) -> u64 {
        let complete = self.unsealed.iter().map(|open| {
            fs::metadata(self.layout.log(open.number)).map_or(0, |metadata| metadata.len())
        });
        complete.sum::<u64>() + self.log.n_bytes()
    }

    fn tell_status(&self) {
        let OpenSegment { number, commit } = self.open_segment();
        let paused = self.trouble.as_ref().map(|trouble| in_full(trouble));
        self.shared.update(|status| {
            status.open_segment = number;
            status.open_rows = commit.rows;
            status.open_bytes = self.log.n_bytes();
            status.unsealed_segments = self.unsealed.len() as u64;
            status.sealed_segments = self.sealed.len() as u64;
            status.sealed_bytes = self.sealed.iter().map(|sealed| sealed.size).sum();
            status.paused = paused;
        });
    }

    /// Writes all that is left, once. A segment that waits for its sealing is sealed after the next
    /// start; one that is being sealed is awaited.
    fn finish(mut self) -> u64 {
        let mut lost = 0;
        let last = self.shared.take_last_rows().map(|(rows, now)| Task::Rows(rows, now));
        let queued: Vec<Task> = self.tasks.try_iter().chain(last).collect();
        for task in queued {
            // What comes after a rotation would belong to a log that can't be begun.
            match task {
                Task::Rows(rows, _) if self.rotating && self.write().is_err() => {
                    lost += u64::from(rows.n_rows);
                }
                task => self.take(task),
            }
        }
        // Room or not: these are the last.
        self.trouble = self.commit().err();
        self.tell_witness();
        if let Sealing::Running(thread) = std::mem::replace(&mut self.sealing, Sealing::Idle)
            && let Ok(Ok(segment)) = thread.join()
        {
            self.sealed(segment);
        }
        self.tell_status();
        lost + self.log.n_rows() - self.log.commit().rows
    }
}

fn remove(removal: &Removal) -> io::Result<()> {
    match fs::remove_file(&removal.path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.and_then(|()| layout::sync_parent(&removal.path)),
    }
}
