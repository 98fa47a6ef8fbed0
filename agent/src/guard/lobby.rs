//! Clients that have yet to say what they want: so many at a time, each for so long.

use std::{cell::RefCell, collections::BTreeMap, future::Future, pin::pin, time::Duration};

use futures_util::future::{Either, select};
use tokio::sync::oneshot;

use super::{clock::Clock, wire::Number};

/// From the first byte to the `StartupMessage`, as PostgreSQL's `authentication_timeout`.
const PATIENCE: Duration = Duration::from_secs(60);
/// At a time, of each of the guard's threads.
const MAX_CLIENTS: usize = 1_024;

/// When it is full, whoever has been there longest makes room: those who have something to say need
/// milliseconds for it.
#[derive(Debug)]
pub(super) struct Lobby {
    clock: Clock,
    /// Dropped for those who must leave.
    places: RefCell<BTreeMap<Number, oneshot::Sender<()>>>,
}

/// Why a client leaves without having been heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Lingered {
    #[error("it did not say what it wants in time")]
    TooLong,
    #[error("it did not say what it wants before many others came")]
    Crowded,
}

impl Lobby {
    pub(super) fn new(clock: Clock) -> Self {
        Self { clock, places: RefCell::default() }
    }

    /// What comes of a client's `entry`.
    pub(super) async fn host<T>(
        &self,
        number: Number,
        entry: impl Future<Output = T>,
    ) -> Result<T, Lingered> {
        let (place, gone) = oneshot::channel();
        {
            let mut places = self.places.borrow_mut();
            if places.len() >= MAX_CLIENTS {
                places.pop_first();
            }
            places.insert(number, place);
        }
        let entry = pin!(self.clock.timeout(PATIENCE, entry));
        let entered = select(entry, gone).await;
        self.places.borrow_mut().remove(&number);
        match entered {
            Either::Left((entered, _)) => entered.map_err(|_| Lingered::TooLong),
            Either::Right(_) => Err(Lingered::Crowded),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::pending, rc::Rc};

    use tokio::task::{LocalSet, spawn_local};

    use super::{Clock, Lingered, Lobby, MAX_CLIENTS, PATIENCE};

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn whoever_says_nothing_leaves_in_time_or_for_others() {
        let all = async {
            let lobby = Rc::new(Lobby::new(Clock::here()));
            let silent: Vec<_> = (0..MAX_CLIENTS as u64)
                .map(|number| {
                    let lobby = lobby.clone();
                    spawn_local(async move { lobby.host(number, pending::<()>()).await })
                })
                .collect();
            let begun = tokio::time::Instant::now();
            while lobby.places.borrow().len() < MAX_CLIENTS {
                tokio::task::yield_now().await;
            }
            assert_eq!(lobby.host(u64::MAX, async { 7 }).await, Ok(7));
            for (number, one) in silent.into_iter().enumerate() {
                let why = if number == 0 { Lingered::Crowded } else { Lingered::TooLong };
                assert_eq!(one.await.unwrap(), Err(why), "{number}");
            }
            assert_eq!(begun.elapsed().as_secs(), PATIENCE.as_secs());
            assert!(lobby.places.borrow().is_empty());
        };
        LocalSet::new().run_until(all).await;
    }
}
