//! Statements on their way to whoever watches: bounded for each watcher, free when nobody does.

use std::{
    collections::VecDeque,
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use serde::Serialize;
use tokio::sync::Notify;

use crate::event::{Claims, Parameter, Record, WallTime};

/// Kept for one watcher at most; what comes while it is full is counted and gone.
const QUEUE_LINES: usize = 4_096;
/// Likewise, by size. Watchers share the records, so this is paid about once.
const QUEUE_BYTES: usize = 4 << 20;
/// Watchers at a time. Each may hold two queues (one waits, one is being sent): 64 MiB in all, if no
/// two hold the same record.
pub(super) const WATCHERS: usize = 8;

/// One line of the watch stream.
#[derive(Clone, Debug)]
pub enum Line {
    Statement(Arc<Record>),
    Notice(Arc<Notice>),
}

/// Something to know between the statements: a loss, a server that came or went.
#[derive(Debug, Serialize)]
pub struct Notice {
    pub time: WallTime,
    /// A short stable word: `lost`, `server_found`, `server_gone`, `blind`, …
    pub notice: &'static str,
    pub server: Option<Arc<str>>,
    /// A sentence for people.
    pub message: String,
}

/// Hands lines from the pipeline's thread to the watchers'.
#[derive(Debug, Default)]
pub struct Hub {
    n_watchers: AtomicUsize,
    /// Of them, those that are shown literals.
    n_with_literals: AtomicUsize,
    queues: Mutex<Vec<Arc<Queue>>>,
    missed: AtomicU64,
}

#[derive(Debug, Default)]
struct Queue {
    literals: bool,
    pending: Mutex<Pending>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct Pending {
    lines: VecDeque<Line>,
    bytes: usize,
    missed: u64,
}

impl Hub {
    /// Shows a statement to all watchers. Costs one atomic load when there are none: `record` is
    /// only called when somebody watches. Never blocks on a watcher.
    pub fn publish(&self, record: impl FnOnce() -> Arc<Record>) {
        if self.n_watchers.load(Ordering::Relaxed) > 0 {
            self.push(Line::Statement(record()));
        }
    }

    /// Shows a notice to all watchers, as `publish` does.
    pub fn notice(&self, notice: impl FnOnce() -> Notice) {
        if self.n_watchers.load(Ordering::Relaxed) > 0 {
            self.push(Line::Notice(Arc::new(notice())));
        }
    }

    /// Lines that watchers were too slow for, all together.
    pub fn missed(&self) -> u64 {
        self.missed.load(Ordering::Relaxed)
    }

    pub fn watchers(&self) -> usize {
        self.n_watchers.load(Ordering::Relaxed)
    }

    /// Whether somebody is shown the literals of statements.
    pub fn shows_literals(&self) -> bool {
        self.n_with_literals.load(Ordering::Relaxed) > 0
    }

    /// `None` when there are as many watchers as there may be. `literals`: it will be shown them.
    pub fn watch(self: &Arc<Self>, literals: bool) -> Option<Watcher> {
        let mut queues = lock(&self.queues);
        if queues.len() >= WATCHERS {
            return None;
        }
        let queue = Arc::new(Queue { literals, ..Queue::default() });
        queues.push(queue.clone());
        self.count(&queues);
        Some(Watcher { hub: self.clone(), queue })
    }

    fn count(&self, queues: &[Arc<Queue>]) {
        let with_literals = queues.iter().filter(|queue| queue.literals).count();
        self.n_watchers.store(queues.len(), Ordering::Relaxed);
        self.n_with_literals.store(with_literals, Ordering::Relaxed);
    }

    fn push(&self, line: Line) {
        let bytes = weight(&line);
        for queue in lock(&self.queues).iter() {
            let mut pending = lock(&queue.pending);
            // Once something is missed, everything is until the watcher has caught up: the count
            // then stands for one hole, at its place.
            let full = pending.missed > 0
                || pending.lines.len() >= QUEUE_LINES
                || pending.bytes.saturating_add(bytes) > QUEUE_BYTES;
            let was_empty = pending.lines.is_empty() && pending.missed == 0;
            if full {
                pending.missed += 1;
                self.missed.fetch_add(1, Ordering::Relaxed);
            } else {
                pending.bytes += bytes;
                pending.lines.push_back(line.clone());
            }
            drop(pending);
            if was_empty {
                queue.filled.notify_one();
            }
        }
    }
}

/// One who watches; leaves when dropped.
#[derive(Debug)]
pub struct Watcher {
    hub: Arc<Hub>,
    queue: Arc<Queue>,
}

impl Watcher {
    /// Returns when there is something to take.
    pub async fn filled(&self) {
        self.queue.filled.notified().await;
    }

    /// Everything that waits, and how many lines were missed after it.
    pub fn take(&self) -> (VecDeque<Line>, u64) {
        let Pending { lines, missed, .. } = mem::take(&mut *lock(&self.queue.pending));
        (lines, missed)
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let mut queues = lock(&self.hub.queues);
        queues.retain(|queue| !Arc::ptr_eq(queue, &self.queue));
        self.hub.count(&queues);
    }
}

/// Bytes that a line holds, roughly: what can be large is counted.
fn weight(line: &Line) -> usize {
    match line {
        Line::Notice(notice) => size_of::<Notice>() + notice.message.len(),
        Line::Statement(record) => {
            let text = record.text.as_deref().map_or(0, str::len);
            let error = record.error_message.as_deref().map_or(0, str::len);
            let parameters =
                record.parameters.iter().map(|value| size_of::<Parameter>() + value.held_bytes());
            let claims = record.claims.as_deref().map_or(0, Claims::held_bytes);
            size_of::<Record>() + text + error + claims + parameters.sum::<usize>()
        }
    }
}

/// A panic elsewhere leaves these queues as good as they were.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Hub, Line, Notice, QUEUE_BYTES, QUEUE_LINES, WATCHERS};
    use crate::event::WallTime;

    fn notice(message: String) -> Notice {
        Notice { time: WallTime(0), notice: "test", server: None, message }
    }

    #[test]
    fn nothing_is_made_when_nobody_watches() {
        let hub = Arc::new(Hub::default());
        hub.publish(|| panic!("made a record for nobody"));
        let watcher = hub.watch(false);
        assert_eq!(hub.watchers(), 1);
        drop(watcher);
        hub.publish(|| panic!("made a record for nobody"));
        assert_eq!(hub.watchers(), 0);
    }

    #[test]
    fn a_full_queue_counts_what_it_misses_and_recovers() {
        for (message_bytes, kept) in
            [(0, QUEUE_LINES), (1 << 20, (QUEUE_BYTES / (1 << 20)) - 1), (QUEUE_BYTES, 0)]
        {
            let hub = Arc::new(Hub::default());
            let watcher = hub.watch(false).unwrap();
            let sent = QUEUE_LINES + 10;
            for _ in 0..sent {
                hub.notice(|| notice("x".repeat(message_bytes)));
            }
            let (lines, missed) = watcher.take();
            assert_eq!((lines.len(), missed), (kept, (sent - kept) as u64), "{message_bytes}");
            assert_eq!(hub.missed(), missed);

            hub.notice(|| notice("again".into()));
            let (lines, missed) = watcher.take();
            assert_eq!((lines.len(), missed), (1, 0));
        }
    }

    #[test]
    fn one_hole_is_one_count() {
        let hub = Arc::new(Hub::default());
        let watcher = hub.watch(false).unwrap();
        hub.notice(|| notice("first".into()));
        hub.notice(|| notice("x".repeat(QUEUE_BYTES)));
        hub.notice(|| notice("would fit, but comes after the hole".into()));
        let (lines, missed) = watcher.take();
        assert_eq!((lines.len(), missed), (1, 2));
        assert!(matches!(&lines[0], Line::Notice(notice) if notice.message == "first"));
    }

    #[test]
    fn a_slow_watcher_takes_nothing_from_another() {
        let hub = Arc::new(Hub::default());
        let (slow, quick) = (hub.watch(false).unwrap(), hub.watch(false).unwrap());
        let mut seen = 0;
        for _ in 0..3 * QUEUE_LINES {
            hub.notice(|| notice(String::new()));
            seen += quick.take().0.len();
        }
        assert_eq!(seen, 3 * QUEUE_LINES);
        assert_eq!(slow.take().1 as usize, 2 * QUEUE_LINES);
    }

    #[test]
    fn literals_are_wanted_while_somebody_is_shown_them() {
        let hub = Arc::new(Hub::default());
        let without = hub.watch(false);
        assert!(!hub.shows_literals());
        let with = hub.watch(true);
        drop(without);
        assert!(hub.shows_literals());
        drop(with);
        assert!(!hub.shows_literals());
    }

    #[test]
    fn there_is_a_last_watcher() {
        let hub = Arc::new(Hub::default());
        let watchers: Vec<_> = (0..WATCHERS).map(|_| hub.watch(false).unwrap()).collect();
        assert!(hub.watch(false).is_none());
        drop(watchers);
        assert!(hub.watch(false).is_some());
    }
}
