//! What the guard has sent on each of its connections, held against what the server was seen to get there.

use std::{collections::VecDeque, sync::Arc};

use crate::{
    event::{
        BootTime, ConnectionId, Entry, Episode, EpisodeAction, Finding, Origin, Severity, Verdict,
        WallTime,
    },
    guard::wire::Sent,
};

/// Connections that have ended, of which the guard has yet to say so.
const MAX_WAITING: usize = 20_000;
/// A guard that has not said so by then has died with it.
const PATIENCE_NS: u64 = 30_000_000_000;

/// Whoever watches is watched: a difference is a finding.
#[derive(Default)]
pub struct CrossCheck {
    waiting: VecDeque<Ended>,
}

/// A connection from the guard to a server, as it was observed.
pub struct Ended {
    pub connection: ConnectionId,
    pub origin: Arc<Origin>,
    pub at: BootTime,
    /// What the server has read, before encryption; what was lost on the way to the observer included.
    pub got_bytes: u64,
}

impl CrossCheck {
    pub fn push(&mut self, ended: Ended) {
        if self.waiting.len() >= MAX_WAITING {
            self.waiting.pop_front();
        }
        self.waiting.push_back(ended);
    }

    /// Compares what both sides have told of by now. `sent` is what the guard has said of a connection, once it is
    /// over.
    pub fn tick(
        &mut self,
        sent: impl Fn(ConnectionId) -> Option<Sent>,
        now: BootTime,
        time: WallTime,
    ) -> Vec<Entry> {
        let mut told = Vec::new();
        self.waiting.retain(|ended| {
            let Some(sent) = sent(ended.connection) else {
                return now.0.saturating_sub(ended.at.0) < PATIENCE_NS;
            };
            let got = ended.got_bytes;
            if got > sent.bytes || sent.is_whole && got < sent.bytes {
                told.push(difference(ended, sent.bytes, time));
            }
            false
        });
        told
    }
}

fn difference(ended: &Ended, sent: u64, time: WallTime) -> Entry {
    let got = ended.got_bytes;
    let message = format!("the guard has sent {sent} bytes to the server, which has got {got}");
    tracing::error!(connection = %ended.connection, "{message}");
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
        origin: ended.origin.clone(),
        sequence: 0,
        facts: None,
        destination: None,
        counts: vec![("sent_bytes".into(), sent), ("got_bytes".into(), got)],
    })
}

#[cfg(test)]
mod tests {
    use super::{CrossCheck, Ended};
    use crate::{
        event::{BootTime, ConnectionId, Entry, WallTime},
        guard::wire::Sent,
    };

    #[test]
    fn a_difference_is_a_finding_unless_a_session_broke_off() {
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
            let (connection, origin) = (ConnectionId(7), Default::default());
            check.push(Ended { connection, origin, at: BootTime(0), got_bytes });
            let mut tick = |sent: Option<Sent>, at| check.tick(|_| sent, BootTime(at), WallTime(0));
            assert!(tick(None, 1).is_empty(), "the guard has not said so yet");
            let told = tick(Some(Sent { bytes, is_whole }), 2);
            let found = matches!(told.as_slice(), [Entry::Finding(_)]);
            assert_eq!(found, is_finding, "{got_bytes} of {bytes}, {is_whole}");
            assert!(tick(Some(Sent { bytes: 0, is_whole }), 3).is_empty(), "once");
        }
    }
}
