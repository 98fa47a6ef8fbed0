//! What the pipeline has to record, on its way to the recorder: in batches, bounded, counted where it doesn't fit.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
    mpsc::{Receiver, Sender, channel},
};

use crate::{
    control::Hub,
    event::{Claims, Entry, Parameter, Record, WallTime},
};

/// Queued for the recorder at most: some seconds of a busy host.
const QUEUE_BYTES: usize = 16 << 20;

/// The pipeline's end. Never blocks.
pub struct Outbox {
    batch: Vec<Entry>,
    batch_bytes: usize,
    /// Not yet dealt with by the recorder.
    queued_bytes: Arc<AtomicUsize>,
    recorder: Sender<Batch>,
    live: Arc<Hub>,
    keeps: bool,
    lost: Option<Lost>,
    lost_in_all: u64,
}

/// What one turn of the pipeline made.
pub struct Batch {
    pub entries: Vec<Entry>,
    bytes: usize,
    /// What did not fit before it.
    pub lost: Option<Lost>,
}

/// Entries that the recorder was too slow for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    pub entries: u64,
    pub from: WallTime,
    pub to: WallTime,
}

/// The recorder's end.
pub struct Inbox {
    pub batches: Receiver<Batch>,
    queued_bytes: Arc<AtomicUsize>,
}

impl Inbox {
    /// The batch has been dealt with.
    pub fn done(&self, batch: &Batch) {
        self.queued_bytes.fetch_sub(batch.bytes, Ordering::Relaxed);
    }
}

/// `keeps`: everything is recorded, whether somebody watches or not.
pub fn outbox(live: Arc<Hub>, keeps: bool) -> (Outbox, Inbox) {
    let (recorder, batches) = channel();
    let queued_bytes = Arc::new(AtomicUsize::new(0));
    let outbox = Outbox {
        batch: Vec::new(),
        batch_bytes: 0,
        queued_bytes: queued_bytes.clone(),
        recorder,
        live,
        keeps,
        lost: None,
        lost_in_all: 0,
    };
    (outbox, Inbox { batches, queued_bytes })
}

impl Outbox {
    /// Whether anybody wants to know of statements. If not, a record need not even be made.
    pub fn is_wanted(&self) -> bool {
        self.keeps || self.live.watchers() > 0
    }

    /// Whether there is a ledger or telemetry. If not, a row of something else than a statement need not be made.
    pub fn keeps(&self) -> bool {
        self.keeps
    }

    pub fn push(&mut self, entry: Entry) {
        if !self.keeps
            && matches!(entry, Entry::Occurrence(_) | Entry::Outbound(_) | Entry::Approval(_))
        {
            return;
        }
        let bytes = weight(&entry);
        let queued = self.queued_bytes.load(Ordering::Relaxed) + self.batch_bytes;
        if queued + bytes > QUEUE_BYTES {
            let time = entry.time();
            let lost = self.lost.get_or_insert(Lost { entries: 0, from: time, to: time });
            lost.entries += entry.stands_for();
            lost.to = time;
            self.lost_in_all += entry.stands_for();
            return;
        }
        self.batch_bytes += bytes;
        self.batch.push(entry);
    }

    /// Hands over what has gathered.
    pub fn flush(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let bytes = std::mem::take(&mut self.batch_bytes);
        self.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        let room = self.batch.len();
        let entries = std::mem::replace(&mut self.batch, Vec::with_capacity(room));
        // Without a recorder there is nobody to tell; its end is reported by itself.
        let _ = self.recorder.send(Batch { entries, bytes, lost: self.lost.take() });
    }

    /// Entries that did not fit, ever.
    pub fn lost(&self) -> u64 {
        self.lost_in_all
    }
}

/// What a connection holds beside what is shared: names of places and programs.
const OUTBOUND_BYTES: usize = 1_024;

/// Bytes that an entry holds for itself, roughly.
fn weight(entry: &Entry) -> usize {
    let held = match entry {
        Entry::Statement(Record { text, error_message, parameters, claims, .. }) => {
            let parameters =
                parameters.iter().map(|value| size_of::<Parameter>() + value.held_bytes());
            text.as_deref().map_or(0, str::len)
                + error_message.as_deref().map_or(0, str::len)
                + claims.as_deref().map_or(0, Claims::held_bytes)
                + parameters.sum::<usize>()
        }
        Entry::Occurrence(occurrence) => {
            occurrence.message.as_deref().map_or(0, str::len)
                + occurrence.counts.len() * size_of::<(Arc<str>, u64)>()
        }
        Entry::Finding(episode) => episode.counts.len() * size_of::<(Arc<str>, u64)>(),
        Entry::Outbound(_) | Entry::Approval(_) => OUTBOUND_BYTES,
    };
    size_of::<Entry>() + held
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Lost, QUEUE_BYTES, outbox};
    use crate::{
        control::Hub,
        event::{Entry, Occurrence, OccurrenceKind, WallTime},
    };

    fn entry(at: i64, bytes: usize) -> Entry {
        Entry::Occurrence(Occurrence {
            time: WallTime(at),
            kind: OccurrenceKind::Gap,
            action: "test",
            origin: Arc::default(),
            message: Some("x".repeat(bytes)),
            counts: Vec::new(),
        })
    }

    #[test]
    fn what_does_not_fit_is_counted_and_told_with_the_next_that_does() {
        let (mut outbox, inbox) = outbox(Arc::new(Hub::default()), true);
        outbox.push(entry(1, QUEUE_BYTES / 2));
        outbox.flush();
        outbox.push(entry(2, QUEUE_BYTES / 2));
        outbox.push(entry(3, QUEUE_BYTES));
        outbox.push(entry(4, QUEUE_BYTES));
        assert_eq!(outbox.lost(), 3);

        let first = inbox.batches.try_recv().unwrap();
        assert_eq!((first.entries.len(), first.lost), (1, None));
        inbox.done(&first);
        outbox.push(entry(5, 10));
        outbox.flush();
        let second = inbox.batches.try_recv().unwrap();
        let lost = Lost { entries: 3, from: WallTime(2), to: WallTime(4) };
        assert_eq!((second.entries.len(), second.lost), (1, Some(lost)));
    }

    #[test]
    fn nobody_wants_what_is_neither_kept_nor_watched() {
        let live = Arc::new(Hub::default());
        let (mut outbox, inbox) = outbox(live.clone(), false);
        assert!(!outbox.is_wanted());
        let watcher = live.watch(false);
        assert!(watcher.is_some() && outbox.is_wanted());
        // Those who watch see statements alone.
        outbox.push(entry(1, 10));
        outbox.flush();
        assert!(inbox.batches.try_recv().is_err());
    }
}
