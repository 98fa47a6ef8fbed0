//! A row's canonical bytes: what the log keeps, the hash covers, and a sealed file can be turned back into.
//!
//! A row is three groups ([`Group`](super::schema::Group)), each the concatenation of its columns that
//! aren't null, in the order of [`COLUMNS`](super::schema::COLUMNS): the column's index (1 byte), then the
//! value, by [`Kind`](super::schema::Kind):
//!
//! | kind | bytes, all integers little-endian |
//! |---|---|
//! | `Time` | i64 |
//! | `U16`, `U32`, `U64` | that many bits |
//! | `Bool` | one byte, 0 or 1 |
//! | `Text` | u32 length, UTF-8 |
//! | `Texts` | u32 count, then texts; the length `0xffffffff` is a null element |
//! | `Tables` | u32 count, then pairs of texts |
//! | `Parents` | u32 count, then pairs of u32 and text |
//! | `Claims` | u32 count, then pairs of texts, keys strictly ascending |
//! | `Counts` | u32 count, then pairs of text and u64, keys strictly ascending |
//!
//! There is one way to write a row, so that equal rows have equal hashes. An index never changes its
//! meaning: a later version only adds columns at the end of the table.

mod decode;
mod encode;
#[cfg(test)]
pub(super) mod tests;

pub use decode::{Fields, Items, Malformed, Value};
pub(super) use encode::Writer;
pub use encode::{Literals, TextHalf, encode_facts, encode_origin, encode_row};

use sha2::{Digest as _, Sha256};

use super::schema::Group;
use crate::event::WallTime;

/// The first byte of [`row_bytes`].
pub const VERSION: u8 = 1;

/// SHA-256 of a group's bytes; of the empty string where a row has none.
pub type GroupHash = [u8; 32];

/// The three groups of a row; buffers to be used again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Groups {
    pub origin: Vec<u8>,
    pub facts: Vec<u8>,
    pub row: Vec<u8>,
}

impl Groups {
    /// Replaces `out` by the row's bytes: what a leaf of the Merkle tree hashes.
    pub fn row_bytes(&self, out: &mut Vec<u8>) {
        row_bytes(&group_hash(&self.origin), &group_hash(&self.facts), &self.row, out);
    }
}

/// Origin and facts are shared by many rows: hash them once.
pub fn group_hash(group: &[u8]) -> GroupHash {
    Sha256::digest(group).into()
}

/// Replaces `out` by the row's bytes: version, hash of the origin, hash of the facts, the row's own
/// group.
pub fn row_bytes(origin: &GroupHash, facts: &GroupHash, row: &[u8], out: &mut Vec<u8>) {
    out.clear();
    out.push(VERSION);
    out.extend_from_slice(origin);
    out.extend_from_slice(facts);
    out.extend_from_slice(row);
}

/// The `time` of a row's own group; every row has one.
pub fn time_of(row: &[u8]) -> Option<WallTime> {
    Fields::new(Group::Row, row).find_map(|field| match field {
        Ok((_, Value::Time(time))) => Some(WallTime(time)),
        _ => None,
    })
}
