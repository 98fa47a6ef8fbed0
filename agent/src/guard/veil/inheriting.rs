//! Who inherits labels by what is let through.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Asked, Seen, Veil};
use crate::{
    event::{Access, Analysis, ConnectionId, Facts},
    guard::{
        behind,
        catalog::{Database, Full, Inheriting, PATIENCE, Snapshot},
        court::Denial,
        judging::Judging,
        lineage::{Legacy, Own, Said, Why},
        wire::Word,
    },
    statement::{Analysed, Lexing, Session},
};

/// In the place of a rule.
const INHERITED: &str = "inherited-labels";

/// What was made past the guard may be seen so much later.
const LONGEST_TRANSACTION: Duration = Duration::from_secs(600);

/// A text, and by what it was looked at.
pub(super) struct Lately {
    analysed: Arc<Analysed>,
    snapshot: Arc<Snapshot>,
    /// Of what the database has inherited.
    version: u64,
}

/// A session says the same few again and again.
const MAX_LATELY: usize = 8;

impl Veil {
    pub(in crate::guard) fn has_left_nothing(
        &self,
        analysed: &Arc<Analysed>,
        snapshot: &Arc<Snapshot>,
        database: &Database,
    ) -> bool {
        self.own.is_empty()
            && self.lately.iter().any(|one| {
                Arc::ptr_eq(&one.analysed, analysed)
                    && Arc::ptr_eq(&one.snapshot, snapshot)
                    && one.version == database.inherited.version()
            })
    }

    fn leaves_nothing(
        &mut self,
        analysed: &Arc<Analysed>,
        snapshot: Arc<Snapshot>,
        database: &Database,
    ) {
        // What `EXECUTE` runs, and a block of code, is another thing each time.
        let is_one = !analysed.is_session_sensitive && !analysed.is_literal_sensitive;
        if !self.own.is_empty() || !is_one {
            return;
        }
        if self.lately.len() >= MAX_LATELY {
            self.lately.pop_front();
        }
        let (analysed, version) = (analysed.clone(), database.inherited.version());
        self.lately.push_back(Lately { analysed, snapshot, version });
    }
}

impl Judging {
    /// Labels that are inherited by what a client says; whether there is something that is to be seen yet.
    pub(super) fn leave(
        &mut self,
        asked: &Asked<'_>,
        database: &Arc<Database>,
        snapshot: Arc<Snapshot>,
        (session, veil): (ConnectionId, &mut Veil),
    ) -> Result<bool, Denial> {
        let Asked { reading, lexing, prepared, .. } = *asked;
        if veil.has_left_nothing(&reading.analysed, &snapshot, database) {
            return Ok(false);
        }
        let Analysed { statements, whole, .. } = &*reading.analysed;
        let text = reading.text.as_deref();
        let said = Said { text, lexing, statements, prepared, has_run: false };
        let passed = self.pass_on(&said, whole, database, &snapshot, (session, &mut veil.own));
        let is_awaited = passed.map_err(|why| why.denial(&INHERITED.into()))?;
        if !is_awaited {
            veil.leaves_nothing(&reading.analysed, snapshot, database);
        }
        Ok(is_awaited)
    }

    /// Likewise by a text.
    ///
    /// # Errors
    /// More inherit than are kept.
    fn pass_on(
        &mut self,
        said: &Said<'_>,
        whole: &Facts,
        database: &Arc<Database>,
        snapshot: &Arc<Snapshot>,
        (session, own): (ConnectionId, &mut Own),
    ) -> Result<bool, Why> {
        let key = (database.server, database.name.clone());
        let Self { veils, analyst, behind, .. } = self;
        let Some(Seen::Labelled(labelled)) = veils.databases.get_mut(&key) else {
            return Ok(false);
        };
        let Some(behind) = behind::of(behind, &key, snapshot) else { return Ok(false) };
        let Legacy { heirs, unseen } = labelled.legacy(said, own, behind, analyst);
        if own.is_overfull() {
            return Err(Why::TooMuch);
        }
        if heirs.is_empty() && unseen.is_empty() {
            return Ok(false);
        }
        let statement: Arc<str> = whole.fingerprint_text().into();
        if !heirs.is_empty() {
            let news = database.inherited.add(heirs).map_err(|Full| Why::TooManyHeirs)?;
            if !news.is_empty() {
                let statement = statement.clone();
                let inheriting = Inheriting { session, statement, heirs: news };
                self.channel.tell(&Word::inherited(key.0, &key.1, inheriting));
            }
        }
        if unseen.is_empty() {
            return Ok(false);
        }
        let awaited = database.inherited.awaits(session, &statement, unseen);
        awaited.map(|()| true).map_err(|Full| Why::TooManyHeirs)
    }

    /// Labels that are inherited by a text that has run past the guard; whether something that it makes is to be seen
    /// yet. `is_last`: nobody will ask again, so what isn't known counts as the worst.
    pub(in crate::guard) fn inherit_from(
        &mut self,
        text: &str,
        database: &Arc<Database>,
        (session, own): (ConnectionId, &mut Own),
        is_last: bool,
    ) -> Result<bool, Why> {
        if !self.judge.set().masks() {
            return Ok(false);
        }
        let key = (database.server, database.name.clone());
        let snapshot = self.catalogs.snapshot(database, PATIENCE).ok_or(Why::Blind)?;
        self.label(&key, &snapshot, database)?;
        let lexing = Lexing::default();
        let analysed = self.analyst.analysed_in(text, &Session { lexing, ..Session::default() });
        if !is_last && !self.knows(text, &analysed, &key, &snapshot) {
            return Err(Why::Unanswered);
        }
        let said = Said {
            text: Some(text),
            lexing,
            statements: &analysed.statements,
            prepared: &|_| None,
            has_run: true,
        };
        let whole = &analysed.whole;
        let is_awaited = self.pass_on(&said, whole, database, &snapshot, (session, own))?;
        if is_awaited {
            // Its transaction may still be open.
            database.inherited.settles_by(session, Instant::now() + LONGEST_TRANSACTION);
        }
        let tables = analysed.whole.tables.iter();
        let dropped = tables.filter(|table| table.access == Access::Drop);
        dropped.for_each(|table| own.forget(&table.name));
        Ok(is_awaited)
    }

    /// Whether all has answered that can say what a text does.
    fn knows(
        &mut self,
        text: &str,
        analysed: &Analysed,
        key: &(usize, Arc<str>),
        snapshot: &Arc<Snapshot>,
    ) -> bool {
        let Self { analyst, behind, .. } = self;
        let Some(behind) = behind::of(behind, key, snapshot) else { return false };
        let mut reveals = |said| {
            behind.reveal(said, analyst);
            behind.has_revealed(said)
        };
        let analysis = analysed.whole.analysis;
        // What isn't SQL, or too long, nobody will understand later either.
        let is_read = matches!(analysis, Analysis::Complete | Analysis::CallsCode);
        analysis != Analysis::Unavailable
            && analysed.statements.iter().all(&mut reveals)
            && (!is_read || analyst.uses(text, Lexing::default()).is_some())
    }
}
