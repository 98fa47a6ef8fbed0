//! What the guard has masked in answers, until the observer has seen them too.

use std::{
    num::NonZeroUsize,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use lru::LruCache;

use crate::{
    event::ConnectionId,
    guard::{masking::TextPrint, wire},
};

/// Masked clients that are known at a time.
const MAX_VEILED: NonZeroUsize = NonZeroUsize::new(20_000).unwrap();
const MAX_TEXTS: NonZeroUsize = NonZeroUsize::new(20_000).unwrap();
/// Each may be as long as 32 KiB.
const MAX_NULLED: NonZeroUsize = NonZeroUsize::new(1_000).unwrap();
/// For the guard's word on an answer whose end has been observed already.
const PATIENCE: Duration = Duration::from_millis(300);

#[derive(Default)]
pub(super) struct Masked {
    state: Mutex<State>,
    was_told: Condvar,
}

struct State {
    veiled: LruCache<ConnectionId, ()>,
    texts: LruCache<(ConnectionId, TextPrint), Arc<[Arc<str>]>>,
    /// What clients have said in the place of these texts.
    nulled: LruCache<(ConnectionId, TextPrint), Arc<wire::Nulled>>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            veiled: LruCache::new(MAX_VEILED),
            texts: LruCache::new(MAX_TEXTS),
            nulled: LruCache::new(MAX_NULLED),
        }
    }
}

impl Masked {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn veil(&self, connection: ConnectionId) {
        self.lock().veiled.put(connection, ());
    }

    pub(super) fn is_veiled(&self, connection: ConnectionId) -> bool {
        self.lock().veiled.get(&connection).is_some()
    }

    pub(super) fn put(&self, told: wire::Masked) {
        let wire::Masked { connection, text, columns } = told;
        self.lock().texts.put((connection, text), columns);
        self.was_told.notify_all();
    }

    pub(super) fn put_nulled(&self, told: wire::Nulled) {
        self.lock().nulled.put((told.connection, told.text), Arc::new(told));
        self.was_told.notify_all();
    }

    /// What the client has said for a text that looks as if the guard had made it of another.
    pub(super) fn nulled(
        &self,
        connection: ConnectionId,
        text: TextPrint,
    ) -> Option<Arc<wire::Nulled>> {
        let until = Instant::now() + PATIENCE;
        let mut state = self.lock();
        loop {
            if let Some(nulled) = state.nulled.get(&(connection, text)) {
                return Some(nulled.clone());
            }
            let left = until.checked_duration_since(Instant::now())?;
            let waited = self.was_told.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    pub(super) fn of(
        &self,
        connection: ConnectionId,
        text: TextPrint,
        awaited: bool,
    ) -> Arc<[Arc<str>]> {
        let until = Instant::now() + PATIENCE;
        let mut state = self.lock();
        loop {
            if let Some(columns) = state.texts.get(&(connection, text)) {
                return columns.clone();
            }
            let left = until.checked_duration_since(Instant::now());
            let Some(left) = left.filter(|_| awaited) else {
                if awaited {
                    // It has rows that the client didn't get; nobody waits for it again.
                    state.texts.put((connection, text), Arc::default());
                }
                return Arc::default();
            };
            let waited = self.was_told.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
