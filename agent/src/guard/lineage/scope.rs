//! Names in a query, and the columns of relations that each of them may stand for.

use std::{collections::BTreeSet, sync::Arc};

/// A column of a relation that a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Origin {
    pub relation: u32,
    /// `attnum`
    pub place: i16,
    /// The value is made from that column's, and not the same.
    pub is_derived: bool,
}

pub(super) type Origins = BTreeSet<Origin>;

pub(super) fn derived(origins: &Origins) -> Origins {
    origins.iter().map(|origin| Origin { is_derived: true, ..*origin }).collect()
}

#[derive(Clone, Debug, Default)]
pub(super) struct Column {
    /// `None` where PostgreSQL makes it: then it may be any.
    pub name: Option<Arc<str>>,
    pub from: Origins,
    /// Number of its type, where that is known.
    pub kind: Option<u32>,
}

/// The columns of something, in one of its meanings.
#[derive(Clone, Debug)]
pub(super) struct Columns {
    pub all: Vec<Column>,
    /// In this order, and no others between them.
    pub is_exact: bool,
    /// It may have more, from which nothing comes that matters.
    pub is_open: bool,
}

impl Default for Columns {
    fn default() -> Self {
        Self { all: Vec::new(), is_exact: true, is_open: false }
    }
}

impl Columns {
    /// Of what nobody knows the columns of, and nothing comes from.
    pub(super) fn open() -> Self {
        Self { all: Vec::new(), is_exact: false, is_open: true }
    }

    pub(super) fn union(&self) -> Origins {
        self.all.iter().flat_map(|column| &column.from).copied().collect()
    }

    /// With other names for the first ones.
    pub(super) fn renamed(mut self, names: &[Arc<str>]) -> Self {
        if names.is_empty() {
            return self;
        }
        if self.is_exact {
            for (column, name) in self.all.iter_mut().zip(names) {
                column.name = Some(name.clone());
            }
            return self;
        }
        // Each may be any of them.
        let from = self.union();
        let renamed = names.iter().map(|name| Column {
            name: Some(name.clone()),
            from: from.clone(),
            kind: None,
        });
        self.all.extend(renamed);
        self
    }

    pub(super) fn append(&mut self, other: &Self) {
        self.all.extend_from_slice(&other.all);
        self.is_exact &= other.is_exact;
        self.is_open |= other.is_open;
    }

    fn has(&self, name: &str) -> bool {
        self.all.iter().any(|column| column.name.as_deref() == Some(name))
    }
}

/// What a name in `FROM` stands for: one of these.
#[derive(Clone, Debug, Default)]
pub(super) struct Item {
    pub alias: Arc<str>,
    pub meanings: Vec<Columns>,
    pub is_hidden: bool,
    /// A relation itself, and nothing that is made of some.
    pub is_relation: bool,
}

/// Names of columns that every table has, and nothing is hidden in.
const SYSTEM: [&str; 6] = ["tableoid", "ctid", "xmin", "xmax", "cmin", "cmax"];

impl Item {
    /// What a column by this name comes from, and whether it surely has one.
    fn column(&self, name: &str) -> (Origins, bool) {
        let columns = self.meanings.iter().flat_map(|meaning| &meaning.all);
        let named = columns.filter(|column| column.name.as_deref().is_none_or(|own| own == name));
        let from = named.flat_map(|column| &column.from).copied().collect();
        let is_sure = !self.meanings.is_empty() && self.meanings.iter().all(|one| one.has(name));
        (from, is_sure)
    }

    fn row(&self) -> Origins {
        let columns = self.meanings.iter().flat_map(|meaning| &meaning.all);
        columns.flat_map(|column| &column.from).copied().collect()
    }

    fn is_open(&self) -> bool {
        self.meanings.iter().any(|meaning| meaning.is_open)
    }

    /// One meaning, in which there is all that is in any.
    pub(super) fn together(&self) -> Columns {
        match self.meanings.as_slice() {
            [only] => only.clone(),
            several => {
                let mut all = Columns::default();
                several.iter().for_each(|meaning| all.append(meaning));
                Columns { is_exact: false, ..all }
            }
        }
    }
}

/// The names of one query.
#[derive(Debug, Default)]
pub(super) struct Level {
    pub items: Vec<Item>,
    /// Not all of them can be named from where somebody looks: what isn't found may be found further out, and what
    /// is found may not be what is meant.
    pub is_partial: bool,
}

/// What a reference comes from.
#[derive(Debug, Default)]
pub(super) struct Resolved {
    pub from: Origins,
    /// What of it is a relation's own column here.
    pub own: Origins,
    /// It may be a whole row.
    pub row: Origins,
}

impl Resolved {
    fn take(&mut self, item: &Item, from: Origins) {
        if item.is_relation {
            self.own.extend(&from);
        }
        self.from.extend(from);
    }
}

/// The query at hand and those around it, outermost first.
#[derive(Debug, Default)]
pub(super) struct Scopes(pub Vec<Level>);

impl Scopes {
    /// PostgreSQL looks from the inside out, and takes what it finds first.
    pub(super) fn resolve(&self, of: Option<&str>, column: Option<&str>) -> Resolved {
        let mut resolved = Resolved::default();
        let mut is_found = false;
        for level in self.0.iter().rev() {
            let found = match (of, column) {
                (Some(of), column) => level.qualified(of, column, &mut resolved),
                (None, Some(column)) => level.unqualified(column, &mut resolved),
                (None, None) => {
                    level.items.iter().for_each(|item| resolved.row.extend(item.row()));
                    true
                }
            };
            is_found |= found;
            if found && !level.is_partial {
                return resolved;
            }
        }
        let may_be_elsewhere = || self.0.iter().flat_map(|level| &level.items).any(Item::is_open);
        let is_system = column.is_some_and(|column| SYSTEM.contains(&column));
        if !is_found && !is_system && !may_be_elsewhere() {
            // The server won't find it either, or it was looked up wrongly here.
            let all = self.0.iter().flat_map(|level| &level.items);
            all.for_each(|item| resolved.row.extend(item.row()));
        }
        resolved
    }

    /// What `*` after an alias stands for.
    pub(super) fn star_of(&self, alias: &str) -> Option<Columns> {
        let levels = self.0.iter().rev();
        let mut named = levels.map(|level| {
            let named = level.items.iter().filter(|item| *item.alias == *alias);
            (named.map(Item::together).collect::<Vec<_>>(), level.is_partial)
        });
        let (found, is_partial) = named.find(|(found, _)| !found.is_empty())?;
        match <[Columns; 1]>::try_from(found) {
            Ok([only]) if !is_partial => Some(only),
            Ok([only]) => Some(Columns { is_exact: false, ..only }),
            Err(several) => {
                let mut all = Columns::default();
                several.iter().for_each(|one| all.append(one));
                Some(Columns { is_exact: false, ..all })
            }
        }
    }
}

impl Level {
    /// All columns of these, one after the other.
    pub(super) fn together(&self, places: &[usize]) -> Columns {
        let mut all = Columns::default();
        for item in places.iter().filter_map(|place| self.items.get(*place)) {
            all.append(&item.together());
        }
        all
    }

    fn qualified(&self, of: &str, column: Option<&str>, resolved: &mut Resolved) -> bool {
        let mut is_found = false;
        for item in self.items.iter().filter(|item| *item.alias == *of) {
            is_found = true;
            let Some(column) = column else {
                resolved.row.extend(item.row());
                continue;
            };
            let (from, is_sure) = item.column(column);
            resolved.take(item, from);
            // `t.f` for `f(t)`
            if !is_sure && !SYSTEM.contains(&column) {
                resolved.row.extend(item.row());
            }
        }
        is_found
    }

    fn unqualified(&self, column: &str, resolved: &mut Resolved) -> bool {
        let mut is_sure = false;
        for item in &self.items {
            let (from, has_it) = item.column(column);
            resolved.take(item, from);
            is_sure |= has_it && !item.is_hidden;
        }
        if is_sure {
            return true;
        }
        // `SELECT t FROM t`
        let mut is_row = false;
        for item in self.items.iter().filter(|item| *item.alias == *column) {
            resolved.row.extend(item.row());
            is_row = true;
        }
        is_row
    }

    /// All that `*` stands for.
    pub(super) fn star(&self) -> Columns {
        let mut all = Columns::default();
        for item in self.items.iter().filter(|item| !item.is_hidden) {
            all.append(&item.together());
        }
        all
    }
}
