//! What storage tells whoever proves the ledger, and when.

use std::{error::Error, path::PathBuf};

use super::{checkpoint::OpenSegment, merkle::Hash};
use crate::event::WallTime;

/// Why something could not be proven. Storage says so in its status, keeps what it would have removed,
/// and asks again.
pub type WitnessError = Box<dyn Error + Send + Sync>;

/// Called by one thread, in this order of events; each call returns when what it says is durable.
pub trait Witness: Send {
    /// After a commit that added rows: how far each segment that isn't sealed is durable, by number.
    fn committed(&mut self, open: &[OpenSegment], now: WallTime) -> Result<(), WitnessError>;

    /// After a segment's file is durable under its name, before its log is removed. After a crash in
    /// between the file is made anew, unless [`is_sealed`](Self::is_sealed).
    fn sealed(&mut self, segment: &SealedSegment, now: WallTime) -> Result<(), WitnessError>;

    /// Whether `sealed` has been told of that segment.
    fn is_sealed(&self, number: u64) -> bool;

    /// Before a sealed segment is removed. After a crash in between it is told again.
    fn removed(&mut self, removal: &Removal, now: WallTime) -> Result<(), WitnessError>;
}

/// A sealed segment's file and what stands in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedSegment {
    pub number: u64,
    pub path: PathBuf,
    pub n_rows: u64,
    /// Of the rows' times; that of sealing, both, in a segment without rows.
    pub first_time: WallTime,
    pub last_time: WallTime,
    /// Over the rows in the order of the file.
    pub root: Hash,
    pub file_size: u64,
    pub file_sha256: Hash,
    /// The head of the chain of the log that it was made from.
    pub chain: Hash,
}

/// A sealed segment that retention takes away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removal {
    pub number: u64,
    pub path: PathBuf,
    pub n_rows: u64,
    pub file_size: u64,
    pub first_time: WallTime,
    pub last_time: WallTime,
    /// `age` or `size`.
    pub reason: &'static str,
}

/// A ledger that nobody proves: in tests and benchmarks.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unproven;

impl Witness for Unproven {
    fn committed(&mut self, _: &[OpenSegment], _: WallTime) -> Result<(), WitnessError> {
        Ok(())
    }

    fn sealed(&mut self, _: &SealedSegment, _: WallTime) -> Result<(), WitnessError> {
        Ok(())
    }

    fn is_sealed(&self, _: u64) -> bool {
        false
    }

    fn removed(&mut self, _: &Removal, _: WallTime) -> Result<(), WitnessError> {
        Ok(())
    }
}
