//! Loss made to happen: the counters say how much, and what is reported after it is right.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use dbwarden_tests::{Agent, Postgres, Running, Via, Watch, Wire, await_until, need_root};
use nix::sys::signal::Signal;
use serde_json::Value;

/// Holds a few statements: less than what comes while the agent is stopped.
const RING: &str = "[capture]\nring_bytes = \"256KiB\"\n";

/// Of one row of a statement, by its number.
const WIDTHS: [usize; 5] = [1, 10, 100, 1_000, 9_000];

/// A statement that says itself how it must end, and who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Numbered {
    number: u64,
}

impl Numbered {
    /// Rows from 0 to 96, of widths that go over every size of a record; every seventh fails.
    fn text(self) -> String {
        let Numbered { number } = self;
        if self.fails() {
            return format!(
                "SELECT 1 / (g - g) /* number {number} */ FROM generate_series(1, 1) g"
            );
        }
        let (rows, width) = (self.rows(), WIDTHS[(number % 5) as usize]);
        let filler = "x".repeat((number % 11 * 100) as usize);
        format!(
            "SELECT repeat('a', {width}) /* number {number} {filler} */ FROM generate_series(1, {rows}) g"
        )
    }

    /// The ring has room for all of it.
    fn is_small(self) -> bool {
        WIDTHS[(self.number % 5) as usize] <= 100
    }

    fn fails(self) -> bool {
        self.number % 7 == 3
    }

    fn rows(self) -> u64 {
        self.number % 97
    }

    fn of(record: &Value) -> Option<Numbered> {
        let (_, rest) = record["text"].as_str()?.split_once("/* number ")?;
        Some(Numbered { number: rest.split(' ').next()?.parse().ok()? })
    }

    /// What the record says of the outcome must be this statement's; `whole` if it must say all.
    fn check(self, record: &Value, whole: bool) -> Result<()> {
        let (rows, code) = (record["rows"].as_u64(), record["error_code"].as_str());
        let expected = if self.fails() { (None, Some("22012")) } else { (Some(self.rows()), None) };
        let silent = (None, None);
        let right = (rows, code) == expected || (!whole && (rows, code) == silent);
        ensure!(right, "{self:?}: rows {rows:?}, error {code:?}, expected {expected:?}: {record}");
        if whole {
            ensure!(record["text"] == self.text(), "{self:?} has another text: {record}");
            ensure!(record["lost_bytes"] == 0, "{self:?} has lost bytes: {record}");
        }
        Ok(())
    }
}

fn total(agent: &Agent, name: &str) -> Result<u64> {
    agent.status()?["totals"][name].as_u64().with_context(|| format!("status has no {name}"))
}

fn dropped_bytes(agent: &Agent) -> Result<u64> {
    let status = agent.status()?;
    let by_reason = status["totals"]["dropped_bytes"].as_object().context("no dropped_bytes")?;
    Ok(by_reason.values().filter_map(Value::as_u64).sum())
}

/// The next record of that statement; records in between go to `others`.
fn await_number(watch: &Watch, wanted: Numbered, others: &mut Vec<Value>) -> Result<Value> {
    let mut patience = Duration::from_secs(30);
    while let Some(record) = watch.next(patience)? {
        if Numbered::of(&record) == Some(wanted) {
            return Ok(record);
        }
        patience = Duration::from_secs(10);
        others.push(record);
    }
    anyhow::bail!("{wanted:?} was not reported")
}

#[test]
fn what_is_lost_is_counted_to_the_byte_and_what_follows_is_right() -> Result<()> {
    need_root!();
    let postgres = Postgres::builder().start()?;
    let mut agent = Agent::builder().configuration(RING).start()?;
    agent.await_server(postgres.port())?;
    let watch = agent.watch()?;
    let mut numbers = (1_u64..).map(|number| Numbered { number });
    let mut next = |small: bool| {
        numbers.find(|number| !small || number.is_small()).context("numbers have no end")
    };
    let mut others = Vec::new();

    let mut wires = Vec::new();
    for n in 0..8 {
        let mut wire = Wire::connect(&postgres, &format!("wire-{n}"))?;
        let calm = next(true)?;
        wire.query(&calm.text())?;
        calm.check(&await_number(&watch, calm, &mut others)?, true)?;
        wires.push(wire);
    }
    assert_eq!(dropped_bytes(&agent)?, 0);

    let mut stormy = HashSet::new();
    for _ in 0..3 {
        agent.pause()?;
        for round in 0..60 {
            for wire in &mut wires {
                let one = next(false)?;
                stormy.insert(one.number);
                if round % 2 == 0 {
                    wire.send_query(&one.text())?;
                } else {
                    wire.send_extended(&one.text())?;
                }
                let answer = wire.answer()?;
                assert_eq!(answer.error.is_some(), one.fails(), "{one:?}");
            }
        }
        agent.resume()?;
        // It answers when it has emptied the ring.
        await_until("the agent", || Ok((agent.status()?["stale"] == false).then_some(())))?;
        // The same connections, one statement at a time.
        for wire in &mut wires {
            // The first may stand across the end of the loss: reported or not, never wrong.
            let first = next(true)?;
            stormy.insert(first.number);
            wire.query(&first.text())?;
            for extended in [false, true, false, true, false] {
                let one = next(true)?;
                if extended {
                    wire.send_extended(&one.text())?;
                } else {
                    wire.send_query(&one.text())?;
                }
                wire.answer()?;
                let record = await_number(&watch, one, &mut others)?;
                one.check(&record, true)?;
            }
        }
    }

    let mut seen = HashSet::new();
    let mut n_silent = 0;
    for record in others.iter().filter(|record| record.get("notice").is_none()) {
        let Some(one) = Numbered::of(record) else {
            ensure!(record["text_known"] == false, "whose is this? {record}");
            continue;
        };
        ensure!(stormy.contains(&one.number), "{one:?} came twice: {record}");
        ensure!(seen.insert(one.number), "{one:?} came twice: {record}");
        one.check(record, false)?;
        n_silent += usize::from(record["rows"].is_null() && record["error_code"].is_null());
    }
    ensure!(others.iter().any(|line| line["notice"] == "lost"), "nobody told of the loss");

    // Positions: what the agent delivered or knows to be missing is what the sockets moved.
    let sent: u64 = wires.iter().map(Wire::sent).sum();
    let received: u64 = wires.iter().map(Wire::received).sum();
    assert_eq!((total(&agent, "bytes_in")?, total(&agent, "bytes_out")?), (sent, received));
    // And what is missing in the streams is what the kernel side dropped.
    let dropped = dropped_bytes(&agent)?;
    assert!(dropped > 0);
    assert_eq!(total(&agent, "lost_bytes")?, dropped);
    println!(
        "{sent} bytes in, {received} out, {dropped} dropped; of {} statements in the storm {} were \
         seen, {n_silent} of them without their end",
        stormy.len(),
        seen.len()
    );
    Ok(())
}

/// Every text, or its parameter, says how many rows there must be.
fn pgbench_script(folder: &Path) -> Result<String> {
    let script = folder.join("script.sql");
    let statement = |(from, to)| {
        format!(
            "\\set n random({from}, {to})\nSELECT repeat('b', 200) FROM generate_series(1, :n);\n"
        )
    };
    let statements: String = [(1, 40), (1, 3), (50, 300)].into_iter().map(statement).collect();
    std::fs::write(&script, statements)?;
    Ok(script.display().to_string())
}

/// How many rows this statement must have, if it is one of the script.
fn rows_told(record: &Value) -> Option<u64> {
    let (_, told) = record["text"].as_str()?.split_once("generate_series(1, ")?;
    let (told, _) = told.split_once(')')?;
    let told = if told == "$1" { record["parameters"][0].as_str()? } else { told };
    told.parse().ok()
}

#[test]
fn under_load_a_stopped_agent_never_pairs_an_answer_with_another_request() -> Result<()> {
    need_root!();
    let postgres = Postgres::builder().start()?;
    let mut agent = Agent::builder().configuration(RING).start()?;
    agent.await_server(postgres.port())?;
    let folder = tempfile::tempdir()?;
    let script = pgbench_script(folder.path())?;
    for mode in ["simple", "extended", "prepared"] {
        let watch = agent.watch()?;
        let mut pgbench = postgres
            .pgbench_command(Via::Tcp, &["-n", "-M", mode, "-f", &script, "-c", "8", "-T", "4"]);
        pgbench.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let before = total(&agent, "lost_bytes")?;
        let mut running = Running::start("pgbench", &mut pgbench, Signal::SIGINT)?;
        for pause in 1..=3 {
            agent.pause()?;
            std::thread::sleep(Duration::from_millis(200));
            agent.resume()?;
            await_until(&format!("loss {pause} of {mode}"), || {
                Ok((total(&agent, "lost_bytes")? > before).then_some(()))
            })?;
        }
        ensure!(running.wait()?.success(), "pgbench failed");
        let mut counts: HashMap<&str, usize> = HashMap::new();
        while let Some(record) = watch.next(Duration::from_secs(1))? {
            let rows = record["rows"].as_u64();
            let outcome = match (rows_told(&record), rows) {
                (_, None) => "without an end",
                (None, Some(_)) => "without a text",
                (Some(told), Some(rows)) => {
                    ensure!(told == rows, "{mode}: {told} rows told, {rows} reported: {record}");
                    "right"
                }
            };
            *counts.entry(outcome).or_default() += 1;
        }
        println!("{mode}: {counts:?}");
        // The names of prepared statements are forgotten with the first loss: they may have changed.
        ensure!(counts.contains_key("right"), "{mode}: {counts:?}");
    }
    // Whoever comes later is seen whole.
    let watch = agent.watch()?;
    postgres.psql(Via::Unix, "SELECT 'afterwards'")?;
    let seen = watch.statements(1, |record| record["text"] == "SELECT 'afterwards'")?;
    assert_eq!((&seen[0]["rows"], &seen[0]["lost_bytes"]), (&1.into(), &0.into()));
    Ok(())
}

/// Nothing comes after the last bytes of a connection that could tell of their loss.
#[test]
fn what_is_lost_at_the_very_end_is_counted_to_the_byte() -> Result<()> {
    need_root!();
    let postgres = Postgres::builder().start()?;
    let mut agent = Agent::builder().configuration(RING).start()?;
    agent.await_server(postgres.port())?;
    let connect = |n: usize| Wire::connect(&postgres, &format!("wire-{n}"));
    let mut wires = (0..8).map(connect).collect::<Result<Vec<_>>>()?;
    await_until("the connections", || Ok((total(&agent, "connections_open")? >= 8).then_some(())))?;
    assert_eq!(total(&agent, "lost_bytes")?, 0);

    agent.pause()?;
    for wire in &mut wires {
        wire.query(&format!("SELECT repeat('a', {}) /* fills the ring */", 1 << 20))?;
        wire.query("SELECT 'unseen'")?;
    }
    // This one is over before anything of it is read.
    postgres.psql(Via::Tcp, "SELECT repeat('b', 100000)")?;
    drop(wires);
    agent.resume()?;
    await_until("the ends of all connections", || {
        let open = total(&agent, "connections_open")?;
        Ok((open == 0 && agent.status()?["stale"] == false).then_some(()))
    })?;
    let dropped = dropped_bytes(&agent)?;
    assert!(dropped > 0);
    assert_eq!(total(&agent, "lost_bytes")?, dropped);
    println!("{dropped} bytes were dropped at the ends of 9 connections");
    Ok(())
}
