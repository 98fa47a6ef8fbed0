//! What can be scraped, as Prometheus's own tool judges it.

use std::{
    io::Write,
    net::TcpListener,
    process::{Command, Output, Stdio},
};

use anyhow::{Context, Result, ensure};
use dbwarden_tests::{Agent, Postgres, Via, await_until, need_root, place, scraped};

fn promtool() -> Result<Command> {
    let ours = place::promtool()?;
    Ok(Command::new(if ours.is_file() { ours } else { "promtool".into() }))
}

/// Its verdict on a page.
fn checked(page: &str) -> Result<Output> {
    let mut child = promtool()?
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("starting promtool: cargo xtask setup")?;
    child.stdin.take().context("promtool has no input")?.write_all(page.as_bytes())?;
    Ok(child.wait_with_output()?)
}

#[test]
fn prometheus_understands_every_line() -> Result<()> {
    need_root!();
    let postgres = Postgres::builder().start()?;
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    // A receiver that is away has figures too.
    let agent = Agent::builder()
        .configuration(&format!(
            "[telemetry]\nprometheus = \"127.0.0.1:{port}\"\n\
             otlp.endpoint = \"http://127.0.0.1:1\"\nresource = {{ team = \"d\\\"b\\\\a\" }}"
        ))
        .start()?;
    agent.await_server(postgres.port())?;
    // Names that a label must escape.
    postgres.psql(Via::Unix, "CREATE TABLE \"od\\d \"\"name\"\"\nof two lines\" (a int)")?;
    postgres.psql(Via::Unix, "SELECT * FROM \"od\\d \"\"name\"\"\nof two lines\"")?;
    ensure!(postgres.psql(Via::Unix, "SELECT 1/0").is_err());
    let page = await_until("the error's figures", || {
        Ok(Some(scraped(port)?).filter(|page| page.contains("db_response_status_code=\"22012\"")))
    })?;
    for name in [
        "db_client_operation_duration_seconds_bucket",
        "dbwarden_ring_size_bytes",
        "dbwarden_export_dropped",
        "target_info",
    ] {
        ensure!(page.contains(name), "no {name}: {page}");
    }
    let verdict = checked(&page)?;
    let said = String::from_utf8_lossy(&verdict.stderr);
    let is_fine = verdict.status.success() && said.trim().is_empty();
    ensure!(is_fine, "promtool says:\n{said}\nof\n{page}");

    // It does refuse what is none.
    ensure!(!checked(&format!("{page}what? this\n"))?.status.success());
    Ok(())
}
