//! The root log's entries: what each line of it may say, and what must follow what.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    merkle::{self, Hash},
    note::{Note, PublicKey, SecretKey},
};

/// A line of the root log, as JSON; the line without its newline is a leaf of the log's tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "entry", rename_all = "snake_case")]
pub enum Entry {
    /// From the next entry on, another key signs.
    Key(Key),
    /// A segment was sealed.
    Segment(Segment),
    /// A sealed segment was removed on purpose.
    Removal(Removal),
    /// An open segment's log was found to hold less than a checkpoint had said.
    Loss(Loss),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    pub time_us: i64,
    /// A signed note of three lines (origin, `key for entries after <index>`, the new key), signed by
    /// the key before it; the first one by itself.
    pub note: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    pub number: u64,
    /// Its name in `segments/`.
    pub file: String,
    pub bytes: u64,
    /// Of the whole file: a changed statistic or bloom filter hides rows as well as an edit does.
    #[serde(with = "hex::serde")]
    pub sha256: Hash,
    pub rows: u64,
    pub first_us: i64,
    pub last_us: i64,
    /// Of the Merkle tree over its rows, in the order of the file.
    #[serde(with = "hex::serde")]
    pub root: Hash,
    /// The head of the chain of the log that it was sealed from.
    #[serde(with = "hex::serde")]
    pub chain: Hash,
    /// Of its [trail](super::trail).
    #[serde(with = "hex::serde")]
    pub trail_sha256: Hash,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removal {
    pub segment: u64,
    pub time_us: i64,
    pub reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    pub segment: u64,
    pub time_us: i64,
    /// As many rows had been signed, and they aren't what is there.
    pub rows_signed: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    #[error("it is no entry of a root log")]
    Malformed,
    #[error("the log doesn't begin with a key")]
    NoKey,
    #[error("the new key isn't signed by the one before it")]
    UnsignedKey,
    #[error("segment {found} follows where {expected} should")]
    OutOfOrder { expected: u64, found: u64 },
    #[error("it removes segment {0}, which isn't there")]
    NothingToRemove(u64),
}

/// All that the entries say together.
#[derive(Clone, Debug, Default)]
pub struct History {
    leaves: Vec<Hash>,
    /// With the index of the entry that names it.
    keys: Vec<(u64, PublicKey)>,
    /// By number, with the index of the entry.
    segments: BTreeMap<u64, (u64, Segment)>,
    removals: BTreeMap<u64, Removal>,
    losses: Vec<Loss>,
}

impl History {
    /// Takes the next entry, `line` being without its newline.
    pub fn push(&mut self, line: &str) -> Result<(), EntryError> {
        let entry: Entry = serde_json::from_str(line).map_err(|_| EntryError::Malformed)?;
        // One meaning, one spelling.
        if entry.to_line() != line {
            return Err(EntryError::Malformed);
        }
        let index = self.size();
        match entry {
            Entry::Key(key) => {
                let public = self.key_of(&key)?;
                self.keys.push((index, public));
            }
            _ if self.keys.is_empty() => return Err(EntryError::NoKey),
            Entry::Segment(segment) => {
                let last = self.segments.last_key_value();
                let expected = last.map_or(segment.number, |(last, _)| last.saturating_add(1));
                if segment.number != expected {
                    return Err(EntryError::OutOfOrder { expected, found: segment.number });
                }
                if !is_file_name(&segment.file) {
                    return Err(EntryError::Malformed);
                }
                self.segments.insert(segment.number, (index, segment));
            }
            Entry::Removal(removal) => {
                let number = removal.segment;
                let is_there = self.segments.contains_key(&number);
                if !is_there || self.removals.insert(number, removal).is_some() {
                    return Err(EntryError::NothingToRemove(number));
                }
            }
            Entry::Loss(loss) => self.losses.push(loss),
        }
        self.leaves.push(merkle::leaf_hash(line.as_bytes()));
        Ok(())
    }

    fn key_of(&self, entry: &Key) -> Result<PublicKey, EntryError> {
        let note: Note = entry.note.parse().map_err(|_| EntryError::Malformed)?;
        let mut lines = note.unverified_text().lines();
        let (Some(origin), Some(place), Some(key)) = (lines.next(), lines.next(), lines.next())
        else {
            return Err(EntryError::Malformed);
        };
        let key: PublicKey = key.parse().map_err(|_| EntryError::Malformed)?;
        let signer = self.keys.last().map_or(&key, |(_, key)| key);
        note.verified(&[signer]).map_err(|_| EntryError::UnsignedKey)?;
        let is_in_place = place == format!("key for entries after {}", self.size());
        if lines.next().is_some() || origin != key.name() || key.name() != signer.name() {
            return Err(EntryError::Malformed);
        }
        if is_in_place { Ok(key) } else { Err(EntryError::UnsignedKey) }
    }

    /// An entry that makes `new` the key after it, signed by `signer`.
    pub fn key_entry(&self, signer: &SecretKey, new: &PublicKey, time_us: i64) -> Entry {
        let size = self.size();
        let text = format!("{}\nkey for entries after {size}\n{new}\n", new.name());
        Entry::Key(Key { time_us, note: signer.sign(text).to_string() })
    }

    /// How many entries there are.
    pub fn size(&self) -> u64 {
        self.leaves.len() as u64
    }

    /// The entries' hashes, in order.
    pub fn leaves(&self) -> &[Hash] {
        &self.leaves
    }

    pub fn root(&self) -> Hash {
        merkle::root(&self.leaves)
    }

    pub fn origin(&self) -> Option<&str> {
        self.keys.first().map(|(_, key)| key.name())
    }

    /// Oldest first.
    pub fn keys(&self) -> impl DoubleEndedIterator<Item = &PublicKey> {
        self.keys.iter().map(|(_, key)| key)
    }

    /// The key that signs checkpoints over `size` entries.
    pub fn key_at(&self, size: u64) -> Option<&PublicKey> {
        self.keys.iter().rev().find(|(index, _)| *index < size).map(|(_, key)| key)
    }

    /// Sealed segments by number, removed ones too.
    pub fn segments(&self) -> impl DoubleEndedIterator<Item = &Segment> {
        self.segments.values().map(|(_, segment)| segment)
    }

    /// A sealed segment with the index of its entry.
    pub fn segment(&self, number: u64) -> Option<(u64, &Segment)> {
        self.segments.get(&number).map(|(index, segment)| (*index, segment))
    }

    pub fn removal(&self, segment: u64) -> Option<&Removal> {
        self.removals.get(&segment)
    }

    pub fn losses(&self) -> &[Loss] {
        &self.losses
    }
}

impl Entry {
    /// Without the newline.
    pub fn to_line(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// What is read is one file of one folder, whatever the log says.
fn is_file_name(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\0'])
}

#[cfg(test)]
mod tests {
    use super::{Entry, EntryError, History, Loss, Removal, Segment};
    use crate::ledger::note::SecretKey;

    fn key(seed: u8) -> SecretKey {
        SecretKey::new("dbwarden/db1", [seed; 32])
    }

    fn segment(number: u64, file: &str) -> String {
        let segment = Segment {
            number,
            file: file.to_owned(),
            bytes: 100,
            sha256: [1; 32],
            rows: 10,
            first_us: -1,
            last_us: 9,
            root: [2; 32],
            chain: [3; 32],
            trail_sha256: [4; 32],
        };
        Entry::Segment(segment).to_line()
    }

    fn removal(segment: u64) -> String {
        Entry::Removal(Removal { segment, time_us: 5, reason: "age".to_owned() }).to_line()
    }

    /// Begins with a key; two segments follow.
    fn history() -> History {
        let mut history = History::default();
        let first = history.key_entry(&key(1), key(1).public(), 1).to_line();
        for line in [first, segment(4, "4.parquet"), segment(5, "5.parquet")] {
            history.push(&line).unwrap();
        }
        history
    }

    /// Written once, read for ever.
    #[test]
    fn lines_are_spelled_like_this() {
        let expected = concat!(
            r#"{"entry":"segment","number":4,"file":"4.parquet","bytes":100,"#,
            r#""sha256":"0101010101010101010101010101010101010101010101010101010101010101","#,
            r#""rows":10,"first_us":-1,"last_us":9,"#,
            r#""root":"0202020202020202020202020202020202020202020202020202020202020202","#,
            r#""chain":"0303030303030303030303030303030303030303030303030303030303030303","#,
            r#""trail_sha256":"0404040404040404040404040404040404040404040404040404040404040404"}"#,
        );
        assert_eq!(segment(4, "4.parquet"), expected);
        let expected = r#"{"entry":"removal","segment":4,"time_us":5,"reason":"age"}"#;
        assert_eq!(removal(4), expected);
        let loss = Entry::Loss(Loss { segment: 4, time_us: 5, rows_signed: 6 }).to_line();
        assert_eq!(loss, r#"{"entry":"loss","segment":4,"time_us":5,"rows_signed":6}"#);
    }

    #[test]
    fn what_may_follow_does() {
        let mut history = history();
        let rotation = history.key_entry(&key(1), key(2).public(), 2).to_line();
        for line in [rotation, removal(4), removal(5), segment(6, "6.parquet")] {
            history.push(&line).unwrap();
        }
        assert_eq!(history.size(), 7);
        assert_eq!(history.origin(), Some("dbwarden/db1"));
        let signers = [0, 1, 3, 4, 7].map(|size| history.key_at(size).cloned());
        let (old, new) = (Some(key(1).public().clone()), Some(key(2).public().clone()));
        assert_eq!(signers, [None, old.clone(), old, new.clone(), new]);
        assert!(history.removal(5).is_some() && history.removal(6).is_none());
        assert_eq!(history.segment(6).unwrap().0, 6);
    }

    #[test]
    fn what_may_not_follow_is_refused() {
        use EntryError::{Malformed, NoKey, NothingToRemove, OutOfOrder, UnsignedKey};
        let good = segment(6, "6.parquet");
        let by = |signer: u8, new: u8| history().key_entry(&key(signer), key(new).public(), 1);
        let early = History::default().key_entry(&key(1), key(2).public(), 1);
        for (line, expected) in [
            (String::new(), Malformed),
            (r#"{"entry":"surprise"}"#.to_owned(), Malformed),
            (good.replacen(':', ": ", 1), Malformed),
            (good.replacen("0101", "01O1", 1), Malformed),
            (good.replacen("\"bytes\":100", "\"bytes\":100,\"more\":1", 1), Malformed),
            (segment(6, ""), Malformed),
            (segment(6, "../6.parquet"), Malformed),
            (segment(5, "5.parquet"), OutOfOrder { expected: 6, found: 5 }),
            (segment(8, "8.parquet"), OutOfOrder { expected: 6, found: 8 }),
            (removal(6), NothingToRemove(6)),
            (by(2, 2).to_line(), UnsignedKey),
            (by(2, 3).to_line(), UnsignedKey),
            // Signed, for another place of the log.
            (early.to_line(), UnsignedKey),
            (by(1, 2).to_line().replacen("dbwarden/db1", "dbwarden/db2", 1), UnsignedKey),
        ] {
            assert_eq!(history().push(&line), Err(expected), "{line}");
        }
        let mut removed = history();
        removed.push(&removal(4)).unwrap();
        assert_eq!(removed.push(&removal(4)), Err(NothingToRemove(4)));
        assert_eq!(History::default().push(&good), Err(NoKey));
    }
}
