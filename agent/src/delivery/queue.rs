//! What waits to be sent: bounded in items and bytes; what doesn't fit is counted and gone.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Notify, time::timeout};

/// Filled by the recorder's thread, which never waits; emptied by a sender's.
#[derive(Debug)]
pub struct Queue<T> {
    limits: Limits,
    pending: Mutex<Pending<T>>,
    filled: Notify,
    n_refused: AtomicU64,
}

#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// That wait.
    pub items: usize,
    pub bytes: usize,
    /// That are sent together.
    pub batch_items: usize,
    pub batch_bytes: usize,
}

#[derive(Debug)]
struct Pending<T> {
    items: VecDeque<(T, usize)>,
    bytes: usize,
}

impl<T> Queue<T> {
    pub fn new(limits: Limits) -> Self {
        let pending = Pending { items: VecDeque::new(), bytes: 0 };
        Self {
            limits,
            pending: Mutex::new(pending),
            filled: Notify::new(),
            n_refused: AtomicU64::new(0),
        }
    }

    /// `bytes` is what it will take when sent, roughly.
    pub fn push(&self, item: T, bytes: usize) {
        let mut pending = self.lock();
        let is_full = pending.items.len() >= self.limits.items
            || pending.bytes.saturating_add(bytes) > self.limits.bytes;
        if is_full {
            self.n_refused.fetch_add(1, Ordering::Relaxed);
            return;
        }
        pending.items.push_back((item, bytes));
        pending.bytes += bytes;
        let wakes = pending.items.len() == 1 || self.is_batch(&pending);
        drop(pending);
        if wakes {
            self.filled.notify_one();
        }
    }

    /// Returns when there is a whole batch, or something, and `pause` is over.
    pub async fn filled(&self, pause: Duration) {
        while self.n_waiting() == 0 {
            self.filled.notified().await;
        }
        let whole = async {
            while !self.is_batch(&self.lock()) {
                self.filled.notified().await;
            }
        };
        let _ = timeout(pause, whole).await;
    }

    /// The oldest, as many as go together.
    pub fn take(&self) -> Vec<T> {
        let mut pending = self.lock();
        let (mut n_items, mut n_bytes) = (0, 0);
        for (_, bytes) in pending.items.iter().take(self.limits.batch_items) {
            if n_items > 0 && n_bytes + bytes > self.limits.batch_bytes {
                break;
            }
            n_items += 1;
            n_bytes += bytes;
        }
        pending.bytes -= n_bytes;
        pending.items.drain(..n_items).map(|(item, _)| item).collect()
    }

    pub fn n_waiting(&self) -> usize {
        self.lock().items.len()
    }

    /// Those that didn't fit, ever.
    pub fn n_refused(&self) -> u64 {
        self.n_refused.load(Ordering::Relaxed)
    }

    fn is_batch(&self, pending: &Pending<T>) -> bool {
        pending.items.len() >= self.limits.batch_items || pending.bytes >= self.limits.batch_bytes
    }

    /// A panic elsewhere leaves it as good as it was.
    fn lock(&self) -> MutexGuard<'_, Pending<T>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::{Limits, Queue};

    const LIMITS: Limits = Limits { items: 5, bytes: 100, batch_items: 3, batch_bytes: 50 };

    #[test]
    fn what_does_not_fit_is_counted() {
        let queue = Queue::new(LIMITS);
        (0..7).for_each(|n| queue.push(n, 1));
        assert_eq!((queue.n_waiting(), queue.n_refused()), (5, 2));
        let queue = Queue::new(LIMITS);
        (0..3).for_each(|n| queue.push(n, 40));
        assert_eq!((queue.n_waiting(), queue.n_refused()), (2, 1));
    }

    #[test]
    fn a_batch_is_bounded_but_never_empty() {
        let queue = Queue::new(LIMITS);
        for (n, bytes) in [(0, 60), (1, 20), (2, 20)] {
            queue.push(n, bytes);
        }
        assert_eq!((queue.take(), queue.take(), queue.take()), (vec![0], vec![1, 2], vec![]));
        (0..5).for_each(|n| queue.push(n, 1));
        assert_eq!((queue.take(), queue.take()), (vec![0, 1, 2], vec![3, 4]));
        queue.push(9, 100);
        assert_eq!(queue.take(), [9]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_whole_batch_does_not_wait() {
        let pause = Duration::from_secs(1);
        let queue = Queue::new(LIMITS);
        let start = Instant::now();
        queue.push(0, 1);
        queue.filled(pause).await;
        assert_eq!(start.elapsed(), pause);
        queue.push(1, 1);
        queue.push(2, 1);
        queue.filled(pause).await;
        assert_eq!(start.elapsed(), pause);
    }
}
