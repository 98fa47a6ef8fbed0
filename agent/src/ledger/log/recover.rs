//! What a log is after a crash: whole up to a point, and cut there.

use std::{
    fs::{self, OpenOptions},
    io,
    path::{Path, PathBuf},
};

use super::{Header, HeaderError, Payload, Piece, ScanError, Scanner, Trust};
use crate::{event::WallTime, ledger::checkpoint::Commit};

/// A log that ends with a whole batch.
#[derive(Clone, Debug)]
pub struct Recovered {
    pub header: Header,
    pub len: u64,
    pub commit: Commit,
    /// How many there are: the next ones' numbers.
    pub n_origins: u32,
    pub n_facts: u32,
    /// When the last batch was committed.
    pub last_commit: Option<WallTime>,
    /// What was cut off.
    pub torn: Option<Torn>,
}

/// A tail that was no whole batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Torn {
    pub n_bytes: u64,
    /// A whole batch stood behind it: no crash does that, so it was set aside and not thrown away.
    pub is_damaged: bool,
}

/// Where a log goes that is damaged.
pub fn set_aside(log: &Path) -> PathBuf {
    log.with_extension("log.damaged")
}

/// Checks every batch and its link of the chain, cuts off what isn't whole, and makes that durable.
/// `None` if not even the header was ever whole: nothing was appended then.
pub fn recover(path: &Path) -> Result<Option<Recovered>, ScanError> {
    let mut scanner = match Scanner::open(path, Trust::Nothing) {
        Err(ScanError::Header(HeaderError::Short)) => return Ok(None),
        scanner => scanner?,
    };
    let (mut n_origins, mut n_facts, mut last_commit) = (0, 0, None);
    while let Some((batch, _)) = scanner.next_batch()? {
        last_commit = Some(batch.head.committed);
        for (_, piece) in Payload::new(batch.payload) {
            match piece {
                Piece::Origin { number, .. } => n_origins = number.saturating_add(1),
                Piece::Facts { number, .. } => n_facts = number.saturating_add(1),
                Piece::Row { .. } | Piece::Forget => {}
            }
        }
    }
    let len = scanner.position();
    Ok(Some(Recovered {
        header: scanner.header().clone(),
        len,
        commit: Commit { rows: scanner.next_row(), chain: scanner.chain() },
        n_origins,
        n_facts,
        last_commit,
        torn: cut(path, len, scanner.is_followed()?)?,
    }))
}

fn cut(path: &Path, len: u64, is_damaged: bool) -> io::Result<Option<Torn>> {
    let file = OpenOptions::new().write(true).open(path)?;
    let n_bytes = file.metadata()?.len().saturating_sub(len);
    if n_bytes > 0 && is_damaged {
        fs::copy(path, set_aside(path))?;
    }
    if n_bytes > 0 {
        file.set_len(len)?;
    }
    // Written batches that a crashed agent didn't sync count as durable from now on.
    file.sync_all()?;
    Ok((n_bytes > 0).then_some(Torn { n_bytes, is_damaged }))
}
