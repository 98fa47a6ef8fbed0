//! What the guard tells of the requests that it sends, on its way to the pipeline, which compares it with what it sees.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use crate::guard::wire::Summed;

/// Waiting for the pipeline at most: it comes by every few milliseconds.
const MAX_WAITING: usize = 65_536;

/// What the pipeline has not taken yet.
#[derive(Debug, Default)]
pub(super) struct Sums {
    /// There is something to take.
    is_filled: AtomicBool,
    /// `None` once there was more.
    waiting: Mutex<Option<Vec<Summed>>>,
}

impl Sums {
    pub(super) fn push(&self, summed: &[Summed]) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let is_filled = self.is_filled.swap(true, Ordering::AcqRel);
        let fits = waiting.as_ref().map_or(!is_filled, |waiting| {
            waiting.len().saturating_add(summed.len()) <= MAX_WAITING
        });
        match fits {
            true => waiting.get_or_insert_default().extend_from_slice(summed),
            false => *waiting = None,
        }
    }

    pub(super) fn take(&self) -> Option<Vec<Summed>> {
        if !self.is_filled.load(Ordering::Acquire) {
            return Some(Vec::new());
        }
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        self.is_filled.store(false, Ordering::Release);
        waiting.take()
    }
}
