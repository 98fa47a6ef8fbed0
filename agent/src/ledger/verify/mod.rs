//! Verification: is the ledger what was signed, whole, and nothing else?
//!
//! Needs no service, only the ledger's folder; whoever holds the public key or an older checkpoint in
//! another place can have it held against them.

mod file;
mod open;
mod outside;
mod report;
pub(super) mod rows;
mod sealed;
pub(super) mod signed;
#[cfg(test)]
mod tests;

use std::{fs, io, path::Path};

pub(super) use file::file_sha256;
pub use report::{Anchor, Finding, MAX_FINDINGS, Reason, Report};
pub use rows::{LeafHasher, RowsError};

use super::{keys::KeysError, layout::Layout, note::Note, note::PublicKey, root_log};
use crate::event::WallTime;
use signed::Signed;

/// What to verify, and against what.
#[derive(Debug)]
pub struct Options<'a> {
    pub ledger: &'a Path,
    /// Where this host keeps its keys; may be absent.
    pub keys: &'a Path,
    /// A key that was kept in another place, instead of this host's.
    pub key: Option<PublicKey>,
    /// A checkpoint that was kept in another place.
    pub checkpoint: Option<Note>,
    /// Of segments that end before, only the presence is checked.
    pub since: Option<WallTime>,
}

/// How far verification has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    pub bytes: u64,
    pub total_bytes: u64,
    /// What is being read.
    pub segment: u64,
}

/// Why nothing could be verified, which is no verdict on the ledger.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error("there is no ledger in {0}")]
    NoLedger(String),
    #[error("can't read {path}")]
    Io {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Keys(#[from] KeysError),
}

/// While the service runs, segments are sealed and removed under verification's eyes.
const ATTEMPTS: usize = 10;

/// Reads the whole ledger. What is wrong with it stands in the report.
pub fn verify(
    options: &Options<'_>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Report, VerifyError> {
    let mut attempt = 1;
    let (signed, mut report) = loop {
        let (signed, report) = glance(options)?;
        // What looked wrong may have been a change that was just being made.
        let size = Signed::read_size(options.ledger);
        let is_settled = size.is_none() || size == Some(report.entries);
        if report.is_sound() || is_settled || attempt == ATTEMPTS {
            break (signed, report);
        }
        attempt += 1;
    };
    if let Some(signed) = signed {
        sealed::check_contents(&signed, options, progress, &mut report)?;
    }
    Ok(report)
}

/// Everything but the contents of sealed files, which don't change while they are read.
fn glance(options: &Options<'_>) -> Result<(Option<Signed>, Report), VerifyError> {
    let log = options.ledger.join(root_log::FOLDER);
    let layout = Layout::new(options.ledger);
    let is_ledger =
        [&log, &layout.segment_dir(), &layout.open_dir()].iter().any(|folder| folder.is_dir());
    if !is_ledger {
        return Err(VerifyError::NoLedger(options.ledger.display().to_string()));
    }
    let mut report = Report::default();
    let Some(signed) = Signed::read(&log, options, &mut report)? else {
        return Ok((None, report));
    };
    if let Some(note) = &options.checkpoint {
        outside::check(note, &signed, &log, &mut report);
    }
    sealed::check_presence(&signed, &layout, &mut report)?;
    open::check(&signed, &layout, &mut report)?;
    Ok((Some(signed), report))
}

fn at(path: &Path) -> impl Fn(io::Error) -> VerifyError {
    |source| VerifyError::Io { path: path.display().to_string(), source }
}

/// The names in a folder, sorted; none where it is absent.
fn names(folder: &Path) -> Result<Vec<String>, VerifyError> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(at(folder))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry.map_err(at(folder))?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}
