//! Which columns show what other columns have: those of views, and those that a table has from its parents.

use std::collections::{HashMap, HashSet};

use super::{ReadsUses, follow::Follow, ground::Ground, scope::Origin};
use crate::guard::catalog::{Kind, Relation, Snapshot};

/// From a column to another: more of them are not kept, and then nothing is known.
const MAX_EDGES: usize = 200_000;
/// Views that are looked into.
const MAX_VIEWS: usize = 2_000;

/// A column by its relation's number and its own.
pub(in crate::guard) type Place = (u32, i16);

/// By column: those that show it, and whether they show something else that is made of it.
#[derive(Debug, Default)]
pub(super) struct Lineage {
    shown_by: HashMap<Place, Vec<(Place, bool)>>,
    n_edges: usize,
}

/// Why it can't be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unknown {
    /// There is too much of it.
    TooMuch,
    /// Nobody has answered who should; the next time they may.
    Unanswered,
}

/// All columns matter, wherever they go.
pub(super) struct All<'a>(pub &'a Snapshot);

impl Ground for All<'_> {
    fn snapshot(&self) -> &Snapshot {
        self.0
    }

    fn matters(&self, _relation: u32, _place: i16) -> bool {
        true
    }

    fn is_lenient(&self) -> bool {
        true
    }

    fn is_changing(&self, _relation: Option<u32>, _name: &str) -> bool {
        false
    }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

impl Lineage {
    /// Of all that shows something of these relations.
    pub(super) fn of(
        snapshot: &Snapshot,
        relations: impl Iterator<Item = u32>,
        analyst: &mut impl ReadsUses,
    ) -> Result<Self, Unknown> {
        let mut lineage = Self::default();
        let mut readers: HashMap<u32, Vec<u32>> = HashMap::new();
        let mut parents: HashMap<u32, Vec<u32>> = HashMap::new();
        for relation in snapshot.all() {
            for read in snapshot.reads(relation.oid) {
                readers.entry(*read).or_default().push(relation.oid);
            }
            for child in snapshot.children(relation.oid) {
                parents.entry(*child).or_default().push(relation.oid);
            }
        }
        let mut waiting: Vec<u32> = relations.collect();
        let mut seen: HashSet<u32> = waiting.iter().copied().collect();
        let mut views: HashSet<u32> = HashSet::new();
        while let Some(oid) = waiting.pop() {
            lineage.generates(snapshot, oid, analyst)?;
            let kin = parents.get(&oid).into_iter().flatten().chain(snapshot.children(oid));
            for other in kin {
                lineage.inherits(snapshot, oid, *other)?;
                if seen.insert(*other) {
                    waiting.push(*other);
                }
            }
            for view in readers.get(&oid).into_iter().flatten() {
                if views.insert(*view) {
                    let relation = snapshot.relation(*view);
                    lineage.shows(snapshot, relation.ok_or(Unknown::Unanswered)?, analyst)?;
                }
                if seen.insert(*view) {
                    waiting.push(*view);
                }
            }
            if views.len() > MAX_VIEWS {
                return Err(Unknown::TooMuch);
            }
        }
        Ok(lineage)
    }

    /// Those that show something of a column, each with whether it is made of it.
    pub(super) fn shown_by(&self, place: Place) -> &[(Place, bool)] {
        self.shown_by.get(&place).map(Vec::as_slice).unwrap_or_default()
    }

    fn edge(&mut self, from: Place, to: Place, is_derived: bool) -> Result<(), Unknown> {
        self.n_edges += 1;
        self.shown_by.entry(from).or_default().push((to, is_derived));
        if self.n_edges > MAX_EDGES { Err(Unknown::TooMuch) } else { Ok(()) }
    }

    /// Rows of one may be read by the other's name.
    fn inherits(&mut self, snapshot: &Snapshot, one: u32, other: u32) -> Result<(), Unknown> {
        for column in snapshot.columns(one) {
            let same = snapshot.columns(other).iter().find(|it| it.name == column.name);
            if let Some(same) = same {
                self.edge((one, column.place), (other, same.place), false)?;
            }
        }
        Ok(())
    }

    /// Columns that are computed from others of their table.
    fn generates(
        &mut self,
        snapshot: &Snapshot,
        oid: u32,
        analyst: &mut impl ReadsUses,
    ) -> Result<(), Unknown> {
        let Some(relation) = snapshot.relation(oid) else { return Ok(()) };
        for column in snapshot.columns(oid) {
            let Some(expression) = &column.made_by else { continue };
            let table = [relation.schema.as_str(), &relation.name].map(quoted).join(".");
            let text = format!("SELECT {expression} AS made FROM {table}");
            let uses = analyst.read_uses(&text).ok_or(Unknown::Unanswered)?;
            let ground = All(snapshot);
            let made_of = match &*uses {
                [only] => Follow::new(&ground, only).outputs().ok(),
                _ => None,
            };
            let from: Vec<Place> = match made_of {
                Some(columns) => {
                    columns.union().iter().map(|from| (from.relation, from.place)).collect()
                }
                None => snapshot.columns(oid).iter().map(|it| (oid, it.place)).collect(),
            };
            for place in from.into_iter().filter(|place| *place != (oid, column.place)) {
                self.edge(place, (oid, column.place), true)?;
            }
        }
        Ok(())
    }

    /// What a view's columns are made of, by its query.
    fn shows(
        &mut self,
        snapshot: &Snapshot,
        view: &Relation,
        analyst: &mut impl ReadsUses,
    ) -> Result<(), Unknown> {
        if !matches!(view.kind, Kind::View | Kind::MaterializedView) {
            return Ok(());
        }
        let own = snapshot.columns(view.oid);
        let query = view.definition.as_deref();
        let uses = match query {
            Some(query) => Some(analyst.read_uses(query).ok_or(Unknown::Unanswered)?),
            None => None,
        };
        let ground = All(snapshot);
        let columns = match uses.as_deref() {
            Some([only]) => Follow::new(&ground, only).outputs().ok(),
            _ => None,
        };
        if let Some(columns) = columns.filter(|it| it.is_exact && it.all.len() == own.len()) {
            for (shown, column) in own.iter().zip(&columns.all) {
                for Origin { relation, place, is_derived } in &column.from {
                    self.edge((*relation, *place), (view.oid, shown.place), *is_derived)?;
                }
            }
            return Ok(());
        }
        // Anything of what it reads may be in any of them.
        for read in snapshot.reads(view.oid) {
            for column in snapshot.columns(*read) {
                for shown in own {
                    self.edge((*read, column.place), (view.oid, shown.place), true)?;
                }
            }
        }
        Ok(())
    }
}
