//! Verdicts by who, what and which circumstances make a difference, remembered.

use std::{hash::RandomState, sync::Arc};

use lru::LruCache;
use rustc_hash::FxHashMap;

use super::{
    Caller, Set,
    alike::Alike,
    question::{Case, Circumstances, Subject, clock},
};
use crate::event::{ClaimTag, Destination, Facts, Judgement, Origin, WallTime};

/// Connections that are known by address. Forgetting them costs a comparison each.
const MAX_ORIGINS: usize = 4_096;
const MAX_CALLERS: usize = 4_096;
const MAX_CLAIMS: usize = 1_024;
const MAX_DESTINATIONS: usize = 4_096;
const MAX_VERDICTS: usize = 32_768;

/// Judges statements and connections by one set of rules after the other.
pub struct Judge {
    set: Arc<Set>,
    /// By address; what stands there is held, so that nothing else can come to stand there.
    origins: FxHashMap<usize, (u64, Arc<Origin>)>,
    callers: LruCache<Caller, u64, RandomState>,
    claims: LruCache<Claims, u64, RandomState>,
    destinations: LruCache<Arc<Destination>, u64, RandomState>,
    facts: Alike,
    next: u64,
    verdicts: LruCache<Key, Arc<Judgement>, rustc_hash::FxBuildHasher>,
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
    what: What,
    caller: u64,
    claims: u64,
    rows: u32,
    estimate: Estimated,
    hour: u16,
}

impl Key {
    /// Where nothing has been said, or not by a statement.
    fn silent(what: What, caller: u64, hour: u16) -> Self {
        Self { what, caller, rows: 0, estimate: Estimated::default(), claims: 0, hour }
    }
}

/// A client at a moment, as far as rules can tell it from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Standing {
    caller: u64,
    claims: u64,
    hour: u16,
}

/// Of an estimate, what rules can tell apart.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
struct Estimated {
    rows: u32,
    percent: u32,
    is_bulk: Option<bool>,
}

/// By number; facts and destinations count apart.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum What {
    /// Nobody saw the text.
    Unseen,
    Facts(u64),
    Destination(u64),
    /// A connection of the caller's own.
    Connect,
}

impl Judge {
    pub fn new(set: Arc<Set>) -> Self {
        Self {
            set,
            origins: FxHashMap::default(),
            callers: LruCache::unbounded_with_hasher(RandomState::new()),
            claims: LruCache::unbounded_with_hasher(RandomState::new()),
            destinations: LruCache::unbounded_with_hasher(RandomState::new()),
            facts: Alike::default(),
            next: 0,
            verdicts: LruCache::unbounded_with_hasher(rustc_hash::FxBuildHasher),
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
        let hour = self.hour(circumstances.time);
        let volatile = &self.set.volatile;
        let rows = volatile.rows.bucket(circumstances.rows);
        let estimate = circumstances.estimate.map_or(Estimated::default(), |estimate| Estimated {
            rows: volatile.estimated_rows.bucket(Some(estimate.rows)),
            percent: volatile.estimated_percent.bucket(estimate.percent.map(u64::from)),
            is_bulk: Some(estimate.is_bulk),
        });
        let claims = match volatile.claims && !circumstances.claims.is_empty() {
            true => self.claims(circumstances.claims),
            false => 0,
        };
        let what = facts.map_or(What::Unseen, |facts| What::Facts(self.facts.number(facts)));
        let key = Key { what, caller, rows, estimate, claims, hour };
        let subject = Subject::Statement(facts.map(|facts| &**facts));
        self.judgement(key, origin, subject, circumstances)
    }

    /// Who asks, and when: the same for two from whom the same is hidden.
    pub fn standing(&mut self, origin: &Arc<Origin>, circumstances: Circumstances<'_>) -> Standing {
        let claims = match self.set.volatile.claims && !circumstances.claims.is_empty() {
            true => self.claims(circumstances.claims),
            false => 0,
        };
        Standing { caller: self.caller(origin), claims, hour: self.hour(circumstances.time) }
    }

    /// The judgement on a connection that a process opens which works for whoever stands behind `origin`.
    pub fn judge_outbound(
        &mut self,
        origin: &Arc<Origin>,
        destination: &Arc<Destination>,
        time: WallTime,
    ) -> Arc<Judgement> {
        let (caller, hour) = (self.caller(origin), self.hour(time));
        let number = match self.destinations.get(destination) {
            Some(number) => *number,
            None => {
                if self.destinations.len() >= MAX_DESTINATIONS {
                    self.destinations.pop_lru();
                }
                let number = self.number();
                self.destinations.put(destination.clone(), number);
                number
            }
        };
        let key = Key::silent(What::Destination(number), caller, hour);
        let circumstances = Circumstances { time, ..Circumstances::default() };
        self.judgement(key, origin, Subject::Outbound(destination), circumstances)
    }

    /// Which way a client goes that connects to the server of `origin`: [`Verdict::Guard`](crate::event::Verdict), or
    /// straight on.
    pub fn judge_connect(&mut self, origin: &Arc<Origin>, time: WallTime) -> Arc<Judgement> {
        let (caller, hour) = (self.caller(origin), self.hour(time));
        let key = Key::silent(What::Connect, caller, hour);
        let circumstances = Circumstances { time, ..Circumstances::default() };
        self.judgement(key, origin, Subject::Connect, circumstances)
    }

    /// As it is remembered, or as the rules say.
    fn judgement(
        &mut self,
        key: Key,
        origin: &Origin,
        subject: Subject<'_>,
        circumstances: Circumstances<'_>,
    ) -> Arc<Judgement> {
        if let Some(judgement) = self.verdicts.get(&key) {
            self.counts.remembered += 1;
            return judgement.clone();
        }
        self.counts.evaluated += 1;
        let caller = Caller::new(origin, self.set.world());
        let case = Case { caller: &caller, subject, circumstances };
        let judgement = Arc::new(self.set.decide(&case));
        if self.verdicts.len() >= MAX_VERDICTS {
            self.verdicts.pop_lru();
        }
        self.verdicts.put(key, judgement.clone());
        judgement
    }

    /// Of the week, where rules speak of it.
    fn hour(&self, time: WallTime) -> u16 {
        if !self.set.volatile.time {
            return 0;
        }
        let (hour, weekday) = clock(time);
        (weekday * 24 + hour) as u16
    }

    /// The number of who stands behind a connection; the same for all that look alike.
    fn caller(&mut self, origin: &Arc<Origin>) -> u64 {
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

    fn claims(&mut self, claims: &[ClaimTag]) -> u64 {
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
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn forget_callers(&mut self) {
        self.origins.clear();
        self.callers.clear();
    }
}
