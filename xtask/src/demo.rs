//! dbwarden at work on a throwaway PostgreSQL: real clients, live statements, a count to check.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, IsTerminal},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use dbwarden_tests::{Agent, Logged, Postgres, Running, Via, Watch, is_root, python, said};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{
    build, interrupt, setup,
    steps::{Steps, shown},
};

/// After the last statement of a client, how long dbwarden may take to show it.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks at what can't be waited for.
const PAUSE: Duration = Duration::from_millis(50);
/// Made by the agent; removed again if it wasn't there.
const RUN_FOLDER: &str = "/run/dbwarden";

#[derive(clap::Args)]
pub struct Args {
    /// Leave it up for playing, until Ctrl-C
    #[arg(long)]
    keep: bool,
}

const DATABASE: &str = "CREATE DATABASE clinic";

const TABLES: &str = "
    CREATE TABLE patients (id int PRIMARY KEY, name text, city text);
    INSERT INTO patients SELECT n, 'patient ' || n, 'Graz' FROM generate_series(1, 500) n;
    CREATE TABLE visits (id serial PRIMARY KEY, patient int, at timestamptz DEFAULT now());
    CREATE ROLE dba LOGIN SUPERUSER; CREATE ROLE app LOGIN; CREATE ROLE reports LOGIN;
    GRANT ALL ON ALL TABLES IN SCHEMA public TO app;
    GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO app;
    GRANT SELECT ON ALL TABLES IN SCHEMA public TO reports;";

const DRIVER: &str = "
import psycopg, sys
with psycopg.connect(sys.argv[1]) as db:
    for patient in (7, 77, 777):
        db.execute('SELECT name FROM patients WHERE id = %s', [patient], prepare=True).fetchall()
    with db.cursor().copy('COPY visits (patient) FROM STDIN') as rows:
        for patient in range(1, 101):
            rows.write_row([patient])
";

/// One kind of client.
struct Client {
    /// Its `application_name`, by which the database's count and dbwarden's are compared.
    name: &'static str,
    what: &'static str,
    commands: Vec<Command>,
}

pub fn run(args: &Args) -> Result<()> {
    if !is_root() {
        bail!(
            "loading BPF programs needs root: run `cargo xtask demo` as root, with the cargo that \
             you use now, as in\n  sudo --preserve-env=PATH,HOME,CARGO_TARGET_DIR cargo xtask demo"
        );
    }
    let mut steps = Steps::new(setup::STEPS + build::STEPS + 2)?;
    let toolchain = setup::all(&mut steps)?;
    let built = build::build(&mut steps, &toolchain, false)?;

    let mut started = None;
    steps.step("PostgreSQL, throwaway", |_| {
        let postgres = start_postgres()?;
        let port = postgres.port();
        started = Some(postgres);
        Ok(format!("port {port}"))
    })?;
    let mut postgres = started.context("PostgreSQL was not started")?;

    // Before the agent, so that it is removed after it has ended.
    let _run_folder = RunFolder::note();
    let mut started = None;
    steps.step("dbwarden", |_| {
        let agent = Agent::builder().program(&built.agent).start()?;
        agent.await_server(postgres.port())?;
        let pid = agent.pid();
        started = Some(agent);
        Ok(format!("sees it; its pid is {pid}"))
    })?;
    let agent = started.context("dbwarden was not started")?;

    let scripts = tempfile::Builder::new().prefix("dbwarden-demo-").tempdir()?;
    fs::set_permissions(scripts.path(), fs::Permissions::from_mode(0o755))?;
    let clients = clients(scripts.path(), &postgres)?;
    show(&mut postgres, &agent, clients)?;
    if args.keep {
        play(&postgres, &agent)?;
    }
    Ok(())
}

fn start_postgres() -> Result<Postgres> {
    let postgres = Postgres::builder().tls().log_statements().start()?;
    let as_owner = postgres.conninfo_as(Via::Unix, "postgres", "clinic");
    postgres.psql(Via::Unix, DATABASE)?;
    said(postgres.program("pgbench").args(["-i", "-q"]).arg(&as_owner))?;
    said(postgres.program("psql").args(["-X", "-q", "-c", TABLES, "-d"]).arg(&as_owner))?;
    Ok(postgres)
}

/// Who comes, in this order.
fn clients(scripts: &Path, postgres: &Postgres) -> Result<Vec<Client>> {
    let psql = |via, user: &str, sql: &str| {
        let mut command = postgres.program("psql");
        command.args(["-X", "-q", "-c", sql, "-d"]).arg(postgres.conninfo_as(via, user, "clinic"));
        command
    };
    let by_city = "SELECT city, count(*) FROM patients GROUP BY city";
    let report = script(scripts, "report.sh", &psql(Via::Unix, "reports", by_city))?;
    let program = scripts.join("billing.py");
    fs::write(&program, DRIVER)?;
    let mut driver = python()?;
    driver.arg(program).arg(postgres.conninfo_as(Via::Tcp, "app", "clinic"));
    let mut pgbench = postgres.program("pgbench");
    pgbench.args(["-n", "-S", "-M", "prepared", "-c", "2", "-t", "5"]);
    pgbench.arg(postgres.conninfo_as(Via::Unix, "app", "clinic"));
    Ok(vec![
        Client {
            name: "psql-unix",
            what: "psql over the unix socket",
            commands: vec![
                psql(Via::Unix, "dba", "SELECT count(*) FROM patients"),
                psql(Via::Unix, "dba", "UPDATE patients SET city = 'Wien' WHERE id % 50 = 0"),
            ],
        },
        Client {
            name: "psql-tcp",
            what: "psql over TCP, with a mistake",
            commands: vec![
                psql(Via::Tcp, "dba", "SELECT name FROM patients LIMIT 20"),
                psql(Via::Tcp, "dba", "SELECT name, 1 / (id - id) FROM patients"),
            ],
        },
        Client {
            name: "psql-tls",
            what: "psql over TLS",
            commands: vec![psql(Via::Tls, "dba", "DELETE FROM visits WHERE patient = 13")],
        },
        Client {
            name: "report",
            what: "a script that root runs as the user nobody",
            commands: vec![as_nobody(&report)],
        },
        Client {
            name: "driver",
            what: "a Python program: a prepared statement with parameters, and COPY",
            commands: vec![driver],
        },
        Client {
            name: "pgbench",
            what: "pgbench, two clients with prepared statements",
            commands: vec![pgbench],
        },
    ])
}

/// A shell script that runs `command`.
fn script(folder: &Path, name: &str, command: &Command) -> Result<PathBuf> {
    let quote =
        |word: &std::ffi::OsStr| format!("'{}'", word.to_string_lossy().replace('\'', r"'\''"));
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let line: Vec<String> = words.map(quote).collect();
    let path = folder.join(name);
    // Not by exec: the script stays as the client's parent.
    fs::write(&path, format!("#!/bin/sh\n{}\nexit $?\n", line.join(" ")))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

/// By sudo where it works: there are containers that forbid it, but not runuser.
fn as_nobody(program: &Path) -> Command {
    let mut sudo = Command::new("sudo");
    sudo.args(["-n", "-u", "nobody", "--preserve-env=PGAPPNAME", "--"]);
    let works = Command::new("sudo")
        .args(["-n", "-u", "nobody", "true"])
        .stdin(Stdio::null())
        .output()
        .is_ok_and(|output| output.status.success());
    if !works {
        sudo = Command::new("runuser");
        sudo.args(["-u", "nobody", "--"]);
    }
    sudo.arg(program);
    sudo
}

/// Runs the clients while dbwarden shows what it sees, then compares.
fn show(postgres: &mut Postgres, agent: &Agent, clients: Vec<Client>) -> Result<()> {
    let logged_before = postgres.logged()?.len();
    let watch = agent.watch()?;
    println!("\n$ {}\n", shown(&agent.command(&["watch"])));
    let live = Running::start(
        "dbwarden watch",
        agent.command(&["watch", "--format", "table"]).stdin(Stdio::null()),
        Signal::SIGTERM,
    )?;
    agent.await_watchers(2)?;

    let mut seen = Vec::new();
    let mut whats = Vec::new();
    for client in clients {
        println!("{}", dim(&format!("── {}", client.what)));
        for mut command in client.commands {
            // The statement with the mistake fails, and says so on its own.
            command.env("PGAPPNAME", client.name).stdin(Stdio::null());
            command.output().with_context(|| format!("starting `{}`", shown(&command)))?;
            interrupt::check()?;
        }
        let n_logged = postgres.logged()?.len() - logged_before;
        await_statements(&watch, postgres, n_logged, &mut seen)?;
        // The view is a process of its own and writes when it gets to it.
        std::thread::sleep(4 * PAUSE);
        whats.push((client.name, client.what));
    }
    drop(live);
    let logged = postgres.logged()?.split_off(logged_before);
    println!("\n{}", summary(&whats, &logged, &seen));
    println!("{}", verdict(&logged, &seen, &agent.status()?));
    Ok(())
}

/// Takes statements of this server until there are `n`, or nothing comes any more.
fn await_statements(
    watch: &Watch,
    postgres: &Postgres,
    n: usize,
    seen: &mut Vec<Value>,
) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    while seen.len() < n && Instant::now() < until {
        interrupt::check()?;
        if let Some(line) = watch.next(PAUSE)?
            && line.get("notice").is_none()
            && postgres.owns(&line)
        {
            seen.push(line);
        }
    }
    Ok(())
}

/// The table at the end: what the database counted, what dbwarden saw, and who it was.
fn summary(clients: &[(&str, &str)], logged: &[Logged], seen: &[Value]) -> String {
    let mut rows =
        vec![["client", "database", "dbwarden", "missing", "who it was"].map(str::to_owned)];
    for (name, _) in clients {
        let of_client: Vec<&Value> =
            seen.iter().filter(|record| record["application"] == **name).collect();
        let counted = logged.iter().filter(|statement| statement.application == **name).count();
        let who: BTreeSet<String> = of_client.iter().map(|record| identity(record)).collect();
        rows.push([
            (*name).to_owned(),
            counted.to_string(),
            of_client.len().to_string(),
            counted.saturating_sub(of_client.len()).to_string(),
            who.into_iter().collect::<Vec<_>>().join("; "),
        ]);
    }
    table(&rows)
}

/// As in `nobody: psql ← report.sh ← sudo (login alice)`; `watch` has the line of parents whole.
fn identity(record: &Value) -> String {
    let text = |name: &str| record[name].as_str();
    let user = text("os_user").map(str::to_owned);
    let user = user.or_else(|| record["uid"].as_u64().map(|uid| format!("uid {uid}")));
    let exe = text("exe").and_then(|path| path.rsplit('/').next()).unwrap_or("an unknown program");
    let parents = record["parents"].as_array().map(Vec::as_slice).unwrap_or_default();
    let parents = parents.iter().filter_map(|parent| parent["comm"].as_str());
    let mut line: Vec<&str> = std::iter::once(exe).chain(parents).collect();
    // sudo with a terminal is two processes.
    line.dedup();
    line.truncate(3);
    let login = text("login_user").map(|login| format!(" (login {login})")).unwrap_or_default();
    format!("{}: {}{login}", user.as_deref().unwrap_or("unknown"), line.join(" ← "))
}

fn table(rows: &[[String; 5]]) -> String {
    let mut widths = [0; 5];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut lines = Vec::new();
    for row in rows {
        let [client, database, dbwarden, missing, who] = row;
        let [w, x, y, z, _] = widths;
        lines.push(format!("{client:<w$}  {database:>x$}  {dbwarden:>y$}  {missing:>z$}  {who}"));
    }
    lines.join("\n")
}

fn verdict(logged: &[Logged], seen: &[Value], status: &Value) -> String {
    let drops: BTreeMap<&str, u64> = status["totals"]["drops"]
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(reason, n)| Some((reason.as_str(), n.as_u64()?)))
        .filter(|(_, n)| *n > 0)
        .collect();
    let mut texts: BTreeMap<&str, i64> = BTreeMap::new();
    for statement in logged {
        *texts.entry(statement.text.as_str()).or_default() += 1;
    }
    for record in seen {
        *texts.entry(record["text"].as_str().unwrap_or("(text unknown)")).or_default() -= 1;
    }
    let differing: Vec<String> =
        texts.iter().filter(|(_, n)| **n != 0).map(|(text, n)| format!("  {n:+} {text}")).collect();
    let (counted, saw) = (logged.len(), seen.len());
    if differing.is_empty() && drops.is_empty() {
        return format!(
            "PostgreSQL logged {counted} statements; dbwarden saw the same {saw}, text by text, and \
             lost nothing."
        );
    }
    format!(
        "PostgreSQL logged {counted} statements, dbwarden saw {saw}; its own count of losses: \
         {drops:?}\nthe difference (+ missed, - more than logged):\n{}",
        differing.join("\n")
    )
}

/// Leaves all of it up until somebody stops it.
fn play(postgres: &Postgres, agent: &Agent) -> Result<()> {
    println!("\nIt stays up. In other terminals:");
    let watch = shown(&agent.command(&["watch"]));
    let status = shown(&agent.command(&["status"]));
    for (what, line) in [
        ("the statements, live", watch),
        ("what is seen, counted", status),
        (
            "a client over the unix socket",
            format!("psql '{}'", postgres.conninfo_as(Via::Unix, "dba", "clinic")),
        ),
        (
            "a client over TLS",
            format!("psql '{}'", postgres.conninfo_as(Via::Tls, "dba", "clinic")),
        ),
    ] {
        println!("  {}\n    {line}", dim(what));
    }
    println!("Ctrl-C here (or kill {}) stops and removes everything.", std::process::id());
    while interrupt::check().is_ok() {
        std::thread::sleep(2 * PAUSE);
    }
    println!();
    Ok(())
}

fn dim(text: &str) -> String {
    if io::stdout().is_terminal() { format!("\x1b[2m{text}\x1b[0m") } else { text.to_owned() }
}

/// The agent's runtime folder, removed at the end unless somebody had it before.
struct RunFolder {
    was_there: bool,
}

impl RunFolder {
    fn note() -> RunFolder {
        RunFolder { was_there: Path::new(RUN_FOLDER).exists() }
    }
}

impl Drop for RunFolder {
    fn drop(&mut self) {
        if !self.was_there {
            let _ = fs::remove_dir_all(RUN_FOLDER);
        }
    }
}
