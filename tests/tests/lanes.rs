//! A server whose lane policy decides: who is led to the guard, who goes straight on, and what changes with the rules.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use anyhow::{Result, ensure};
use dbwarden_tests::{
    Guarded, Netns, Postgres, Session, Via, await_until, need_root, python, said,
    sender::started_by,
};

const NO_DROP: &str = r#"@id("no-drop") @verdict("deny") @severity("high") @message("nothing is dropped here")
    forbid (principal, action == Action::"drop", resource)
    when { context.lane == "guarded" };
"#;
const AGENTS: &str = r#"@id("agents") @verdict("guard") @message("agents come through the guard")
    forbid (principal == Ai::"codex", action == Action::"connect", resource);
"#;
const EVERYBODY_ELSE: &str = r#"@id("others") @verdict("guard") @message("whoever is no agent comes through the guard")
    forbid (principal, action == Action::"connect", resource) unless { principal == Ai::"codex" };
"#;

/// Stays what it is and connects again and again, as psql is asked: which way, and whether it may drop something.
const CLIENT: &str = r#"
import os, psycopg, socket, sys

def drops(c):
    try:
        c.execute("DROP TABLE IF EXISTS nothing")
        return "dropped"
    except psycopg.errors.InsufficientPrivilege as e:
        assert e.diag.message_detail.startswith("rule no-drop"), e.diag.message_detail
        return "denied"

def connect():
    try:
        c = psycopg.connect(sys.argv[1], autocommit=True)
    except psycopg.OperationalError as e:
        return "refused " + str(e)
    own = socket.socket(fileno=os.dup(c.fileno())).getsockname()[1]
    seen = c.execute("SELECT client_port FROM pg_stat_activity WHERE pid = pg_backend_pid()").fetchone()[0]
    way = ("direct " if own == seen else "guard ") + drops(c)
    held.append(c) if len(held) < 30 else c.close()
    return way

held = []
for line in sys.stdin:
    line = line.strip().rstrip(";")
    if line.startswith("\\echo "):
        print(line[7:-1], flush=True)
    elif line == "connect":
        print(connect().splitlines()[0], flush=True)
    elif line == "become nobody":
        os.setgid(65534)
        os.setuid(65534)
        print("nobody", flush=True)
    elif line.startswith("again "):
        print(drops(held[int(line[6:])]), flush=True)
"#;

/// A shell that is called so.
fn codex(folder: &tempfile::TempDir) -> Result<PathBuf> {
    let path = folder.path().join("codex");
    fs::copy("/bin/sh", &path)?;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

/// Once it has been said of the process which way it goes, it goes that way.
fn await_way(client: &mut Session, way: &str) -> Result<()> {
    await_until(way, || Ok((client.ask("connect")? == way).then_some(())))?;
    for _ in 0..10 {
        let went = client.ask("connect")?;
        ensure!(went == way, "{went} instead of {way}");
    }
    Ok(())
}

#[test]
fn policy_says_who_comes_through_the_guard() -> Result<()> {
    need_root!();
    let guarded = Guarded::start_by_policy(Postgres::builder(), &format!("{NO_DROP}{AGENTS}"))?;
    let Guarded { postgres, agent, .. } = &guarded;
    let folder = tempfile::tempdir()?;
    let codex = codex(&folder)?;
    let mut script = python()?;
    script.args(["-c", CLIENT]).arg(postgres.conninfo(Via::Tcp));
    let mut agents = Session::start(&mut started_by(&codex, &script))?;
    let mut somebody = Session::start(&mut script)?;

    // An agent never gets past it, though nobody may have looked at it yet.
    for _ in 0..10 {
        let went = agents.ask("connect")?;
        ensure!(went == "guard denied", "{went}");
    }
    // Of somebody else it is not judged what he says, whichever way he comes.
    let first = somebody.ask("connect")?;
    ensure!(first.ends_with("dropped"), "{first}");
    await_way(&mut somebody, "direct dropped")?;

    // A program that has just begun, too.
    for _ in 0..20 {
        postgres.psql(Via::Tcp, "DROP TABLE IF EXISTS brief")?;
    }
    let brief = "SELECT lane, client_port, verdict FROM statements \
                 WHERE text = 'DROP TABLE IF EXISTS brief' AND lane = 'observed'";
    agent.await_rows(20, brief)?;
    let past = "SELECT exe, message FROM rows WHERE record = 'connection' AND action = 'opened' \
                AND message LIKE '%past the guard%'";
    let flagged = agent.rows(past)?;
    ensure!(flagged.is_empty(), "{flagged:?}");
    // By the unix socket everybody is led, and found out there.
    postgres.psql(Via::Unix, "DROP TABLE IF EXISTS nothing")?;
    let mut psql = postgres.psql_command(Via::Unix);
    let denied = started_by(&codex, psql.args(["-c", "DROP TABLE IF EXISTS nothing"])).output()?;
    let denied = String::from_utf8(denied.stderr)?;
    ensure!(denied.contains("rule no-drop"), "{denied}");
    // Of those who get past it, it is known who should not have.
    postgres.psql(Via::Past, "SELECT 'somebody'")?;
    let mut psql = postgres.psql_command(Via::Past);
    said(&mut started_by(&codex, psql.args(["-c", "SELECT 'agent'"])))?;
    let flagged = agent.await_rows(1, past)?;
    ensure!(flagged[0]["exe"].as_str().is_some_and(|exe| exe.ends_with("/psql")), "{flagged:?}");

    // It isn't the process that it was: whoever that is now is found out first.
    ensure!(somebody.ask("become nobody")? == "nobody");
    let first = somebody.ask("connect")?;
    ensure!(first == "guard dropped", "{first}");
    await_way(&mut somebody, "direct dropped")?;

    // Other rules count for those who connect from now on.
    guarded.judge_by(&format!("{NO_DROP}{EVERYBODY_ELSE}"))?;
    await_way(&mut somebody, "guard denied")?;
    await_way(&mut agents, "direct dropped")?;
    ensure!(somebody.ask("again 5")? == "dropped", "it has gone straight before");
    ensure!(agents.ask("again 0")? == "denied", "it has come through the guard before");

    // Who is in quarantine is led to the guard whatever the rules say, and hears why.
    let add = ["quarantine", "add", "--principal", "codex", "--reason", "a drill"];
    said(&mut agent.command(&add))?;
    await_until("the refusal", || {
        let told = agents.ask("connect")?;
        Ok((told.starts_with("refused") && told.contains("is in quarantine")).then_some(()))
    })?;

    let status = agent.status()?;
    ensure!(status["guard"]["starts"] == 1, "{}", status["guard"]);
    let differs =
        agent.rows("SELECT message FROM findings WHERE rule = 'builtin:guard-differs'")?;
    ensure!(differs.is_empty(), "{differs:?}");
    Ok(())
}

/// Whoever comes from the network is known by his address alone, and the server sees him by it either way.
#[test]
fn policy_says_which_addresses_come_through_the_guard() -> Result<()> {
    need_root!();
    let network = Netns::create()?;
    let host = network.outside();
    let rule = |address: &dyn std::fmt::Display| {
        format!(
            "{NO_DROP}@id(\"far\") @verdict(\"guard\") @message(\"the network comes through the guard\")\n\
             forbid (principal, action == Action::\"connect\", resource)\n\
             when {{ context has client_address && context.client_address == ip(\"{address}\") }};"
        )
    };
    let server = Postgres::builder().everywhere();
    let guarded = Guarded::start_by_policy(server, &rule(&network.inside()))?;
    let Guarded { postgres, .. } = &guarded;
    let mut psql = network.command(&postgres.psql_command(Via::Network(host.into())));
    psql.args(["-c", "SELECT inet_client_addr()", "-c", "DROP TABLE IF EXISTS nothing"]);
    await_until("clients from the network are led", || {
        let output = psql.output()?;
        let words = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        ensure!(words.contains(&network.inside().to_string()), "{words}");
        Ok(words.contains("nothing is dropped here").then_some(()))
    })?;

    guarded.judge_by(&rule(&"192.0.2.1"))?;
    await_until("clients from the network are not judged", || {
        let output = psql.output()?;
        let words = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(words.contains(&network.inside().to_string()), "{words}");
        Ok(output.status.success().then_some(()))
    })?;
    let unjudged = guarded.agent.status()?["guard"]["unjudged"].as_u64();
    ensure!(unjudged.is_some_and(|n| n > 0), "{}", guarded.agent.status()?["guard"]);
    Ok(())
}
