//! What verification has found.

use serde::{Serialize, Serializer};

use crate::event::WallTime;

/// More are counted, not kept.
pub const MAX_FINDINGS: usize = 1_000;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whose ledger it says it is.
    pub origin: Option<String>,
    /// The key that has signed the newest checkpoint, and why it is believed.
    pub key: Option<String>,
    pub anchor: Anchor,
    /// Entries of the root log, and when the newest checkpoint over them was signed.
    pub entries: u64,
    pub checkpoint_time: Option<WallTime>,
    /// Whether all that a checkpoint from another place says is still there; `None` without one.
    pub outside_time: Option<WallTime>,

    /// Sealed segments whose every byte was checked, with their rows and bytes.
    pub segments: u64,
    pub rows: u64,
    pub bytes: u64,
    /// Those that end before the time asked for: only looked for.
    pub segments_passed_over: u64,
    /// Removed on purpose, as signed entries say.
    pub segments_removed: u64,

    /// Rows of open segments that the newest checkpoint covers.
    pub open_rows: u64,
    /// Rows after it: committed, and nobody has signed them yet.
    pub unsigned_rows: u64,
    /// What is left of a write that wasn't finished when the host or the agent stopped: rows that had
    /// not been committed, let alone signed.
    pub unsealed_loss_bytes: u64,

    pub findings: Vec<Finding>,
    /// More than `findings` holds.
    pub more_findings: u64,
}

/// Why the ledger's own key is believed to be its owner's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Anchor {
    /// It was handed in.
    Given,
    /// It is the one in this host's folder of keys.
    Host,
    /// Only the ledger itself says so.
    #[default]
    Ledger,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub segment: Option<u64>,
    /// In the order of the segment, from 0.
    pub row: Option<u64>,
    /// Relative to the ledger's folder.
    pub file: Option<String>,
    /// In words; `code` is the same for scripts.
    #[serde(serialize_with = "words")]
    pub reason: Reason,
    pub code: &'static str,
}

fn words<S: Serializer>(reason: &Reason, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(reason)
}

impl Reason {
    /// Said by a checkpoint that was kept in another place.
    pub fn is_about_outside(&self) -> bool {
        matches!(
            self,
            Self::OutsideForeign { .. }
                | Self::RolledBack { .. }
                | Self::Rewritten { .. }
                | Self::OpenRolledBack { .. }
        )
    }
}

impl Report {
    pub fn is_sound(&self) -> bool {
        self.findings.is_empty()
    }

    pub(super) fn file(&mut self, file: &str, reason: Reason) {
        self.add(None, None, Some(file.to_owned()), reason);
    }

    pub(super) fn segment(&mut self, segment: u64, file: &str, reason: Reason) {
        self.add(Some(segment), None, Some(file.to_owned()), reason);
    }

    pub(super) fn row(&mut self, segment: u64, row: u64, file: &str, reason: Reason) {
        self.add(Some(segment), Some(row), Some(file.to_owned()), reason);
    }

    fn add(
        &mut self,
        segment: Option<u64>,
        row: Option<u64>,
        file: Option<String>,
        reason: Reason,
    ) {
        let code = reason.code();
        match self.findings.len() < MAX_FINDINGS {
            true => self.findings.push(Finding { segment, row, file, reason, code }),
            false => self.more_findings += 1,
        }
    }
}

macro_rules! reasons {
    ($($(#[$meta:meta])* $variant:ident $({ $($field:ident: $type:ty),+ })? = $code:literal, $text:literal;)+) => {
        /// Why the answer is no.
        #[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
        pub enum Reason {
            $($(#[$meta])* #[error($text)] $variant $({ $($field: $type),+ })?,)+
        }

        impl Reason {
            /// Stable, for scripts.
            pub fn code(&self) -> &'static str {
                match self {
                    $(Self::$variant { .. } => $code,)+
                }
            }
        }
    };
}

reasons! {
    // Of the root log and its checkpoints.
    NoCheckpoint = "checkpoint_missing", "the signed checkpoint is missing";
    BadCheckpoint { why: String } = "checkpoint_bad", "the checkpoint is no good: {why}";
    CheckpointMissing { size: u64 } = "checkpoint_missing",
        "the checkpoint over {size} entries is missing or out of order";
    ForeignKey { key: String } = "key_foreign",
        "it isn't signed with the key that was to be expected ({key})";
    BadEntry { index: u64, why: String } = "entry_bad", "entry {index} is no good: {why}";
    LogShort { signed: u64, found: u64 } = "log_short",
        "{signed} entries are signed, and there are {found}";
    LogDiffers { size: u64 } = "log_altered",
        "the first {size} entries aren't those that were signed";

    // Of sealed segments.
    SegmentMissing = "segment_missing", "the sealed segment is missing";
    SegmentUnsigned = "segment_unsigned", "nobody has signed this segment";
    SegmentResurrected = "segment_removed", "the segment was removed, and something else is in its place";
    FileLength { signed: u64, found: u64 } = "file_length",
        "the file has {found} bytes, and {signed} were sealed";
    FileAltered = "file_altered",
        "the file isn't the one that was sealed, although its rows are: statistics, an index, a filter or padding was changed";
    FileUnreadable { why: String } = "file_unreadable",
        "the file isn't the one that was sealed, and can't be read from here on: {why}";
    RowAltered = "row_altered", "the row says something else than what was sealed";
    RowMissing = "row_missing", "the row that was sealed here is missing";
    RowAdded = "row_added", "the row was added";
    RowDuplicated = "row_duplicated", "the row is there twice";
    RowsSwapped { other: u64 } = "rows_reordered", "the row has changed places with row {other}";
    RowsDiffer { until: u64 } = "rows_altered",
        "several rows from here on (before row {until}) were altered, moved, added or removed";
    RootDiffers = "root_differs", "the file is as it was sealed, but its rows don't have the root that was signed";
    TrailBad = "trail_bad", "the trail beside the segment is missing or isn't the one that was sealed";

    // Of open segments.
    OpenMissing = "open_missing", "the open segment, of which rows are signed, is missing";
    OpenShort { signed: u64, found: u64 } = "open_short",
        "{signed} rows are signed, and the log is whole only up to row {found}";
    OpenDiffers { rows: u64 } = "open_altered", "the first {rows} rows aren't those that were signed";
    OpenUnlinked = "open_unlinked", "the log doesn't follow the segment before it";
    OpenUnsigned = "open_unsigned", "nobody has signed this log";
    Lost { rows: u64 } = "rows_lost",
        "of {rows} rows that had been signed, some were found to be gone when the service started";

    UnknownFile = "file_unknown", "the file doesn't belong here";

    // Against a checkpoint that was kept in another place.
    OutsideForeign { why: String } = "outside_foreign",
        "the checkpoint kept elsewhere isn't one of this ledger: {why}";
    RolledBack { kept: u64, found: u64 } = "rolled_back",
        "the ledger was rolled back: the checkpoint kept elsewhere is over {kept} entries, and there are {found}";
    Rewritten { size: u64 } = "rewritten",
        "the ledger was rewritten: its first {size} entries aren't those of the checkpoint kept elsewhere";
    OpenRolledBack { rows: u64 } = "rolled_back",
        "the segment was rolled back or rewritten: the checkpoint kept elsewhere has seen {rows} rows of it that aren't there";
}
