//! Names that what was seen lacks: somebody may have made them past the guard a moment ago.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use super::{Catalogs, Database, NEWS_LOOKS, Snapshot, lock};
use crate::{
    event::{Access, Facts, TableAccess},
    guard::lineage::{last_part, may_be_system},
};

/// Between looks for the sake of such names.
const PAUSE: Duration = Duration::from_millis(500);
/// Names that were looked for in vain.
const MAX_NAMES: usize = 1_000;

#[derive(Debug, Default)]
pub(super) struct Sought {
    /// Each with the print of what there was then.
    names: HashMap<Arc<str>, u64>,
    last: Option<Instant>,
}

impl Sought {
    /// As if the last look were long ago.
    #[cfg(test)]
    pub(super) fn allow(&mut self) {
        self.last = None;
    }

    /// Whether another look may show one of these; they are not looked for again before something changes.
    fn is_worth_it(&mut self, names: Vec<Arc<str>>, print: u64, pause: Duration) -> bool {
        let is_new = |name: &Arc<str>| self.names.get(name) != Some(&print);
        let names: Vec<Arc<str>> = names.into_iter().filter(is_new).collect();
        let is_early = self.last.is_some_and(|last| last.elapsed() < pause);
        if names.is_empty() || is_early {
            return false;
        }
        if self.names.len() + names.len() > MAX_NAMES {
            self.names.clear();
        }
        self.names.extend(names.into_iter().take(MAX_NAMES).map(|name| (name, print)));
        self.last = Some(Instant::now());
        true
    }
}

/// What a statement names that isn't there, but for what its session has made itself.
pub(in crate::guard) fn lacking(
    snapshot: &Snapshot,
    said: &Facts,
    made: &HashSet<Arc<str>>,
) -> Vec<Arc<str>> {
    let is_meant = |table: &&TableAccess| {
        !matches!(table.access, Access::Define | Access::Drop)
            && !may_be_system(&table.name)
            && !made.contains(&table.name)
            && snapshot.relations(&table.name).next().is_none()
    };
    let tables = said.tables.iter().filter(is_meant).map(|table| table.name.clone());
    let calls = said.calls.iter().filter(|call| {
        let operator = last_part(call);
        ***call != *"?"
            && snapshot.functions(call).next().is_none()
            && snapshot.operators(operator).is_empty()
    });
    tables.chain(calls.cloned()).collect()
}

impl Catalogs {
    /// As [`Catalogs::snapshot`], for whoever names what it may lack.
    pub(in crate::guard) fn snapshot_with(
        &self,
        database: &Arc<Database>,
        patience: Duration,
        lacking: impl FnOnce(&Snapshot) -> Vec<Arc<str>>,
    ) -> Option<Arc<Snapshot>> {
        let snapshot = self.snapshot(database, patience)?;
        let lacking = lacking(&snapshot);
        if lacking.is_empty() {
            return Some(snapshot);
        }
        let mut known = lock(&database.known);
        let (print, took) = (known.print, known.looked.map_or(Duration::ZERO, |(_, took)| took));
        if !known.sought.is_worth_it(lacking, print, PAUSE.max(took * NEWS_LOOKS)) {
            return Some(snapshot);
        }
        let asked = Instant::now();
        let until = asked + patience;
        loop {
            let now = Instant::now();
            if known.looked.is_some_and(|(at, _)| at >= asked) {
                return known.snapshot.clone();
            }
            self.look_anew(database, &mut known, now);
            let left = until.checked_duration_since(now).filter(|left| !left.is_zero());
            let is_hopeless = !known.is_looking || database.is_stuck.load(Ordering::Acquire);
            let Some(left) = left.filter(|_| !is_hopeless) else {
                return known.snapshot.clone();
            };
            known =
                database.told.wait_timeout(known, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
