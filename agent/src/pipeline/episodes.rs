//! Findings of statement after statement, connection after connection → episodes: told when they begin, and once more when they are over.

use std::{collections::HashMap, sync::Arc};

use crate::event::{
    Destination, Entry, Episode, EpisodeAction, Facts, Finding, Judgement, Origin, Outbound,
    Record, WallTime,
};

/// An episode is over when its finding has not come again for so long.
const QUIET_US: i64 = 300_000_000;
/// One that doesn't end is told again, so that it can't hide behind its beginning.
const LONGEST_US: i64 = 3_600_000_000;
/// Going on at a time; over that, the one that was quiet longest is told as over.
const MAX_EPISODES: usize = 1_024;

/// Those that are going on.
#[derive(Default)]
pub struct Episodes {
    going_on: HashMap<Key, State>,
}

/// What makes two findings one episode. Connections of one sender are one; so are the statements that
/// differ in their literals.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    rule: Arc<str>,
    server: Option<Arc<str>>,
    database: Option<Arc<str>>,
    db_user: Option<Arc<str>>,
    sender: [Option<Arc<str>>; 3],
    fingerprint: u64,
    destination: Option<Arc<Destination>>,
}

/// What findings are about.
#[derive(Clone, Copy)]
pub struct Occasion<'a> {
    time: WallTime,
    origin: &'a Arc<Origin>,
    sequence: u64,
    facts: Option<&'a Arc<Facts>>,
    destination: Option<&'a Arc<Destination>>,
    rows: u64,
    judgement: Option<&'a Judgement>,
}

struct State {
    first: Episode,
    last: WallTime,
    /// Statements, or connections.
    times: u64,
    rows: u64,
}

impl<'a> Occasion<'a> {
    pub fn of_statement(record: &'a Record) -> Self {
        Self {
            time: record.time,
            origin: &record.origin,
            sequence: record.sequence,
            facts: record.facts.as_ref(),
            destination: None,
            rows: record.rows.unwrap_or(0),
            judgement: record.judgement.as_deref(),
        }
    }

    pub fn of_outbound(outbound: &'a Outbound) -> Self {
        Self {
            time: outbound.time,
            origin: &outbound.origin,
            sequence: 0,
            facts: None,
            destination: Some(&outbound.destination),
            rows: 0,
            judgement: outbound.judgement.as_deref(),
        }
    }
}

impl Episodes {
    /// Takes in the findings of one occasion; gives the episodes that begin with it and those that end for it.
    pub fn take(&mut self, on: Occasion<'_>, told: &mut Vec<Entry>) {
        let findings = on.judgement.iter().flat_map(|judgement| &judgement.findings);
        for finding in findings {
            let key = Key::new(finding, on);
            if let Some(state) = self.going_on.get_mut(&key) {
                state.last = on.time.max(state.last);
                state.times += 1;
                state.rows += on.rows;
                continue;
            }
            if self.going_on.len() >= MAX_EPISODES {
                let quietest = self.going_on.iter().min_by_key(|(_, state)| state.last);
                if let Some(key) = quietest.map(|(key, _)| key.clone())
                    && let Some(state) = self.going_on.remove(&key)
                {
                    told.push(state.end());
                }
            }
            let first = Episode {
                time: on.time,
                began: on.time,
                action: EpisodeAction::Began,
                finding: finding.clone(),
                origin: on.origin.clone(),
                sequence: on.sequence,
                facts: on.facts.cloned(),
                destination: on.destination.cloned(),
                counts: Vec::new(),
            };
            told.push(Entry::Finding(first.clone()));
            let state = State { first, last: on.time, times: 1, rows: on.rows };
            self.going_on.insert(key, state);
        }
    }

    /// Gives those that are over.
    pub fn tick(&mut self, now: WallTime, told: &mut Vec<Entry>) {
        let is_over = |state: &State| {
            now.0 - state.last.0 >= QUIET_US || now.0 - state.first.time.0 >= LONGEST_US
        };
        told.extend(
            self.going_on.extract_if(|_, state| is_over(state)).map(|(_, state)| state.end()),
        );
    }

    /// Gives all: nobody will be there to see them end.
    pub fn end(&mut self, told: &mut Vec<Entry>) {
        told.extend(self.going_on.drain().map(|(_, state)| state.end()));
    }
}

impl Key {
    fn new(finding: &Finding, on: Occasion<'_>) -> Self {
        let Origin { server, database, db_user, principal, os_user, client_address, .. } =
            &**on.origin;
        Self {
            rule: finding.rule.clone(),
            server: server.clone(),
            database: database.clone(),
            db_user: db_user.clone(),
            sender: [principal, os_user, client_address].map(Clone::clone),
            fingerprint: on.facts.map_or(0, |facts| facts.fingerprint),
            destination: on.destination.cloned(),
        }
    }
}

impl State {
    fn end(self) -> Entry {
        let counts = match self.first.destination {
            None => vec![("statements".into(), self.times), ("rows".into(), self.rows)],
            Some(_) => vec![("connections".into(), self.times)],
        };
        let action = EpisodeAction::Ended;
        Entry::Finding(Episode { time: self.last, action, counts, ..self.first })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Episodes, MAX_EPISODES, Occasion, QUIET_US};
    use crate::{
        event::{
            Clock, Entry, Finding, Judgement, Origin, Outcome, Record, Severity, Statement,
            Verdict, WallTime,
        },
        pipeline::record::record,
    };

    /// A statement of `user` at that second, with a finding of each rule.
    fn statement(user: &str, second: i64, rules: &[&str]) -> Record {
        let finding = |rule: &&str| Finding {
            rule: (*rule).into(),
            verdict: Verdict::Flag,
            severity: Severity::High,
            message: "m".into(),
            dry_run: false,
        };
        let findings = rules.iter().map(finding).collect();
        let origin = Arc::new(Origin { os_user: Some(user.into()), ..Origin::default() });
        let outcome = Outcome::Suspended { rows: Some(2) };
        let statement = Statement { outcome, ..Statement::default() };
        Record {
            time: WallTime(second * 1_000_000),
            judgement: Some(Arc::new(Judgement { findings, ..Judgement::allowed() })),
            ..record(Clock::default(), origin, None, &statement)
        }
    }

    fn told(entries: &mut Vec<Entry>) -> Vec<String> {
        let line = |entry: Entry| match entry {
            Entry::Finding(episode) => {
                let counts = episode.counts.iter().map(|(name, n)| format!(" {name}={n}"));
                format!(
                    "{} {}{}",
                    episode.finding.rule,
                    episode.action.name(),
                    counts.collect::<String>()
                )
            }
            _ => "?".to_owned(),
        };
        entries.drain(..).map(line).collect()
    }

    #[test]
    fn the_same_finding_is_told_at_both_ends() {
        let (mut episodes, mut entries) = (Episodes::default(), Vec::new());
        episodes.take(Occasion::of_statement(&statement("a", 0, &["x", "y"])), &mut entries);
        assert_eq!(told(&mut entries), ["x began", "y began"]);
        episodes.take(Occasion::of_statement(&statement("a", 1, &["x"])), &mut entries);
        episodes.take(Occasion::of_statement(&statement("b", 2, &["x"])), &mut entries);
        assert_eq!(told(&mut entries), ["x began"]);
        episodes.tick(WallTime(QUIET_US + 500_000), &mut entries);
        assert_eq!(told(&mut entries), ["y ended statements=1 rows=2"]);
        episodes.tick(WallTime(QUIET_US + 1_500_000), &mut entries);
        assert_eq!(told(&mut entries), ["x ended statements=2 rows=4"]);
        episodes.end(&mut entries);
        assert_eq!(told(&mut entries), ["x ended statements=1 rows=2"]);
    }

    #[test]
    fn there_is_an_end_to_how_many_go_on() {
        let (mut episodes, mut entries) = (Episodes::default(), Vec::new());
        for n in 0..=MAX_EPISODES {
            episodes.take(
                Occasion::of_statement(&statement(&n.to_string(), n as i64, &["x"])),
                &mut entries,
            );
        }
        assert_eq!(episodes.going_on.len(), MAX_EPISODES);
        let ended = |entry: &Entry| matches!(entry, Entry::Finding(one) if !one.counts.is_empty());
        assert_eq!(entries.iter().filter(|entry| ended(entry)).count(), 1);
    }
}
