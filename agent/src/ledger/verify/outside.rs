//! A checkpoint that was kept in another place, held against the ledger: the only thing that a rollback
//! of the whole host can't take back.

use std::{fs, path::Path};

use sha2::{Digest, Sha256};

use super::{
    report::{Reason, Report},
    signed::Signed,
};
use crate::ledger::{
    checkpoint::{Checkpoint, OpenSegment},
    entry::Segment,
    note::{Note, PublicKey},
    trail::Trail,
};

pub(super) fn check(note: &Note, signed: &Signed, log: &Path, report: &mut Report) {
    let keys: Vec<&PublicKey> = signed.history.keys().collect();
    let kept = match Checkpoint::verified(note, &keys) {
        Ok(kept) => kept,
        Err(error) => {
            report.file("log/checkpoint", Reason::OutsideForeign { why: error.to_string() });
            return;
        }
    };
    report.outside_time = Some(kept.time);
    let found = signed.newest.size;
    if kept.size > found {
        report.file("log/entries.jsonl", Reason::RolledBack { kept: kept.size, found });
        return;
    }
    if signed.root_at(kept.size) != Some(kept.root) {
        report.file("log/entries.jsonl", Reason::Rewritten { size: kept.size });
    }
    for open in &kept.open {
        check_open(open, signed, log, report);
    }
}

/// What was open then has grown since, or was sealed from a log that was at that point once.
fn check_open(kept: &OpenSegment, signed: &Signed, log: &Path, report: &mut Report) {
    let OpenSegment { number, commit } = *kept;
    let rolled_back = Reason::OpenRolledBack { rows: commit.rows };
    if let Some((_, segment)) = signed.history.segment(number) {
        if signed.history.removal(number).is_some() {
            return;
        }
        // A trail that isn't there, or another one, is found elsewhere.
        let trail = own_trail(log, segment);
        let was_there = trail.is_none_or(|trail| trail.commits.contains(&commit));
        if segment.rows < commit.rows || !was_there {
            report.segment(number, &format!("segments/{}", segment.file), rolled_back);
        }
        return;
    }
    let file = format!("open/{number:010}.log");
    let now = signed.newest.open.iter().find(|open| open.number == number);
    let commits = now.map(|open| super::open::commits(log, open.number));
    if !commits.is_some_and(|commits| commits.contains(&commit)) {
        report.segment(number, &file, rolled_back);
    }
}

/// A segment's trail, if it is the one that was signed.
pub(super) fn own_trail(log: &Path, segment: &Segment) -> Option<Trail> {
    let bytes = fs::read(Trail::path(log, segment.number)).ok()?;
    let is_own = Sha256::digest(&bytes).as_slice() == segment.trail_sha256;
    if is_own { Trail::decode(&bytes) } else { None }
}
