//! The guard's process among strangers on both sides, with this test in the service's place.

mod bare;

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use dbwarden::guard::wire::Word;
use dbwarden_tests::{Guarded, Postgres, Via, await_until, need_root};

use serde_json::Value;

use bare::{Bare, message, start};

const PATIENCE: Duration = Duration::from_secs(60);
/// Ones that do nothing.
const MANY: usize = 5_000;
/// What an idle session may take of the guard's memory.
const IDLE_KIB: usize = 32;

/// Everything up to the end; a reset is one, too.
fn rest(stream: &mut TcpStream) -> Result<String> {
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Err(error) if error.kind() != ErrorKind::ConnectionReset => Err(error.into()),
        _ => Ok(String::from_utf8_lossy(&rest).into_owned()),
    }
}

#[test]
fn a_start_that_is_none_is_answered_as_the_server_would_and_told() -> Result<()> {
    let mut bare = Bare::start()?;
    let packet = |code: u32, rest: &[u8]| {
        [&(rest.len() as u32 + 8).to_be_bytes()[..], &code.to_be_bytes(), rest].concat()
    };
    let ssl = packet(80_877_103, b"");
    for (name, bytes, answer, told) in [
        ("too short", b"\0\0\0\x03".to_vec(), "invalid length of startup packet", "invalid length"),
        (
            "too long",
            b"\xff\xff\xff\xff".to_vec(),
            "invalid length of startup packet",
            "invalid length",
        ),
        (
            "longer than any",
            b"\0\0\x27\x11".to_vec(),
            "invalid length of startup packet",
            "invalid length",
        ),
        (
            "another protocol",
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            "invalid length of startup packet",
            "invalid length",
        ),
        (
            "an old one",
            packet(0x0002_0000, b"user\0u\0\0"),
            "unsupported frontend protocol 2.0",
            "unsupported",
        ),
        (
            "a name without its value",
            packet(0x0003_0000, b"user\0u"),
            "invalid startup packet layout",
            "layout",
        ),
        ("requests without end", ssl.repeat(9), "too many requests for encryption", "too many"),
        (
            "TLS where there is none",
            b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03".to_vec(),
            "",
            "no certificate",
        ),
    ] {
        let (number, mut client) = bare.client()?;
        client.write_all(&bytes)?;
        let heard = rest(&mut client).context(name)?;
        drop(client);
        let broken = bare.end(number).context(name)?;
        ensure!(heard.contains(answer), "{name}: {heard:?}");
        ensure!(answer.is_empty() || heard.contains("C08P01\0"), "{name}: {heard:?}");
        ensure!(broken.as_ref().is_some_and(|why| why.contains(told)), "{name}: {broken:?}");
    }
    // Whoever leaves in the midst of it has only looked.
    for part in [&b""[..], b"\0", b"\0\0\0\x20\0\x03"] {
        let (number, mut client) = bare.client()?;
        client.write_all(part)?;
        drop(client);
        ensure!(bare.end(number)?.is_none());
    }
    Ok(())
}

#[test]
fn a_client_that_breaks_the_protocol_ends_with_its_error_and_nothing_gets_to_the_server()
-> Result<()> {
    let mut bare = Bare::start()?;
    for (name, bytes, answer) in [
        ("an unknown message", message(b'?', b"x"), "invalid frontend message type 63"),
        ("a server's message", message(b'Z', b"I"), "invalid frontend message type 90"),
        ("a length of three", b"Q\0\0\0\x03".to_vec(), "invalid length 3"),
        ("a length of 4 GiB", b"Q\xff\xff\xff\xff".to_vec(), "invalid length 4294967295"),
        (
            "two texts",
            message(b'Q', b"SELECT 1\0DROP TABLE t\0"),
            "invalid frontend message of type 81",
        ),
        (
            "a text without an end",
            message(b'Q', b"SELECT 1"),
            "invalid frontend message of type 81",
        ),
        ("a Parse without an end", message(b'P', b"name"), "invalid frontend message of type 80"),
        ("a Bind that is short", message(b'B', b""), "invalid frontend message of type 66"),
        (
            "an Execute without its count",
            message(b'E', b"\0"),
            "invalid frontend message of type 69",
        ),
        ("a Describe of nothing", message(b'D', b""), "invalid frontend message of type 68"),
        ("a second start", start(), "invalid frontend message type 0"),
    ] {
        let (number, mut client, mut server) = bare.session().context(name)?;
        client.write_all(&bytes)?;
        let heard = rest(&mut client)?;
        drop(client);
        let broken = bare.end(number).context(name)?;
        ensure!(heard.contains(answer) && heard.contains("SFATAL\0"), "{name}: {heard:?}");
        ensure!(broken.as_ref().is_some_and(|why| why.contains(answer)), "{name}: {broken:?}");
        let got = rest(&mut server)?;
        ensure!(got.is_empty(), "{name}: the server got {got:?}");
    }
    // Whoever leaves in the midst of a text takes it along.
    let (number, mut client, mut server) = bare.session()?;
    client.write_all(b"Q\x3f\xff\xff\xf0SELECT ")?;
    drop(client);
    ensure!(rest(&mut server)?.is_empty());
    drop(server);
    ensure!(bare.end(number)?.is_none());
    Ok(())
}

#[test]
fn a_server_that_breaks_the_protocol_harms_nobody_else() -> Result<()> {
    let mut bare = Bare::start()?;
    let (_, mut other_client, mut other_server) = bare.session()?;
    for (name, bytes) in [
        ("another protocol", b"HTTP/1.0 200 OK\r\n\r\n".to_vec()),
        ("a length of three", b"D\0\0\0\x03".to_vec()),
        ("a length of 4 GiB", b"D\xff\xff\xff\xff".to_vec()),
        ("a client's message", message(b'Q', b"SELECT 1\0")),
    ] {
        let (number, mut client, mut server) = bare.session()?;
        server.write_all(&[message(b'N', b"before\0"), bytes].concat())?;
        let heard = rest(&mut client)?;
        drop(client);
        let broken = bare.end(number).context(name)?;
        ensure!(heard.starts_with("N\0\0\0\u{b}before\0"), "{name}: {heard:?}");
        ensure!(
            broken.as_ref().is_some_and(|why| why.contains("the server")),
            "{name}: {broken:?}"
        );
    }
    // It hangs up in a message, or after an answer that nobody asked for.
    for bytes in [&b"D\0\0\x01\x00123"[..], &message(b'Z', b"I").repeat(1_000)] {
        let (number, mut client, mut server) = bare.session()?;
        server.write_all(bytes)?;
        drop(server);
        ensure!(rest(&mut client)?.len() == bytes.len());
        bare.end(number)?;
    }
    other_client.write_all(&message(b'Q', b"SELECT 1\0"))?;
    let mut got = [0; 14];
    other_server.read_exact(&mut got)?;
    Ok(())
}

#[test]
fn those_who_dawdle_make_room_for_those_who_have_something_to_say() -> Result<()> {
    let mut bare = Bare::start()?;
    let before = bare.rss_kib()?;
    let mut dawdlers = Vec::new();
    for n in 0..MANY {
        let (_, mut client) = bare.client()?;
        // Some say a byte, some begin with TLS or a start, some say nothing. One who had to go is told by a reset.
        let _ = client.write_all(
            [&b"\0"[..], b"\0\0\0\x08\x04\xd2\x16\x2f", b"\0\0\0\x30\0\x03", b""][n % 4],
        );
        dawdlers.push(client);
        if n % 1_000 == 0 {
            let begun = Instant::now();
            let (_, client, _server) = bare.session()?;
            ensure!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
            drop(client);
        }
    }
    let mut gone = 0;
    let until = Instant::now() + PATIENCE;
    while gone < MANY - 4 * 1_024 && Instant::now() < until {
        let crowded = |word: &Word| match word {
            Word::Ended { broken: Some(why), .. } => why.contains("many others"),
            _ => false,
        };
        bare.word(crowded)?;
        gone += 1;
    }
    let grown = bare.rss_kib()?.saturating_sub(before);
    println!("{MANY} dawdlers: the guard has grown by {grown} KiB");
    ensure!(grown < 64 << 10, "the guard has grown by {grown} KiB");
    bare.session().map(drop)
}

#[test]
fn thousands_of_idle_sessions_take_little() -> Result<()> {
    let mut bare = Bare::start()?;
    let (_, mut first, mut its_server) = bare.session()?;
    let before = bare.rss_kib()?;
    let mut idle = Vec::new();
    for n in 0..MANY {
        idle.push(bare.session().with_context(|| format!("session {n}"))?);
    }
    let each = bare.rss_kib()?.saturating_sub(before) as f64 / MANY as f64;
    println!("{MANY} idle sessions: {each:.1} KiB each");
    ensure!(each < IDLE_KIB as f64, "{each} KiB each");
    // They are all there still.
    for (number, client, server) in idle.iter_mut().step_by(999) {
        client.write_all(&message(b'Q', b"SELECT 1\0"))?;
        let mut got = [0; 14];
        server.read_exact(&mut got).with_context(|| format!("session {number}"))?;
    }
    first.write_all(&message(b'Q', b"SELECT 1\0"))?;
    its_server.read_exact(&mut [0; 14])?;
    Ok(())
}

#[test]
fn whoever_does_not_read_holds_back_whoever_writes() -> Result<()> {
    let mut bare = Bare::start()?;
    let (_, mut client, mut server) = bare.session()?;
    let before = bare.rss_kib()?;
    let flood = |stream: &mut TcpStream, part: &[u8]| -> Result<usize> {
        stream.set_write_timeout(Some(Duration::from_secs(1)))?;
        let mut sent = 0;
        while sent < 200 << 20 {
            match stream.write(part) {
                Ok(n) => sent += n,
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    break;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(sent)
    };
    // One message without an end on either side.
    client.write_all(b"d\x3f\xff\xff\xf0")?;
    server.write_all(b"D\x3f\xff\xff\xf0")?;
    let sent = [flood(&mut client, &[7; 64 << 10])?, flood(&mut server, &[7; 64 << 10])?];
    let grown = bare.rss_kib()?.saturating_sub(before);
    println!("{sent:?} bytes were taken, the guard has grown by {grown} KiB");
    ensure!(sent.iter().all(|sent| *sent < 50 << 20) && grown < 4 << 10, "{sent:?}, {grown} KiB");
    // A client that leaves takes its server along.
    drop(client);
    server.set_read_timeout(Some(PATIENCE))?;
    let mut part = vec![0; 1 << 20];
    while let Ok(1..) = server.read(&mut part) {}
    Ok(())
}

const NOTHING: &str = r#"@id("nothing") @verdict("deny") @severity("low") @message("nothing passes")
    forbid (principal, action == Action::"unknown", resource);"#;

/// A text that never ends is denied when it is longer than is judged, and none of it is kept after that.
#[test]
fn a_text_without_an_end_is_not_gathered() -> Result<()> {
    let mut bare = Bare::judging_by(NOTHING)?;
    let (_, mut client, mut server) = bare.session()?;
    let before = bare.rss_kib()?;
    client.write_all(b"Q\x3f\xff\xff\xf0")?;
    for _ in 0..1_000 {
        client.write_all(&[b' '; 64 << 10])?;
    }
    let mut got = [0; 5];
    server.read_exact(&mut got)?;
    ensure!(got[0] == b'Q' && got[1..3] == [0, 0], "{got:?}");
    let grown = bare.rss_kib()?.saturating_sub(before);
    println!("a text of 64 MB: the guard has grown by {grown} KiB");
    ensure!(grown < 8 << 10, "the guard has grown by {grown} KiB");
    Ok(())
}

#[test]
fn what_breaks_off_is_a_row_and_others_go_on() -> Result<()> {
    need_root!();
    let guarded = Guarded::permissive(Postgres::builder().tls())?;
    let Guarded { postgres, agent, .. } = &guarded;
    postgres.pgbench(Via::Tcp, &["-i", "-q", "-s", "1"])?;
    let guard = postgres.guard_port().context("no guard")?;
    let mut bench = postgres
        .pgbench_command(Via::Guard, &["-n", "-S", "-M", "prepared", "-c", "4", "-t", "2000"]);
    let bench = std::thread::spawn(move || dbwarden_tests::said(&mut bench));
    let connect = || -> Result<TcpStream> {
        let stream = TcpStream::connect(("127.0.0.1", guard))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(stream)
    };
    // Before it is known who wants what, in TLS that never is, behind the request for it, in a session.
    let mut one = connect()?;
    one.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    ensure!(rest(&mut one)?.contains("invalid length of startup packet"));
    let mut one = connect()?;
    one.write_all(b"\0\0\0\x08\x04\xd2\x16\x2f")?;
    let injected = start();
    one.write_all(&injected)?;
    let heard = rest(&mut one)?;
    ensure!(!heard.contains('R') || heard.starts_with("S\u{15}"), "{heard:?}");
    let mut half = connect()?;
    half.write_all(b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03")?;
    let mut one = connect()?;
    let body = b"\0\x03\0\0user\0postgres\0\0";
    one.write_all(&[&(body.len() as u32 + 4).to_be_bytes()[..], body].concat())?;
    one.write_all(&message(b'?', b""))?;
    ensure!(rest(&mut one)?.contains("invalid frontend message type 63"));
    drop(half);

    let broken = agent.await_rows(
        3,
        "SELECT message, server, lane, exe, pid FROM rows WHERE record = 'connection' AND action = 'broken' \
",
    );
    let broken = match broken {
        Ok(rows) => rows,
        Err(error) => bail!(
            "{error:#}: {:?}",
            agent.rows("SELECT record, action, message FROM rows WHERE action = 'broken'")
        ),
    };
    for row in &broken {
        ensure!(row["server"] == postgres.name() && row["lane"] == "guarded", "{row}");
    }
    let of = |word: &str| {
        let texts = |row: &&Value| row["message"].as_str().is_some_and(|text| text.contains(word));
        broken.iter().find(texts).with_context(|| format!("{word}: {broken:?}"))
    };
    of("invalid length of startup packet")?;
    of("InvalidContentType")?;
    let exe = of("invalid frontend message type 63")?["exe"].as_str().context("nobody")?;
    ensure!(exe.contains("hostile_wire"), "{exe}");

    let report = bench.join().ok().context("pgbench panicked")??;
    ensure!(report.contains("processed: 8000/8000"), "{report}");
    await_until("the clients' end", || {
        Ok((agent.status()?["guard"]["clients_open"] == 0).then_some(()))
    })
}
