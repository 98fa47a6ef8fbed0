//! Rules over what is seen: judged as it happens, found as episodes, replaced while statements go on.

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
};

use anyhow::{Context, Result, ensure};
use dbwarden_tests::{Agent, Postgres, Via, need_root, place, said};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

const NO_INSERTS: &str = r#"@id("no-inserts") @verdict("deny") @severity("low") @message("m")
    forbid (principal, action == Action::"insert", resource);"#;
const NO_READS: &str = r#"@id("no-reads") @verdict("flag") @message("m")
    forbid (principal, action == Action::"read", resource is Table);"#;

fn dbwarden(arguments: &[&str]) -> Result<Output> {
    let program = match std::env::var_os("DBWARDEN_BIN") {
        Some(program) => program.into(),
        None => place::profile_dir()?.join("dbwarden"),
    };
    ensure!(program.is_file(), "{} is not there: cargo xtask build", program.display());
    let mut command = Command::new(program);
    command.args(["--format", "json"]).args(arguments).stdin(Stdio::null());
    Ok(command.output()?)
}

fn lines(output: &Output) -> Result<Vec<Value>> {
    let text = std::str::from_utf8(&output.stdout)?;
    text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

#[test]
fn statements_are_judged_and_rules_replaced_while_they_go_on() -> Result<()> {
    need_root!();
    let postgres = Postgres::builder().start()?;
    let policies = tempfile::tempdir()?;
    let file = policies.path().join("own.cedar");
    fs::write(&file, NO_INSERTS)?;
    let agent = Agent::builder()
        .configuration(&format!("[policy]\ndirectory = \"{}\"", policies.path().display()))
        .configuration("[[label]]\nname = \"pii\"\non = [\"*.*.visits.person\"]")
        .start()?;
    agent.await_server(postgres.port())?;
    let watch = agent.watch()?;

    let psql = |text: &str| postgres.psql(Via::Unix, text);
    psql("CREATE TABLE visits (id int, person text)")?;
    psql("INSERT INTO visits SELECT n, 'p' FROM generate_series(1, 2000) n")?;
    psql("SELECT person FROM visits")?;
    psql("SELECT id FROM visits")?;
    for n in 0..3 {
        psql(&format!("DELETE FROM visits WHERE true OR id = {n}"))?;
    }
    let seen = watch.statements(1, |line| line["rule"] == "builtin:bulk-read")?;
    ensure!(seen[0]["verdict"] == "flag" && seen[0]["text"] == "SELECT person FROM visits");

    let of = |text: &str| format!("SELECT verdict, rule FROM statements WHERE text LIKE '{text}'");
    for (text, n, verdict, rule) in [
        ("CREATE TABLE visits%", 1, "allow", Value::Null),
        ("INSERT INTO visits%", 1, "flag", "no-inserts".into()),
        ("SELECT person FROM visits", 1, "flag", "builtin:bulk-read".into()),
        ("SELECT id FROM visits", 1, "allow", Value::Null),
        ("DELETE FROM visits%", 3, "flag", "builtin:unrestricted-write".into()),
    ] {
        for row in agent.await_rows(n, &of(text))? {
            ensure!(row["verdict"] == verdict && row["rule"] == rule, "{text}: {row}");
        }
    }
    let flagged = said(&mut agent.command(&["search", "--format", "json", "--verdict", "flag"]))?;
    ensure!(flagged.lines().count() == 5, "{flagged}");

    // Three statements that differ in a literal are one episode; what a rule wants is in its row.
    let findings = "SELECT rule, verdict, severity, action, sequence FROM findings ORDER BY rule";
    let found = agent.await_rows(3, findings)?;
    let found: Vec<String> = found
        .iter()
        .map(|row| {
            format!("{} {} {} {}", row["rule"], row["verdict"], row["severity"], row["action"])
        })
        .map(|row| row.replace('"', ""))
        .collect();
    let expected = [
        "builtin:bulk-read flag high began",
        "builtin:unrestricted-write flag high began",
        "no-inserts deny low began",
    ];
    ensure!(found == expected, "{found:?}");

    // Rules that are unsound leave those of before in force, and are a finding.
    fs::write(&file, "forbid (principal, action, resouce);")?;
    kill(Pid::from_raw(i32::try_from(agent.pid())?), Signal::SIGHUP)?;
    let refused = "SELECT message FROM findings WHERE rule = 'builtin:policies-refused'";
    let refused = agent.await_rows(1, refused)?;
    let message = refused[0]["message"].as_str().context("no message")?;
    ensure!(message.contains("own.cedar:1:"), "{message}");
    psql("INSERT INTO visits VALUES (1, 'still')")?;
    agent.await_rows(2, &of("INSERT INTO visits%"))?;
    agent.await_rows(2, "SELECT time FROM statements WHERE rule = 'no-inserts'")?;

    // Sound ones apply as a whole, without anybody asking.
    fs::write(&file, NO_READS)?;
    let loaded = "SELECT message FROM rows WHERE action = 'policies_loaded'";
    agent.await_rows(2, loaded)?;
    psql("INSERT INTO visits VALUES (1, 'free')")?;
    psql("SELECT id FROM visits WHERE id = 1")?;
    agent.await_rows(1, "SELECT time FROM statements WHERE rule = 'no-reads'")?;
    agent.await_rows(3, &of("INSERT INTO visits%"))?;
    agent.await_rows(2, "SELECT time FROM statements WHERE rule = 'no-inserts'")?;
    Ok(())
}

#[test]
fn episodes_are_told_as_over_when_the_service_ends() -> Result<()> {
    need_root!();
    let postgres = Postgres::builder().start()?;
    let mut agent = Agent::builder().start()?;
    agent.await_server(postgres.port())?;
    postgres.psql(Via::Unix, "CREATE TABLE t (a int)")?;
    for _ in 0..4 {
        postgres.psql(Via::Unix, "DELETE FROM t")?;
    }
    let flagged = "SELECT time FROM statements WHERE verdict = 'flag'";
    agent.await_rows(4, flagged)?;
    agent.stop()?;
    let mut command = agent.command(&["findings", "--format", "json", "--ledger"]);
    let text = said(command.arg(agent.ledger()))?;
    let ended = text.lines().map(serde_json::from_str::<Value>).collect::<Result<Vec<_>, _>>()?;
    let ended = ended.iter().find(|row| row["action"] == "ended").context("nothing has ended")?;
    ensure!(ended["counts"]["statements"] == 4, "{ended}");
    Ok(())
}

fn shipped(file: &str) -> String {
    place::workspace().join("systemd/policies").join(file).display().to_string()
}

#[test]
fn the_examples_are_sound_and_do_what_their_cases_say() -> Result<()> {
    let check = dbwarden(&["policy", "check", &shipped("example.cedar")])?;
    ensure!(check.status.code() == Some(0), "{check:?}");
    let cases = shipped("cases.toml");
    let test = dbwarden(&["policy", "test", &cases, "--policies", &shipped("example.cedar")])?;
    ensure!(test.status.code() == Some(0), "{test:?}");
    ensure!(lines(&test)?.len() == 9);
    // Without the rules that they are about, cases fail.
    let test = dbwarden(&["policy", "test", &cases, "--policies", "/nonexistent.cedar"])?;
    ensure!(test.status.code() == Some(2), "{test:?}");
    let empty = tempfile::tempdir()?;
    let nothing = empty.path().display().to_string();
    let test = dbwarden(&["policy", "test", &cases, "--policies", &nothing])?;
    ensure!(test.status.code() == Some(1), "{test:?}");
    ensure!(lines(&test)?.iter().filter(|line| line["passes"] == false).count() == 5);

    // Which way somebody goes who connects.
    let explain = |who: &str| -> Result<Value> {
        let arguments = ["policy", "explain", "--connect", "--as", who, "--server", "orders"];
        let place = ["--environment", "production", "--policies", &shipped("example.cedar")];
        let explained = dbwarden(&[&arguments[..], &place].concat())?;
        lines(&explained)?.pop().context("nothing was explained")
    };
    let agent = explain("ai:codex")?;
    ensure!(agent["verdict"] == "guard" && agent["rule"] == "agents-are-guarded", "{agent}");
    let person = explain("human:ana")?;
    ensure!(person["verdict"] == "allow" && person["connects_to"] == "orders", "{person}");
    Ok(())
}

#[test]
fn mistakes_are_named_with_their_place_and_verdicts_explained() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name);
    let named = |path: &Path| path.display().to_string();
    let (good, bad) = (path("good.cedar"), path("bad.cedar"));
    fs::write(&good, NO_INSERTS)?;
    fs::write(&bad, NO_INSERTS.replace("@message(\"m\")", "").replace("insert", "insret"))?;
    let check = dbwarden(&["policy", "check", &named(&bad)])?;
    ensure!(check.status.code() == Some(1), "{check:?}");
    let complaints = lines(&check)?;
    ensure!(complaints.iter().all(|line| line["file"] == named(&bad) && line["line"].is_u64()));

    let explain = |statement: &str| {
        let output = dbwarden(&[
            "policy",
            "explain",
            statement,
            "--as",
            "ai:codex",
            "--policies",
            &named(&good),
        ])?;
        ensure!(output.status.code() == Some(0), "{output:?}");
        lines(&output)?.pop().context("no answer")
    };
    let explained = explain("INSERT INTO t VALUES (1)")?;
    ensure!(explained["verdict"] == "flag" && explained["rule"] == "no-inserts", "{explained}");
    ensure!(explained["findings"][0]["verdict"] == "deny", "{explained}");
    let explained = explain("--connect-out=10.0.0.1:443")?;
    ensure!(explained["verdict"] == "allow" && explained["destination_port"] == 443, "{explained}");
    let explained = explain("DELETE FROM t WHERE id = 1")?;
    ensure!(explained["rule"] == "builtin:ai-writes", "{explained}");
    let near = explained["near"].as_array().context("nothing came close")?;
    let near = near.iter().find(|near| near["rule"] == "builtin:unrestricted-write");
    let conditions = near.context("not near")?["conditions"].clone();
    ensure!(conditions[0]["met"] == true && conditions[1]["met"] == false, "{conditions}");
    Ok(())
}
