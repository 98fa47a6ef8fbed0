//! What was seen is kept: found at once, free of literals, whole after a kill, and proven.

use std::{
    fs,
    io::Read,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use dbwarden_tests::{Agent, Postgres, Running, Session, Via, await_until, need_root, said};
use nix::sys::signal::Signal;
use serde_json::Value;

/// The promise: so soon after its end a statement can be found.
const FOUND_WITHIN: Duration = Duration::from_secs(2);
const LITERAL: &str = "Wiedikon-4711";
const PASSWORD: &str = "open-sesame-0815";

/// Rows of a query, asked of the service or, where it doesn't run, of its folder.
fn rows(agent: &Agent, offline: bool, query: &str) -> Result<Vec<Value>> {
    let mut command = agent.command(&["sql", "--format", "json", query]);
    if offline {
        command.arg("--ledger").arg(agent.ledger());
    }
    let text = said(&mut command)?;
    text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

fn count(agent: &Agent, offline: bool, condition: &str) -> Result<u64> {
    let query = format!("SELECT count(*) AS n FROM statements WHERE {condition}");
    let rows = rows(agent, offline, &query)?;
    rows.first().and_then(|row| row["n"].as_u64()).context("no count")
}

/// `dbwarden verify` of the agent's ledger: whether it is whole, and what it said.
fn verify(agent: &Agent) -> Result<(bool, String)> {
    let mut command = agent.command(&["verify", "--ledger"]);
    command.arg(agent.ledger()).arg("--keys").arg(agent.ledger().with_file_name("keys"));
    let output = command.stdin(Stdio::null()).output()?;
    let words = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    Ok((output.status.success(), words))
}

/// Whether any file below `folder` has these bytes in it.
fn holds(folder: &Path, bytes: &[u8]) -> Result<bool> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let found = if path.is_dir() {
            holds(&path, bytes)?
        } else {
            let mut content = Vec::new();
            fs::File::open(&path)?.read_to_end(&mut content)?;
            content.windows(bytes.len()).any(|window| window == bytes)
        };
        if found {
            return Ok(true);
        }
    }
    Ok(false)
}

const SCRIPT: &str = "
    CREATE TABLE patients (id int PRIMARY KEY, city text);
    INSERT INTO patients SELECT n, 'Wiedikon-4711' FROM generate_series(1, 100) n;
    SELECT city FROM patients WHERE id = 7;
    UPDATE patients SET city = 'Wiedikon-4711' WHERE id = 8;
    DELETE FROM patients;
    SELECT 'Wiedikon-4711'::int;
    CREATE ROLE stranger PASSWORD 'open-sesame-0815';
    DROP ROLE stranger;
    DROP TABLE patients;
";

/// A psql that does all of the script in turn, going on after the error in it.
fn run_script(postgres: &Postgres, via: Via) -> Result<()> {
    let mut psql = postgres.psql_command(via);
    let output = psql.args(["-c", ""]).stdin(Stdio::null()).output()?;
    ensure!(output.status.success());
    for statement in SCRIPT.split(';').map(str::trim).filter(|text| !text.is_empty()) {
        let mut psql = postgres.psql_command(via);
        psql.args(["-c", statement]).stdin(Stdio::null()).output()?;
    }
    Ok(())
}

#[test]
fn every_statement_is_kept_found_at_once_and_proven() -> Result<()> {
    need_root!();
    let mut postgres = Postgres::builder().tls().log_statements().start()?;
    let mut agent = Agent::builder().start()?;
    agent.await_server(postgres.port())?;
    let server = format!("server = '{}'", postgres.name());
    for via in [Via::Unix, Via::Tcp, Via::Tls] {
        run_script(&postgres, via)?;
    }
    postgres.psql(Via::Unix, "SELECT 1 AS the_last_of_all")?;
    let ended = Instant::now();
    await_until("the last statement", || {
        Ok((count(&agent, false, "text LIKE '%the_last_of_all%'")? > 0).then_some(()))
    })?;
    let waited = ended.elapsed();
    ensure!(waited < FOUND_WITHIN, "found after {waited:?}");

    let n_logged = postgres.logged()?.len() as u64;
    ensure!(n_logged >= 28, "only {n_logged} statements were logged");
    await_until("all statements", || {
        Ok((count(&agent, false, &server)? == n_logged).then_some(()))
    })?;

    for (condition, n) in [
        ("summary = 'DELETE patients' AND NOT restricted AND analysis = 'complete'", 3),
        ("summary = 'UPDATE patients' AND restricted AND rows = 1", 3),
        ("error_code = '22P02' AND text = 'SELECT ?::int'", 3),
        ("text LIKE 'CREATE ROLE stranger PASSWORD%'", 3),
        ("array_has(effects, 'drop')", 6),
        ("transport = 'unix' AND exe LIKE '%/psql'", 11),
        ("transport = 'tls' AND summary = 'SELECT patients' AND rows = 1", 1),
    ] {
        let found = count(&agent, false, &format!("{server} AND {condition}"))?;
        ensure!(found == n, "{found} of {n} statements where {condition}");
    }
    let found = said(&mut agent.command(&["search", "delete", "patients", "--format", "json"]))?;
    ensure!(found.lines().count() == 3, "search found:\n{found}");

    ensure!(agent.stop()?.success(), "{}", agent.log());
    for word in [LITERAL, PASSWORD] {
        ensure!(!holds(agent.ledger().as_path(), word.as_bytes())?, "{word} was kept");
    }
    ensure!(count(&agent, true, &server)? == n_logged, "rows were lost at the end");
    let kinds = rows(&agent, true, "SELECT DISTINCT record, action FROM rows ORDER BY 1, 2")?;
    let kinds: Vec<String> =
        kinds.iter().map(|row| format!("{} {}", row["record"], row["action"])).collect();
    for kind in [
        "\"connection\" \"closed\"",
        "\"connection\" \"opened\"",
        "\"coverage\" \"seen\"",
        "\"service\" \"started\"",
        "\"service\" \"stopped\"",
    ] {
        ensure!(kinds.iter().any(|known| known == kind), "no row {kind} among {kinds:?}");
    }
    let (whole, words) = verify(&agent)?;
    ensure!(whole, "verify said no:\n{words}");

    // A single bit of what was signed.
    let open = agent.ledger().join("open");
    let log = fs::read_dir(&open)?.next().context("no open log")??.path();
    let mut bytes = fs::read(&log)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&log, bytes)?;
    let (whole, words) = verify(&agent)?;
    ensure!(!whole, "verify did not see the change:\n{words}");
    Ok(())
}

#[test]
fn literals_are_kept_where_that_is_wanted_and_secrets_never() -> Result<()> {
    need_root!();
    let postgres = Postgres::builder().start()?;
    let mut agent = Agent::builder().ledger("literals = \"keep\"").start()?;
    agent.await_server(postgres.port())?;
    run_script(&postgres, Via::Unix)?;
    await_until("the script's end", || {
        Ok((count(&agent, false, "text LIKE 'DROP TABLE patients%'")? > 0).then_some(()))
    })?;
    ensure!(count(&agent, false, &format!("text LIKE '%{LITERAL}%'"))? == 3);
    ensure!(count(&agent, false, &format!("error_message LIKE '%{LITERAL}%'"))? == 1);
    ensure!(agent.stop()?.success(), "{}", agent.log());
    ensure!(!holds(agent.ledger().as_path(), PASSWORD.as_bytes())?, "the password was kept");
    Ok(())
}

/// The literal stands in no command line.
const PREPARED: &str = r#"
import psycopg, sys
with psycopg.connect(sys.argv[1], autocommit=True) as db:
    text = "SELECT 'a\\'" + "-".join(["Wiedikon", "4712"]) + "' AS prepared, %s"
    for n in range(3):
        db.execute(text, [n], prepare=True)
"#;

/// Where a backslash escapes a quote, what stands behind it is still the literal.
#[test]
fn strings_that_do_not_conform_are_hidden_too() -> Result<()> {
    const HIDDEN: &str = "Wiedikon-4712";
    need_root!();
    let postgres = Postgres::builder().setting("standard_conforming_strings", "off").start()?;
    // Its log-in isn't seen, so that only the server's answers tell how it reads.
    let mut early = Session::start(&mut postgres.psql_command(Via::Unix))?;
    let mut agent = Agent::builder().start()?;
    agent.await_server(postgres.port())?;
    // Nobody knows which answer is that of the first.
    early.ask("SELECT 1")?;
    early.ask(r"SELECT 'a\'Wiedikon-4712' AS early")?;

    let mut late = Session::start(&mut postgres.psql_command(Via::Tcp))?;
    late.ask(r"SELECT 'a\'Wiedikon-4712' AS late")?;
    late.ask("SET standard_conforming_strings = on")?;
    late.ask(r"SELECT 'C:\', 'Wiedikon-4712' AS conforming")?;
    late.ask("BEGIN")?;
    late.ask("SET LOCAL standard_conforming_strings = off")?;
    late.ask(r"SELECT 'a\'Wiedikon-4712' AS inside")?;
    late.ask("ROLLBACK")?;
    late.ask(r"SELECT 'C:\', 'Wiedikon-4712' AS outside")?;

    postgres.python(Via::Unix, PREPARED)?;
    await_until("the last statement", || {
        Ok((count(&agent, false, "text LIKE '%AS prepared%'")? == 3).then_some(()))
    })?;
    for (text, n) in [
        ("SELECT ? AS early", 1),
        ("SELECT ? AS late", 1),
        ("SELECT ?, ? AS conforming", 1),
        ("SELECT ? AS inside", 1),
        ("SELECT ?, ? AS outside", 1),
        ("SELECT ? AS prepared", 3),
    ] {
        let found =
            count(&agent, false, &format!("text LIKE '{text}%' AND analysis = 'complete'"))?;
        ensure!(found == n, "{found} of {n} statements are {text}");
    }
    ensure!(agent.stop()?.success(), "{}", agent.log());
    ensure!(!holds(agent.ledger().as_path(), HIDDEN.as_bytes())?, "{HIDDEN} was kept");
    Ok(())
}

/// Each statement once, in its order, while the segment it is in is sealed.
#[test]
fn following_shows_each_statement_once() -> Result<()> {
    const N: usize = 12_000;
    need_root!();
    let postgres = Postgres::builder().start()?;
    let agent = Agent::builder().ledger("seal_bytes = \"1MiB\"").start()?;
    agent.await_server(postgres.port())?;

    let folder = tempfile::tempdir()?;
    let (seen, script) = (folder.path().join("seen"), folder.path().join("script"));
    let mut follow = agent.command(&["search", "AS followed_", "--follow", "--format", "json"]);
    follow.stdin(Stdio::null()).stdout(fs::File::create(&seen)?);
    let _follow = Running::start("dbwarden search --follow", &mut follow, Signal::SIGTERM)?;
    let await_seen = |what: &str| {
        await_until(what, || Ok(fs::read_to_string(&seen)?.contains(what).then_some(())))
    };
    postgres.psql(Via::Unix, "SELECT 1 AS followed_begin")?;
    await_seen("followed_begin")?;

    let statements: Vec<String> = (1..=N).map(|n| format!("SELECT 1 AS followed_{n};\n")).collect();
    fs::write(&script, statements.concat())?;
    let mut psql = postgres.psql_command(Via::Unix);
    let status = psql.stdin(fs::File::open(&script)?).stdout(Stdio::null()).status()?;
    ensure!(status.success());
    for end in ["SELECT 1 AS followed_end", "SELECT 1 AS followed_very_end"] {
        postgres.psql(Via::Unix, end)?;
        await_seen(end.trim_start_matches("SELECT 1 AS "))?;
    }
    let sealed = agent.status()?["ledger"]["sealed_segments"].as_u64();
    ensure!(sealed.is_some_and(|n| n >= 1), "{sealed:?} segments were sealed");

    let mut names = Vec::new();
    for line in fs::read_to_string(&seen)?.lines() {
        let row: Value = serde_json::from_str(line)?;
        let text = row["text"].as_str().context("a row without a text")?.to_owned();
        names.push(text.rsplit('_').next().unwrap_or_default().trim_end_matches(';').to_owned());
    }
    let mut expected = vec!["begin".to_owned()];
    expected.extend((1..=N).map(|n| n.to_string()));
    expected.extend(["end".to_owned(), "end".to_owned()]);
    let differs = names.iter().zip(&expected).position(|(name, expected)| name != expected);
    ensure!(
        names == expected,
        "{} rows for {} statements, other than expected from {differs:?} on",
        names.len(),
        expected.len(),
    );
    Ok(())
}

#[test]
fn what_was_found_once_is_there_after_a_kill() -> Result<()> {
    need_root!();
    let postgres = Postgres::builder().start()?;
    postgres.pgbench(Via::Unix, &["-i", "-q", "-s", "1"])?;
    let mut agent = Agent::builder().ledger("seal_bytes = \"1MiB\"").start()?;
    let mut pgbench = postgres.pgbench_command(
        Via::Unix,
        &["-n", "-S", "-M", "prepared", "-c", "4", "-R", "2000", "-T", "600"],
    );
    pgbench.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let _load = Running::start("pgbench", &mut pgbench, Signal::SIGTERM)?;
    for round in 0..5 {
        agent.await_server(postgres.port())?;
        let last = rows(&agent, false, "SELECT max(time) AS t FROM statements")?;
        let last = last.first().and_then(|row| row["t"].as_str()).map(str::to_owned);
        let before =
            format!("time <= TIMESTAMP '{}'", last.unwrap_or("2000-01-01T00:00:00Z".into()));
        // Some more than what a start has left.
        let n = await_until("more statements", || {
            let n = count(&agent, false, "true")?;
            Ok((n > 1_000 * (round + 1)).then_some(n))
        })?;
        let n_before = count(&agent, false, &before)?;
        agent.kill()?;
        agent.start_again()?;
        let (after, after_before) = (count(&agent, false, "true")?, count(&agent, false, &before)?);
        ensure!(
            after >= n && after_before == n_before,
            "{n} → {after}, {n_before} → {after_before}"
        );
    }
    ensure!(agent.stop()?.success(), "{}", agent.log());
    let (whole, words) = verify(&agent)?;
    ensure!(whole, "verify said no:\n{words}");
    Ok(())
}
