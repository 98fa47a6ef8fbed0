//! What a ledger is opened with.

use std::{path::PathBuf, time::Duration};

use crate::ledger::Literals;

#[derive(Clone, Debug)]
pub struct Options {
    pub directory: PathBuf,
    /// How long an entry may wait until it is durable.
    pub commit_interval: Duration,
    /// A segment is sealed when its log is that large,
    pub seal_bytes: u64,
    /// or its first row that old.
    pub seal_age: Duration,
    /// Sealed segments whose rows are all older are removed.
    pub max_age: Option<Duration>,
    /// The oldest sealed segments are removed until all files together are no larger.
    pub max_bytes: Option<u64>,
    /// Nothing is written while the filesystem has less room.
    pub min_free_bytes: u64,
    pub literals: Literals,
}

/// Rows wait no longer than this for company, so that they are soon found.
pub const HOLD: Duration = Duration::from_millis(200);

impl Options {
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            commit_interval: Duration::from_secs(1),
            seal_bytes: 64 << 20,
            seal_age: Duration::from_secs(3600),
            max_age: None,
            max_bytes: None,
            min_free_bytes: 512 << 20,
            literals: Literals::Redacted,
        }
    }

    /// How long rows wait for company.
    pub(super) fn hold(&self) -> Duration {
        HOLD.min(self.commit_interval / 4)
    }
}
