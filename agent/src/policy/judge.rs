//! Verdicts by who, what and which circumstances make a difference, remembered.

use std::{hash::RandomState, sync::Arc};

use lru::LruCache;
use rustc_hash::FxHashMap;

use super::{
    Caller, Set,
    question::{Case, Circumstances, clock},
};
use crate::event::{ClaimTag, Facts, Judgement, Origin};

/// Connections that are known by address. Forgetting them costs a comparison each.
const MAX_ORIGINS: usize = 4_096;
const MAX_CALLERS: usize = 4_096;
const MAX_CLAIMS: usize = 1_024;
const MAX_VERDICTS: usize = 32_768;
/// Facts that are held for verdicts, all together and one alone. Most are held by the analyst anyway.
const MAX_BYTES: usize = 16 << 20;
const MAX_FACTS_BYTES: usize = 64 << 10;

/// Judges statements by one set of rules after the other.
pub struct Judge {
    set: Arc<Set>,
    /// By address; what stands there is held, so that nothing else can come to stand there.
    origins: FxHashMap<usize, (u32, Arc<Origin>)>,
    callers: LruCache<Caller, u32, RandomState>,
    claims: LruCache<Claims, u32, RandomState>,
    next: u32,
    verdicts: LruCache<Key, Remembered, rustc_hash::FxBuildHasher>,
    bytes: usize,
    counts: Counts,
}

type Claims = Box<[ClaimTag]>;

/// How often something was asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub remembered: u64,
    pub evaluated: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    /// Address of the facts; 0 where there are none.
    facts: usize,
    caller: u32,
    rows: u32,
    claims: u32,
    hour: u16,
}

struct Remembered {
    judgement: Arc<Judgement>,
    /// Holds what stands at the key's address.
    facts: Option<Arc<Facts>>,
}

/// Bytes that facts hold, roughly.
fn held_bytes(facts: &Facts) -> usize {
    let names = facts.tables.len() + facts.columns.len() + facts.functions.len();
    size_of::<Facts>() + facts.text.len() + 64 * names
}

impl Judge {
    pub fn new(set: Arc<Set>) -> Self {
        Self {
            set,
            origins: FxHashMap::default(),
            callers: LruCache::unbounded_with_hasher(RandomState::new()),
            claims: LruCache::unbounded_with_hasher(RandomState::new()),
            next: 1,
            verdicts: LruCache::unbounded_with_hasher(rustc_hash::FxBuildHasher),
            bytes: 0,
            counts: Counts::default(),
        }
    }

    pub fn set(&self) -> &Arc<Set> {
        &self.set
    }

    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Judges by other rules from now on.
    pub fn replace(&mut self, set: Arc<Set>) {
        let counts = self.counts;
        *self = Self { counts, ..Self::new(set) };
    }

    /// The judgement on a statement. Allocates nothing where the same was asked before.
    pub fn judge(
        &mut self,
        origin: &Arc<Origin>,
        facts: Option<&Arc<Facts>>,
        circumstances: Circumstances<'_>,
    ) -> Arc<Judgement> {
        let caller = self.caller(origin);
        let volatile = &self.set.volatile;
        let hour = match volatile.time {
            true => {
                let (hour, weekday) = clock(circumstances.time);
                (weekday * 24 + hour) as u16
            }
            false => 0,
        };
        let rows = volatile.bucket(circumstances.rows);
        let claims = match volatile.claims && !circumstances.claims.is_empty() {
            true => self.claims(circumstances.claims),
            false => 0,
        };
        let address = facts.map_or(0, |facts| Arc::as_ptr(facts).addr());
        let key = Key { facts: address, caller, rows, claims, hour };
        if let Some(remembered) = self.verdicts.get(&key) {
            self.counts.remembered += 1;
            return remembered.judgement.clone();
        }
        self.counts.evaluated += 1;
        let caller = Caller::new(origin, self.set.world());
        let case = Case { caller: &caller, facts: facts.map(|facts| &**facts), circumstances };
        let judgement = Arc::new(self.set.decide(&case));
        self.remember(key, judgement.clone(), facts.cloned());
        judgement
    }

    fn remember(&mut self, key: Key, judgement: Arc<Judgement>, facts: Option<Arc<Facts>>) {
        let bytes = facts.as_deref().map_or(0, held_bytes);
        if bytes > MAX_FACTS_BYTES {
            return;
        }
        self.bytes += bytes;
        self.verdicts.put(key, Remembered { judgement, facts });
        while self.verdicts.len() > MAX_VERDICTS || self.bytes > MAX_BYTES {
            let Some((_, old)) = self.verdicts.pop_lru() else { break };
            self.bytes -= old.facts.as_deref().map_or(0, held_bytes).min(self.bytes);
        }
    }

    /// The number of who stands behind a connection; the same for all that look alike.
    fn caller(&mut self, origin: &Arc<Origin>) -> u32 {
        let address = Arc::as_ptr(origin).addr();
        if let Some((number, _)) = self.origins.get(&address) {
            return *number;
        }
        let caller = Caller::new(origin, self.set.world());
        let number = match self.callers.get(&caller) {
            Some(number) => *number,
            None => {
                if self.callers.len() >= MAX_CALLERS {
                    self.forget_callers();
                }
                let number = self.number();
                self.callers.put(caller, number);
                number
            }
        };
        if self.origins.len() >= MAX_ORIGINS {
            self.origins.clear();
        }
        self.origins.insert(address, (number, origin.clone()));
        number
    }

    fn claims(&mut self, claims: &[ClaimTag]) -> u32 {
        if let Some(number) = self.claims.get(claims) {
            return *number;
        }
        if self.claims.len() >= MAX_CLAIMS {
            self.claims.pop_lru();
        }
        let number = self.number();
        self.claims.put(claims.into(), number);
        number
    }

    /// Numbers are never given twice, so nothing that is remembered becomes another's.
    fn number(&mut self) -> u32 {
        if self.next == u32::MAX {
            self.forget_callers();
            self.claims.clear();
            self.verdicts.clear();
            self.bytes = 0;
            self.next = 1;
        }
        let number = self.next;
        self.next += 1;
        number
    }

    fn forget_callers(&mut self) {
        self.origins.clear();
        self.callers.clear();
    }
}
