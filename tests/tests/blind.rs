//! TLS that nobody can look into: it is shown as such, and is not mistaken for silence.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf, process::Stdio};

use anyhow::{Context, Result, ensure};
use dbwarden_tests::{Agent, Postgres, Running, Via, await_until, need_root, said};
use nix::sys::signal::Signal;
use serde_json::Value;

/// The OpenSSL that this host's PostgreSQL uses.
fn libssl() -> Result<PathBuf> {
    let postgres = dbwarden_tests::postgres_binaries()?.join("postgres");
    let listed = said(std::process::Command::new("ldd").arg(postgres))?;
    let line = listed.lines().find(|line| line.contains("libssl"));
    let path = line.and_then(|line| line.split_whitespace().nth(2));
    path.map(PathBuf::from).context("this PostgreSQL has no libssl")
}

/// A server whose TLS code is in a file that no one knows for OpenSSL, as in one that is linked
/// statically, or against another library.
#[test]
fn a_server_with_unknown_tls_code_is_shown_as_blind() -> Result<()> {
    need_root!();
    let folder = tempfile::tempdir()?;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
    let library = libssl()?;
    let hidden = folder.path().join("built-in");
    fs::copy(&library, &hidden)?;
    let name = library.file_name().context("libssl has no name")?;
    std::os::unix::fs::symlink(&hidden, folder.path().join(name))?;
    let path = format!("LD_LIBRARY_PATH={}", folder.path().display());
    let postgres = Postgres::builder().tls().by_way_of(&["env", &path]).start()?;

    let agent = Agent::builder().start()?;
    agent.await_server(postgres.port())?;
    let watch = agent.watch()?;
    let name = format!("pg-{}", postgres.port());
    let server = || -> Result<Value> {
        let status = agent.status()?;
        let servers = status["servers"].as_array().context("status lists no servers")?;
        let one = servers.iter().find(|server| server["name"] == name.as_str());
        one.cloned().context("the server is not in the status")
    };
    let why = "blind: the server uses no OpenSSL library that can be seen";
    assert_eq!(server()?["tls"], why);

    // One that is over before anybody could be sure.
    postgres.psql(Via::Tls, "SELECT 'short'")?;
    await_until("the short connection", || {
        Ok((agent.status()?["totals"]["blind_connections"] == 1).then_some(()))
    })?;
    // One that is open.
    let mut long = postgres.psql_command(Via::Tls);
    let filler = "x".repeat(8_000);
    long.args(["-c", &format!("SELECT pg_sleep(3600) /* {filler} */")]);
    let mut long =
        Running::start("psql", long.stdout(Stdio::null()).stderr(Stdio::null()), Signal::SIGINT)?;
    await_until("the open connection", || Ok((server()?["blind_connections"] == 1).then_some(())))?;
    let table = said(&mut agent.command(&["status", "--format", "table"]))?;
    ensure!(table.contains("blind to   2 encrypted connections"), "{table}");
    ensure!(table.contains(why), "{table}");
    long.stop()?;

    // What is not encrypted is seen, and whoever watches was told of the rest.
    postgres.psql(Via::Tcp, "SELECT 'clear'")?;
    let mut n_told = 0;
    loop {
        let line =
            watch.next(std::time::Duration::from_secs(30))?.context("the watch is silent")?;
        n_told += usize::from(line["notice"] == "blind");
        if line["text"] == "SELECT 'clear'" {
            break;
        }
        ensure!(line.get("notice").is_some(), "a statement out of nowhere: {line}");
    }
    assert_eq!(n_told, 2);
    Ok(())
}

/// Where the plaintext is seen, nothing is blind, however short a connection is.
#[test]
fn a_server_that_is_observed_has_no_blind_connections() -> Result<()> {
    need_root!();
    let postgres = Postgres::builder().tls().start()?;
    let agent = Agent::builder().start()?;
    agent.await_server(postgres.port())?;
    let watch = agent.watch()?;
    postgres.psql(Via::Tls, "SELECT 'seen'")?;
    watch.statements(1, |record| record["text"] == "SELECT 'seen'")?;
    await_until("the connection's end", || {
        Ok((agent.status()?["totals"]["connections_open"] == 0).then_some(()))
    })?;
    assert_eq!(agent.status()?["totals"]["blind_connections"], 0);
    Ok(())
}
