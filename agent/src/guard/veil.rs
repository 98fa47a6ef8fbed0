//! What is hidden from a client, and whether what it says can be let through so.
//!
//! It is asked for every statement of such a client, also where no rule has anything to say of its text: a view may
//! show what a table hides.

mod inheriting;

use std::{
    collections::{BTreeSet, HashSet, VecDeque},
    num::NonZeroUsize,
    sync::Arc,
};

use inheriting::Lately;
use lru::LruCache;

use super::{
    behind,
    catalog::{Database, PATIENCE, Snapshot},
    client_court::ClientCourt,
    court::{Court as _, Denial, Moment, Nulled, Reading},
    judging::{Judging, now},
    lineage::{self, Labelled, Own, Place, Why},
    masking::{Copied, Masks},
    wire::Word,
};
use crate::{
    event::{Facts, Flow, Origin, Uses},
    policy::{Circumstances, Standing},
    statement::Lexing,
};

/// Databases, and clients of those that can't be asked, of which a worker remembers what is hidden.
const MAX_DATABASES: NonZeroUsize = NonZeroUsize::new(64).unwrap();
const MAX_CLIENTS: NonZeroUsize = NonZeroUsize::new(1_024).unwrap();
/// Columns of one statement that are made NULL, one after the other.
const MAX_ROUNDS: usize = 16;
/// A longer text would be cut off where it is recorded.
const MAX_NULLED_BYTES: usize = 32 << 10;
/// Relations for a session alone that it may make before it can't read any more of anything.
const MAX_TEMPORARY: usize = 1_000;

/// Of one worker, for all of its sessions.
pub(super) struct Veils {
    /// By a database's server and name.
    databases: LruCache<(usize, Arc<str>), Seen>,
    /// The rule that may hide something from whom, where nobody can say what there is.
    unseen: LruCache<Standing, Option<Arc<str>>>,
}

impl Default for Veils {
    fn default() -> Self {
        Self { databases: LruCache::new(MAX_DATABASES), unseen: LruCache::new(MAX_CLIENTS) }
    }
}

/// A database as it was seen once.
enum Seen {
    Labelled(Box<Labelled>),
    /// Nobody can tell what is labelled in it.
    Not(Arc<Snapshot>, Why),
}

impl Seen {
    fn is_of(&self, snapshot: &Arc<Snapshot>, version: u64) -> bool {
        match self {
            Self::Labelled(labelled) => labelled.is_of(snapshot, version),
            Self::Not(seen, _) => Arc::ptr_eq(seen, snapshot),
        }
    }
}

/// Of one client.
#[derive(Default)]
pub(super) struct Veil {
    /// With the statement that was judged last.
    pub(super) masks: Option<Arc<Masks>>,
    /// Relations of its session alone: no catalog shows them.
    temporary: HashSet<Arc<str>>,
    /// What was denied last flows, and may be NULL instead.
    pub(super) flows: Option<Place>,
    /// What has something of labelled columns, and no catalog shows.
    pub(super) own: Own,
    /// Texts by which nobody inherits any more, the newest last.
    lately: VecDeque<Lately>,
}

/// Who asks what.
struct Asked<'a> {
    origin: &'a Arc<Origin>,
    circumstances: Circumstances<'a>,
    reading: &'a Reading,
    lexing: Lexing,
    /// See [`lineage::Said`].
    prepared: &'a dyn Fn(&str) -> Option<Vec<Arc<str>>>,
}

/// A rule that hides something, and why that can't be helped.
type Refused = (Arc<str>, Why);

impl ClientCourt {
    /// Whether everything that is hidden from the client stays so; for `COPY`, its columns. `hiding`: a rule that
    /// wants it.
    pub(super) fn look_through(
        &mut self,
        reading: &Reading,
        hiding: Option<&Arc<str>>,
    ) -> Result<Copied, Denial> {
        self.veil.masks = None;
        self.veil.flows = None;
        if hiding.is_none() && !self.judging.borrow().judge.set().masks() {
            return Ok(None);
        }
        let origin = self.origin(reading);
        let prepared = &self.said.prepared;
        let prepared = |name: &str| -> Option<Vec<Arc<str>>> {
            Some(prepared.bodies(name)?.iter().map(|body| body.statement.clone()).collect())
        };
        let asked = Asked::of(reading, &origin, self.said.lexing, &prepared);
        let judging = &mut *self.judging.borrow_mut();
        let looked = judging.look_through(&asked, hiding, self.database.as_ref(), &self.veil);
        if let Err((_, Why::Flows { place, flow: Flow::Null, .. })) = &looked {
            self.veil.flows = Some(*place);
        }
        let Looked { masks, copy, temporary, seen } =
            looked.map_err(|(rule, why)| why.denial(&rule))?;
        if let (Some(database), Some(snapshot)) = (&self.database, seen) {
            let who = (self.profile.id, &mut self.veil);
            // What it awaits is there, or never will be, once it has settled.
            self.unsettled.has_defined |= judging.leave(&asked, database, snapshot, who)?;
        }
        self.veil.masks = masks;
        self.veil.temporary.extend(temporary);
        Ok(copy)
    }

    /// The same with NULL for the columns that flow, where their rules want that and nothing else stands against it.
    pub(super) fn nulled(&mut self, said: &Arc<Reading>, state: Moment) -> Option<Arc<Reading>> {
        let database = self.database.clone()?;
        let mut columns: BTreeSet<Arc<str>> = BTreeSet::new();
        let mut reading = said.clone();
        for _ in 0..MAX_ROUNDS {
            let place = self.veil.flows.take()?;
            let origin = self.origin(&reading);
            let asked = Asked::of(&reading, &origin, self.said.lexing, &|_| None);
            let (text, column) = self.judging.borrow_mut().without(place, &asked, &database)?;
            if text.len() > MAX_NULLED_BYTES {
                return None;
            }
            columns.insert(column);
            let read = self.read(Some(&text), state);
            let columns = columns.iter().cloned().collect();
            reading = Arc::new(Reading {
                claims: said.claims.clone(),
                types: said.types.clone(),
                nulled: Some(Arc::new(Nulled { said: said.clone(), columns })),
                ..Reading::clone(&read)
            });
            if self.look_through(&reading, None).is_ok() {
                return Some(reading);
            }
        }
        None
    }

    /// It is about to define something, which others see when it is committed.
    pub(super) fn defines(&self, facts: &Facts) {
        let Some(database) = &self.database else { return };
        let names: Vec<Arc<str>> = lineage::defines(facts).collect();
        if !names.is_empty() && self.judging.borrow().judge.set().masks() {
            database.defining(self.profile.id, names.into_iter());
        }
    }
}

impl<'a> Asked<'a> {
    fn of(
        reading: &'a Reading,
        origin: &'a Arc<Origin>,
        lexing: Lexing,
        prepared: &'a dyn Fn(&str) -> Option<Vec<Arc<str>>>,
    ) -> Self {
        let claims = reading.claims.as_deref().map_or(&[][..], |claims| &claims.tags);
        let circumstances = Circumstances { time: now(), claims, ..Circumstances::default() };
        Self { origin, circumstances, reading, lexing, prepared }
    }
}

/// What may be let through.
#[derive(Default)]
struct Looked {
    masks: Option<Arc<Masks>>,
    copy: Copied,
    temporary: Vec<Arc<str>>,
    /// Where it is known what is labelled.
    seen: Option<Arc<Snapshot>>,
}

impl Judging {
    fn look_through(
        &mut self,
        asked: &Asked<'_>,
        hiding: Option<&Arc<str>>,
        database: Option<&Arc<Database>>,
        veil: &Veil,
    ) -> Result<Looked, Refused> {
        let Some(database) = database else {
            return self.look_blindly(asked, hiding, Why::Blind);
        };
        let key = (database.server, database.name.clone());
        // Those from whom nothing is hidden wait for nobody.
        let is_as_seen = database.is_as_seen();
        let seen = self.catalogs.snapshot(database, PATIENCE).filter(|_| is_as_seen);
        if let (Some(seen), None) = (seen, hiding)
            && self.label(&key, &seen, database).is_ok()
            && self.masks(&key, asked).is_none()
        {
            return Ok(Looked { seen: Some(seen), ..Looked::default() });
        }
        // In this order: what is committed meanwhile is in one of them.
        let mut changing = database.under_way();
        let is_overwhelmed = database.is_overwhelmed();
        let Some((snapshot, unseen)) = self.catalogs.current(database, PATIENCE) else {
            return self.look_blindly(asked, hiding, Why::Blind);
        };
        if let Err(why) = self.label(&key, &snapshot, database) {
            if why == Why::NoColumns {
                // It is older than the rules that want them.
                database.changed();
            }
            return self.look_blindly(asked, hiding, why);
        }
        let masks = self.masks(&key, asked);
        let Self { veils, analyst, behind, .. } = self;
        let Some(Seen::Labelled(labelled)) = veils.databases.get_mut(&key) else {
            return self.look_blindly(asked, hiding, Why::Blind);
        };
        let hides = |rule: &Arc<str>| {
            masks.iter().flat_map(|masks| masks.columns.values()).any(|it| it.rule == *rule)
        };
        if let Some(rule) = hiding.filter(|rule| !hides(rule)) {
            return Err((rule.clone(), Why::NothingHidden));
        }
        let seen = Some(snapshot.clone());
        let Some(masks) = masks else { return Ok(Looked { seen, ..Looked::default() }) };
        let rule = masks.columns.values().next().map(|masked| masked.rule.clone());
        let rule = rule.unwrap_or_else(|| "?".into());
        let refused = |why| (hiding.unwrap_or(&rule).clone(), why);
        if is_overwhelmed || veil.temporary.len() > MAX_TEMPORARY {
            return Err(refused(Why::TooMuch));
        }
        changing.extend(unseen);
        changing.extend(veil.temporary.iter().cloned());
        let statements = &asked.reading.analysed.statements;
        if statements.len() > 1 {
            // By the time that one of them runs, another may have.
            statements.iter().for_each(|said| changing.extend(lineage::defines(said)));
        }
        let Some(behind) = behind::of(behind, &key, &snapshot) else {
            return Err(refused(Why::Blind));
        };
        for said in statements {
            let all = behind.reveal(said, analyst).facts;
            let ran = behind.runs(said, analyst);
            labelled.check(&all, &ran, &masks, &changing).map_err(refused)?;
        }
        let text = asked.reading.text.as_deref().ok_or_else(|| refused(Why::Unreadable))?;
        let mut uses_of = |text: &str| -> Result<Arc<[Uses]>, Refused> {
            analyst.uses(text, asked.lexing).ok_or_else(|| refused(Why::Unanswered))
        };
        let uses = uses_of(text)?;
        let temporary = uses.iter().flat_map(|uses| &uses.temporary);
        let temporary: Vec<Arc<str>> = temporary.map(|name| lineage::own_name(name)).collect();
        if statements.len() > 1 {
            changing.extend(temporary.iter().cloned());
        }
        let copy = labelled.follow(&uses, &masks, &changing).map_err(refused)?;
        for name in uses.iter().flat_map(|uses| &uses.executes) {
            let Some(texts) = (asked.prepared)(name) else {
                return Err(refused(Why::NotPrepared(name.clone())));
            };
            for text in texts {
                labelled.follow(&uses_of(&text)?, &masks, &changing).map_err(refused)?;
            }
        }
        Ok(Looked { masks: Some(masks), copy, temporary, seen })
    }

    /// The text with NULL for one more column, and how that is recorded.
    fn without(
        &mut self,
        place: Place,
        asked: &Asked<'_>,
        database: &Database,
    ) -> Option<(String, Arc<str>)> {
        let key = (database.server, database.name.clone());
        let masks = self.masks(&key, asked)?;
        let Self { veils, analyst, behind, .. } = self;
        let Some(Seen::Labelled(labelled)) = veils.databases.get_mut(&key) else { return None };
        let behind = behind.get_mut(&key)?;
        let text = asked.reading.text.as_deref()?;
        let uses = analyst.uses(text, asked.lexing)?;
        let statements = &asked.reading.analysed.statements;
        if uses.len() != statements.len() {
            return None;
        }
        let mut reading: Vec<&Uses> = Vec::new();
        for (uses, said) in uses.iter().zip(statements) {
            let all = behind.reveal(said, analyst).facts;
            if lineage::only_shows(uses, &all, &behind.runs(said, analyst)) {
                reading.push(uses);
            }
        }
        let other = labelled.without(place, text, asked.lexing, &reading, &masks)?;
        Some((other, masks.columns.get(&place)?.flow_tag()))
    }

    /// What is hidden from a client, where it is known what is labelled; `None` where nothing is.
    fn masks(&mut self, key: &(usize, Arc<str>), asked: &Asked<'_>) -> Option<Arc<Masks>> {
        let Some(Seen::Labelled(labelled)) = self.veils.databases.get_mut(key) else { return None };
        let masks = labelled.masks(&mut self.judge, asked.origin, asked.circumstances);
        if let Some(lacks) = labelled.news() {
            let (server, database) = (key.0, key.1.to_string());
            let word = Word::Lacks { server, database, lacks: lacks.to_vec() };
            self.channel.tell(&word);
        }
        masks
    }

    /// Finds out what is labelled in a database, unless that is known.
    fn label(
        &mut self,
        key: &(usize, Arc<str>),
        snapshot: &Arc<Snapshot>,
        database: &Database,
    ) -> Result<(), Why> {
        let Self { judge, veils, analyst, .. } = self;
        let inherited = &database.inherited;
        let is_seen = |seen: &Seen| seen.is_of(snapshot, inherited.version());
        if veils.databases.get(key).is_none_or(|seen| !is_seen(seen)) {
            let seen = match Labelled::new(snapshot.clone(), judge, analyst, inherited.all()) {
                Ok(labelled) => Seen::Labelled(Box::new(labelled)),
                // It may be better the next time.
                Err(why @ (Why::Unanswered | Why::NoColumns)) => return Err(why),
                Err(why) => Seen::Not(snapshot.clone(), why),
            };
            veils.databases.put(key.clone(), seen);
        }
        match veils.databases.get(key) {
            Some(Seen::Not(_, why)) => Err(why.clone()),
            _ => Ok(()),
        }
    }

    /// Where nobody knows what there is: who may not see all sees nothing but what is PostgreSQL's own.
    fn look_blindly(
        &mut self,
        asked: &Asked<'_>,
        hiding: Option<&Arc<str>>,
        why: Why,
    ) -> Result<Looked, Refused> {
        let Self { judge, veils, .. } = self;
        let standing = judge.standing(asked.origin, asked.circumstances);
        let known = veils.unseen.get(&standing).cloned();
        let rule = known.unwrap_or_else(|| {
            let rule = judge.may_hide(asked.origin, asked.circumstances);
            veils.unseen.put(standing, rule.clone());
            rule
        });
        let Some(rule) = hiding.cloned().or(rule) else { return Ok(Looked::default()) };
        for facts in &asked.reading.analysed.statements {
            lineage::blind(facts)
                .map_err(|own| (rule.clone(), if own == Why::Blind { why.clone() } else { own }))?;
        }
        Ok(Looked { masks: Some(Arc::default()), ..Looked::default() })
    }
}
