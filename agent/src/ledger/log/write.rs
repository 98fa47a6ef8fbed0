//! Appends batches to a log: durable at `sync`, and again in order after a disk has failed.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
};

use super::{Batch, BatchHead, Header, Recovered};
use crate::{
    event::WallTime,
    ledger::{checkpoint::Commit, layout, merkle::Hash},
};

/// Of the buffer for what isn't durable yet: more than a second of most hosts.
const KEPT_CAPACITY: usize = 4 << 20;

/// Rows as they are handed over for one batch.
#[derive(Debug, Default)]
pub struct Rows {
    /// Whole pieces.
    pub payload: Vec<u8>,
    pub n_rows: u32,
    /// The earliest and the latest of the rows' times; `None` without rows.
    pub times: Option<(WallTime, WallTime)>,
}

/// The log of the segment that is open.
///
/// What isn't durable yet is kept in memory: after a failed write or sync nobody knows what of it is on
/// the disk (the kernel drops pages that it couldn't write), so that all of it is written anew.
#[derive(Debug)]
pub struct LogWriter {
    file: File,
    segment: u64,
    /// Where everything before is durable, with the rows and the chain's head there.
    synced: u64,
    commit: Commit,
    /// The batches since, and how much of that has been written.
    unsynced: Vec<u8>,
    written: usize,
    n_rows: u64,
    chain: Hash,
}

impl LogWriter {
    /// Begins a log and makes it durable. A file of that name from an attempt that failed is replaced.
    pub fn create(path: &Path, header: &Header) -> io::Result<Self> {
        let file =
            OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(path)?;
        let bytes = header.encode();
        file.write_all_at(&bytes, 0)?;
        file.sync_all()?;
        layout::sync_parent(path)?;
        let (header, len, chain) = Header::decode(&bytes).map_err(io::Error::other)?;
        Ok(Self::at(file, header.segment, len as u64, Commit { rows: 0, chain }))
    }

    /// Goes on with a log that recovery has found whole.
    pub fn resume(path: &Path, recovered: &Recovered) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).open(path)?;
        Ok(Self::at(file, recovered.header.segment, recovered.len, recovered.commit))
    }

    fn at(file: File, segment: u64, synced: u64, commit: Commit) -> Self {
        let Commit { rows: n_rows, chain } = commit;
        Self { file, segment, synced, commit, unsynced: Vec::new(), written: 0, n_rows, chain }
    }

    pub fn segment(&self) -> u64 {
        self.segment
    }

    /// How far it is durable.
    pub fn commit(&self) -> Commit {
        self.commit
    }

    /// Rows that were added, durable or not.
    pub fn n_rows(&self) -> u64 {
        self.n_rows
    }

    /// Of the file, once all is written.
    pub fn n_bytes(&self) -> u64 {
        self.synced + self.unsynced.len() as u64
    }

    /// Bytes that aren't durable yet.
    pub fn unsynced(&self) -> usize {
        self.unsynced.len()
    }

    /// Takes a batch over; `write` and `sync` bring it to the disk.
    pub fn add(&mut self, rows: &Rows, now: WallTime) {
        let head = BatchHead::new(self.n_rows, rows.n_rows, now, rows.times.unwrap_or((now, now)));
        self.chain = Batch::encode(head, &rows.payload, &self.chain, &mut self.unsynced);
        self.n_rows += u64::from(rows.n_rows);
    }

    /// Hands everything to the kernel: readers see it from now on.
    pub fn write(&mut self) -> io::Result<()> {
        let rest = self.unsynced.get(self.written..).unwrap_or_default();
        let written = self.file.write_all_at(rest, self.synced + self.written as u64);
        self.or_rewind(written)?;
        self.written = self.unsynced.len();
        Ok(())
    }

    /// Makes everything durable.
    pub fn sync(&mut self) -> io::Result<()> {
        self.write()?;
        let synced = self.file.sync_data();
        self.or_rewind(synced)?;
        self.synced += self.unsynced.len() as u64;
        self.commit = Commit { rows: self.n_rows, chain: self.chain };
        self.unsynced.clear();
        // What grew behind a slow disk isn't kept.
        self.unsynced.shrink_to(KEPT_CAPACITY);
        self.written = 0;
        Ok(())
    }

    pub(super) fn or_rewind(&mut self, result: io::Result<()>) -> io::Result<()> {
        if result.is_err() {
            self.written = 0;
            // If that fails too, what is there is written over: it is the same up to where it is cut.
            let _ = self.file.set_len(self.synced);
        }
        result
    }
}
