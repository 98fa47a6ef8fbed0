//! The root log: an entry for each segment that was sealed, and a signed checkpoint after each change.
//!
//! ```text
//! log/entries.jsonl     one entry a line, only appended to
//! log/checkpoints.log   the first checkpoint over each number of entries, one after another
//! log/checkpoint        the newest checkpoint; it also says how far the open segments are committed
//! log/NNNNNNNNNN.trail  what a sealed segment leaves beside its file
//! ```
//!
//! An entry counts once it is signed: first it is appended, then its checkpoint is appended, then the
//! newest checkpoint is replaced. What a crash leaves unsigned is dropped at the next start, and
//! whoever asked for it asks again.

mod attest;
mod found;
#[cfg(test)]
mod tests;

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

use found::Found;

use super::{
    checkpoint::{Checkpoint, CheckpointError, OpenSegment},
    durable::{self, Appended},
    entry::{Entry, EntryError, History, Loss, Removal, Segment},
    keys::{Keys, KeysError},
    note::{Note, SecretKey},
    trail::Trail,
};
use crate::event::WallTime;

pub const FOLDER: &str = "log";
pub const ENTRIES: &str = "entries.jsonl";
pub const CHECKPOINTS: &str = "checkpoints.log";
pub const CHECKPOINT: &str = "checkpoint";

#[derive(Debug, thiserror::Error)]
pub enum RootLogError {
    #[error("can't use {}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("another process writes the ledger in {}", folder.display())]
    Busy { folder: PathBuf },
    #[error(
        "the ledger in {} can't be continued: {offence} (`dbwarden verify` tells more; to start a new \
         ledger, move this one to another place and keep it)",
        folder.display()
    )]
    Broken { folder: PathBuf, offence: Offence },
    #[error(transparent)]
    Keys(#[from] KeysError),
    #[error("entry {index} can't be appended to the root log")]
    Refused {
        index: u64,
        #[source]
        source: EntryError,
    },
}

/// Why a root log isn't the one that was signed.
#[derive(Debug, thiserror::Error)]
pub enum Offence {
    #[error("there are entries or segments, and no checkpoint")]
    Unsigned,
    #[error("the checkpoint speaks of {signed} entries, and there are {found}")]
    Short { signed: u64, found: u64 },
    #[error("entry {index} of the root log is wrong: {error}")]
    Entry { index: u64, error: EntryError },
    #[error("a checkpoint is wrong: {0}")]
    Checkpoint(CheckpointError),
    #[error("the entries aren't those that were signed")]
    Root,
    #[error("it was signed with another key ({0})")]
    Key(String),
}

/// Continues the root log of one ledger; no other process does so at the same time.
#[derive(Debug)]
pub struct RootLog {
    folder: PathBuf,
    _lock: File,
    keys: Keys,
    history: History,
    entries: Appended,
    checkpoints: Appended,
    newest: Checkpoint,
    note: Note,
    /// Whether the files say what `newest` says.
    is_written: bool,
    /// Whether the open segments have been held against what the last process signed.
    is_compared: bool,
}

impl RootLog {
    /// Goes on where the last process ended. Where there is no ledger yet, begins one whose first
    /// entry is the key.
    pub fn open(ledger: &Path, mut keys: Keys, now: WallTime) -> Result<Self, RootLogError> {
        let folder = ledger.join(FOLDER);
        durable::create_private_folder(ledger).map_err(at(ledger))?;
        durable::create_private_folder(&folder).map_err(at(&folder))?;
        let lock = lock(&folder)?;
        let broken = |offence| RootLogError::Broken { folder: ledger.to_owned(), offence };
        let found = match Found::read(&folder)?.map_err(broken)? {
            None if holds_segments(ledger) => return Err(broken(Offence::Unsigned)),
            None => Found::nothing(&keys, now),
            Some(found) => {
                adopt_key(&mut keys, &found).map_err(|error| error.unwrap_or_else(broken))?;
                found
            }
        };
        let (entries, checkpoints) = (folder.join(ENTRIES), folder.join(CHECKPOINTS));
        let mut log = Self {
            _lock: lock,
            entries: Appended::open(&entries, found.entries_len).map_err(at(&entries))?,
            checkpoints: Appended::open(&checkpoints, found.checkpoints_len)
                .map_err(at(&checkpoints))?,
            keys,
            history: found.history,
            newest: found.newest,
            note: found.note,
            is_written: found.is_written,
            is_compared: false,
            folder,
        };
        if log.history.size() == 0 {
            let key = log.keys.signing();
            let entry = log.history.key_entry(key, key.public(), now.0);
            log.append(&entry, now, |_| {})?;
        }
        log.write_newest()?;
        log.drop_trails_of_removed();
        Ok(log)
    }

    pub fn history(&self) -> &History {
        &self.history
    }

    /// The newest checkpoint, for sending to where it can't be taken back from.
    pub fn checkpoint(&self) -> &Note {
        &self.note
    }

    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// What the newest checkpoint says of segments that aren't sealed.
    pub fn signed_open(&self) -> &[OpenSegment] {
        &self.newest.open
    }

    /// Signs how far the open segments are committed.
    pub fn commit(&mut self, open: &[OpenSegment], now: WallTime) -> Result<(), RootLogError> {
        self.rotate_if_prepared(now)?;
        self.newest.open = open.to_vec();
        self.newest.time = now;
        self.note = self.newest.signed(self.keys.signing());
        self.is_written = false;
        self.write_newest()
    }

    /// Signs a segment's entry; from then on its file is the truth. Done once, however often it is
    /// called, as are the others below.
    pub fn seal(
        &mut self,
        segment: Segment,
        trail: &Trail,
        now: WallTime,
    ) -> Result<(), RootLogError> {
        let number = segment.number;
        if self.history.segment(number).is_some() {
            return self.write_newest();
        }
        let path = Trail::path(&self.folder, number);
        let bytes = trail.encode();
        durable::replace(&path, &bytes).map_err(at(&path))?;
        let trail_sha256 = Sha256::digest(&bytes).into();
        self.append(&Entry::Segment(Segment { trail_sha256, ..segment }), now, |open| {
            open.retain(|open| open.number > number);
        })
    }

    /// Signs that a sealed segment is removed on purpose; afterwards its file may go.
    pub fn remove(
        &mut self,
        segment: u64,
        reason: &str,
        now: WallTime,
    ) -> Result<(), RootLogError> {
        if self.history.removal(segment).is_some() {
            return self.write_newest();
        }
        let removal = Removal { segment, time_us: now.0, reason: reason.to_owned() };
        self.append(&Entry::Removal(removal), now, |_| {})?;
        // If it stays, the next start removes it.
        let _ = fs::remove_file(Trail::path(&self.folder, segment));
        Ok(())
    }

    /// Admits, signed, that rows which were signed are gone or others.
    pub fn lose(
        &mut self,
        segment: u64,
        rows_signed: u64,
        now: WallTime,
    ) -> Result<(), RootLogError> {
        let loss = Loss { segment, time_us: now.0, rows_signed };
        self.append(&Entry::Loss(loss), now, |open| {
            open.retain(|open| open.number != segment);
        })
    }

    /// If `keys::prepare_rotation` has made a key, the log names it and uses it from then on.
    pub fn rotate_if_prepared(&mut self, now: WallTime) -> Result<bool, RootLogError> {
        let Some(next) = self.keys.next()? else { return Ok(false) };
        if self.history.keys().next_back() != Some(next.public()) {
            let entry = self.history.key_entry(self.keys.signing(), next.public(), now.0);
            self.append_signed_by(&next, &entry, now, |_| {})?;
        }
        self.keys.take_next()?;
        Ok(true)
    }

    fn append(
        &mut self,
        entry: &Entry,
        now: WallTime,
        change_open: impl FnOnce(&mut Vec<OpenSegment>),
    ) -> Result<(), RootLogError> {
        let signer = self.keys.signing().clone();
        self.append_signed_by(&signer, entry, now, change_open)
    }

    /// After an error it isn't there, except that the newest checkpoint may still have to be written.
    fn append_signed_by(
        &mut self,
        signer: &SecretKey,
        entry: &Entry,
        now: WallTime,
        change_open: impl FnOnce(&mut Vec<OpenSegment>),
    ) -> Result<(), RootLogError> {
        let line = entry.to_line();
        let mut history = self.history.clone();
        history
            .push(&line)
            .map_err(|source| RootLogError::Refused { index: self.history.size(), source })?;
        let (size, root) = (history.size(), history.root());
        let mut newest = Checkpoint { size, root, time: now, ..self.newest.clone() };
        change_open(&mut newest.open);
        let note = newest.signed(signer);

        let unsigned = self.entries.len();
        self.entries.append(format!("{line}\n").as_bytes()).map_err(at(&self.path(ENTRIES)))?;
        if let Err(error) = self.checkpoints.append(note.to_string().as_bytes()) {
            self.entries.forget_after(unsigned);
            return Err(at(&self.path(CHECKPOINTS))(error));
        }
        (self.history, self.newest, self.note) = (history, newest, note);
        self.is_written = false;
        self.write_newest()
    }

    fn write_newest(&mut self) -> Result<(), RootLogError> {
        if !self.is_written {
            let path = self.path(CHECKPOINT);
            durable::replace(&path, self.note.to_string().as_bytes()).map_err(at(&path))?;
            self.is_written = true;
        }
        Ok(())
    }

    fn drop_trails_of_removed(&self) {
        let segments = self.history.segments().map(|segment| segment.number);
        for number in segments.filter(|number| self.history.removal(*number).is_some()) {
            let _ = fs::remove_file(Trail::path(&self.folder, number));
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

/// The key in use is the one that signs the log, or the next one is, if a crash came in between.
fn adopt_key(keys: &mut Keys, found: &Found) -> Result<(), Result<RootLogError, Offence>> {
    let Some(signer) = found.history.key_at(found.newest.size) else { return Ok(()) };
    if signer == keys.signing().public() {
        return Ok(());
    }
    let next = keys.next().map_err(|error| Ok(error.into()))?;
    if next.is_some_and(|next| next.public() == signer) {
        return keys.take_next().map_err(|error| Ok(error.into()));
    }
    Err(Err(Offence::Key(signer.to_string())))
}

fn lock(folder: &Path) -> Result<File, RootLogError> {
    let lock = File::open(folder).map_err(at(folder))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(RootLogError::Busy { folder: folder.to_owned() }),
        Err(TryLockError::Error(error)) => Err(at(folder)(error)),
    }
}

fn holds_segments(ledger: &Path) -> bool {
    fs::read_dir(ledger.join("segments")).is_ok_and(|mut files| files.next().is_some())
}

fn at(path: &Path) -> impl Fn(io::Error) -> RootLogError {
    |source| RootLogError::Io { path: path.to_owned(), source }
}
