//! Entries → the pieces of a log, each origin and each text's facts once.

use std::{mem, sync::Arc};

use rustc_hash::FxHashMap;

use super::{
    canonical::{self, Literals, TextHalf},
    log::{NO_FACTS, Piece, Rows},
};
use crate::event::{Entry, Facts, Origin, WallTime};

/// Of origins, and of facts, that a reader must remember at a time.
const MAX_DEFINITIONS: usize = 8192;
const MAX_DEFINED_BYTES: usize = 8 << 20;
/// Of one group. Statements are captured up to a limit far below it.
const MAX_GROUP: usize = 12 << 20;

/// Gathers the rows of the next batch.
#[derive(Debug)]
pub struct Encoder {
    literals: Literals,
    origins: Definitions<Arc<Origin>>,
    facts: Definitions<HeldHalf>,
    rows: Rows,
    scratch: Vec<u8>,
}

/// What a [`TextHalf`] points to.
type HeldHalf = (Option<Arc<Facts>>, Option<Arc<str>>);

/// A group is larger than a log can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLarge;

impl Encoder {
    pub fn new(literals: Literals) -> Self {
        Self {
            literals,
            origins: Definitions::default(),
            facts: Definitions::default(),
            rows: Rows::default(),
            scratch: Vec::new(),
        }
    }

    /// Appends to a log that has that many definitions already.
    pub fn begin_log(&mut self, n_origins: u32, n_facts: u32) {
        self.origins = Definitions { next: n_origins, ..Definitions::default() };
        self.facts = Definitions { next: n_facts, ..Definitions::default() };
        if n_origins > 0 {
            Piece::Forget.encode(&mut self.rows.payload);
        }
    }

    /// What has been gathered.
    pub fn n_bytes(&self) -> usize {
        self.rows.payload.len()
    }

    /// The rows so far; `buffer` is used for the next ones.
    pub fn take(&mut self, mut buffer: Vec<u8>) -> Rows {
        buffer.clear();
        mem::replace(&mut self.rows, Rows { payload: buffer, n_rows: 0, times: None })
    }

    /// Takes back what `take` gave, before anything else was pushed.
    pub fn put_back(&mut self, rows: Rows) {
        self.rows = rows;
    }

    pub fn push(&mut self, entry: &Entry) -> Result<(), TooLarge> {
        if self.origins.is_full() || self.facts.is_full() {
            self.origins.forget();
            self.facts.forget();
            Piece::Forget.encode(&mut self.rows.payload);
        }
        let (origin, half, time) = match entry {
            Entry::Statement(record) => {
                (&record.origin, TextHalf::of(record, self.literals), record.time)
            }
            Entry::Occurrence(occurrence) => (&occurrence.origin, None, occurrence.time),
            Entry::Finding(episode) => {
                (&episode.origin, TextHalf::of_finding(episode), episode.time)
            }
            Entry::Outbound(outbound) => (&outbound.origin, None, outbound.time),
            Entry::Approval(approval) => {
                (&approval.origin, TextHalf::of_approval(approval, self.literals), approval.time)
            }
        };
        let origin = self.origin(origin)?;
        let facts = half.map_or(Ok(NO_FACTS), |half| self.facts(half))?;
        let payload = &mut self.rows.payload;
        let before = payload.len();
        Piece::Row { origin, facts, group: &[] }.encode(payload);
        let group_at = payload.len();
        canonical::encode_row(entry, self.literals, payload);
        let group_len = payload.len() - group_at;
        let len_at = group_at - size_of::<u32>();
        let Some(len) = payload.get_mut(len_at..group_at).filter(|_| group_len <= MAX_GROUP) else {
            payload.truncate(before);
            return Err(TooLarge);
        };
        len.copy_from_slice(&(group_len as u32).to_le_bytes());
        self.rows.n_rows += 1;
        self.rows.times = Some(self.rows.times.map_or((time, time), |(earliest, latest)| {
            (WallTime::min(earliest, time), WallTime::max(latest, time))
        }));
        Ok(())
    }

    fn origin(&mut self, origin: &Arc<Origin>) -> Result<u32, TooLarge> {
        let key = [Arc::as_ptr(origin).addr(), 0, 0];
        if let Some(number) = self.origins.number(key) {
            return Ok(number);
        }
        self.scratch.clear();
        canonical::encode_origin(origin, &mut self.scratch);
        let number = self.origins.define(key, self.scratch.len(), || origin.clone())?;
        Piece::Origin { number, group: &self.scratch }.encode(&mut self.rows.payload);
        Ok(number)
    }

    fn facts(&mut self, half: TextHalf<'_>) -> Result<u32, TooLarge> {
        let facts = half.facts.map_or(0, |facts| Arc::as_ptr(facts).addr());
        let text = half.text.map_or(0, |text| Arc::as_ptr(text).addr());
        let key = [facts, text, usize::from(half.replicates)];
        if let Some(number) = self.facts.number(key) {
            return Ok(number);
        }
        self.scratch.clear();
        canonical::encode_facts(half, &mut self.scratch);
        let held = || (half.facts.cloned(), half.text.cloned());
        let number = self.facts.define(key, self.scratch.len(), held)?;
        Piece::Facts { number, group: &self.scratch }.encode(&mut self.rows.payload);
        Ok(number)
    }
}

/// Numbers of what was defined, by address. What stands at the address is held, so that nothing else
/// can come to stand there.
#[derive(Debug)]
struct Definitions<T> {
    numbers: FxHashMap<[usize; 3], (u32, T)>,
    n_bytes: usize,
    next: u32,
}

impl<T> Default for Definitions<T> {
    fn default() -> Self {
        Self { numbers: FxHashMap::default(), n_bytes: 0, next: 0 }
    }
}

impl<T> Definitions<T> {
    fn number(&self, key: [usize; 3]) -> Option<u32> {
        self.numbers.get(&key).map(|(number, _)| *number)
    }

    fn define(
        &mut self,
        key: [usize; 3],
        n_bytes: usize,
        held: impl FnOnce() -> T,
    ) -> Result<u32, TooLarge> {
        if n_bytes > MAX_GROUP {
            return Err(TooLarge);
        }
        let number = self.next;
        self.next += 1;
        self.n_bytes += n_bytes;
        self.numbers.insert(key, (number, held()));
        Ok(number)
    }

    fn is_full(&self) -> bool {
        self.numbers.len() >= MAX_DEFINITIONS || self.n_bytes >= MAX_DEFINED_BYTES
    }

    fn forget(&mut self) {
        self.numbers.clear();
        self.n_bytes = 0;
    }
}
