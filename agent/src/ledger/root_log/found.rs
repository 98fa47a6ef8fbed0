//! What the folder of a root log holds, as far as it was signed.

use std::{fs, io, path::Path};

use super::{CHECKPOINT, CHECKPOINTS, ENTRIES, Offence, RootLogError, at};
use crate::{
    event::WallTime,
    ledger::{
        checkpoint::Checkpoint,
        entry::History,
        keys::Keys,
        merkle::RootHasher,
        note::{Note, NoteError},
    },
};

pub(super) struct Found {
    pub(super) history: History,
    /// Of the entries, in bytes, as far as they are signed.
    pub(super) entries_len: u64,
    /// Of the checkpoints, in bytes, as far as they are whole.
    pub(super) checkpoints_len: u64,
    pub(super) newest: Checkpoint,
    pub(super) note: Note,
    /// Whether `checkpoint` holds the newest one.
    pub(super) is_written: bool,
}

impl Found {
    /// Where there is no log yet.
    pub(super) fn nothing(keys: &Keys, now: WallTime) -> Self {
        let newest = Checkpoint {
            origin: keys.signing().public().name().to_owned(),
            size: 0,
            root: RootHasher::default().root(),
            time: now,
            open: Vec::new(),
        };
        Self {
            history: History::default(),
            entries_len: 0,
            checkpoints_len: 0,
            note: newest.signed(keys.signing()),
            newest,
            is_written: false,
        }
    }

    /// `None`: nothing was ever signed here.
    pub(super) fn read(folder: &Path) -> Result<Result<Option<Self>, Offence>, RootLogError> {
        let entries = read(&folder.join(ENTRIES))?;
        let checkpoints = read(&folder.join(CHECKPOINTS))?;
        let newest = read(&folder.join(CHECKPOINT))?;
        Ok(Self::of(&entries, &checkpoints, &newest))
    }

    fn of(entries: &str, checkpoints: &str, newest: &str) -> Result<Option<Self>, Offence> {
        let (mut last, mut rest) = (None, checkpoints);
        while let Some((note, after)) = Note::first_of(rest) {
            (last, rest) = (Some(note), after);
        }
        let checkpoints_len = (checkpoints.len() - rest.len()) as u64;
        let written = match newest {
            "" => None,
            note => Some(note.parse::<Note>().map_err(|error| Offence::Checkpoint(error.into()))?),
        };
        let Some((note, newest)) = newest_of(last.as_ref(), written.as_ref())? else {
            // The crash came before the first checkpoint.
            let is_begun = entries.lines().count() > 1;
            return if is_begun { Err(Offence::Unsigned) } else { Ok(None) };
        };
        let (mut history, mut entries_len) = (History::default(), 0);
        let whole = entries.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        for line in whole.take(usize::try_from(newest.size).unwrap_or(usize::MAX)) {
            let index = history.size();
            history
                .push(line.trim_end_matches('\n'))
                .map_err(|error| Offence::Entry { index, error })?;
            entries_len += line.len() as u64;
        }
        if history.size() < newest.size {
            return Err(Offence::Short { signed: newest.size, found: history.size() });
        }
        let unknown = Offence::Checkpoint(NoteError::UnknownKeys.into());
        let signer = history.key_at(newest.size).ok_or(unknown)?;
        let newest = Checkpoint::verified(note, &[signer]).map_err(Offence::Checkpoint)?;
        if history.root() != newest.root {
            return Err(Offence::Root);
        }
        let (is_written, note) = (written.as_ref() == Some(note), note.clone());
        Ok(Some(Self { history, entries_len, checkpoints_len, newest, note, is_written }))
    }
}

/// The last of all checkpoints is one step ahead of `checkpoint` if a crash came in between.
fn newest_of<'a>(
    last: Option<&'a Note>,
    written: Option<&'a Note>,
) -> Result<Option<(&'a Note, Checkpoint)>, Offence> {
    let mut newest: Option<(&Note, Checkpoint)> = None;
    for note in [last, written].into_iter().flatten() {
        let checkpoint = Checkpoint::unverified(note).map_err(Offence::Checkpoint)?;
        if newest.as_ref().is_none_or(|(_, newest)| !newest.is_ahead_of(&checkpoint)) {
            newest = Some((note, checkpoint));
        }
    }
    Ok(newest)
}

fn read(path: &Path) -> Result<String, RootLogError> {
    match fs::read(path) {
        // What isn't UTF-8 is found to be malformed, or was never signed.
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(at(path)(error)),
    }
}
