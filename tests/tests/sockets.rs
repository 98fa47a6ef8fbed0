//! Clients of unix sockets through the guard: in the place of a server that has moved, and led to it where it is.

use std::{
    fs,
    os::unix::{
        fs::{FileTypeExt as _, MetadataExt as _, chown},
        net::UnixListener,
        process::CommandExt as _,
    },
    process::Command,
};

use anyhow::{Context, Result, ensure};
use dbwarden_tests::{
    Agent, CANCELLED, Guarded, NO_DROP, Postgres, Via, await_its_end, await_until, need_root, said,
};
use nix::unistd::User;
use serde_json::Value;

/// Two accounts that every Debian has, and whom the server takes them for.
const ACCOUNTS: [(&str, &str); 2] = [("games", "alice"), ("daemon", "bob")];

/// Asks who they are of those who come by a unix socket.
fn asking_peers() -> Result<(dbwarden_tests::PostgresBuilder, tempfile::TempDir)> {
    let folder = tempfile::tempdir()?;
    fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let map = folder.path().join("pg_ident.conf");
    let lines = ACCOUNTS.map(|(account, role)| format!("os {account} {role}\n"));
    fs::write(&map, lines.concat() + "os postgres postgres\n")?;
    let server = Postgres::builder()
        .hosts("local all all peer map=os\nhost all all 127.0.0.1/32 trust\n")
        .setting("ident_file", &map.display().to_string());
    Ok((server, folder))
}

fn roles(postgres: &Postgres) -> Result<()> {
    postgres.psql(Via::Tcp, "CREATE ROLE alice LOGIN SUPERUSER; CREATE ROLE bob LOGIN")?;
    postgres.psql(Via::Tcp, "CREATE TABLE precious AS SELECT 1 AS n")?;
    Ok(())
}

/// `psql` of an account of this host, as that role.
fn psql(postgres: &Postgres, via: Via, account: &str, role: &str, sql: &str) -> Result<Command> {
    let user = User::from_name(account)?.with_context(|| format!("no account {account}"))?;
    let mut command = postgres.program("psql");
    command.args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=verbose"]);
    command.args(["-d", &postgres.conninfo_as(via, role, "postgres"), "-c", sql]);
    command.uid(user.uid.as_raw()).gid(user.gid.as_raw()).current_dir("/");
    Ok(command)
}

fn fails(mut command: Command) -> Result<String> {
    let output = command.output()?;
    ensure!(!output.status.success(), "{command:?} went through");
    Ok(String::from_utf8(output.stderr)?)
}

/// What both ways have in common.
fn a_client_is_itself(guarded: &Guarded, via: Via) -> Result<()> {
    let Guarded { postgres, agent, .. } = guarded;
    for (account, role) in ACCOUNTS {
        let asked = format!("SELECT current_user, '{account}'");
        let told = said(&mut psql(postgres, via, account, role, &asked)?)?;
        ensure!(told.trim() == format!("{role}|{account}"), "{told}");
        let rows = agent.await_rows(
            1,
            &format!(
                "SELECT lane, transport, exe, os_user, uid, db_user FROM statements \
                 WHERE text LIKE 'SELECT current_user%' AND db_user = '{role}'"
            ),
        )?;
        let row = &rows[0];
        let uid = User::from_name(account)?.context("gone")?.uid.as_raw();
        ensure!(row["lane"] == "guarded" && row["transport"] == "unix", "{row}");
        ensure!(row["os_user"] == account && row["uid"] == uid, "{row}");
        ensure!(row["exe"].as_str().is_some_and(|exe| exe.ends_with("/psql")), "{row}");
        // Nobody is somebody else.
        for (_, other) in ACCOUNTS.into_iter().filter(|(_, other)| *other != role) {
            let told = fails(psql(postgres, via, account, other, "SELECT 1")?)?;
            ensure!(told.contains("Peer authentication failed"), "{told}");
        }
    }
    // Whoever is root in a user namespace of his own is still himself to the server.
    let mut inner = Command::new("unshare");
    let user = User::from_name("games")?.context("no account games")?;
    inner.args(["--user", "--map-root-user"]).uid(user.uid.as_raw()).gid(user.gid.as_raw());
    let client = psql(postgres, via, "games", "alice", "SELECT 'inside'")?;
    inner.arg(client.get_program()).args(client.get_args()).current_dir("/");
    ensure!(said(&mut inner)?.trim() == "inside");
    let told = fails(psql(postgres, via, "games", "alice", "DROP TABLE precious")?)?;
    for expected in ["ERROR:  42501: dbwarden: nothing is dropped here", "DETAIL:  rule no-drop"] {
        ensure!(told.contains(expected), "{told}");
    }
    ensure!(postgres.psql(Via::Tcp, "SELECT n FROM precious")? == "1");

    // libpq asks who listens there.
    for (listener, is_it) in [("postgres", true), ("root", false)] {
        let mut command = postgres.program("psql");
        let conninfo = postgres.conninfo_as(via, "alice", "postgres");
        command.args(["-X", "-d", &format!("{conninfo} requirepeer={listener}"), "-c", "SELECT 1"]);
        let games = User::from_name("games")?.context("no account")?;
        command.uid(games.uid.as_raw()).gid(games.gid.as_raw()).current_dir("/");
        ensure!(command.output()?.status.success() == is_it, "requirepeer={listener}");
    }
    Ok(())
}

/// Nothing of its own, and nothing past the guard that came by it.
fn all_agrees(agent: &Agent) -> Result<()> {
    let wrong = "SELECT rule, message FROM findings WHERE rule = 'builtin:guard-differs'";
    let differs = agent.rows(wrong)?;
    ensure!(differs.is_empty(), "{differs:?}");
    Ok(())
}

const COPIED: &str = r#"
import psycopg, sys
with psycopg.connect(sys.argv[1], autocommit=True) as c:
    with c.cursor().copy("COPY (SELECT generate_series(1, 50000)) TO STDOUT") as copy:
        assert sum(1 for _ in copy.rows()) == 50000
"#;

#[test]
fn in_the_servers_place_a_client_is_itself() -> Result<()> {
    need_root!();
    let (server, _folder) = asking_peers()?;
    let guarded = Guarded::start_in_front(server, NO_DROP, "refuse")?;
    roles(&guarded.postgres)?;
    // Only the server's own account can get to it past the guard.
    fs::set_permissions(
        guarded.postgres.socket_dir(),
        std::os::unix::fs::PermissionsExt::from_mode(0o700),
    )?;
    a_client_is_itself(&guarded, Via::Front)?;
    let Guarded { postgres, agent, .. } = &guarded;
    let past = fails(psql(postgres, Via::Unix, "games", "alice", "SELECT 1")?)?;
    ensure!(past.contains("Permission denied"), "{past}");
    let (front, own) = (
        fs::symlink_metadata(postgres.front())?,
        fs::symlink_metadata(postgres.socket_dir().join(format!(".s.PGSQL.{}", postgres.port())))?,
    );
    ensure!((front.mode(), front.uid(), front.gid()) == (own.mode(), own.uid(), own.gid()));
    let status = said(&mut agent.command(&["status"]))?;
    ensure!(status.contains(&postgres.front().display().to_string()), "{status}");
    let doctor = agent.command(&["doctor"]).output()?;
    ensure!(String::from_utf8(doctor.stdout)?.contains("the guard listens at"));
    all_agrees(agent)
}

#[test]
fn in_the_servers_place_a_session_has_all_that_it_had() -> Result<()> {
    need_root!();
    let guarded = Guarded::start_in_front(Postgres::builder().tls(), NO_DROP, "refuse")?;
    let Guarded { postgres, agent, .. } = &guarded;
    for script in [CANCELLED, COPIED] {
        postgres.python(Via::Front, script)?;
    }
    // No TLS there, as at PostgreSQL's own.
    let require = format!("{} sslmode=require", postgres.conninfo(Via::Front));
    let mut told = postgres.program("psql");
    told.args(["-X", "-A", "-t", "-d", &require, "-c", "SELECT 1"]);
    let direct = format!("{} sslmode=require", postgres.conninfo(Via::Unix));
    let mut own = postgres.program("psql");
    own.args(["-X", "-A", "-t", "-d", &direct, "-c", "SELECT 1"]);
    ensure!(said(&mut told)?.trim() == said(&mut own)?.trim());
    postgres.pgbench(Via::Tcp, &["-i", "-q"])?;
    postgres.pgbench(Via::Front, &["-n", "-S", "-C", "-c", "4", "-t", "50"])?;
    let rows = "SELECT 1 FROM statements WHERE text LIKE 'SELECT abalance%' AND lane = 'guarded' \
                AND exe LIKE '%/pgbench' AND transport = 'unix'";
    agent.await_rows(200, rows)?;
    all_agrees(agent)
}

#[test]
fn psql_with_no_host_at_all_comes_to_the_guard() -> Result<()> {
    need_root!();
    let postgres = Postgres::builder().guarded().start()?;
    // Where Debian's libpq looks by itself.
    let at = format!("/var/run/postgresql/.s.PGSQL.{}", postgres.port());
    let policies = tempfile::tempdir()?;
    fs::write(policies.path().join("own.cedar"), NO_DROP)?;
    let policy =
        format!("[policy]\ndirectory = \"{}\"\nstarter_pack = false", policies.path().display());
    let guard = postgres.guarded(&format!("guard_socket = \"{at}\"")) + "steer = false";
    let mut agent = Agent::builder().configuration(&policy).configuration(&guard).start()?;
    agent.await_server(postgres.port())?;
    agent.await_guard()?;
    agent.await_front()?;
    let mut command = postgres.program("psql");
    command.args(["-X", "-A", "-t", "-U", "postgres", "-p", &postgres.port().to_string()]);
    command.args(["-c", "SELECT 7"]).env_remove("PGHOST");
    let told = said(&mut command);
    agent.stop()?;
    fs::remove_file(&at)?;
    ensure!(told?.trim() == "7");
    Ok(())
}

#[test]
fn without_a_service_the_place_refuses_or_leads_on() -> Result<()> {
    need_root!();
    for on_guard_down in ["direct", "refuse"] {
        let mut guarded = Guarded::start_in_front(Postgres::builder(), NO_DROP, on_guard_down)?;
        let Guarded { postgres, agent, .. } = &mut guarded;
        postgres.psql(Via::Unix, "CREATE TABLE precious AS SELECT 1 AS n")?;
        for ending in ["kill", "stop"] {
            agent.await_front()?;
            let denied = postgres.psql(Via::Front, "DROP TABLE precious");
            ensure!(denied.is_err_and(|e| e.to_string().contains("nothing is dropped here")));
            match ending {
                "kill" => agent.kill()?,
                _ => drop(agent.stop()?),
            }
            await_its_end(postgres, Via::Front, on_guard_down)?;
            agent.start_again()?;
            agent.await_guard()?;
        }
    }
    Ok(())
}

/// The file of a socket that somebody listens at is not taken; the one of nobody is.
#[test]
fn a_place_that_is_not_free_is_left_alone_until_it_is() -> Result<()> {
    need_root!();
    let postgres = Postgres::builder().guarded().start()?;
    let front = postgres.front();
    let other = UnixListener::bind(&front)?;
    let owner = User::from_name("postgres")?.context("no account")?;
    chown(&front, Some(owner.uid.as_raw()), Some(owner.gid.as_raw()))?;
    let guard = postgres.guarded(&format!("guard_socket = {front:?}")) + "steer = false";
    let agent = Agent::builder().configuration(&guard).start()?;
    agent.await_guard()?;
    let problem = || -> Result<Option<String>> {
        let server: &Value = &agent.status()?["guard"]["servers"][0];
        Ok(server["socket_problem"].as_str().map(str::to_owned))
    };
    await_until("the problem", || {
        Ok(problem()?
            .filter(|why| why.contains("move the server by its `unix_socket_directories`")))
    })?;
    ensure!(fs::symlink_metadata(&front)?.file_type().is_socket());
    drop(other);
    agent.await_front()?;
    ensure!(postgres.psql(Via::Front, "SELECT 1")? == "1");
    // A file that somebody has cleared away comes back.
    fs::remove_file(&front)?;
    await_until("the socket", || Ok(postgres.psql(Via::Front, "SELECT 1").ok()))?;
    Ok(())
}

#[test]
fn where_nobody_has_moved_a_client_is_led_and_is_itself() -> Result<()> {
    need_root!();
    let (server, _folder) = asking_peers()?;
    let guarded = Guarded::start_led(server, NO_DROP, "refuse")?;
    roles(&guarded.postgres)?;
    a_client_is_itself(&guarded, Via::Unix)?;
    let Guarded { postgres, agent, .. } = &guarded;
    // What getpeername says is what was asked for.
    let name = postgres.socket_dir().join(format!(".s.PGSQL.{}", postgres.port()));
    let stream = std::os::unix::net::UnixStream::connect(&name)?;
    ensure!(stream.peer_addr()?.as_pathname() == Some(&name), "{:?}", stream.peer_addr()?);
    drop(stream);

    // Another spelling isn't known; it is told who has come so.
    said(&mut psql(postgres, Via::Past, "games", "alice", "SELECT 'past'")?)?;
    let opened = "SELECT message FROM rows WHERE record = 'connection' AND action = 'opened' \
                  AND transport = 'unix' AND message LIKE '%past the guard%'";
    agent.await_rows(1, opened)?;
    all_agrees(agent)
}

/// The same path in another root is another server's.
#[test]
fn nobody_is_led_who_means_another_file() -> Result<()> {
    need_root!();
    let guarded = Guarded::start_led(Postgres::builder(), NO_DROP, "refuse")?;
    let Guarded { postgres, .. } = &guarded;
    let name = postgres.socket_dir().join(format!(".s.PGSQL.{}", postgres.port()));
    // A mount namespace in which something else stands there.
    let script = format!(
        "mount -t tmpfs none {folder} && exec python3 -c \"
import socket
s = socket.socket(socket.AF_UNIX); s.bind('{name}'); s.listen()
c = socket.socket(socket.AF_UNIX); c.connect('{name}')
t, _ = s.accept(); t.sendall(b'other'); print(c.recv(5).decode())\"",
        folder = postgres.socket_dir().display(),
        name = name.display(),
    );
    let told = said(Command::new("unshare").args(["--mount", "sh", "-c", &script]))?;
    ensure!(told.trim() == "other", "{told}");
    // And a root that is a folder of the same mount.
    let folder = tempfile::tempdir()?;
    let inside = folder.path().join(postgres.socket_dir().strip_prefix("/")?);
    fs::create_dir_all(&inside)?;
    let script = format!(
        "import os, socket\nos.chroot('{}')\ns = socket.socket(socket.AF_UNIX); s.bind('{name}'); s.listen()\n\
         c = socket.socket(socket.AF_UNIX); c.connect('{name}')\nt, _ = s.accept(); t.sendall(b'other')\n\
         print(c.recv(5).decode())",
        folder.path().display(),
        name = name.display(),
    );
    let told = said(Command::new("python3").args(["-c", &script]))?;
    ensure!(told.trim() == "other", "{told}");
    ensure!(postgres.psql(Via::Unix, "SELECT 1")? == "1");
    Ok(())
}

#[test]
fn without_a_service_those_who_were_led_go_on_or_are_refused() -> Result<()> {
    need_root!();
    for on_guard_down in ["direct", "refuse"] {
        let mut guarded = Guarded::start_led(Postgres::builder(), NO_DROP, on_guard_down)?;
        let Guarded { postgres, agent, .. } = &mut guarded;
        postgres.psql(Via::Unix, "CREATE TABLE precious AS SELECT 1 AS n")?;
        agent.kill()?;
        await_its_end(postgres, Via::Unix, on_guard_down)?;
        agent.start_again()?;
        agent.await_guard()?;
        agent.await_steering()?;
        let denied = postgres.psql(Via::Unix, "DROP TABLE precious");
        ensure!(denied.is_err_and(|e| e.to_string().contains("nothing is dropped here")));
    }
    Ok(())
}
