//! At full rate: the counts of PostgreSQL and of dbwarden are equal.

use anyhow::{Context, Result};
use dbwarden_tests::{Agent, Postgres, Via, await_until, need_root};
use serde_json::Value;

/// Statements that PostgreSQL itself counted, and their rows.
fn counted(postgres: &Postgres) -> Result<(u64, u64)> {
    let sums = "SELECT sum(calls), sum(rows) FROM pg_stat_statements \
                WHERE query NOT LIKE '%pg_stat_statements%'";
    let line = postgres.psql(Via::Unix, sums)?;
    let (calls, rows) = line.split_once('|').context("two columns")?;
    Ok((calls.parse()?, rows.parse()?))
}

/// Statements that dbwarden counted on this server.
fn statements(agent: &Agent, postgres: &Postgres) -> Result<u64> {
    let status = agent.status()?;
    let ending = format!(":{}", postgres.port());
    let servers = status["servers"].as_array().context("no servers")?;
    let ours = servers.iter().find(|server| {
        let listens = server["listens"].as_array().into_iter().flatten();
        listens.filter_map(Value::as_str).any(|at| at.ends_with(&ending))
    });
    ours.and_then(|server| server["statements"].as_u64()).context("the server is not found")
}

/// A watcher can't follow this rate and needn't: the counts of both sides must be equal.
#[test]
fn pgbench_at_full_rate_is_counted_to_the_last_statement() -> Result<()> {
    need_root!();
    let postgres = Postgres::builder().preload("pg_stat_statements").max_connections(40).start()?;
    postgres.psql(Via::Unix, "CREATE EXTENSION pg_stat_statements")?;
    postgres.pgbench(Via::Unix, &["-i", "-q"])?;
    // What is captured is counted here. Whether an unoptimised recorder keeps up with it is another question.
    let agent = Agent::builder().ledger("enabled = false").start()?;
    agent.await_server(postgres.port())?;
    for mode in ["simple", "extended", "prepared"] {
        for clients in ["1", "4", "16"] {
            let before = statements(&agent, &postgres)?;
            let reset = "SELECT 1 FROM pg_stat_statements_reset()";
            postgres.psql(Via::Unix, reset)?;
            await_until("the reset", || {
                Ok((statements(&agent, &postgres)? > before).then_some(()))
            })?;
            postgres.pgbench(Via::Tcp, &["-n", "-S", "-M", mode, "-c", clients, "-T", "4"])?;
            let (calls, _) = counted(&postgres)?;
            // The reset, the clients' statements, and the question just now.
            let expected = before + 1 + calls + 1;
            await_until(&format!("statement {expected}"), || {
                Ok((statements(&agent, &postgres)? >= expected).then_some(()))
            })?;
            let status = agent.status()?;
            println!("{mode}, {clients} clients: {calls} statements");
            assert_eq!(status["totals"]["drops"], serde_json::json!({}), "{mode}, {clients}");
            assert_eq!(statements(&agent, &postgres)?, expected, "{mode}, {clients}");
        }
    }
    Ok(())
}
