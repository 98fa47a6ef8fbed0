//! What of a period was observed, server by server, and what was not, with its reason.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::event::WallTime;

/// Gaps that are told one by one; further ones are counted.
const MAX_GAPS: usize = 1_000;
/// Servers with sums of their own.
const MAX_SERVERS: usize = 500;

/// A row of the ledger that is no statement.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Occurrence {
    pub time: WallTime,
    pub host: Option<String>,
    pub server: Option<String>,
    pub record: String,
    pub action: Option<String>,
    pub message: Option<String>,
    pub counts: Option<BTreeMap<String, Option<u64>>>,
    pub approval: Option<String>,
    pub principal: Option<String>,
    pub rule: Option<String>,
}

/// A start that no stop had come before, and the last row before it.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct LastSeen {
    pub host: String,
    pub start: WallTime,
    pub last: Option<WallTime>,
}

/// What was counted of one server, by rows of a minute each.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Server {
    pub host: String,
    pub server: String,
    pub first: Option<WallTime>,
    pub last: Option<WallTime>,
    /// Minutes in which something was seen of it.
    pub minutes: u64,
    pub connections: u64,
    pub statements: u64,
    /// All that went by.
    pub bytes: u64,
    pub decoded_bytes: u64,
    pub truncated_bytes: u64,
    pub lost_bytes: u64,
    pub blind_bytes: u64,
    pub skipped_bytes: u64,
    /// Encrypted, and nobody could look into them.
    pub blind_connections: u64,
    /// Had begun before they were observed.
    pub joined_connections: u64,
}

/// A time, or an amount, of which the ledger has nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Gap {
    pub host: String,
    pub from: Option<WallTime>,
    pub to: Option<WallTime>,
    /// `not-running`, `not-kept`, `dropped`, …
    pub reason: String,
    pub words: String,
}

#[derive(Debug, Default)]
pub(super) struct Coverage {
    servers: BTreeMap<(String, String), Server>,
    /// Of each host: when its service started (true) and stopped.
    lives: BTreeMap<String, Vec<(WallTime, bool)>>,
    last_seen: BTreeMap<(String, WallTime), Option<WallTime>>,
    /// What else is missing.
    losses: Vec<Gap>,
    more_losses: u64,
}

impl Coverage {
    /// A row of the service, a loss, or a connection that couldn't be observed; from before the period only
    /// what the service said counts.
    pub(super) fn occurrence(&mut self, row: &Occurrence) {
        let host = name(&row.host);
        let action = row.action.as_deref().unwrap_or_default();
        match row.record.as_str() {
            "service" => {
                self.lives.entry(host).or_default().push((row.time, action == "started"));
            }
            "gap" if self.losses.len() < MAX_GAPS => self.losses.push(loss(row, host)),
            "gap" => self.more_losses += 1,
            "connection" => {
                let server = self.server(host, name(&row.server));
                match action {
                    "blind" => server.blind_connections += 1,
                    "joined" => server.joined_connections += 1,
                    _ => {}
                }
            }
            _ => {}
        }
    }

    pub(super) fn last_seen(&mut self, row: LastSeen) {
        self.last_seen.insert((row.host, row.start), row.last);
    }

    /// A row of what was seen of a server in a minute.
    pub(super) fn minute(&mut self, row: &Occurrence) {
        let count =
            |name: &str| row.counts.as_ref().and_then(|counts| *counts.get(name)?).unwrap_or(0);
        let server = self.server(name(&row.host), name(&row.server));
        server.first = Some(server.first.map_or(row.time, |first| first.min(row.time)));
        server.last = Some(server.last.map_or(row.time, |last| last.max(row.time)));
        server.minutes += 1;
        server.connections += count("connections");
        server.statements += count("statements");
        server.bytes += count("bytes_in") + count("bytes_out");
        server.decoded_bytes += count("decoded_bytes");
        server.truncated_bytes += count("truncated_bytes");
        server.lost_bytes += count("lost_bytes");
        server.blind_bytes += count("blind_bytes");
        server.skipped_bytes += count("skipped_bytes");
    }

    /// Those that don't fit are added up under one name.
    fn server(&mut self, host: String, server: String) -> &mut Server {
        let mut key = (host, server);
        if !self.servers.contains_key(&key) && self.servers.len() >= MAX_SERVERS {
            key = ("(others)".to_owned(), "(others)".to_owned());
        }
        let (host, name) = key.clone();
        self.servers.entry(key).or_insert_with(|| Server {
            host,
            server: name,
            ..Server::default()
        })
    }

    pub(super) fn servers(&self) -> Vec<Server> {
        self.servers.values().cloned().collect()
    }

    /// Some row says that the service ran before that moment.
    pub(super) fn ran_before(&self, moment: WallTime) -> bool {
        self.lives.values().flatten().any(|(time, _)| *time < moment)
    }

    /// A start of the period came without a stop before it.
    pub(super) fn ended_unclean(&self) -> bool {
        !self.last_seen.is_empty()
    }

    /// Everything that is known to be missing in the period, in the order of time.
    pub(super) fn gaps(&self, since: Option<WallTime>, until: WallTime) -> Vec<Gap> {
        let mut gaps = self.losses.clone();
        for (host, told) in &self.lives {
            let mut told = told.clone();
            told.sort_unstable();
            gaps.extend(self.not_running(host, &told, since, until));
        }
        if self.more_losses > 0 {
            let n = self.more_losses;
            let words = format!("{n} more rows of the ledger tell of losses (record = 'gap')");
            gaps.push(Gap { reason: "more".into(), words, ..Gap::of("") });
        }
        gaps.sort_by(|a, b| {
            (a.from.is_none(), a.from, &a.host).cmp(&(b.from.is_none(), b.from, &b.host))
        });
        gaps
    }

    /// When the service of a host wasn't there to see anything, as its own rows tell.
    fn not_running(
        &self,
        host: &str,
        told: &[(WallTime, bool)],
        since: Option<WallTime>,
        until: WallTime,
    ) -> Vec<Gap> {
        let is_before = |time: WallTime| since.is_some_and(|since| time < since);
        let gap = |from: Option<WallTime>, to: WallTime, words: String| Gap {
            from: from.max(since),
            to: Some(to),
            reason: "not-running".into(),
            words,
            ..Gap::of(host)
        };
        let mut gaps = Vec::new();
        // When it started or stopped last, and which of the two.
        let mut state: Option<(WallTime, bool)> = None;
        for &(time, is_start) in told {
            if is_start && !is_before(time) {
                match state {
                    None if since.is_some() => {
                        let words = "the ledger has nothing that says that dbwarden ran before";
                        gaps.push(gap(None, time, words.to_owned()));
                    }
                    None => {}
                    Some((stopped, false)) => {
                        gaps.push(gap(Some(stopped), time, "dbwarden was stopped".to_owned()));
                    }
                    Some((began, true)) => {
                        let last = self.last_seen.get(&(host.to_owned(), time)).copied().flatten();
                        let words = "dbwarden ended without saying so (killed, or the host went down); the \
                                     gap begins at its last row";
                        gaps.push(gap(Some(last.unwrap_or(began)), time, words.to_owned()));
                    }
                }
            }
            state = Some((time, is_start));
        }
        if let Some((stopped, false)) = state
            && stopped < until
        {
            let words = "dbwarden was stopped, and not started again within the period";
            gaps.push(gap(Some(stopped), until, words.to_owned()));
        }
        gaps
    }
}

impl Gap {
    fn of(host: &str) -> Self {
        Self {
            host: host.to_owned(),
            from: None,
            to: None,
            reason: String::new(),
            words: String::new(),
        }
    }
}

/// A loss, as its row tells of it.
fn loss(row: &Occurrence, host: String) -> Gap {
    let count = |name: &str| row.counts.as_ref().and_then(|counts| *counts.get(name)?);
    let moment = |name: &str| count(name).and_then(|us| i64::try_from(us).ok()).map(WallTime);
    let mut words = row.message.clone().unwrap_or_else(|| "something was lost".into());
    let told = row.counts.iter().flatten().filter(|(name, _)| !name.ends_with("_us"));
    let counts: Vec<String> = told.map(|(name, n)| format!("{name} {}", n.unwrap_or(0))).collect();
    if !counts.is_empty() {
        words = format!("{} ({})", words.trim_end_matches('.'), counts.join(", "));
    }
    Gap {
        from: moment("from_us").or_else(|| moment("last_commit_us")).or(Some(row.time)),
        to: moment("to_us").or(Some(row.time)),
        reason: row.action.clone().unwrap_or_default(),
        words,
        ..Gap::of(&host)
    }
}

fn name(name: &Option<String>) -> String {
    name.clone().unwrap_or_else(|| "?".to_owned())
}

#[cfg(test)]
mod tests {
    use super::{Coverage, LastSeen, Occurrence};
    use crate::event::WallTime;

    fn row(time: i64, record: &str, action: &str, counts: &[(&str, u64)]) -> Occurrence {
        Occurrence {
            time: WallTime(time),
            host: Some("db1".into()),
            server: Some("main".into()),
            record: record.into(),
            action: Some(action.into()),
            message: Some("It is so.".into()),
            counts: Some(counts.iter().map(|(name, n)| ((*name).into(), Some(*n))).collect()),
            ..Occurrence::default()
        }
    }

    /// Starts and stops as `+time` and `-time`; gaps as `from-to reason`.
    fn gaps(told: &[i64], since: Option<i64>, until: i64) -> Vec<String> {
        let mut coverage = Coverage::default();
        for time in told {
            let action = if *time > 0 { "started" } else { "stopped" };
            coverage.occurrence(&row(time.abs(), "service", action, &[]));
        }
        let (host, start, last) = ("db1".into(), WallTime(50), Some(WallTime(45)));
        coverage.last_seen(LastSeen { host, start, last });
        let gaps = coverage.gaps(since.map(WallTime), WallTime(until));
        let time = |time: Option<WallTime>| time.map_or("?".into(), |time| time.0.to_string());
        gaps.iter().map(|gap| format!("{}-{}", time(gap.from), time(gap.to))).collect()
    }

    #[test]
    fn a_gap_is_where_the_service_was_not() {
        for (told, since, until, expected) in [
            // It ran all the time, or all that the ledger knows.
            (&[1][..], Some(10), 90, &[][..]),
            (&[20], None, 90, &[]),
            (&[], Some(10), 90, &[]),
            // Stopped in the period, across its beginning, across its end.
            (&[1, -20, 30], Some(10), 90, &["20-30"]),
            (&[1, -5, 30], Some(10), 90, &["10-30"]),
            (&[1, -80], Some(10), 90, &["80-90"]),
            (&[1, -5], Some(10), 90, &["10-90"]),
            // Nothing says that it ran before.
            (&[30], Some(10), 90, &["10-30"]),
            // Killed: the last row is where the gap begins, or, where none is known, the start before it.
            (&[1, 50], Some(10), 90, &["45-50"]),
            (&[1, 50, 60], Some(10), 90, &["45-50", "50-60"]),
        ] {
            assert_eq!(gaps(told, since, until), expected, "{told:?} {since:?}");
        }
    }

    #[test]
    fn minutes_add_up_and_losses_are_told() {
        let mut coverage = Coverage::default();
        for (time, bytes, lost) in [(60, 100, 0), (120, 50, 7)] {
            let counts =
                [("bytes_in", bytes), ("decoded_bytes", bytes - lost), ("lost_bytes", lost)];
            coverage.minute(&row(time, "coverage", "seen", &counts));
        }
        for action in ["blind", "blind", "joined", "refused"] {
            coverage.occurrence(&row(130, "connection", action, &[]));
        }
        let [server] = &coverage.servers()[..] else { panic!("{:?}", coverage.servers()) };
        assert_eq!((server.bytes, server.decoded_bytes, server.lost_bytes), (150, 143, 7));
        assert_eq!((server.blind_connections, server.joined_connections), (2, 1));
        assert_eq!(
            (server.minutes, server.first, server.last.unwrap().0),
            (2, Some(WallTime(60)), 120)
        );

        coverage.occurrence(&row(
            140,
            "gap",
            "not-kept",
            &[("lost_rows", 3), ("from_us", 135), ("to_us", 139)],
        ));
        coverage.occurrence(&row(150, "gap", "dropped", &[]));
        let gaps = coverage.gaps(None, WallTime(200));
        let told: Vec<_> = gaps
            .iter()
            .map(|gap| (gap.from.unwrap().0, gap.to.unwrap().0, gap.words.as_str()))
            .collect();
        assert_eq!(told, [(135, 139, "It is so (lost_rows 3)"), (150, 150, "It is so.")]);
    }
}
