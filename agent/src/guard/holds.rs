//! Sessions whose statements wait for people, by what a request to cancel names them by.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::mpsc::UnboundedSender;

use super::session::Tiding;

/// Shared by all workers: a request to cancel comes on a connection of its own.
#[derive(Clone, Debug, Default)]
pub(super) struct Holds(Arc<Mutex<Sessions>>);

type Sessions = HashMap<Box<[u8]>, UnboundedSender<Tiding>>;

/// A session's place among them, while it waits.
#[derive(Debug)]
pub(super) struct Held {
    holds: Holds,
    key: Box<[u8]>,
}

impl Holds {
    pub(super) fn hold(&self, key: &[u8], session: UnboundedSender<Tiding>) -> Held {
        self.lock().insert(key.into(), session);
        Held { holds: self.clone(), key: key.into() }
    }

    /// Whether a `CancelRequest` was meant for one of them, and has been told to it.
    pub(super) fn cancel(&self, packet: &[u8]) -> bool {
        // Behind its length and its code.
        let key = packet.get(8..).unwrap_or_default();
        let session = self.lock().get(key).cloned();
        session.is_some_and(|session| session.send(Tiding::Cancelled).is_ok())
    }

    fn lock(&self) -> MutexGuard<'_, Sessions> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.holds.lock().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc::unbounded_channel;

    use super::Holds;

    #[test]
    fn only_whoever_knows_the_key_cancels() {
        let holds = Holds::default();
        let (tell, mut told) = unbounded_channel();
        let packet = |key: &[u8]| [b"\0\0\0\x10\x04\xd2\x16\x2e", key].concat();
        let held = holds.hold(b"pid_keys", tell);
        assert!(!holds.cancel(&packet(b"pid_kezs")) && !holds.cancel(b""));
        assert!(told.try_recv().is_err());
        assert!(holds.cancel(&packet(b"pid_keys")) && told.try_recv().is_ok());
        drop(held);
        assert!(!holds.cancel(&packet(b"pid_keys")));
    }
}
