//! One batch of a log: what was written at once.

use sha2::{Digest, Sha256};

use crate::{event::WallTime, ledger::merkle::Hash};

/// All integers little-endian: length of the payload (u32), crc32c of everything after it up to the
/// payload's end (u32), index of the first row (u64), number of rows (u32), when it was committed
/// (i64), the earliest and the latest of its rows' times (i64, i64).
pub const HEAD_LEN: usize = 44;
/// Behind the payload: SHA-256 of the previous link, everything of the head after the checksum, and the
/// payload.
pub const CHAIN_LEN: usize = 32;
/// What a reader must be ready to hold. An entry that is larger isn't appended.
pub const MAX_PAYLOAD: usize = 48 << 20;
/// Where the part of the head begins that the checksum covers.
const CHECKED_FROM: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHead {
    pub payload_len: usize,
    crc: u32,
    pub first_row: u64,
    pub n_rows: u32,
    pub committed: WallTime,
    /// Of the rows' times; both that of the commit if there are no rows.
    pub earliest: WallTime,
    pub latest: WallTime,
}

/// A batch that was found whole.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    pub head: BatchHead,
    pub payload: &'a [u8],
    /// The chain's head with this batch.
    pub chain: Hash,
}

impl BatchHead {
    pub fn new(
        first_row: u64,
        n_rows: u32,
        committed: WallTime,
        (earliest, latest): (WallTime, WallTime),
    ) -> Self {
        Self { payload_len: 0, crc: 0, first_row, n_rows, committed, earliest, latest }
    }

    pub fn decode(bytes: &[u8; HEAD_LEN]) -> Self {
        let mut rest: &[u8] = bytes;
        Self {
            payload_len: u32::from_le_bytes(take(&mut rest)) as usize,
            crc: u32::from_le_bytes(take(&mut rest)),
            first_row: u64::from_le_bytes(take(&mut rest)),
            n_rows: u32::from_le_bytes(take(&mut rest)),
            committed: WallTime(i64::from_le_bytes(take(&mut rest))),
            earliest: WallTime(i64::from_le_bytes(take(&mut rest))),
            latest: WallTime(i64::from_le_bytes(take(&mut rest))),
        }
    }

    fn encode(&self) -> [u8; HEAD_LEN] {
        let mut bytes = [0; HEAD_LEN];
        let mut at = 0;
        let mut put = |value: &[u8]| {
            if let Some(room) = bytes.get_mut(at..at + value.len()) {
                room.copy_from_slice(value);
            }
            at += value.len();
        };
        put(&(self.payload_len as u32).to_le_bytes());
        put(&self.crc.to_le_bytes());
        put(&self.first_row.to_le_bytes());
        put(&self.n_rows.to_le_bytes());
        put(&self.committed.0.to_le_bytes());
        put(&self.earliest.0.to_le_bytes());
        put(&self.latest.0.to_le_bytes());
        bytes
    }

    /// Of the whole batch, in bytes.
    pub fn total_len(&self) -> usize {
        HEAD_LEN + self.payload_len + CHAIN_LEN
    }
}

impl<'a> Batch<'a> {
    /// Appends a batch to `out` and gives the chain's new head.
    pub fn encode(head: BatchHead, payload: &[u8], previous: &Hash, out: &mut Vec<u8>) -> Hash {
        let mut head = BatchHead { payload_len: payload.len(), ..head };
        let bytes = head.encode();
        head.crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[CHECKED_FROM..]), payload);
        let chain = link(previous, &bytes, payload);
        out.extend_from_slice(&head.encode());
        out.extend_from_slice(payload);
        out.extend_from_slice(&chain);
        chain
    }

    /// The batch in `bytes`, which are exactly as many as its head says; `None` unless it is whole and,
    /// where that is asked, follows `previous`.
    pub fn check(head: BatchHead, bytes: &'a [u8], previous: Option<&Hash>) -> Option<Self> {
        let (head_bytes, rest) = bytes.split_first_chunk::<HEAD_LEN>()?;
        let (payload, chain) = rest.split_at_checked(head.payload_len)?;
        let crc = crc32c::crc32c_append(crc32c::crc32c(&head_bytes[CHECKED_FROM..]), payload);
        let found: Hash = chain.try_into().ok()?;
        let follows = |previous| link(previous, head_bytes, payload) == found;
        (crc == head.crc && previous.is_none_or(follows)).then_some(Self {
            head,
            payload,
            chain: found,
        })
    }
}

fn link(previous: &Hash, head: &[u8; HEAD_LEN], payload: &[u8]) -> Hash {
    Sha256::new()
        .chain_update(previous)
        .chain_update(&head[CHECKED_FROM..])
        .chain_update(payload)
        .finalize()
        .into()
}

/// The head's fields take up exactly its length.
fn take<const N: usize>(bytes: &mut &[u8]) -> [u8; N] {
    match bytes.split_first_chunk() {
        Some((value, rest)) => {
            *bytes = rest;
            *value
        }
        None => [0; N],
    }
}
