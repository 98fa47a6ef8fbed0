//! What the guard has sent on each of its connections, held against what the server was seen to get there.
//!
//! Both sum up what was asked in each stretch of the stream, by the same reader, and the sums are compared as they
//! come: a statement that the guard has not sent, or that has not arrived, shows while its connection lives. At
//! the end every byte is counted.

use std::{collections::VecDeque, sync::Arc};

use rustc_hash::FxHashMap;

use crate::{
    event::{
        BootTime, ConnectionId, Entry, Episode, EpisodeAction, Finding, Origin, RequestSum,
        Severity, Verdict, WallTime,
    },
    guard::wire::{Sent, Summed},
};

/// Connections that have ended, of which the guard has yet to say so.
const MAX_WAITING: usize = 20_000;
/// A guard that has not said so by then has died with it.
const PATIENCE_NS: u64 = 30_000_000_000;
/// For a guard to tell of what it has sent, which it does every second.
const AHEAD_NS: u64 = 5_000_000_000;
/// Stretches of one connection of which one side has told and the other has not.
const MAX_AHEAD: usize = 1_024;

/// Whoever watches is watched: a difference is a finding.
#[derive(Default)]
pub struct CrossCheck {
    open: FxHashMap<ConnectionId, Pair>,
    waiting: VecDeque<Ended>,
    /// Stretches, or parts of one under way, that were the same on both sides.
    compared: u64,
    /// Connections on which they weren't the same.
    differing: u64,
}

/// A connection from the guard to a server, as it was observed.
pub struct Ended {
    pub connection: ConnectionId,
    pub origin: Arc<Origin>,
    pub at: BootTime,
    /// What the server has read, before encryption; what was lost on the way to the observer included.
    pub got_bytes: u64,
    /// What the guard has said at its end: with the next tick, whatever it had told before that has come.
    pub sent: Option<Sent>,
}

/// What either side has told of an open connection.
#[derive(Default)]
struct Pair {
    sent: Side,
    seen: Side,
    /// The last place under way at which both were the same.
    compared_at: u64,
    /// When the server was first seen to have got more than the guard has told of.
    ahead_since: Option<BootTime>,
    /// It differs, which was told once; or one side has told too much at a time.
    is_settled: bool,
}

/// By one of the two.
#[derive(Default)]
struct Side {
    /// Stretches that are over.
    full: VecDeque<RequestSum>,
    /// Of the stretch under way, after so many bytes.
    so_far: Option<(u64, RequestSum)>,
}

impl CrossCheck {
    /// The guard has got through to a server.
    pub fn open(&mut self, connection: ConnectionId) {
        self.open.insert(connection, Pair::default());
    }

    /// Of a connection of which nothing can be seen there is nothing to compare.
    pub fn forget(&mut self, connection: ConnectionId) {
        self.open.remove(&connection);
    }

    /// What the guard tells; `None` where some of it got lost on the way: nothing that is open can be compared any
    /// more.
    pub fn sent(&mut self, summed: Option<Vec<Summed>>) {
        let Some(summed) = summed else {
            tracing::warn!("the guard tells more of its requests than can be compared");
            return self.open.values_mut().for_each(Pair::settle);
        };
        for Summed { connection, bytes, sum } in summed {
            if let Some(pair) = self.open.get_mut(&connection) {
                pair.tell(|pair| &mut pair.sent, bytes, sum);
            }
        }
    }

    /// The server was seen to get it.
    pub fn seen(&mut self, connection: ConnectionId, bytes: Option<u64>, sum: RequestSum) {
        if let Some(pair) = self.open.get_mut(&connection) {
            pair.tell(|pair| &mut pair.seen, bytes, sum);
        }
    }

    pub fn push(&mut self, ended: Ended) {
        if self.waiting.len() >= MAX_WAITING
            && let Some(oldest) = self.waiting.pop_front()
        {
            self.open.remove(&oldest.connection);
        }
        self.waiting.push_back(ended);
    }

    /// Stretches that were compared, and connections that differ.
    pub fn figures(&self) -> (u64, u64) {
        (self.compared, self.differing)
    }

    /// Compares what both sides have told of by now. `sent` is what the guard has said of a connection, once it is
    /// over.
    pub fn tick(
        &mut self,
        sent: impl Fn(ConnectionId) -> Option<Sent>,
        now: BootTime,
    ) -> Vec<Difference> {
        let mut differences = Vec::new();
        let Self { open, waiting, compared, differing } = self;
        waiting.retain_mut(|ended| {
            let Some(sent) = ended.sent else {
                ended.sent = sent(ended.connection);
                let waits = now.0.saturating_sub(ended.at.0) < PATIENCE_NS;
                if ended.sent.is_none() && !waits {
                    open.remove(&ended.connection);
                }
                return ended.sent.is_some() || waits;
            };
            let got = ended.got_bytes;
            let mut differs = (got > sent.bytes || sent.is_whole && got < sent.bytes).then(|| {
                format!(
                    "the guard has sent {} bytes to the server, which has got {got}",
                    sent.bytes
                )
            });
            if let Some(mut pair) = open.remove(&ended.connection) {
                if sent.is_whole {
                    pair.tell(|pair| &mut pair.sent, Some(sent.bytes), sent.sum);
                }
                differs = differs.filter(|_| !pair.is_settled).or_else(|| pair.compare(compared));
            }
            if let Some(message) = differs {
                differences.push(Difference {
                    connection: ended.connection,
                    origin: Some(ended.origin.clone()),
                    message,
                    counts: vec![("sent_bytes".into(), sent.bytes), ("got_bytes".into(), got)],
                });
            }
            false
        });
        for (connection, pair) in open {
            if let Some(message) = pair.compare(compared).or_else(|| pair.is_ahead(now)) {
                pair.settle();
                differences.push(Difference {
                    connection: *connection,
                    origin: None,
                    message,
                    counts: Vec::new(),
                });
            }
        }
        *differing += differences.len() as u64;
        differences
    }
}

/// The guard and the observer disagree about a connection.
#[derive(Debug)]
pub struct Difference {
    pub connection: ConnectionId,
    /// Where it is over.
    pub origin: Option<Arc<Origin>>,
    message: String,
    counts: Vec<(Arc<str>, u64)>,
}

impl Difference {
    pub fn finding(self, origin: Arc<Origin>, time: WallTime) -> Entry {
        let Self { connection, message, counts, .. } = self;
        tracing::error!(%connection, "{message}");
        Entry::Finding(Episode {
            time,
            began: time,
            action: EpisodeAction::Began,
            finding: Finding {
                rule: "builtin:guard-differs".into(),
                verdict: Verdict::Flag,
                severity: Severity::Critical,
                message: message.into(),
                dry_run: false,
            },
            origin,
            sequence: 0,
            facts: None,
            destination: None,
            counts,
        })
    }
}

impl Pair {
    fn tell(&mut self, side: impl Fn(&mut Self) -> &mut Side, bytes: Option<u64>, sum: RequestSum) {
        if self.is_settled {
            return;
        }
        let side = side(self);
        match bytes {
            Some(bytes) => side.so_far = Some((bytes, sum)),
            None if side.full.len() < MAX_AHEAD => side.full.push_back(sum),
            None => self.settle(),
        }
    }

    /// Nothing more is compared, nor kept.
    fn settle(&mut self) {
        *self = Self { is_settled: true, ..Self::default() };
    }

    /// How the two differ, in words.
    fn compare(&mut self, compared: &mut u64) -> Option<String> {
        while let (Some(sent), Some(seen)) = (self.sent.full.front(), self.seen.full.front()) {
            // Of what the observer has missed it can't say anything.
            if seen.is_torn && sent.stretch <= seen.stretch {
                self.sent.full.pop_front();
            } else if seen.is_torn {
                self.seen.full.pop_front();
            } else if sent == seen {
                *compared += 1;
                self.sent.full.pop_front();
                self.seen.full.pop_front();
            } else {
                return Some(differently(sent, seen));
            }
        }
        let (Some((sent_bytes, sent)), Some((bytes, seen))) = (self.sent.so_far, self.seen.so_far)
        else {
            return None;
        };
        if sent_bytes != bytes || seen.is_torn || self.compared_at == bytes {
            return None;
        }
        if sent != seen {
            return Some(differently(&sent, &seen));
        }
        self.compared_at = bytes;
        *compared += 1;
        None
    }

    /// Whether the server gets what the guard doesn't tell of.
    fn is_ahead(&mut self, now: BootTime) -> Option<String> {
        let sent = self.sent.so_far.map_or(0, |(bytes, _)| bytes);
        let seen = self.seen.so_far.map_or(0, |(bytes, _)| bytes);
        if self.is_settled || seen <= sent {
            self.ahead_since = None;
            return None;
        }
        let since = self.ahead_since.get_or_insert(now);
        let is_late = now.0.saturating_sub(since.0) >= AHEAD_NS;
        is_late.then(|| {
            format!("the guard has told of {sent} bytes to the server, which has got {seen}")
        })
    }
}

fn differently(sent: &RequestSum, seen: &RequestSum) -> String {
    format!(
        "the server has got other requests than the guard has sent: {} of the guard's in stretch {}, {} seen in \
         stretch {}",
        sent.requests, sent.stretch, seen.requests, seen.stretch
    )
}

#[cfg(test)]
mod tests {
    use super::{AHEAD_NS, CrossCheck, Ended};
    use crate::{
        event::{BootTime, ConnectionId, RequestSum},
        guard::wire::{Sent, Summed},
    };

    const CONNECTION: ConnectionId = ConnectionId(7);

    fn sum(stretch: u64, sum: u64) -> RequestSum {
        RequestSum { stretch, requests: 1, sum, is_torn: false }
    }

    fn torn(stretch: u64) -> RequestSum {
        RequestSum { is_torn: true, ..sum(stretch, 0) }
    }

    fn told(bytes: Option<u64>, sum: RequestSum) -> Summed {
        Summed { connection: CONNECTION, bytes, sum }
    }

    #[test]
    fn a_difference_at_the_end_is_a_finding_unless_a_session_broke_off() {
        for (got_bytes, bytes, is_whole, is_finding) in [
            (100, 100, true, false),
            // Somebody else has spoken, or the observer has missed something without noticing.
            (101, 100, true, true),
            (101, 100, false, true),
            (99, 100, true, true),
            // The server has gone before it had read all.
            (99, 100, false, false),
        ] {
            let mut check = CrossCheck::default();
            check.open(CONNECTION);
            check.push(Ended {
                connection: CONNECTION,
                origin: Default::default(),
                at: BootTime(0),
                got_bytes,
                sent: None,
            });
            let mut tick = |sent: Option<Sent>, at| check.tick(|_| sent, BootTime(at)).len();
            assert_eq!(tick(None, 1), 0, "the guard has not said so yet");
            let sent = Sent { bytes, is_whole, sum: RequestSum::default() };
            assert_eq!(tick(Some(sent), 2), 0, "what it has told before may be on its way");
            let found = tick(None, 3);
            assert_eq!(found, usize::from(is_finding), "{got_bytes} of {bytes}, {is_whole}");
            assert_eq!(tick(Some(sent), 4), 0, "once");
        }
    }

    #[test]
    fn stretches_are_compared_as_they_come() {
        let both = |sums: &[RequestSum]| (sums.to_vec(), sums.to_vec());
        let cases = [
            (both(&[sum(0, 1), sum(1, 2), sum(7, 3)]), false, 3),
            // The observer is behind.
            ((vec![sum(0, 1), sum(1, 2)], vec![sum(0, 1)]), false, 1),
            ((vec![], vec![sum(0, 1)]), false, 0),
            // Another text; one that the guard has not sent; one that didn't arrive.
            ((vec![sum(0, 1)], vec![sum(0, 2)]), true, 0),
            ((vec![sum(0, 1), sum(2, 1)], vec![sum(0, 1), sum(1, 1), sum(2, 1)]), true, 1),
            ((vec![sum(0, 1), sum(1, 1), sum(2, 1)], vec![sum(0, 1), sum(2, 1)]), true, 1),
            // What was lost on the way to the observer is no difference, and hides none after it.
            ((vec![sum(0, 1), sum(1, 1), sum(2, 1)], vec![torn(1), sum(2, 1)]), false, 1),
            ((vec![sum(2, 1)], vec![torn(0), sum(2, 1)]), false, 1),
            ((vec![sum(0, 1), sum(2, 1)], vec![torn(0), sum(2, 2)]), true, 0),
        ];
        for ((sent, seen), is_finding, compared) in cases {
            let mut check = CrossCheck::default();
            check.open(CONNECTION);
            check.sent(Some(sent.iter().map(|sum| told(None, *sum)).collect()));
            seen.iter().for_each(|sum| check.seen(CONNECTION, None, *sum));
            let differences = check.tick(|_| None, BootTime(1));
            assert_eq!(differences.len(), usize::from(is_finding), "{sent:?} {seen:?}");
            let differing = u64::from(is_finding);
            assert_eq!(check.figures(), (compared, differing), "{sent:?} {seen:?}");
            assert!(check.tick(|_| None, BootTime(2)).is_empty(), "once");
        }
    }

    #[test]
    fn what_is_said_in_a_stretch_under_way_is_compared_where_both_have_come_as_far() {
        let cases = [
            ((50, sum(0, 1)), (50, sum(0, 1)), false),
            ((50, sum(0, 1)), (50, sum(0, 2)), true),
            ((50, sum(0, 1)), (50, torn(0)), false),
            ((60, sum(0, 1)), (50, sum(0, 2)), false),
            ((50, sum(0, 1)), (60, sum(0, 2)), false),
        ];
        for ((sent_bytes, sent), (seen_bytes, seen), is_finding) in cases {
            let mut check = CrossCheck::default();
            check.open(CONNECTION);
            check.sent(Some(vec![told(Some(sent_bytes), sent)]));
            check.seen(CONNECTION, Some(seen_bytes), seen);
            let differences = check.tick(|_| None, BootTime(1));
            assert_eq!(differences.len(), usize::from(is_finding), "{sent_bytes} {seen_bytes}");
        }
    }

    #[test]
    fn a_server_that_gets_what_no_guard_tells_of_is_a_finding_after_a_while() {
        let mut check = CrossCheck::default();
        check.open(CONNECTION);
        check.seen(CONNECTION, Some(50), sum(0, 1));
        assert!(check.tick(|_| None, BootTime(1)).is_empty());
        assert!(check.tick(|_| None, BootTime(AHEAD_NS)).is_empty());
        check.sent(Some(vec![told(Some(50), sum(0, 1))]));
        assert!(check.tick(|_| None, BootTime(AHEAD_NS + 1)).is_empty());
        check.seen(CONNECTION, Some(60), sum(0, 2));
        assert!(check.tick(|_| None, BootTime(AHEAD_NS + 2)).is_empty());
        assert_eq!(check.tick(|_| None, BootTime(2 * AHEAD_NS + 2)).len(), 1);
    }

    #[test]
    fn a_side_that_is_far_ahead_ends_the_comparison_and_keeps_nothing() {
        let mut check = CrossCheck::default();
        check.open(CONNECTION);
        check.sent(Some((0..10_000).map(|stretch| told(None, sum(stretch, 1))).collect()));
        check.seen(CONNECTION, None, sum(0, 2));
        assert!(check.tick(|_| None, BootTime(1)).is_empty());
        assert_eq!(check.open[&CONNECTION].sent.full.capacity(), 0);
    }
}
