//! Exactness apart from any database: what the kernel side reports equals what a server moved, byte for
//! byte, or the difference is what it counted as lost.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufRead, BufReader, Write},
    net::TcpStream,
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::PathBuf,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::mpsc::{Sender, channel},
    thread::JoinHandle,
};

use anyhow::{Context, Result, ensure};
use dbwarden::{
    capture::{Capture, CaptureSettings, Control, Opened, TlsLibrary},
    config::HookChoice,
    event::{Direction, Layer, ProcessEvent, SocketId},
};
use dbwarden_common::{Counter, Drop as Reason, Tracked};
use dbwarden_tests::{
    Certificates, await_until, need_root,
    pattern::{self, Numbers},
    python, said,
};

const SERVER: u32 = 7;
const BOTH: [HookChoice; 2] = [HookChoice::TpBtf, HookChoice::Syscalls];
const EVERYTHING: u32 = 4 << 20;

/// More than any test moves between two looks, and every byte of a call.
fn everything(hooks: HookChoice) -> CaptureSettings {
    CaptureSettings {
        hooks,
        ring_bytes: 32 << 20,
        control_ring_bytes: 4 << 20,
        request_bytes: EVERYTHING,
        response_head_bytes: EVERYTHING,
        response_tail_bytes: 0,
        bpf_log: false,
    }
}

/// The kernel side, and what it has said so far.
struct Watched {
    capture: Capture,
    seen: Seen,
    settings: CaptureSettings,
}

#[derive(Default)]
struct Seen {
    flows: HashMap<(SocketId, Direction, Layer), Flow>,
    opened: Vec<Opened>,
    /// Socket, whether it is gone, bytes dropped.
    closed: Vec<(SocketId, bool, u64)>,
    clients: Vec<(u32, u16)>,
    lives: Vec<Life>,
}

#[derive(Debug, PartialEq)]
enum Life {
    Fork { parent: u32, child: u32 },
    Exec { pid: u32, filename: String, args: String },
    Exit { pid: u32 },
}

/// One direction of one connection in one layer.
#[derive(Default)]
struct Flow {
    parts: Vec<(u64, Vec<u8>)>,
    dropped: u64,
}

impl Watched {
    fn start(settings: CaptureSettings) -> Result<Watched> {
        Ok(Watched { capture: Capture::start(&settings)?, seen: Seen::default(), settings })
    }

    fn track(&mut self, pid: u32) -> Result<()> {
        Ok(self.capture.track(pid, Tracked { server: SERVER, flags: 0 })?)
    }

    /// Takes all records that are there: those of a system call are, once it has returned.
    fn look(&mut self) -> Result<&mut Seen> {
        let seen = &mut self.seen;
        let mut errors = Vec::new();
        self.capture.control().drain(|record| match record {
            Ok(record) => seen.control(record),
            Err(error) => errors.push(error),
        });
        self.capture.drain_data(usize::MAX, |record, _| match record {
            Ok(record) => {
                let chunk = record.chunk;
                let flow = seen.flows.entry((record.socket, chunk.direction, chunk.layer));
                let flow = flow.or_default();
                flow.dropped = flow.dropped.max(chunk.dropped_total);
                flow.parts.push((chunk.position, chunk.bytes.to_vec()));
            }
            Err(error) => errors.push(error),
        });
        ensure!(errors.is_empty(), "{errors:?}");
        Ok(seen)
    }

    fn lost(&self, reason: Reason) -> Counter {
        let drops = self.capture.drops();
        drops.iter().find(|(one, _)| *one == reason).map(|(_, count)| *count).unwrap_or_default()
    }

    /// Which parts of a call of `len` bytes are copied.
    fn kept(&self, direction: Direction, len: u64) -> Vec<(u64, u64)> {
        let (head, tail) = match direction {
            Direction::Request => (self.settings.request_bytes.into(), 0),
            Direction::Response => (
                self.settings.response_head_bytes.into(),
                u64::from(self.settings.response_tail_bytes),
            ),
        };
        let head = len.min(head);
        vec![(0, head), (len.saturating_sub(tail).max(head), len)]
    }
}

impl Seen {
    fn control(&mut self, record: Control<'_>) {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match record {
            Control::Opened(opened) => self.opened.push(*opened),
            Control::Closed { socket, gone, extent, .. } => {
                let dropped = extent.as_flattened().iter().map(|reach| reach.dropped).sum();
                self.closed.push((socket, gone, dropped));
            }
            Control::Connected { pid, ends, .. } => self.clients.push((pid, ends.local.1)),
            Control::Process(ProcessEvent::Fork { parent, child, .. }) => {
                self.lives.push(Life::Fork { parent, child });
            }
            Control::Process(ProcessEvent::Exec { pid, filename, args, .. }) => {
                self.lives.push(Life::Exec { pid, filename: text(filename), args: text(args) });
            }
            Control::Process(ProcessEvent::Exit { pid, .. }) => self.lives.push(Life::Exit { pid }),
            Control::Listening { .. } => {}
        }
    }

    /// Runs of bytes without a gap, by position; an overlap is an error.
    fn runs(
        &self,
        socket: SocketId,
        direction: Direction,
        layer: Layer,
    ) -> Result<Vec<(u64, Vec<u8>)>> {
        let Some(flow) = self.flows.get(&(socket, direction, layer)) else { return Ok(Vec::new()) };
        let mut parts: Vec<_> = flow.parts.iter().collect();
        parts.sort_by_key(|(position, _)| *position);
        let mut runs: Vec<(u64, Vec<u8>)> = Vec::new();
        for (position, bytes) in parts {
            match runs.last_mut() {
                Some((start, run)) if *start + run.len() as u64 == *position => run.extend(bytes),
                Some((start, run)) if *start + run.len() as u64 > *position => {
                    anyhow::bail!("{direction:?} bytes at {position} were reported twice")
                }
                _ => runs.push((*position, bytes.clone())),
            }
        }
        Ok(runs)
    }
}

/// A running `mover`.
struct Mover {
    child: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Mover {
    fn start() -> Result<Mover> {
        let mut child = Command::new(env!("CARGO_BIN_EXE_mover"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let commands = child.stdin.take().context("no stdin")?;
        let answers = BufReader::new(child.stdout.take().context("no stdout")?);
        let mut mover = Mover { child, commands, answers };
        // Once it answers, its heir is there.
        mover.ask("dup 0")?;
        Ok(mover)
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn ask(&mut self, command: &str) -> Result<String> {
        self.commands.write_all(format!("{command}\n").as_bytes())?;
        let mut line = String::new();
        ensure!(self.answers.read_line(&mut line)? > 0, "the mover ended at `{command}`");
        Ok(line.trim_end().to_owned())
    }

    fn number(&mut self, command: &str) -> Result<u64> {
        let said = self.ask(command)?;
        said.parse().with_context(|| format!("`{command}` was answered with `{said}`"))
    }
}

impl Drop for Mover {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A mover that listens, tracked.
struct Service {
    mover: Mover,
    listener: u64,
    port: u16,
    path: Option<PathBuf>,
    folder: tempfile::TempDir,
    n_streams: u64,
}

impl Service {
    fn start(watched: &mut Watched, kind: &str) -> Result<Service> {
        let mut mover = Mover::start()?;
        watched.track(mover.pid())?;
        let folder = tempfile::tempdir()?;
        let path = (kind == "unix").then(|| folder.path().join("socket"));
        let at = path.as_ref().map_or(kind.to_owned(), |path| path.display().to_string());
        let said = mover.ask(&format!("listen {at}"))?;
        let (listener, port) = said.split_once(' ').context("no port")?;
        let (listener, port) = (listener.parse()?, port.parse()?);
        if path.is_none() {
            watched.capture.listen(netns()?, port, SERVER)?;
        }
        Ok(Service { mover, listener, port, path, folder, n_streams: 0 })
    }

    fn connect(&mut self) -> Result<Connection> {
        let (socket, port): (OwnedFd, u16) = match &self.path {
            Some(path) => (UnixStream::connect(path)?.into(), 0),
            None => {
                let stream = TcpStream::connect(("localhost", self.port))
                    .or_else(|_| TcpStream::connect(("::1", self.port)))?;
                let port = stream.local_addr()?.port();
                (stream.into(), port)
            }
        };
        let fd = self.mover.number(&format!("accept {}", self.listener))?;
        self.n_streams += 2;
        Connection::new(socket, port, fd, self.n_streams)
    }
}

fn netns() -> Result<u32> {
    use std::os::unix::fs::MetadataExt;
    Ok(u32::try_from(std::fs::metadata("/proc/self/ns/net")?.ino())?)
}

/// One connection to a mover, with the client's end and the truth about it.
struct Connection {
    fd: u64,
    port: u16,
    stream: u64,
    to_write: Option<Sender<(u64, u64)>>,
    threads: Vec<JoinHandle<()>>,
    requests: Moved,
    responses: Moved,
}

/// What moved in one direction: length of each call, and whether its memory could be read.
#[derive(Default)]
struct Moved {
    calls: Vec<(u64, bool)>,
    total: u64,
}

impl Moved {
    fn lost(&self) -> u64 {
        self.calls.iter().filter(|(_, readable)| !readable).map(|(len, _)| len).sum()
    }
}

impl Connection {
    fn new(socket: OwnedFd, port: u16, fd: u64, stream: u64) -> Result<Connection> {
        let mut writes: File = socket.try_clone()?.into();
        let mut reads: File = socket.into();
        let (to_write, orders) = channel();
        let writer = std::thread::spawn(move || {
            for (position, len) in orders {
                let bytes = pattern::bytes(stream, position, len as usize);
                if writes.write_all(&bytes).is_err() {
                    return;
                }
            }
            let _ = nix::sys::socket::shutdown(
                std::os::fd::AsRawFd::as_raw_fd(&writes),
                nix::sys::socket::Shutdown::Write,
            );
        });
        let reader = std::thread::spawn(move || {
            let _ = io::copy(&mut reads, &mut io::sink());
        });
        Ok(Connection {
            fd,
            port,
            stream,
            to_write: Some(to_write),
            threads: vec![writer, reader],
            requests: Moved::default(),
            responses: Moved::default(),
        })
    }

    /// The client writes; nobody has read it yet.
    fn offer(&mut self, at: u64, len: u64) -> Result<()> {
        let to_write = self.to_write.as_ref().context("the client has finished")?;
        Ok(to_write.send((at, len))?)
    }

    /// The client writes `len` bytes and the mover reads them, in as many calls as it takes.
    fn request(&mut self, mover: &mut Mover, call: &Call, len: u64, n_vectors: u64) -> Result<()> {
        self.offer(self.requests.total, len)?;
        self.take(mover, call, len, n_vectors)
    }

    fn take(&mut self, mover: &mut Mover, call: &Call, len: u64, n_vectors: u64) -> Result<()> {
        repeat(mover, self.fd, call, self.stream, &mut self.requests, len, n_vectors)
    }

    /// The mover writes `len` bytes.
    fn respond(&mut self, mover: &mut Mover, call: &Call, len: u64, n_vectors: u64) -> Result<()> {
        repeat(mover, self.fd, call, self.stream + 1, &mut self.responses, len, n_vectors)
    }

    /// Both ends close.
    fn finish(&mut self, mover: &mut Mover) -> Result<()> {
        self.to_write = None;
        let end = mover.number(&format!("move {} read 0 0 100 1 0", self.fd))?;
        ensure!(end == 0, "{end} bytes after the end");
        mover.ask(&format!("close {}", self.fd))?;
        self.threads
            .drain(..)
            .try_for_each(|thread| thread.join())
            .ok()
            .context("a client panicked")
    }

    /// Compares what was reported with what was moved.
    fn check(&self, watched: &mut Watched, opened: &Opened) -> Result<()> {
        watched.look()?;
        let socket = opened.socket;
        let directions =
            [(Direction::Request, &self.requests, 0), (Direction::Response, &self.responses, 1)];
        for (direction, moved, stream) in directions {
            let mut expected: Vec<(u64, u64)> = Vec::new();
            let mut at = 0;
            for &(len, readable) in &moved.calls {
                let kept = if readable { watched.kept(direction, len) } else { Vec::new() };
                for (start, end) in kept.into_iter().filter(|(start, end)| start < end) {
                    match expected.last_mut() {
                        Some((_, before)) if *before == at + start => *before = at + end,
                        _ => expected.push((at + start, at + end)),
                    }
                }
                at += len;
            }
            let runs = watched.seen.runs(socket, direction, Layer::Socket)?;
            let found: Vec<(u64, u64)> =
                runs.iter().map(|(start, run)| (*start, start + run.len() as u64)).collect();
            ensure!(found == expected, "{direction:?}: captured {found:?}, moved {expected:?}");
            for (start, run) in &runs {
                let right = pattern::bytes(self.stream + stream, *start, run.len());
                ensure!(*run == right, "{direction:?}: the bytes from {start} on are others");
            }
        }
        let lost = self.requests.lost() + self.responses.lost();
        let ends: Vec<_> = watched.seen.closed.iter().filter(|(of, _, _)| *of == socket).collect();
        let gone = ends.iter().any(|(_, gone, _)| *gone);
        ensure!(gone || opened.ends.is_none(), "the end of a TCP connection was not reported");
        ensure!(ends.iter().any(|(_, gone, _)| !gone), "the end of the stream was not reported");
        let counted: Vec<u64> = ends.iter().map(|(_, _, dropped)| *dropped).collect();
        ensure!(counted.iter().all(|&n| n == lost), "lost {lost}, but counted {counted:?}");
        Ok(())
    }
}

fn repeat(
    mover: &mut Mover,
    fd: u64,
    call: &Call,
    stream: u64,
    moved: &mut Moved,
    len: u64,
    n_vectors: u64,
) -> Result<()> {
    let mut left = len;
    while left > 0 {
        let (name, flags, at) = (call.name, call.flags, moved.total);
        let said =
            mover.ask(&format!("move {fd} {name} {stream} {at} {left} {n_vectors} {flags}"))?;
        // Words are an error that asks to try again: the socket is non-blocking.
        let n: u64 = match said.parse() {
            Ok(n) => n,
            Err(_) if said == "operation would block" => continue,
            Err(_) => anyhow::bail!("{name}: {said}"),
        };
        if n > 0 {
            moved.calls.push((n, call.readable));
        }
        moved.total += n;
        left -= n;
    }
    Ok(())
}

/// A system call with flags, and whether its bytes can be read.
struct Call {
    name: &'static str,
    flags: i32,
    readable: bool,
}

const fn call(name: &'static str, flags: i32, readable: bool) -> Call {
    Call { name, flags, readable }
}

const READ: Call = call("read", 0, true);
const WRITE: Call = call("write", 0, true);

const READS: [Call; 9] = [
    READ,
    call("readv", 0, true),
    call("recv", 0, true),
    call("recv", libc::MSG_WAITALL, true),
    call("recvfrom", 0, true),
    call("recvmsg", 0, true),
    call("recvmsg", libc::MSG_WAITALL, true),
    call("preadv2", 0, true),
    call("recvmmsg", 0, false),
];

const WRITES: [Call; 9] = [
    WRITE,
    call("writev", 0, true),
    call("send", 0, true),
    call("sendto", libc::MSG_NOSIGNAL, true),
    call("sendmsg", libc::MSG_NOSIGNAL, true),
    call("pwritev2", 0, true),
    call("sendmmsg", 0, false),
    call("sendfile", 0, false),
    call("splice", 0, false),
];

fn seed() -> Result<Numbers> {
    use nix::time::{ClockId, clock_gettime};
    let seed = match std::env::var("DBWARDEN_TEST_SEED") {
        Ok(seed) => seed.parse()?,
        Err(_) => clock_gettime(ClockId::CLOCK_MONOTONIC)?.tv_nsec() as u64,
    };
    println!("DBWARDEN_TEST_SEED={seed}");
    Ok(Numbers(seed))
}

/// From 1 byte to 1 MiB, each order of magnitude as likely as the others.
fn some_len(numbers: &mut Numbers) -> u64 {
    let most = 1 << numbers.below(21);
    1 + numbers.below(most)
}

/// The newest connection that a client opened.
fn newest(watched: &mut Watched) -> Result<Opened> {
    let opened = watched.look()?.opened.last();
    opened.cloned().context("no connection was reported")
}

#[test]
fn every_call_on_every_socket() -> Result<()> {
    need_root!();
    let mut numbers = seed()?;
    for hooks in BOTH {
        let mut watched = Watched::start(everything(hooks))?;
        let mut lost = 0;
        for kind in ["tcp", "tcp6", "unix"] {
            let service = &mut Service::start(&mut watched, kind)?;
            let mut connection = service.connect()?;
            let mover = &mut service.mover;
            for round in 0..6 {
                for (read, write) in READS.iter().zip(&WRITES) {
                    let n_vectors = match numbers.below(8) {
                        0 => 200 + numbers.below(824),
                        _ => 1 + numbers.below(64),
                    };
                    connection.request(mover, read, some_len(&mut numbers), n_vectors)?;
                    connection.respond(mover, write, some_len(&mut numbers), n_vectors)?;
                    watched.look()?;
                }
                if round == 3 {
                    mover.ask(&format!("nonblocking {}", connection.fd))?;
                    let empty = mover.ask(&format!("move {} read 0 0 10 1 0", connection.fd))?;
                    assert_eq!(empty, "operation would block");
                }
            }
            mover.ask(&format!("dup2 {} 900", connection.fd))?;
            mover.ask(&format!("close {}", connection.fd))?;
            connection.fd = 900;
            // Looked at, but not taken; asked for nothing; thrown away.
            connection.offer(connection.requests.total, 5000)?;
            let (fd, peek) = (connection.fd, libc::MSG_PEEK);
            for look in ["recv", "recvmsg", "recvfrom", "recvmmsg"] {
                await_until("bytes to look at", || {
                    let said = mover.ask(&format!("move {fd} {look} 0 0 900 3 {peek}"))?;
                    Ok(said.parse::<u64>().ok().filter(|&n| n > 0))
                })?;
                assert_eq!(mover.number(&format!("move {fd} read 0 0 0 1 0"))?, 0);
            }
            let discard = call("recv", libc::MSG_TRUNC, false);
            connection.take(mover, &discard, 1000, 1)?;
            connection.take(mover, &READ, 4000, 1)?;
            await_the_end(&mut connection, mover)?;
            let opened = newest(&mut watched)?;
            connection
                .check(&mut watched, &opened)
                .with_context(|| format!("{hooks:?}, {kind}"))?;
            assert_eq!(opened.ends.map_or(0, |ends| ends.remote.1), connection.port);
            lost += connection.requests.lost() + connection.responses.lost();
        }
        assert_eq!(watched.lost(Reason::UnsupportedCall).bytes, lost, "{hooks:?}");
        for (reason, count) in watched.capture.drops() {
            assert!(
                reason == Reason::UnsupportedCall || count.events == 0,
                "{reason:?}: {count:?}"
            );
        }
    }
    Ok(())
}

/// Of a non-blocking socket: its client may take a moment to close.
fn await_the_end(connection: &mut Connection, mover: &mut Mover) -> Result<()> {
    connection.to_write = None;
    await_until("the end of the stream", || {
        let said = mover.ask(&format!("move {} read 0 0 100 1 0", connection.fd))?;
        Ok((said == "0").then_some(()))
    })?;
    connection.finish(mover)
}

#[test]
fn sizes_around_every_boundary() -> Result<()> {
    need_root!();
    for hooks in BOTH {
        let mut watched = Watched::start(everything(hooks))?;
        let mut service = Service::start(&mut watched, "unix")?;
        let mut connection = service.connect()?;
        for n in [256, 2048, 8192, 16384, 65536] {
            for len in [n - 1, n, n + 1, 2 * n] {
                connection.request(
                    &mut service.mover,
                    &call("recv", libc::MSG_WAITALL, true),
                    len,
                    1,
                )?;
                connection.respond(&mut service.mover, &WRITE, len, 1)?;
            }
        }
        connection.finish(&mut service.mover)?;
        let opened = newest(&mut watched)?;
        connection.check(&mut watched, &opened).with_context(|| format!("{hooks:?}"))?;
        assert!(service.folder.path().is_dir());
    }
    Ok(())
}

#[test]
fn small_budgets_keep_the_head_and_the_tail() -> Result<()> {
    need_root!();
    let mut numbers = seed()?;
    for hooks in BOTH {
        let budgets = CaptureSettings {
            request_bytes: 3000,
            response_head_bytes: 500,
            response_tail_bytes: 100,
            ..everything(hooks)
        };
        let mut watched = Watched::start(budgets)?;
        let mut service = Service::start(&mut watched, "tcp")?;
        let mut connection = service.connect()?;
        let sizes = [499, 500, 501, 599, 600, 601, 2999, 3000, 3001, 70_000];
        let random: Vec<u64> = (0..60).map(|_| some_len(&mut numbers)).collect();
        for len in sizes.into_iter().chain(random) {
            let n_vectors = 1 + numbers.below(64);
            let reads = call("recvmsg", libc::MSG_WAITALL, true);
            connection.request(&mut service.mover, &reads, len, n_vectors)?;
            connection.respond(&mut service.mover, &call("writev", 0, true), len, n_vectors)?;
        }
        connection.finish(&mut service.mover)?;
        let opened = newest(&mut watched)?;
        connection.check(&mut watched, &opened).with_context(|| format!("{hooks:?}"))?;
        assert!(watched.capture.drops().iter().all(|(_, count)| count.events == 0));
    }
    Ok(())
}

#[test]
fn a_full_ring_is_counted_to_the_byte() -> Result<()> {
    need_root!();
    let mut numbers = seed()?;
    for hooks in BOTH {
        let mut watched =
            Watched::start(CaptureSettings { ring_bytes: 64 << 10, ..everything(hooks) })?;
        let mut service = Service::start(&mut watched, "tcp")?;
        let mut lost = 0;
        for _ in 0..3 {
            let mut connection = service.connect()?;
            for _ in 0..40 {
                connection.request(&mut service.mover, &READ, some_len(&mut numbers), 1)?;
                connection.respond(&mut service.mover, &WRITE, some_len(&mut numbers), 1)?;
                if numbers.below(4) == 0 {
                    watched.look()?;
                }
            }
            connection.finish(&mut service.mover)?;
            let socket = newest(&mut watched)?.socket;
            let mut delivered = 0;
            for (direction, stream) in [(Direction::Request, 0), (Direction::Response, 1)] {
                for (start, run) in watched.seen.runs(socket, direction, Layer::Socket)? {
                    let right = pattern::bytes(connection.stream + stream, start, run.len());
                    assert!(run == right, "{direction:?} at {start}");
                    delivered += run.len() as u64;
                }
            }
            let dropped = watched.seen.closed.iter().filter(|(of, gone, _)| *of == socket && *gone);
            let dropped: Vec<u64> = dropped.map(|(_, _, dropped)| *dropped).collect();
            let moved = connection.requests.total + connection.responses.total;
            assert_eq!(dropped, [moved - delivered], "{hooks:?}");
            lost += moved - delivered;
        }
        assert!(lost > 0);
        assert_eq!(watched.lost(Reason::RingFull).bytes, lost);
    }
    Ok(())
}

#[test]
fn a_socket_is_the_same_in_whatever_hands() -> Result<()> {
    need_root!();
    for hooks in BOTH {
        let mut watched = Watched::start(everything(hooks))?;
        for kind in ["tcp", "unix"] {
            let mut service = Service::start(&mut watched, kind)?;
            let mut connection = service.connect()?;
            let mover = &mut service.mover;
            // The heir existed before it was tracked; the child of a fork needs no telling.
            let original = connection.fd;
            connection.request(mover, &READ, 100, 1)?;
            connection.fd = mover.number(&format!("dup {original}"))?;
            connection.request(mover, &call("recvmsg", 0, true), 20_000, 3)?;
            let child: u32 = mover.ask("fork")?.parse()?;
            connection.respond(mover, &WRITE, 40_000, 1)?;
            connection.request(mover, &READ, 3000, 1)?;
            mover.ask("end")?;
            let heir: u32 = mover.ask(&format!("pass {original}"))?.parse()?;
            watched.track(heir)?;
            let ours = std::mem::replace(&mut connection.fd, mover.number("passed")?);
            connection.request(mover, &call("recv", 0, true), 70_000, 1)?;
            connection.respond(mover, &call("sendmsg", 0, true), 70_000, 9)?;
            mover.ask(&format!("close {}", connection.fd))?;
            mover.ask("end")?;
            mover.ask(&format!("close {original}"))?;
            connection.fd = ours;
            connection.request(mover, &READ, 10, 1)?;
            connection.finish(mover)?;
            let opened = newest(&mut watched)?;
            connection
                .check(&mut watched, &opened)
                .with_context(|| format!("{hooks:?}, {kind}"))?;
            let parent = mover.pid();
            assert!(watched.seen.lives.contains(&Life::Fork { parent, child }));
            await_life(&mut watched, &Life::Exit { pid: child })?;
        }
    }
    Ok(())
}

fn await_life(watched: &mut Watched, life: &Life) -> Result<()> {
    await_until(&format!("{life:?}"), || Ok(watched.look()?.lives.contains(life).then_some(())))
}

#[test]
fn threads_on_one_socket() -> Result<()> {
    need_root!();
    const LEN: u64 = 8 << 20;
    const N_CALLS: u64 = 2000;
    for hooks in BOTH {
        let mut watched = Watched::start(everything(hooks))?;
        let mut service = Service::start(&mut watched, "unix")?;
        // A thread for each direction.
        let mut connection = service.connect()?;
        connection.offer(0, LEN)?;
        let (fd, stream) = (connection.fd, connection.stream);
        service.mover.number(&format!("duplex {fd} {stream} {LEN}"))?;
        connection.requests = Moved { calls: vec![(LEN, true)], total: LEN };
        connection.responses = Moved { calls: vec![(LEN, true)], total: LEN };
        watched.settings.request_bytes = u32::MAX;
        watched.settings.response_head_bytes = u32::MAX;
        connection.finish(&mut service.mover)?;
        let opened = newest(&mut watched)?;
        connection.check(&mut watched, &opened).with_context(|| format!("{hooks:?}"))?;

        // Two threads for one direction: which came first nobody can say, but nothing is lost or mixed.
        let mut connection = service.connect()?;
        let (fd, stream) = (connection.fd, connection.stream);
        service.mover.number(&format!("writers {fd} {stream} {N_CALLS}"))?;
        connection.finish(&mut service.mover)?;
        let socket = newest(&mut watched)?.socket;
        let runs = watched.seen.runs(socket, Direction::Response, Layer::Socket)?;
        let [(0, bytes)] = runs.as_slice() else { anyhow::bail!("{} runs", runs.len()) };
        let mut found: Vec<&[u8]> = bytes.chunks(pattern::MESSAGE_LEN).collect();
        found.sort_unstable();
        let mut sent: Vec<Vec<u8>> =
            (0..2 * N_CALLS).map(|n| pattern::message(stream + n / N_CALLS, n % N_CALLS)).collect();
        sent.sort_unstable();
        assert!(found == sent, "{hooks:?}: {} messages of {}", found.len(), sent.len());
    }
    Ok(())
}

#[test]
fn short_connections_never_mix() -> Result<()> {
    need_root!();
    for hooks in BOTH {
        let mut watched = Watched::start(everything(hooks))?;
        for kind in ["tcp", "unix"] {
            let mut service = Service::start(&mut watched, kind)?;
            let mut checked = Vec::new();
            for n in 0..150 {
                let mut connection = service.connect()?;
                // Some end without an answer, some by a reset with bytes still on their way.
                connection.request(&mut service.mover, &READ, 1 + 7 * n, 1)?;
                if n % 3 > 0 {
                    connection.respond(&mut service.mover, &WRITE, 1 + 11 * n, 1)?;
                }
                connection.finish(&mut service.mover)?;
                checked.push((connection, newest(&mut watched)?));
            }
            assert_eq!(watched.seen.opened.len(), checked.len());
            for (connection, opened) in &checked {
                connection
                    .check(&mut watched, opened)
                    .with_context(|| format!("{hooks:?}, {kind}"))?;
            }
            watched.seen = Seen::default();
        }
    }
    Ok(())
}

#[test]
fn what_a_reset_left_behind_is_read() -> Result<()> {
    need_root!();
    for hooks in BOTH {
        let mut watched = Watched::start(everything(hooks))?;
        let mut service = Service::start(&mut watched, "tcp")?;
        for read_before in [true, false] {
            let mut client = TcpStream::connect(("127.0.0.1", service.port))?;
            let fd = service.mover.number(&format!("accept {}", service.listener))?;
            let mover = &mut service.mover;
            let mut expected = pattern::bytes(1, 0, 500);
            client.write_all(&expected)?;
            if read_before {
                assert_eq!(
                    mover.number(&format!("move {fd} recv 0 0 500 1 {}", libc::MSG_WAITALL))?,
                    500
                );
                client.write_all(&expected)?;
                expected.extend_from_within(..);
            }
            // No bytes linger: the close is a reset.
            socket2_linger_zero(&client)?;
            drop(client);
            await_until("the reset", || {
                let state = std::fs::read_to_string("/proc/net/tcp")?;
                let local = format!(":{:04X} ", service.port);
                let here = |line: &&str| {
                    let mut words = line.split_whitespace().skip(1);
                    words.next().is_some_and(|word| format!("{word} ").ends_with(&local))
                        && words.nth(1) == Some("01")
                };
                Ok((!state.lines().any(|line| here(&line))).then_some(()))
            })?;
            assert_eq!(mover.number(&format!("move {fd} read 0 0 900 1 0"))?, 500);
            mover.ask(&format!("close {fd}"))?;
            let socket = newest(&mut watched)?.socket;
            let runs = watched.seen.runs(socket, Direction::Request, Layer::Socket)?;
            assert!(runs == [(0, expected)], "{hooks:?}, read before: {read_before}");
            assert!(watched.seen.closed.contains(&(socket, true, 0)), "{hooks:?}");
        }
    }
    Ok(())
}

fn socket2_linger_zero(stream: &TcpStream) -> Result<()> {
    use nix::sys::socket::{setsockopt, sockopt::Linger};
    Ok(setsockopt(stream, Linger, &libc::linger { l_onoff: 1, l_linger: 0 })?)
}

#[test]
fn who_is_at_the_other_end() -> Result<()> {
    need_root!();
    let this = std::process::id();
    for hooks in BOTH {
        let mut watched = Watched::start(everything(hooks))?;
        let mut unix = Service::start(&mut watched, "unix")?;
        let mut connection = unix.connect()?;
        connection.request(&mut unix.mover, &READ, 10, 1)?;
        let opened = newest(&mut watched)?;
        assert_eq!(opened.pid, unix.mover.pid());
        assert_eq!(opened.server, SERVER);
        assert!(opened.inbound);
        let (peer, key, uid) = opened.peer.context("no peer")?;
        assert_eq!((peer, uid), (this, 0));
        assert_ne!(key, 0);
        connection.finish(&mut unix.mover)?;

        let mut tcp = Service::start(&mut watched, "tcp")?;
        let mut connection = tcp.connect()?;
        connection.request(&mut tcp.mover, &READ, 10, 1)?;
        let opened = newest(&mut watched)?;
        let ends = opened.ends.context("no addresses")?;
        assert_eq!(ends.local, ("127.0.0.1".parse()?, tcp.port));
        assert_eq!(ends.mirrored().local.1, connection.port);
        let client = (this, connection.port);
        assert_eq!(watched.seen.clients.iter().filter(|&&one| one == client).count(), 1);
        connection.finish(&mut tcp.mover)?;
    }
    Ok(())
}

#[test]
fn what_a_server_reaches_out_to_is_reported_and_not_read() -> Result<()> {
    need_root!();
    for hooks in BOTH {
        let mut watched = Watched::start(everything(hooks))?;
        let mut service = Service::start(&mut watched, "tcp")?;
        // Not tracked: nothing of it is ever captured.
        let mut other = Mover::start()?;
        let port = other.ask("listen tcp")?;
        let (listener, port) = port.split_once(' ').context("no port")?;
        let path = service.folder.path().join("other").display().to_string();
        let unix = other.ask(&format!("listen {path}"))?;
        let unix = unix.split(' ').next().unwrap_or_default();

        let pid = service.mover.pid();
        let outbound = |watched: &mut Watched| -> Result<Vec<(u32, String)>> {
            let opened = std::mem::take(&mut watched.look()?.opened);
            assert!(opened.iter().all(|one| !one.inbound));
            let to = |one: &Opened| match one.ends {
                Some(ends) => ends.remote.1.to_string(),
                None => format!("{:?}", one.local),
            };
            Ok(opened.iter().map(|one| (one.pid, to(one))).collect())
        };
        service.mover.ask(&format!("connect tcp {port}"))?;
        assert_eq!(outbound(&mut watched)?, [(pid, port.to_owned())], "{hooks:?}");
        service.mover.ask(&format!("connect unix {path}"))?;
        let [(of, to)] = <[_; 1]>::try_from(outbound(&mut watched)?).ok().context("not one")?;
        assert!(of == pid && to.contains(&path), "{hooks:?}: {to}");

        // What the server runs is no server, but reaches out in its name.
        let program = format!("run {} tcp {port}", env!("CARGO_BIN_EXE_mover"));
        service.mover.ask(&program)?;
        let exec = watched.look()?.lives.iter().find_map(|life| match life {
            Life::Exec { pid, filename, args } if args.contains(port) => {
                Some((*pid, filename.clone(), args.clone()))
            }
            _ => None,
        });
        let (child, filename, args) = exec.context("no exec")?;
        assert_eq!(filename, env!("CARGO_BIN_EXE_mover"));
        assert_eq!(args, format!("{filename}\0tcp\0{port}\0"));
        assert_eq!(outbound(&mut watched)?, [(child, port.to_owned())], "{hooks:?}");
        await_life(&mut watched, &Life::Exit { pid: child })?;

        for listener in [listener, listener, unix] {
            let fd = other.number(&format!("accept {listener}"))?;
            assert_eq!(other.number(&format!("move {fd} read 0 0 9 1 0"))?, 3);
        }
        assert!(watched.look()?.flows.is_empty());
        assert!(watched.seen.opened.is_empty());
    }
    Ok(())
}

#[test]
fn io_uring_is_counted_and_confuses_nobody() -> Result<()> {
    need_root!();
    let disabled = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled");
    if disabled.is_ok_and(|value| value.trim() != "0") {
        println!("skipped: io_uring is disabled on this host");
        return Ok(());
    }
    // The fallback doesn't see io_uring at all.
    let mut watched = Watched::start(everything(HookChoice::TpBtf))?;
    let mut service = Service::start(&mut watched, "tcp")?;
    let mut connection = service.connect()?;
    let (send, receive) = (call("uring_send", 0, false), call("uring_recv", 0, false));
    for len in [1, 300, 9000, 40_000] {
        connection.request(&mut service.mover, &READ, len, 1)?;
        connection.request(&mut service.mover, &receive, len, 1)?;
        connection.respond(&mut service.mover, &send, len, 1)?;
        connection.respond(&mut service.mover, &WRITE, len, 1)?;
    }
    connection.finish(&mut service.mover)?;
    let opened = newest(&mut watched)?;
    connection.check(&mut watched, &opened)?;
    let lost = connection.requests.lost() + connection.responses.lost();
    assert_eq!(watched.lost(Reason::UnsupportedCall).bytes, lost);
    Ok(())
}

/// Echoes on each connection, by calls of the library's functions of both kinds. Its buffer is small, so
/// that most reads are answered from a record that the library holds already. It says each `SSL *`.
const TLS_SERVER: &str = r#"
import ctypes as c, socket, sys, threading
ssl = c.CDLL("libssl.so.3")
for name in ["TLS_server_method", "SSL_CTX_new", "SSL_new"]:
    getattr(ssl, name).restype = c.c_void_p
context = c.c_void_p(ssl.SSL_CTX_new(c.c_void_p(ssl.TLS_server_method())))
assert ssl.SSL_CTX_use_certificate_chain_file(context, sys.argv[1].encode()) == 1
assert ssl.SSL_CTX_use_PrivateKey_file(context, sys.argv[2].encode(), 1) == 1

def serve(connection, number):
    address = ssl.SSL_new(context)
    session = c.c_void_p(address)
    ssl.SSL_set_fd(session, connection.fileno())
    assert ssl.SSL_accept(session) == 1
    buffer, n = c.create_string_buffer(700), c.c_size_t()
    while True:
        if number % 2:
            if ssl.SSL_read_ex(session, buffer, c.c_size_t(700), c.byref(n)) != 1: break
            assert ssl.SSL_write_ex(session, buffer, n, c.byref(n)) == 1
        else:
            read = ssl.SSL_read(session, buffer, 700)
            if read <= 0: break
            assert ssl.SSL_write(session, buffer, read) == read
    ssl.SSL_free(session)
    connection.close()
    print(address, flush=True)

listener = socket.create_server(("127.0.0.1", 0), backlog=64)
print(listener.getsockname()[1], flush=True)
number = 0
while True:
    connection, _ = listener.accept()
    threading.Thread(target=serve, args=(connection, number), daemon=True).start()
    number += 1
"#;

/// Connections one after the other, then several at once; each sends its own text and awaits the echo.
const TLS_CLIENT: &str = r#"
import socket, ssl, sys, threading
context = ssl.create_default_context(cafile=sys.argv[2])
context.check_hostname = False
def talk(number):
    text = b"".join(b"connection %d line %d\n" % (number, line) for line in range(3000))
    raw = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
    with context.wrap_socket(raw) as stream:
        # What is on its way at once fits into the sockets' buffers: one thread does both.
        for at in range(0, len(text), 20000):
            part = text[at:at + 20000]
            stream.sendall(part)
            left = len(part)
            while left: left -= len(stream.recv(left))
for number in range(8): talk(number)
threads = [threading.Thread(target=talk, args=(8 + n,)) for n in range(6)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"#;

#[test]
fn plaintext_of_tls_and_nothing_of_its_ciphertext() -> Result<()> {
    need_root!();
    const N_CONNECTIONS: usize = 14;
    let folder = tempfile::tempdir()?;
    let certificates = Certificates::create(folder.path())?;
    for hooks in BOTH {
        let mut watched = Watched::start(everything(hooks))?;
        let mut command = python()?;
        command.args(["-c", TLS_SERVER]);
        command.arg(&certificates.certificate).arg(&certificates.key).stdout(Stdio::piped());
        let mut child = command.stdin(Stdio::piped()).spawn()?;
        let commands = child.stdin.take().context("no stdin")?;
        let answers = BufReader::new(child.stdout.take().context("no stdout")?);
        let mut server = Mover { child, commands, answers };
        let mut port = String::new();
        server.answers.read_line(&mut port)?;
        watched.track(server.pid())?;
        watched.capture.listen(netns()?, port.trim().parse()?, SERVER)?;
        watched.capture.watch_tls(&libssl(server.pid())?)?;

        said(python()?.args(["-c", TLS_CLIENT]).arg(port.trim()).arg(&certificates.authority))?;
        let mut sessions = Vec::new();
        for _ in 0..N_CONNECTIONS {
            let mut session = String::new();
            server.answers.read_line(&mut session)?;
            sessions.push(session);
        }
        let mut addresses = sessions.clone();
        addresses.sort_unstable();
        addresses.dedup();
        assert!(addresses.len() < sessions.len(), "no address of a session was used again");

        watched.look()?;
        let inbound: Vec<SocketId> =
            watched.seen.opened.iter().filter(|one| one.inbound).map(|one| one.socket).collect();
        assert_eq!(inbound.len(), N_CONNECTIONS);
        let mut numbers = Vec::new();
        for socket in inbound {
            let whole = |direction| -> Result<String> {
                let runs = watched.seen.runs(socket, direction, Layer::Tls)?;
                let [(0, plaintext)] = runs.as_slice() else {
                    anyhow::bail!("{} runs", runs.len())
                };
                Ok(String::from_utf8(plaintext.clone())?)
            };
            let request = whole(Direction::Request)?;
            let number = request.split(' ').nth(1).context("no number")?.to_owned();
            let lines = (0..3000).map(|line| format!("connection {number} line {line}\n"));
            assert!(request == lines.collect::<String>(), "{hooks:?}: connection {number}");
            assert!(whole(Direction::Response)? == request, "{hooks:?}: connection {number}");
            numbers.push(number.parse::<usize>()?);
            for direction in [Direction::Request, Direction::Response] {
                let handshake = watched.seen.runs(socket, direction, Layer::Socket)?;
                let n_bytes: usize = handshake.iter().map(|(_, run)| run.len()).sum();
                assert!(n_bytes < 8000, "{hooks:?}: {n_bytes} bytes of ciphertext");
            }
        }
        numbers.sort_unstable();
        assert!(numbers.into_iter().eq(0..N_CONNECTIONS));
        assert!(watched.capture.drops().iter().all(|(_, count)| count.events == 0));
    }
    Ok(())
}

fn libssl(pid: u32) -> Result<TlsLibrary> {
    use std::os::unix::fs::MetadataExt;
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let path = maps.lines().filter_map(|line| line.split_whitespace().nth(5));
    let path =
        PathBuf::from(path.into_iter().find(|path| path.contains("libssl")).context("no libssl")?);
    let file = path.metadata()?;
    let name = path.display().to_string();
    Ok(TlsLibrary { path, name, device: file.dev(), inode: file.ino() })
}
