//! The guard in front of a real server: what it lets pass is the server's own, what it denies never gets there.

use std::{
    fs::File,
    io::Write as _,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use anyhow::{Context, Result, ensure};
use dbwarden_tests::{
    CANCELLED, FailingDisk, Guarded, NO_DROP, Postgres, Session, Via, Wire, await_its_end,
    await_until, need_root, python, said, wire::message,
};
use nix::sys::socket::{SockaddrIn, getpeername};
use serde_json::Value;

fn psql_fails(postgres: &Postgres, via: Via, text: &str) -> Result<String> {
    let mut command = postgres.psql_command(via);
    let output = command.args(["-v", "VERBOSITY=verbose", "-c", text]).output()?;
    ensure!(!output.status.success(), "{text} went through");
    Ok(String::from_utf8(output.stderr)?)
}

#[test]
fn what_is_denied_never_gets_to_the_server_and_the_client_is_told_why() -> Result<()> {
    need_root!();
    let mut guarded =
        Guarded::start(Postgres::builder().tls().password("secret").log_statements(), NO_DROP)?;
    let Guarded { postgres, agent, .. } = &mut guarded;
    postgres.psql(Via::Tcp, "CREATE TABLE precious AS SELECT 1 AS n")?;
    for via in [Via::Guard, Via::GuardTls] {
        ensure!(postgres.psql(via, "SELECT n FROM precious")? == "1");
        let told = psql_fails(postgres, via, "DROP TABLE precious")?;
        for expected in [
            "ERROR:  42501: dbwarden: nothing is dropped here",
            "DETAIL:  rule no-drop; effects: drop; tables: precious",
            "HINT:  Ask whoever",
        ] {
            ensure!(told.contains(expected), "{via:?}: {told}");
        }
    }
    ensure!(postgres.psql(Via::Tcp, "SELECT n FROM precious")? == "1");
    let texts: Vec<String> = postgres.logged()?.into_iter().map(|line| line.text).collect();
    ensure!(!texts.iter().any(|text| text.contains("DROP")), "{texts:?}");

    // The rows name the real client, and what it wanted.
    let of = |text: &str| {
        format!(
            "SELECT lane, text, verdict, rule, error_code, exe, transport, db_user FROM statements \
             WHERE text LIKE '{text}' AND lane = 'guarded' ORDER BY time"
        )
    };
    let passed = agent.await_rows(2, &of("SELECT n FROM precious"))?;
    let denied = agent.await_rows(2, &of("DROP TABLE precious"))?;
    for (row, verdict) in
        passed.iter().map(|row| (row, "allow")).chain(denied.iter().map(|row| (row, "deny")))
    {
        let exe = row["exe"].as_str().context("no program")?;
        ensure!(row["verdict"] == verdict && exe.ends_with("/psql"), "{row}");
        ensure!(row["db_user"] == "postgres", "{row}");
    }
    for row in &denied {
        ensure!(row["rule"] == "no-drop" && row["error_code"] == "42501", "{row}");
    }
    ensure!(denied[0]["transport"] == "tcp" && denied[1]["transport"] == "tls", "{denied:?}");
    let poison = agent.rows("SELECT text FROM statements WHERE text LIKE 'dbwarden_%'")?;
    ensure!(poison.is_empty(), "{poison:?}");
    Ok(())
}

const SESSIONS: &str = r#"
import psycopg, sys
from psycopg import errors

with psycopg.connect(sys.argv[1], autocommit=True) as c:
    # A transaction is aborted as by an error of the server's own.
    c.execute("BEGIN")
    try:
        c.execute("DROP TABLE t", prepare=False)
        sys.exit("dropped")
    except errors.InsufficientPrivilege as e:
        assert e.diag.message_detail.startswith("rule no-drop"), e.diag.message_detail
    assert c.info.transaction_status.name == "INERROR"
    try:
        c.execute("SELECT 1")
        sys.exit("an aborted transaction went on")
    except errors.InFailedSqlTransaction:
        pass
    c.execute("ROLLBACK")
    assert c.info.transaction_status.name == "IDLE"

    # Prepared, by the extended protocol.
    try:
        c.execute("TRUNCATE t", prepare=True)
        sys.exit("truncated")
    except errors.InsufficientPrivilege:
        pass
    for n in range(10):
        assert c.execute("SELECT %s::int + 1", (n,)).fetchone() == (n + 1,)

    # One bad statement among good ones fails the pipeline from there on.
    try:
        with c.pipeline():
            c.execute("INSERT INTO t VALUES (2)")
            c.execute("DROP TABLE t")
            c.execute("INSERT INTO t VALUES (3)")
        sys.exit("the pipeline went through")
    except errors.InsufficientPrivilege:
        pass
    assert c.info.transaction_status.name == "IDLE"
    assert c.execute("SELECT count(*) FROM t").fetchone() == (1,)

    # COPY both ways, a server-side cursor, a notification.
    with c.cursor().copy("COPY t FROM STDIN") as copy:
        for n in range(1000):
            copy.write_row((n,))
    with c.cursor().copy("COPY t TO STDOUT") as copy:
        assert sum(1 for _ in copy.rows()) == 1001
    with c.transaction(), c.cursor("big") as big:
        big.execute("SELECT generate_series(1, 50000)")
        assert sum(1 for _ in big) == 50000
    c.execute("LISTEN here")
    c.execute("NOTIFY here, 'word'")
    assert next(c.notifies(timeout=10, stop_after=1)).payload == "word"
    assert len(c.execute("SELECT repeat('x', 10000000)").fetchone()[0]) == 10000000
    assert c.execute("SELECT length(%s)", ("x" * 3000000,)).fetchone() == (3000000,)
    try:
        c.execute("SET statement_timeout = 100")
        c.execute("SELECT pg_sleep(60)")
        sys.exit("slept")
    except errors.QueryCanceled:
        c.execute("RESET statement_timeout")
"#;

#[test]
fn after_a_denial_a_session_goes_on_as_after_an_error_of_the_servers_own() -> Result<()> {
    need_root!();
    let mut guarded = Guarded::start(Postgres::builder().tls().password("secret"), NO_DROP)?;
    let Guarded { postgres, .. } = &mut guarded;
    postgres.psql(Via::Tcp, "CREATE TABLE t AS SELECT 1 AS n")?;
    for via in [Via::Guard, Via::GuardTls] {
        postgres.python(via, SESSIONS)?;
        postgres.python(via, CANCELLED)?;
        postgres.psql(Via::Tcp, "DELETE FROM t WHERE ctid <> (SELECT min(ctid) FROM t)")?;
    }
    Ok(())
}

#[test]
fn pgbench_runs_through_it_and_every_statement_is_a_row() -> Result<()> {
    need_root!();
    let mut guarded = Guarded::start(Postgres::builder().preload("pg_stat_statements"), NO_DROP)?;
    let Guarded { postgres, agent, .. } = &mut guarded;
    postgres.psql(Via::Unix, "CREATE EXTENSION pg_stat_statements")?;
    postgres.pgbench(Via::Unix, &["-i", "-q", "-s", "1"])?;
    for mode in ["simple", "extended", "prepared"] {
        postgres.psql(Via::Unix, "SELECT pg_stat_statements_reset()")?;
        let arguments = ["-n", "-S", "-M", mode, "-c", "4", "-t", "250"];
        postgres.pgbench(Via::Guard, &arguments)?;
        let counted = postgres.psql(
            Via::Unix,
            "SELECT sum(calls) FROM pg_stat_statements WHERE query LIKE 'SELECT abalance%'",
        )?;
        ensure!(counted == "1000", "{mode}: {counted}");
    }
    let rows = "SELECT 1 FROM statements WHERE text LIKE 'SELECT abalance%' AND lane = 'guarded' \
                AND exe LIKE '%/pgbench'";
    agent.await_rows(3_000, rows)?;
    let guard = &agent.status()?["guard"];
    ensure!(guard["denied"] == 0 && guard["starts"] == 1, "{guard}");
    // What the guard says that it has sent is what the server was seen to get, byte for byte.
    let closed = "SELECT 1 FROM rows WHERE record = 'connection' AND action = 'closed' \
                  AND lane = 'guarded'";
    // pgbench looks at the server by a connection of its own first.
    agent.await_rows(15, closed)?;
    let differs =
        agent.rows("SELECT message FROM findings WHERE rule = 'builtin:guard-differs'")?;
    ensure!(differs.is_empty(), "{differs:?}");
    Ok(())
}

/// The guard's own socket, in the hands of somebody who has broken into it.
#[test]
fn a_statement_that_the_guard_has_not_sent_is_found_while_its_session_lives() -> Result<()> {
    need_root!();
    let guarded = Guarded::start(Postgres::builder(), NO_DROP)?;
    let Guarded { postgres, agent, .. } = &guarded;
    let port = postgres.guard_port().context("it is not guarded")?;
    let mut honest = Wire::connect_at(port, "honest")?;
    let mut robbed = Wire::connect_at(port, "robbed")?;
    for n in 0..1_500 {
        for wire in [&mut honest, &mut robbed] {
            wire.query(&format!("SELECT {n} /* of everyday's length, as statements go */"))?;
        }
    }
    await_until("stretches that were compared", || {
        let compared = agent.status()?["guard"]["compared"].as_u64().context("no figure")?;
        // One full stretch of either, and the one under way.
        Ok((compared >= 4).then_some(()))
    })?;
    ensure!(agent.status()?["guard"]["differing"] == 0);

    let sockets = upstream(guarded.guard_pid()?, postgres.port())?;
    ensure!(sockets.len() == 2, "{sockets:?}");
    // The one that came last.
    let mut stolen = File::from(sockets.into_iter().next_back().context("none")?);
    stolen.write_all(&message(b'Q', b"SELECT 'smuggled'\0")?)?;
    let found = agent.await_rows(
        1,
        "SELECT message, severity, application FROM findings WHERE rule = 'builtin:guard-differs'",
    )?;
    ensure!(found[0]["application"] == "robbed" && found[0]["severity"] == "critical", "{found:?}");
    ensure!(agent.status()?["guard"]["differing"] == 1);
    honest.query("SELECT 1")?;
    Ok(())
}

/// The sockets of a process that lead to a port of this host, in the order in which it got them.
fn upstream(pid: u32, port: u16) -> Result<Vec<OwnedFd>> {
    // SAFETY: none of these calls touches memory of ours, and what they give is ours alone.
    let call = |number, a: i64, b: i64| unsafe {
        let fd = nix::errno::Errno::result(libc::syscall(number, a, b, 0))?;
        anyhow::Ok(OwnedFd::from_raw_fd(fd as i32))
    };
    let process = call(libc::SYS_pidfd_open, pid.into(), 0)?;
    let mut found = std::collections::BTreeMap::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))? {
        let number: i64 = entry?.file_name().to_string_lossy().parse()?;
        let Ok(socket) = call(libc::SYS_pidfd_getfd, process.as_raw_fd().into(), number) else {
            continue;
        };
        let peer = getpeername::<SockaddrIn>(socket.as_raw_fd());
        if peer.is_ok_and(|peer| peer.port() == port) {
            found.insert(number, socket);
        }
    }
    Ok(found.into_values().collect())
}

#[test]
fn the_next_connection_from_quarantine_is_refused_in_words() -> Result<()> {
    need_root!();
    let mut guarded = Guarded::start(Postgres::builder(), NO_DROP)?;
    let Guarded { postgres, agent, .. } = &mut guarded;
    let address =
        ["quarantine", "add", "--address", "127.0.0.1", "--for", "1h", "--reason", "a drill"];
    said(&mut agent.command(&address))?;
    let told = psql_fails(postgres, Via::Guard, "SELECT 1")?;
    for expected in
        ["is in quarantine until", "Quarantine 1: a drill", "dbwarden quarantine release 1"]
    {
        ensure!(told.contains(expected), "{told}");
    }
    said(&mut agent.command(&["quarantine", "release", "1"]))?;
    ensure!(postgres.psql(Via::Guard, "SELECT 1")? == "1");
    Ok(())
}

#[test]
fn a_guard_that_is_killed_takes_its_sessions_along_and_the_next_one_stands_soon() -> Result<()> {
    need_root!();
    let guarded = Guarded::start(Postgres::builder(), NO_DROP)?;
    let Guarded { postgres, agent, .. } = &guarded;
    ensure!(postgres.psql(Via::Guard, "SELECT 1")? == "1");
    let guard = guarded.guard_pid()?.cast_signed();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(guard), nix::sys::signal::Signal::SIGKILL)?;
    await_until("the next guard", || {
        let guard: &Value = &agent.status()?["guard"];
        Ok((guard["starts"] == 2 && guard["stands"] == true).then_some(()))
    })?;
    ensure!(postgres.psql(Via::Guard, "SELECT 1")? == "1");
    // The server and the agent never noticed.
    ensure!(postgres.psql(Via::Tcp, "SELECT 1")? == "1");
    Ok(())
}

/// Clients that know nothing of a guard, and a server that nobody has told of one.
#[test]
fn local_clients_are_led_to_it_and_the_server_sees_them_as_they_are() -> Result<()> {
    need_root!();
    let mut guarded = Guarded::start_led(Postgres::builder().everywhere(), NO_DROP, "refuse")?;
    let Guarded { postgres, agent, .. } = &mut guarded;
    postgres.psql(Via::Unix, "CREATE TABLE precious AS SELECT 1 AS n")?;
    for via in [Via::Tcp, Via::Tcp6] {
        let told = psql_fails(postgres, via, "DROP TABLE precious")?;
        ensure!(told.contains("nothing is dropped here"), "{via:?}: {told}");
        let ask = "SELECT inet_client_addr(), inet_server_addr(), inet_server_port()";
        let address = postgres.psql(via, ask)?;
        let host = if via == Via::Tcp { "127.0.0.1" } else { "::1" };
        ensure!(address == format!("{host}|{host}|{}", postgres.port()), "{via:?}: {address}");
    }
    // Who spells a unix socket's path otherwise isn't led; that is known.
    postgres.psql(Via::Past, "SELECT 1")?;
    let opened = "SELECT message FROM rows WHERE record = 'connection' AND action = 'opened' \
                  AND transport = 'unix' AND message LIKE '%past the guard%'";
    agent.await_rows(1, opened)?;
    let rows = "SELECT exe FROM statements \
                WHERE lane = 'guarded' AND text LIKE 'DROP TABLE precious'";
    for row in agent.await_rows(2, rows)? {
        ensure!(row["exe"].as_str().is_some_and(|exe| exe.ends_with("/psql")), "{row}");
    }
    Ok(())
}

/// Without the service nobody is between: they get to the server, or they are refused, as is configured. What
/// was begun before goes on either way.
#[test]
fn without_a_service_new_connections_go_straight_on_or_are_refused() -> Result<()> {
    need_root!();
    for on_guard_down in ["direct", "refuse"] {
        let mut guarded = Guarded::start_led(Postgres::builder(), NO_DROP, on_guard_down)?;
        let Guarded { postgres, agent, .. } = &mut guarded;
        let mut before = Session::start(&mut postgres.psql_command(Via::Past))?;
        ensure!(before.ask("SELECT 1")? == "1");
        postgres.psql(Via::Past, "CREATE TABLE precious AS SELECT 1 AS n")?;
        psql_fails(postgres, Via::Tcp, "DROP TABLE precious")?;
        agent.kill()?;
        await_its_end(postgres, Via::Tcp, on_guard_down)?;
        ensure!(before.ask("SELECT 1")? == "1", "{on_guard_down}");
        agent.start_again()?;
        agent.await_guard()?;
        agent.await_steering()?;
        let told = psql_fails(postgres, Via::Tcp, "DROP TABLE precious")?;
        ensure!(told.contains("nothing is dropped here"), "{on_guard_down}: {told}");
    }
    Ok(())
}

/// What nobody could find later doesn't pass; what it takes to end a transaction does.
#[test]
fn without_a_ledger_nothing_passes_until_it_is_back() -> Result<()> {
    need_root!();
    let disk = FailingDisk::new()?;
    let guarded = Guarded::start_on(&disk, Postgres::builder(), NO_DROP)?;
    let Guarded { postgres, agent, .. } = &guarded;
    let mut session =
        Session::start(postgres.psql_command(Via::Guard).args(["-v", "ON_ERROR_STOP=0"]))?;
    ensure!(session.ask("BEGIN; SELECT 1")? == "1");
    disk.fail("sync")?;
    session.ask("SELECT 'unsynced'")?;
    let is_refused = || {
        let guard = agent.status()?["guard"].clone();
        let problem = guard["problem"].as_str().unwrap_or_default().to_owned();
        Ok(problem.contains("is refused").then_some(problem))
    };
    let problem = await_until("the ledger's trouble", is_refused)?;
    ensure!(problem.contains("Input/output error"), "{problem}");

    for (statement, expected) in [
        ("SELECT 2", "58030 dbwarden: what is said here can't be recorded"),
        ("ROLLBACK", "00000"),
        ("CREATE TABLE unrecorded (n int)", "58030"),
        ("COPY (SELECT 1) TO STDOUT", "58030"),
    ] {
        let answer = session.ask(&format!("{statement}; \\echo :SQLSTATE :LAST_ERROR_MESSAGE"))?;
        ensure!(answer.starts_with(expected), "{statement}: {answer}");
    }
    let told = psql_fails(postgres, Via::Guard, "SELECT 3")?;
    for expected in ["can't be recorded", "Input/output error", "dbwarden status"] {
        ensure!(told.contains(expected), "{told}");
    }
    // Past the guard the database never notices.
    ensure!(postgres.psql(Via::Tcp, "SELECT to_regclass('unrecorded') IS NULL")? == "t");

    disk.mend("sync")?;
    await_until("the ledger", || Ok(agent.status()?["guard"]["problem"].is_null().then_some(())))?;
    ensure!(session.ask("SELECT 4")? == "4");
    ensure!(postgres.psql(Via::Guard, "SELECT 5")? == "5");
    let told = psql_fails(postgres, Via::Guard, "DROP TABLE IF EXISTS t")?;
    ensure!(told.contains("42501"), "{told}");
    Ok(())
}

const DIRECT_TLS: &str = r#"
import psycopg, sys, threading, time
from psycopg import errors

assert psycopg.pq.version() >= 170000, psycopg.pq.version()
with psycopg.connect(sys.argv[1], autocommit=True) as c, psycopg.connect(sys.argv[1], autocommit=True) as other:
    assert c.execute("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").fetchone() == (True,)
    try:
        c.execute("DROP TABLE IF EXISTS t")
        sys.exit("dropped")
    except errors.InsufficientPrivilege:
        pass
    def cancel():
        waits = "SELECT wait_event FROM pg_stat_activity WHERE pid = %s"
        while other.execute(waits, (c.info.backend_pid,)).fetchone() != ("PgSleep",):
            time.sleep(0.01)
        # Encrypted as the connection is.
        c.cancel_safe(timeout=10)
    thread = threading.Thread(target=cancel)
    thread.start()
    try:
        c.execute("SELECT pg_sleep(60)")
        sys.exit("not cancelled")
    except errors.QueryCanceled:
        pass
    thread.join()
"#;

/// As libpq does from 17 on, whatever the server itself could answer.
#[test]
fn a_client_that_begins_with_tls_is_served() -> Result<()> {
    need_root!();
    let guarded = Guarded::start(Postgres::builder().tls().password("secret"), NO_DROP)?;
    let conninfo = guarded.postgres.conninfo(Via::GuardTls);
    let conninfo = format!("{conninfo} sslnegotiation=direct channel_binding=require");
    said(python()?.args(["-c", DIRECT_TLS, &conninfo])).map(drop)
}
