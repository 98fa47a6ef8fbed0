//! How many connections are ended in a minute: a rule that is written badly doesn't take everybody down.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

/// Servers, those by rules and those by quarantine. Of more than that, nothing is ended.
const MAX_BRAKES: usize = 512;
const MINUTE: Duration = Duration::from_secs(60);

/// On behalf of what connections are ended. A client in quarantine that comes again and again uses up
/// nothing of what rules may end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum By {
    Rules,
    Quarantine,
}

/// Of all servers.
pub struct Brakes {
    per_minute: u32,
    going_on: HashMap<(Option<Arc<str>>, By), Brake>,
}

/// The minute of one server.
struct Brake {
    since: Instant,
    cuts: u32,
    withheld: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pull {
    /// It may be ended.
    Free,
    /// It goes on, the first one of this minute.
    First,
    /// It goes on.
    Again,
}

/// What was withheld in a minute that is over.
#[derive(Debug, PartialEq, Eq)]
pub struct Withheld {
    pub server: Option<Arc<str>>,
    pub by: By,
    pub cuts: u32,
    pub withheld: u64,
}

impl By {
    pub fn name(self) -> &'static str {
        match self {
            Self::Rules => "rules",
            Self::Quarantine => "quarantine",
        }
    }

    /// What to think of it when it is too much.
    pub fn advice(self) -> &'static str {
        match self {
            Self::Rules => "is a rule wrong?",
            Self::Quarantine => "who is in quarantine comes again and again",
        }
    }
}

impl Brakes {
    pub fn new(per_minute: u32) -> Self {
        Self { per_minute, going_on: HashMap::new() }
    }

    pub fn per_minute(&self) -> u32 {
        self.per_minute
    }

    /// Counts one connection more that is to be ended.
    pub fn pull(&mut self, server: Option<&Arc<str>>, by: By, now: Instant) -> Pull {
        let key = (server.cloned(), by);
        if self.going_on.len() >= MAX_BRAKES && !self.going_on.contains_key(&key) {
            return Pull::Again;
        }
        let fresh = || Brake { since: now, cuts: 0, withheld: 0 };
        let brake = self.going_on.entry(key).or_insert_with(fresh);
        if brake.cuts < self.per_minute {
            brake.cuts += 1;
            return Pull::Free;
        }
        brake.withheld += 1;
        if brake.withheld == 1 { Pull::First } else { Pull::Again }
    }

    /// Lets go of the minutes that are over; gives those in which something was withheld.
    pub fn tick(&mut self, now: Instant) -> Vec<Withheld> {
        let is_over = |brake: &Brake| now.duration_since(brake.since) >= MINUTE;
        let over = self.going_on.extract_if(|_, brake| is_over(brake));
        over.filter(|(_, brake)| brake.withheld > 0)
            .map(|((server, by), Brake { cuts, withheld, .. })| Withheld {
                server,
                by,
                cuts,
                withheld,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Instant};

    use super::{Brakes, By, MAX_BRAKES, MINUTE, Pull, Withheld};

    #[test]
    fn a_quarantined_client_that_comes_again_uses_up_nothing_of_the_rules() {
        let (mut brakes, start) = (Brakes::new(2), Instant::now());
        let (one, other): (Arc<str>, Arc<str>) = ("one".into(), "other".into());
        for (server, by, expected) in [
            (&one, By::Quarantine, Pull::Free),
            (&one, By::Quarantine, Pull::Free),
            (&one, By::Quarantine, Pull::First),
            (&one, By::Quarantine, Pull::Again),
            (&one, By::Rules, Pull::Free),
            (&one, By::Rules, Pull::Free),
            (&one, By::Rules, Pull::First),
            (&other, By::Rules, Pull::Free),
        ] {
            assert_eq!(brakes.pull(Some(server), by, start), expected, "{server} {by:?}");
        }
        assert_eq!(brakes.tick(start), []);
        let mut withheld = brakes.tick(start + MINUTE);
        withheld.sort_by_key(|withheld| withheld.withheld);
        let told = |by, withheld| Withheld { server: Some(one.clone()), by, cuts: 2, withheld };
        assert_eq!(withheld, [told(By::Rules, 1), told(By::Quarantine, 2)]);
        assert_eq!(brakes.pull(Some(&one), By::Rules, start + MINUTE), Pull::Free);
    }

    #[test]
    fn there_is_an_end_to_how_many_servers_are_counted() {
        let (mut brakes, now) = (Brakes::new(1), Instant::now());
        for n in 0..MAX_BRAKES {
            let server = n.to_string().into();
            assert_eq!(brakes.pull(Some(&server), By::Rules, now), Pull::Free);
        }
        assert_eq!(brakes.pull(Some(&"more".into()), By::Rules, now), Pull::Again);
    }
}
