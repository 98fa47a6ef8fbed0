//! What the names of relations stand for, which of their columns matter, and why a statement can't be let through.

use std::sync::Arc;

use super::{
    holds_values, last_part, may_be_system,
    scope::{Column, Columns, Origin},
};
use crate::{event::Sink, guard::catalog::Snapshot};

/// Why a statement can't be let through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stray {
    /// A column goes where it isn't followed.
    Flows(Origin, Sink),
    /// Nobody knows what there is by this name.
    Unknown(Arc<str>),
    /// Another session, or this one, is about to change what there is by this name.
    Changing(Arc<str>),
    /// Values of other tables stand in it.
    Statistics(Arc<str>),
    /// It changes what a label hangs on.
    Changes(Origin),
    /// Nobody knows which of the columns that are copied is which.
    Places,
    /// It is more than is looked at.
    TooMuch,
    /// Not all of it is understood.
    Unreadable,
}

/// What a relation is named for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum For {
    Reading,
    /// `COPY`, which leaves out what is generated.
    Copying,
    /// What isn't there has nothing that matters.
    Changing,
}

/// What names stand for, and which columns matter.
pub(super) trait Ground {
    fn snapshot(&self) -> &Snapshot;

    /// Whether this column is followed.
    fn matters(&self, relation: u32, place: i16) -> bool;

    /// Columns may go anywhere; only what comes out is asked for.
    fn is_lenient(&self) -> bool;

    /// Whether there may be something else by this name at the moment.
    fn is_changing(&self, relation: Option<u32>, name: &str) -> bool;

    /// What is written is asked for too.
    fn asks_for_writes(&self) -> bool {
        false
    }

    /// What there may be by this name that no catalog shows; `is_seen`: that shows something too.
    fn unseen(&self, _name: &str, _is_seen: bool) -> Option<Columns> {
        None
    }
}

/// All that a relation's name may mean.
pub(super) fn meanings(
    ground: &impl Ground,
    name: &Arc<str>,
    wanted: For,
) -> Result<Vec<Columns>, Stray> {
    let snapshot = ground.snapshot();
    let is_changed = wanted == For::Changing;
    if holds_values(name) && !ground.is_lenient() {
        return Err(Stray::Statistics(name.clone()));
    }
    if !is_changed && ground.is_changing(None, last_part(name)) {
        return Err(Stray::Changing(name.clone()));
    }
    let mut meanings = Vec::new();
    for relation in snapshot.relations(name) {
        if !is_changed && ground.is_changing(Some(relation.oid), &relation.name) {
            return Err(Stray::Changing(name.clone()));
        }
        let shown = snapshot.columns(relation.oid).iter();
        let shown = shown.filter(|it| !(wanted == For::Copying && it.is_generated()));
        let all = shown.map(|column| {
            let (relation, place) = (relation.oid, column.place);
            let origin = Origin { relation, place, is_derived: false };
            let from = ground.matters(relation, place).then_some(origin);
            let (name, kind) = (Some(column.name.clone()), Some(column.kind));
            Column { name, from: from.into_iter().collect(), kind }
        });
        meanings.push(Columns { all: all.collect(), ..Columns::default() });
    }
    if may_be_system(name) {
        meanings.push(Columns::open());
    }
    meanings.extend(ground.unseen(name, !meanings.is_empty()));
    match meanings.is_empty() && !is_changed {
        true => Err(Stray::Unknown(name.clone())),
        false => Ok(meanings),
    }
}
