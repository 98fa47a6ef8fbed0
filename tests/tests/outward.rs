//! Where data goes out: connections that a database's own processes open, and places of single databases.

use std::fs;

use anyhow::{Result, ensure};
use dbwarden_tests::{Agent, Cgroup, Postgres, Via, await_until, need_root, said, sender::placed};
use serde_json::Value;

const DESTINATIONS: &str = "SELECT * FROM rows WHERE record = 'destination' AND action = 'began' \
     ORDER BY time";
/// Every address is in a region of its own, but for the host's sockets.
const REGIONS: &str = "[host]\nregion = \"eu-central-1\"\n\
     [[region]]\nname = \"us-east-1\"\nnetworks = [\"127.0.0.0/8\"]\n\
     [[label]]\nname = \"residency:eu\"\non = [\"secret.*.*.*\"]\n";
/// No login.
const UNSET: &str = "4294967295";

/// Sends these, as a service of this name.
fn send(from: &Postgres, service: &Cgroup, database: &str, texts: &[&str]) -> Result<()> {
    let mut psql = from.program("psql");
    psql.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-d"]);
    psql.arg(from.conninfo_as(Via::Unix, "postgres", database));
    psql.args(texts.iter().flat_map(|text| ["-c", *text]));
    said(&mut placed(Some(service), UNSET, &psql))?;
    Ok(())
}

/// The name that a service has here, and the group that makes it one.
fn service(name: &str) -> Result<(String, Cgroup)> {
    let name = format!("dbwarden-out-{}-{name}", std::process::id());
    let group = Cgroup::create(&format!("system.slice/{name}.service"))?;
    Ok((name, group))
}

fn dblink(to: &Postgres, via: Via) -> String {
    let there = to.conninfo(via).replace('\'', "''");
    format!("SELECT * FROM dblink('{there}', 'SELECT 1') AS t (n int)")
}

/// Connects to the server by a program that the database starts.
fn program(to: &Postgres) -> String {
    let connect = format!("bash -c \"exec 3<>/dev/tcp/127.0.0.1/{}\"", to.port());
    format!("COPY (SELECT 1) TO PROGRAM '{connect}'")
}

fn foreign(to: &Postgres) -> [String; 4] {
    [
        "CREATE EXTENSION postgres_fdw".to_owned(),
        format!(
            "CREATE SERVER there FOREIGN DATA WRAPPER postgres_fdw \
             OPTIONS (host '127.0.0.1', port '{}', dbname 'postgres')",
            to.port()
        ),
        "CREATE USER MAPPING FOR postgres SERVER there OPTIONS (user 'postgres')".to_owned(),
        "CREATE FOREIGN TABLE far (n int) SERVER there OPTIONS (table_name 'near')".to_owned(),
    ]
}

/// Two servers, and an agent that watches both.
fn three(hooks: &str, more: &str) -> Result<(Postgres, Postgres, Agent)> {
    let from = Postgres::builder().start()?;
    let to = Postgres::builder().setting("wal_level", "logical").start()?;
    for database in ["plain", "secret"] {
        from.psql(Via::Unix, &format!("CREATE DATABASE {database}"))?;
        let mut psql = from.program("psql");
        psql.args(["-XAtq", "-c", "CREATE EXTENSION dblink", "-d"]);
        said(psql.arg(from.conninfo_as(Via::Unix, "postgres", database)))?;
    }
    to.psql(Via::Unix, "CREATE TABLE near (n int)")?;
    let agent = Agent::builder()
        .configuration(&format!("{REGIONS}[capture]\nhooks = \"{hooks}\"\n{more}"))
        .start()?;
    agent.await_server(from.port())?;
    agent.await_server(to.port())?;
    Ok((from, to, agent))
}

fn is(row: &Value, expected: &[(&str, Value)]) -> bool {
    expected.iter().all(|(name, value)| row[*name] == *value)
}

/// By dblink over TCP and a unix socket, a foreign data wrapper, a program: each is a row with where it
/// leads, of whom the database works for.
fn reaches(hooks: &str) -> Result<()> {
    let (from, to, agent) = three(hooks, "")?;
    let (name, group) = service("reach")?;
    // A client's own connection is none of the database's.
    to.psql(Via::Tcp, "SELECT 1")?;
    send(&from, &group, "plain", &[&dblink(&to, Via::Tcp)])?;
    send(&from, &group, "plain", &[&dblink(&to, Via::Unix)])?;
    let foreign = foreign(&to);
    let mut texts: Vec<&str> = foreign.iter().map(String::as_str).collect();
    texts.push("SELECT * FROM far");
    // Another database: it is no part of the first burst.
    send(&from, &group, "secret", &texts)?;
    send(&from, &group, "plain", &[&program(&to)])?;
    let psql = from.program("psql").get_program().display().to_string();
    let there = to.conninfo(Via::Unix);
    let by_psql =
        format!("COPY (SELECT 1) TO PROGRAM '{psql} -XAtq -d \"{there}\" -c \"SELECT 1\"'");
    send(&from, &group, "plain", &[&by_psql])?;

    let rows = agent.await_rows(5, DESTINATIONS)?;
    let path = to.socket_dir().join(format!(".s.PGSQL.{}", to.port())).display().to_string();
    let (tcp, unix) =
        ((Value::from("127.0.0.1"), Value::from(to.port())), (path.into(), Value::Null));
    let [us, eu] = ["us-east-1", "eu-central-1"];
    for (row, (database, (address, port), region, by_server, exe)) in rows.iter().zip([
        ("plain", tcp.clone(), us, true, "/postgres"),
        ("plain", unix.clone(), eu, true, "/postgres"),
        ("secret", tcp.clone(), us, true, "/postgres"),
        ("plain", tcp, us, false, "/bash"),
        ("plain", unix, eu, false, "/psql"),
    ]) {
        let expected = [
            ("server", from.name().into()),
            ("database", database.into()),
            ("db_user", "postgres".into()),
            ("principal", name.as_str().into()),
            ("principal_kind", "service".into()),
            ("destination_address", address),
            ("destination_port", port),
            ("destination_region", region.into()),
            ("destination_server", to.name().into()),
            ("destination_by_server", by_server.into()),
        ];
        let program = row["destination_program"].as_str().unwrap_or_default();
        ensure!(is(row, &expected) && program.ends_with(exe), "{hooks}: {expected:?}: {row:#}");
        let message = row["message"].as_str().unwrap_or_default();
        ensure!(message.contains(" connects to ") && row["destination_pid"].is_u64(), "{row:#}");
    }
    Ok(())
}

#[test]
fn what_a_database_connects_to_is_a_row_of_whom_it_works_for() -> Result<()> {
    need_root!();
    for hooks in ["auto", "syscalls"] {
        reaches(hooks)?;
    }
    Ok(())
}

/// What leaves the region of its data, and programs, are findings; a `permit` is an exception.
#[test]
fn what_a_database_connects_to_is_judged() -> Result<()> {
    need_root!();
    let policies = tempfile::tempdir()?;
    let policy = r#"@id("python-may") @silences("builtin:program-connects-out") @message("m")
        permit (principal, action == Action::"connect-out", resource)
        when { context has program && context.program like "*/python3*" };"#;
    fs::write(policies.path().join("own.cedar"), policy)?;
    let more = format!("[policy]\ndirectory = \"{}\"\n", policies.path().display());
    let (from, to, agent) = three("auto", &more)?;
    let (name, group) = service("judged")?;
    let python = format!(
        "COPY (SELECT 1) TO PROGRAM 'python3 -c \"import socket; \
         socket.create_connection((chr(49)+chr(50)+chr(55)+chr(46)+chr(49), {}))\"'",
        to.port()
    );
    send(&from, &group, "plain", &[&python])?;
    send(&from, &group, "plain", &[&dblink(&to, Via::Tcp)])?;
    send(&from, &group, "plain", &[&program(&to)])?;
    // Within the region, and out of it.
    send(&from, &group, "secret", &[&dblink(&to, Via::Unix)])?;
    send(&from, &group, "secret", &[&dblink(&to, Via::Tcp), &dblink(&to, Via::Tcp)])?;

    let rows = agent.await_rows(5, DESTINATIONS)?;
    let verdicts: Vec<(&str, &str)> = rows
        .iter()
        .map(|row| [&row["verdict"], &row["rule"]].map(|value| value.as_str().unwrap_or_default()))
        .map(|[verdict, rule]| (verdict, rule))
        .collect();
    let program = ("flag", "builtin:program-connects-out");
    let residency = ("flag", "builtin:residency-out");
    ensure!(
        verdicts == [("allow", ""), ("allow", ""), program, ("allow", ""), residency],
        "{rows:#?}"
    );
    let found = "SELECT * FROM findings WHERE destination_address IS NOT NULL AND action = 'began' \
                 ORDER BY time";
    let found = agent.await_rows(2, found)?;
    for (row, (_, rule), severity, database) in
        [(&found[0], program, "high", "plain"), (&found[1], residency, "high", "secret")]
    {
        let expected = [
            ("rule", rule.into()),
            ("severity", severity.into()),
            ("database", database.into()),
            ("principal", name.as_str().into()),
            ("destination_address", "127.0.0.1".into()),
            ("destination_port", to.port().into()),
        ];
        ensure!(is(row, &expected), "{expected:?}: {row:#}");
    }
    Ok(())
}

/// A subscription's own processes work for no client: of them the server is known, and what is in it.
#[test]
fn a_subscription_is_judged_for_its_server() -> Result<()> {
    need_root!();
    let (from, to, agent) = three("auto", "")?;
    to.psql(Via::Unix, "CREATE PUBLICATION news FOR TABLE near")?;
    from.psql(Via::Unix, "CREATE TABLE near (n int)")?;
    let there = to.conninfo(Via::Tcp).replace('\'', "''");
    from.psql(
        Via::Unix,
        &format!("CREATE SUBSCRIPTION reader CONNECTION '{there}' PUBLICATION news"),
    )?;
    to.psql(Via::Unix, "INSERT INTO near VALUES (7)")?;
    await_until("the row", || {
        Ok((from.psql(Via::Unix, "SELECT n FROM near")?.trim() == "7").then_some(()))
    })?;
    let of_worker = "SELECT * FROM rows WHERE record = 'destination' AND action = 'began' \
                     AND db_user IS NULL";
    let row = agent.await_rows(1, of_worker)?.remove(0);
    let expected = [
        ("server", from.name().into()),
        ("database", Value::Null),
        ("destination_server", to.name().into()),
        ("destination_by_server", true.into()),
        // Nobody knows which database it works for: `secret`, perhaps.
        ("rule", "builtin:residency-out".into()),
    ];
    ensure!(is(&row, &expected), "{row:#}");
    // Whoever made it connected too.
    let of_client = "SELECT * FROM rows WHERE record = 'destination' AND action = 'began' \
                     AND db_user IS NOT NULL";
    let row = agent.await_rows(1, of_client)?.remove(0);
    ensure!(is(&row, &[("database", "postgres".into()), ("verdict", "allow".into())]), "{row:#}");
    from.psql(Via::Unix, "DROP SUBSCRIPTION reader")?;
    Ok(())
}

/// The client for which a database connects to somewhere can be cut off; where there is none, it is flagged.
#[test]
fn a_client_is_cut_off_for_what_the_database_connects_to() -> Result<()> {
    need_root!();
    let policies = tempfile::tempdir()?;
    let policy = r#"@id("no-way-out") @verdict("cut") @message("m")
        forbid (principal, action == Action::"connect-out", resource)
        when { context has address };"#;
    fs::write(policies.path().join("own.cedar"), policy)?;
    let more = format!(
        "[policy]\ndirectory = \"{}\"\n[enforce]\nquarantine = \"0s\"\n",
        policies.path().display()
    );
    let (from, to, agent) = three("auto", &more)?;
    let (_, group) = service("cut")?;
    send(&from, &group, "plain", &[&dblink(&to, Via::Unix), "SELECT pg_sleep(0.2)"])?;
    let sent = send(&from, &group, "plain", &[&dblink(&to, Via::Tcp), "SELECT pg_sleep(60)"]);
    ensure!(sent.is_err(), "it was not cut off");
    let row = agent.await_rows(1, "SELECT message FROM rows WHERE action = 'cut'")?.remove(0);
    let message = row["message"].as_str().unwrap_or_default();
    let words = format!("the database connected to 127.0.0.1 port {}", to.port());
    ensure!(message.contains("by rule no-way-out") && message.contains(&words), "{message}");
    let judged = "SELECT verdict FROM rows WHERE record = 'destination' AND rule = 'no-way-out'";
    ensure!(agent.await_rows(1, judged)?[0]["verdict"] == "cut");
    ensure!(from.psql(Via::Unix, "SELECT 1")?.trim() == "1");
    Ok(())
}

#[test]
fn a_database_may_be_in_another_environment_than_its_server() -> Result<()> {
    need_root!();
    for (server, database, expected) in [("staging", "production", 1), ("production", "staging", 0)]
    {
        let postgres = Postgres::builder().start()?;
        let agent = Agent::builder()
            .configuration(&format!(
                "[[server]]\nname = \"main\"\nport = {}\nenvironment = \"{server}\"\n\
                 [[server.database]]\nname = \"postgres\"\nenvironment = \"{database}\"",
                postgres.port()
            ))
            .start()?;
        agent.await_server(postgres.port())?;
        postgres.psql(Via::Unix, "CREATE TABLE gone (n int)")?;
        postgres.psql(Via::Unix, "DROP TABLE gone")?;
        let dropped = "SELECT environment FROM statements WHERE text = 'DROP TABLE gone'";
        let rows = agent.await_rows(1, dropped)?;
        ensure!(rows[0]["environment"] == database, "{rows:?}");
        let found = "SELECT time FROM findings WHERE rule = 'builtin:drop-in-production'";
        agent.await_rows(expected, found)?;
    }
    Ok(())
}
