//! Which client of a pooler a statement at the database comes from.
//!
//! A pooler reads a request at its front and writes the same request to the database, which reads it
//! before the client is answered. So whoever sent it is among the fronts that have asked for just that and
//! have no answer yet: there is always the right one among the *candidates*, and where it is the only one
//! it is named. While the database's session is in the middle of something, only those can go on with it
//! that may have begun it: a text like `BEGIN`, which many send, gets its sender's successors told apart.
//!
//! What was not seen is taken for anything: a front whose requests may have been missed is a candidate for
//! everything, and while whole fronts may have been missed nobody is named.

mod front;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use rustc_hash::FxHashMap;

use crate::event::{BootTime, ConnectionId, RequestPrint, TransactionStatus};
use front::Front;

/// A request that nobody saw may wait for a place in the pool for so long: PgBouncer's
/// `query_wait_timeout`.
const PATIENCE_NS: u64 = 120_000_000_000;
/// Between a pooler's writing and the database's reading, however busy the host is.
const DELIVERY_NS: u64 = 60_000_000_000;
/// Fronts that may have begun what a session of the database is in the middle of.
const MAX_HOLDERS: usize = 64;
/// Candidates that are told.
const MAX_TOLD: usize = 16;
/// Fronts that have gone and may still have something on its way.
const MAX_GONE: usize = 1_024;

/// One pooler's connections. `W` is whatever says who is at a front.
#[derive(Debug)]
pub struct Pooler<W> {
    fronts: FxHashMap<ConnectionId, Front<W>>,
    /// Which fronts wait with that print; one that waits with it twice stands there twice.
    waiting: FxHashMap<u64, Vec<ConnectionId>>,
    /// Fronts that may have asked for anything.
    wild: BTreeSet<ConnectionId>,
    gone: BTreeSet<ConnectionId>,
    backs: FxHashMap<ConnectionId, Back>,
    /// Until then there may be fronts with requests that nobody saw.
    unsure_until: BootTime,
}

/// Who may have sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Behind<W> {
    One(W),
    /// One of these few.
    Several(Vec<W>),
    /// The pooler itself, or anybody.
    Nobody,
}

/// A connection from the pooler to the database.
#[derive(Debug, Default)]
struct Back {
    holder: Holder,
    in_transaction: bool,
}

/// For whom the pooler keeps it.
#[derive(Debug, Default)]
enum Holder {
    /// It waits for anybody's request.
    Free,
    /// One of these.
    Fronts(Vec<ConnectionId>),
    #[default]
    Anybody,
}

impl<W: Clone> Pooler<W> {
    /// `had_fronts`: it may have been at work already.
    pub fn new(now: BootTime, had_fronts: bool) -> Self {
        Self {
            fronts: FxHashMap::default(),
            waiting: FxHashMap::default(),
            wild: BTreeSet::new(),
            gone: BTreeSet::new(),
            backs: FxHashMap::default(),
            unsure_until: if had_fronts { after(now, PATIENCE_NS) } else { BootTime(0) },
        }
    }

    /// Records of any of its fronts may have been lost.
    pub fn unsure(&mut self, now: BootTime) {
        self.unsure_until = self.unsure_until.max(after(now, PATIENCE_NS));
    }

    pub fn is_unsure(&self, now: BootTime) -> bool {
        now < self.unsure_until
    }

    /// The client at a front asks for something.
    pub fn front_asked(
        &mut self,
        front: ConnectionId,
        now: BootTime,
        sequence: u64,
        request: RequestPrint,
        who: W,
    ) {
        let known = self.fronts.entry(front).or_insert_with(|| Front::new(who.clone()));
        known.who = who;
        match request {
            RequestPrint::Known(print) => {
                self.waiting.entry(print).or_default().push(front);
                if !known.ask(sequence, print) {
                    self.forget_waiting(front);
                    self.doubt(front, now);
                }
            }
            // It is never looked for.
            RequestPrint::Common(_) => {}
            RequestPrint::Unknown => self.doubt(front, now),
        }
    }

    /// Everything before `unanswered` has its answer. Without a status, that isn't sure.
    pub fn front_ready(
        &mut self,
        front: ConnectionId,
        now: BootTime,
        status: Option<TransactionStatus>,
        unanswered: u64,
    ) {
        let Some(known) = self.fronts.get_mut(&front) else { return };
        let Some(status) = status else { return self.doubt(front, now) };
        let answered = known.answered(unanswered);
        known.in_transaction = status != TransactionStatus::Idle;
        self.wild.remove(&front);
        answered.into_iter().for_each(|print| unlist(&mut self.waiting, print, front));
    }

    /// Some of its requests may have been missed.
    pub fn front_unsure(&mut self, front: ConnectionId, now: BootTime, who: W) {
        self.fronts.entry(front).or_insert_with(|| Front::new(who));
        self.doubt(front, now);
    }

    /// What it has asked for last may still be on its way.
    pub fn front_closed(&mut self, front: ConnectionId, now: BootTime) {
        let Some(known) = self.fronts.get_mut(&front) else { return };
        if known.is_quiet() && !self.wild.contains(&front) {
            self.forget(front);
            return;
        }
        known.gone_at = Some(now);
        self.gone.insert(front);
        if self.gone.len() > MAX_GONE {
            let first = self.gone.first().copied();
            first.into_iter().for_each(|front| self.forget(front));
            self.unsure(now);
        }
    }

    /// The database has read a request that came by way of this pooler.
    pub fn back_asked(
        &mut self,
        back: ConnectionId,
        now: BootTime,
        request: RequestPrint,
    ) -> Behind<W> {
        let Back { holder, in_transaction } = self.backs.remove(&back).unwrap_or_default();
        let possible = self.possible(&holder, in_transaction, request, now);
        let behind = match possible.as_slice() {
            [front] => {
                if let RequestPrint::Known(print) = request
                    && let Some(known) = self.fronts.get_mut(front)
                {
                    let passed = known.passed_on(print);
                    passed.into_iter().for_each(|print| unlist(&mut self.waiting, print, *front));
                }
                self.who(front).map_or(Behind::Nobody, Behind::One)
            }
            fronts if fronts.is_empty() || fronts.len() > MAX_TOLD => Behind::Nobody,
            fronts => Behind::Several(fronts.iter().filter_map(|front| self.who(front)).collect()),
        };
        let holder = match possible.len() {
            1..=MAX_HOLDERS => Holder::Fronts(possible),
            _ => Holder::Anybody,
        };
        self.backs.insert(back, Back { holder, in_transaction });
        behind
    }

    /// The database is ready for more; `is_quiet` if it has answered everything. Without a status, that
    /// isn't sure.
    pub fn back_ready(
        &mut self,
        back: ConnectionId,
        status: Option<TransactionStatus>,
        is_quiet: bool,
    ) {
        let known = self.backs.entry(back).or_default();
        known.in_transaction = status.is_some_and(|status| status != TransactionStatus::Idle);
        match status {
            Some(TransactionStatus::Idle) if is_quiet => known.holder = Holder::Free,
            Some(_) => {}
            None => known.holder = Holder::Anybody,
        }
    }

    /// Some of its requests may have been missed.
    pub fn back_unsure(&mut self, back: ConnectionId) {
        self.backs.insert(back, Back::default());
    }

    pub fn back_closed(&mut self, back: ConnectionId) {
        self.backs.remove(&back);
    }

    /// Forgets what can't be on its way any more; to be called now and then.
    pub fn tick(&mut self, now: BootTime) {
        let fronts = &self.fronts;
        let is_over = |front: &&ConnectionId| {
            let gone_at = fronts.get(front).and_then(|known| known.gone_at);
            gone_at.is_none_or(|at| now >= after(at, DELIVERY_NS))
        };
        let over: Vec<ConnectionId> = self.gone.iter().filter(is_over).copied().collect();
        over.into_iter().for_each(|front| self.forget(front));
        self.wild.retain(|front| fronts_unsure(&self.fronts, front, now));
    }

    /// Fronts that may have sent it; the right one is always among them, if there is one.
    fn possible(
        &self,
        holder: &Holder,
        in_transaction: bool,
        request: RequestPrint,
        now: BootTime,
    ) -> Vec<ConnectionId> {
        let print = match request {
            RequestPrint::Known(print) => Some(print),
            RequestPrint::Common(_) | RequestPrint::Unknown => None,
        };
        if let Holder::Fronts(fronts) = holder {
            let may = |front: &&ConnectionId| {
                let Some(known) = self.fronts.get(front) else { return false };
                print.is_none_or(|print| known.waits_with(print)) || self.wild.contains(front)
            };
            return fronts.iter().filter(may).copied().collect();
        }
        // What a free session is asked may be the pooler's own; what nobody has read may be anybody's.
        let Some(print) = print else { return Vec::new() };
        if self.is_unsure(now) {
            return Vec::new();
        }
        let is_free = matches!(holder, Holder::Free);
        let mut possible: Vec<ConnectionId> = self.waiting.get(&print).cloned().unwrap_or_default();
        possible.retain(|front| {
            let Some(known) = self.fronts.get(front) else { return false };
            // Whoever has been told that his transaction goes on has another session, or, if it is over,
            // none: unless requests of his are under way that change that.
            let elsewhere = (is_free && known.in_transaction)
                || (!is_free && in_transaction && !known.in_transaction);
            !(elsewhere && known.is_next(print))
        });
        if possible.is_empty() {
            // What the pooler says of itself has no sender at all.
            return possible;
        }
        possible.extend(self.wild.iter().filter(|front| fronts_unsure(&self.fronts, front, now)));
        possible.sort_unstable();
        possible.dedup();
        possible
    }

    fn doubt(&mut self, front: ConnectionId, now: BootTime) {
        if let Some(known) = self.fronts.get_mut(&front) {
            known.unsure_until = after(now, PATIENCE_NS);
            self.wild.insert(front);
        }
    }

    fn who(&self, front: &ConnectionId) -> Option<W> {
        self.fronts.get(front).map(|known| known.who.clone())
    }

    fn forget_waiting(&mut self, front: ConnectionId) {
        let Some(known) = self.fronts.get_mut(&front) else { return };
        let prints = known.forget();
        prints.into_iter().for_each(|print| unlist(&mut self.waiting, print, front));
    }

    fn forget(&mut self, front: ConnectionId) {
        self.forget_waiting(front);
        self.fronts.remove(&front);
        self.wild.remove(&front);
        self.gone.remove(&front);
    }
}

fn fronts_unsure<W>(
    fronts: &FxHashMap<ConnectionId, Front<W>>,
    front: &ConnectionId,
    now: BootTime,
) -> bool {
    fronts.get(front).is_some_and(|known| now < known.unsure_until)
}

fn unlist(waiting: &mut FxHashMap<u64, Vec<ConnectionId>>, print: u64, front: ConnectionId) {
    let Some(fronts) = waiting.get_mut(&print) else { return };
    if let Some(at) = fronts.iter().position(|other| *other == front) {
        fronts.swap_remove(at);
    }
    if fronts.is_empty() {
        waiting.remove(&print);
    }
}

fn after(at: BootTime, ns: u64) -> BootTime {
    BootTime(at.0.saturating_add(ns))
}
