//! Follows the columns of a statement from the relations that it names to where they go.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::{
    ground::{For, Ground, Stray, meanings},
    nulling::Trace,
    scope::{Column, Columns, Item, Level, Origins, Scopes, derived},
};
use crate::event::{
    By, ByOutput, Create, Cte, Merge, Mix, Of, Output, Query, Rows, Sink, Source, Spot, Uses,
    Values, Write,
};

/// Queries inside of queries: each takes some of the stack.
const MAX_DEPTH: usize = 48;
/// Columns that are followed in all, `*` of wide tables included.
const MAX_STEPS: usize = 200_000;
/// Until what a recursive query gives doesn't change any more.
const MAX_ROUNDS: usize = 16;

pub(super) struct Follow<'a, G> {
    ground: &'a G,
    uses: &'a Uses,
    scopes: Scopes,
    /// Of common table expressions: what they give, and those that are under way.
    done: HashMap<usize, Columns>,
    under_way: HashSet<usize>,
    ctes: HashMap<usize, &'a Cte>,
    depth: usize,
    steps: usize,
    /// Whoever wants to know which references mean a column.
    trace: Option<&'a mut Trace>,
    /// Where that is asked for.
    written: Vec<Written>,
}

/// What some columns of a relation get.
#[derive(Debug)]
pub(super) struct Written {
    pub relation: Arc<str>,
    /// None where they are the relation's own, from the first on.
    pub names: Vec<Arc<str>>,
    pub values: Columns,
    /// The relation is made of it, for this session alone or for all.
    pub made: Option<Made>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Made {
    ForTransaction,
    Temporary,
    Lasting,
}

impl<'a, G: Ground> Follow<'a, G> {
    pub(super) fn new(ground: &'a G, uses: &'a Uses) -> Self {
        Self {
            ground,
            uses,
            scopes: Scopes::default(),
            done: HashMap::new(),
            under_way: HashSet::new(),
            ctes: HashMap::new(),
            depth: 0,
            steps: 0,
            trace: None,
            written: Vec::new(),
        }
    }

    pub(super) fn tracing(ground: &'a G, uses: &'a Uses, trace: &'a mut Trace) -> Self {
        Self { trace: Some(trace), ..Self::new(ground, uses) }
    }

    /// A reference that may mean these; `own`, where it is to a relation's own column.
    fn means(&mut self, spot: Option<Spot>, from: &Origins, own: &Origins) {
        if let (Some(trace), Some(spot)) = (&mut self.trace, spot) {
            trace.take(spot, from, own);
        }
    }

    /// What a statement writes.
    pub(super) fn writes(mut self) -> Result<Vec<Written>, Stray> {
        self.statement()?;
        for place in &self.uses.aside {
            self.query(*place)?;
        }
        Ok(self.written)
    }

    /// The columns of a statement whose rows are copied, where it has some.
    pub(super) fn statement(&mut self) -> Result<Option<Columns>, Stray> {
        if !self.uses.is_whole {
            return Err(Stray::Unreadable);
        }
        let mut copied = None;
        for (place, rows) in &self.uses.top {
            let columns = self.query(*place)?;
            self.creates(*place, &columns);
            match rows {
                Rows::Answered => {}
                Rows::Copied => copied = Some(columns),
                Rows::Flow(sink) => self.flows(&columns.union(), *sink)?,
            }
        }
        if let Some((name, listed)) = &self.uses.copied {
            copied = Some(self.copied(name, listed)?);
        }
        let changes = self.uses.changes.iter();
        for change in changes.filter(|_| !self.ground.is_lenient()) {
            for columns in meanings(self.ground, &change.relation, For::Changing)? {
                let named = columns.all.iter().filter(|column| match &change.columns {
                    None => true,
                    Some(names) => column.name.as_ref().is_some_and(|name| names.contains(name)),
                });
                if let Some(origin) = named.flat_map(|column| &column.from).next() {
                    return Err(Stray::Changes(*origin));
                }
            }
        }
        Ok(copied)
    }

    /// What the first query gives.
    pub(super) fn outputs(&mut self) -> Result<Columns, Stray> {
        match self.uses.top.as_slice() {
            [(place, Rows::Answered)] if self.uses.is_whole => self.query(*place),
            _ => Err(Stray::Unreadable),
        }
    }

    /// `COPY relation (columns) TO`
    fn copied(&mut self, name: &Arc<str>, listed: &[Arc<str>]) -> Result<Columns, Stray> {
        let meanings = meanings(self.ground, name, For::Copying)?;
        let [meaning] = meanings.as_slice() else {
            let is_plain = meanings.iter().all(|meaning| meaning.union().is_empty());
            return if is_plain { Ok(Columns::open()) } else { Err(Stray::Places) };
        };
        if listed.is_empty() {
            return Ok(meaning.clone());
        }
        let mut all = Vec::new();
        for name in listed {
            let named = meaning.all.iter().find(|column| column.name.as_ref() == Some(name));
            // What isn't there the server refuses.
            all.push(named.cloned().unwrap_or_default());
        }
        Ok(Columns { all, ..meaning.clone() })
    }

    fn step(&mut self, n: usize) -> Result<(), Stray> {
        self.steps += n;
        if self.steps > MAX_STEPS { Err(Stray::TooMuch) } else { Ok(()) }
    }

    /// A relation may be made of it.
    fn creates(&mut self, place: usize, values: &Columns) {
        let created = self.uses.creates.iter().filter(|create| create.query == place);
        for Create { relation, columns, query: _, is_temporary, is_dropped } in created {
            let (relation, names, values) = (relation.clone(), columns.clone(), values.clone());
            let made = match (is_temporary, is_dropped) {
                (true, true) => Made::ForTransaction,
                (true, false) => Made::Temporary,
                (false, _) => Made::Lasting,
            };
            self.written.push(Written { relation, names, values, made: Some(made) });
        }
    }

    fn write(&mut self, write: &'a Write, query: &Query) -> Result<(), Stray> {
        let values = match &write.values {
            Values::Rows(rows) => self.query(*rows)?,
            Values::Outputs(outputs) => {
                let mut values = Columns::default();
                for output in outputs {
                    self.output(output, query, &mut values)?;
                }
                values
            }
        };
        let (relation, names) = (write.relation.clone(), write.columns.clone());
        self.written.push(Written { relation, names, values, made: None });
        Ok(())
    }

    fn flows(&self, origins: &Origins, sink: Sink) -> Result<(), Stray> {
        match origins.first() {
            Some(origin) if !self.ground.is_lenient() => Err(Stray::Flows(*origin, sink)),
            _ => Ok(()),
        }
    }

    /// What a query gives.
    fn query(&mut self, place: usize) -> Result<Columns, Stray> {
        if self.depth >= MAX_DEPTH {
            return Err(Stray::TooMuch);
        }
        self.step(1)?;
        let uses = self.uses;
        let query = uses.queries.get(place).ok_or(Stray::Unreadable)?;
        self.depth += 1;
        let columns = self.with(query).and_then(|()| {
            self.scopes.0.push(Level { items: Vec::new(), is_partial: true });
            let columns = self.in_scope(place, query);
            self.scopes.0.pop();
            columns
        });
        self.depth -= 1;
        columns
    }

    fn with(&mut self, query: &'a Query) -> Result<(), Stray> {
        for cte in &query.with {
            self.ctes.insert(cte.query, cte);
        }
        for cte in &query.with {
            let mut given = Columns::default();
            for round in 0.. {
                if round >= MAX_ROUNDS {
                    return Err(Stray::TooMuch);
                }
                self.under_way.insert(cte.query);
                let next = self.query(cte.query)?;
                let was = self.under_way.remove(&cte.query);
                let is_same = next.all.len() == given.all.len()
                    && next.all.iter().zip(&given.all).all(|(one, other)| one.from == other.from);
                given = next;
                self.done.insert(cte.query, given.clone());
                // What doesn't name itself is the same every time.
                if was && is_same || !self.is_recursive(cte.query) {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Whether a query is a set operation, as one that names itself is.
    fn is_recursive(&self, place: usize) -> bool {
        self.uses.queries.get(place).is_some_and(|query| !query.sides.is_empty())
    }

    fn in_scope(&mut self, place: usize, query: &'a Query) -> Result<Columns, Stray> {
        for source in &query.from {
            let item = self.item(source)?;
            self.step(item.meanings.iter().map(|meaning| meaning.all.len()).sum())?;
            if let Some(level) = self.scopes.0.last_mut() {
                level.items.push(item);
            }
        }
        self.see(false);
        for merge in &query.merges {
            self.merge(merge)?;
        }
        for (sink, mix) in &query.flows {
            // The condition of a join sees its own sides only.
            self.see(*sink == Sink::Join);
            let from = self.mix(mix)?;
            self.see(false);
            self.flows(&from, *sink)?;
        }
        let mut columns = self.sides(place, query)?;
        for output in &query.outputs {
            self.output(output, query, &mut columns)?;
        }
        self.step(columns.all.len())?;
        for by in &query.by_output {
            let from = self.by_output(&by.by, by.sink, &columns);
            self.means_by_output(by, &from);
            self.flows(&from, by.sink)?;
        }
        if query.is_distinct {
            self.flows(&columns.union(), Sink::Distinct)?;
        }
        if self.ground.asks_for_writes() {
            for write in &query.writes {
                self.write(write, query)?;
            }
        }
        Ok(columns)
    }

    /// From here on, all that the query names can be named, or only some of it.
    fn see(&mut self, is_partial: bool) {
        if let Some(level) = self.scopes.0.last_mut() {
            level.is_partial = is_partial;
        }
    }

    fn item(&mut self, source: &'a Source) -> Result<Item, Stray> {
        let meanings = match &source.of {
            Of::Relation(name) => meanings(self.ground, name, For::Reading)?,
            Of::Lateral(place) => vec![self.query(*place)?],
            Of::Query(place) => vec![self.named_or_own(*place)?],
            Of::Computed(mix) => {
                let from = self.mix(mix)?;
                self.flows(&from, Sink::Call)?;
                let column = Column { name: None, from: derived(&from), kind: None };
                vec![Columns { all: vec![column], is_exact: false, is_open: true }]
            }
            Of::Given { rows, relation, columns } => {
                let given = self.query(*rows)?;
                match columns.is_empty() {
                    false => vec![given.renamed(columns)],
                    true => {
                        let own = meanings(self.ground, relation, For::Changing)?;
                        let named = own.iter().map(|own| {
                            let names = own.all.iter().filter_map(|column| column.name.clone());
                            given.clone().renamed(&names.collect::<Vec<_>>())
                        });
                        let named: Vec<Columns> = named.collect();
                        if named.is_empty() { vec![given] } else { named }
                    }
                }
            }
            Of::Joined(places) => {
                let all = self.scopes.0.last().map(|level| level.together(places));
                let all = all.unwrap_or_default();
                // Those that are merged stand first.
                vec![Columns { is_exact: false, ..all }]
            }
        };
        let renamed = meanings.into_iter().map(|meaning| meaning.renamed(&source.columns));
        Ok(Item {
            alias: source.alias.clone(),
            meanings: renamed.collect(),
            is_hidden: source.is_hidden,
            is_relation: matches!(source.of, Of::Relation(_)),
        })
    }

    /// A common table expression, or a query that stands there itself and doesn't see what stands beside it.
    fn named_or_own(&mut self, place: usize) -> Result<Columns, Stray> {
        let Some(cte) = self.ctes.get(&place).copied() else {
            let beside = self.scopes.0.pop();
            let columns = self.query(place);
            self.scopes.0.extend(beside);
            return columns;
        };
        let given = match self.done.get(&place) {
            Some(given) => given.clone(),
            // Itself, in its first round: nothing has come of it yet. One that comes after this one gives nothing to
            // it.
            None if self.under_way.contains(&place) => Columns::open(),
            None => return Err(Stray::Unreadable),
        };
        let mut given = given.renamed(&cte.columns);
        let from = derived(&given.union());
        given.all.extend(cte.extra.iter().map(|name| Column {
            name: Some(name.clone()),
            from: from.clone(),
            kind: None,
        }));
        Ok(given)
    }

    /// Everything that goes into something.
    fn mix(&mut self, mix: &'a Mix) -> Result<Origins, Stray> {
        self.step(mix.of.len())?;
        let mut from = Origins::new();
        for reference in &mix.of {
            let (of, column) = (reference.of.as_deref(), reference.column.as_deref());
            let resolved = self.scopes.resolve(of, column);
            self.means(reference.spot, &resolved.from, &resolved.own);
            from.extend(resolved.from);
            from.extend(resolved.row);
        }
        for inner in &mix.inner {
            let columns = self.query(inner.query)?;
            if inner.is_read {
                from.extend(columns.union());
            }
        }
        Ok(derived(&from))
    }

    /// Both sides of a set operation, place by place.
    fn sides(&mut self, place: usize, query: &'a Query) -> Result<Columns, Stray> {
        let mut columns: Option<Columns> = None;
        for side in &query.sides {
            let own = self.query(*side)?;
            self.flows(&own.union(), Sink::SetOperation)?;
            let joined = match columns.take() {
                None => own,
                Some(first) => united(first, &own),
            };
            if self.under_way.contains(&place) && !self.done.contains_key(&place) {
                // The other side may name this very query.
                self.done.insert(place, joined.clone());
            }
            columns = Some(joined);
        }
        Ok(columns.unwrap_or_default())
    }

    fn output(
        &mut self,
        output: &'a Output,
        query: &Query,
        columns: &mut Columns,
    ) -> Result<(), Stray> {
        match output {
            Output::Star(None) => {
                let star = self.scopes.0.last().map(Level::star).unwrap_or_default();
                // Columns that are merged stand first.
                let is_exact = star.is_exact && query.merges.is_empty();
                columns.append(&Columns { is_exact, ..star });
            }
            Output::Star(Some(alias)) => {
                let star = self.scopes.star_of(alias).unwrap_or_else(Columns::open);
                columns.append(&star);
            }
            Output::Plain { name, of } => {
                let (alias, column) = (of.of.as_deref(), of.column.as_deref());
                let resolved = self.scopes.resolve(alias, column);
                self.means(of.spot, &resolved.from, &resolved.own);
                self.flows(&resolved.row, Sink::Row)?;
                let mut from = resolved.from;
                from.extend(derived(&resolved.row));
                let kind = self.kind(&from);
                columns.all.push(Column { name: Some(name.clone()), from, kind });
            }
            Output::Computed { name, of } => {
                let from = self.mix(of)?;
                self.flows(&from, Sink::Expression)?;
                columns.all.push(Column { name: name.clone(), from, kind: None });
            }
        }
        Ok(())
    }

    /// The type of what comes from one column.
    fn kind(&self, from: &Origins) -> Option<u32> {
        let origin = from.first().filter(|_| from.len() == 1)?;
        Some(self.ground.snapshot().column(origin.relation, origin.place)?.kind)
    }

    fn by_output(&self, by: &By, sink: Sink, columns: &Columns) -> Origins {
        match by {
            By::Place(place) => match columns.all.get(place.wrapping_sub(1)) {
                Some(column) if columns.is_exact => column.from.clone(),
                _ => columns.union(),
            },
            By::Name(name) => {
                let is_named = |column: &&Column| column.name.as_ref() == Some(name);
                let named: Vec<&Column> = columns.all.iter().filter(is_named).collect();
                let mut from: Origins =
                    named.iter().flat_map(|column| &column.from).copied().collect();
                // GROUP BY means a column of the FROM first, the others a result.
                if named.is_empty() || columns.is_open || sink == Sink::Grouping {
                    let resolved = self.scopes.resolve(None, Some(name));
                    // By the name of a computed result, nothing is found, and the server finds that.
                    let is_made = columns.all.iter().any(|column| column.name.is_none());
                    from.extend(resolved.from);
                    if !is_made || self.has_alias(name) {
                        from.extend(resolved.row.iter().filter(|_| named.is_empty()));
                    }
                }
                from
            }
        }
    }

    fn means_by_output(&mut self, by: &ByOutput, from: &Origins) {
        if self.trace.is_none() {
            return;
        }
        let own = match &by.by {
            By::Name(name) => self.scopes.resolve(None, Some(name)).own,
            By::Place(_) => Origins::new(),
        };
        self.means(by.spot, from, &own);
    }

    fn has_alias(&self, name: &str) -> bool {
        self.scopes.0.iter().flat_map(|level| &level.items).any(|item| *item.alias == *name)
    }

    /// Columns of both sides that a join compares by their names.
    fn merge(&self, merge: &Merge) -> Result<(), Stray> {
        let Some(level) = self.scopes.0.last() else { return Ok(()) };
        let (left, right) = (level.together(&merge.left), level.together(&merge.right));
        for (own, other) in [(&left, &right), (&right, &left)] {
            for column in own.all.iter().filter(|column| !column.from.is_empty()) {
                let is_compared = match (&merge.names, &column.name) {
                    (Some(names), Some(name)) => names.contains(name),
                    (None, Some(name)) => {
                        other.is_open
                            || other
                                .all
                                .iter()
                                .any(|it| it.name.as_ref().is_none_or(|it| it == name))
                    }
                    (_, None) => true,
                };
                if is_compared {
                    self.flows(&column.from, Sink::Join)?;
                }
            }
        }
        Ok(())
    }
}

/// Of a set operation: by place, where both sides are known so.
fn united(mut one: Columns, other: &Columns) -> Columns {
    if one.is_exact && other.is_exact && one.all.len() == other.all.len() {
        for (column, beside) in one.all.iter_mut().zip(&other.all) {
            column.from.extend(&beside.from);
        }
        return one;
    }
    let mut from = one.union();
    from.extend(other.union());
    for column in &mut one.all {
        column.from.extend(&from);
    }
    Columns { is_exact: false, is_open: one.is_open || other.is_open, ..one }
}
