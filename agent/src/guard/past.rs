//! Statements that have run past the guard: whether they have copied something that is hidden.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    num::NonZeroUsize,
    sync::Arc,
    time::{Duration, Instant},
};

use lru::LruCache;

use super::{
    catalog::Catalogs,
    judging::Judging,
    lineage::{Own, Why},
};
use crate::event::ConnectionId;

/// Sessions that are told apart.
const MAX_SESSIONS: NonZeroUsize = NonZeroUsize::new(1_000).unwrap();
/// Statements that wait until somebody can say what they do.
const MAX_WAITING: usize = 1_000;
/// After that, whatever they may have done counts as done.
const PATIENCE: Duration = Duration::from_secs(60);
/// From one look for what they have made to the next: twice as long each time, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// A server by its place in the settings, and a database of it.
pub(super) type Place = (usize, String);

pub(super) struct Ran {
    pub place: Place,
    pub connection: ConnectionId,
    pub text: Arc<str>,
}

pub(super) struct Past {
    catalogs: Catalogs,
    /// What sessions have made for themselves.
    own: LruCache<ConnectionId, Own>,
    /// In the order in which they ran, with when to wait no longer.
    waiting: VecDeque<(Ran, Instant)>,
    /// Where something is made that nobody has seen yet: when to look for it, and how long to wait after that. Its
    /// transaction may still be open.
    unseen: HashMap<Place, (Instant, Duration)>,
}

impl Past {
    pub(super) fn new(catalogs: Catalogs) -> Self {
        Self {
            catalogs,
            own: LruCache::new(MAX_SESSIONS),
            waiting: VecDeque::new(),
            unseen: HashMap::new(),
        }
    }

    pub(super) fn ran(&mut self, ran: Ran, judging: &mut Judging) {
        if self.waiting.len() >= MAX_WAITING
            && let Some((oldest, _)) = self.waiting.pop_front()
        {
            self.settle(&oldest, judging);
        }
        // Those before it are asked for from time to time, and not again for each that follows.
        let is_stuck = self.waiting.iter().any(|(one, _)| one.place == ran.place);
        if is_stuck || self.look(&ran, judging, false).is_err_and(|why| why.may_pass()) {
            self.waiting.push_back((ran, Instant::now() + PATIENCE));
        }
    }

    /// Looks at those that wait, by each database one after the other: what comes later may use what was made before.
    pub(super) fn catch_up(&mut self, judging: &mut Judging) {
        let now = Instant::now();
        let mut stuck: HashSet<Place> = HashSet::new();
        for (ran, until) in std::mem::take(&mut self.waiting) {
            if now >= until {
                self.settle(&ran, judging);
            } else if stuck.contains(&ran.place)
                || self.look(&ran, judging, false).is_err_and(|why| why.may_pass())
            {
                stuck.insert(ran.place.clone());
                self.waiting.push_back((ran, until));
            }
        }
        let Self { catalogs, unseen, .. } = self;
        unseen.retain(|(server, database), (next, pause)| {
            if *next > now {
                return true;
            }
            let Some(database) = catalogs.database(*server, database) else { return false };
            database.has_news();
            // Whoever looks tells of it.
            catalogs.snapshot(&database, Duration::ZERO);
            (*next, *pause) = (now + *pause, *pause * 2);
            *pause <= LONGEST_PAUSE
        });
    }

    fn settle(&mut self, ran: &Ran, judging: &mut Judging) {
        let _ = self.look(ran, judging, true);
    }

    /// `is_last`: nobody will look again.
    fn look(&mut self, ran: &Ran, judging: &mut Judging, is_last: bool) -> Result<(), Why> {
        let (server, database) = &ran.place;
        let Some(database) = self.catalogs.database(*server, database) else { return Ok(()) };
        let own = self.own.get_or_insert_mut(ran.connection, Own::default);
        let who = (ran.connection, own);
        match judging.inherit_from(&ran.text, &database, who, is_last) {
            Ok(is_awaited) => {
                if is_awaited {
                    self.unseen.insert(ran.place.clone(), (Instant::now(), FIRST_PAUSE));
                }
                Ok(())
            }
            Err(why) => {
                if is_last || !why.may_pass() {
                    tracing::error!(
                        database = &*database.name,
                        "a statement past the guard may have copied labelled columns: {why}"
                    );
                }
                Err(why)
            }
        }
    }
}
