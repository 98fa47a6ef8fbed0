//! Whether the ledger that a report was made from is what was signed, and which checkpoint vouches for it.

use std::{fs, io, path::Path};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::{
    cli::verify::{sentence, silence_readers_of_damaged_files},
    event::WallTime,
    ledger::{
        checkpoint::Checkpoint,
        entry::History,
        note::Note,
        root_log,
        verify::{self, Anchor, Options},
    },
};

/// What a report says of its ledger.
#[derive(Debug, Default, Serialize)]
pub(super) struct Proof {
    pub verdict: Verdict,
    /// Why nothing was verified, or why only a part was.
    pub words: String,
    /// What is wrong.
    pub findings: Vec<String>,
    pub more_findings: u64,
    pub origin: Option<String>,
    /// The key that signs, and why it is believed.
    pub key: Option<String>,
    pub key_is_vouched_for: String,
    pub checkpoint_time: Option<WallTime>,
    /// Entries of the root log that the newest checkpoint is over.
    pub entries: u64,
    /// The newest checkpoint, word by word: a signed note.
    pub checkpoint: Option<String>,
    /// The checkpoint kept elsewhere that the ledger was held against.
    pub outside_time: Option<WallTime>,
    pub verified_segments: u64,
    pub verified_rows: u64,
    pub open_rows: u64,
    /// Rows of the report's segments that no checkpoint covered yet when it was made.
    pub unsigned_rows: u64,
    pub unsealed_loss_bytes: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Verdict {
    Whole,
    Broken,
    #[default]
    NotVerified,
}

impl Proof {
    /// Nobody has verified anything.
    pub(super) fn none(words: &str) -> Self {
        Self { words: words.to_owned(), ..Self::default() }
    }

    /// Verifies the segments of the period, and whatever came later. `open` are the rows of segments that
    /// were open when they were read.
    pub(super) fn of(
        options: &Options<'_>,
        history: Option<&History>,
        open: impl Iterator<Item = (u64, u64)>,
    ) -> Result<Self> {
        silence_readers_of_damaged_files();
        let report = verify::verify(options, &mut |_| {})?;
        let path = options.ledger.join(root_log::FOLDER).join(root_log::CHECKPOINT);
        let checkpoint = fs::read_to_string(&path).ok();
        let unsigned_rows = unsigned(checkpoint.as_deref(), history, open);
        let anchor = match report.anchor {
            Anchor::Given => "the key that was given",
            Anchor::Host => "this host's key",
            Anchor::Ledger => {
                "named by the ledger alone: to be compared with a copy kept elsewhere"
            }
        };
        Ok(Self {
            verdict: if report.is_sound() { Verdict::Whole } else { Verdict::Broken },
            words: String::new(),
            findings: report.findings.iter().map(sentence).collect(),
            more_findings: report.more_findings,
            origin: report.origin,
            key: report.key,
            key_is_vouched_for: anchor.to_owned(),
            checkpoint_time: report.checkpoint_time,
            entries: report.entries,
            checkpoint,
            outside_time: report.outside_time,
            verified_segments: report.segments,
            verified_rows: report.rows,
            open_rows: report.open_rows,
            unsigned_rows,
            unsealed_loss_bytes: report.unsealed_loss_bytes,
        })
    }
}

/// Rows of open segments that the newest checkpoint has not seen; those of segments that were sealed
/// since, an entry vouches for.
fn unsigned(
    checkpoint: Option<&str>,
    history: Option<&History>,
    open: impl Iterator<Item = (u64, u64)>,
) -> u64 {
    let note: Option<Note> = checkpoint.and_then(|text| text.parse().ok());
    let checkpoint = note.and_then(|note| Checkpoint::unverified(&note).ok());
    open.map(|(segment, rows)| {
        if history.is_some_and(|history| history.segment(segment).is_some()) {
            return 0;
        }
        let open = checkpoint.iter().flat_map(|checkpoint| &checkpoint.open);
        let signed = open.filter(|open| open.number == segment).map(|open| open.commit.rows);
        rows.saturating_sub(signed.sum())
    })
    .sum()
}

/// The root log's entries, as far as they make sense; whether they are what was signed, verification says.
pub(super) fn history(ledger: &Path) -> Result<Option<History>> {
    let path = ledger.join(root_log::FOLDER).join(root_log::ENTRIES);
    let text = match fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text.with_context(|| format!("can't read {}", path.display()))?,
    };
    let mut history = History::default();
    let whole = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
    for line in whole {
        if history.push(line).is_err() {
            break;
        }
    }
    Ok(Some(history))
}
