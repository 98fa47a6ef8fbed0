//! The process that parses: PostgreSQL's parser is C and reads what strangers wrote, so it runs in a child
//! that has no rights, and the service keeps what it answers.
//!
//! `Analyst` is the service's side, `serve` the child's.

mod cache;
mod confine;
mod parser;
mod serve;
mod wire;

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    event::{Analysis, Facts, Query, Uses},
    statement::{Analysed, Lexing, MAX_TEXT_BYTES, Parameters, Session, Template},
};
use cache::Cache;
use parser::Parser;
pub use serve::serve;
use wire::Asked;

/// What an analyst may take.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// The program to start with the argument `analyst`: this one.
    pub program: PathBuf,
    /// How long an answer may take. A text that takes longer is not asked about again for a while.
    pub time_limit: Duration,
    /// Longer texts are redacted, and not parsed.
    pub text_bytes: usize,
    /// Of facts that are kept, by template and by text together.
    pub cache_bytes: usize,
    pub cache_entries: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            program: PathBuf::from("/proc/self/exe"),
            time_limit: Duration::from_millis(250),
            text_bytes: 64 << 10,
            cache_bytes: 16 << 20,
            cache_entries: 20_000,
        }
    }
}

/// How long a text is left alone after the child failed over it: long enough that it can't keep the
/// child from working, short enough that a failure of another cause doesn't stick.
const LEFT_ALONE: Duration = Duration::from_secs(60);

/// Counts since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Found by text.
    pub text_hits: u64,
    /// Found by template: another text that differs in harmless literals only was seen before.
    pub template_hits: u64,
    /// Asked the child.
    pub misses: u64,
    pub too_long: u64,
    /// No answer in time.
    pub timeouts: u64,
    /// The child ended, or answered what is no answer.
    pub failures: u64,
    /// Not asked: the child waits to be started again, or had failed over the same text.
    pub unavailable: u64,
    /// Children started.
    pub starts: u64,
    /// Facts that made room for others.
    pub evictions: u64,
}

/// Facts for texts, used by one thread.
///
/// The child dies with the thread that first asked, so that thread should live as long as the service.
pub struct Analyst {
    bounds: Bounds,
    by_template: Cache<Arc<Analysed>>,
    /// With standard-conforming strings, and without.
    by_text: [Cache<Arc<Analysed>>; 2],
    /// Of definitions: what is behind them.
    behind: Cache<Arc<Facts>>,
    /// By template, and by text where other literals could mean others.
    uses: Cache<Arc<[Uses]>>,
    left_alone: Cache<(Instant, Arc<Analysed>)>,
    parser: Parser,
    template: Template,
    counters: Counters,
}

impl Analyst {
    pub fn new(bounds: Bounds) -> Self {
        // Templates are what repeats; whole texts are few and serve as a short cut.
        let cache =
            |share: usize| Cache::new(bounds.cache_entries / share, bounds.cache_bytes / share);
        Self {
            by_template: Cache::new(bounds.cache_entries / 2, bounds.cache_bytes / 2),
            by_text: [cache(4), cache(8)],
            behind: Cache::new(bounds.cache_entries / 8, bounds.cache_bytes / 8),
            uses: Cache::new(bounds.cache_entries / 4, bounds.cache_bytes / 4),
            left_alone: Cache::new(bounds.cache_entries / 8, bounds.cache_bytes / 8),
            parser: Parser::new(bounds.program.clone(), bounds.time_limit),
            template: Template::default(),
            counters: Counters::default(),
            bounds,
        }
    }

    /// The facts of a whole text.
    pub fn facts(&mut self, text: &str, lexing: Lexing) -> Arc<Facts> {
        self.analysed(text, lexing).whole.clone()
    }

    /// The facts of a text, statement by statement and together.
    pub fn analysed(&mut self, text: &str, lexing: Lexing) -> Arc<Analysed> {
        let by_text = usize::from(!lexing.standard_conforming_strings);
        if let Some(known) = self.by_text[by_text].find(text) {
            self.counters.text_hits += 1;
            return known.clone();
        }
        let max_bytes = self.bounds.text_bytes.min(MAX_TEXT_BYTES);
        if text.len() > max_bytes {
            self.counters.too_long += 1;
            let start = text.floor_char_boundary(max_bytes);
            let start = text.get(..start).unwrap_or_default();
            return Arc::new(Analysed::unparsed(start, lexing, Analysis::TooLong));
        }
        self.template.fill(text, lexing);
        if self.template.is_sound()
            && let Some(known) = self.by_template.find(self.template.key())
        {
            self.counters.template_hits += 1;
            let known = known.clone();
            if self.template.is_whole() {
                self.by_text[by_text].keep(text, known.clone(), weight(&known));
            }
            return known;
        }
        self.ask(text, lexing, by_text)
    }

    /// The same where more is known of the session than how it reads a text. What depends on that is asked anew
    /// each time.
    pub fn analysed_in(&mut self, text: &str, session: &Session) -> Arc<Analysed> {
        let known = self.analysed(text, session.lexing);
        let is_bound = matches!(session.parameters, Parameters::Bound(_));
        if !(known.is_session_sensitive || is_bound && known.is_parameter_sensitive) {
            return known;
        }
        match self.parser.ask(text, Asked::In(session)) {
            Ok(analysed) => Arc::new(analysed),
            Err(failure) => {
                self.count(failure);
                Arc::new(Analysed::unparsed(text, session.lexing, Analysis::Unavailable))
            }
        }
    }

    /// What a definition that a database keeps does once it is used; `None` where nobody can say so now.
    pub fn behind(&mut self, definition: &str) -> Option<Arc<Facts>> {
        if let Some(known) = self.behind.find(definition) {
            self.counters.text_hits += 1;
            return Some(known.clone());
        }
        if definition.len() > self.bounds.text_bytes.min(MAX_TEXT_BYTES) {
            self.counters.too_long += 1;
            let facts = Analysed::unparsed("", Lexing::default(), Analysis::TooLong).whole;
            return Some(facts);
        }
        let now = Instant::now();
        if self.left_alone.find(definition).is_some_and(|(until, _)| *until > now) {
            self.counters.unavailable += 1;
            return None;
        }
        self.counters.misses += 1;
        match self.parser.ask(definition, Asked::Behind) {
            Ok(analysed) => {
                let weight = weight(&analysed);
                self.behind.keep(definition, analysed.whole.clone(), weight);
                Some(analysed.whole)
            }
            Err(failure) => {
                self.count(failure);
                if failure != parser::Failure::Waiting {
                    let known = Analysed::unparsed("", Lexing::default(), Analysis::Unavailable);
                    let known = (now + LEFT_ALONE, Arc::new(known));
                    self.left_alone.keep(definition, known, size_of::<Facts>());
                }
                None
            }
        }
    }

    /// Where the columns go that the statements of a text name; `None` where nobody can say so now.
    pub fn uses(&mut self, text: &str, lexing: Lexing) -> Option<Arc<[Uses]>> {
        if text.len() > self.bounds.text_bytes.min(MAX_TEXT_BYTES) {
            return None;
        }
        // A text with a mark before it that no template has.
        let own = format!("{}\0{text}", u8::from(lexing.standard_conforming_strings));
        if let Some(known) = self.uses.find(&own) {
            return Some(known.clone());
        }
        self.template.fill(text, lexing);
        let is_sound = self.template.is_sound();
        if let Some(known) = self.uses.find(self.template.key()).filter(|_| is_sound) {
            return Some(known.clone());
        }
        match self.parser.ask_uses(text, lexing) {
            Ok(uses) => {
                let uses: Arc<[Uses]> = uses.into();
                let weight = uses.iter().map(weight_of_uses).sum();
                match is_sound && !uses.iter().any(|one| one.is_literal_sensitive) {
                    true => self.uses.keep(self.template.key(), uses.clone(), weight),
                    false => self.uses.keep(&own, uses.clone(), weight),
                }
                Some(uses)
            }
            Err(failure) => {
                self.count(failure);
                None
            }
        }
    }

    fn count(&mut self, failure: parser::Failure) {
        match failure {
            parser::Failure::Waiting => self.counters.unavailable += 1,
            parser::Failure::TimedOut => self.counters.timeouts += 1,
            parser::Failure::Broken => self.counters.failures += 1,
        }
    }

    pub fn counters(&self) -> Counters {
        let caches = self.by_text.iter().chain([&self.by_template]);
        Counters {
            starts: self.parser.n_starts(),
            evictions: caches.map(Cache::n_evicted).sum(),
            ..self.counters
        }
    }

    /// The child's pid, where one runs.
    pub fn child(&self) -> Option<u32> {
        self.parser.pid()
    }

    fn ask(&mut self, text: &str, lexing: Lexing, by_text: usize) -> Arc<Analysed> {
        let now = Instant::now();
        if let Some((until, known)) = self.left_alone.find(text)
            && *until > now
        {
            self.counters.unavailable += 1;
            return known.clone();
        }
        self.counters.misses += 1;
        match self.parser.ask(text, Asked::Alone(lexing)) {
            Ok(analysed) => {
                let known = Arc::new(analysed);
                let weight = weight(&known);
                // A text that the grammar refuses says nothing of its template: an escape that is invalid
                // may be the reason.
                let holds_for_template = !known.is_literal_sensitive && self.template.is_sound();
                match holds_for_template {
                    true => self.by_template.keep(self.template.key(), known.clone(), weight),
                    false => self.by_text[by_text].keep(text, known.clone(), weight),
                }
                known
            }
            Err(failure) => {
                let known = Arc::new(Analysed::unparsed(text, lexing, Analysis::Unavailable));
                self.count(failure);
                if failure != parser::Failure::Waiting {
                    let weight = weight(&known);
                    self.left_alone.keep(text, (now + LEFT_ALONE, known.clone()), weight);
                }
                known
            }
        }
    }
}

/// About how many bytes uses take.
fn weight_of_uses(uses: &Uses) -> usize {
    let of_query = |query: &Query| {
        let mixes = query.flows.iter().map(|(_, mix)| mix.of.len() + mix.inner.len());
        let parts = query.from.len() + query.outputs.len() + mixes.sum::<usize>();
        size_of::<Query>() + parts * 150
    };
    size_of::<Uses>() + uses.queries.iter().map(of_query).sum::<usize>()
}

/// About how many bytes facts take.
fn weight(analysed: &Analysed) -> usize {
    let own = |facts: &Facts| {
        let names = facts.tables.iter().map(|table| &table.name).chain(&facts.columns);
        let names = names.chain(&facts.functions).map(|name| name.len() + 40);
        let keys = facts.keys.len() * 120;
        size_of::<Facts>() + facts.text.len() + facts.summary.len() + names.sum::<usize>() + keys
    };
    // A single statement is the whole, and shared.
    let several = analysed.statements.iter().filter(|facts| !Arc::ptr_eq(facts, &analysed.whole));
    let several = several.map(|facts| own(facts)).sum::<usize>();
    own(&analysed.whole) + several + size_of::<Analysed>()
}
