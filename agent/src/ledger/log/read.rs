//! A log's rows as Arrow batches, while it is being written or afterwards.

use std::{io, ops::RangeInclusive, path::Path};

use arrow_array::RecordBatch;
use rustc_hash::FxHashMap;
use thiserror::Error;

use super::{NO_FACTS, Payload, Piece, ScanError, Scanner, Trust};
use crate::{
    event::WallTime,
    ledger::columns::{BatchBuilder, BuildError},
};

/// Of one Arrow batch, unless a single row is more than that.
const MAX_ROWS: usize = 8192;
const MAX_BYTES: usize = 8 << 20;
/// Whenever something happened.
pub const ALL_TIMES: RangeInclusive<WallTime> = WallTime(i64::MIN)..=WallTime(i64::MAX);

#[derive(Debug, Error)]
pub enum ReadError {
    #[error("can't read the log")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Scan(#[from] ScanError),
    #[error("batch before byte {position} of the log has a piece that is none")]
    Payload { position: u64 },
    #[error("batch before byte {position} of the log can't be read")]
    Row { position: u64, source: BuildError },
}

/// Gives the rows of all whole batches, in the order in which they were appended, and stops quietly at
/// a torn or unfinished tail. Asked again, it goes on from there with what was appended since: whoever
/// keeps it doesn't read a log twice.
///
/// Memory: one batch of the log, one of Arrow, and the definitions that a row may still name, which the
/// writer bounds.
pub struct Reader {
    scanner: Scanner,
    origins: Definitions,
    facts: Definitions,
    builder: BatchBuilder,
    /// What the rows in `builder` take up once they are written out.
    built_bytes: usize,
    /// Where the next piece of the scanner's payload is, and whether its rows are wanted.
    place: usize,
    wanted: bool,
    times: RangeInclusive<WallTime>,
    committed_since: WallTime,
    /// What the log has behind this byte came too late.
    end: u64,
    is_over: bool,
}

impl Reader {
    pub fn open(path: &Path) -> Result<Self, ReadError> {
        Ok(Self {
            scanner: Scanner::open(path, Trust::Checksum)?,
            origins: Definitions::default(),
            facts: Definitions::default(),
            builder: BatchBuilder::new(),
            built_bytes: 0,
            place: 0,
            wanted: true,
            times: ALL_TIMES,
            committed_since: *ALL_TIMES.start(),
            end: u64::MAX,
            is_over: false,
        })
    }

    /// Reads what the log held when it was so long: several readers see the same rows.
    pub fn up_to(mut self, len: u64) -> Self {
        self.end = len;
        self
    }

    /// Passes over batches that have no row of those times. Rows of other times may still come with
    /// those that do.
    pub fn between(mut self, times: RangeInclusive<WallTime>) -> Self {
        self.times = times;
        self
    }

    /// Passes over batches that were committed before that moment.
    pub fn committed_since(mut self, moment: WallTime) -> Self {
        self.committed_since = moment;
        self
    }

    /// Leaves all other columns out.
    pub fn only_columns(mut self, is_wanted: impl Fn(&str) -> bool) -> Self {
        self.builder = BatchBuilder::of_columns(is_wanted);
        self
    }

    /// The next rows, with the columns of [`schema()`](crate::ledger::schema::schema) or those that are
    /// wanted of it; `None` where the log
    /// ends for now.
    pub fn next_batch(&mut self) -> Result<Option<RecordBatch>, ReadError> {
        loop {
            if !self.is_over && self.gather()? {
                return self.finish().map(Some);
            }
            self.place = 0;
            // What the scanner holds then has been gathered, or came too late.
            self.is_over |= self.scanner.position() >= self.end;
            if self.is_over {
                break;
            }
            let Some((batch, _)) = self.scanner.next_batch()? else { break };
            let head = batch.head;
            self.is_over = self.scanner.position() > self.end;
            if self.is_over {
                break;
            }
            self.wanted = head.committed >= self.committed_since
                && head.earliest <= *self.times.end()
                && head.latest >= *self.times.start();
        }
        if self.builder.n_rows() == 0 { Ok(None) } else { self.finish().map(Some) }
    }

    /// Takes in what is left of the payload; whether an Arrow batch is full before its end.
    fn gather(&mut self) -> Result<bool, ReadError> {
        let position = self.scanner.position();
        let mut payload = Payload::from(self.scanner.payload(), self.place);
        let failed = |source| ReadError::Row { position, source };
        while let Some((_, piece)) = payload.next() {
            match piece {
                Piece::Origin { number, group } => self.origins.define(number, group),
                Piece::Facts { number, group } => self.facts.define(number, group),
                Piece::Forget => {
                    self.origins.forget();
                    self.facts.forget();
                }
                Piece::Row { .. } if !self.wanted => {}
                Piece::Row { origin, facts, group } => {
                    let builder = &mut self.builder;
                    let (origin, origin_len) = self
                        .origins
                        .place(origin, |group| builder.origin(group))
                        .map_err(failed)?;
                    let (facts, facts_len) =
                        self.facts.place(facts, |group| builder.facts(group)).map_err(failed)?;
                    builder.row(origin, facts, group).map_err(failed)?;
                    self.built_bytes += origin_len + facts_len + group.len();
                    if builder.n_rows() >= MAX_ROWS || self.built_bytes >= MAX_BYTES {
                        self.place = payload.place();
                        return Ok(true);
                    }
                }
            }
        }
        if !payload.is_done() {
            return Err(ReadError::Payload { position });
        }
        self.place = payload.place();
        Ok(false)
    }

    fn finish(&mut self) -> Result<RecordBatch, ReadError> {
        self.built_bytes = 0;
        self.origins.begin_batch();
        self.facts.begin_batch();
        let position = self.scanner.position();
        self.builder.finish().map_err(|source| ReadError::Row { position, source })
    }
}

/// Groups that rows name by number, and where the Arrow batch of now has them.
#[derive(Default)]
struct Definitions {
    groups: FxHashMap<u32, Box<[u8]>>,
    places: FxHashMap<u32, u32>,
}

impl Definitions {
    fn define(&mut self, number: u32, group: &[u8]) {
        self.groups.insert(number, group.into());
    }

    fn forget(&mut self) {
        self.groups = FxHashMap::default();
    }

    fn begin_batch(&mut self) {
        self.places.clear();
    }

    /// Its place in the batch, where `push` puts it if it isn't there yet, and its length.
    fn place(
        &mut self,
        number: u32,
        push: impl FnOnce(&[u8]) -> Result<u32, BuildError>,
    ) -> Result<(u32, usize), BuildError> {
        let group = match self.groups.get(&number) {
            Some(group) => group,
            None if number == NO_FACTS => &[][..],
            None => return Err(BuildError::UnknownDefinition),
        };
        let place = match self.places.get(&number) {
            Some(place) => *place,
            None => {
                let place = push(group)?;
                self.places.insert(number, place);
                place
            }
        };
        Ok((place, group.len()))
    }
}
