//! Servers found by themselves: whenever they start, wherever they live, and whatever pretends to be one.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use dbwarden_tests::{Agent, Postgres, Session, Via, await_until, need_root, said};
use serde_json::{Value, json};

/// What `status` says of the server on this port.
fn server(agent: &Agent, port: u16) -> Result<Option<Value>> {
    let ending = format!(":{port}");
    let status = agent.status()?;
    let servers = status["servers"].as_array().context("status lists no servers")?;
    let listens = |server: &&Value| {
        let places = server["listens"].as_array().map(Vec::as_slice).unwrap_or_default();
        places.iter().filter_map(Value::as_str).any(|place| place.ends_with(&ending))
    };
    Ok(servers.iter().find(listens).cloned())
}

fn await_gone(agent: &Agent, port: u16) -> Result<()> {
    await_until("the end of the server", || Ok(server(agent, port)?.is_none().then_some(())))
}

/// A server is watched at its first start and at every other. A client that comes in the very moment in
/// which it is ready may be there before the agent: then it is joined, and known all the same.
#[test]
fn servers_come_and_go() -> Result<()> {
    need_root!();
    let mut before = Postgres::builder().start()?;
    let agent = Agent::builder().start()?;
    let watch = agent.watch_only(&[])?;
    let mut later = Postgres::builder().start()?;
    for round in 0..3 {
        if round > 0 {
            // Both at once, on the same ports.
            before.stop()?;
            later.stop()?;
            await_gone(&agent, before.port())?;
            await_gone(&agent, later.port())?;
            before.start()?;
            later.start()?;
        }
        for (name, postgres) in [("later", &later), ("before", &before)] {
            let place = postgres.conninfo_as(Via::Tcp, "postgres", "template1");
            let mut psql = postgres.program("psql");
            let mut session = Session::start(psql.args(["-XAtq", "-d", &place]))?;
            agent.await_server(postgres.port())?;
            let text = format!("SELECT '{name} {round}'");
            session.ask(&text)?;
            session.ask("SELECT 'next'")?;
            let wanted = format!("{text};");
            let records = watch.statements(1, |record| record["text"] == wanted.as_str())?;
            assert_eq!(records[0]["server"], postgres.name().as_str(), "{:#}", records[0]);
            // It may have begun before its server was tracked: then its user is read from the server
            // process's title and its process from procfs, a moment later.
            await_until("who a session belongs to", || {
                let text = format!("SELECT 'who {name} {round}'");
                session.ask(&text)?;
                let wanted = format!("{text};");
                let who = watch.statements(1, |record| record["text"] == wanted.as_str())?;
                let known = who[0]["db_user"] == "postgres" && who[0]["pid"] == session.pid();
                Ok(known.then_some(()))
            })?;
        }
    }
    Ok(())
}

/// `[[server]]` names, excludes, and says what is missing.
#[test]
fn configured_servers() -> Result<()> {
    need_root!();
    let named = Postgres::builder().start()?;
    let excluded = Postgres::builder().start()?;
    let by_socket = Postgres::builder().start()?;
    let socket = by_socket.socket_dir().join(format!(".s.PGSQL.{}", by_socket.port()));
    let agent = Agent::builder()
        .configuration(&format!(
            "[[server]]\nname = \"billing\"\nport = {}\n\
             [[server]]\nexclude = true\nport = {}\n\
             [[server]]\nname = \"ledger\"\nsocket = \"{}\"\n\
             [[server]]\nname = \"nowhere\"\nport = 1\n",
            named.port(),
            excluded.port(),
            socket.display(),
        ))
        .start()?;
    let name = |port| Ok::<_, anyhow::Error>(server(&agent, port)?.map(|s| s["name"].clone()));
    assert_eq!(name(named.port())?, Some(json!("billing")));
    assert_eq!(name(excluded.port())?, None);
    assert_eq!(name(by_socket.port())?, Some(json!("ledger")));

    let status = agent.status()?;
    assert_eq!(status["absent"].as_array().map(Vec::len), Some(1), "{status:#}");
    assert_eq!(status["absent"][0]["name"], "nowhere");
    let said = agent.log();
    let warning = "the configured server \"nowhere\" is not running: looked for port = 1";
    ensure!(said.contains(warning), "{said}");

    let watch = agent.watch_only(&["--who", "psql"])?;
    excluded.psql(Via::Tcp, "SELECT 'excluded'")?;
    named.psql(Via::Tcp, "SELECT 'named'")?;
    let seen =
        watch.until(|record| excluded.owns(record), |record| record["text"] == "SELECT 'named'")?;
    assert_eq!(seen.len(), 1, "{seen:#?}");
    assert_eq!(seen[0]["server"], "billing");
    Ok(())
}

/// A server of a container: its own network, mounts and socket directory, found from outside.
#[test]
fn a_server_in_namespaces_of_its_own() -> Result<()> {
    need_root!();
    // Its folder for sockets exists only in its own mount namespace.
    let enter = "ip link set lo up && mount -t tmpfs -o mode=1777 none /mnt && exec \"$@\"";
    let agent = Agent::builder().start()?;
    let watch = agent.watch_only(&["--who", "psql"])?;
    let inside = Postgres::builder()
        .setting("unix_socket_directories", "/mnt")
        .by_way_of(&["unshare", "--mount", "--net", "sh", "-ec", enter, "sh"])
        .start()?;
    agent.await_server(inside.port())?;
    let pid = inside.pid()?.to_string();
    for (text, host) in [("SELECT 'own socket'", "/mnt"), ("SELECT 'own network'", "127.0.0.1")] {
        let mut client = Command::new("nsenter");
        client.args(["--target", &pid, "--mount", "--net"]);
        client.arg(inside.program("psql").get_program()).args(["-XAtq", "-c", text, "-d"]);
        client.arg(format!("host={host} port={} user=postgres", inside.port()));
        said(&mut client)?;
        let records = watch.statements(1, |record| record["text"] == text)?;
        let record = &records[0];
        let name = record["server"].as_str().unwrap_or_default();
        ensure!(name.starts_with(&format!("pg-{}-", inside.port())), "{record:#}");
        ensure!(record["pid"].is_u64() && record["db_user"] == "postgres", "{record:#}");
    }
    Ok(())
}

/// The TLS library that the server runs is not the one on disk any more.
#[test]
fn a_replaced_tls_library_is_still_observed() -> Result<()> {
    need_root!();
    let folder = open_folder()?;
    let library = said(Command::new("sh").args(["-c", "ldconfig -p | grep -m1 'libssl\\.so\\.'"]))?;
    let library = library.trim().rsplit(' ').next().context("ldconfig knows no libssl")?.to_owned();
    let copy = folder.path().join(Path::new(&library).file_name().context("a library's name")?);
    fs::copy(&library, &copy)?;
    let path = format!("LD_LIBRARY_PATH={}", folder.path().display());
    let postgres = Postgres::builder().tls().by_way_of(&["env", &path]).start()?;
    let maps = fs::read_to_string(format!("/proc/{}/maps", postgres.pid()?))?;
    ensure!(maps.contains(&copy.display().to_string()), "the server does not run the copy");
    fs::remove_file(&copy)?;

    let agent = Agent::builder().start()?;
    let watch = agent.watch_only(&["--who", "psql"])?;
    postgres.psql(Via::Tls, "SELECT 'by a deleted library'")?;
    let text = "SELECT 'by a deleted library'";
    let records = watch.statements(1, |record| record["text"] == text)?;
    assert_eq!(records[0]["transport"], "tls", "{:#}", records[0]);
    Ok(())
}

/// Anybody can start a real server: it is observed, under a quota, and called what it is.
#[test]
fn a_server_of_somebody_elses_is_unverified() -> Result<()> {
    need_root!();
    let folder = open_folder()?;
    let copy = folder.path().join("postgres");
    let nobody = Some(65534);
    let real = Postgres::builder().start()?;
    fs::copy(real.program("postgres").get_program(), &copy)?;
    chown(&copy, nobody, nobody)?;
    let agent = Agent::builder().start()?;
    let watch = agent.watch_only(&["--who", "psql"])?;
    let postgres = Postgres::builder().account("nobody").program(&copy).start()?;
    agent.await_server(postgres.port())?;
    postgres.psql(Via::Tcp, "SELECT 'doubtful'")?;
    let records = watch.statements(1, |record| record["text"] == "SELECT 'doubtful'")?;
    let name = records[0]["server"].as_str().unwrap_or_default();
    ensure!(name.starts_with(&format!("unverified-{}-", postgres.port())), "{name}");
    let known = server(&agent, postgres.port())?.context("status does not list it")?;
    assert_eq!(known["verified"], false);
    let doubts = known["unverified_because"].as_str().unwrap_or_default();
    ensure!(doubts.contains("its executable belongs to uid 65534"), "{doubts}");

    // More than a second's quota, and at last a statement that is seen again.
    let mut session = Session::start(&mut postgres.psql_command(Via::Unix))?;
    let large = "x".repeat(100_000);
    for _ in 0..40 {
        session.ask(&format!("SELECT length('{large}')"))?;
    }
    let status = agent.status()?;
    let drops = &status["totals"]["drops"];
    ensure!(drops["quota"].as_u64().is_some_and(|n| n > 0), "{drops:#}");
    real.psql(Via::Unix, "SELECT 'unharmed'")?;
    watch.statements(1, |record| record["text"] == "SELECT 'unharmed'")?;
    Ok(())
}

/// Processes that call themselves servers and lay out traps keep nobody from being found.
#[test]
fn pretenders_are_passed_by() -> Result<()> {
    need_root!();
    let folder = open_folder()?;
    let program = folder.path().join("postgres");
    fs::copy("/bin/sleep", &program)?;
    let mut pretenders = Vec::new();
    for (n, traps) in [
        "mkfifo PG_VERSION postmaster.pid",
        "echo 15 >PG_VERSION; mkfifo postmaster.pid",
        "echo 15 >PG_VERSION; ln -s /dev/zero postmaster.pid",
        "ln -s /proc/self/fd PG_VERSION; ln -s loop loop",
        "echo 15 >PG_VERSION; printf '1\\n/\\n' >postmaster.pid; mkdir global; mkfifo global/pg_control",
    ]
    .into_iter()
    .enumerate()
    {
        let data = folder.path().join(n.to_string());
        fs::create_dir(&data)?;
        said(Command::new("sh").args(["-ec", traps]).current_dir(&data))?;
        let mut sleep = Command::new(&program);
        sleep.arg("1000").current_dir(&data);
        pretenders.push(dbwarden_tests::Running::start(
            "a pretender",
            &mut sleep,
            nix::sys::signal::Signal::SIGTERM,
        )?);
    }
    let started = Instant::now();
    let agent = Agent::builder().start()?;
    let watch = agent.watch_only(&["--who", "psql"])?;
    let postgres = Postgres::builder().start()?;
    agent.await_server(postgres.port())?;
    postgres.psql(Via::Tcp, "SELECT 'found'")?;
    watch.statements(1, |record| record["text"] == "SELECT 'found'")?;
    ensure!(started.elapsed() < Duration::from_secs(30), "the traps cost {:?}", started.elapsed());
    let status = agent.status()?;
    let servers = status["servers"].as_array().context("status lists no servers")?;
    let pids: Vec<u32> = pretenders.iter().map(dbwarden_tests::Running::pid).collect();
    let is_pretender =
        |s: &&Value| s["pid"].as_u64().is_some_and(|p| pids.iter().any(|x| u64::from(*x) == p));
    assert_eq!(servers.iter().find(is_pretender), None);
    Ok(())
}

/// A server's program may be called anything if the configuration names it.
#[test]
fn a_server_by_another_name() -> Result<()> {
    need_root!();
    let folder = open_folder()?;
    let program = folder.path().join("warehouse-db");
    fs::copy(Postgres::builder().start()?.program("postgres").get_program(), &program)?;
    let agent = Agent::builder()
        .configuration(&format!(
            "[[server]]\nname = \"warehouse\"\nexecutable = \"{}\"\n",
            program.display()
        ))
        .start()?;
    let watch = agent.watch_only(&["--who", "psql"])?;
    let postgres = Postgres::builder().program(&program).start()?;
    agent.await_server(postgres.port())?;
    postgres.psql(Via::Tcp, "SELECT 'renamed'")?;
    let records = watch.statements(1, |record| record["text"] == "SELECT 'renamed'")?;
    assert_eq!(records[0]["server"], "warehouse");
    Ok(())
}

fn open_folder() -> Result<tempfile::TempDir> {
    let folder = tempfile::tempdir()?;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
    Ok(folder)
}
