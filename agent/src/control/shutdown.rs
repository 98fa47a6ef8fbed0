//! The wish to stop, in the two forms that its readers can wait on: a file descriptor and a future.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::event::{EventfdFlags, eventfd};
use tokio::sync::watch;

/// Requested once, never taken back.
#[derive(Debug)]
pub struct Shutdown {
    event: OwnedFd,
    requested: watch::Sender<bool>,
}

impl Shutdown {
    pub fn new() -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { event, requested: watch::Sender::new(false) })
    }

    pub fn request(&self) {
        self.requested.send_replace(true);
        // It can only fail when the counter is full, and then the descriptor is readable already.
        let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
    }

    pub fn requested(&self) -> bool {
        *self.requested.borrow()
    }

    /// Returns when it is requested.
    pub async fn wait(&self) {
        // The sender lives in `self`, so this can't fail.
        let _ = self.requested.subscribe().wait_for(|requested| *requested).await;
    }
}

/// Readable from the moment of the request on, for `poll` and `epoll`.
impl AsFd for Shutdown {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::Shutdown;

    #[tokio::test]
    async fn both_forms_tell_of_the_request() {
        let shutdown = Shutdown::new().unwrap();
        let readable = |shutdown: &Shutdown| {
            let mut fds = [PollFd::new(shutdown, PollFlags::IN)];
            poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() == 1
        };
        assert!(!shutdown.requested() && !readable(&shutdown));
        shutdown.request();
        shutdown.request();
        shutdown.wait().await;
        assert!(shutdown.requested() && readable(&shutdown));
    }
}
