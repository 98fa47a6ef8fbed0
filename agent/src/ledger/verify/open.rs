//! The open segments' logs: whole and unchanged as far as they are signed.

use std::{fs, io, path::Path};

use super::{
    VerifyError, at, names,
    report::{Reason, Report},
    rows::LeafHasher,
    signed::Signed,
};
use crate::ledger::{
    checkpoint::Commit,
    layout::{Layout, LogFile},
    log::{Reader, Scanner, Trust},
    merkle::Hash,
};

pub(super) fn check(
    signed: &Signed,
    layout: &Layout,
    report: &mut Report,
) -> Result<(), VerifyError> {
    let mut logs = Vec::new();
    for name in names(&layout.open_dir())? {
        match LogFile::parse(&layout.open_dir().join(&name)) {
            Some(log) => logs.push(log),
            None if name.ends_with(".tmp") => {}
            None => report.file(&format!("open/{name}"), Reason::UnknownFile),
        }
    }
    for open in &signed.newest.open {
        if !logs.iter().any(|log| log.number == open.number) {
            report.segment(open.number, &shown(open.number), Reason::OpenMissing);
        }
    }
    let mut before = signed.history.segments().next_back().map(|last| (last.number, last.chain));
    logs.sort();
    for log in &logs {
        check_log(log, signed, &mut before, report)?;
    }
    Ok(())
}

/// `before` is the segment before, with the head of its chain.
fn check_log(
    log: &LogFile,
    signed: &Signed,
    before: &mut Option<(u64, Hash)>,
    report: &mut Report,
) -> Result<(), VerifyError> {
    let (number, file) = (log.number, shown(log.number));
    let open = signed.newest.open.iter().find(|open| open.number == number);
    let wanted = open.map_or(Commit { rows: 0, chain: [0; 32] }, |open| open.commit);
    let mut scanner = match Scanner::open(&log.path, Trust::Nothing) {
        Ok(scanner) => scanner,
        Err(_) if open.is_none() => {
            // It was being begun when the host stopped.
            report.unsealed_loss_bytes += fs::metadata(&log.path).map_or(0, |file| file.len());
            return Ok(());
        }
        Err(_) => {
            let reason = Reason::OpenShort { signed: wanted.rows, found: 0 };
            report.row(number, 0, &file, reason);
            return Ok(());
        }
    };
    let Walked { rows, chain, signed_end, is_reached } =
        walk(&mut scanner, wanted).map_err(at(&log.path))?;
    if let Some((_, sealed)) = signed.history.segment(number) {
        // Sealed, and the host stopped before the log was removed.
        if sealed.chain != chain || sealed.rows != rows || signed.history.removal(number).is_some()
        {
            report.segment(number, &file, Reason::OpenUnsigned);
        }
        return Ok(());
    }
    let follows = before.is_none_or(|(last, chain)| {
        last.checked_add(1) == Some(number) && scanner.header().previous == chain
    });
    if !follows || scanner.header().segment != number {
        report.segment(number, &file, Reason::OpenUnlinked);
    }
    *before = Some((number, chain));
    if open.is_some() && !is_reached {
        let (row, reason) = match rows < wanted.rows {
            true => (rows, Reason::OpenShort { signed: wanted.rows, found: rows }),
            false => (signed_end, Reason::OpenDiffers { rows: wanted.rows }),
        };
        report.row(number, row, &file, reason);
        return Ok(());
    }
    report.open_rows += wanted.rows;
    report.unsigned_rows += rows - wanted.rows;
    // A running service may have sealed and removed it meanwhile.
    let len = fs::metadata(&log.path).map_or(0, |file| file.len());
    report.unsealed_loss_bytes += len.saturating_sub(scanner.position());
    Ok(())
}

/// A log, as far as it is whole.
struct Walked {
    rows: u64,
    chain: Hash,
    /// Rows of whole batches that are no more than were signed.
    signed_end: u64,
    /// It has the point that was signed.
    is_reached: bool,
}

fn walk(scanner: &mut Scanner, signed: Commit) -> io::Result<Walked> {
    let (mut signed_end, mut is_reached) = (0, scanner.chain() == signed.chain);
    while scanner.next_batch()?.is_some() {
        let rows = scanner.next_row();
        is_reached |= rows == signed.rows && scanner.chain() == signed.chain;
        if rows <= signed.rows {
            signed_end = rows;
        }
    }
    let (rows, chain) = (scanner.next_row(), scanner.chain());
    Ok(Walked { rows, chain, signed_end, is_reached })
}

/// All points up to which a log is whole, chain included.
pub(super) fn commits(log_folder: &Path, number: u64) -> Vec<Commit> {
    let ledger = log_folder.parent().unwrap_or(log_folder);
    let path = Layout::new(ledger).log(number);
    let Ok(mut scanner) = Scanner::open(&path, Trust::Nothing) else { return Vec::new() };
    let mut commits = vec![Commit { rows: 0, chain: scanner.chain() }];
    while let Ok(Some(_)) = scanner.next_batch() {
        commits.push(Commit { rows: scanner.next_row(), chain: scanner.chain() });
    }
    commits
}

/// The leaf hashes of a log's rows, in the order of their coming.
pub(super) fn log_leaves(path: &Path) -> Option<Vec<Hash>> {
    let mut reader = Reader::open(path).ok()?;
    let (mut hasher, mut leaves) = (LeafHasher::default(), Vec::new());
    while let Some(batch) = reader.next_batch().ok()? {
        hasher.hash(&batch, &mut |leaf, _| leaves.push(leaf)).ok()?;
    }
    Some(leaves)
}

fn shown(number: u64) -> String {
    format!("open/{number:010}.log")
}
