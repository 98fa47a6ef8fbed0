//! What stands in a batch: definitions, and rows that name them.
//!
//! | piece | bytes, all integers little-endian |
//! |---|---|
//! | origin | 1, number (u32), length (u32), the group's canonical bytes |
//! | facts | 2, number (u32), length (u32), the group's canonical bytes |
//! | row | 3, its origin (u32), its facts (u32; [`NO_FACTS`] if none), length (u32), the row group's bytes |
//! | forget | 4: no later row names a definition from before |
//!
//! Origins and facts are numbered from 0 each, in the order of the file, and never anew: "forget" only
//! says what a reader needn't remember.

/// The facts of a row that has none.
pub const NO_FACTS: u32 = u32::MAX;

const ORIGIN: u8 = 1;
const FACTS: u8 = 2;
const ROW: u8 = 3;
const FORGET: u8 = 4;

/// One thing in a payload; groups are canonical bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    Origin { number: u32, group: &'a [u8] },
    Facts { number: u32, group: &'a [u8] },
    Row { origin: u32, facts: u32, group: &'a [u8] },
    Forget,
}

impl Piece<'_> {
    pub fn encode(&self, out: &mut Vec<u8>) {
        match *self {
            Self::Origin { number, group } => definition(ORIGIN, number, group, out),
            Self::Facts { number, group } => definition(FACTS, number, group, out),
            Self::Row { origin, facts, group } => {
                out.push(ROW);
                out.extend_from_slice(&origin.to_le_bytes());
                out.extend_from_slice(&facts.to_le_bytes());
                out.extend_from_slice(&(group.len() as u32).to_le_bytes());
                out.extend_from_slice(group);
            }
            Self::Forget => out.push(FORGET),
        }
    }
}

fn definition(tag: u8, number: u32, group: &[u8], out: &mut Vec<u8>) {
    out.push(tag);
    out.extend_from_slice(&number.to_le_bytes());
    out.extend_from_slice(&(group.len() as u32).to_le_bytes());
    out.extend_from_slice(group);
}

/// The pieces of a payload, each with the place of its group in it. Ends at the first thing that is
/// none.
#[derive(Clone, Debug)]
pub struct Payload<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Payload<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self::from(bytes, 0)
    }

    /// Goes on where another [stood](Self::place).
    pub fn from(bytes: &'a [u8], place: usize) -> Self {
        Self { bytes, at: place }
    }

    /// Where the next piece begins.
    pub fn place(&self) -> usize {
        self.at
    }

    /// Whether all of it was pieces.
    pub fn is_done(&self) -> bool {
        self.at == self.bytes.len()
    }

    fn piece(&self) -> Option<(usize, Piece<'a>, usize)> {
        let mut rest = self.bytes.get(self.at..)?;
        let tag = *rest.split_off_first()?;
        if tag == FORGET {
            return Some((self.at, Piece::Forget, self.at + 1));
        }
        let first = u32_of(&mut rest)?;
        let facts = if tag == ROW { u32_of(&mut rest)? } else { NO_FACTS };
        let len = u32_of(&mut rest)? as usize;
        let place = self.bytes.len() - rest.len();
        let group = rest.get(..len)?;
        let piece = match tag {
            ORIGIN => Piece::Origin { number: first, group },
            FACTS => Piece::Facts { number: first, group },
            ROW => Piece::Row { origin: first, facts, group },
            _ => return None,
        };
        Some((place, piece, place + len))
    }
}

impl<'a> Iterator for Payload<'a> {
    type Item = (usize, Piece<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let (place, piece, end) = self.piece()?;
        self.at = end;
        Some((place, piece))
    }
}

fn u32_of(bytes: &mut &[u8]) -> Option<u32> {
    let (value, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(u32::from_le_bytes(*value))
}

#[cfg(test)]
mod tests {
    use super::{NO_FACTS, Payload, Piece};

    #[test]
    fn there_and_back_and_every_cut_ends_early() {
        let pieces = [
            Piece::Origin { number: 0, group: b"abc" },
            Piece::Row { origin: 0, facts: NO_FACTS, group: b"" },
            Piece::Forget,
            Piece::Facts { number: 7, group: b"d" },
            Piece::Row { origin: 0, facts: 7, group: b"efghi" },
        ];
        let mut bytes = Vec::new();
        pieces.iter().for_each(|piece| piece.encode(&mut bytes));
        let mut payload = Payload::new(&bytes);
        let mut found = Vec::new();
        for (place, piece) in payload.by_ref() {
            if let Piece::Row { group, .. } = piece {
                assert_eq!(&bytes[place..place + group.len()], group);
            }
            found.push(piece);
        }
        assert_eq!(found, pieces);
        assert!(payload.is_done());
        for end in 1..bytes.len() {
            let mut payload = Payload::new(&bytes[..end]);
            assert!(payload.by_ref().count() < pieces.len(), "{end}");
        }
        assert_eq!(Payload::new(&[9]).count(), 0);
    }
}
