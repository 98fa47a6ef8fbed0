//! Statements that wait for people, listed and decided over the control socket by whoever the kernel says is there.

use std::sync::Arc;

use bytes::Bytes;
use rustix::event::{PollFd, PollFlags, poll};
use serde::{Deserialize, Serialize};
use tokio::sync::{broadcast::error::RecvError, mpsc};

use super::{
    access::Peer,
    whois::{Question, Questions},
};
use crate::{
    approval::{Decision, Desk, Shown, Undecided},
    event::{Origin, WallTime},
};

/// Of a request.
pub(super) const REQUEST_BYTES: usize = 16 << 10;

/// What somebody decides.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ApprovalChange {
    pub id: String,
    pub approve: bool,
    #[serde(default)]
    pub reason: Option<String>,
    #[serde(default)]
    pub break_glass: bool,
}

/// Why it stays as it is.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unchanged {
    #[error("it can't be told who asks: {0}")]
    Nobody(String),
    #[error("can't be understood: {0}")]
    Request(#[from] serde_json::Error),
    #[error(transparent)]
    Undecided(#[from] Undecided),
}

/// What somebody wants to see.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    pub id: Option<String>,
    /// Those that are over too.
    pub all: bool,
    /// Each step from now on.
    pub follow: bool,
}

impl Wanted {
    pub(super) fn of_query(query: &str) -> Result<Self, String> {
        let mut wanted = Self::default();
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            match (&*key, &*value) {
                ("id", id) => wanted.id = Some(id.to_owned()),
                ("all", "true") => wanted.all = true,
                ("follow", "true") => wanted.follow = true,
                _ => {
                    return Err(format!(
                        "{key}={value} is not understood: id=…, all=true or follow=true"
                    ));
                }
            }
        }
        Ok(wanted)
    }
}

/// Who that is: the process that has connected, if it is still that one.
///
/// A process that has become another user since it was started is nobody: what is known of it may be what it was.
pub(super) async fn who(questions: &Questions, peer: &Peer) -> Result<Arc<Origin>, Unchanged> {
    let nobody = |why: &str| Unchanged::Nobody(why.to_owned());
    let pid = peer.pid.ok_or_else(|| nobody("the kernel does not name the process"))?;
    let question = Question::Process { pid, uid: peer.uid };
    let whois = questions.ask(question).await.map_err(|error| nobody(&error.to_string()))?;
    let Some(found) = whois.found.into_iter().next() else {
        return Err(nobody("the process is not known"));
    };
    // As long as it lives nobody else has its number.
    if !peer.pidfd.as_ref().is_some_and(is_alive) {
        return Err(nobody("the process has gone"));
    }
    match found.origin.uid == Some(peer.uid) {
        true => Ok(found.origin),
        false => Err(nobody("the process has changed its user")),
    }
}

fn is_alive(process: &Arc<std::os::fd::OwnedFd>) -> bool {
    let mut polled = [PollFd::new(process, PollFlags::IN)];
    matches!(poll(&mut polled, Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(0))
}

pub(super) fn change(
    desk: &Desk,
    who: &Arc<Origin>,
    request: &[u8],
    now: WallTime,
) -> Result<Shown, Unchanged> {
    let ApprovalChange { id, approve, reason, break_glass } = serde_json::from_slice(request)?;
    let decision = Decision { id, is_approval: approve, is_break_glass: break_glass, reason };
    Ok(desk.decide(&decision, who, now)?)
}

/// Brings steps to whoever watches, until either ends.
pub(super) async fn feed(
    desk: Arc<Desk>,
    out: mpsc::Sender<Bytes>,
    ended: impl Future<Output = ()>,
) {
    let mut steps = desk.steps();
    tokio::pin!(ended);
    loop {
        let step = tokio::select! {
            step = steps.recv() => step,
            () = &mut ended => return,
            () = out.closed() => return,
        };
        let line = match step {
            Ok(step) => serde_json::to_vec(&*step).unwrap_or_default(),
            Err(RecvError::Lagged(n)) => format!("{{\"missed\":{n}}}").into_bytes(),
            Err(RecvError::Closed) => return,
        };
        if out.send([line, b"\n".to_vec()].concat().into()).await.is_err() {
            return;
        }
    }
}
