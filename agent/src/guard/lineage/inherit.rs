//! Which columns get something of labelled ones when a statement runs: followed through its text where that can be,
//! else from all that it and its code read to all that they write.

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::{
    Labelled, ReadsUses,
    columns::names,
    follow::{Follow, Made},
    last_part,
    own::{Own, Roots, Slot, unite},
    views::{All, Place},
    writing::{Getting, Writing},
};
use crate::{
    event::{Access, Ancestor, Effect, Facts, Heir, Uses},
    guard::{
        behind::{Behind, Ran, Reads, is_on_rows},
        catalog::{Kind, Snapshot},
    },
    statement::Lexing,
};

/// A view of a view of a view …
const MAX_DEPTH: usize = 16;
/// Of a statement that reads what it writes.
const MAX_ROUNDS: usize = 4;

/// What a statement does that somebody inherits by.
#[derive(Debug, Default)]
pub(in crate::guard) struct Legacy {
    pub heirs: Vec<Heir>,
    /// Into relations that nobody has seen yet, or that are made by it.
    pub unseen: Vec<Unseen>,
}

#[derive(Debug)]
pub(in crate::guard) struct Unseen {
    pub name: Arc<str>,
    /// Those that have the name, and are not meant.
    pub known: Vec<u32>,
    pub columns: Vec<(Slot, Roots)>,
}

/// A text that is let through.
pub(in crate::guard) struct Said<'a> {
    pub text: Option<&'a str>,
    pub lexing: Lexing,
    pub statements: &'a [Arc<Facts>],
    /// What may be prepared by a name, in words; `None` where nobody can tell.
    pub prepared: &'a dyn Fn(&str) -> Option<Vec<Arc<str>>>,
    /// It has gone past the guard: what it makes may be there already.
    pub has_run: bool,
}

/// One statement of it, as it is known.
struct Passing<'a> {
    said: &'a Facts,
    ran: &'a Ran,
    /// `None` where nobody can tell.
    uses: Option<&'a Uses>,
    has_run: bool,
}

impl Labelled {
    /// Who inherits when a text runs. Those that concern nothing labelled cost a look at the names of their relations.
    pub(in crate::guard) fn legacy(
        &mut self,
        asked: &Said<'_>,
        own: &mut Own,
        behind: &mut Behind,
        analyst: &mut (impl Reads + ReadsUses),
    ) -> Legacy {
        let mut legacy = Legacy::default();
        if self.kinship.names.is_empty() && own.is_empty() {
            return legacy;
        }
        own.leave_to(&self.snapshot);
        let has_run = asked.has_run;
        let mut all_uses: Option<Option<Arc<[Uses]>>> = None;
        for (place, said) in asked.statements.iter().enumerate() {
            let all = behind.reveal(said, analyst).facts;
            // What is called outright isn't among those.
            let ran = (!said.calls.is_empty()).then(|| behind.runs(said, analyst));
            let called = ran.iter().flat_map(|ran| &ran.facts).map(|(facts, _)| &**facts);
            // A block of code, or what was prepared where nobody has seen it.
            let is_open = said.effects.contains(Effect::Unknown)
                || said.calls.iter().any(|call| **call == *"?");
            let address = Arc::as_ptr(said).addr();
            if !is_open && !self.may_pass_on(called.chain([&*all]), own)
                || own.is_empty() && self.leaves_nothing.contains(&address)
            {
                continue;
            }
            let uses = all_uses.get_or_insert_with(|| {
                let uses = analyst.read_uses_as(asked.text?, asked.lexing)?;
                (uses.len() == asked.statements.len()).then_some(uses)
            });
            let uses = uses.as_ref().and_then(|uses| uses.get(place));
            let ran = ran.unwrap_or_else(|| behind.runs(said, analyst));
            for body in uses.map(|uses| &uses.does).into_iter().flatten() {
                let Some(facts) = analyst.read(&as_function(body)) else { continue };
                let ran = behind.runs(&facts, analyst);
                let passing = Passing { said: &facts, ran: &ran, uses: None, has_run };
                legacy.add(self.passes_on(&passing, own, analyst));
            }
            let mut executed = Vec::new();
            for name in uses.map(|uses| &uses.executes).into_iter().flatten() {
                match (asked.prepared)(name) {
                    None => executed.push(None),
                    Some(texts) => executed
                        .extend(texts.iter().map(|text| analyst.read_uses_as(text, asked.lexing))),
                }
            }
            for executed in &executed {
                match executed {
                    Some(all) => {
                        for uses in all.iter() {
                            let passing = Passing { said, ran: &ran, uses: Some(uses), has_run };
                            legacy.add(self.passes_on(&passing, own, analyst));
                        }
                    }
                    None => {
                        let passing = Passing { said, ran: &ran, uses: None, has_run };
                        legacy.add(self.passes_on(&passing, own, analyst));
                    }
                }
            }
            let passing = Passing { said, ran: &ran, uses, has_run };
            let left = self.passes_on(&passing, own, analyst);
            if left.is_empty()
                && !is_open
                && executed.is_empty()
                && own.is_empty()
                && uses.is_some()
            {
                self.leaves_nothing.put(address, said.clone());
            }
            legacy.add(left);
        }
        legacy
    }

    /// Whether something labelled may be written by what does this.
    fn may_pass_on<'f>(&self, all: impl Iterator<Item = &'f Facts> + Clone, own: &Own) -> bool {
        let names = &self.kinship.names;
        let is_kin = |name: &str| names.contains(last_part(name)) || own.has(name);
        let mut tables = all.clone().flat_map(|facts| &facts.tables);
        tables.any(|table| writes(table.access))
            && all.flat_map(|facts| &facts.tables).any(|table| is_kin(&table.name))
    }

    /// What a statement writes it may read again, by what it returns, or in its code.
    fn passes_on(
        &self,
        passing: &Passing<'_>,
        own: &mut Own,
        analyst: &mut impl ReadsUses,
    ) -> Legacy {
        let mut legacy = Legacy::default();
        let mut fresh = HashMap::new();
        let n_writes = passing.uses.map_or(0, |uses| {
            let written = uses.queries.iter().map(|query| query.writes.len());
            written.sum::<usize>() + uses.creates.len()
        });
        for _ in 0..MAX_ROUNDS {
            let round = self.round(passing, &fresh, own, analyst);
            let before = legacy.heirs.len();
            legacy.add(round);
            if n_writes < 2 && passing.ran.facts.is_empty() {
                break;
            }
            for heir in legacy.heirs.iter().skip(before) {
                let roots: &mut Roots = fresh.entry((heir.relation, heir.place)).or_default();
                *roots.entry(Arc::new(heir.from.clone())).or_default() |= heir.is_derived;
            }
        }
        legacy
    }

    fn round(
        &self,
        passing: &Passing<'_>,
        fresh: &HashMap<Place, Roots>,
        own: &mut Own,
        analyst: &mut impl ReadsUses,
    ) -> Legacy {
        let ground = Writing { labelled: self, fresh, own, interned: RefCell::default() };
        let written = passing.uses.and_then(|uses| Follow::new(&ground, uses).writes().ok());
        let is_followed = written.is_some();
        let written = written.into_iter().flatten();
        let mut all: Vec<Getting> = written.map(|written| ground.getting(written)).collect();
        let said = passing.said;
        let mut read_by_code = Roots::new();
        for (facts, _) in &passing.ran.facts {
            unite(&mut read_by_code, &ground.read(facts), true);
        }
        let mut read = ground.read(said);
        if !is_followed {
            unite(&mut read_by_code, &read, true);
        }
        all.extend(everything(said, &read_by_code));
        unite(&mut read, &read_by_code, true);
        for (facts, via) in &passing.ran.facts {
            let mut roots = read.clone();
            if is_on_rows(via) {
                unite(&mut roots, &ground.rows_of(said, facts), true);
            }
            all.extend(everything(facts, &roots));
        }
        let has_run = passing.has_run;
        let mut will = Will { labelled: self, fresh, has_run, legacy: Legacy::default() };
        for getting in all {
            will.gets(getting, own, analyst);
        }
        will.legacy
    }
}

impl Legacy {
    fn is_empty(&self) -> bool {
        self.heirs.is_empty() && self.unseen.is_empty()
    }

    fn add(&mut self, more: Self) {
        self.heirs.extend(more.heirs);
        self.unseen.extend(more.unseen);
    }
}

fn writes(access: Access) -> bool {
    matches!(access, Access::Insert | Access::Update | Access::Define)
}

/// A block of code as the body of a function, which is how code is read.
fn as_function(body: &str) -> String {
    let body = body.replace('\'', "''");
    format!("CREATE FUNCTION done() RETURNS void LANGUAGE plpgsql AS '{body}'")
}

/// Any column of whatever is written.
fn everything<'a>(facts: &'a Facts, roots: &'a Roots) -> impl Iterator<Item = Getting> + 'a {
    let written = facts.tables.iter().filter(move |it| writes(it.access) && !roots.is_empty());
    written.map(|table| Getting {
        relation: table.name.clone(),
        columns: vec![(Slot::Any, None, roots.clone())],
        made: (table.access == Access::Define).then_some(Made::Lasting),
        is_exact: false,
    })
}

struct Will<'a> {
    labelled: &'a Labelled,
    fresh: &'a HashMap<Place, Roots>,
    has_run: bool,
    legacy: Legacy,
}

impl Will<'_> {
    fn gets(&mut self, getting: Getting, own: &mut Own, analyst: &mut impl ReadsUses) {
        let Getting { relation: name, columns, made, is_exact } = getting;
        let snapshot = &self.labelled.snapshot;
        let seen: Vec<u32> = snapshot.relations(&name).map(|relation| relation.oid).collect();
        if made.is_none() || self.has_run && made == Some(Made::Lasting) {
            for oid in &seen {
                for (slot, _, roots) in columns.iter().filter(|(_, _, roots)| !roots.is_empty()) {
                    self.into(*oid, slot, roots, analyst);
                }
            }
        }
        let known: &[u32] = if made.is_some() && !self.has_run { &seen } else { &[] };
        if let (Some(kind), true) = (made, is_exact) {
            let all = columns.iter().map(|(_, name, roots)| (name.clone(), roots.clone()));
            own.make(&name, &all.collect::<Vec<_>>(), kind, known);
        } else if made.is_some() || seen.is_empty() || own.has(&name) {
            columns.iter().for_each(|(slot, _, roots)| own.write(&name, slot, roots, known));
        }
        let columns = columns.into_iter().filter(|(_, _, roots)| !roots.is_empty());
        let columns: Vec<_> = columns.map(|(slot, _, roots)| (slot, roots)).collect();
        let is_unseen = made == Some(Made::Lasting) || made.is_none() && seen.is_empty();
        if is_unseen && !columns.is_empty() {
            let known = known.to_vec();
            self.legacy.unseen.push(Unseen { name, known, columns });
        }
    }

    fn into(&mut self, oid: u32, slot: &Slot, roots: &Roots, analyst: &mut impl ReadsUses) {
        let snapshot = self.labelled.snapshot.clone();
        let places: Vec<Place> = chosen(&snapshot, oid, slot).collect();
        for place in places {
            let mut all = HashSet::new();
            bases(&snapshot, place, analyst, 0, &mut all);
            for place in all {
                for (ancestor, is_derived) in roots {
                    self.inherits(place, ancestor, *is_derived);
                }
            }
        }
    }

    fn inherits(&mut self, place: Place, from: &Arc<Ancestor>, is_derived: bool) {
        let kinship = &self.labelled.kinship;
        let known = [&kinship.roots, self.fresh].into_iter().filter_map(|all| all.get(&place));
        let mut known = known.filter_map(|roots| roots.get(from));
        if known.any(|known| *known || !is_derived)
            || kinship.configured.contains(&(place, from.clone()))
        {
            return;
        }
        let heirs = &mut self.legacy.heirs;
        let is_same =
            |heir: &&mut Heir| (heir.relation, heir.place) == place && heir.from == **from;
        match heirs.iter_mut().find(is_same) {
            Some(heir) => heir.is_derived |= is_derived,
            None => heirs.push(heir(&self.labelled.snapshot, place, from, is_derived)),
        }
    }
}

pub(in crate::guard) fn heir(
    snapshot: &Snapshot,
    place: Place,
    from: &Ancestor,
    is_derived: bool,
) -> Heir {
    let name = names(snapshot, &[place]);
    let column = name.first().map(|name| super::columns::shown(*name)).unwrap_or_default();
    Heir { relation: place.0, place: place.1, column, from: from.clone(), is_derived }
}

/// The columns of a relation that are meant.
pub(in crate::guard) fn chosen<'a>(
    snapshot: &'a Snapshot,
    oid: u32,
    slot: &'a Slot,
) -> impl Iterator<Item = Place> + 'a {
    let columns = snapshot.columns(oid).iter().enumerate();
    let columns = columns.filter(move |(at, column)| match slot {
        Slot::Named(name) => column.name == *name,
        Slot::At(place) => at == place,
        Slot::Any => true,
    });
    columns.map(move |(_, column)| (oid, column.place))
}

/// It, and what it is a view of.
fn bases(
    snapshot: &Snapshot,
    place: Place,
    analyst: &mut impl ReadsUses,
    depth: usize,
    all: &mut HashSet<Place>,
) {
    let Some(view) = snapshot.relation(place.0).filter(|it| it.kind == Kind::View) else {
        all.insert(place);
        return;
    };
    if depth >= MAX_DEPTH || !all.insert(place) {
        return;
    }
    let uses = view.definition.as_deref().and_then(|query| analyst.read_uses(query));
    let columns = match uses.as_deref() {
        Some([only]) => Follow::new(&All(snapshot), only).outputs().ok(),
        _ => None,
    };
    let at = snapshot.columns(place.0).iter().position(|column| column.place == place.1);
    let shown = columns.filter(|columns| columns.is_exact);
    let from = match shown.as_ref().zip(at).and_then(|(columns, at)| columns.all.get(at)) {
        Some(column) => column.from.iter().map(|from| (from.relation, from.place)).collect(),
        None => {
            let read = snapshot.reads(place.0).iter();
            let read = read.flat_map(|oid| snapshot.columns(*oid).iter());
            read.map(|column| (column.relation, column.place)).collect::<Vec<_>>()
        }
    };
    for place in from {
        bases(snapshot, place, analyst, depth + 1, all);
    }
}
