//! The same conversations by a client of our own, directly and through the guard: byte for byte the same answers.

use std::{
    fs,
    io::{ErrorKind, Read, Write},
    net::{Shutdown, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use dbwarden_tests::{Certificates, Guarded, Postgres, Via, await_until, need_root, said};

/// A server that says nothing for so long has hung.
const PATIENCE: Duration = Duration::from_secs(60);
/// What the guard may take for one large conversation, both ways.
const MOST_KIB: u64 = 6 << 10;

/// What a client does next.
enum Step {
    Say(Vec<u8>),
    /// Reads up to the so-manieth message of this type from here.
    Hear(u8, usize),
    /// Says that it says no more.
    Finish,
    /// Reads up to the end.
    End,
}
use Step::{End, Finish, Hear, Say};

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let len = (body.len() as u32 + 4).to_be_bytes();
    [&[tag][..], &len, body].concat()
}

fn query(text: &str) -> Vec<u8> {
    message(b'Q', format!("{text}\0").as_bytes())
}

fn parse(name: &str, text: &str) -> Vec<u8> {
    message(b'P', format!("{name}\0{text}\0\0\0").as_bytes())
}

fn bind(portal: &str, name: &str) -> Vec<u8> {
    message(b'B', format!("{portal}\0{name}\0\0\0\0\0\0\0").as_bytes())
}

fn execute(portal: &str, rows: u32) -> Vec<u8> {
    message(b'E', &[portal.as_bytes(), b"\0", &rows.to_be_bytes()].concat())
}

fn describe(what: &str, name: &str) -> Vec<u8> {
    message(b'D', format!("{what}{name}\0").as_bytes())
}

fn sync() -> Vec<u8> {
    message(b'S', b"")
}

/// Parse, Bind, Describe and Execute of one text, without the Sync.
fn extended(text: &str) -> Vec<u8> {
    [parse("", text), bind("", ""), describe("P", ""), execute("", 0)].concat()
}

fn start(more: &str) -> Vec<u8> {
    let body = format!("\0\u{3}\0\0user\0postgres\0database\0postgres\0{more}\0");
    [&(body.len() as u32 + 4).to_be_bytes()[..], body.as_bytes()].concat()
}

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

fn conversations() -> Vec<(&'static str, Vec<Step>)> {
    let q = |text: &str| Say(query(text));
    let begin = || [Say(start("")), Hear(b'Z', 1)];
    let conversation = |more: Vec<Step>| begin().into_iter().chain(more).collect::<Vec<_>>();
    let say = |parts: &[Vec<u8>]| Say(parts.concat());
    let many = |n: i32| (0..n).map(|n| [extended(&format!("SELECT {n}")), sync()].concat());
    vec![
        ("simple", conversation(vec![q("SELECT 1; SELECT 'zwei ü'; SELECT 1/0; SELECT 3"), Hear(b'Z', 1), q(""), Hear(b'Z', 1)])),
        ("notices", conversation(vec![q("DO $$ BEGIN RAISE NOTICE 'n'; RAISE WARNING 'w'; END $$"), Hear(b'Z', 1)])),
        ("notifications", conversation(vec![q("LISTEN ear"), Hear(b'Z', 1), q("NOTIFY ear, 'word'"), Hear(b'A', 1), Hear(b'Z', 1)])),
        ("extended", conversation(vec![say(&[extended("SELECT generate_series(1, 5)"), sync()]), Hear(b'Z', 1)])),
        (
            "described",
            conversation(vec![
                say(&[parse("s", "SELECT $1::int + $2::bigint"), describe("S", "s"), message(b'H', b"")]),
                Hear(b'T', 1),
                say(&[message(b'B', b"\0s\0\0\x01\0\x01\0\x02\0\0\0\x04\0\0\0\x07\0\0\0\x08\0\0\0\0\0\0\0\x05\0\x01\0\x01"), describe("P", ""), execute("", 0), message(b'C', b"Ss\0"), sync()]),
                Hear(b'Z', 1),
            ]),
        ),
        (
            "suspended",
            conversation(vec![
                say(&[parse("", "SELECT generate_series(1, 10)"), bind("p", ""), execute("p", 3), message(b'H', b"")]),
                Hear(b's', 1),
                say(&[execute("p", 3), execute("p", 100), execute("p", 1), message(b'C', b"Pp\0"), execute("p", 0), sync()]),
                Hear(b'Z', 1),
            ]),
        ),
        (
            "an error amidst a pipeline",
            conversation(vec![
                say(&[extended("SELECT 1"), extended("SELECT 1/0"), extended("SELECT 2"), sync(), extended("SELECT 3"), sync()]),
                Hear(b'Z', 2),
            ]),
        ),
        ("many in flight", conversation(vec![Say(many(300).flatten().collect()), Hear(b'Z', 300)])),
        ("syncs alone", conversation(vec![say(&[sync(), sync(), sync(), query("SELECT 1"), sync()]), Hear(b'Z', 5)])),
        (
            "copy",
            conversation(vec![
                q("CREATE TEMP TABLE t (n int)"),
                Hear(b'Z', 1),
                q("COPY t FROM STDIN"),
                Hear(b'G', 1),
                say(&[message(b'd', b"1\n2"), message(b'd', b"\n3\n"), message(b'c', b"")]),
                Hear(b'Z', 1),
                q("COPY t FROM STDIN"),
                say(&[message(b'd', b"x\n"), message(b'f', b"enough\0")]),
                Hear(b'Z', 1),
                // All at once, with a Sync among the data, as drivers do.
                say(&[extended("COPY t FROM STDIN"), sync(), message(b'd', b"7\n"), message(b'c', b""), sync()]),
                Hear(b'Z', 1),
                q("COPY t TO STDOUT; SELECT count(*) FROM t"),
                Hear(b'Z', 1),
                say(&[message(b'd', b"nobody wants it"), query("SELECT 4")]),
                Hear(b'Z', 1),
            ]),
        ),
        (
            "a function called by number",
            // int4pl(int4, int4) in binary; then one that doesn't exist.
            conversation(vec![
                Say(message(b'F', b"\0\0\0\xb1\0\x01\0\x01\0\x02\0\0\0\x04\0\0\0\x02\0\0\0\x04\0\0\0\x28\0\x01")),
                Hear(b'Z', 1),
                Say(message(b'F', b"\x7f\xff\xff\xff\0\0\0\0\0\0")),
                Hear(b'Z', 1),
            ]),
        ),
        ("goodbye", conversation(vec![Say(message(b'X', b"")), End])),
        ("a half-closed client gets its answer", conversation(vec![q("SELECT generate_series(1, 20000)"), Finish, End])),
        (
            "half-closed with several in flight",
            conversation(vec![Say(many(50).flatten().collect()), Finish, Hear(b'Z', 50)]),
        ),
        ("an unknown database", vec![Say(start("database\0nowhere\0")), End]),
        ("an unknown setting", vec![Say(start("options\0-c nothing=1\0")), End]),
        ("a protocol of the future", vec![
            Say([&32_u32.to_be_bytes()[..], b"\0\x03\0\x07user\0postgres\0_pq_.a\0b\0\0"].concat()),
            Hear(b'Z', 1),
        ]),
        (
            "replication",
            vec![
                Say(start("replication\0database\0")),
                Hear(b'Z', 1),
                q("SHOW work_mem"),
                Hear(b'Z', 1),
                q("START_REPLICATION SLOT \"none\" LOGICAL 0/0"),
                Hear(b'Z', 1),
                q("SELECT 1"),
                Hear(b'Z', 1),
            ],
        ),
        ("copy both ways where none is", conversation(vec![q("START_REPLICATION 0/0"), Hear(b'Z', 1)])),
        (
            "encodings",
            conversation(vec![
                q("SET client_encoding = 'LATIN1'"),
                Hear(b'Z', 1),
                Say(message(b'Q', b"SELECT '\xfc'\0")),
                Hear(b'Z', 1),
                q("SET standard_conforming_strings = off; "),
                Hear(b'Z', 1),
                q("SELECT 'a\\'' || 'b'"),
                Hear(b'Z', 1),
            ]),
        ),
    ]
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
