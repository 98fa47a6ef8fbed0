//! Who is behind a pooler: many clients on few server connections, each named as itself or not at all.

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::PermissionsExt,
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use dbwarden_tests::{
    Agent, PgBouncer, Postgres, Session, Via, Watch, await_until, need_root, python, said,
};
use serde_json::Value;

/// Accounts that every Debian has.
const UIDS: [u32; 4] = [1, 2, 7, 65534];

/// Says who it is in half of what it says, by text and by parameter; the other half all others say too.
const CLIENT: &str = r"
import os, psycopg, sys
where, me, n = sys.argv[1], sys.argv[2], int(sys.argv[3])
prepare = None if sys.argv[4] == 'never' else int(sys.argv[4])
os.setgid(int(sys.argv[5]))
os.setuid(int(sys.argv[5]))
with psycopg.connect(where, autocommit=True, prepare_threshold=prepare) as c:
    for i in range(n):
        c.execute(f'SELECT 1 /* pooled {me}. {i} */')
        c.execute('SELECT %s::text AS pooled', (f'{me}. {i}',))
        c.execute('SELECT count(*) AS pooled_same FROM pooled_rows')
        with c.transaction():
            c.execute('INSERT INTO pooled_rows VALUES (%s)', (f'{me}.',))
            c.execute('SELECT count(*) AS pooled_inside FROM pooled_rows')
";
const ROUNDS: usize = 40;

struct Client {
    me: String,
    uid: u32,
    process: Child,
}

/// Starts one as another user: its own process is what connects.
fn client(n: usize, conninfo: &str, prepare: &str) -> Result<Client> {
    let (me, uid) = (format!("client{n}"), UIDS[n % UIDS.len()]);
    let mut command = python()?;
    // It steps down itself: the drivers may be where only root may read.
    command.args(["-c", CLIENT, conninfo, &me, &ROUNDS.to_string(), prepare, &uid.to_string()]);
    let process = command.env("HOME", "/").current_dir("/").spawn()?;
    Ok(Client { me, uid, process })
}

fn table(postgres: &Postgres) -> Result<()> {
    postgres.psql(Via::Unix, "CREATE TABLE pooled_rows (who text)").map(|_| ())
}

/// Waits for the agent to watch both.
fn watched(agent: &Agent, postgres: &Postgres, pooler: &PgBouncer) -> Result<Watch> {
    agent.await_server(postgres.port())?;
    agent.await_server(pooler.port())?;
    agent.watch_server(postgres)
}

/// What a row's text or parameter says of who sent it.
fn says<'a>(row: &Value, clients: &'a [Client]) -> Option<&'a Client> {
    let said = format!("{} {}", row["text"], row["parameters"]);
    clients.iter().find(|client| said.contains(&format!("{}.", client.me)))
}

/// Everything that came through a pooler up to the end, compared with who really sent it; how many rows
/// say who sent them, and how many of these have a name.
fn check(rows: &[Value], clients: &[Client], pooler: &PgBouncer) -> Result<(usize, usize)> {
    let (mut distinct, mut exact) = (0, 0);
    let mut same: HashMap<(u64, &str), usize> = HashMap::new();
    for row in rows {
        let text = row["text"].as_str().unwrap_or_default();
        ensure!(row["pooler"] == pooler.name(), "{row:#}");
        let is_exact = row["client_certainty"] == "exact";
        let truth = says(row, clients);
        if is_exact {
            let pid = row["pid"].as_u64().context("no pid")?;
            let of_pid = clients.iter().find(|client| u64::from(client.process.id()) == pid);
            let named = of_pid.with_context(|| format!("nobody's: {row:#}"))?;
            ensure!(row["uid"] == named.uid, "{row:#}");
            if let Some(truth) = truth {
                ensure!(truth.me == named.me, "{} is not {}: {row:#}", named.me, truth.me);
            }
            *same.entry((pid, text)).or_default() += 1;
        } else if row["client_certainty"] == "shared" {
            // Two clients run as each user.
            let is_of = |client: &Client| row["pid"].is_null() && row["uid"] == client.uid;
            ensure!(truth.map_or(clients.iter().any(is_of), is_of), "{row:#}");
        } else {
            ensure!(row["client_certainty"] == "unknown", "{row:#}");
            ensure!(row["pid"] == pooler.pid(), "{row:#}");
        }
        distinct += usize::from(truth.is_some());
        exact += usize::from(truth.is_some() && is_exact);
    }
    // Whoever is named for what all say has not said it more often than he did.
    for ((pid, text), n) in same {
        let most = if text.contains("pooled_") { ROUNDS } else { usize::MAX };
        ensure!(n <= most, "{text} was said {n} times by {pid}");
    }
    Ok((distinct, exact))
}

/// Runs `n` clients at a time through a pooler, and compares.
fn run(mode: &str, back: Via, prepare: &str, n: usize) -> Result<()> {
    let postgres = Postgres::builder().tls().preload("pg_stat_statements").start()?;
    table(&postgres)?;
    postgres.psql(Via::Unix, "CREATE EXTENSION pg_stat_statements")?;
    let agent = Agent::builder().start()?;
    let pooler = PgBouncer::builder()
        .back(back)
        .setting("pool_mode", mode)
        .setting("default_pool_size", "3")
        .start(&postgres)?;
    let watch = watched(&agent, &postgres, &pooler)?;
    let ways = [Via::Unix, Via::Tcp, Via::Tls];
    let mut clients = (0..n)
        .map(|n| client(n, &pooler.conninfo(ways[n % ways.len()]), prepare))
        .collect::<Result<Vec<_>>>()?;
    for client in &mut clients {
        ensure!(client.process.wait()?.success(), "{} failed", client.me);
    }
    postgres.psql(Via::Unix, "SELECT 'the end'")?;
    let rows =
        watch.until(|row| row["pooler"] != Value::Null, |row| row["text"] == "SELECT 'the end'")?;
    let rows = &rows[..rows.len() - 1];

    let (distinct, exact) = check(rows, &clients, &pooler)?;
    let all_exact = rows.iter().filter(|row| row["client_certainty"] == "exact").count();
    println!(
        "{mode} pooling: {} rows, {all_exact} of them exact; {exact} of {distinct} that say who sent them",
        rows.len()
    );
    ensure!(distinct == n * ROUNDS * 3, "{distinct} rows say who sent them");
    ensure!(exact * 100 >= distinct * 99, "{exact} of {distinct} are exact");
    // Each once, as the database counts.
    let count = "SELECT sum(calls) FROM pg_stat_statements WHERE query LIKE '%pooled%' \
                 AND query NOT LIKE 'CREATE%'";
    let counted: usize = postgres.psql(Via::Unix, count)?.parse()?;
    let pooled = |row: &&Value| row["text"].as_str().is_some_and(|text| text.contains("pooled"));
    let recorded = rows.iter().filter(pooled).count();
    ensure!(recorded == counted, "{recorded} recorded, {counted} counted");
    Ok(())
}

#[test]
fn transaction_pooling_names_the_right_ones() -> Result<()> {
    need_root!();
    run("transaction", Via::Tcp, "never", 8)
}

#[test]
fn session_pooling_names_the_right_ones() -> Result<()> {
    need_root!();
    run("session", Via::Unix, "1", 8)
}

/// An agent of one that writes through a pooler is found, and its launcher named.
#[test]
fn an_ai_behind_a_pooler_is_flagged() -> Result<()> {
    need_root!();
    let postgres = Postgres::builder().start()?;
    table(&postgres)?;
    let agent = Agent::builder().start()?;
    let pooler = PgBouncer::builder().setting("pool_mode", "transaction").start(&postgres)?;
    let watch = watched(&agent, &postgres, &pooler)?;
    let folder = tempfile::tempdir()?;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
    let claude = folder.path().join("claude");
    fs::copy("/bin/sh", &claude)?;
    let psql = postgres.program("psql");
    let text = "INSERT INTO pooled_rows VALUES ('by an agent')";
    let mut command = Command::new(&claude);
    command.args(["-c", "\"$@\"; true", "claude"]).arg(psql.get_program());
    command.args(["-XAtq", "-d", &pooler.conninfo(Via::Unix), "-c", text]);
    said(&mut command)?;
    let rows = watch.statements(1, |row| row["text"] == text)?;
    let row = &rows[0];
    for (field, expected) in [
        ("principal", "claude-code"),
        ("principal_kind", "ai"),
        ("pooler", &pooler.name()),
        ("client_certainty", "exact"),
        ("verdict", "flag"),
        ("rule", "builtin:ai-writes"),
    ] {
        ensure!(row[field] == expected, "{field} of {row:#}");
    }

    // What it says to the pooler itself is the pooler's.
    let console = pooler.conninfo_to(Via::Tcp, "pgbouncer");
    let all = agent.watch()?;
    said(postgres.program("psql").args(["-XAtq", "-d", &console, "-c", "SHOW POOLS"]))?;
    let shown = all.statements(1, |row| row["text"] == "SHOW POOLS")?;
    ensure!(shown[0]["server"] == pooler.name() && shown[0]["pooler"].is_null(), "{:#}", shown[0]);

    // Whom it lets in and whom it doesn't is kept, with who it was.
    let stranger = pooler.conninfo(Via::Tcp).replace("user=postgres", "user=stranger");
    let refused = postgres.program("psql").args(["-XAtq", "-d", &stranger, "-c", ""]).output()?;
    ensure!(!refused.status.success(), "it let a stranger in");
    let of_pooler = format!(
        "SELECT action, db_user, exe FROM rows WHERE server = '{}' AND record = 'connection' \
         AND action = 'refused'",
        pooler.name()
    );
    let row = await_until("the refusal's row", || {
        let text = said(&mut agent.command(&["sql", "--format", "json", &of_pooler]))?;
        Ok(text.lines().next().map(str::to_owned))
    })?;
    let row: Value = serde_json::from_str(&row)?;
    let exe = row["exe"].as_str().unwrap_or_default();
    ensure!(row["db_user"] == "stranger" && exe.ends_with("/psql"), "{row:#}");
    Ok(())
}

/// Clients never notice the agent; whom it did not see at work it does not name.
#[test]
fn an_agent_that_comes_and_goes_says_what_it_does_not_know() -> Result<()> {
    need_root!();
    let postgres = Postgres::builder().start()?;
    table(&postgres)?;
    let pooler = PgBouncer::builder().setting("pool_mode", "transaction").start(&postgres)?;
    let mut before = Session::start(postgres.program("psql").args([
        "-XAtq",
        "-d",
        &pooler.conninfo(Via::Unix),
    ]))?;
    let mut pooler_is_old = || before.ask("SELECT extract(epoch FROM clock_timestamp())");
    let started: f64 = pooler_is_old()?.parse()?;
    await_until("some time", || {
        Ok((pooler_is_old()?.parse::<f64>()? > started + 2.5).then_some(()))
    })?;

    let mut agent = Agent::builder().start()?;
    let watch = watched(&agent, &postgres, &pooler)?;
    before.ask("SELECT 'while it is not sure'")?;
    // Whether the first answer is the first question's is known when the second one comes.
    before.ask("SELECT 'something else'")?;
    let rows = watch.statements(1, |row| row["text"] == "SELECT 'while it is not sure';")?;
    let row = &rows[0];
    ensure!(row["client_certainty"] == "unknown" && row["pid"] == pooler.pid(), "{row:#}");

    let mut clients = (0..4)
        .map(|n| client(n, &pooler.conninfo(Via::Tcp), "never"))
        .collect::<Result<Vec<_>>>()?;
    watch.statements(20, |row| row["pooler"] == pooler.name())?;
    agent.kill()?;
    for client in &mut clients {
        ensure!(client.process.wait()?.success(), "{} failed", client.me);
    }
    let rows = postgres.psql(Via::Unix, "SELECT count(*) FROM pooled_rows")?;
    ensure!(rows.parse::<usize>()? == 4 * ROUNDS, "{rows}");
    Ok(())
}

/// A program of that name whom nobody vouches for names nobody.
#[test]
fn a_pooler_of_somebody_s_own_is_not_believed() -> Result<()> {
    need_root!();
    let postgres = Postgres::builder().start()?;
    let agent = Agent::builder().start()?;
    let account = "nobody";
    let pooler = PgBouncer::builder().account(account).start(&postgres)?;
    let watch = watched(&agent, &postgres, &pooler)?;
    let mut command = postgres.program("psql");
    command.args(["-XAtq", "-d", &pooler.conninfo(Via::Unix), "-c", "SELECT 'through it'"]);
    command.stdin(Stdio::null());
    said(&mut command)?;
    let rows = watch.statements(1, |row| row["text"] == "SELECT 'through it'")?;
    let row = &rows[0];
    ensure!(row["pooler"].is_null() && row["client_certainty"].is_null(), "{row:#}");
    ensure!(row["os_user"] == account && row["pid"] == pooler.pid(), "{row:#}");
    Ok(())
}
