//! The bytes of one sealed file, held against its entry.

use std::{
    fs::File,
    io::{self, Read, Seek},
    panic::{self, AssertUnwindSafe},
    path::Path,
};

use sha2::{Digest, Sha256};

use super::{
    report::{Reason, Report},
    rows::{self, RowsError},
};
use crate::ledger::{
    blocks::{BLOCK_ROWS, Change, RowHasher, first_change},
    entry::Segment,
    merkle::Hash,
    trail::Trail,
};

/// Checks every byte and every row; `read` is told how many bytes were read just now.
pub(super) fn check(
    path: &Path,
    name: &str,
    segment: &Segment,
    trail: Option<&Trail>,
    read: &mut dyn FnMut(u64),
    report: &mut Report,
) -> io::Result<()> {
    let number = segment.number;
    let mut file = File::open(path)?;
    let len = file.metadata()?.len();
    if file_sha256(&mut file, read)? == segment.sha256 {
        let mut rows = RowHasher::default();
        let result = rows::of_file(file, &mut |leaf, _| {
            rows.push(leaf);
            true
        });
        let rows = rows.finish();
        match result {
            Err(error) => report.segment(number, name, unreadable(&error)),
            Ok(()) if (rows.root, rows.rows) != (segment.root, segment.rows) => {
                report.segment(number, name, Reason::RootDiffers);
            }
            Ok(()) => {}
        }
        return Ok(());
    }
    if len != segment.bytes {
        let reason = Reason::FileLength { signed: segment.bytes, found: len };
        report.segment(number, name, reason);
    }
    file.rewind()?;
    let (found, error) = leaves(file, segment.rows);
    match (error, trail.and_then(|trail| first_change(segment.rows, &trail.blocks, &found))) {
        // Rows after the place where reading ended are missing because of that.
        (Some(error), change) => match change.filter(|change| change.row() < found.len() as u64) {
            Some(change) => report.row(number, change.row(), name, reason(change)),
            None => report.row(number, found.len() as u64, name, unreadable(&error)),
        },
        (None, Some(change)) => report.row(number, change.row(), name, reason(change)),
        (None, None) => report.segment(number, name, Reason::FileAltered),
    }
    Ok(())
}

/// The leaf hashes as far as the file can be read, and why no further. What was written by strangers
/// may bring the reader to its knees; that is an answer too.
fn leaves(file: File, expected: u64) -> (Vec<Hash>, Option<RowsError>) {
    let most = usize::try_from(expected).unwrap_or(usize::MAX).saturating_add(2 * BLOCK_ROWS);
    let mut found = Vec::new();
    let result = panic::catch_unwind(AssertUnwindSafe(|| {
        rows::of_file(file, &mut |leaf, _| {
            found.push(leaf);
            found.len() < most
        })
    }));
    (found, result.unwrap_or(Err(RowsError::Panicked)).err())
}

/// `read` is told how many bytes were read just now.
pub(in crate::ledger) fn file_sha256(
    file: &mut File,
    read: &mut dyn FnMut(u64),
) -> io::Result<Hash> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finalize().into()),
            n => {
                hasher.update(&buffer[..n]);
                read(n as u64);
            }
        }
    }
}

fn unreadable(error: &RowsError) -> Reason {
    Reason::FileUnreadable { why: error.to_string() }
}

fn reason(change: Change) -> Reason {
    match change {
        Change::Altered { .. } => Reason::RowAltered,
        Change::Missing { .. } => Reason::RowMissing,
        Change::Added { .. } => Reason::RowAdded,
        Change::Duplicated { .. } => Reason::RowDuplicated,
        Change::Swapped { other, .. } => Reason::RowsSwapped { other },
        Change::Several { until, .. } => Reason::RowsDiffer { until },
    }
}
