//! How long to wait for a receiver after each failure, and until when at all.

use std::time::Duration;

use tokio::sync::watch;

/// Doubled after each failure, up to the longest.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    first: Duration,
    longest: Duration,
    pause: Duration,
}

impl Patience {
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, pause: first }
    }

    /// All is well.
    pub fn renew(&mut self) {
        self.pause = self.first;
    }

    /// The next pause; never shorter than a receiver has `asked` for.
    pub fn next(&mut self, asked: Option<Duration>) -> Duration {
        let pause = self.pause;
        self.pause = self.longest.min(pause * 2);
        // Many agents that lost one receiver shall not come back to it as one.
        let spread: f64 = rand::random();
        let own = pause.mul_f64(0.8 + 0.4 * spread);
        asked.map_or(own, |asked| own.max(asked.mul_f64(1.0 + 0.2 * spread)))
    }
}

/// Says when the agent stops.
#[derive(Clone)]
pub struct Ending(pub watch::Receiver<bool>);

impl Ending {
    pub fn has_begun(&self) -> bool {
        *self.0.borrow()
    }

    /// Returns when it has begun.
    pub async fn begun(&mut self) {
        // Whoever could say so is gone: it has.
        let _ = self.0.wait_for(|begun| *begun).await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Patience;

    #[test]
    fn pauses_grow_up_to_the_longest_and_are_never_shorter_than_asked_for() {
        let second = Duration::from_secs(1);
        let mut patience = Patience::new(second, second * 4);
        for expected in [1, 2, 4, 4] {
            let pause = patience.next(None);
            assert!(pause >= second.mul_f64(0.8 * f64::from(expected)), "{pause:?}");
            assert!(pause <= second.mul_f64(1.2 * f64::from(expected)), "{pause:?}");
        }
        for _ in 0..100 {
            let pause = patience.next(Some(second * 30));
            assert!(pause >= second * 30 && pause <= second * 36, "{pause:?}");
        }
        patience.renew();
        assert!(patience.next(Some(Duration::ZERO)) <= second.mul_f64(1.2));
    }
}
