//! One look at what there is to copy, and the copying of it.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use object_store::path::Path as ObjectPath;

use super::{
    CopyStatus,
    bucket::{Bucket, CopyError},
};
use crate::{
    event::in_full,
    ledger::{
        entry::History,
        layout::Layout,
        root_log::{CHECKPOINT, CHECKPOINTS, ENTRIES, FOLDER},
        trail::Trail,
    },
};

pub(super) struct Pass {
    ledger: PathBuf,
    bucket: Bucket,
    status: Arc<Mutex<CopyStatus>>,
    /// What the entries say, as far as they have been read.
    history: History,
    read_bytes: usize,
    /// What is there, by place; `None` until it has been listed.
    there: Option<HashMap<ObjectPath, u64>>,
    /// What the files of the root log held when they were copied.
    sent: HashMap<&'static str, Vec<u8>>,
    trouble: Option<String>,
}

impl Pass {
    pub(super) fn new(ledger: PathBuf, bucket: Bucket, status: Arc<Mutex<CopyStatus>>) -> Self {
        Self {
            ledger,
            bucket,
            status,
            history: History::default(),
            read_bytes: 0,
            there: None,
            sent: HashMap::new(),
            trouble: None,
        }
    }

    /// Copies whatever isn't there yet, oldest first, and then what proves it.
    pub(super) async fn run(&mut self) -> Result<(), CopyError> {
        let mut there = match self.there.take() {
            Some(there) => there,
            None => self.bucket.list().await?,
        };
        let copied = self.copy_all(&mut there).await;
        self.there = Some(there);
        copied
    }

    async fn copy_all(&mut self, there: &mut HashMap<ObjectPath, u64>) -> Result<(), CopyError> {
        let log = self.ledger.join(FOLDER);
        // Before the segments: what is copied proves no more than what is there.
        let checkpoint = read(&log.join(CHECKPOINT))?;
        let checkpoints = read(&log.join(CHECKPOINTS))?;
        let entries = read(&log.join(ENTRIES))?;
        self.follow(&entries);
        let folder = Layout::new(&self.ledger).segment_dir();
        let mut failed = None;
        self.count(there);
        for segment in self.history.segments() {
            let to = self.bucket.segment(segment);
            let is_removed = self.history.removal(segment.number).is_some();
            if is_removed || there.get(&to) == Some(&segment.bytes) {
                continue;
            }
            let trail = self.bucket.log(&format!("{:010}.trail", segment.number));
            let from = Trail::path(&log, segment.number);
            self.bucket.put_file(&from, segment.trail_sha256, &trail).await?;
            match self.bucket.put_file(&folder.join(&segment.file), segment.sha256, &to).await {
                Ok(bytes) => {
                    there.insert(to, bytes);
                    self.status().sent_bytes += bytes;
                    self.count(there);
                }
                // A damaged file doesn't keep those after it from being saved.
                Err(error @ (CopyError::Altered { .. } | CopyError::File { .. })) => {
                    failed = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        for (name, bytes) in
            [(ENTRIES, entries), (CHECKPOINTS, checkpoints), (CHECKPOINT, checkpoint)]
        {
            if !bytes.is_empty() && self.sent.get(name) != Some(&bytes) {
                self.bucket.put(bytes.clone(), &self.bucket.log(name)).await?;
                self.sent.insert(name, bytes);
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Takes in the entries that were appended; an unfinished line says nothing yet.
    fn follow(&mut self, entries: &[u8]) {
        let new = entries.get(self.read_bytes..).unwrap_or_default();
        for line in new.split_inclusive(|byte| *byte == b'\n') {
            let text = line.strip_suffix(b"\n").and_then(|line| str::from_utf8(line).ok());
            if text.is_none_or(|text| self.history.push(text).is_err()) {
                break;
            }
            self.read_bytes += line.len();
        }
    }

    fn count(&self, there: &HashMap<ObjectPath, u64>) {
        let (mut copied, mut waiting, mut missed) = (0, 0, 0);
        for segment in self.history.segments() {
            let is_removed = self.history.removal(segment.number).is_some();
            match there.get(&self.bucket.segment(segment)) == Some(&segment.bytes) {
                true => copied += 1,
                false if is_removed => missed += 1,
                false => waiting += 1,
            }
        }
        let mut status = self.status();
        (status.copied, status.waiting, status.missed) = (copied, waiting, missed);
    }

    /// Says what is wrong, once for as long as it lasts.
    pub(super) fn tell(&mut self, error: Option<&CopyError>) {
        let trouble = error.map(|error| in_full(error));
        if trouble != self.trouble {
            match &trouble {
                Some(trouble) => tracing::warn!(trouble, "the ledger can't be copied"),
                None => tracing::info!("the ledger is copied again"),
            }
        }
        self.status().trouble.clone_from(&trouble);
        self.trouble = trouble;
    }

    fn status(&self) -> MutexGuard<'_, CopyStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, CopyError> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        read => read.map_err(|source| CopyError::File { path: path.display().to_string(), source }),
    }
}
