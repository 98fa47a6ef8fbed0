//! Who has inherited from labelled columns in a database, shared by all who judge there.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Instant,
};

use super::Snapshot;
use crate::{
    event::{Ancestor, ConnectionId, Heir},
    guard::lineage::{Place, Unseen, chosen, heir},
};

/// Of all databases of the host. What would make more is refused.
pub(in crate::guard) const MAX_HEIRS: usize = 10_000;
/// Relations that no look at the catalog has shown yet, and columns of them.
const MAX_AWAITED: usize = 2_000;

/// More are not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::guard) struct Full;

#[derive(Debug, Default)]
pub(in crate::guard) struct Inherited {
    /// How often it has changed.
    version: AtomicU64,
    book: Mutex<Book>,
    /// Of all databases.
    total: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct Book {
    heirs: HashMap<(Place, Ancestor), Arc<Heir>>,
    awaited: Vec<Awaited>,
}

/// A relation that is to be seen yet.
#[derive(Debug)]
struct Awaited {
    session: ConnectionId,
    statement: Arc<str>,
    unseen: Unseen,
    /// From then on it is there for everybody, or never will be.
    settled: Option<Instant>,
}

/// Who has inherited by what one session has done.
#[derive(Debug)]
pub(in crate::guard) struct Inheriting {
    pub session: ConnectionId,
    pub statement: Arc<str>,
    pub heirs: Vec<Heir>,
}

/// What a look at the catalog has shown.
#[derive(Debug, Default)]
pub(in crate::guard) struct Shown {
    pub inherited: Vec<Inheriting>,
    /// Relations that had inherited something, and are not there any more.
    pub gone: Vec<u32>,
}

impl Inherited {
    pub(super) fn counted_in(total: Arc<AtomicUsize>) -> Self {
        Self { total, ..Self::default() }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(in crate::guard) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.book().heirs.is_empty()
    }

    /// All of them, and how often that has changed.
    pub(in crate::guard) fn all(&self) -> (u64, Vec<Arc<Heir>>) {
        let book = self.book();
        (self.version(), book.heirs.values().cloned().collect())
    }

    /// These are known already.
    pub(super) fn knows(&self, heirs: Vec<Heir>) {
        self.put(&mut self.book(), heirs);
    }

    /// Those of these that are news.
    pub(in crate::guard) fn add(&self, heirs: Vec<Heir>) -> Result<Vec<Heir>, Full> {
        let mut book = self.book();
        if self.total.load(Ordering::Relaxed) + heirs.len() > MAX_HEIRS {
            return Err(Full);
        }
        Ok(self.put(&mut book, heirs))
    }

    fn put(&self, book: &mut Book, heirs: Vec<Heir>) -> Vec<Heir> {
        let mut news = Vec::new();
        for heir in heirs {
            let key = ((heir.relation, heir.place), heir.from.clone());
            let known = book.heirs.get(&key);
            if known.is_some_and(|known| known.is_derived || !heir.is_derived) {
                continue;
            }
            if book.heirs.insert(key, Arc::new(heir.clone())).is_none() {
                self.total.fetch_add(1, Ordering::Relaxed);
            }
            news.push(heir);
        }
        if !news.is_empty() {
            self.version.fetch_add(1, Ordering::Release);
        }
        news
    }

    /// Somebody has taken it back.
    pub(super) fn forget(&self, columns: &[Place]) {
        let mut book = self.book();
        self.drop_those(&mut book, |place| columns.contains(&place));
    }

    fn drop_those(&self, book: &mut Book, is_meant: impl Fn(Place) -> bool) {
        let before = book.heirs.len();
        book.heirs.retain(|(place, _), _| !is_meant(*place));
        let n = before - book.heirs.len();
        if n > 0 {
            self.total.fetch_sub(n, Ordering::Relaxed);
            self.version.fetch_add(1, Ordering::Release);
        }
    }

    /// A session is about to make these, or to write into what nobody has seen.
    pub(in crate::guard) fn awaits(
        &self,
        session: ConnectionId,
        statement: &Arc<str>,
        unseen: Vec<Unseen>,
    ) -> Result<(), Full> {
        let mut book = self.book();
        let n_columns: usize = unseen.iter().map(|one| one.columns.len()).sum();
        let is_full = book.awaited.len() + unseen.len() > MAX_AWAITED || n_columns > MAX_AWAITED;
        if is_full || self.total.load(Ordering::Relaxed) + n_columns > MAX_HEIRS {
            return Err(Full);
        }
        for unseen in unseen {
            let is_same = |one: &&mut Awaited| {
                one.session == session
                    && one.unseen.name == unseen.name
                    && one.unseen.columns == unseen.columns
            };
            match book.awaited.iter_mut().find(is_same) {
                Some(known) => known.settled = None,
                None => {
                    let statement = statement.clone();
                    book.awaited.push(Awaited { session, statement, unseen, settled: None });
                }
            }
        }
        Ok(())
    }

    /// What a session has done is there for everybody now, or never will be.
    pub(super) fn settled(&self, session: ConnectionId) {
        let now = Instant::now();
        for one in self.book().awaited.iter_mut().filter(|one| one.session == session) {
            one.settled.get_or_insert(now);
        }
    }

    /// Likewise, from then on.
    pub(in crate::guard) fn settles_by(&self, session: ConnectionId, at: Instant) {
        for one in self.book().awaited.iter_mut().filter(|one| one.session == session) {
            one.settled = Some(at);
        }
    }

    /// What there was when a look began at that time.
    pub(super) fn shown(&self, snapshot: &Snapshot, began: Instant) -> Shown {
        let mut book = self.book();
        let mut shown = Shown::default();
        let relations = book.heirs.keys().map(|(place, _)| place.0);
        let gone: HashSet<u32> =
            relations.filter(|oid| snapshot.relation(*oid).is_none()).collect();
        if !gone.is_empty() {
            self.drop_those(&mut book, |place| gone.contains(&place.0));
            shown.gone = gone.into_iter().collect();
        }
        let awaited = std::mem::take(&mut book.awaited);
        for one in awaited {
            let Unseen { name, known, columns } = &one.unseen;
            let found = snapshot.relations(name).filter(|it| !known.contains(&it.oid));
            let mut heirs = Vec::new();
            for oid in found.map(|relation| relation.oid) {
                for (slot, roots) in columns {
                    for place in chosen(snapshot, oid, slot) {
                        let each = roots.iter();
                        heirs.extend(each.map(|(from, made)| heir(snapshot, place, from, *made)));
                    }
                }
            }
            let news = self.put(&mut book, heirs);
            if !news.is_empty() {
                let (session, statement) = (one.session, one.statement.clone());
                shown.inherited.push(Inheriting { session, statement, heirs: news });
            }
            if one.settled.is_none_or(|at| at >= began) {
                book.awaited.push(one);
            }
        }
        shown
    }
}
