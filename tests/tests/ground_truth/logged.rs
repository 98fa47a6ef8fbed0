//! Statement by statement: what PostgreSQL logs is what dbwarden reports.

use anyhow::Result;
use dbwarden_tests::{Agent, Postgres, Via, Watch, need_root, said};
use serde_json::Value;

use crate::{
    agreement::{check_plain_facts, check_rows, compare},
    clients::{self, WAYS},
    conversations::{logged, reported, text},
};

/// All that the watcher has of this server. Its clients have left: what only the end of a connection
/// ends is told, at the latest, between the first last statement and the second.
fn collect(watch: &Watch, postgres: &Postgres) -> Result<Vec<Value>> {
    let ours = |record: &Value| postgres.owns(record);
    let mut records = Vec::new();
    for last in ["SELECT 'the last'", "SELECT 'the very last'"] {
        postgres.psql(Via::Unix, last)?;
        let more = watch.until(ours, |record| ours(record) && text(record) == last)?;
        records.extend(more.into_iter().filter(|record| text(record) != last));
    }
    Ok(records)
}

const UNLOGGED: [(&str, usize); 2] = [("unlogged: behind", 2 * WAYS.len()), ("unlogged: empty", 2)];

#[test]
fn what_postgres_logs_is_what_dbwarden_reports() -> Result<()> {
    need_root!();
    let mut postgres = Postgres::builder()
        .tls()
        .log_statements()
        .setting("log_duration", "on")
        .preload("pg_stat_statements")
        .start()?;
    postgres.psql(Via::Unix, "CREATE ROLE ada LOGIN")?;
    postgres.psql(Via::Unix, "CREATE DATABASE books OWNER ada")?;
    postgres.psql(Via::Unix, "CREATE EXTENSION pg_stat_statements")?;
    postgres.pgbench(Via::Unix, &["-i", "-q"])?;
    let before = postgres.log()?.len();
    let agent = Agent::builder().start()?;
    agent.await_server(postgres.port())?;
    let watch = agent.watch()?;
    let folder = tempfile::tempdir()?;

    clients::psql(&postgres, folder.path())?;
    clients::psycopg(&postgres)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for (via, way) in [(Via::Unix, "unix"), (Via::Tcp, "tcp")] {
        runtime.block_on(clients::tokio_postgres(&postgres.conninfo(via), way))?;
    }
    // At a rate at which every line of the watcher's can be compared; the full rate has its own test.
    for (mode, (via, way)) in ["simple", "extended", "prepared"].into_iter().zip(&WAYS[1..]) {
        let mut pgbench =
            postgres.pgbench_command(*via, &["-n", "-M", mode, "-c", "4", "-R", "100", "-T", "3"]);
        said(pgbench.env("PGAPPNAME", format!("pgbench-{mode}-{way}")))?;
    }

    let log = logged(&postgres.log()?.split_off(before));
    let n_logged: usize = log.values().flatten().map(Vec::len).sum();
    let records = collect(&watch, &postgres)?;
    let n = compare(&log, &reported(&records))?;
    assert_eq!(n, n_logged);
    let status = agent.status()?;
    assert_eq!(status["totals"]["drops"], serde_json::json!({}));
    assert_eq!(status["agent"]["watch_missed"], 0);

    let mut n_rows_checked = 0;
    for record in &records {
        check_plain_facts(record, &postgres)?;
        n_rows_checked += usize::from(check_rows(record)?);
    }
    for (what, n) in UNLOGGED {
        let found: Vec<&Value> = records.iter().filter(|r| text(r).contains(what)).collect();
        assert_eq!(found.len(), n, "{what}");
        let not_run = |record: &&Value| record["error_message"].is_string();
        assert_eq!(found.iter().all(not_run), what.contains("behind"), "{what}");
    }
    println!("{n} statements as logged, {n_rows_checked} with the rows that their texts tell");
    Ok(())
}
