//! What a statement runs without saying so: functions under PostgreSQL's own names, views, triggers, rules, defaults.
//!
//! With what those call in their turn it is added to what the statement says it does, in the same words.

use std::{
    collections::{HashMap, HashSet},
    num::NonZeroUsize,
    sync::Arc,
};

use lru::LruCache;

use super::catalog::{Code, Events, Kind, Snapshot, What};
use crate::{
    analyst::Analyst,
    event::{Access, Analysis, COMPUTES, Effect, Effects, Facts},
    protocol::postgres::FIRST_OWN_OID,
};

/// Pieces of code behind one statement that are looked at.
const MAX_STEPS: usize = 400;
/// Statements of which it is remembered.
const MAX_FACTS: NonZeroUsize = NonZeroUsize::new(4_096).unwrap();
/// Named to a client whose statement is denied.
const MAX_TOLD: usize = 5;

/// Extensions whose functions do what nobody sees; those of others compute, or keep what is their own.
const REACHING: &[&str] = &[
    "adminpack",
    "age",
    "aws_s3",
    "citus",
    "dblink",
    "file_fdw",
    "http",
    "orafce",
    "pageinspect",
    "pg_cron",
    "pg_net",
    "pg_surgery",
    "pg_background",
    "pg_walinspect",
    "plperlu",
    "plpython3u",
    "plsh",
    "pltclu",
    "plv8",
    "postgres_fdw",
    "tablefunc",
    "xml2",
];

/// By one database as it was seen once.
pub(super) struct Behind {
    snapshot: Arc<Snapshot>,
    /// By address; what stands there is held, so that nothing else can come to stand there.
    known: LruCache<usize, (Arc<Facts>, Revealed)>,
    /// Likewise.
    ran: LruCache<usize, (Arc<Facts>, Arc<Ran>)>,
    /// By function: whether it only computes and reads.
    harmless: HashMap<u32, bool>,
}

/// Functions, triggers and rules that run with a statement, whatever they do.
#[derive(Debug, Default)]
pub(super) struct Ran {
    /// Each with what it does, and how it comes to run.
    pub facts: Vec<(Arc<Facts>, Arc<str>)>,
    /// What nobody can look into.
    pub unknown: Vec<Arc<str>>,
}

/// Whether code that comes to run so gets the rows that are written.
pub(super) fn is_on_rows(via: &str) -> bool {
    [OF_TRIGGER, OF_RULE].iter().any(|way| via.starts_with(way))
}

const OF_TRIGGER: &str = "a trigger of ";
const OF_RULE: &str = "a rule of ";

/// A statement as it is.
#[derive(Clone, Debug)]
pub(super) struct Revealed {
    pub facts: Arc<Facts>,
    /// What of it isn't said by its text, in words.
    pub by: Arc<[String]>,
}

impl Revealed {
    /// Nothing is known beyond the text.
    pub(super) fn as_said(facts: &Arc<Facts>) -> Self {
        Self { facts: facts.clone(), by: Arc::new([]) }
    }
}

/// Databases as they were seen, by server and name.
pub(super) type Known = LruCache<(usize, Arc<str>), Behind>;

/// The code of a database as it is seen now.
pub(super) fn of<'k>(
    known: &'k mut Known,
    key: &(usize, Arc<str>),
    snapshot: &Arc<Snapshot>,
) -> Option<&'k mut Behind> {
    if known.get(key).is_none_or(|behind| !behind.is_of(snapshot)) {
        known.put(key.clone(), Behind::new(snapshot.clone()));
    }
    known.get_mut(key)
}

impl Behind {
    pub(super) fn new(snapshot: Arc<Snapshot>) -> Self {
        Self {
            snapshot,
            known: LruCache::new(MAX_FACTS),
            ran: LruCache::new(MAX_FACTS),
            harmless: HashMap::new(),
        }
    }

    fn is_of(&self, snapshot: &Arc<Snapshot>) -> bool {
        Arc::ptr_eq(&self.snapshot, snapshot)
    }

    pub(super) fn reveal(&mut self, said: &Arc<Facts>, analyst: &mut impl Reads) -> Revealed {
        let address = Arc::as_ptr(said).addr();
        if let Some((_, known)) = self.known.get(&address) {
            return known.clone();
        }
        let Self { snapshot, harmless, .. } = self;
        let mut search = Search::new(snapshot, harmless, analyst);
        search.of(said);
        let is_sure = search.is_sure;
        let revealed = match search.found.take() {
            None => Revealed::as_said(said),
            Some(found) => Revealed { facts: Arc::new(found.joined(said)), by: search.by.into() },
        };
        if is_sure {
            self.known.put(address, (said.clone(), revealed.clone()));
        }
        revealed
    }

    /// Whether it is known for sure what is behind it.
    pub(super) fn has_revealed(&self, said: &Arc<Facts>) -> bool {
        self.known.contains(&Arc::as_ptr(said).addr())
    }

    /// All code of somebody's own that a statement may run, be it under a name that PostgreSQL has too.
    pub(super) fn runs(&mut self, said: &Arc<Facts>, analyst: &mut impl Reads) -> Arc<Ran> {
        let address = Arc::as_ptr(said).addr();
        if let Some((_, known)) = self.ran.get(&address) {
            return known.clone();
        }
        let Self { snapshot, harmless, .. } = self;
        let mut search = Search::new(snapshot, harmless, analyst);
        search.is_thorough = true;
        search.of(said);
        search.calls(said, "");
        let is_sure = search.is_sure;
        let unknown = search.found.take().map(|found| found.calls).unwrap_or_default();
        let ran = Arc::new(Ran { facts: search.code, unknown });
        if is_sure {
            self.ran.put(address, (said.clone(), ran.clone()));
        }
        ran
    }
}

/// Who says what a definition does.
pub(super) trait Reads {
    fn read(&mut self, definition: &str) -> Option<Arc<Facts>>;
}

impl Reads for Analyst {
    fn read(&mut self, definition: &str) -> Option<Arc<Facts>> {
        self.behind(definition)
    }
}

/// What was found behind a statement.
#[derive(Debug, Default)]
struct Found {
    effects: Effects,
    all: Vec<Arc<Facts>>,
    /// Code that nobody can look into.
    calls: Vec<Arc<str>>,
    analysis: Option<Analysis>,
}

impl Found {
    fn add(&mut self, facts: &Arc<Facts>, effects: Effects) {
        self.effects = self.effects.union(effects);
        self.all.push(facts.clone());
    }

    fn call(&mut self, name: Arc<str>) {
        self.calls.push(name);
        self.effects.insert(Effect::Call);
        self.analysis = self.analysis.max(Some(Analysis::CallsCode));
    }

    /// It reads and computes, and that is all.
    fn is_harmless(&self) -> bool {
        self.effects.iter().all(|effect| effect == Effect::Read)
            && self.calls.is_empty()
            && self.all.iter().all(|facts| facts.traits.is_empty() && facts.settings.is_empty())
    }

    fn joined(self, said: &Facts) -> Facts {
        let mut facts = said.clone();
        facts.effects = facts.effects.union(self.effects);
        for one in &self.all {
            facts.tables.extend_from_slice(&one.tables);
            facts.columns.extend_from_slice(&one.columns);
            facts.functions.extend_from_slice(&one.functions);
            facts.names.extend_from_slice(&one.names);
            facts.traits.extend_from_slice(&one.traits);
            facts.settings.extend_from_slice(&one.settings);
            facts.restricted = match (facts.restricted, one.restricted) {
                (Some(one), Some(other)) => Some(one && other),
                (one, other) => one.or(other),
            };
        }
        facts.calls.extend(self.calls);
        ordered(&mut facts.tables);
        ordered(&mut facts.columns);
        ordered(&mut facts.functions);
        ordered(&mut facts.names);
        ordered(&mut facts.traits);
        ordered(&mut facts.settings);
        ordered(&mut facts.calls);
        facts.analysis = facts.analysis.max(self.analysis.unwrap_or(Analysis::Complete));
        facts
    }
}

fn ordered<T: Ord>(list: &mut Vec<T>) {
    list.sort_unstable();
    list.dedup();
}

/// From what a statement names to all that follows from it.
struct Search<'a, R> {
    snapshot: &'a Snapshot,
    harmless: &'a mut HashMap<u32, bool>,
    analyst: &'a mut R,
    found: Option<Found>,
    by: Vec<String>,
    touched: HashSet<(u32, Access)>,
    ran: HashSet<u32>,
    steps: usize,
    /// Nobody was missing who should have answered.
    is_sure: bool,
    /// Code is looked into though it may not be what runs, or only computes.
    is_thorough: bool,
    code: Vec<(Arc<Facts>, Arc<str>)>,
}

impl<'a, R: Reads> Search<'a, R> {
    fn new(
        snapshot: &'a Snapshot,
        harmless: &'a mut HashMap<u32, bool>,
        analyst: &'a mut R,
    ) -> Self {
        Self {
            snapshot,
            harmless,
            analyst,
            found: None,
            by: Vec::new(),
            touched: HashSet::new(),
            ran: HashSet::new(),
            steps: 0,
            is_sure: true,
            is_thorough: false,
            code: Vec::new(),
        }
    }

    fn found(&mut self) -> &mut Found {
        self.found.get_or_insert_default()
    }

    fn of(&mut self, said: &Facts) {
        self.names(said, "");
        for table in &said.tables {
            self.touch_named(&table.name, table.access);
        }
        let converts = said.names.iter().any(|name| **name != *COMPUTES);
        if !said.tables.is_empty() || !said.functions.is_empty() || converts {
            self.run_harmful(self.snapshot.ambient(), "a cast, a domain or an operator class");
        }
        if said.names.iter().any(|name| **name == *COMPUTES) {
            self.compute_anew(said);
        }
        let defines = [Effect::Define, Effect::Drop, Effect::Grant];
        if defines.into_iter().any(|effect| said.effects.contains(effect)) {
            self.run_harmful(self.snapshot.on_definition(), "an event trigger");
        }
    }

    /// Expressions that are kept with the tables of a statement; with all where it doesn't name them, as `REINDEX INDEX`
    /// and `ANALYZE` do.
    fn compute_anew(&mut self, said: &Facts) {
        let snapshot = self.snapshot;
        let named: Vec<u32> = said
            .tables
            .iter()
            .flat_map(|table| snapshot.relations(&table.name))
            .map(|r| r.oid)
            .collect();
        let is_all = said.tables.is_empty()
            || said.tables.iter().any(|table| snapshot.relations(&table.name).next().is_none());
        let mut left = if is_all { snapshot.all().iter().map(|r| r.oid).collect() } else { named };
        let mut seen = HashSet::new();
        while let Some(oid) = left.pop().filter(|_| self.steps < MAX_STEPS) {
            if !seen.insert(oid) {
                continue;
            }
            left.extend(snapshot.children(oid));
            let Some(relation) = snapshot.relation(oid) else { continue };
            for Code { what, .. } in snapshot.code(oid) {
                if self.step() {
                    self.compute(what, &relation.name);
                }
            }
        }
    }

    /// What is computed for a relation's rows, or runs to get them.
    fn compute(&mut self, what: &What, relation: &str) {
        match what {
            What::Expression(expression) => {
                let via = format!("an expression of {relation}");
                self.runs_text(&format!("SELECT {expression}"), &via, true);
            }
            What::Program => self.unknown("?".into(), &format!("the program of {relation}")),
            _ => {}
        }
    }

    /// What runs where nobody names it, as far as that is more than computing.
    fn run_harmful(&mut self, functions: &[u32], via: &str) {
        for function in functions {
            if self.is_thorough || !self.is_harmless(*function) {
                self.run(*function, via);
            }
        }
    }

    /// Names that are PostgreSQL's own, and code of somebody else's too.
    fn names(&mut self, facts: &Facts, within: &str) {
        let called = facts.functions.iter().filter(|name| !name.contains('.'));
        let names: Vec<Arc<str>> = called.chain(&facts.names).cloned().collect();
        for name in names {
            if self.is_thorough {
                let written = name.trim_start_matches('.');
                self.by_name(written, written, within);
            } else if !facts.calls.contains(&name) && self.is_foreign(&name) {
                self.tell(format!(
                    "{} that is not PostgreSQL's{within}",
                    name.trim_start_matches('.')
                ));
                self.found().call(name);
            }
        }
    }

    /// Some function or operator by that name does more than compute; an extension's own are known with it.
    fn is_foreign(&mut self, name: &str) -> bool {
        let snapshot = self.snapshot;
        let (name, is_attribute) = match name.strip_prefix('.') {
            Some(name) => (name, true),
            None => (name, false),
        };
        let fits = |takes: (u16, u16)| !is_attribute || (takes.0 <= 1 && 1 <= takes.1);
        let named =
            snapshot.functions(name).filter(|one| one.extension.is_none() && fits(one.takes));
        let functions: Vec<u32> = named.map(|one| one.oid).collect();
        let operators = if is_attribute { &[] } else { snapshot.operators(name) };
        functions.iter().chain(operators).any(|oid| !self.is_harmless(*oid))
    }

    fn is_harmless(&mut self, oid: u32) -> bool {
        if let Some(known) = self.harmless.get(&oid) {
            return *known;
        }
        // What calls itself does nothing more by that.
        self.harmless.insert(oid, true);
        let mut search = Search::new(self.snapshot, self.harmless, self.analyst);
        search.steps = self.steps + 1;
        search.run(oid, "");
        let is_harmless = search.found.take().is_none_or(|found| found.is_harmless());
        let is_sure = search.is_sure;
        self.is_sure &= is_sure;
        match is_sure {
            true => drop(self.harmless.insert(oid, is_harmless)),
            false => drop(self.harmless.remove(&oid)),
        }
        is_harmless
    }

    fn touch_named(&mut self, name: &str, access: Access) {
        let snapshot = self.snapshot;
        for relation in snapshot.relations(name) {
            self.touch(relation.oid, access);
        }
    }

    /// What runs when a relation is read or written.
    fn touch(&mut self, oid: u32, access: Access) {
        let snapshot = self.snapshot;
        let event = Events::of(access);
        let Some(relation) = snapshot.relation(oid) else { return };
        if event == Events::default() || !self.touched.insert((oid, access)) || !self.step() {
            return;
        }
        let name = &relation.name;
        let mut is_instead = false;
        for Code { what, .. } in snapshot.code(oid).iter().filter(|code| code.on.has(event)) {
            match what {
                What::Trigger { function, definition, is_instead: instead } => {
                    is_instead |= instead;
                    let via = format!("{OF_TRIGGER}{name}");
                    if definition.contains(" WHEN (") {
                        self.runs_text(definition, &via, true);
                    }
                    self.run(*function, &via);
                }
                What::Rule { definition, is_instead: instead } => {
                    is_instead |= instead;
                    let via = format!("{OF_RULE}{name}");
                    if let Some(facts) = self.runs_text(definition, &via, true) {
                        self.code.push((facts, via.into()));
                    }
                }
                What::Cascade { to, access } => self.touch(*to, *access),
                What::Expression(_) | What::Program => self.compute(what, name),
            }
        }
        match relation.kind {
            Kind::View => {
                if let Some(definition) = &relation.definition {
                    let via = format!("the view {name}");
                    let read = self.runs_text(definition, &via, access == Access::Read);
                    // What is written goes to what the view is of.
                    if let Some(read) = read.filter(|_| access != Access::Read && !is_instead) {
                        for table in read.tables.iter().filter(|table| table.access == Access::Read)
                        {
                            self.touch_named(&table.name, access);
                        }
                    }
                }
            }
            Kind::MaterializedView if access == Access::Update => {
                if let Some(definition) = &relation.definition {
                    self.runs_text(definition, &format!("the view {name}"), true);
                }
            }
            Kind::Table | Kind::Foreign | Kind::Sequence | Kind::MaterializedView => {}
        }
        if access != Access::Read {
            for child in snapshot.children(oid) {
                self.touch(*child, access);
            }
        }
    }

    fn run(&mut self, oid: u32, via: &str) {
        if oid < FIRST_OWN_OID || !self.ran.insert(oid) {
            return;
        }
        let snapshot = self.snapshot;
        let Some(function) = snapshot.function(oid) else {
            // Newer than what was seen.
            return self.unknown("?".into(), via);
        };
        let name: Arc<str> = format!("{}.{}", function.schema, function.name).into();
        if let Some(extension) = &function.extension {
            if REACHING.contains(&extension.as_str()) {
                self.unknown(name, via);
            }
            return;
        }
        if function.is_aggregate {
            return function.parts.iter().for_each(|part| self.run(*part, via));
        }
        match &function.definition {
            Some(definition) if self.step() => {
                let via = if via.is_empty() { name.to_string() } else { format!("{via}, {name}") };
                let Some(facts) = self.read(definition) else {
                    return self.unknown(name, &via);
                };
                let is_read = matches!(facts.analysis, Analysis::Complete | Analysis::CallsCode);
                if !is_read || facts.effects.contains(Effect::Unknown) {
                    self.unknown(name, &via);
                }
                self.code.push((facts.clone(), via.as_str().into()));
                self.absorb(&facts, &via);
            }
            _ => self.unknown(name, via),
        }
    }

    /// What a rule, a view or an expression runs.
    fn runs_text(&mut self, text: &str, via: &str, counts: bool) -> Option<Arc<Facts>> {
        let Some(facts) = self.read(text) else {
            self.unknown("?".into(), via);
            return None;
        };
        if !matches!(facts.analysis, Analysis::Complete | Analysis::CallsCode)
            || facts.effects.contains(Effect::Unknown)
        {
            self.unknown("?".into(), via);
        }
        if counts {
            self.absorb(&facts, via);
        }
        Some(facts)
    }

    fn read(&mut self, definition: &str) -> Option<Arc<Facts>> {
        let read = self.analyst.read(definition);
        self.is_sure &= read.is_some();
        read
    }

    fn absorb(&mut self, facts: &Arc<Facts>, via: &str) {
        // Whatever it calls is looked at below; what can't be read has been told.
        let calls = facts.effects.iter().filter(|effect| match effect {
            Effect::Call => facts.calls.is_empty(),
            effect => *effect != Effect::Unknown,
        });
        let effects = Effects::from_iter(calls);
        if effects.contains(Effect::Call) {
            let found = self.found();
            found.analysis = found.analysis.max(Some(Analysis::CallsCode));
        }
        let is_telling = !facts.traits.is_empty()
            || effects.iter().any(|effect| effect != Effect::Read)
            || facts.restricted == Some(false);
        if is_telling {
            self.tell(via.to_owned());
        }
        self.found().add(facts, effects);
        self.names(facts, &format!(" (by {via})"));
        self.calls(facts, via);
        for table in &facts.tables {
            self.touch_named(&table.name, table.access);
        }
    }

    fn calls(&mut self, facts: &Facts, via: &str) {
        for call in &facts.calls {
            let operator = call.rsplit('.').next().unwrap_or(call);
            if !self.by_name(call, operator, via) {
                self.unknown(call.clone(), via);
            }
        }
    }

    /// Runs all that has that name; whether something has.
    fn by_name(&mut self, function: &str, operator: &str, via: &str) -> bool {
        let snapshot = self.snapshot;
        let functions: Vec<u32> = snapshot.functions(function).map(|one| one.oid).collect();
        let operators = snapshot.operators(operator);
        functions.iter().chain(operators).for_each(|oid| self.run(*oid, via));
        !functions.is_empty() || !operators.is_empty()
    }

    fn unknown(&mut self, name: Arc<str>, via: &str) {
        self.tell(if via.is_empty() { name.to_string() } else { format!("{via}, {name}") });
        self.found().call(name);
    }

    fn tell(&mut self, words: String) {
        if self.by.len() < MAX_TOLD && !self.by.contains(&words) {
            self.by.push(words);
        }
    }

    /// One more, unless there were too many.
    fn step(&mut self) -> bool {
        self.steps += 1;
        if self.steps == MAX_STEPS {
            self.unknown("?".into(), "more code than is looked into");
        }
        self.steps < MAX_STEPS
    }
}

#[cfg(test)]
mod tests;
