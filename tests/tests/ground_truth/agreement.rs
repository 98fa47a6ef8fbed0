//! Where the two sides must agree, and what a record must say of itself.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use dbwarden_tests::Postgres;
use serde_json::Value;

use crate::conversations::{Conversations, Said, Statement, is_unlogged, text};

/// A log's duration is of the execution alone; dbwarden's runs from the request to the end of the
/// answer, with the time that the bytes wait on a busy machine.
const DURATION_SLACK: Duration = Duration::from_millis(500);

/// Both sides, connection by connection and statement by statement, in the order of each.
pub fn compare(log: &Conversations, seen: &Conversations) -> Result<usize> {
    let names = |conversations: &Conversations| -> Vec<(String, usize)> {
        conversations.iter().map(|(name, all)| (name.clone(), all.len())).collect()
    };
    ensure!(
        names(log) == names(seen),
        "connections with statements differ: log {:?}, dbwarden {:?}",
        names(log),
        names(seen)
    );
    let mut n = 0;
    for (application, logged) in log {
        let Some(seen) = seen.get(application) else { continue };
        let sorted = |all: &[Vec<Statement>]| {
            let mut all = all.to_vec();
            all.sort_by(|a, b| a.iter().map(|s| &s.said).cmp(b.iter().map(|s| &s.said)));
            all
        };
        for (logged, seen) in sorted(logged).iter().zip(&sorted(seen)) {
            for (at, (logged, seen)) in logged.iter().zip(seen).enumerate() {
                agree(logged, seen)
                    .with_context(|| format!("statement {} of {application}", at + 1))?;
            }
            let n_logged = logged.len();
            ensure!(
                n_logged == seen.len(),
                "{application}: {n_logged} statements logged, {} reported; the next: {:?}",
                seen.len(),
                logged.get(seen.len()).or(seen.get(n_logged)).map(|s| brief(&s.said.text))
            );
            n += n_logged;
        }
    }
    Ok(n)
}

fn agree(logged: &Statement, seen: &Statement) -> Result<()> {
    if logged.said != seen.said {
        let brief = |said: &Said| Said { text: brief(&said.text), ..said.clone() };
        bail!("log {:?}, dbwarden {:?}", brief(&logged.said), brief(&seen.said));
    }
    let what = brief(&logged.said.text);
    if logged.parameters.is_some() {
        ensure!(
            logged.parameters == seen.parameters,
            "{what}: parameters: log {:?}, dbwarden {:?}",
            logged.parameters,
            seen.parameters
        );
    }
    let took = seen.duration.with_context(|| format!("{what} has no duration"))?;
    if let Some(ran) = logged.duration {
        // The clocks are two, the log rounds to microseconds.
        ensure!(
            took + Duration::from_millis(1) >= ran && took <= ran + DURATION_SLACK,
            "{what}: the log says {ran:?}, dbwarden {took:?}"
        );
    }
    Ok(())
}

fn brief(text: &str) -> String {
    text.chars().take(100).collect()
}

/// Where a text tells its rows (`/* rows 5 */`, of several statements together, or `/* rows $1 */`),
/// the record must have them.
pub fn check_rows(record: &Value) -> Result<bool> {
    let marks = text(record).split("/* rows ").skip(1);
    let marks: Vec<&str> = marks.filter_map(|rest| Some(rest.split_once(" */")?.0)).collect();
    if marks.is_empty() || !record["error_code"].is_null() || is_unlogged(record) {
        return Ok(false);
    }
    let parameter = || record["parameters"][0].as_str().unwrap_or_default();
    let number = |mark: &&str| if *mark == "$1" { parameter() } else { mark }.parse::<u64>();
    let expected: u64 = marks.iter().map(number).sum::<Result<u64, _>>()?;
    ensure!(
        record["rows"].as_u64() == Some(expected),
        "{}: rows {}, expected {expected}",
        brief(text(record)),
        record["rows"]
    );
    Ok(true)
}

pub fn check_plain_facts(record: &Value, postgres: &Postgres) -> Result<()> {
    let what = brief(text(record));
    ensure!(record["text_known"] == true, "text not known: {record}");
    for name in ["lost_bytes", "truncated_bytes"] {
        ensure!(record[name] == 0, "{what}: {name} {}", record[name]);
    }
    ensure!(record["joined_midstream"] == false, "{what}: joined");
    let transport = record["transport"].as_str().unwrap_or_default();
    let application = record["application"].as_str().unwrap_or_default();
    let expected =
        ["unix", "tcp6", "tcp", "tls"].into_iter().find(|way| application.ends_with(way));
    if let Some(expected) = expected {
        ensure!(transport == expected.trim_end_matches('6'), "{application} came by {transport}");
    }
    if transport != "unix" {
        ensure!(record["server_port"] == postgres.port(), "{what}: port {}", record["server_port"]);
    }
    let (first, whole) = (record["first_byte_us"].as_u64(), record["duration_us"].as_u64());
    ensure!(first <= whole, "{what}: first byte after {first:?} µs of {whole:?}");
    ensure!(record["bytes_in"].as_u64() > Some(0), "{what}: no bytes in");
    Ok(())
}
