//! What a statement that writes names, and which labelled columns that comes from.

use std::{cell::RefCell, collections::HashMap, sync::Arc};

use super::{
    Labelled,
    follow::{Made, Written},
    ground::Ground,
    last_part,
    own::{Own, Roots, Slot, unite},
    scope::{Column, Columns, Origin, Origins},
    views::Place,
};
use crate::{
    event::{Access, Facts},
    guard::catalog::Snapshot,
    policy::{TableName, Touched},
};

/// A relation, and what its columns get.
pub(super) struct Getting {
    pub relation: Arc<str>,
    pub columns: Vec<(Slot, Option<Arc<str>>, Roots)>,
    pub made: Option<Made>,
    pub is_exact: bool,
}

pub(super) struct Writing<'a> {
    pub labelled: &'a Labelled,
    /// By the statement itself.
    pub fresh: &'a HashMap<Place, Roots>,
    pub own: &'a Own,
    /// What stands for columns that have no number, by their order.
    pub interned: RefCell<Vec<Roots>>,
}

impl Ground for Writing<'_> {
    fn snapshot(&self) -> &Snapshot {
        &self.labelled.snapshot
    }

    fn matters(&self, relation: u32, place: i16) -> bool {
        let place = (relation, place);
        self.labelled.kinship.roots.contains_key(&place) || self.fresh.contains_key(&place)
    }

    fn is_lenient(&self) -> bool {
        true
    }

    fn is_changing(&self, _relation: Option<u32>, _name: &str) -> bool {
        false
    }

    fn asks_for_writes(&self) -> bool {
        true
    }

    fn unseen(&self, name: &str, is_seen: bool) -> Option<Columns> {
        let Some(own) = self.own.relation(name) else {
            // What the server doesn't know either it refuses.
            return (!is_seen).then(Columns::open);
        };
        let mut interned = self.interned.borrow_mut();
        let mut all = Vec::new();
        for (name, roots) in own.columns.clone() {
            let mut from = Origins::new();
            if !roots.is_empty() {
                let number = u32::MAX.saturating_sub(u32::try_from(interned.len()).unwrap_or(0));
                from.insert(Origin { relation: number, place: 0, is_derived: false });
                interned.push(roots);
            }
            all.push(Column { name, from, kind: None });
        }
        Some(Columns { all, is_exact: own.is_exact, is_open: !own.is_exact })
    }
}

impl Writing<'_> {
    fn known(&self, place: Place) -> impl Iterator<Item = &Roots> {
        let known = self.labelled.kinship.roots.get(&place).into_iter();
        known.chain(self.fresh.get(&place))
    }

    fn roots(&self, origins: &Origins) -> Roots {
        let interned = self.interned.borrow();
        let mut roots = Roots::new();
        for Origin { relation, place, is_derived } in origins {
            let number = usize::try_from(u32::MAX - relation).unwrap_or(usize::MAX);
            let own = interned.get(number).filter(|_| *place == 0);
            let known = self.known((*relation, *place)).chain(own);
            known.for_each(|known| unite(&mut roots, known, *is_derived));
        }
        roots
    }

    pub(super) fn getting(&self, written: Written) -> Getting {
        let Written { relation, names, values, made } = written;
        let is_exact = values.is_exact && !values.is_open;
        let mut columns = Vec::new();
        if is_exact {
            for (place, column) in values.all.iter().enumerate() {
                let name = names.get(place).cloned();
                let slot = match &name {
                    Some(name) if made.is_none() => Slot::Named(name.clone()),
                    _ => Slot::At(place),
                };
                columns.push((
                    slot,
                    name.or_else(|| column.name.clone()),
                    self.roots(&column.from),
                ));
            }
        } else {
            let mut roots = Roots::new();
            unite(&mut roots, &self.roots(&values.union()), true);
            let named = names.iter().filter(|_| made.is_none()).cloned();
            let named = named.map(|name| (Slot::Named(name.clone()), Some(name), roots.clone()));
            columns.extend(named);
            if columns.is_empty() {
                columns.push((Slot::Any, None, roots));
            }
        }
        Getting { relation, columns, made, is_exact }
    }

    /// Labelled columns that a statement, or code, reads, as far as its words tell.
    pub(super) fn read(&self, facts: &Facts) -> Roots {
        let reads = |access| {
            matches!(access, Access::Read | Access::Update | Access::Delete | Access::Lock)
        };
        let mut roots = Roots::new();
        for table in facts.tables.iter().filter(|table| reads(table.access)) {
            let name = TableName::new(&table.name, Some(self.snapshot().database()));
            let touched = Touched::by(Some(facts), &table.name, &name);
            self.touched(&table.name, &touched, &mut roots);
            let own = self.own.relation(&table.name).into_iter().flat_map(|it| &it.columns);
            own.for_each(|(_, own)| unite(&mut roots, own, true));
        }
        roots
    }

    /// Columns of the rows that a statement writes, as far as code that gets those names them.
    pub(super) fn rows_of(&self, said: &Facts, code: &Facts) -> Roots {
        let writes = |access| matches!(access, Access::Insert | Access::Update | Access::Delete);
        let is_whole = |name: &str| matches!(name, "*" | "new" | "old" | "new.*" | "old.*");
        let is_any = !code.analysis.is_complete() || code.columns.iter().any(|it| is_whole(it));
        let touched = match is_any {
            true => Touched::All,
            false => Touched::Named(
                code.columns.iter().map(|name| last_part(name).to_lowercase().into()).collect(),
            ),
        };
        let mut roots = Roots::new();
        for table in said.tables.iter().filter(|table| writes(table.access)) {
            self.touched(&table.name, &touched, &mut roots);
        }
        roots
    }

    fn touched(&self, relation: &str, touched: &Touched, roots: &mut Roots) {
        let snapshot = self.snapshot();
        for relation in snapshot.relations(relation) {
            for column in snapshot.columns(relation.oid) {
                let is_touched = match touched {
                    Touched::All => true,
                    Touched::Named(names) => names.contains(&*column.name.to_lowercase()),
                };
                let known = self.known((relation.oid, column.place)).filter(|_| is_touched);
                known.for_each(|known| unite(roots, known, true));
            }
        }
    }
}
