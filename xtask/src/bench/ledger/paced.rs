//! How soon a statement is found while 30 000 a second arrive, and what the agent needs for it.

use std::{
    fs,
    path::Path,
    process::Stdio,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use dbwarden_tests::{Running, Via, said};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::{
    super::{
        Target, cost,
        figures::{median, quantile, ratio},
        servers, start_agent,
        table::table,
    },
    Plan, Report, tell,
};
use crate::interrupt;

const PER_SECOND: u64 = 30_000;
/// Statements that pgbench sends before it reads an answer: else its own processor time is the limit.
const PIPELINE: u64 = 20;
const CLIENTS: u64 = 4;
/// A statement is found within this time of its end.
const FOUND_S: f64 = 2.0;
const MEMORY_MIB: f64 = 150.0;
/// Of the pace that was asked for, how much there must be for the figures to count.
const PACE_KEPT: f64 = 0.95;
/// Between two statements that are looked for.
const PAUSE: Duration = Duration::from_millis(500);
/// How long the agent may take to record the last statements.
const PATIENCE: Duration = Duration::from_secs(20);

/// What happened while the load ran.
struct Run {
    statements: u64,
    seconds: f64,
    found_s: Vec<f64>,
    kept: u64,
    lost: u64,
    peak_mib: f64,
    agent_us: f64,
}

pub fn run(plan: &Plan, program: &Path) -> Result<Report> {
    let seconds = u64::from(plan.seconds()) * u64::from(plan.rounds());
    tell(&format!("{PER_SECOND} statements a second for {seconds} s"));
    let run = watch(program, seconds)?;
    Ok(report(plan, &run))
}

fn watch(program: &Path, seconds: u64) -> Result<Run> {
    let server = servers::settings().start()?;
    server.pgbench(Via::Unix, &["-i", "-q", "-s", "1"])?;
    let agent = start_agent(program, &[], "")?;
    agent.await_server(server.port())?;

    let folder = tempfile::tempdir()?;
    let script = folder.path().join("script.sql");
    let select = "SELECT abalance FROM pgbench_accounts WHERE aid = :aid;\n";
    let text = format!(
        "\\set aid random(1, 100000)\n\\startpipeline\n{}\\endpipeline\n",
        select.repeat(PIPELINE as usize)
    );
    fs::write(&script, text)?;
    let output = folder.path().join("report");
    let (transactions, per_second) =
        (PER_SECOND * seconds / PIPELINE / CLIENTS, PER_SECOND / PIPELINE);
    let mut command = server.pgbench_command(
        Via::Unix,
        &[
            "-n",
            "-M",
            "prepared",
            "-c",
            &CLIENTS.to_string(),
            "-t",
            &transactions.to_string(),
            "-R",
            &per_second.to_string(),
            "-f",
            &script.display().to_string(),
        ],
    );
    command.stdin(Stdio::null()).stdout(fs::File::create(&output)?).stderr(Stdio::null());
    let cpu_before = cost::threads_us(agent.pid())?;
    let begun = Instant::now();
    let mut load = Running::start("pgbench", &mut command, Signal::SIGTERM)?;
    let mut found_s = Vec::new();
    while load.ended()?.is_none() {
        interrupt::check()?;
        let name = format!("looked_for_{}", found_s.len());
        server.psql(Via::Unix, &format!("SELECT 1 AS {name}"))?;
        let ended = Instant::now();
        loop {
            let search = ["search", &name, "--since", "1m", "--limit", "1", "--format", "json"];
            if said(&mut agent.command(&search))?.contains(&name) {
                break;
            }
            ensure!(ended.elapsed() < PATIENCE, "{name} wasn't found");
        }
        found_s.push(ended.elapsed().as_secs_f64());
        sleep(PAUSE);
    }
    let took = begun.elapsed().as_secs_f64();
    let agent_us = cost::threads_us(agent.pid())? - cpu_before;
    let statements = transactions * CLIENTS * PIPELINE;
    let kept = await_kept(&agent, statements)?;
    let status = agent.status()?;
    let drops = status["totals"]["drops"].as_object().into_iter().flatten();
    Ok(Run {
        statements,
        seconds: took,
        found_s,
        kept,
        lost: drops.filter_map(|(_, n)| n.as_u64()).sum(),
        peak_mib: cost::peak_kib(agent.pid())? as f64 / 1024.0,
        agent_us,
    })
}

/// Rows of the load that the ledger has, once all are there or patience is over.
fn await_kept(agent: &dbwarden_tests::Agent, wanted: u64) -> Result<u64> {
    let until = Instant::now() + PATIENCE;
    loop {
        let count = "SELECT count(*) AS n FROM statements WHERE application = 'pgbench' AND \
                     text LIKE 'SELECT abalance%'";
        let answer = said(&mut agent.command(&["sql", count, "--format", "json"]))?;
        let row: Value = serde_json::from_str(&answer).context("the answer of sql")?;
        let kept = row["n"].as_u64().context("a count that is no number")?;
        if kept >= wanted || Instant::now() > until {
            return Ok(kept);
        }
        sleep(PAUSE);
    }
}

fn report(plan: &Plan, run: &Run) -> Report {
    let pace = run.statements as f64 / run.seconds;
    let found = |share| quantile(run.found_s.iter().copied(), share);
    let worst = found(1.0);
    let rows = vec![vec![
        format!("{pace:.0}"),
        run.statements.to_string(),
        run.kept.to_string(),
        run.lost.to_string(),
        format!("{:.2}", median(run.found_s.iter().copied())),
        format!("{worst:.2}"),
        run.found_s.len().to_string(),
        format!("{:.2}", ratio(run.agent_us, run.statements as f64)),
        format!("{:.1}", run.peak_mib),
    ]];
    let head = [
        "statements/s",
        "sent",
        "kept",
        "lost",
        "found after, s",
        "at most",
        "looked for",
        "agent µs/stmt",
        "peak MiB",
    ];
    let title = "Searching while statements arrive (prepared, 4 clients, pipelines of 20)";
    let text = table(plan.style(), title, &head, rows);
    let wanted = PER_SECOND as f64 * PACE_KEPT;
    let targets = vec![
        Target {
            what: format!("found within {FOUND_S} s while {PER_SECOND} statements a second arrive"),
            measured: format!("{worst:.2} s at {pace:.0} a second"),
            met: worst <= FOUND_S && pace >= wanted,
        },
        Target {
            what: "each of them is kept".to_owned(),
            measured: format!("{} of {}", run.kept, run.statements),
            met: run.kept == run.statements,
        },
        Target {
            what: format!("agent memory under {MEMORY_MIB} MiB meanwhile"),
            measured: format!("{:.1} MiB", run.peak_mib),
            met: run.peak_mib < MEMORY_MIB,
        },
    ];
    Report { text, targets }
}
