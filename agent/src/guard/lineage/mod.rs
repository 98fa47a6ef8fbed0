//! Whether a statement can be let through to a client from whom columns are hidden: each of them must reach the
//! client as itself, with its origin, or not at all.
//!
//! | room | what |
//! |---|---|
//! | [`scope`] | names in a query, and what they may stand for |
//! | [`ground`] | what the names of relations stand for |
//! | [`follow`] | from the relations that a statement names to where their columns go |
//! | [`views`] | columns that show what others have |
//! | [`columns`] | labels, and what is hidden from one client |
//! | [`nulling`], [`types`] | the same text with NULL where it means a column |
//! | [`code`] | ways out that no column's name tells of |
//! | [`inherit`] | which columns get something of labelled ones when a statement runs |
//! | [`kinship`] | which columns have something of labelled ones |
//! | [`writing`] | what a statement that writes names |
//! | [`own`] | relations of a session that no catalog shows |
//! | [`why`] | what a client is told |
//!
//! A name without a schema may be whatever has that name in any schema.

mod code;
mod columns;
mod follow;
mod ground;
mod inherit;
mod kinship;
mod nulling;
mod own;
mod scope;
#[cfg(test)]
mod tests;
mod types;
mod views;
mod why;
mod writing;

use std::{collections::HashSet, num::NonZeroUsize, sync::Arc};

use lru::LruCache;

use super::{
    behind::Ran,
    catalog::Snapshot,
    masking::{Copied, CopyColumn, Masked, Masks},
};
use crate::{
    analyst::Analyst,
    event::{Access, Facts, Heir, Mask, Origin, Trait, Uses},
    policy::{Circumstances, Judge, Standing},
    statement::{Lexing, qualified},
};
use follow::Follow;
use ground::Ground;
pub(super) use inherit::{Legacy, Said, Unseen, chosen, heir};
use kinship::Kinship;
pub(super) use nulling::only_shows;
pub(super) use own::Own;
use scope::Columns;
pub(super) use views::Place;
use views::{Lineage, Unknown};
pub(super) use why::Why;

/// Statements of which it is remembered.
const MAX_STATEMENTS: NonZeroUsize = NonZeroUsize::new(4_096).unwrap();
/// Clients at a time of which it is remembered what is hidden from them.
const MAX_CLIENTS: NonZeroUsize = NonZeroUsize::new(256).unwrap();

/// Who says where the columns go that a text names.
pub(super) trait ReadsUses {
    fn read_uses_as(&mut self, text: &str, lexing: Lexing) -> Option<Arc<[Uses]>>;

    fn read_uses(&mut self, text: &str) -> Option<Arc<[Uses]>> {
        self.read_uses_as(text, Lexing::default())
    }
}

impl ReadsUses for Analyst {
    fn read_uses_as(&mut self, text: &str, lexing: Lexing) -> Option<Arc<[Uses]>> {
        self.uses(text, lexing)
    }
}

/// Nobody reads more of them.
const MAX_LACKS: usize = 20;

/// Of one database as it was seen once, by one set of rules.
pub(super) struct Labelled {
    snapshot: Arc<Snapshot>,
    places: Vec<Place>,
    /// Columns that have something of labelled ones, as they were when those were counted so.
    heirs: Vec<Arc<Heir>>,
    version: u64,
    kinship: Kinship,
    /// Statements by which nobody inherits, by the addresses of their facts; what stands there is held.
    leaves_nothing: LruCache<usize, Arc<Facts>>,
    /// What is wrong with labels and masks, as far as it was seen.
    lacks: Vec<String>,
    /// So many of them were told of.
    n_told: Option<usize>,
    lineage: Lineage,
    masks: LruCache<Standing, Option<Arc<Masks>>>,
    /// By the addresses of uses and masks; what stands there is held, so that nothing else can come to stand there.
    followed: LruCache<(usize, usize), Followed>,
}

#[derive(Clone)]
struct Followed {
    _uses: Arc<[Uses]>,
    _masks: Arc<Masks>,
    outcome: Result<Copied, Why>,
}

impl Labelled {
    /// # Errors
    /// Nobody can tell what has labels, or what shows it.
    pub(super) fn new(
        snapshot: Arc<Snapshot>,
        judge: &Judge,
        analyst: &mut impl ReadsUses,
        (version, heirs): (u64, Vec<Arc<Heir>>),
    ) -> Result<Self, Why> {
        if !snapshot.has_columns() {
            return Err(Why::NoColumns);
        }
        let world = judge.set().world();
        let places = columns::labelled(&snapshot, world).ok_or(Why::TooManyColumns)?;
        let relations = places.iter().map(|place| place.0);
        let relations = relations.chain(heirs.iter().map(|heir| heir.relation));
        let lineage = match Lineage::of(&snapshot, relations, analyst) {
            Ok(lineage) => lineage,
            Err(Unknown::TooMuch) => return Err(Why::TooManyColumns),
            Err(Unknown::Unanswered) => return Err(Why::Unanswered),
        };
        let (masks, followed) = (LruCache::new(MAX_CLIENTS), LruCache::new(MAX_STATEMENTS));
        let lacks = columns::absent(&snapshot, world);
        let kinship = Kinship::new(&snapshot, &lineage, &places, &heirs);
        Ok(Self {
            snapshot,
            places,
            heirs,
            version,
            kinship,
            leaves_nothing: LruCache::new(MAX_STATEMENTS),
            lacks,
            n_told: None,
            lineage,
            masks,
            followed,
        })
    }

    /// `version`: of what is inherited.
    pub(super) fn is_of(&self, snapshot: &Arc<Snapshot>, version: u64) -> bool {
        Arc::ptr_eq(&self.snapshot, snapshot) && self.version == version
    }

    /// What is wrong with labels and masks, where more of it is known than before.
    pub(super) fn news(&mut self) -> Option<&[String]> {
        let before = self.n_told.replace(self.lacks.len());
        (before != self.n_told).then_some(&self.lacks)
    }

    /// What is hidden from a client; `None` where nothing is.
    pub(super) fn masks(
        &mut self,
        judge: &mut Judge,
        origin: &Arc<Origin>,
        circumstances: Circumstances<'_>,
    ) -> Option<Arc<Masks>> {
        if self.places.is_empty() && self.heirs.is_empty() {
            return None;
        }
        let standing = judge.standing(origin, circumstances);
        if let Some(known) = self.masks.get(&standing) {
            return known.clone();
        }
        let names = columns::names(&self.snapshot, &self.places);
        let hidden = judge.hides(origin, circumstances, &names);
        let hidden = self.places.iter().copied().zip(hidden);
        let hidden = hidden.filter_map(|(place, hidden)| Some((place, hidden?)));
        let inherited =
            columns::inherited(&self.heirs, |names| judge.hides(origin, circumstances, names));
        let hidden = hidden.chain(inherited);
        let masks = columns::masks(&self.snapshot, &self.lineage, hidden);
        for lack in columns::unfit(&self.snapshot, &masks) {
            if self.lacks.len() < MAX_LACKS && !self.lacks.contains(&lack) {
                self.lacks.push(lack);
            }
        }
        let masks = (!masks.columns.is_empty()).then(|| Arc::new(masks));
        self.masks.put(standing, masks.clone());
        masks
    }

    /// Whether the columns of all statements of a text can be followed; for `COPY`, its columns.
    ///
    /// # Errors
    /// One of them goes where it can't.
    pub(super) fn follow(
        &mut self,
        uses: &Arc<[Uses]>,
        masks: &Arc<Masks>,
        changing: &HashSet<Arc<str>>,
    ) -> Result<Copied, Why> {
        let key = (Arc::as_ptr(uses).cast::<()>().addr(), Arc::as_ptr(masks).addr());
        if let Some(known) = self.followed.get(&key).filter(|_| changing.is_empty()) {
            return known.outcome.clone();
        }
        let ground = Client { snapshot: &self.snapshot, masks, changing };
        let outcome = follow(&ground, uses);
        if changing.is_empty() {
            let (_uses, _masks) = (uses.clone(), masks.clone());
            self.followed.put(key, Followed { _uses, _masks, outcome: outcome.clone() });
        }
        outcome
    }

    /// Whether the code that runs with a statement may be run.
    ///
    /// # Errors
    /// It shows what is hidden, or may.
    pub(super) fn check(
        &self,
        all: &Facts,
        ran: &Ran,
        masks: &Masks,
        changing: &HashSet<Arc<str>>,
    ) -> Result<(), Why> {
        if changing.contains(ANY_CODE) && !(ran.facts.is_empty() && ran.unknown.is_empty()) {
            return Err(Why::ChangingCode);
        }
        code::check(all, ran, masks, &self.snapshot)
    }
}

/// Stands for all code, where some of it is being changed.
const ANY_CODE: &str = "()";

/// Whether a statement may run where nobody knows what there is in the database: it must name nothing of anybody's.
///
/// # Errors
/// It does.
pub(super) fn blind(facts: &Facts) -> Result<(), Why> {
    code::of_facts(facts)?;
    let is_known = |name: &Arc<str>| may_be_system(name);
    match facts.tables.iter().any(|table| !is_known(&table.name)) || !facts.calls.is_empty() {
        true => Err(Why::Blind),
        false => Ok(()),
    }
}

/// What a statement defines or drops, by the names that [`Ground::is_changing`] is asked for.
pub(super) fn defines(facts: &Facts) -> impl Iterator<Item = Arc<str>> {
    let tables = facts.tables.iter();
    let tables = tables.filter(|table| matches!(table.access, Access::Define | Access::Drop));
    let code = facts.traits.contains(&Trait::Code) || facts.traits.contains(&Trait::Extension);
    tables.map(|table| last_part(&table.name).into()).chain(code.then(|| ANY_CODE.into()))
}

/// A relation that a statement names as `name`, in the same way.
pub(super) fn own_name(name: &str) -> Arc<str> {
    last_part(&qualified([name].into_iter())).into()
}

struct Client<'a> {
    snapshot: &'a Snapshot,
    masks: &'a Masks,
    changing: &'a HashSet<Arc<str>>,
}

impl Ground for Client<'_> {
    fn snapshot(&self) -> &Snapshot {
        self.snapshot
    }

    fn matters(&self, relation: u32, place: i16) -> bool {
        self.masks.columns.contains_key(&(relation, place))
    }

    fn is_lenient(&self) -> bool {
        false
    }

    fn is_changing(&self, relation: Option<u32>, name: &str) -> bool {
        if self.changing.is_empty() {
            return false;
        }
        let Some(relation) = relation else { return self.changing.contains(name) };
        // It, or what it shows.
        let mut waiting = vec![relation];
        let mut seen = HashSet::new();
        while let Some(oid) = waiting.pop() {
            if !seen.insert(oid) {
                continue;
            }
            let named = self.snapshot.relation(oid).map(|it| qualified([&*it.name].into_iter()));
            if named.is_some_and(|name| self.changing.contains(last_part(&name))) {
                return true;
            }
            waiting.extend(self.snapshot.reads(oid));
        }
        false
    }
}

/// The outcome for a whole text.
fn follow(ground: &Client<'_>, all: &[Uses]) -> Result<Copied, Why> {
    let mut copy = None;
    for uses in all {
        let columns = Follow::new(ground, uses).statement();
        let columns = columns.map_err(|stray| Why::of(stray, ground.masks))?;
        if let Some(columns) = columns {
            let own = positions(&columns, ground.masks)?;
            // One text may have several; nobody could tell their rows apart.
            if (copy.is_some() || own.is_some()) && all.len() > 1 {
                return Err(Why::Places);
            }
            copy = own;
        }
    }
    Ok(copy)
}

/// What becomes of the columns that are copied, place by place.
fn positions(columns: &Columns, masks: &Masks) -> Result<Copied, Why> {
    if columns.union().is_empty() {
        return Ok(None);
    }
    if !columns.is_exact || columns.is_open {
        return Err(Why::Places);
    }
    let mut all = Vec::with_capacity(columns.all.len());
    for column in &columns.all {
        let mut masked: Vec<&Masked> = Vec::new();
        for origin in &column.from {
            masked.extend(masks.columns.get(&(origin.relation, origin.place)));
        }
        let strictest = masked.into_iter().max_by(|one, other| one.mask.cmp(&other.mask));
        all.push(strictest.map(|masked| CopyColumn {
            // NULL is a value of any type.
            masked: match column.kind {
                Some(_) => masked.clone(),
                None => Masked { mask: Mask::Null, ..masked.clone() },
            },
            kind: column.kind.unwrap_or_default(),
        }));
    }
    Ok(Some(all.into()))
}

/// The last part of a name as it is written.
pub(super) fn last_part(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

fn schema(name: &str) -> Option<&str> {
    name.rsplit('.').nth(1)
}

/// Whether it may be a relation of PostgreSQL's own, which has nothing of anybody's tables.
pub(super) fn may_be_system(name: &str) -> bool {
    match schema(name) {
        Some(schema) => matches!(schema, "pg_catalog" | "information_schema"),
        None => name.starts_with("pg_"),
    }
}

/// Whether values of tables stand in it.
fn holds_values(name: &str) -> bool {
    const HOLDING: [&str; 5] =
        ["pg_statistic", "pg_statistic_ext_data", "pg_stats", "pg_stats_ext", "pg_stats_ext_exprs"];
    match schema(name) {
        Some("pg_catalog") | None => HOLDING.contains(&last_part(name)),
        Some(schema) => schema.starts_with("pg_toast"),
    }
}
