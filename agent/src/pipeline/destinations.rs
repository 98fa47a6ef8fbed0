//! Where the databases' own processes connect to → rows: one when it begins, and one when it is over.

use std::{collections::HashMap, sync::Arc};

use crate::event::{Destination, Entry, EpisodeAction, Origin, Outbound, WallTime};

/// It is over when the same has not come again for so long.
const QUIET_US: i64 = 300_000_000;
/// One that doesn't end is told again.
const LONGEST_US: i64 = 3_600_000_000;
/// Going on at a time; over that, the one that was quiet longest is told as over.
const MAX_GOING_ON: usize = 1_024;

/// Those that are going on.
#[derive(Default)]
pub struct Destinations {
    going_on: HashMap<Key, State>,
}

/// What makes two connections one burst: from where to where, by what, for whom, judged alike.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    from: [Option<Arc<str>>; 2],
    destination: Arc<Destination>,
    sender: [Option<Arc<str>>; 4],
    rule: Option<Arc<str>>,
}

struct State {
    first: Outbound,
    last: WallTime,
    connections: u64,
}

impl Destinations {
    /// Takes in one connection; gives the row of a burst that begins with it, and of one that ends for it.
    pub fn take(&mut self, outbound: Outbound, told: &mut Vec<Entry>) {
        let key = Key::new(&outbound);
        if let Some(state) = self.going_on.get_mut(&key) {
            state.last = outbound.time.max(state.last);
            state.connections += 1;
            return;
        }
        if self.going_on.len() >= MAX_GOING_ON {
            let quietest = self.going_on.iter().min_by_key(|(_, state)| state.last);
            if let Some(key) = quietest.map(|(key, _)| key.clone())
                && let Some(state) = self.going_on.remove(&key)
            {
                told.push(state.end());
            }
        }
        told.push(Entry::Outbound(outbound.clone()));
        self.going_on.insert(key, State { last: outbound.time, first: outbound, connections: 1 });
    }

    /// Gives those that are over.
    pub fn tick(&mut self, now: WallTime, told: &mut Vec<Entry>) {
        let is_over = |state: &State| {
            now.0 - state.last.0 >= QUIET_US || now.0 - state.first.time.0 >= LONGEST_US
        };
        let over = self.going_on.extract_if(|_, state| is_over(state));
        told.extend(over.map(|(_, state)| state.end()));
    }

    /// Gives all: nobody will be there to see them end.
    pub fn end(&mut self, told: &mut Vec<Entry>) {
        told.extend(self.going_on.drain().map(|(_, state)| state.end()));
    }
}

impl Key {
    fn new(outbound: &Outbound) -> Self {
        let Origin { server, database, db_user, principal, os_user, client_address, .. } =
            &*outbound.origin;
        Self {
            from: [server.clone(), database.clone()],
            destination: outbound.destination.clone(),
            sender: [db_user, principal, os_user, client_address].map(Clone::clone),
            rule: outbound.judgement.as_ref().and_then(|judgement| judgement.rule.clone()),
        }
    }
}

impl State {
    fn end(self) -> Entry {
        Entry::Outbound(Outbound {
            time: self.last,
            action: EpisodeAction::Ended,
            connections: Some(self.connections),
            ..self.first
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Destinations, MAX_GOING_ON, QUIET_US};
    use crate::event::{Destination, Entry, EpisodeAction, Origin, Outbound, Remote, WallTime};

    fn outbound(principal: &str, target: &str, second: i64) -> Outbound {
        let origin = Origin { principal: Some(principal.into()), ..Origin::default() };
        let destination = Destination {
            to: Remote::Unix(Some(target.into())),
            region: Some("us".into()),
            server: None,
            program: Some("/usr/bin/curl".into()),
            by_server: false,
        };
        Outbound {
            time: WallTime(second * 1_000_000),
            action: EpisodeAction::Began,
            origin: Arc::new(origin),
            pid: 7,
            destination: Arc::new(destination),
            judgement: None,
            connections: None,
        }
    }

    fn told(entries: &mut Vec<Entry>) -> Vec<String> {
        let line = |entry: Entry| match entry {
            Entry::Outbound(row) => {
                let n = row.connections.map(|n| format!(" connections={n}")).unwrap_or_default();
                let who = row.origin.principal.clone().unwrap_or_default();
                format!("{who} {}{n}", row.action.name())
            }
            _ => "?".to_owned(),
        };
        entries.drain(..).map(line).collect()
    }

    #[test]
    fn a_burst_is_two_rows_for_each_sender_and_place() {
        let (mut destinations, mut rows) = (Destinations::default(), Vec::new());
        for (who, target) in [("a", "x"), ("a", "x"), ("b", "x"), ("a", "y"), ("a", "x")] {
            destinations.take(outbound(who, target, 1), &mut rows);
        }
        assert_eq!(told(&mut rows), ["a began", "b began", "a began"]);
        destinations.take(outbound("a", "x", 2), &mut rows);
        destinations.tick(WallTime(QUIET_US + 1_500_000), &mut rows);
        let mut ended = told(&mut rows);
        ended.sort();
        assert_eq!(ended, ["a ended connections=1", "b ended connections=1"]);
        destinations.end(&mut rows);
        assert_eq!(told(&mut rows), ["a ended connections=4"]);
    }

    #[test]
    fn there_is_an_end_to_how_many_go_on() {
        let (mut destinations, mut rows) = (Destinations::default(), Vec::new());
        for n in 0..=MAX_GOING_ON {
            destinations.take(outbound("a", &n.to_string(), n as i64), &mut rows);
        }
        assert_eq!(destinations.going_on.len(), MAX_GOING_ON);
        let ended = told(&mut rows).iter().filter(|row| row.contains("ended")).count();
        assert_eq!(ended, 1);
    }
}
