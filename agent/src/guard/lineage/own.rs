//! Relations of a session that no catalog shows: temporary ones, and those of a transaction that isn't committed.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::{follow::Made, last_part};
use crate::{event::Ancestor, guard::catalog::Snapshot};

/// Labelled columns that something comes from, and whether it is made of them and not the same.
pub(in crate::guard) type Roots = BTreeMap<Arc<Ancestor>, bool>;

/// Relations that are told apart.
const MAX_RELATIONS: usize = 1_000;

pub(super) fn unite(roots: &mut Roots, more: &Roots, is_derived: bool) {
    for (ancestor, derived) in more {
        *roots.entry(ancestor.clone()).or_default() |= is_derived || *derived;
    }
}

/// What of labelled columns there is in them.
#[derive(Debug, Default)]
pub(in crate::guard) struct Own {
    relations: HashMap<Arc<str>, OwnRelation>,
    /// There were more.
    is_overfull: bool,
}

#[derive(Clone, Debug)]
pub(super) struct OwnRelation {
    pub columns: Vec<(Option<Arc<str>>, Roots)>,
    /// In this order, and no others.
    pub is_exact: bool,
    made: Made,
    /// Those by its name that it isn't.
    known: Vec<u32>,
}

/// Which column of a relation that nobody has seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::guard) enum Slot {
    Named(Arc<str>),
    /// From 0.
    At(usize),
    Any,
}

impl Own {
    pub(in crate::guard) fn is_empty(&self) -> bool {
        self.relations.is_empty()
    }

    /// Not all of it is known.
    pub(in crate::guard) fn is_overfull(&self) -> bool {
        self.is_overfull
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.relations.contains_key(last_part(name))
    }

    /// What there is by this name, as far as something of it is labelled.
    pub(super) fn relation(&self, name: &str) -> Option<&OwnRelation> {
        self.relations.get(last_part(name))
    }

    /// It is gone.
    pub(in crate::guard) fn forget(&mut self, name: &str) {
        self.relations.remove(last_part(name));
    }

    /// All that is temporary is gone.
    pub(in crate::guard) fn clear(&mut self) {
        self.relations.clear();
        self.is_overfull = false;
    }

    /// No transaction is open.
    pub(in crate::guard) fn settled(&mut self) {
        self.relations.retain(|_, own| own.made != Made::ForTransaction);
    }

    /// What the catalog shows needs no other place.
    pub(super) fn leave_to(&mut self, snapshot: &Snapshot) {
        let is_shown = |name: &str, known: &[u32]| {
            snapshot.relations(name).any(|relation| !known.contains(&relation.oid))
        };
        self.relations.retain(|name, own| own.made != Made::Lasting || !is_shown(name, &own.known));
    }

    /// It is made of these columns, or of others by an earlier statement that is still there.
    pub(super) fn make(
        &mut self,
        name: &str,
        columns: &[(Option<Arc<str>>, Roots)],
        made: Made,
        known: &[u32],
    ) {
        let (columns, known) = (columns.to_vec(), known.to_vec());
        let is_plain = columns.iter().all(|(_, roots)| roots.is_empty());
        let Some(own) = self.relations.get_mut(last_part(name)) else {
            if !is_plain {
                self.add(name, OwnRelation { columns, is_exact: true, made, known });
            }
            return;
        };
        if own.is_exact && own.columns.len() == columns.len() {
            for (own, column) in own.columns.iter_mut().zip(columns) {
                own.0 = column.0;
                unite(&mut own.1, &column.1, false);
            }
        } else {
            own.columns.extend(columns);
            own.is_exact = false;
        }
    }

    /// Something is written into it.
    pub(super) fn write(&mut self, name: &str, slot: &Slot, roots: &Roots, known: &[u32]) {
        if roots.is_empty() {
            return;
        }
        let column = match slot {
            Slot::Named(column) => Some(column.clone()),
            Slot::At(_) | Slot::Any => None,
        };
        let Some(own) = self.relations.get_mut(last_part(name)) else {
            let (columns, known) = (vec![(column, roots.clone())], known.to_vec());
            let made = Made::Lasting;
            return self.add(name, OwnRelation { columns, is_exact: false, made, known });
        };
        let place = match slot {
            Slot::Named(column) => {
                own.columns.iter().position(|(name, _)| name.as_ref() == Some(column))
            }
            Slot::At(place) if own.is_exact => Some(*place),
            Slot::At(_) | Slot::Any => {
                own.columns.iter().position(|(name, known)| name.is_none() && known == roots)
            }
        };
        match place.and_then(|place| own.columns.get_mut(place)) {
            Some((_, known)) => unite(known, roots, false),
            None => {
                own.columns.push((column, roots.clone()));
                own.is_exact = false;
            }
        }
    }

    fn add(&mut self, name: &str, relation: OwnRelation) {
        match self.relations.len() < MAX_RELATIONS {
            true => drop(self.relations.insert(last_part(name).into(), relation)),
            false => self.is_overfull = true,
        }
    }
}
