//! Sessions that broke off, on their way to the pipeline, which makes rows of them.

use std::sync::{Mutex, PoisonError};

use super::{Came, Identified, Target};

/// Waiting for the pipeline at most: it comes by every few milliseconds.
const MAX_WAITING: usize = 10_000;

/// A client that came to the guard, and did not leave as clients do.
#[derive(Clone, Debug)]
pub struct BrokenOff {
    /// Where it wanted to get to; `None` where that server has gone.
    pub target: Option<Target>,
    pub came: Came,
    /// Where it had been let in.
    pub who: Option<Identified>,
    pub why: String,
}

/// What the pipeline has not taken yet.
#[derive(Debug, Default)]
pub(super) struct Endings {
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    broken: Vec<BrokenOff>,
    /// More than were kept.
    uncounted: u64,
}

impl Endings {
    pub(super) fn push(&self, broken: BrokenOff) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        match waiting.broken.len() < MAX_WAITING {
            true => waiting.broken.push(broken),
            false => waiting.uncounted += 1,
        }
    }

    /// With them, how many more there were.
    pub(super) fn take(&self) -> (Vec<BrokenOff>, u64) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let Waiting { broken, uncounted } = std::mem::take(&mut *waiting);
        (broken, uncounted)
    }
}
