//! Clients of unix sockets on their way to their servers, each in its own name.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
    time::{Duration, Instant},
};

use rustix::{
    fs::{Mode, OFlags},
    net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with,
        sockopt::socket_cookie,
    },
};

use super::{
    account::Account,
    seat::{file_of, listens, socket_of},
};
use crate::gate::{Asked, Caller, Gate, Identified, Target, Upstream};

/// For a server to take a connection, as for those by TCP.
const CONNECT: Duration = Duration::from_secs(2);
/// How often a server that has no room for more is asked again.
pub(in crate::gate) const RETRY: Duration = Duration::from_millis(10);

/// Those that wait, by the server's place in the settings: a server that takes nobody is nobody else's trouble.
#[derive(Default)]
pub(in crate::gate) struct Queue {
    waiting: BTreeMap<usize, VecDeque<Waiting>>,
}

struct Waiting {
    asked: Asked,
    caller: Caller,
    identified: Identified,
    since: Instant,
}

/// What has become of one of them.
pub(in crate::gate) struct Reached {
    pub asked: Asked,
    pub identified: Identified,
    pub server: io::Result<OwnedFd>,
}

impl Queue {
    pub fn push(&mut self, asked: Asked, caller: Caller, identified: Identified) {
        let line = self.waiting.entry(asked.server).or_default();
        line.push_back(Waiting { asked, caller, identified, since: Instant::now() });
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.values().all(VecDeque::is_empty)
    }

    /// Those that have got to their servers, or never will.
    pub fn poll(&mut self, gate: &Gate) -> Vec<Reached> {
        let mut done = Vec::new();
        for line in self.waiting.values_mut() {
            while let Some(first) = line.front() {
                if gate.has(first.asked.number) {
                    let server = first.reach(gate);
                    let is_full = matches!(&server, Err(error)
                        if error.kind() == io::ErrorKind::WouldBlock);
                    if is_full && first.since.elapsed() < CONNECT {
                        break;
                    }
                    let Some(Waiting { asked, identified, .. }) = line.pop_front() else { break };
                    done.push(Reached { asked, identified, server });
                } else {
                    // It has left meanwhile.
                    line.pop_front();
                }
            }
        }
        done
    }
}

impl Waiting {
    /// A connection that the server takes for the client's own.
    fn reach(&self, gate: &Gate) -> io::Result<OwnedFd> {
        let account = self.caller.account()?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        let way = Upstream::Unix { cookie: socket_cookie(&socket)? };
        if self.asked.wants.is_session() {
            // The server may look at it at once, and tell the observer.
            gate.expect(way, self.identified.clone());
        }
        let connected = connect_as(&account, &self.asked, &socket);
        if connected.is_err() {
            gate.expected(&way);
        }
        connected.map(|()| socket)
    }
}

/// By the server's file. Who has come to the guard in the server's place need not be able to find that; who has been
/// led finds it by itself, or it may not go there.
fn connect_as(account: &Account, asked: &Asked, socket: &OwnedFd) -> io::Result<()> {
    let Target { pid, socket: path, .. } = &asked.target;
    let nowhere = || io::Error::other("the server has no unix socket of its own");
    let path = path.as_deref().ok_or_else(nowhere)?;
    let file = socket_of(*pid, path)?;
    if asked.is_led {
        let theirs = account.run(|| {
            let found = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
            file_of(found)
        })?;
        if theirs != file_of(file.try_clone()?)? {
            return Err(io::Error::other("another socket has taken the server's place"));
        }
    }
    let address = format!("/proc/self/fd/{}", file.as_raw_fd());
    let address = SocketAddrUnix::new(Path::new(&address))?;
    account.run(|| Ok(connect(socket, &address)?))?;
    match u32::try_from(listens(socket)?) {
        Ok(listener) if listener == *pid => Ok(()),
        _ => Err(io::Error::other("another process listens at the server's socket")),
    }
}
