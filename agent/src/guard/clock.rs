//! Time for threads whose runtime has none: with a timer of its own, a runtime reads the clock and turns its wheel at
//! every wake-up, which for a session is twice a statement, and nothing of a session that goes on waits for a time.

use std::{future::Future, io, thread, time::Duration};

use tokio::{
    runtime::{Builder, Handle},
    time::{self, error::Elapsed},
};

/// A thread that keeps time for the others.
#[derive(Clone, Debug)]
pub(super) struct Clock(Handle);

impl Clock {
    pub(super) fn start() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_time().build()?;
        let clock = Self(runtime.handle().clone());
        thread::Builder::new()
            .name("clock".into())
            .spawn(move || runtime.block_on(std::future::pending::<()>()))?;
        Ok(clock)
    }

    /// As `tokio::time::timeout`.
    pub(super) fn timeout<F: Future>(
        &self,
        patience: Duration,
        future: F,
    ) -> impl Future<Output = Result<F::Output, Elapsed>> + use<F> {
        // A timer belongs to the runtime that it was made in.
        let _here = self.0.enter();
        time::timeout(patience, future)
    }

    /// As `tokio::time::sleep`.
    pub(super) fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + use<> {
        let _here = self.0.enter();
        time::sleep(duration)
    }
}

#[cfg(test)]
impl Clock {
    /// The runtime's own that one is in.
    pub(super) fn here() -> Self {
        Self(Handle::current())
    }
}

#[cfg(test)]
mod tests {
    use std::{future::pending, time::Duration};

    use super::Clock;

    /// In a runtime without a timer, as a worker's.
    #[test]
    fn it_tells_those_who_have_none() {
        let clock = Clock::start().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        runtime.block_on(async {
            clock.sleep(Duration::from_millis(1)).await;
            let waited = clock.timeout(Duration::from_millis(1), pending::<()>()).await;
            assert!(waited.is_err());
            assert_eq!(clock.timeout(Duration::MAX, async { 7 }).await.unwrap(), 7);
        });
    }
}
