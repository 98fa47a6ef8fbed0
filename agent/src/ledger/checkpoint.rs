//! Checkpoints (<https://c2sp.org/tlog-checkpoint>): what the ledger holds at one moment, signed.

use std::fmt::Write;

use base64::{Engine, engine::general_purpose::STANDARD};
use time::{UtcDateTime, format_description::well_known::Rfc3339};

use super::{
    merkle::Hash,
    note::{Note, NoteError, PublicKey, SecretKey},
};
use crate::event::WallTime;

/// The text of a checkpoint: the lines of the specification, and two sorts of extension lines: one
/// `time`, one `open` for each segment that isn't sealed yet.
///
/// ```text
/// dbwarden/db1.example.com
/// 12
/// CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=
/// time 2026-11-23T15:04:05.000123Z
/// open 11 4711 9F1lrKfmXpmjx0HZ0vMj54gsQZ1J0hOTJkRP+3wR7p4=
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    pub origin: String,
    /// Entries of the root log, and their Merkle root.
    pub size: u64,
    pub root: Hash,
    /// When it was signed, by the host's own clock.
    pub time: WallTime,
    /// By number.
    pub open: Vec<OpenSegment>,
}

/// How far a segment's log is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenSegment {
    pub number: u64,
    pub commit: Commit,
}

/// A point in a segment's log up to which it is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Rows of the segment so far.
    pub rows: u64,
    /// The head of the chain over its batches.
    pub chain: Hash,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    #[error(transparent)]
    Note(#[from] NoteError),
    #[error("its text isn't that of a checkpoint of dbwarden")]
    Malformed,
}

impl Checkpoint {
    pub fn signed(&self, key: &SecretKey) -> Note {
        let mut text = format!("{}\n{}\n{}\n", self.origin, self.size, STANDARD.encode(self.root));
        let time = self.time.to_utc().format(&Rfc3339).unwrap_or_default();
        let _ = writeln!(text, "time {time}");
        for OpenSegment { number, commit: Commit { rows, chain } } in &self.open {
            let _ = writeln!(text, "open {number} {rows} {}", STANDARD.encode(chain));
        }
        key.sign(text)
    }

    /// What `note` says, once one of `keys` is known to have signed it.
    pub fn verified(note: &Note, keys: &[&PublicKey]) -> Result<Self, CheckpointError> {
        Self::parse(note.verified(keys)?).ok_or(CheckpointError::Malformed)
    }

    /// What `note` says, before anybody has checked who says so.
    pub fn unverified(note: &Note) -> Result<Self, CheckpointError> {
        Self::parse(note.unverified_text()).ok_or(CheckpointError::Malformed)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.strip_suffix('\n')?.split('\n');
        let origin = lines.next().filter(|origin| !origin.is_empty())?.to_owned();
        let size = decimal(lines.next()?)?;
        let root = hash(lines.next()?)?;
        let time = UtcDateTime::parse(lines.next()?.strip_prefix("time ")?, &Rfc3339).ok()?;
        let micros = time.unix_timestamp_nanos() / 1_000;
        let open = lines.map(open_segment).collect::<Option<Vec<_>>>()?;
        let is_sorted = open.is_sorted_by(|a, b| a.number < b.number);
        let time = WallTime(i64::try_from(micros).ok()?);
        is_sorted.then_some(Self { origin, size, root, time, open })
    }

    /// Later than `other` of the same ledger, as far as the two themselves tell.
    pub fn is_ahead_of(&self, other: &Self) -> bool {
        let progress = |checkpoint: &Self| {
            let last = checkpoint.open.last();
            (checkpoint.size, last.map(|open| (open.number, open.commit.rows)))
        };
        progress(self) > progress(other)
    }
}

fn open_segment(line: &str) -> Option<OpenSegment> {
    let mut words = line.strip_prefix("open ")?.split(' ');
    let (number, rows) = (decimal(words.next()?)?, decimal(words.next()?)?);
    let chain = hash(words.next()?)?;
    words.next().is_none().then_some(OpenSegment { number, commit: Commit { rows, chain } })
}

/// Without leading zeroes or signs, so that a number is written in one way only.
fn decimal(text: &str) -> Option<u64> {
    text.parse().ok().filter(|number: &u64| number.to_string() == text)
}

fn hash(text: &str) -> Option<Hash> {
    STANDARD.decode(text).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::{Checkpoint, CheckpointError, Commit, OpenSegment};
    use crate::{
        event::WallTime,
        ledger::note::{Note, NoteError, SecretKey},
    };

    fn open(number: u64, rows: u64) -> OpenSegment {
        OpenSegment { number, commit: Commit { rows, chain: [3; 32] } }
    }

    fn checkpoint(size: u64, open: &[OpenSegment]) -> Checkpoint {
        Checkpoint {
            origin: "dbwarden/db1".into(),
            size,
            root: [2; 32],
            time: WallTime(1_795_000_000_000_123),
            open: open.to_vec(),
        }
    }

    #[test]
    fn the_text_is_the_specifications_with_our_lines_after_it() {
        let key = SecretKey::new("dbwarden/db1", [1; 32]);
        let signed = checkpoint(12, &[open(10, 99), open(11, 0)]);
        let note = signed.signed(&key);
        let expected = "\
dbwarden/db1
12
AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=
time 2026-11-18T11:06:40.000123Z
open 10 99 AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM=
open 11 0 AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM=
";
        assert_eq!(note.unverified_text(), expected);
        assert_eq!(Checkpoint::verified(&note, &[key.public()]), Ok(signed));
        let other = SecretKey::new("dbwarden/db1", [2; 32]);
        assert_eq!(
            Checkpoint::verified(&note, &[other.public()]),
            Err(CheckpointError::Note(NoteError::UnknownKeys))
        );
    }

    #[test]
    fn the_example_of_the_specification_lacks_our_lines() {
        let note: Note = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n".parse().unwrap();
        assert_eq!(Checkpoint::unverified(&note), Err(CheckpointError::Malformed));
    }

    #[test]
    fn other_texts_are_refused_even_when_signed() {
        let key = SecretKey::new("dbwarden/db1", [1; 32]);
        let good = checkpoint(12, &[open(10, 99), open(11, 0)]).signed(&key);
        let good = good.unverified_text();
        for bad in [
            good.replacen("dbwarden/db1", "", 1),
            good.replacen("12", "012", 1),
            good.replacen("12", "+12", 1),
            good.replacen("12", "", 1),
            good.replacen("AgI", "AgJ", 1).replacen("AgI=", "AgI", 1),
            good.replacen("time", "date", 1),
            good.replacen("open 10", "open 11", 1),
            good.replacen(" 99 ", " 99 0 ", 1),
            good.replacen("open 11", "shut 11", 1),
            format!("{good}\n"),
        ] {
            let note = key.sign(bad.clone());
            let verdict = Checkpoint::verified(&note, &[key.public()]);
            assert_eq!(verdict, Err(CheckpointError::Malformed), "{bad}");
        }
    }

    #[test]
    fn progress_is_entries_then_the_open_segment() {
        let steps = [
            checkpoint(1, &[open(0, 5)]),
            checkpoint(1, &[open(0, 6)]),
            checkpoint(1, &[open(0, 6), open(1, 0)]),
            checkpoint(2, &[open(1, 0)]),
            checkpoint(3, &[]),
        ];
        for (i, a) in steps.iter().enumerate() {
            for (j, b) in steps.iter().enumerate() {
                assert_eq!(a.is_ahead_of(b), i > j, "{a:?} {b:?}");
            }
        }
    }
}
