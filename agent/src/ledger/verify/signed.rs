//! The root log with all its checkpoints: what the ledger was signed to be.

use std::{fs, io, path::Path};

use super::{
    Options, VerifyError, at, names,
    report::{Anchor, Reason, Report},
};
use crate::ledger::{
    checkpoint::Checkpoint,
    entry::History,
    keys,
    merkle::{Hash, RootHasher},
    note::{Note, PublicKey},
    root_log::{CHECKPOINT, CHECKPOINTS, ENTRIES, FOLDER},
    trail::Trail,
};

pub(in crate::ledger) struct Signed {
    /// Only what the newest checkpoint covers.
    pub(in crate::ledger) history: History,
    pub(in crate::ledger) newest: Checkpoint,
    pub(in crate::ledger) note: Note,
    /// The root over the first n entries, for each n.
    roots: Vec<Hash>,
}

impl Signed {
    /// How many entries the newest checkpoint says that there are, unchecked.
    pub(super) fn read_size(ledger: &Path) -> Option<u64> {
        let note: Note =
            fs::read_to_string(ledger.join(FOLDER).join(CHECKPOINT)).ok()?.parse().ok()?;
        Checkpoint::unverified(&note).ok().map(|checkpoint| checkpoint.size)
    }

    /// `None`: it is so wrong that the rest has nothing to be held against.
    pub(in crate::ledger) fn read(
        log: &Path,
        options: &Options<'_>,
        report: &mut Report,
    ) -> Result<Option<Self>, VerifyError> {
        // In the reverse order of their being written.
        let newest = read(&log.join(CHECKPOINT))?;
        let checkpoints = read(&log.join(CHECKPOINTS))?;
        let entries = read(&log.join(ENTRIES))?;
        let Some(newest) = own_checkpoint(&newest, report) else { return Ok(None) };
        let (all, torn_bytes) = notes(&checkpoints);
        let Some((note, newest)) = newest_of(newest, all.last(), report) else { return Ok(None) };
        let Some(signed) = Self::of(&entries, newest, note, report) else { return Ok(None) };

        if let Some(signer) = signed.history.key_at(signed.newest.size) {
            if let Err(error) = Checkpoint::verified(&signed.note, &[signer]) {
                report.file("log/checkpoint", Reason::BadCheckpoint { why: error.to_string() });
            }
            report.key = Some(signer.to_string());
        }
        signed.check_checkpoints(&all, torn_bytes, report);
        signed.check_anchor(options, report)?;
        signed.check_names(log, report)?;
        for loss in signed.history.losses() {
            let reason = Reason::Lost { rows: loss.rows_signed };
            report.segment(loss.segment, "log/entries.jsonl", reason);
        }
        Ok(Some(signed))
    }

    fn of(entries: &str, newest: Checkpoint, note: Note, report: &mut Report) -> Option<Self> {
        let (mut history, mut tree) = (History::default(), RootHasher::default());
        let mut roots = vec![tree.root()];
        let whole = entries.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        let mut signed_bytes = 0;
        for line in whole.take(usize::try_from(newest.size).unwrap_or(usize::MAX)) {
            let index = history.size();
            if let Err(error) = history.push(line.trim_end_matches('\n')) {
                let reason = Reason::BadEntry { index, why: error.to_string() };
                report.file("log/entries.jsonl", reason);
                return None;
            }
            tree.extend(history.leaves().last().copied());
            roots.push(tree.root());
            signed_bytes += line.len();
        }
        // An entry that nobody has signed yet is dropped at the next start.
        report.unsealed_loss_bytes += (entries.len() - signed_bytes) as u64;
        report.origin = history.origin().map(str::to_owned);
        report.entries = history.size();
        report.checkpoint_time = Some(newest.time);
        let found = history.size();
        if found < newest.size || found == 0 {
            let reason = Reason::LogShort { signed: newest.size, found };
            report.file("log/entries.jsonl", reason);
            return None;
        }
        let signed = Self { history, newest, note, roots };
        if signed.root_at(signed.newest.size) != Some(signed.newest.root) {
            let reason = Reason::LogDiffers { size: signed.newest.size };
            report.file("log/entries.jsonl", reason);
        }
        if Some(signed.newest.origin.as_str()) != signed.history.origin() {
            let why = "its origin isn't that of the ledger".to_owned();
            report.file("log/checkpoint", Reason::BadCheckpoint { why });
        }
        Some(signed)
    }

    pub(super) fn root_at(&self, size: u64) -> Option<Hash> {
        self.roots.get(usize::try_from(size).ok()?).copied()
    }

    /// There is one over each number of entries, in order, signed with the key of that time.
    fn check_checkpoints(&self, all: &[Note], torn_bytes: u64, report: &mut Report) {
        const FILE: &str = "log/checkpoints.log";
        let mut sizes = 1..=self.newest.size;
        for note in all {
            let Some(size) = sizes.next() else {
                let why = "it is over more entries than the newest".to_owned();
                return report.file(FILE, Reason::BadCheckpoint { why });
            };
            let keys: Vec<&PublicKey> = self.history.key_at(size).into_iter().collect();
            let why = match Checkpoint::verified(note, &keys) {
                Ok(found) if found.size != size => {
                    return report.file(FILE, Reason::CheckpointMissing { size });
                }
                Ok(found) if Some(found.root) != self.root_at(size) => {
                    report.file(FILE, Reason::LogDiffers { size });
                    continue;
                }
                Ok(_) if note.n_signatures() == 1 => continue,
                Ok(_) => "it has more signatures than the ledger's".to_owned(),
                Err(error) => error.to_string(),
            };
            report.file(FILE, Reason::BadCheckpoint { why: format!("over {size} entries: {why}") });
        }
        match sizes.next() {
            Some(size) => report.file(FILE, Reason::CheckpointMissing { size }),
            // Being written when the host stopped; it signs nothing.
            None => report.unsealed_loss_bytes += torn_bytes,
        }
    }

    /// The key is the one that somebody outside of the ledger knows.
    fn check_anchor(&self, options: &Options<'_>, report: &mut Report) -> Result<(), VerifyError> {
        let current = self.history.key_at(self.newest.size);
        if let Some(key) = &options.key {
            report.anchor = Anchor::Given;
            // Later keys were signed by it, one after another.
            if !self.history.keys().any(|known| known == key) {
                report.file("log/entries.jsonl", Reason::ForeignKey { key: key.to_string() });
            }
        } else if let Some(key) = keys::public_key(options.keys)? {
            report.anchor = Anchor::Host;
            // A rotation that was interrupted is finished at the next start.
            if current != Some(&key) && self.history.keys().nth_back(1) != Some(&key) {
                report.file("log/entries.jsonl", Reason::ForeignKey { key: key.to_string() });
            }
        }
        Ok(())
    }

    fn check_names(&self, log: &Path, report: &mut Report) -> Result<(), VerifyError> {
        for name in names(log)? {
            let is_trail = name
                .strip_suffix(".trail")
                .and_then(|number| number.parse().ok())
                .is_some_and(|number| Trail::path(log, number).file_name() == Some(name.as_ref()));
            let is_known = [ENTRIES, CHECKPOINTS, CHECKPOINT].contains(&name.as_str());
            if !is_trail && !is_known && !name.ends_with(".tmp") {
                report.file(&format!("log/{name}"), Reason::UnknownFile);
            }
        }
        Ok(())
    }
}

/// As the root log writes it: one signature, nothing around it.
fn own_checkpoint(text: &str, report: &mut Report) -> Option<(Note, Checkpoint)> {
    let mut bad = |reason| {
        report.file("log/checkpoint", reason);
        None
    };
    if text.is_empty() {
        return bad(Reason::NoCheckpoint);
    }
    let note: Note = match text.parse() {
        Ok(note) => note,
        Err(error) => return bad(Reason::BadCheckpoint { why: format!("{error}") }),
    };
    match Checkpoint::unverified(&note) {
        Ok(checkpoint) if note.n_signatures() == 1 && note.to_string() == text => {
            Some((note, checkpoint))
        }
        Ok(_) => bad(Reason::BadCheckpoint { why: "something was added to it".to_owned() }),
        Err(error) => bad(Reason::BadCheckpoint { why: error.to_string() }),
    }
}

/// The last of all is a step ahead if the host stopped before the newest was replaced.
fn newest_of(
    newest: (Note, Checkpoint),
    last: Option<&Note>,
    report: &mut Report,
) -> Option<(Note, Checkpoint)> {
    let Some(last) = last else { return Some(newest) };
    match Checkpoint::unverified(last) {
        Ok(checkpoint) if checkpoint.is_ahead_of(&newest.1) => Some((last.clone(), checkpoint)),
        Ok(_) => Some(newest),
        Err(error) => {
            report.file("log/checkpoints.log", Reason::BadCheckpoint { why: error.to_string() });
            None
        }
    }
}

/// All notes of a file, and how many bytes follow that are none.
fn notes(mut text: &str) -> (Vec<Note>, u64) {
    let mut notes = Vec::new();
    while let Some((note, rest)) = Note::first_of(text) {
        notes.push(note);
        text = rest;
    }
    (notes, text.len() as u64)
}

fn read(path: &Path) -> Result<String, VerifyError> {
    match fs::read(path) {
        // What isn't UTF-8 isn't what was signed, and is found to differ.
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(at(path)(error)),
    }
}
