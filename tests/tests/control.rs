//! The service from outside: its start and end, its commands, and those who misuse them.

use std::{
    fs,
    io::{Read, Write},
    os::unix::{
        fs::PermissionsExt,
        net::{UnixDatagram, UnixListener, UnixStream},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use dbwarden_tests::{Agent, Postgres, Running, Via, await_until, need_root, place};
use nix::sys::signal::Signal;
use serde_json::Value;

fn dbwarden() -> Result<PathBuf> {
    match std::env::var_os("DBWARDEN_BIN") {
        Some(program) => Ok(program.into()),
        None => Ok(place::profile_dir()?.join("dbwarden")),
    }
}

/// `dbwarden run` with a configuration that it should refuse; what it says, and its exit code.
fn run_refused(configuration: &Path) -> Result<(String, Option<i32>)> {
    let mut command = Command::new(dbwarden()?);
    let Output { status, stderr, .. } =
        command.args(["run", "--config"]).arg(configuration).output()?;
    Ok((String::from_utf8_lossy(&stderr).into_owned(), status.code()))
}

fn configuration(folder: &Path, socket: &Path) -> Result<PathBuf> {
    let file = folder.join("config.toml");
    fs::write(&file, format!("[control]\nsocket = \"{}\"\n", socket.display()))?;
    Ok(file)
}

#[test]
fn systemd_is_told_of_start_and_end() -> Result<()> {
    need_root!();
    let folder = tempfile::tempdir()?;
    let file = configuration(folder.path(), &folder.path().join("control.sock"))?;
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path)?;
    socket.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut command = Command::new(dbwarden()?);
    command.args(["run", "--config"]).arg(&file).env("NOTIFY_SOCKET", &path);
    let mut agent = Running::start("dbwarden", command.stderr(Stdio::null()), Signal::SIGTERM)?;
    let await_line = |wanted: &str| {
        let mut datagram = [0; 4096];
        loop {
            let n = socket.recv(&mut datagram).with_context(|| format!("waiting for {wanted}"))?;
            let text = String::from_utf8_lossy(&datagram[..n]).into_owned();
            if text.lines().any(|line| line == wanted) {
                return anyhow::Ok(text);
            }
        }
    };
    let ready = await_line("READY=1")?;
    ensure!(ready.contains("STATUS=watching "), "{ready}");
    agent.signal(Signal::SIGTERM)?;
    await_line("STOPPING=1")?;
    assert_eq!(agent.wait()?.code(), Some(0));
    ensure!(!folder.path().join("control.sock").exists(), "the control socket is left behind");
    Ok(())
}

#[test]
fn a_second_agent_is_refused() -> Result<()> {
    need_root!();
    let agent = Agent::builder().start()?;
    let folder = tempfile::tempdir()?;
    let file = configuration(folder.path(), &folder.path().join("control.sock"))?;
    let (said, code) = run_refused(&file)?;
    assert_eq!(code, Some(2), "{said}");
    let words = format!("another dbwarden is running on this host (pid {})", agent.pid());
    ensure!(said.contains(&words), "{said}");
    assert_eq!(agent.status()?["pid"], agent.pid());
    Ok(())
}

#[test]
fn what_stands_where_the_control_socket_should() -> Result<()> {
    need_root!();
    let folder = tempfile::tempdir()?;
    let at = |name: &str| folder.path().join(name);
    let file = configuration(folder.path(), &at("precious"))?;
    fs::write(at("precious"), "data")?;
    let (said, code) = run_refused(&file)?;
    assert_eq!(code, Some(2), "{said}");
    ensure!(said.contains("precious exists and is not a socket"), "{said}");
    assert_eq!(fs::read_to_string(at("precious"))?, "data");

    // Somebody answers there.
    let file = configuration(folder.path(), &at("live"))?;
    let _live = UnixListener::bind(at("live"))?;
    let (said, code) = run_refused(&file)?;
    assert_eq!(code, Some(2), "{said}");
    ensure!(said.contains("live"), "{said}");

    // Nobody does any more.
    let mut agent = Agent::builder().start()?;
    let socket = agent.control().to_owned();
    agent.kill()?;
    ensure!(socket.exists(), "a killed agent can't clean up");
    agent.start_again()?;
    assert_eq!(agent.status()?["pid"], agent.pid());
    Ok(())
}

#[test]
fn a_wrong_configuration_is_explained() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("config.toml");
    fs::write(&file, "[capture]\nhooks = \"auto\"\nring_byts = \"8 MiB\"\n")?;
    let (said, code) = run_refused(&file)?;
    assert_eq!(code, Some(2), "{said}");
    for word in [&*format!("{}:3", file.display()), "ring_byts", "ring_bytes"] {
        ensure!(said.contains(word), "{word} is not in: {said}");
    }
    Ok(())
}

#[test]
fn status_counts_what_was_done() -> Result<()> {
    need_root!();
    let postgres = Postgres::builder().start()?;
    let agent = Agent::builder().start()?;
    let watch = agent.watch_server(&postgres)?;
    for n in 0..7 {
        let via = [Via::Unix, Via::Tcp, Via::Tcp6][n % 3];
        postgres.psql(via, &format!("SELECT {n}"))?;
    }
    watch.statements(7, |record| postgres.owns(record))?;
    let name = postgres.name();
    await_until("the last connection's end", || {
        let status = agent.status()?;
        let servers = status["servers"].as_array().context("status lists no servers")?;
        let server = servers.iter().find(|server| server["name"] == name.as_str());
        let server = server.context("status does not list the server")?;
        if server["connections_open"] != 0 {
            return Ok(None);
        }
        assert_eq!(server["statements"], 7, "{server:#}");
        assert_eq!(server["connections"], 7, "{server:#}");
        assert_eq!(server["verified"], true, "{server:#}");
        assert_eq!(status["totals"]["drops"], serde_json::json!({}), "{status:#}");
        Ok(Some(()))
    })
}

/// On a terminal there is a table, in which nobody's words are obeyed; in a pipe lines of JSON.
#[test]
fn a_terminal_shows_a_table_and_obeys_nobody() -> Result<()> {
    need_root!();
    let postgres = Postgres::builder().start()?;
    let agent = Agent::builder().start()?;
    let name = postgres.name();
    let piped = agent.watch_server(&postgres)?;
    let watch = agent.command(&["watch", "--literals", "--server", &name]);
    let words: Vec<_> = [watch.get_program()].into_iter().chain(watch.get_args()).collect();
    let line: Vec<_> = words.iter().map(|word| format!("'{}'", word.display())).collect();
    let mut script = Command::new("script");
    script.args(["--quiet", "--command", &line.join(" "), "/dev/null"]);
    script.env("COLUMNS", "200").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = script.spawn().context("starting script")?;
    let mut shown = child.stdout.take().context("script has no output")?;
    agent.await_watchers(2)?;

    let evil = "\u{1b}]0;owned\u{7}\u{1b}[2Jevil";
    let mut psql = postgres.psql_command(Via::Unix);
    psql.env("PGAPPNAME", evil).args(["-c", &format!("SELECT '{evil}'"), "-c", "SELECT 'last'"]);
    dbwarden_tests::said(&mut psql)?;
    let records = piped.statements(2, |record| postgres.owns(record))?;
    assert_eq!(records[0]["text"], format!("SELECT '{evil}'"));

    let mut output = Vec::new();
    let mut buffer = [0; 4096];
    while !String::from_utf8_lossy(&output).contains("'last'") {
        let n = shown.read(&mut buffer)?;
        ensure!(n > 0, "watch has ended: {}", String::from_utf8_lossy(&output));
        output.extend_from_slice(&buffer[..n]);
    }
    // Its terminal goes, and with it the watcher.
    child.kill()?;
    child.wait()?;
    let output = String::from_utf8_lossy(&output);
    ensure!(output.contains("evil") && output.contains("root"), "{output:?}");
    for forbidden in ["\u{1b}]", "\u{7}", "\u{1b}[2J"] {
        ensure!(!output.contains(forbidden), "{forbidden:?} in {output:?}");
    }
    ensure!(serde_json::from_str::<Value>(&output).is_err(), "a terminal got JSON");
    Ok(())
}

/// Somebody who asks for everything and reads nothing.
#[test]
fn a_watcher_that_never_reads_costs_nothing() -> Result<()> {
    need_root!();
    let postgres = Postgres::builder().start()?;
    postgres.pgbench(Via::Unix, &["-i", "-q", "-s", "1"])?;
    let agent = Agent::builder().start()?;
    let mut deaf = UnixStream::connect(agent.control())?;
    deaf.write_all(b"GET /v1/watch HTTP/1.1\r\nHost: dbwarden\r\n\r\n")?;
    agent.await_watchers(1)?;
    let statements = |status: &Value| status["totals"]["statements"].as_u64().unwrap_or(0);
    let before = statements(&agent.status()?);
    let report = postgres.pgbench(Via::Tcp, &["-n", "-S", "-c", "2", "-T", "3"])?;
    let done = report
        .lines()
        .find_map(|line| line.strip_prefix("number of transactions actually processed: "));
    let done: u64 = done.context("pgbench reports no transactions")?.trim().parse()?;
    // Its own first queries come on top.
    await_until("the count of all statements", || {
        Ok((statements(&agent.status()?) >= before + done).then_some(()))
    })?;
    let memory = fs::read_to_string(format!("/proc/{}/status", agent.pid()))?;
    let resident = memory.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    let resident: u64 = resident.trim().trim_end_matches(" kB").parse()?;
    ensure!(resident < 200 * 1024, "{resident} kB after {done} statements");
    Ok(())
}

#[test]
fn strangers_are_refused() -> Result<()> {
    need_root!();
    let agent = Agent::builder().start()?;
    // A place that they can reach, unlike where it was built.
    let folder = tempfile::tempdir()?;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
    let program = folder.path().join("dbwarden");
    fs::copy(dbwarden()?, &program)?;
    let status = |uid: u32| {
        let mut command = Command::new(&program);
        command.arg("--control").arg(agent.control()).arg("status").uid(uid).gid(uid);
        command.current_dir("/").output()
    };
    let refused = status(65534)?;
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(3), "{said}");
    ensure!(said.contains("may not") || said.contains("ermission"), "{said}");
    ensure!(status(0)?.status.success());
    Ok(())
}

/// A watcher that goes away leaves its place to others.
#[test]
fn watchers_that_leave_are_forgotten() -> Result<()> {
    need_root!();
    let agent = Agent::builder().start()?;
    // More than there are places.
    for _ in 0..12 {
        drop(agent.watch()?);
        await_until("the watcher's leave", || {
            Ok((agent.status()?["agent"]["watchers"] == 0).then_some(()))
        })?;
    }
    Ok(())
}

/// `--bpf-log` shows what the programs in the kernel say, on both hook sets: the verifier judges their log
/// calls only when they are switched on.
#[test]
fn the_bpf_side_can_be_heard() -> Result<()> {
    need_root!();
    let postgres = Postgres::builder().start()?;
    for hooks in ["tp_btf", "syscalls"] {
        let agent = Agent::builder()
            .argument("--bpf-log")
            .argument("--hooks")
            .argument(hooks)
            .configuration("[log]\nlevel = \"debug\"\n")
            .start()?;
        agent.await_server(postgres.port())?;
        postgres.psql(Via::Tcp, "SELECT 'heard'")?;
        await_until(&format!("a line of the BPF side with {hooks}"), || {
            let said = agent.log();
            let heard = said
                .lines()
                .any(|line| line.contains("a socket of process") && line.ends_with("is new"));
            Ok(heard.then_some(()))
        })?;
    }
    Ok(())
}
