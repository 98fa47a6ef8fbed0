//! A proof that a row is in the ledger, for somebody who has neither the ledger nor dbwarden.
//!
//! PROOFS.md says how it is checked.

use std::{fs::File, io};

use serde::Serialize;

use super::{
    canonical::Groups,
    entry::Entry,
    layout::Layout,
    merkle::{self, Hash},
    root_log, schema,
    verify::{Options, Report, RowsError, VerifyError, rows::of_file, signed::Signed},
};

/// Bytes are hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Proof {
    pub format: &'static str,
    pub schema_version: u32,
    pub segment: u64,
    /// In the order of the segment, from 0.
    pub row: u64,
    /// The row's three groups of canonical bytes.
    #[serde(with = "hex::serde")]
    pub origin: Vec<u8>,
    #[serde(with = "hex::serde")]
    pub facts: Vec<u8>,
    #[serde(with = "hex::serde")]
    pub content: Vec<u8>,
    /// From the row's leaf up to the segment's root, which stands in the entry.
    pub segment_path: Vec<String>,
    /// The segment's line of the root log.
    pub entry: String,
    pub entry_index: u64,
    /// From the entry's leaf up to the root in the checkpoint.
    pub log_path: Vec<String>,
    /// A signed note.
    pub checkpoint: String,
    /// What has signed it, as `name+id+key`. To be compared with a key that was kept elsewhere.
    pub key: String,
}

pub const FORMAT: &str = "dbwarden-proof-1";

#[derive(Debug, thiserror::Error)]
pub enum ProveError {
    #[error(transparent)]
    Ledger(#[from] VerifyError),
    #[error("the ledger isn't sound: {0} (`dbwarden verify` tells more)")]
    Unsound(String),
    #[error("segment {0} isn't sealed: only rows of sealed segments can be proven")]
    NotSealed(u64),
    #[error("segment {segment} was removed ({reason})")]
    Removed { segment: u64, reason: String },
    #[error("segment {segment} has rows 0 to {last}")]
    NoSuchRow { segment: u64, last: u64 },
    #[error("can't open the segment's file")]
    File(#[from] io::Error),
    #[error("can't read the segment's rows")]
    Rows(#[from] RowsError),
    #[error("segment {0} isn't what was sealed (`dbwarden verify` tells more)")]
    Altered(u64),
}

/// Proves row `row` of segment `segment`, as the newest checkpoint has it.
pub fn prove(options: &Options<'_>, segment: u64, row: u64) -> Result<Proof, ProveError> {
    let mut report = Report::default();
    let signed = Signed::read(&options.ledger.join(root_log::FOLDER), options, &mut report)?;
    if let Some(finding) = report.findings.first() {
        return Err(ProveError::Unsound(finding.reason.to_string()));
    }
    let Some(signed) = signed else { return Err(ProveError::NotSealed(segment)) };
    if let Some(removal) = signed.history.removal(segment) {
        return Err(ProveError::Removed { segment, reason: removal.reason.clone() });
    }
    let (index, entry) = signed.history.segment(segment).ok_or(ProveError::NotSealed(segment))?;
    if row >= entry.rows {
        return Err(ProveError::NoSuchRow { segment, last: entry.rows.saturating_sub(1) });
    }
    let file = File::open(Layout::new(options.ledger).segment_dir().join(&entry.file))?;
    let (mut leaves, mut groups) = (Vec::new(), Groups::default());
    of_file(file, &mut |leaf, found| {
        if leaves.len() as u64 == row {
            groups.clone_from(found);
        }
        leaves.push(leaf);
        leaves.len() as u64 <= entry.rows
    })?;
    if leaves.len() as u64 != entry.rows || merkle::root(&leaves) != entry.root {
        return Err(ProveError::Altered(segment));
    }
    let path = |leaves: &[Hash], index: u64| {
        let path = merkle::inclusion_path(leaves, usize::try_from(index).unwrap_or(usize::MAX));
        path.unwrap_or_default().iter().map(hex::encode).collect()
    };
    Ok(Proof {
        format: FORMAT,
        schema_version: schema::VERSION,
        segment,
        row,
        segment_path: path(&leaves, row),
        entry: Entry::Segment(entry.clone()).to_line(),
        entry_index: index,
        log_path: path(signed.history.leaves(), index),
        checkpoint: signed.note.to_string(),
        key: report.key.unwrap_or_default(),
        origin: groups.origin,
        facts: groups.facts,
        content: groups.row,
    })
}

impl Proof {
    /// What is written into a file.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}
