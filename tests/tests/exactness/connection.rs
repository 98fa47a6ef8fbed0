//! One connection to a mover, with the client's end and the truth about what moved.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::{AsRawFd, OwnedFd},
    sync::mpsc::{Sender, channel},
    thread::JoinHandle,
};

use anyhow::{Context, Result, ensure};
use dbwarden::{
    capture::Opened,
    event::{Direction, Layer},
};
use dbwarden_tests::pattern;
use nix::sys::socket::{Shutdown, shutdown};

use crate::{mover::Mover, watched::Watched};

/// One connection to a mover, with the client's end and the truth about it.
pub struct Connection {
    pub fd: u64,
    pub port: u16,
    pub stream: u64,
    pub to_write: Option<Sender<(u64, u64)>>,
    pub threads: Vec<JoinHandle<()>>,
    pub requests: Moved,
    pub responses: Moved,
}

/// What moved in one direction: length of each call, and whether its memory could be read.
#[derive(Default)]
pub struct Moved {
    pub calls: Vec<(u64, bool)>,
    pub total: u64,
}

impl Moved {
    pub fn lost(&self) -> u64 {
        self.calls.iter().filter(|(_, readable)| !readable).map(|(len, _)| len).sum()
    }
}

impl Connection {
    pub fn new(socket: OwnedFd, port: u16, fd: u64, stream: u64) -> Result<Connection> {
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
            let _ = shutdown(writes.as_raw_fd(), Shutdown::Write);
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
    pub fn offer(&mut self, at: u64, len: u64) -> Result<()> {
        let to_write = self.to_write.as_ref().context("the client has finished")?;
        Ok(to_write.send((at, len))?)
    }

    /// The client writes `len` bytes and the mover reads them, in as many calls as it takes.
    pub fn request(
        &mut self,
        mover: &mut Mover,
        call: &Call,
        len: u64,
        n_vectors: u64,
    ) -> Result<()> {
        self.offer(self.requests.total, len)?;
        self.take(mover, call, len, n_vectors)
    }

    pub fn take(&mut self, mover: &mut Mover, call: &Call, len: u64, n_vectors: u64) -> Result<()> {
        repeat(mover, self.fd, call, self.stream, &mut self.requests, len, n_vectors)
    }

    /// The mover writes `len` bytes.
    pub fn respond(
        &mut self,
        mover: &mut Mover,
        call: &Call,
        len: u64,
        n_vectors: u64,
    ) -> Result<()> {
        repeat(mover, self.fd, call, self.stream + 1, &mut self.responses, len, n_vectors)
    }

    /// Both ends close.
    pub fn finish(&mut self, mover: &mut Mover) -> Result<()> {
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
    pub fn check(&self, watched: &mut Watched, opened: &Opened) -> Result<()> {
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
pub struct Call {
    pub name: &'static str,
    pub flags: i32,
    pub readable: bool,
}

pub const fn call(name: &'static str, flags: i32, readable: bool) -> Call {
    Call { name, flags, readable }
}

pub const READ: Call = call("read", 0, true);
pub const WRITE: Call = call("write", 0, true);

pub const READS: [Call; 9] = [
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

pub const WRITES: [Call; 9] = [
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
