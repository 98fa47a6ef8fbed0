//! A log that is complete → a Parquet file with the same rows by time, and the root over them.

mod file;
mod order;
mod rows;
#[cfg(test)]
mod tests;

use std::{collections::hash_map::Entry, fs, io, path::Path};

use parquet::errors::ParquetError;
use rustc_hash::FxHashMap;
use thiserror::Error;

pub use self::file::SegmentWriter;
use self::{
    order::Order,
    rows::{DefinitionSource, RowSource},
};
use super::{
    canonical::{self, GroupHash},
    columns::{BatchBuilder, BuildError},
    layout::{self, Layout},
    log::{NO_FACTS, ScanError, Scanner, Trust},
    merkle::{self, RootHasher},
    witness::SealedSegment,
};
use crate::event::WallTime;

/// Of one Arrow batch on its way to the file.
const MAX_ROWS: usize = 8192;
const MAX_BYTES: usize = 8 << 20;
/// Of definitions that are kept at hand.
const MAX_DEFINED_BYTES: usize = 8 << 20;

#[derive(Debug, Error)]
pub enum SealError {
    #[error("reading or writing failed")]
    Io(#[from] io::Error),
    #[error("the log can't be read")]
    Log(#[from] ScanError),
    #[error("the log has a piece at byte {0} that makes no sense")]
    Piece(u64),
    #[error("a row names definition {0}, which the log doesn't have")]
    UnknownDefinition(u32),
    #[error("the rows don't make columns")]
    Columns(#[from] BuildError),
    #[error("the Parquet file can't be written")]
    Parquet(#[from] ParquetError),
}

/// Writes the segment's file and gives it its name, durably. The log stays.
///
/// Memory: 16 bytes a row and 8 a definition, and buffers of a fixed size; the rows themselves are read
/// where they are.
pub fn seal(layout: &Layout, number: u64, now: WallTime) -> Result<SealedSegment, SealError> {
    let unfinished = layout.unfinished_segment(number);
    let sealed = write(layout, number, now, &unfinished);
    if sealed.is_err() {
        // It may be what fills the disk.
        let _ = fs::remove_file(&unfinished);
    }
    sealed
}

fn write(
    layout: &Layout,
    number: u64,
    now: WallTime,
    unfinished: &Path,
) -> Result<SealedSegment, SealError> {
    let log = layout.log(number);
    let mut scanner = Scanner::open(&log, Trust::Checksum)?;
    let order = Order::of(&mut scanner)?;
    let mut writer = SegmentWriter::create(unfinished, scanner.header())?;
    let n_rows = order.rows.len() as u64;
    let (first_time, last_time) = order.times().unwrap_or((now, now));
    let mut sorter = Sorter::open(&log, order)?;
    while sorter.gather()? {
        writer.write(&sorter.builder.finish()?)?;
    }
    let root = sorter.root.root();
    let written = writer.finish(root)?;
    let path = layout.segment(number, first_time, last_time);
    fs::rename(unfinished, &path)?;
    layout::sync_parent(&path)?;
    Ok(SealedSegment {
        number,
        path,
        n_rows,
        first_time,
        last_time,
        root,
        file_size: written.size,
        file_sha256: written.sha256,
        chain: scanner.chain(),
    })
}

/// Takes rows by time, hashes each into the tree, and gathers them in batches.
struct Sorter {
    rows: RowSource,
    builder: BatchBuilder,
    root: RootHasher,
    origins: Definitions,
    facts: Definitions,
    row_bytes: Vec<u8>,
}

impl Sorter {
    fn open(log: &Path, order: Order) -> Result<Self, SealError> {
        Ok(Self {
            rows: RowSource::open(log, order.rows)?,
            builder: BatchBuilder::new(),
            root: RootHasher::default(),
            origins: Definitions::of(DefinitionSource::open(log, order.origins)?),
            facts: Definitions::of(DefinitionSource::open(log, order.facts)?),
            row_bytes: Vec::new(),
        })
    }

    /// Fills the builder; whether there is anything in it.
    fn gather(&mut self) -> Result<bool, SealError> {
        self.origins.begin_batch();
        self.facts.begin_batch();
        let mut built_bytes = 0;
        while self.builder.n_rows() < MAX_ROWS && built_bytes < MAX_BYTES {
            let Some(row) = self.rows.next_row()? else { break };
            let builder = &mut self.builder;
            let origin = self.origins.defined(row.origin, |group| builder.origin(group))?;
            let facts = self.facts.defined(row.facts, |group| builder.facts(group))?;
            builder.row(origin.place, facts.place, row.group)?;
            built_bytes += origin.len + facts.len + row.group.len();
            canonical::row_bytes(&origin.hash, &facts.hash, row.group, &mut self.row_bytes);
            self.root.push(merkle::leaf_hash(&self.row_bytes));
        }
        Ok(self.builder.n_rows() > 0)
    }
}

/// Definitions of one sort that were read, with their hashes and their places in the batch of now.
struct Definitions {
    source: DefinitionSource,
    groups: FxHashMap<u32, (Box<[u8]>, GroupHash)>,
    n_bytes: usize,
    places: FxHashMap<u32, Defined>,
}

#[derive(Clone, Copy)]
struct Defined {
    place: u32,
    len: usize,
    hash: GroupHash,
}

impl Definitions {
    fn of(source: DefinitionSource) -> Self {
        Self { source, groups: FxHashMap::default(), n_bytes: 0, places: FxHashMap::default() }
    }

    fn begin_batch(&mut self) {
        self.places.clear();
        if self.n_bytes > MAX_DEFINED_BYTES {
            self.groups = FxHashMap::default();
            self.n_bytes = 0;
        }
    }

    fn defined(
        &mut self,
        number: u32,
        push: impl FnOnce(&[u8]) -> Result<u32, BuildError>,
    ) -> Result<Defined, SealError> {
        if let Some(defined) = self.places.get(&number) {
            return Ok(*defined);
        }
        let (group, hash) = match self.groups.entry(number) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let is_none = number == NO_FACTS;
                let group = if is_none { Box::default() } else { self.source.read(number)? };
                let hash = canonical::group_hash(&group);
                self.n_bytes += group.len();
                entry.insert((group, hash))
            }
        };
        let defined = Defined { place: push(group)?, len: group.len(), hash: *hash };
        self.places.insert(number, defined);
        Ok(defined)
    }
}
