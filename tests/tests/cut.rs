//! Connections that a rule ends: exactly those, by whatever way they came, and nobody else's.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Output, Stdio},
};

use anyhow::{Context, Result, ensure};
use dbwarden_tests::{
    Agent, Cgroup, PgBouncer, Postgres, Session, Via, await_until, need_root, said, sender::placed,
};
use serde_json::Value;

/// The statement that ends its connection is one that nobody else of these tests sends.
const CUT: &str = r#"@id("no-kites") @verdict("cut") @message("kites are cut")
    forbid (principal, action == Action::"insert", resource is Table)
    when { resource.name == "kites" };"#;

/// No login.
const UNSET: &str = "4294967295";

/// An agent with these policies, and more of its configuration.
fn agent(policies: &Path, policy: &str, more: &str) -> Result<Agent> {
    fs::write(policies.join("own.cedar"), policy)?;
    Agent::builder()
        .configuration(&format!("[policy]\ndirectory = \"{}\"\n{more}", policies.display()))
        .start()
}

/// Sends `text`, and then waits to be cut off, for as long as it takes to find a hang.
fn offend(postgres: &Postgres, via: Via, text: &str) -> Result<Output> {
    let mut psql = postgres.psql_command(via);
    psql.args(["-v", "ON_ERROR_STOP=0", "-c", text, "-c", "SELECT pg_sleep(60)"]);
    Ok(psql.output()?)
}

fn ensure_cut(output: &Output) -> Result<()> {
    let words = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success() && words.contains("connection"), "not cut off: {output:?}");
    Ok(())
}

fn load(postgres: &Postgres, via: Via, transactions: u32) -> Result<Child> {
    let n = transactions.to_string();
    let mut pgbench = postgres.pgbench_command(via, &["-n", "-S", "-c", "4", "-t", &n]);
    Ok(pgbench.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?)
}

/// By TCP, TLS and unix, while others work: on both sets of hooks.
#[test]
fn only_the_offender_is_cut_off() -> Result<()> {
    need_root!();
    const TRANSACTIONS: u32 = 2_000;
    let mut postgres = Postgres::builder().tls().preload("pg_stat_statements").start()?;
    postgres.psql(Via::Unix, "CREATE EXTENSION pg_stat_statements; CREATE TABLE kites (a int)")?;
    postgres.pgbench(Via::Unix, &["-i", "-q"])?;
    let postmaster = postgres.pid()?;
    let policies = tempfile::tempdir()?;
    let mut kites = 0;
    for hooks in ["auto", "syscalls"] {
        let more = format!("[capture]\nhooks = \"{hooks}\"\n[enforce]\nquarantine = \"0s\"\n");
        let agent = agent(policies.path(), CUT, &more)?;
        agent.await_server(postgres.port())?;
        let mut bystander = Session::start(&mut {
            let mut psql = postgres.program("psql");
            psql.args(["-XAtq", "-d", &postgres.conninfo(Via::Tcp)]);
            psql
        })?;
        let backend = bystander.ask("SELECT pg_backend_pid()")?;
        for via in [Via::Tcp, Via::Tls, Via::Unix] {
            let others = [Via::Unix, Via::Tcp, Via::Tls];
            let others: Vec<Child> = others
                .map(|via| load(&postgres, via, TRANSACTIONS))
                .into_iter()
                .collect::<Result<_>>()?;
            ensure_cut(&offend(&postgres, via, "INSERT INTO kites VALUES (1)")?)?;
            kites += 1;
            for other in others {
                let output = other.wait_with_output()?;
                let words = String::from_utf8_lossy(&output.stdout);
                let all = format!("processed: {0}/{0}", 4 * TRANSACTIONS);
                ensure!(output.status.success() && words.contains(&all), "{via:?}: {output:?}");
            }
            // What had been executed when it was seen is not undone, and the row says that it may be so.
            let there = postgres.psql(Via::Unix, "SELECT count(*) FROM kites")?;
            ensure!(there.trim() == kites.to_string(), "{there} kites, not {kites}");
        }
        ensure!(bystander.ask("SELECT pg_backend_pid()")? == backend, "the bystander was cut off");
        let cut =
            "SELECT message, transport, connection FROM rows WHERE action = 'cut' ORDER BY time";
        let cut = agent.await_rows(3, cut)?;
        let of = |row: &Value, name: &str| row[name].as_str().unwrap_or_default().to_owned();
        let transports: Vec<String> = cut.iter().map(|row| of(row, "transport")).collect();
        ensure!(transports == ["tcp", "tls", "unix"], "{cut:#?}");
        for row in &cut {
            let message = of(row, "message");
            ensure!(
                message == "ended by rule no-kites; statement 1 may have committed",
                "{message}"
            );
            let judged = format!(
                "SELECT verdict, rule FROM statements WHERE connection = '{}' AND sequence = 1",
                of(row, "connection")
            );
            let judged = agent.await_rows(1, &judged)?;
            ensure!(judged[0]["verdict"] == "cut" && judged[0]["rule"] == "no-kites", "{judged:?}");
        }
        agent.await_rows(0, "SELECT message FROM rows WHERE action = 'cut_failed'")?;
    }
    ensure!(postgres.pid()? == postmaster, "the server was started again");
    let seen = "SELECT calls FROM pg_stat_statements WHERE query LIKE 'SELECT abalance FROM%'";
    let calls = postgres.psql(Via::Unix, seen)?;
    ensure!(calls.trim() == (2 * 3 * 3 * 4 * TRANSACTIONS).to_string(), "{calls} calls");
    postgres.stop()?;
    for line in postgres.log()? {
        let words = line.to_string();
        ensure!(!words.contains("terminated by") && !words.contains("crash"), "{words}");
    }
    Ok(())
}

/// Behind a pooler, it is the offender's connection to the pooler that ends: the one to the server is
/// everybody's.
#[test]
fn only_the_offender_behind_a_pooler_is_cut_off() -> Result<()> {
    need_root!();
    const TRANSACTIONS: u32 = 1_000;
    let postgres = Postgres::builder().start()?;
    postgres.psql(Via::Unix, "CREATE TABLE kites (a int)")?;
    postgres.pgbench(Via::Unix, &["-i", "-q"])?;
    let postmaster = postgres.pid()?;
    let pooler = PgBouncer::builder()
        .setting("pool_mode", "transaction")
        .setting("default_pool_size", "1")
        .start(&postgres)?;
    let policies = tempfile::tempdir()?;
    let agent = agent(policies.path(), CUT, "[enforce]\nquarantine = \"0s\"\n")?;
    agent.await_server(postgres.port())?;
    agent.await_server(pooler.port())?;
    let session = |via| {
        let mut psql = postgres.program("psql");
        Session::start(psql.args(["-XAtq", "-d", &pooler.conninfo(via)]))
    };
    let (mut by_tcp, mut by_unix) = (session(Via::Tcp)?, session(Via::Unix)?);
    // All of them share it.
    let backend = by_tcp.ask("SELECT pg_backend_pid()")?;
    ensure!(by_unix.ask("SELECT pg_backend_pid()")? == backend);
    for (n, via) in [(1, Via::Tcp), (2, Via::Unix)] {
        let mut pgbench = postgres.program("pgbench");
        pgbench.args(["-n", "-S", "-c", "4", "-t", &TRANSACTIONS.to_string()]);
        pgbench.arg(pooler.conninfo(Via::Tcp)).stdout(Stdio::piped()).stderr(Stdio::piped());
        let others = pgbench.spawn()?;
        let mut offender = session(via)?;
        offender.ask("INSERT INTO kites VALUES (1)")?;
        let cut = "SELECT message, pid, pooler FROM rows WHERE action = 'cut' ORDER BY time";
        let cut = agent.await_rows(n, cut)?.pop().context("no row")?;
        ensure!(cut["pid"] == offender.pid() && cut["pooler"] == pooler.name(), "{via:?}: {cut}");
        let message = cut["message"].as_str().unwrap_or_default();
        ensure!(message.starts_with("ended by rule no-kites; "), "{message}");
        // Not before: a client that leaves in the middle of a statement takes the pooled connection with it.
        ensure!(offender.ask("SELECT 1").is_err(), "{via:?}: not cut off");
        let output = others.wait_with_output()?;
        let words = String::from_utf8_lossy(&output.stdout);
        let all = format!("processed: {0}/{0}", 4 * TRANSACTIONS);
        ensure!(output.status.success() && words.contains(&all), "{via:?}: {output:?}");
    }
    agent.await_rows(0, "SELECT message FROM rows WHERE action = 'cut_failed'")?;
    for bystander in [&mut by_tcp, &mut by_unix] {
        ensure!(bystander.ask("SELECT pg_backend_pid()")? == backend, "the pool was cut off");
    }
    let [server, pooler] =
        [postmaster, pooler.pid()].map(|pid| Path::new("/proc").join(pid.to_string()));
    ensure!(server.exists() && pooler.exists() && postgres.pid()? == postmaster);
    Ok(())
}

/// The server's namespace has addresses and ports of its own.
#[test]
fn a_server_in_a_network_of_its_own() -> Result<()> {
    need_root!();
    let policies = tempfile::tempdir()?;
    let agent = agent(policies.path(), CUT, "[enforce]\nquarantine = \"0s\"\n")?;
    let up = "ip link set lo up && exec \"$@\"";
    let inside =
        Postgres::builder().by_way_of(&["unshare", "--net", "sh", "-ec", up, "sh"]).start()?;
    agent.await_server(inside.port())?;
    inside.psql(Via::Unix, "CREATE TABLE kites (a int)")?;
    let mut client = Command::new("nsenter");
    client.args(["--target", &inside.pid()?.to_string(), "--net"]);
    client.arg(inside.program("psql").get_program()).args(["-XAtq", "-d"]);
    client.arg(inside.conninfo(Via::Tcp));
    client.args(["-c", "INSERT INTO kites VALUES (1)", "-c", "SELECT pg_sleep(60)"]);
    ensure_cut(&client.output()?)?;
    agent.await_rows(1, "SELECT time FROM rows WHERE action = 'cut' AND transport = 'tcp'")?;
    Ok(())
}

/// A statement that failed can't have committed; a rule that only tries itself out ends nothing; and
/// where a rule ends too much, the brake does.
#[test]
fn failures_dry_runs_and_the_brake() -> Result<()> {
    need_root!();
    let postgres = Postgres::builder().start()?;
    postgres.psql(Via::Unix, "CREATE TABLE kites (a int); CREATE TABLE doves (a int)")?;
    let policies = tempfile::tempdir()?;
    let dry = r#"@id("no-doves") @verdict("cut") @mode("dry-run") @message("m")
        forbid (principal, action == Action::"insert", resource is Table)
        when { resource.name == "doves" };"#;
    let more = "[enforce]\nquarantine = \"0s\"\ncuts_per_minute = 2\n";
    let agent = agent(policies.path(), &format!("{CUT}\n{dry}"), more)?;
    agent.await_server(postgres.port())?;

    postgres.psql(Via::Tcp, "INSERT INTO doves VALUES (1)")?;
    let failing = "INSERT INTO kites VALUES (1 / 0)";
    ensure_cut(&offend(&postgres, Via::Tcp, failing)?)?;
    let row = "SELECT message FROM rows WHERE action = 'cut'";
    let message = agent.await_rows(1, row)?.pop().context("no row")?;
    ensure!(message["message"] == "ended by rule no-kites; statement 1 has failed", "{message}");

    ensure_cut(&offend(&postgres, Via::Unix, "INSERT INTO kites VALUES (2)")?)?;
    // The third of this minute goes on.
    let text = "INSERT INTO kites VALUES (3)";
    postgres.psql(Via::Unix, text)?;
    await_until("the brake", || Ok(agent.log().contains("is a rule wrong?").then_some(())))?;
    let cut = "SELECT verdict FROM statements WHERE verdict = 'cut'";
    agent.await_rows(3, cut)?;
    agent.await_rows(2, row)?;
    ensure!(agent.rows("SELECT rule FROM findings WHERE rule = 'no-doves'")?.len() == 1);
    Ok(())
}

/// Whoever was cut off doesn't come back until the time is over or somebody lets it; others don't notice.
#[test]
fn quarantine_holds_one_and_outlives_the_service() -> Result<()> {
    need_root!();
    let postgres = Postgres::builder().start()?;
    postgres.psql(Via::Unix, "CREATE TABLE kites (a int)")?;
    let policies = tempfile::tempdir()?;
    let mut agent = agent(policies.path(), CUT, "[enforce]\nquarantine = \"1h\"\n")?;
    agent.await_server(postgres.port())?;
    let unit = format!("dbwarden-cut-{}", std::process::id());
    let [bad, good] =
        ["bad", "good"].map(|name| Cgroup::create(&format!("system.slice/{unit}-{name}.service")));
    let (bad, good) = (bad?, good?);
    let client = |group: &Cgroup, texts: &[&str]| -> Result<Output> {
        let mut psql = postgres.psql_command(Via::Tcp);
        psql.args(texts.iter().flat_map(|text| ["-c", *text]));
        Ok(placed(Some(group), UNSET, &psql).output()?)
    };
    let quarantine = |agent: &Agent, arguments: &[&str]| -> Result<Vec<Value>> {
        let arguments = [&["quarantine", "--format", "json"], arguments].concat();
        let text = said(&mut agent.command(&arguments))?;
        text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    };
    ensure_cut(&client(&bad, &["INSERT INTO kites VALUES (1)", "SELECT pg_sleep(60)"])?)?;
    let detained = await_until("quarantine", || {
        Ok(Some(quarantine(&agent, &["list"])?).filter(|found| found.len() == 1))
    })?;
    ensure!(detained[0]["principal"] == format!("{unit}-bad"), "{detained:?}");
    ensure!(detained[0]["principal_kind"] == "service", "{detained:?}");

    // Its next connection ends as soon as it has begun, also after a restart of the service.
    ensure_cut(&client(&bad, &["SELECT pg_sleep(60)"])?)?;
    agent.stop()?;
    agent.start_again()?;
    agent.await_server(postgres.port())?;
    ensure_cut(&client(&bad, &["SELECT pg_sleep(60)"])?)?;
    let by = "SELECT message FROM rows WHERE action = 'cut' AND message LIKE 'ended by quarantine 1: rule no-kites'";
    agent.await_rows(2, by)?;
    let output = client(&good, &["SELECT pg_sleep(0.2)"])?;
    ensure!(output.status.success(), "{output:?}");

    quarantine(&agent, &["release", "1"])?;
    let output = client(&bad, &["SELECT pg_sleep(0.2)"])?;
    ensure!(output.status.success(), "{output:?}");
    let again = agent.command(&["quarantine", "release", "1"]).output()?;
    ensure!(again.status.code() == Some(3) || again.status.code() == Some(1), "{again:?}");

    // By hand, for a second: its end is told.
    let name = format!("{unit}-good");
    let add =
        ["add", "--principal", &name, "--kind", "service", "--for", "1s", "--reason", "trial"];
    ensure!(quarantine(&agent, &add)?[0]["number"] == 2);
    let told = |action: &str, words: &str| {
        let query =
            format!("SELECT time FROM rows WHERE action = '{action}' AND message LIKE '%{words}%'");
        agent.await_rows(1, &query)
    };
    told("quarantined", "by policy: rule no-kites")?;
    told("quarantined", "by uid 0: trial")?;
    told("released", "let out of quarantine by uid 0")?;
    told("released", "is over")?;
    let output = client(&good, &["SELECT pg_sleep(0.2)"])?;
    ensure!(output.status.success(), "{output:?}");
    ensure!(quarantine(&agent, &["list"])?.is_empty());
    Ok(())
}
