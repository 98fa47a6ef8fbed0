//! The ledger of a running agent in trouble: a disk that fails, files that were damaged, a folder that is no place for it.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use dbwarden_tests::{Agent, FailingDisk, Postgres, Via, await_until, need_root, said};
use serde_json::Value;

fn number(agent: &Agent, query: &str) -> Result<u64> {
    let rows = agent.rows(query)?;
    rows.first().and_then(|row| row["n"].as_u64()).with_context(|| format!("no number: {query}"))
}

fn statements(agent: &Agent, text: &str) -> Result<u64> {
    number(agent, &format!("SELECT count(*) AS n FROM statements WHERE text LIKE '{text}'"))
}

fn await_statement(agent: &Agent, text: &str) -> Result<()> {
    await_until(text, || Ok((statements(agent, text)? > 0).then_some(())))
}

/// What the rows of gaps add up to: `not-kept` by the ledger, or `recorder_full` on a busy machine.
fn told_as_missing(agent: &Agent, action: &str) -> Result<u64> {
    let query = format!("SELECT counts FROM rows WHERE record = 'gap' AND action = '{action}'");
    let gaps = agent.rows(&query)?;
    let lost = gaps.iter().map(|gap| gap["counts"]["lost_rows"].as_u64());
    lost.sum::<Option<u64>>().with_context(|| format!("gaps without rows: {gaps:?}"))
}

fn troubles(agent: &Agent) -> Result<Vec<String>> {
    let status = agent.status()?;
    let troubles = status["ledger"]["troubles"].as_array().context("status names no troubles")?;
    Ok(troubles.iter().filter_map(Value::as_str).map(str::to_owned).collect())
}

fn await_trouble(agent: &Agent, words: &str) -> Result<()> {
    await_until(&format!("{words} as a trouble"), || {
        Ok(troubles(agent)?.iter().any(|trouble| trouble.contains(words)).then_some(()))
    })
}

fn await_health(agent: &Agent) -> Result<()> {
    await_until("a ledger without troubles", || Ok(troubles(agent)?.is_empty().then_some(())))
}

/// `dbwarden verify` of the agent's ledger says yes.
fn ensure_whole(agent: &Agent) -> Result<()> {
    let mut command = agent.command(&["verify", "--ledger"]);
    command.arg(agent.ledger()).arg("--keys").arg(agent.ledger().with_file_name("keys"));
    said(&mut command).map(drop)
}

/// Statements of a script, each so long that the ledger's patience soon ends.
const AT_ONCE: u64 = 100;
const LENGTH: usize = 40_000;

#[test]
fn a_failing_disk_pauses_the_ledger_and_it_goes_on_by_itself() -> Result<()> {
    need_root!();
    let disk = FailingDisk::new()?;
    let [preload, switch] = disk.environment();
    let postgres = Postgres::builder().start()?;
    let mut agent = Agent::builder()
        .ledger("literals = \"keep\"")
        .under(&["env", &preload, &switch])
        .start()?;
    agent.await_server(postgres.port())?;
    postgres.psql(Via::Unix, "SELECT 'well'")?;
    await_statement(&agent, "SELECT ''well%")?;

    // What was written isn't safe, and the kernel may have dropped it: it is written once more.
    disk.fail("sync")?;
    postgres.psql(Via::Unix, "SELECT 'unsynced'")?;
    await_trouble(&agent, "Input/output error")?;
    disk.mend("sync")?;
    await_health(&agent)?;
    await_statement(&agent, "SELECT ''unsynced%")?;
    ensure!(agent.status()?["ledger"]["missed_rows"] == 0, "{}", agent.status()?);

    disk.fail("write")?;
    let script = tempfile::NamedTempFile::new()?;
    let long = format!("SELECT 'long{}';\n", "x".repeat(LENGTH));
    fs::write(script.path(), long.repeat(AT_ONCE as usize))?;
    let mut n_sent = 0;
    let missed = || agent.status()?["ledger"]["missed_rows"].as_u64().context("no missed_rows");
    let seen = || agent.status()?["totals"]["statements"].as_u64().context("no statements");
    while missed()? == 0 {
        ensure!(n_sent < 20 * AT_ONCE, "it never refuses: {}", agent.status()?);
        let before = seen()?;
        let mut psql = postgres.psql_command(Via::Unix);
        let status = psql
            .arg("-f")
            .arg(script.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()?;
        ensure!(status.success());
        n_sent += AT_ONCE;
        await_until("the script", || Ok((seen()? >= before + AT_ONCE).then_some(())))?;
    }
    await_trouble(&agent, "Input/output error")?;
    disk.mend("write")?;
    await_health(&agent)?;
    postgres.psql(Via::Unix, "SELECT 'well again'")?;
    await_statement(&agent, "SELECT ''well again%")?;

    let n_found = statements(&agent, "SELECT ''long%")?;
    let n_missed = missed()?;
    let n_told = told_as_missing(&agent, "not-kept")?;
    ensure!(n_told == n_missed, "{n_missed} were missed, {n_told} told");
    let n_overrun = told_as_missing(&agent, "recorder_full")?;
    // Of what was missed, some rows are the beginnings and ends of connections.
    ensure!(
        n_found < n_sent && (n_sent..n_sent + 100).contains(&(n_found + n_missed + n_overrun)),
        "{n_sent} were sent, {n_found} found, {n_missed} missed, {n_overrun} too many at once"
    );
    let log = agent.log();
    for alert in ["the ledger can't be written: Input/output error", "as it should be again"] {
        ensure!(log.contains(alert), "{alert:?} is not in\n{log}");
    }
    ensure!(agent.stop()?.success(), "{}", agent.log());
    ensure_whole(&agent)
}

#[test]
fn a_ledger_that_can_not_be_opened_keeps_nobody_from_watching() -> Result<()> {
    need_root!();
    let postgres = Postgres::builder().start()?;
    let mut agent = Agent::builder().start()?;
    ensure!(agent.stop()?.success(), "{}", agent.log());
    let entries = agent.ledger().join("log/entries.jsonl");
    let signed = fs::read(&entries)?;
    fs::write(&entries, "")?;

    agent.start_again()?;
    agent.await_server(postgres.port())?;
    await_trouble(&agent, "can't be continued")?;
    ensure!(agent.log().contains("nothing is kept, and rows are counted"), "{}", agent.log());
    let watch = agent.watch_server(&postgres)?;
    postgres.psql(Via::Unix, "SELECT 'seen and not kept' AS unkept")?;
    watch.statements(1, |line| line["text"] == "SELECT 'seen and not kept' AS unkept")?;

    fs::write(&entries, signed)?;
    await_health(&agent)?;
    postgres.psql(Via::Unix, "SELECT 'kept' AS kept_again")?;
    await_statement(&agent, "%kept_again")?;
    ensure!(statements(&agent, "%unkept")? == 0);
    let n_missed = agent.status()?["ledger"]["missed_rows"].as_u64().context("no missed_rows")?;
    let n_told = told_as_missing(&agent, "not-kept")?;
    ensure!(n_missed > 0 && n_told == n_missed, "{n_missed} were missed, {n_told} told");
    ensure!(agent.stop()?.success(), "{}", agent.log());
    ensure_whole(&agent)
}

/// Starts the agent's program with its configuration; what it says, and its exit code.
fn refused(agent: &Agent) -> Result<(String, Option<i32>)> {
    let mut command = agent.command(&["run", "--config"]);
    let output = command.arg(agent.configuration()).stdin(Stdio::null()).output()?;
    Ok((String::from_utf8_lossy(&output.stderr).into_owned(), output.status.code()))
}

#[test]
fn a_ledger_that_is_open_to_others_is_a_mistake_of_the_configuration() -> Result<()> {
    need_root!();
    let mut agent = Agent::builder().start()?;
    ensure!(agent.stop()?.success(), "{}", agent.log());
    let opened = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode));
    let ledger = agent.ledger();
    opened(&ledger, 0o755)?;
    let (words, code) = refused(&agent)?;
    let remedy = format!("chmod 700 {}", ledger.display());
    ensure!(code == Some(2) && words.contains(&remedy), "{code:?}: {words}");
    opened(&ledger, 0o700)?;
    agent.start_again()?;
    ensure!(agent.stop()?.success(), "{}", agent.log());
    Ok(())
}

#[test]
fn sealed_segments_and_the_checkpoint_are_copied_while_the_agent_runs() -> Result<()> {
    need_root!();
    let postgres = Postgres::builder().start()?;
    let bucket = tempfile::tempdir()?;
    let copy =
        format!("[ledger.copy]\nurl = \"file://{}\"\ninterval = \"1s\"", bucket.path().display());
    let mut agent = Agent::builder()
        .ledger("literals = \"keep\"\nseal_bytes = \"1MiB\"")
        .configuration(&copy)
        .start()?;
    agent.await_server(postgres.port())?;
    let script = tempfile::NamedTempFile::new()?;
    let long = format!("SELECT 'long{}';\n", "x".repeat(LENGTH));
    fs::write(script.path(), long.repeat(AT_ONCE as usize))?;
    let mut psql = postgres.psql_command(Via::Unix);
    psql.arg("-f").arg(script.path()).stdin(Stdio::null()).stdout(Stdio::null());
    ensure!(psql.status()?.success());

    let copies = await_until("a copy", || {
        let copies = agent.status()?["ledger"]["copies"].clone();
        Ok((copies["copied"].as_u64() > Some(0) && copies["waiting"] == 0).then_some(copies))
    })?;
    ensure!(copies["trouble"].is_null() && copies["missed"] == 0, "{copies}");
    let host = format!("host={}", agent.status()?["host"].as_str().context("no host")?);
    let log = bucket.path().join("_log").join(&host);
    await_until("the checkpoint's copy", || {
        let (here, there) = (agent.ledger().join("log/checkpoint"), log.join("checkpoint"));
        Ok((there.exists() && fs::read(here)? == fs::read(there)?).then_some(()))
    })?;
    let mut n_copied = 0;
    for day in fs::read_dir(bucket.path().join(&host))? {
        for segment in fs::read_dir(day?.path())? {
            let segment = segment?;
            let original = agent.ledger().join("segments").join(segment.file_name());
            ensure!(fs::read(segment.path())? == fs::read(original)?, "{segment:?} is different");
            n_copied += 1;
        }
    }
    ensure!(copies["copied"] == n_copied, "{n_copied} are there, {copies}");
    let shown = said(&mut agent.command(&["status", "--format", "table"]))?;
    let line = format!("in file://{}, 0 wait", bucket.path().display());
    ensure!(shown.contains(&line), "{shown}");

    // Without a place, the ledger goes on and says so.
    fs::rename(bucket.path(), bucket.path().with_extension("away"))?;
    fs::write(bucket.path(), "no folder")?;
    let mut psql = postgres.psql_command(Via::Unix);
    psql.arg("-f").arg(script.path()).stdin(Stdio::null()).stdout(Stdio::null());
    ensure!(psql.status()?.success());
    await_until("trouble with the copies", || {
        Ok((!agent.status()?["ledger"]["copies"]["trouble"].is_null()).then_some(()))
    })?;
    postgres.psql(Via::Unix, "SELECT 'kept all the same'")?;
    await_statement(&agent, "SELECT ''kept all the same%")?;
    ensure!(troubles(&agent)?.is_empty(), "{:?}", troubles(&agent)?);
    fs::remove_file(bucket.path())?;
    fs::rename(bucket.path().with_extension("away"), bucket.path())?;
    await_until("the copies' recovery", || {
        let copies = &agent.status()?["ledger"]["copies"];
        Ok((copies["trouble"].is_null() && copies["waiting"] == 0).then_some(()))
    })?;
    ensure!(agent.stop()?.success(), "{}", agent.log());
    ensure_whole(&agent)
}

#[test]
fn each_start_says_which_configuration_applies_and_what_it_changes() -> Result<()> {
    need_root!();
    let mut agent = Agent::builder().start()?;
    ensure!(agent.stop()?.success(), "{}", agent.log());
    let file = agent.configuration();
    let written = fs::read_to_string(&file)?;
    fs::write(&file, written + "[host]\nregion = \"eu\"\n")?;
    agent.start_again()?;
    let query = "SELECT action, message FROM rows WHERE record = 'configuration' AND \
                 action <> 'policies_loaded' ORDER BY time";
    let told = await_until("two rows", || {
        let told = agent.rows(query)?;
        Ok((told.len() == 2).then_some(told))
    })?;
    let message = |n: usize| told[n]["message"].as_str().unwrap_or_default().to_owned();
    ensure!(told[0]["action"] == "applied" && told[1]["action"] == "changed", "{told:?}");
    ensure!(message(0).ends_with("the first of this ledger"), "{told:?}");
    let change = "changed since the last start: host.region (nothing) → \"eu\"";
    ensure!(message(1).ends_with(change), "{told:?}");

    // Anybody can make the hash.
    let mut print = agent.command(&["run", "--print-config", "--config"]);
    let shown = tempfile::NamedTempFile::new()?;
    fs::write(shown.path(), said(print.arg(&file))?)?;
    let sum = said(Command::new("sha256sum").arg(shown.path()))?;
    let hash = sum.split(' ').next().unwrap_or_default();
    let expected = format!("configuration of {} (SHA-256 {hash}): ", file.display());
    ensure!(message(1).starts_with(&expected), "{sum}: {told:?}");
    ensure!(agent.stop()?.success(), "{}", agent.log());
    ensure_whole(&agent)
}
