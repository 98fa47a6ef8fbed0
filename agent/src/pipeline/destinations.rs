//! Where the databases' own processes connect to → rows: one when it begins, and one when it is over.

use std::{collections::HashMap, sync::Arc};

use crate::event::{Entry, Occurrence, OccurrenceKind, Origin, WallTime};

/// It is over when the same has not come again for so long.
const QUIET_US: i64 = 300_000_000;
/// One that doesn't end is told again.
const LONGEST_US: i64 = 3_600_000_000;
/// Going on at a time; over that, the one that was quiet longest is told as over.
const MAX_GOING_ON: usize = 1_024;

/// A connection that a process of a database opened.
#[derive(Clone, Debug)]
pub struct Reach {
    pub time: WallTime,
    /// Of the client that the process works for, where that is known; else of the server alone.
    pub origin: Arc<Origin>,
    pub pid: u32,
    pub exe: Option<Arc<str>>,
    /// An address with its port, or the path of a unix socket.
    pub target: Arc<str>,
    /// Where that is.
    pub region: Option<Arc<str>>,
    /// Which watched server of this host it is.
    pub server: Option<Arc<str>>,
}

/// Those that are going on.
#[derive(Default)]
pub struct Destinations {
    going_on: HashMap<Key, State>,
}

/// What makes two connections one burst: from where to where, by what, for whom.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    from: [Option<Arc<str>>; 2],
    target: Arc<str>,
    exe: Option<Arc<str>>,
    sender: [Option<Arc<str>>; 4],
}

struct State {
    first: Reach,
    last: WallTime,
    connections: u64,
}

impl Destinations {
    /// Takes in one connection; gives the row of a burst that begins with it, and of one that ends for it.
    pub fn take(&mut self, reach: Reach, told: &mut Vec<Entry>) {
        let key = Key::new(&reach);
        if let Some(state) = self.going_on.get_mut(&key) {
            state.last = reach.time.max(state.last);
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
        told.push(reach.row(reach.time, "began", Vec::new()));
        self.going_on.insert(key, State { last: reach.time, first: reach, connections: 1 });
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
    fn new(reach: &Reach) -> Self {
        let Origin { server, database, db_user, principal, os_user, client_address, .. } =
            &*reach.origin;
        Self {
            from: [server.clone(), database.clone()],
            target: reach.target.clone(),
            exe: reach.exe.clone(),
            sender: [db_user, principal, os_user, client_address].map(Clone::clone),
        }
    }
}

impl State {
    fn end(self) -> Entry {
        self.first.row(self.last, "ended", vec![("connections".into(), self.connections)])
    }
}

impl Reach {
    /// For people: who connects where.
    pub fn message(&self) -> String {
        let exe = self.exe.as_ref().map(|exe| format!(" ({exe})")).unwrap_or_default();
        let region = self.region.as_ref().map(|at| format!(", region {at}")).unwrap_or_default();
        let server = self.server.as_ref().map(|name| format!(", server {name}"));
        format!(
            "process {}{exe} of the database itself connects to {}{region}{}",
            self.pid,
            self.target,
            server.unwrap_or_default()
        )
    }

    fn row(&self, time: WallTime, action: &'static str, counts: Vec<(Arc<str>, u64)>) -> Entry {
        Entry::Occurrence(Occurrence {
            time,
            kind: OccurrenceKind::Destination,
            action,
            origin: self.origin.clone(),
            message: Some(self.message()),
            counts,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Destinations, MAX_GOING_ON, QUIET_US, Reach};
    use crate::event::{Entry, Origin, WallTime};

    fn reach(principal: &str, target: &str, second: i64) -> Reach {
        let origin = Origin { principal: Some(principal.into()), ..Origin::default() };
        Reach {
            time: WallTime(second * 1_000_000),
            origin: Arc::new(origin),
            pid: 7,
            exe: Some("/usr/bin/curl".into()),
            target: target.into(),
            region: Some("us".into()),
            server: None,
        }
    }

    fn told(entries: &mut Vec<Entry>) -> Vec<String> {
        let line = |entry: Entry| match entry {
            Entry::Occurrence(row) => {
                let counts = row.counts.iter().map(|(name, n)| format!(" {name}={n}"));
                let who = row.origin.principal.clone().unwrap_or_default();
                format!("{who} {}{}", row.action, counts.collect::<String>())
            }
            _ => "?".to_owned(),
        };
        entries.drain(..).map(line).collect()
    }

    #[test]
    fn a_burst_is_two_rows_for_each_sender_and_place() {
        let (mut destinations, mut rows) = (Destinations::default(), Vec::new());
        for (who, target) in [("a", "x"), ("a", "x"), ("b", "x"), ("a", "y"), ("a", "x")] {
            destinations.take(reach(who, target, 1), &mut rows);
        }
        assert_eq!(told(&mut rows), ["a began", "b began", "a began"]);
        destinations.take(reach("a", "x", 2), &mut rows);
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
            destinations.take(reach("a", &n.to_string(), n as i64), &mut rows);
        }
        assert_eq!(destinations.going_on.len(), MAX_GOING_ON);
        let ended = told(&mut rows).iter().filter(|row| row.contains("ended")).count();
        assert_eq!(ended, 1);
    }

    #[test]
    fn a_message_says_who_and_where() {
        let message = reach("a", "10.0.0.1 port 443", 0).message();
        let words = "process 7 (/usr/bin/curl) of the database itself connects to 10.0.0.1 port \
                     443, region us";
        assert_eq!(message, words);
    }
}
