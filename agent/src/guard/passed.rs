//! What a client says again as it has passed before isn't judged anew, as long as nothing has changed by which it was.

use std::sync::Arc;

use super::{
    behind,
    catalog::{self, Database, Snapshot},
    client_court::ClientCourt,
    court::Reading,
    judging::Judging,
};
use crate::{event::Facts, statement::Analysed};

/// What rules had nothing to say about last, nor anything to hide of it, and by which nobody inherits.
pub(super) struct Passed {
    analysed: Arc<Analysed>,
    /// Of the rules ([`Judging::era`]).
    era: u64,
    /// Of the database, where its catalog is asked.
    seen: Option<Seen>,
}

/// A database as it was seen, and what it had inherited.
struct Seen {
    snapshot: Arc<Snapshot>,
    version: u64,
}

impl ClientCourt {
    pub(super) fn has_passed(&self, reading: &Reading) -> bool {
        let Some(Passed { analysed, era, seen }) = &self.passed else { return false };
        Arc::ptr_eq(analysed, &reading.analysed)
            && reading.claims.is_none()
            && reading.nulled.is_none()
            && !reading.takes_own_types()
            && *era == self.judging.borrow().era()
            && match (&self.database, seen) {
                (None, None) => true,
                (Some(database), Some(Seen { snapshot, version })) => {
                    self.veil.own.is_empty()
                        && *version == database.inherited.version()
                        && database.shows(snapshot)
                }
                (None, Some(_)) | (Some(_), None) => false,
            }
    }

    /// It has passed just now.
    pub(super) fn passes(&mut self, reading: &Reading) {
        self.passed = self.as_passed(reading);
    }

    /// `None` where time counts, or what it claims, or its parameters and their types: it may be otherwise the next time.
    fn as_passed(&self, reading: &Reading) -> Option<Passed> {
        let judging = &mut *self.judging.borrow_mut();
        let (era, set) = (judging.era(), judging.judge.set());
        let is_plain =
            reading.claims.is_none() && reading.nulled.is_none() && !reading.takes_own_types();
        if !is_plain || set.speaks_of_time() {
            return None;
        }
        let seen = match &self.database {
            None if set.masks() => return None,
            None => None,
            Some(database) => Some(self.as_seen(reading, judging, database)?),
        };
        Some(Passed { analysed: reading.analysed.clone(), era, seen })
    }

    fn as_seen(
        &self,
        reading: &Reading,
        judging: &mut Judging,
        database: &Database,
    ) -> Option<Seen> {
        let version = database.inherited.version();
        let snapshot = database.shown()?;
        let analysed = &reading.analysed;
        let leaves_nothing = !judging.judge.set().masks()
            || self.veil.has_left_nothing(analysed, &snapshot, database);
        if reading.is_estimable() || !leaves_nothing {
            return None;
        }
        let key = (database.server, database.name.clone());
        let behind = behind::of(&mut judging.behind, &key, &snapshot)?;
        // What is behind it is known for sure, and all that it names is there.
        let is_known = |said: &Arc<Facts>| {
            behind.has_revealed(said)
                && catalog::lacking(&snapshot, said, self.unsettled.made()).is_empty()
        };
        let mut statements = analysed.statements.iter();
        statements
            .all(|said| !said.names_anything() || is_known(said))
            .then_some(Seen { snapshot, version })
    }
}
