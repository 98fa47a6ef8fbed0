//! What the appending thread and the keeper know of each other.

use std::{
    mem,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
};

use serde::Serialize;

use crate::{
    event::{Occurrence, WallTime},
    ledger::log::Rows,
};

/// How the ledger is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LedgerStatus {
    /// The segment that is appended to, with what of it is durable.
    pub open_segment: u64,
    pub open_rows: u64,
    pub open_bytes: u64,
    /// Segments that are to be sealed, or are being sealed.
    pub unsealed_segments: u64,
    pub sealed_segments: u64,
    pub sealed_bytes: u64,
    pub last_commit: Option<WallTime>,
    /// Why nothing is written at the moment.
    pub paused: Option<String>,
    /// Why a segment could not be sealed, or a removal not be done; it is tried again.
    pub failing: Option<String>,
    /// Why the newest rows are not proven yet; it is tried again.
    pub unproven: Option<String>,
    /// Entries that were refused since the ledger was opened.
    pub missed_rows: u64,
}

const MAX_NOTICES: usize = 1024;

pub struct Shared {
    now: AtomicI64,
    closing: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    status: LedgerStatus,
    /// What the keeper did that is worth a row.
    notices: Vec<Occurrence>,
    /// The last rows of all.
    last_rows: Option<(Rows, WallTime)>,
}

impl Shared {
    pub fn new(now: WallTime) -> Self {
        let (closing, state) = (AtomicBool::new(false), Mutex::default());
        Self { now: AtomicI64::new(now.0), closing, state }
    }

    pub fn now(&self) -> WallTime {
        WallTime(self.now.load(Ordering::Relaxed))
    }

    pub fn set_now(&self, now: WallTime) {
        self.now.store(now.0, Ordering::Relaxed);
    }

    pub fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// Nothing comes after these rows.
    pub fn close(&self, rows: Rows, now: WallTime) {
        self.state().last_rows = Some((rows, now));
        self.closing.store(true, Ordering::Release);
    }

    pub fn take_last_rows(&self) -> Option<(Rows, WallTime)> {
        self.state().last_rows.take()
    }

    /// Without anybody who takes them, the oldest ones stay: the witness knows of the others too.
    pub fn notice(&self, occurrence: Occurrence) {
        let notices = &mut self.state().notices;
        if notices.len() < MAX_NOTICES {
            notices.push(occurrence);
        }
    }

    pub fn take_notices(&self) -> Vec<Occurrence> {
        mem::take(&mut self.state().notices)
    }

    pub fn status(&self) -> LedgerStatus {
        self.state().status.clone()
    }

    pub fn update(&self, update: impl FnOnce(&mut LedgerStatus)) {
        update(&mut self.state().status);
    }

    pub fn count_missed(&self, n_rows: u64) {
        self.update(|status| status.missed_rows += n_rows);
    }

    /// Whoever panicked with the lock held left nothing half done that matters.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
