//! The same conversations by a client of our own, directly and through the guard: byte for byte the same answers.

mod conversations;

use std::{
    fs,
    io::{ErrorKind, Read, Write},
    net::{Shutdown, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use dbwarden_tests::{Certificates, Guarded, Postgres, Via, await_until, need_root, said};

use conversations::{
    Step::{self, End, Finish, Hear, Say},
    conversations, execute, extended, message, parse, query, start, sync,
};

/// A server that says nothing for so long has hung.
const PATIENCE: Duration = Duration::from_secs(60);
/// What the guard may take for one large conversation, both ways.
const MOST_KIB: u64 = 6 << 10;

struct Raw {
    stream: TcpStream,
    heard: Vec<u8>,
    key: Vec<u8>,
}

impl Raw {
    fn connect(port: u16) -> Result<Raw> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Raw { stream, heard: Vec::new(), key: Vec::new() })
    }

    fn say(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).context("saying")
    }

    /// One message; what no two sessions have in common is blotted out.
    fn message(&mut self) -> Result<Option<u8>> {
        let mut message = vec![0; 5];
        match self.stream.read_exact(&mut message) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
            outcome => outcome.context("hearing")?,
        }
        let len = u32::from_be_bytes([message[1], message[2], message[3], message[4]]);
        message.resize(len as usize + 1, 0);
        self.stream.read_exact(&mut message[5..]).context("in a message")?;
        match message[0] {
            b'K' => {
                self.key = message[5..].to_vec();
                message[5..].fill(0);
            }
            b'A' => message[5..9].fill(0),
            _ => {}
        }
        let tag = message[0];
        self.heard.append(&mut message);
        Ok(Some(tag))
    }

    fn hear(&mut self, wanted: u8, n: usize) -> Result<()> {
        let mut left = n;
        while left > 0 {
            match self.message()? {
                Some(tag) if tag == wanted => left -= 1,
                Some(_) => {}
                None => bail!("it ended before `{}`", char::from(wanted)),
            }
        }
        Ok(())
    }

    fn walk(&mut self, steps: &[Step]) -> Result<()> {
        for step in steps {
            match step {
                Say(bytes) => self.say(bytes)?,
                Hear(tag, n) => self.hear(*tag, *n)?,
                Finish => self.stream.shutdown(Shutdown::Write)?,
                End => while self.message()?.is_some() {},
            }
        }
        Ok(())
    }
}

fn heard(port: u16, steps: &[Step]) -> Result<Vec<u8>> {
    let mut raw = Raw::connect(port)?;
    raw.walk(steps)?;
    Ok(raw.heard)
}

#[test]
fn every_byte_of_an_answer_is_the_servers() -> Result<()> {
    need_root!();
    let guarded = Guarded::permissive(Postgres::builder().setting("wal_level", "logical"))?;
    let (port, guard) =
        (guarded.postgres.port(), guarded.postgres.guard_port().context("no guard")?);
    for (name, steps) in conversations() {
        let direct = heard(port, &steps).with_context(|| format!("{name}, directly"))?;
        let through = heard(guard, &steps).with_context(|| format!("{name}, guarded"))?;
        let show = |bytes: &[u8]| String::from_utf8_lossy(bytes).escape_debug().to_string();
        ensure!(direct == through, "{name}:\n{}\n----\n{}", show(&direct), show(&through));
    }
    // One byte at a time.
    let mut raw = Raw::connect(guard)?;
    raw.stream.set_nodelay(true)?;
    let all = [start(""), query("SELECT 1"), extended("SELECT 2"), sync()].concat();
    for byte in all {
        raw.say(&[byte])?;
    }
    raw.hear(b'Z', 3)?;

    // Whoever has the key cancels, and nobody else.
    let mut sleeper = Raw::connect(guard)?;
    sleeper.walk(&[Say(start("")), Hear(b'Z', 1), Say(query("SELECT pg_sleep(60)"))])?;
    let pid = u32::from_be_bytes(sleeper.key.first_chunk().copied().context("no key")?);
    let cancel =
        |key: &[u8]| [&16_u32.to_be_bytes()[..], &80_877_102_u32.to_be_bytes(), key].concat();
    let mut wrong = sleeper.key.clone();
    wrong.iter_mut().skip(4).for_each(|byte| *byte ^= 1);
    for (key, sleeps_on) in [(wrong, true), (sleeper.key.clone(), false)] {
        await_until("the sleeper", || {
            let state = format!("SELECT wait_event FROM pg_stat_activity WHERE pid = {pid}");
            Ok((guarded.postgres.psql(Via::Unix, &state)? == "PgSleep").then_some(()))
        })?;
        let mut other = Raw::connect(guard)?;
        other.walk(&[Say(cancel(&key)), End])?;
        ensure!(other.heard.is_empty(), "a cancel request was answered");
        if !sleeps_on {
            sleeper.heard.clear();
            sleeper.hear(b'Z', 1)?;
            ensure!(String::from_utf8_lossy(&sleeper.heard).contains("57014"));
        }
    }
    Ok(())
}

/// What a process holds, and has held at most.
fn memory(pid: u32) -> Result<(u64, u64)> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name: &str| -> Result<u64> {
        let line =
            status.lines().find_map(|line| line.strip_prefix(name)).context("no such field")?;
        line.trim().trim_end_matches(" kB").parse().context("no number")
    };
    Ok((field("VmRSS:")?, field("VmHWM:")?))
}

const LARGE: usize = 50 << 20;

#[test]
fn what_is_large_passes_and_is_never_held() -> Result<()> {
    need_root!();
    let guarded = Guarded::permissive(Postgres::builder())?;
    let guard = guarded.postgres.guard_port().context("no guard")?;
    let pid = guarded.guard_pid()?;
    guarded.postgres.psql(Via::Guard, "CREATE TABLE t (x text); CREATE TABLE l (n int, x text)")?;
    let before = memory(pid)?.0;
    let check = |what: &str| -> Result<()> {
        let (now, peak) = memory(pid)?;
        println!("{what}: {before} KiB before, {now} now, {peak} at most");
        ensure!(peak < before + MOST_KIB, "{what}: {before} KiB before, {peak} at most");
        Ok(())
    };
    let mut raw = Raw::connect(guard)?;
    raw.walk(&[Say(start("")), Hear(b'Z', 1)])?;

    // One row, one datum of COPY, one parameter of 50 MB.
    raw.walk(&[Say(query(&format!("SELECT repeat('x', {LARGE})"))), Hear(b'Z', 1)])?;
    ensure!(raw.heard.len() > LARGE);
    raw.heard = Vec::new();
    check("a row")?;
    let line = [vec![b'y'; LARGE], b"\n".to_vec()].concat();
    raw.walk(&[
        Say(query("COPY t FROM STDIN")),
        Hear(b'G', 1),
        Say(message(b'd', &line)),
        Say(message(b'c', b"")),
        Hear(b'Z', 1),
    ])?;
    ensure!(guarded.postgres.psql(Via::Tcp, "SELECT length(x) FROM t")? == LARGE.to_string());
    check("data of COPY")?;
    let parameter = [
        b"\0\0\0\0\0\x01".to_vec(),
        (LARGE as u32).to_be_bytes().to_vec(),
        vec![b'z'; LARGE],
        vec![0, 0],
    ]
    .concat();
    raw.walk(&[
        Say([parse("", "SELECT length($1)"), message(b'B', &parameter), execute("", 0), sync()]
            .concat()),
        Hear(b'Z', 1),
    ])?;
    ensure!(
        String::from_utf8_lossy(&raw.heard).contains(&LARGE.to_string()),
        "the parameter did not come"
    );
    check("a parameter")?;

    // Nobody reads: neither the client its rows …
    let mut idle = Raw::connect(guard)?;
    idle.walk(&[Say(start("")), Hear(b'Z', 1)])?;
    idle.say(&query("SELECT repeat('r', 1000) FROM generate_series(1, 100000)"))?;
    await_until("the server that waits for its client", || {
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'ClientWrite'";
        Ok((guarded.postgres.psql(Via::Tcp, waits)? == "1").then_some(()))
    })?;
    check("rows that nobody reads")?;
    idle.hear(b'Z', 1)?;
    ensure!(idle.heard.len() > 100_000 * 1_000);
    idle.heard = Vec::new();

    // … nor the server its data.
    guarded.postgres.psql(
        Via::Tcp,
        "CREATE FUNCTION waits() RETURNS trigger LANGUAGE plpgsql AS \
         $$ BEGIN PERFORM pg_advisory_xact_lock(7); RETURN NEW; END $$; \
         CREATE TRIGGER waits BEFORE INSERT ON l FOR EACH ROW EXECUTE FUNCTION waits()",
    )?;
    let mut lock = Raw::connect(guarded.postgres.port())?;
    lock.walk(&[
        Say(start("")),
        Hear(b'Z', 1),
        Say(query("SELECT pg_advisory_lock(7)")),
        Hear(b'Z', 1),
    ])?;
    idle.walk(&[Say(query("COPY l FROM STDIN")), Hear(b'G', 1)])?;
    idle.stream.set_write_timeout(Some(Duration::from_secs(1)))?;
    let part = message(b'd', format!("1\t{}\n", "l".repeat(100_000)).as_bytes());
    let (mut sent, mut rest) = (0, part.as_slice());
    while sent < 2 * LARGE {
        match idle.stream.write(rest) {
            Ok(n) => {
                sent += n;
                rest = rest.get(n..).filter(|rest| !rest.is_empty()).unwrap_or(&part);
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                break;
            }
            Err(error) => return Err(error.into()),
        }
    }
    ensure!(sent < LARGE, "nothing held the client back");
    check("data that nobody reads")?;
    lock.walk(&[Say(query("SELECT pg_advisory_unlock(7)")), Hear(b'Z', 1)])?;
    idle.stream.set_write_timeout(Some(PATIENCE))?;
    let rest = if rest.len() == part.len() { Vec::new() } else { rest.to_vec() };
    idle.walk(&[Say(rest), Say(message(b'c', b"")), Hear(b'Z', 1)])?;
    check("all of it")
}

/// Begins with TLS, or asks for it first; prints the serial number of the certificate that it was shown.
const TLS_CLIENT: &str = r#"
import socket, ssl, struct, sys
port, authority, way = int(sys.argv[1]), sys.argv[2], sys.argv[3]
plain = socket.create_connection(("127.0.0.1", port), timeout=60)
if "gss" in way:
    plain.sendall(struct.pack("!ii", 8, 80877104))
    assert plain.recv(1) == b"N"
if "asks" in way:
    plain.sendall(struct.pack("!ii", 8, 80877103))
    assert plain.recv(1) == b"S"
context = ssl.create_default_context(cafile=authority)
if "alpn" in way:
    context.set_alpn_protocols(["postgresql"])
if "1.2" in way:
    context.maximum_version = ssl.TLSVersion.TLSv1_2
s = context.wrap_socket(plain, server_hostname="localhost")
if "alpn" in way:
    assert s.selected_alpn_protocol() == "postgresql", s.selected_alpn_protocol()
body = b"\0\3\0\0user\0postgres\0database\0postgres\0\0"
s.sendall(struct.pack("!i", len(body) + 4) + body)
got = b""
while not got.endswith(b"Z\0\0\0\5I"):
    part = s.recv(65536)
    assert part, got
    got += part
s.sendall(b"Q\0\0\0\rSELECT 1\0")
while not got.endswith(b"1C\0\0\0\rSELECT 1\0Z\0\0\0\5I"):
    part = s.recv(65536)
    assert part, got
    got += part
print(s.getpeercert()["serialNumber"])
"#;

fn tls_client(port: u16, authority: &std::path::Path, way: &str) -> Result<String> {
    let mut python = dbwarden_tests::python()?;
    python.args(["-c", TLS_CLIENT, &port.to_string()]).arg(authority).arg(way);
    Ok(said(&mut python)?.trim().to_owned())
}

#[test]
fn tls_is_the_servers_own_and_its_certificates_are_followed() -> Result<()> {
    need_root!();
    let guarded = Guarded::permissive(Postgres::builder().tls())?;
    let (port, guard) =
        (guarded.postgres.port(), guarded.postgres.guard_port().context("no guard")?);
    let files = guarded.postgres.certificates().context("no TLS")?.clone();
    let first = tls_client(port, &files.authority, "asks")?;
    for way in ["asks", "asks 1.2", "gss asks", "asks alpn", "direct alpn"] {
        let shown = tls_client(guard, &files.authority, way).with_context(|| way.to_owned())?;
        ensure!(shown == first, "{way}: another certificate");
    }

    // Another certificate comes into its place, as by a tool that renews them.
    let folder = tempfile::tempdir()?;
    let next = Certificates::create(folder.path())?;
    for (from, to) in [(&next.certificate, &files.certificate), (&next.key, &files.key)] {
        fs::write(to, fs::read(from)?)?;
    }
    guarded.postgres.psql(Via::Unix, "SELECT pg_reload_conf()")?;
    await_until("the new certificate", || Ok(tls_client(guard, &next.authority, "asks").ok()))?;
    ensure!(
        tls_client(guard, &next.authority, "direct alpn")?
            == tls_client(port, &next.authority, "asks")?
    );

    // One that can't be used is told; what was before stays.
    let encrypted = folder.path().join("encrypted.key");
    let mut openssl = std::process::Command::new("openssl");
    openssl.args(["pkey", "-aes256", "-passout", "pass:secret", "-in"]).arg(&next.key);
    said(openssl.arg("-out").arg(&encrypted))?;
    fs::write(&files.key, fs::read(&encrypted)?)?;
    let problem = await_until("the problem", || {
        Ok(guarded.agent.status()?["guard"]["problem"].as_str().map(str::to_owned))
    })?;
    ensure!(problem.contains("without a passphrase"), "{problem}");
    tls_client(guard, &next.authority, "asks")?;
    fs::write(&files.key, fs::read(&next.key)?)?;
    await_until("its end", || {
        Ok(guarded.agent.status()?["guard"]["problem"].is_null().then_some(()))
    })
}

#[test]
fn channel_binding_holds_through_the_guard() -> Result<()> {
    need_root!();
    let guarded = Guarded::permissive(Postgres::builder().tls().password("secret"))?;
    let conninfo = |via| guarded.postgres.conninfo(via) + " channel_binding=require";
    let ask = |via| {
        let mut psql = guarded.postgres.program("psql");
        psql.args([
            "-X",
            "-A",
            "-t",
            "-c",
            "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()",
            "-d",
        ]);
        said(psql.arg(conninfo(via)))
    };
    ensure!(ask(Via::GuardTls)?.trim() == "t");
    // There is nothing to bind to.
    ensure!(ask(Via::Guard).is_err());
    Ok(())
}
