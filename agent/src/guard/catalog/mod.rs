//! What the servers themselves are asked: what code there is, and what a statement would touch.
//!
//! One thread ([`asking`]) has the connections; whoever judges waits for its answer no longer than [`PATIENCE`], and
//! not at all where an answer is overdue already. What isn't answered is not known: the statement is then judged by
//! its text.

mod asking;
mod connection;
mod inherited;
mod load;
mod numbers;
mod plan;
mod question;
mod seeking;
mod snapshot;

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher, RandomState},
    io,
    num::NonZeroUsize,
    os::fd::OwnedFd,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc::{SyncSender, sync_channel},
    },
    time::{Duration, Instant},
};

use lru::LruCache;
use tokio::sync::{Notify, mpsc::UnboundedSender};

use super::{
    clock::Clock,
    rulebook::Rulebook,
    wire::{Channel, Ticket},
};
use crate::{
    event::{ConnectionId, Heir},
    protocol::postgres::FIRST_OWN_OID,
};
pub(super) use inherited::{Full, Inherited, Inheriting, Shown};
pub(super) use numbers::large_object;
pub(super) use plan::{Expected, Planned, Sampled};
pub(super) use question::{Question, Value};
use seeking::Sought;
pub(super) use seeking::lacking;
pub(super) use snapshot::Rows;
pub(super) use snapshot::{Code, Events, Kind, Relation, Snapshot, What};
#[cfg(test)]
pub(super) use snapshot::{Column, Function};

/// For an answer while a client waits.
pub(super) const PATIENCE: Duration = Duration::from_millis(100);
/// For a first look into a database while its first client logs in.
pub(super) const FIRST_PATIENCE: Duration = Duration::from_secs(1);
/// What was seen is looked at again after so long, without anybody waiting for it …
const FRESH: Duration = Duration::from_secs(1);
/// … or so many times of what it took; …
const FRESH_LOOKS: u32 = 20;
/// Or so many times, where something was defined.
const NEWS_LOOKS: u32 = 5;
/// … and is not used any more after so long.
const USABLE: Duration = Duration::from_secs(30);
/// Databases that are remembered.
const MAX_DATABASES: usize = 256;
/// An estimate holds for the parts of one execution (`Parse`, `Bind`, `Execute`), and for the next few.
const ESTIMATE_LIFE: Duration = Duration::from_secs(1);
const MAX_ESTIMATES: NonZeroUsize = NonZeroUsize::new(1_024).unwrap();
/// Names that one session defines at a time.
const MAX_UNDER_WAY: usize = 10_000;
/// Definitions that are told apart by when they were made.
const MAX_UNSEEN: usize = 64;
const MAX_NAMES: NonZeroUsize = NonZeroUsize::new(1_024).unwrap();
/// Between attempts to reach a database; doubles up to the longest.
const SHORTEST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Until a lock is gone on which an answer has waited.
const HELD_UP: Duration = Duration::from_millis(200);

/// Of one server by its place in the settings, and the database's name.
type Key = (usize, Arc<str>);

/// What the thread is told.
enum Ask {
    Rules(Arc<Rulebook>),
    /// The service's answer.
    Socket(Ticket, Result<OwnedFd, String>),
    Of(Arc<Database>, Job),
}

enum Job {
    Look,
    Plan(Question, SyncSender<Option<Expected>>),
    /// The schema and name of a function.
    Name(u32, SyncSender<Option<Named>>),
}

pub(super) type Named = Arc<(String, String)>;

/// Answers, and when they came.
type Timed<K, V> = LruCache<K, (Instant, V)>;

/// Shared by all who judge.
#[derive(Clone)]
pub(super) struct Catalogs {
    databases: Arc<Mutex<HashMap<Key, Arc<Database>>>>,
    /// Of databases that are not among those.
    inherited: Arc<Mutex<HashMap<Key, Arc<Inherited>>>>,
    n_heirs: Arc<AtomicUsize>,
    asks: UnboundedSender<Ask>,
}

/// One database that clients come to.
pub(super) struct Database {
    pub(super) server: usize,
    pub(super) name: Arc<str>,
    known: Mutex<Known>,
    /// Something of `known` has changed: for whoever waits in either way.
    told: Condvar,
    tidings: Notify,
    /// An answer is overdue: nobody waits for another one.
    is_stuck: AtomicBool,
    hasher: RandomState,
    estimates: Mutex<Timed<u64, Option<Expected>>>,
    names: Mutex<Timed<u32, Option<Named>>>,
    /// What sessions have defined that isn't there for everybody yet, or is since a moment ago.
    under_way: Mutex<HashMap<ConnectionId, HashSet<Arc<str>>>>,
    pub(super) inherited: Arc<Inherited>,
}

#[derive(Default)]
struct Known {
    snapshot: Option<Arc<Snapshot>>,
    /// Of the snapshot's rows.
    print: u64,
    /// When it was begun, and what it took.
    looked: Option<(Instant, Duration)>,
    /// Counts what makes it untrue; as it was when the look began.
    changes: u64,
    seen_changes: u64,
    /// What was defined, and when it was there for everybody: a look that began earlier doesn't show it as it is.
    unseen: Vec<(Instant, HashSet<Arc<str>>)>,
    is_looking: bool,
    sought: Sought,
    /// After a failure.
    not_before: Option<Instant>,
    pause: Duration,
}

impl Catalogs {
    /// Starts the thread that asks.
    pub(super) fn start(channel: Arc<Channel>) -> io::Result<Self> {
        let (asks, inbox) = tokio::sync::mpsc::unbounded_channel();
        let (databases, inherited, n_heirs) = (Arc::default(), Arc::default(), Arc::default());
        let catalogs = Self { databases, inherited, n_heirs, asks };
        asking::start(channel, catalogs.clone(), inbox)?;
        Ok(catalogs)
    }

    pub(super) fn rules(&self, rules: Arc<Rulebook>) {
        self.tell(Ask::Rules(rules));
    }

    pub(super) fn socket(&self, ticket: Ticket, outcome: Result<OwnedFd, String>) {
        self.tell(Ask::Socket(ticket, outcome));
    }

    /// `None` where there are too many others.
    pub(super) fn database(&self, server: usize, name: &str) -> Option<Arc<Database>> {
        let mut databases = lock(&self.databases);
        let key: Key = (server, name.into());
        if let Some(known) = databases.get(&key) {
            return Some(known.clone());
        }
        let mut inherited = lock(&self.inherited);
        if databases.len() >= MAX_DATABASES {
            databases.retain(|key, database| {
                let is_used = Arc::strong_count(database) > 1;
                if !is_used && !database.inherited.is_empty() {
                    inherited.insert(key.clone(), database.inherited.clone());
                }
                is_used
            });
        }
        if databases.len() >= MAX_DATABASES {
            return None;
        }
        let own = inherited.remove(&key).unwrap_or_else(|| self.nothing_inherited());
        let database =
            Arc::new(Database { inherited: own, ..Database::new(server, key.1.clone()) });
        databases.insert(key, database.clone());
        Some(database)
    }

    fn nothing_inherited(&self) -> Arc<Inherited> {
        Arc::new(Inherited::counted_in(self.n_heirs.clone()))
    }

    /// Of a database, wherever it is.
    fn inherited(&self, server: usize, name: &str) -> Arc<Inherited> {
        let (databases, mut others) = (lock(&self.databases), lock(&self.inherited));
        let key: Key = (server, name.into());
        match databases.get(&key) {
            Some(database) => database.inherited.clone(),
            None => others.entry(key).or_insert_with(|| self.nothing_inherited()).clone(),
        }
    }

    /// As the service has kept it.
    pub(super) fn inherit(&self, server: usize, name: &str, heirs: Vec<Heir>) {
        self.inherited(server, name).knows(heirs);
    }

    /// Somebody has taken that back of these columns.
    pub(super) fn disinherit(&self, server: usize, name: &str, columns: &[(u32, i16)]) {
        self.inherited(server, name).forget(columns);
    }

    /// What is known of the code in a database, waited for no longer than so.
    pub(super) fn snapshot(
        &self,
        database: &Arc<Database>,
        patience: Duration,
    ) -> Option<Arc<Snapshot>> {
        let until = Instant::now() + patience;
        let mut known = lock(&database.known);
        loop {
            let now = Instant::now();
            let age = known.age(now);
            if age == Age::Fresh {
                return known.snapshot.clone();
            }
            self.look(database, &mut known, now);
            let left = until.checked_duration_since(now).filter(|left| !left.is_zero());
            let is_hopeless = !known.is_looking || database.is_stuck.load(Ordering::Acquire);
            let Some(left) = left.filter(|_| age == Age::Spent && !is_hopeless) else {
                if age == Age::Spent && known.is_looking {
                    database.is_stuck.store(true, Ordering::Release);
                }
                // What was so a while ago is better than nothing.
                return known.snapshot.clone();
            };
            known =
                database.told.wait_timeout(known, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// What there is, for who must not take anything for what it was before, with the names of what has been defined
    /// since that was seen. `None` where nobody can say so now.
    pub(super) fn current(
        &self,
        database: &Arc<Database>,
        patience: Duration,
    ) -> Option<(Arc<Snapshot>, HashSet<Arc<str>>)> {
        let until = Instant::now() + patience;
        let mut known = lock(&database.known);
        loop {
            let now = Instant::now();
            let age = known.age(now);
            if age == Age::Fresh && known.unseen.is_empty() {
                return known.with_unseen();
            }
            self.look_anew(database, &mut known, now);
            let left = until.checked_duration_since(now).filter(|left| !left.is_zero());
            let is_hopeless = !known.is_looking || database.is_stuck.load(Ordering::Acquire);
            let Some(left) = left.filter(|_| !is_hopeless) else {
                return known.with_unseen().filter(|_| age != Age::Spent);
            };
            known =
                database.told.wait_timeout(known, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// A first look, without keeping anybody else waiting.
    pub(super) async fn prepare(&self, database: &Arc<Database>, clock: &Clock) {
        let looked = async {
            loop {
                let tidings = database.tidings.notified();
                tokio::pin!(tidings);
                tidings.as_mut().enable();
                {
                    let mut known = lock(&database.known);
                    self.look(database, &mut known, Instant::now());
                    let is_there = known.snapshot.is_some();
                    if is_there || !known.is_looking || database.is_stuck.load(Ordering::Acquire) {
                        return;
                    }
                }
                tidings.await;
            }
        };
        if clock.timeout(FIRST_PATIENCE, looked).await.is_err() {
            database.is_stuck.store(true, Ordering::Release);
        }
    }

    /// Has it looked at, unless that is under way, or failed a moment ago.
    fn look(&self, database: &Arc<Database>, known: &mut Known, now: Instant) {
        if known.age(now) != Age::Fresh {
            self.look_anew(database, known, now);
        }
    }

    fn look_anew(&self, database: &Arc<Database>, known: &mut Known, now: Instant) {
        if known.is_looking || known.is_backing_off(now) {
            return;
        }
        known.is_looking = true;
        self.tell(Ask::Of(database.clone(), Job::Look));
    }

    /// What rows are expected; `None` where nobody can be asked, or says so in time.
    pub(super) fn plan(&self, database: &Arc<Database>, question: Question) -> Option<Expected> {
        let key = database.hasher.hash_one(&question);
        let known = lock(&database.estimates).get(&key).cloned();
        if let Some((_, planned)) = known.filter(|(at, _)| at.elapsed() < ESTIMATE_LIFE) {
            return planned;
        }
        let planned = self.ask(database, |reply| Job::Plan(question, reply))?;
        lock(&database.estimates).put(key, (Instant::now(), planned.clone()));
        planned
    }

    /// What a function is called.
    pub(super) fn name(&self, database: &Arc<Database>, oid: u32) -> Option<Named> {
        let known = lock(&database.names).get(&oid).cloned();
        let life = if oid < FIRST_OWN_OID { Duration::MAX } else { ESTIMATE_LIFE };
        if let Some((_, named)) = known.filter(|(at, _)| at.elapsed() < life) {
            return named;
        }
        let named = self.ask(database, |reply| Job::Name(oid, reply))?;
        lock(&database.names).put(oid, (Instant::now(), named.clone()));
        named
    }

    fn ask<T>(
        &self,
        database: &Arc<Database>,
        job: impl FnOnce(SyncSender<T>) -> Job,
    ) -> Option<T> {
        if database.is_stuck.load(Ordering::Acquire)
            || lock(&database.known).is_backing_off(Instant::now())
        {
            return None;
        }
        let (reply, answer) = sync_channel(1);
        self.tell(Ask::Of(database.clone(), job(reply)));
        match answer.recv_timeout(PATIENCE) {
            Ok(answer) => Some(answer),
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {
                database.is_stuck.store(true, Ordering::Release);
                None
            }
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => None,
        }
    }

    fn tell(&self, ask: Ask) {
        // The thread ends with the process.
        let _ = self.asks.send(ask);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Age {
    Fresh,
    Usable,
    Spent,
}

impl Known {
    fn age(&self, now: Instant) -> Age {
        let Some((at, took)) = self.looked.filter(|_| self.seen_changes == self.changes) else {
            return Age::Spent;
        };
        match now.saturating_duration_since(at) {
            age if age < FRESH.max(took * FRESH_LOOKS) => Age::Fresh,
            age if age < USABLE.max(took * FRESH_LOOKS) => Age::Usable,
            _ => Age::Spent,
        }
    }

    fn shown(&self) -> Option<&Arc<Snapshot>> {
        let is_so = self.unseen.is_empty() && self.age(Instant::now()) == Age::Fresh;
        self.snapshot.as_ref().filter(|_| is_so)
    }

    fn with_unseen(&self) -> Option<(Arc<Snapshot>, HashSet<Arc<str>>)> {
        let unseen = self.unseen.iter().flat_map(|(_, names)| names).cloned();
        Some((self.snapshot.clone()?, unseen.collect()))
    }

    /// These are there for everybody now.
    fn define(&mut self, names: HashSet<Arc<str>>) {
        let now = Instant::now();
        let is_long = self.unseen.len() >= MAX_UNSEEN;
        match self.unseen.last_mut().filter(|_| is_long) {
            Some((at, all)) => {
                *at = now;
                let room = MAX_UNDER_WAY.saturating_sub(all.len());
                all.extend(names.into_iter().take(room));
            }
            None => self.unseen.push((now, names)),
        }
    }

    fn is_backing_off(&self, now: Instant) -> bool {
        self.not_before.is_some_and(|not_before| now < not_before)
    }
}

impl Database {
    fn new(server: usize, name: Arc<str>) -> Self {
        Self {
            server,
            name,
            known: Mutex::default(),
            told: Condvar::new(),
            tidings: Notify::new(),
            is_stuck: AtomicBool::new(false),
            hasher: RandomState::new(),
            estimates: Mutex::new(LruCache::new(MAX_ESTIMATES)),
            names: Mutex::new(LruCache::new(MAX_NAMES)),
            under_way: Mutex::default(),
            inherited: Arc::default(),
        }
    }

    /// A session defines these, and nobody else sees it so far.
    pub(super) fn defining(&self, session: ConnectionId, names: impl Iterator<Item = Arc<str>>) {
        let mut under_way = lock(&self.under_way);
        let own = under_way.entry(session).or_default();
        for name in names {
            if own.len() < MAX_UNDER_WAY {
                own.insert(name);
            }
        }
    }

    /// Whatever it has defined is there for everybody now, or never will be.
    pub(super) fn defined(&self, session: ConnectionId) {
        self.inherited.settled(session);
        let mut under_way = lock(&self.under_way);
        let Some(names) = under_way.get(&session).cloned() else { return };
        // Nobody finds it in neither place.
        lock(&self.known).define(names);
        under_way.remove(&session);
    }

    /// Whether nothing has been defined since what is known was seen.
    pub(super) fn is_as_seen(&self) -> bool {
        lock(&self.known).unseen.is_empty()
    }

    /// What there is, where that was seen a moment ago and nothing has been defined since.
    pub(super) fn shown(&self) -> Option<Arc<Snapshot>> {
        lock(&self.known).shown().cloned()
    }

    /// Whether that is this.
    pub(super) fn shows(&self, snapshot: &Arc<Snapshot>) -> bool {
        lock(&self.known).shown().is_some_and(|shown| Arc::ptr_eq(shown, snapshot))
    }

    /// What any session is defining. Whoever asks for what has been defined since asks for that afterwards.
    pub(super) fn under_way(&self) -> HashSet<Arc<str>> {
        lock(&self.under_way).values().flatten().cloned().collect()
    }

    /// Whether there is more of either than is kept.
    pub(super) fn is_overwhelmed(&self) -> bool {
        let is_full = |names: &HashSet<Arc<str>>| names.len() >= MAX_UNDER_WAY;
        lock(&self.under_way).values().any(is_full)
            || lock(&self.known).unseen.iter().any(|(_, names)| is_full(names))
    }

    /// Code has changed, as far as anybody knows: what was seen doesn't hold any more.
    pub(super) fn changed(&self) {
        lock(&self.known).changes += 1;
        lock(&self.estimates).clear();
    }

    /// Something was defined that is worth another look soon.
    pub(super) fn has_news(&self) {
        let mut known = lock(&self.known);
        if let (Some((at, took)), Some(earlier)) =
            (known.looked, Instant::now().checked_sub(FRESH))
            // Those who make a table for each of their requests don't keep it busy.
            && at.elapsed() > took * NEWS_LOOKS
        {
            known.looked = Some((at.min(earlier), took.min(FRESH / FRESH_LOOKS)));
        }
    }

    /// A look begins; gives what has changed up to here.
    fn begin(&self) -> u64 {
        lock(&self.known).changes
    }

    /// A view that somebody is changing is what it was, to everybody else.
    fn mend(&self, rows: &mut Rows) {
        let known = lock(&self.known);
        let Some(snapshot) = &known.snapshot else { return };
        for relation in &mut rows.relations {
            if relation.definition.as_deref() == Some(load::TORN)
                && let Some(before) = snapshot.relation(relation.oid)
            {
                relation.definition.clone_from(&before.definition);
            }
        }
    }

    /// What has come of it for those who inherit.
    fn seen(&self, snapshot: Arc<Snapshot>, print: u64, began: (Instant, u64)) -> Shown {
        let (at, changes) = began;
        // Nobody sees a relation before what it has inherited.
        let shown = self.inherited.shown(&snapshot, at);
        let mut known = lock(&self.known);
        if known.snapshot.is_none() || known.print != print {
            (known.snapshot, known.print) = (Some(snapshot), print);
        }
        known.looked = Some((at, at.elapsed()));
        known.unseen.retain(|(defined, _)| *defined >= at);
        known.seen_changes = changes;
        known.is_looking = false;
        (known.not_before, known.pause) = (None, Duration::ZERO);
        self.tell_all(known);
        shown
    }

    /// It can't be asked, and is left alone for a while.
    fn failed(&self) {
        let mut known = lock(&self.known);
        known.pause = (known.pause * 2).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
        known.not_before = Some(Instant::now() + known.pause);
        known.is_looking = false;
        self.tell_all(known);
    }

    /// Somebody defines something, and the server shows nobody what it was so far.
    fn is_held_up(&self) {
        let mut known = lock(&self.known);
        known.not_before = Some(Instant::now() + HELD_UP);
        known.is_looking = false;
        self.tell_all(known);
    }

    /// It isn't asked now.
    fn let_be(&self) {
        let mut known = lock(&self.known);
        known.is_looking = false;
        self.tell_all(known);
    }

    /// Whatever it failed by has changed.
    fn forgive(&self) {
        let mut known = lock(&self.known);
        (known.not_before, known.pause) = (None, Duration::ZERO);
    }

    fn tell_all(&self, known: MutexGuard<'_, Known>) {
        drop(known);
        self.is_stuck.store(false, Ordering::Release);
        self.told.notify_all();
        self.tidings.notify_waiters();
    }
}

fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
