//! Reports of a real server's day: its own log of writes is the population, and what was not seen is told.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use dbwarden_tests::{
    Agent, Cgroup, Postgres, Via, await_until, need_root, postgres_binaries, said,
    sender::{placed, started_by},
};
use serde_json::Value;

/// An account that every Debian has, for somebody who has logged in.
const LOGIN: (&str, &str) = ("1", "daemon");
const UNSET: &str = "4294967295";
const SESSION: &str = "user.slice/user-1.slice/session-79.scope";

const CONFIGURATION: &str = r#"
[[label]]
name = "pii"
on = ["*.*.people.email"]
"#;

/// What the human, the service and the agent do; what is known to change nothing says so.
const HUMAN: [&str; 9] = [
    "CREATE TABLE people (id int PRIMARY KEY, email text)",
    "INSERT INTO people SELECT n, 'person ' || n FROM generate_series(1, 9) n",
    "CREATE FUNCTION touch(n int) RETURNS int LANGUAGE sql BEGIN ATOMIC UPDATE people SET email = email WHERE id = n RETURNING id; END",
    "SELECT touch(3)",
    "UPDATE people SET id = id / 0",
    "SELECT email FROM people WHERE id = 2 /* changes nothing */",
    "BEGIN /* changes nothing */",
    "DELETE FROM people",
    "ROLLBACK /* changes nothing */",
];
const SERVICE: [&str; 4] = [
    "INSERT INTO people VALUES (10, 'ten')",
    "SELECT count(*) FROM people /* changes nothing */",
    "DO $$ BEGIN PERFORM 1; END $$",
    "GRANT SELECT ON people TO public",
];
const AGENT: [&str; 3] = [
    "UPDATE people SET email = 'x' WHERE id = 10",
    "TRUNCATE nothing_of_this_name",
    "ALTER TABLE people ADD note text",
];

/// One connection that sends these one after the other and goes on after errors.
fn psql(postgres: &Postgres, statements: &[&str]) -> Command {
    let mut command = postgres.psql_command(Via::Unix);
    command.args(["-v", "ON_ERROR_STOP=0", "-P", "pager=off"]);
    for statement in statements {
        command.args(["-c", statement]);
    }
    command
}

/// Whatever the statements' errors are.
fn ran(command: &mut Command) -> Result<()> {
    command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status()?;
    Ok(())
}

/// A program under the name of an agent: a shell, which runs what it is given.
fn claude(folder: &Path) -> Result<PathBuf> {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
    let path = folder.join("claude");
    fs::copy("/bin/sh", &path)?;
    Ok(path)
}

/// A server whose TLS code is in a file that nobody knows for OpenSSL.
fn blind_server(folder: &Path) -> Result<Postgres> {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
    let listed = said(Command::new("ldd").arg(postgres_binaries()?.join("postgres")))?;
    let line = listed.lines().find(|line| line.contains("libssl"));
    let path = line.and_then(|line| line.split_whitespace().nth(2)).context("no libssl")?;
    let hidden = folder.join("built-in");
    fs::copy(path, &hidden)?;
    let name = Path::new(path).file_name().context("libssl has no name")?;
    std::os::unix::fs::symlink(&hidden, folder.join(name))?;
    let path = format!("LD_LIBRARY_PATH={}", folder.display());
    Postgres::builder().tls().by_way_of(&["env", &path]).start()
}

/// A report of the agent's ledger: its exit code and what it says.
fn report(agent: &Agent, arguments: &[&str]) -> Result<(Option<i32>, String)> {
    let mut command = agent.command(&[&["report"][..], arguments].concat());
    let output = command.arg("--config").arg(agent.configuration()).output()?;
    let words = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.stdout.is_empty(), "no report: {words}");
    Ok((output.status.code(), String::from_utf8(output.stdout)?))
}

fn json(agent: &Agent, arguments: &[&str]) -> Result<Value> {
    let (code, text) = report(agent, &[arguments, &["--format", "json"]].concat())?;
    let report: Value = serde_json::from_str(&text)?;
    ensure!(code == Some(0), "{:#} {:#}", report["proof"], report["reconciliation"]);
    Ok(report)
}

fn rows(report: &Value) -> Result<&Vec<Value>> {
    report["rows"].as_array().context("a report without rows")
}

/// Texts with their errors, each as often as it comes.
type Statements = BTreeMap<(String, Option<String>), usize>;

/// The server's own log of what changed something, up to the statement that is `last`.
fn logged(postgres: &mut Postgres) -> Result<Statements> {
    let mut statements = Statements::new();
    let mut last: BTreeMap<u64, String> = BTreeMap::new();
    for entry in postgres.log()? {
        let text = |name: &str| entry[name].as_str().unwrap_or_default();
        let pid = entry["pid"].as_u64().unwrap_or_default();
        if let Some(statement) = text("message").strip_prefix("statement: ") {
            *statements.entry((statement.to_owned(), None)).or_default() += 1;
            last.insert(pid, statement.to_owned());
        } else if text("error_severity") == "ERROR"
            && let Some(statement) = last.remove(&pid)
        {
            if let Some(n) = statements.get_mut(&(statement.clone(), None)) {
                *n -= 1;
            }
            let code = Some(text("state_code").to_owned());
            *statements.entry((statement, code)).or_default() += 1;
        }
    }
    let of_pgbench = ["begin", "commit", "SELECT abalance", "select count(*)", "select o.n"];
    let reads = |text: &str| {
        text.contains("changes nothing") || of_pgbench.iter().any(|start| text.starts_with(start))
    };
    statements.retain(|(text, _), n| *n > 0 && !reads(text));
    Ok(statements)
}

fn reported(report: &Value, server: &str) -> Result<Statements> {
    let mut statements = Statements::new();
    for row in rows(report)?.iter().filter(|row| row["server"] == server) {
        let text = row["text"].as_str().unwrap_or("(not seen)").to_owned();
        let code = row["error_code"].as_str().map(str::to_owned);
        *statements.entry((text, code)).or_default() += 1;
    }
    Ok(statements)
}

#[test]
fn a_report_has_all_writes_that_the_server_logged_and_says_what_it_lacks() -> Result<()> {
    need_root!();
    let mut postgres = Postgres::builder().log_statements().start()?;
    let folder = tempfile::tempdir()?;
    let blind = blind_server(folder.path())?;
    let others = tempfile::tempdir()?;
    let claude = claude(others.path())?;
    let mut agent = Agent::builder()
        .ledger("literals = \"keep\"\nseal_bytes = \"1MiB\"")
        .configuration(CONFIGURATION)
        .start()?;
    agent.await_server(postgres.port())?;
    agent.await_server(blind.port())?;

    let unit = format!("dbwarden-report-{}", std::process::id());
    let session = Cgroup::create(SESSION)?;
    let service = Cgroup::create(&format!("system.slice/{unit}.service"))?;
    ran(&mut placed(Some(&session), LOGIN.0, &psql(&postgres, &HUMAN)))?;
    ran(&mut placed(Some(&service), UNSET, &psql(&postgres, &SERVICE)))?;
    let launched = started_by(&claude, &psql(&postgres, &AGENT));
    ran(&mut placed(Some(&session), LOGIN.0, &launched))?;
    blind.psql(Via::Tls, "CREATE TABLE unseen (x int)")?;
    await_until("the blind connection", || {
        Ok((agent.status()?["totals"]["blind_connections"] == 1).then_some(()))
    })?;
    // More than a segment of what changes nothing.
    let seen = |agent: &Agent, text: &str| {
        let mut search = agent.command(&["search", text, "--format", "json"]);
        await_until(text, || Ok((!said(&mut search)?.is_empty()).then_some(())))
    };
    postgres.pgbench(Via::Unix, &["-i", "-q", "-I", "dtGvp"])?;
    postgres.pgbench(Via::Unix, &["-n", "-S", "-c", "2", "-t", "7000"])?;
    postgres.psql(Via::Unix, "CREATE TABLE before_the_kill (x int)")?;
    seen(&agent, "before_the_kill")?;

    // A hole: what the server does meanwhile, nobody sees.
    agent.kill()?;
    postgres.psql(Via::Unix, "INSERT INTO people VALUES (11, 'in the hole')")?;
    agent.start_again()?;
    agent.await_server(postgres.port())?;
    postgres.psql(Via::Unix, "INSERT INTO people VALUES (12, 'after the hole')")?;
    postgres.psql(Via::Unix, "DROP TABLE before_the_kill")?;
    seen(&agent, "DROP TABLE before_the_kill")?;
    ensure!(agent.stop()?.success(), "{}", agent.log());

    let changes = json(&agent, &["changes"])?;
    let mut expected = logged(&mut postgres)?;
    let hidden = expected.remove(&("INSERT INTO people VALUES (11, 'in the hole')".into(), None));
    ensure!(hidden == Some(1), "the server logged no such statement");
    let found = reported(&changes, &postgres.name())?;
    let differs: Vec<_> = expected
        .iter()
        .chain(&found)
        .filter(|(said, n)| expected.get(*said) != Some(n) || found.get(*said) != Some(n))
        .collect();
    ensure!(differs.is_empty(), "not the same: {differs:#?}");

    check_sums(&changes)?;
    check_lacks(&changes, &blind.name())?;
    let by_kind = &changes["totals"]["by_kind"];
    ensure!(by_kind["human"]["statements"] == 6, "{by_kind}");
    ensure!(by_kind["ai"]["statements"] == AGENT.len(), "{by_kind}");
    ensure!(by_kind["service"]["statements"] == 3, "{by_kind}");
    let row = |text: &str| {
        let mut all = rows(&changes)?.iter();
        all.find(|row| row["text"].as_str().is_some_and(|said| said.contains(text)))
            .context(text.to_owned())
    };
    let launched = row("ALTER TABLE people")?;
    ensure!(
        launched["principal"] == "claude-code" && launched["initiator"] == LOGIN.1,
        "{launched}"
    );
    ensure!(row("DELETE FROM people")?["marks"][0] == "in a transaction");
    ensure!(row("touch(3)")?["analysis"] == "calls-code");
    ensure!(row("id / 0")?["outcome"] == "failed");

    let ai = json(&agent, &["changes", "--kind", "ai"])?;
    ensure!(rows(&ai)?.len() == AGENT.len());
    check_sums(&ai)?;
    let access = json(&agent, &["access", "--label", "pii", "--server", &postgres.name()])?;
    check_sums(&access)?;
    let reads = |row: &&Value| row["labels"][0] == "pii";
    let texts: Vec<&str> =
        rows(&access)?.iter().filter(reads).filter_map(|row| row["text"].as_str()).collect();
    ensure!(
        texts.contains(&"SELECT email FROM people WHERE id = 2 /* changes nothing */"),
        "{texts:?}"
    );
    ensure!(!texts.iter().any(|text| text.contains("count(*)")), "{texts:?}");
    let labels = &access["labels"];
    ensure!(labels["applied_throughout"] == true, "{labels:#}");

    // Any row can be proven, as the report says.
    let place = row("INSERT INTO people SELECT")?["place"].as_str().context("not sealed")?;
    let keys = agent.ledger().with_file_name("keys");
    let mut prove = agent.command(&["verify", "--prove", place, "--ledger"]);
    let proof = said(prove.arg(agent.ledger()).arg("--keys").arg(keys))?;
    ensure!(proof.contains("dbwarden-proof-1"), "{proof}");

    let (code, html) = report(&agent, &["changes", "--format", "html"])?;
    ensure!(code == Some(0) && html.contains("whole and unchanged"), "{html}");
    check_tampering(&agent)
}

/// Everything is accounted for, down to the last row that was signed.
fn check_sums(report: &Value) -> Result<()> {
    let sums = &report["reconciliation"];
    let n = |name: &str| sums[name].as_u64().with_context(|| format!("no {name}: {sums:#}"));
    ensure!(
        report["proof"]["verdict"] == "whole" && report["sound"] == true,
        "{:#}",
        report["proof"]
    );
    ensure!(sums["differences"] == serde_json::json!([]), "{sums:#}");
    ensure!(n("signed_rows")? == n("sealed_rows")? && n("sealed_segments")? > 0, "{sums:#}");
    let out = n("unconcerned")? + n("outside_filter")? + n("in_region")?;
    ensure!(n("statements")? == out + n("reported")?, "{sums:#}");
    ensure!(
        n("rows")? == n("statements")? + n("other_records")? + n("outside_period")?,
        "{sums:#}"
    );
    ensure!(n("written")? == rows(report)?.len() as u64, "{sums:#}");
    Ok(())
}

/// The kill, the stop at the end, and the connection that nobody could look into.
fn check_lacks(report: &Value, blind: &str) -> Result<()> {
    let lacks = report["unobserved"].as_array().context("no gaps")?;
    let gaps: Vec<&Value> = lacks.iter().filter(|gap| gap["reason"] == "not-running").collect();
    let [killed, stopped] = gaps.as_slice() else { anyhow::bail!("{lacks:#?}") };
    ensure!(
        killed["words"].as_str().is_some_and(|words| words.contains("without saying so")),
        "{killed}"
    );
    ensure!(
        stopped["words"].as_str().is_some_and(|words| words.contains("was stopped")),
        "{stopped}"
    );
    let at = |text: &str| {
        let row = rows(report)?
            .iter()
            .find(|row| row["text"].as_str().is_some_and(|said| said.contains(text)));
        Ok::<_, anyhow::Error>(
            row.context("no such row")?["time"].as_str().unwrap_or_default().to_owned(),
        )
    };
    let (from, to) = (killed["from"].as_str().unwrap_or("~"), killed["to"].as_str().unwrap_or(""));
    ensure!(
        *from >= *at("CREATE TABLE before_the_kill")? && *to <= *at("after the hole")?,
        "{killed}"
    );
    let servers = report["servers"].as_array().context("no servers")?;
    let server =
        servers.iter().find(|server| server["server"] == blind).context("no blind server")?;
    ensure!(server["blind_connections"] == 1, "{server:#}");
    let notes = report["notes"].to_string();
    ensure!(notes.contains("encrypted connections that could not be looked into: 1."), "{notes}");
    Ok(())
}

/// One byte of one sealed segment: the first page says no, and so does the exit code.
fn check_tampering(agent: &Agent) -> Result<()> {
    let mut segments = fs::read_dir(agent.ledger().join("segments"))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    segments.sort();
    let segment = segments.first().context("no sealed segment")?;
    let bytes = fs::read(segment)?;
    // In the middle of what the columns hold, and in what nobody reads.
    for at in [bytes.len() / 2, 1] {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        fs::write(segment, &changed)?;
        let (code, html) = report(agent, &["changes", "--format", "html"])?;
        ensure!(code == Some(1), "byte {at}: exit code {code:?}");
        let words = "The ledger isn\u{2019}t what was signed: do not rely on this report";
        let page = html.split("<h2>Statements</h2>").next().unwrap_or_default();
        ensure!(page.contains(words) && page.contains("segment 1"), "byte {at}: {page}");
    }
    fs::write(segment, &bytes)?;
    let (code, html) = report(agent, &["changes", "--format", "html", "--no-verify"])?;
    ensure!(code == Some(0) && html.contains("NOT VERIFIED"), "{code:?}");
    Ok(())
}
