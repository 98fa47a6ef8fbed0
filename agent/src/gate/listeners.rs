//! Takes clients in for the guard, as long as there is one.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixListener,
    },
    sync::{Arc, atomic::Ordering},
    thread,
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::{
    event::{EventfdFlags, eventfd},
    net::{
        AddressFamily, SocketFlags, SocketType, bind, socket_with,
        sockopt::{set_ipv6_v6only, set_socket_reuseaddr},
    },
};

use super::{Arrived, Caller, Came, Gate, MAX_CLIENTS, Port, Ports, Way};
use crate::guard::wire::{Channel, Order};

const BACKLOG: i32 = 1_024;

/// Closes its listeners when it is dropped: nobody can come in without a guard.
pub(super) struct Listeners {
    gate: Arc<Gate>,
    _accepting: Accepting,
}

/// A thread that takes clients in; it ends, and what it listens on closes, when this is dropped.
pub(super) struct Accepting {
    stop: Arc<OwnedFd>,
    thread: Option<thread::JoinHandle<()>>,
}

/// An address of its own, where nobody gets in yet.
pub(super) fn bound(address: SocketAddr) -> io::Result<TcpListener> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        set_ipv6_v6only(&socket, true)?;
    }
    bind(&socket, &address)?;
    Ok(TcpListener::from(socket))
}

/// One place where clients of a server come in.
pub(super) struct Listening {
    server: usize,
    /// Clients of the server itself are led here.
    is_led: bool,
    socket: Socket,
}

enum Socket {
    Tcp(Arc<TcpListener>),
    Unix(UnixListener),
}

impl Listening {
    /// In a server's place.
    pub fn at_socket(server: usize, socket: UnixListener) -> Self {
        Self { server, is_led: false, socket: Socket::Unix(socket) }
    }

    /// For those who meant the server's own socket.
    pub fn led_to_socket(server: usize, socket: UnixListener) -> Self {
        Self { server, is_led: true, socket: Socket::Unix(socket) }
    }
}

impl Socket {
    /// A client, and how it has come; none if it is gone already.
    fn accept(&self, gate: &Gate) -> io::Result<Option<(OwnedFd, Came)>> {
        Ok(match self {
            Socket::Tcp(socket) => {
                let (client, from) = socket.accept()?;
                let to = client.local_addr().ok();
                to.map(|to| (client.into(), Came::Tcp(Way::new(gate.netns, from, to))))
            }
            Socket::Unix(socket) => {
                let (client, _) = socket.accept()?;
                let caller = Caller::of(&client).ok();
                caller.map(|caller| (client.into(), Came::Unix(caller)))
            }
        })
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Socket::Tcp(socket) => socket.as_fd(),
            Socket::Unix(socket) => socket.as_fd(),
        }
    }
}

impl Listeners {
    pub(super) fn open(gate: &Arc<Gate>, channel: Arc<Channel>) -> io::Result<Self> {
        let mut listening = Vec::new();
        for (server, at) in &gate.listen {
            let socket = Socket::Tcp(Arc::new(bound(*at)?));
            listening.push(Listening { server: *server, is_led: false, socket });
        }
        let mut all = vec![Ports::default(); gate.servers.len()];
        let guarded = gate.servers.iter().zip(&mut all).enumerate();
        for (server, (_, ports)) in guarded.filter(|(_, (one, _))| !one.lane.is_observe()) {
            for (ip, port) in [
                (IpAddr::from(Ipv4Addr::UNSPECIFIED), &mut ports.v4),
                (Ipv6Addr::UNSPECIFIED.into(), &mut ports.v6),
            ] {
                // A host may have no IPv6.
                let Ok(socket) = bound(SocketAddr::new(ip, 0)) else { continue };
                let socket = Arc::new(socket);
                *port = Some(Port { number: socket.local_addr()?.port(), socket: socket.clone() });
                listening.push(Listening { server, is_led: true, socket: Socket::Tcp(socket) });
            }
        }
        gate.move_to(all);
        for one in &listening {
            rustix::net::listen(&one.socket, BACKLOG)?;
        }
        let accepting = Accepting::start(gate, channel, listening)?;
        Ok(Self { gate: gate.clone(), _accepting: accepting })
    }
}

impl Drop for Listeners {
    fn drop(&mut self) {
        // Kept open there, they would take in clients whom nobody serves.
        self.gate.state().ports.clear();
    }
}

impl Accepting {
    pub fn start(
        gate: &Arc<Gate>,
        channel: Arc<Channel>,
        listening: Vec<Listening>,
    ) -> io::Result<Self> {
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let (accepting, until) = (gate.clone(), stop.clone());
        let thread = thread::Builder::new()
            .name("gate-listen".into())
            .spawn(move || accept(&accepting, &channel, &listening, &until))?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Accepting {
    fn drop(&mut self) {
        let _ = rustix::io::write(&self.stop, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn accept(gate: &Gate, channel: &Channel, listening: &[Listening], until: &OwnedFd) {
    loop {
        let mut fds = vec![PollFd::new(until.as_fd(), PollFlags::POLLIN)];
        fds.extend(listening.iter().map(|one| PollFd::new(one.socket.as_fd(), PollFlags::POLLIN)));
        if let Err(error) = poll(&mut fds, PollTimeout::NONE)
            && error != nix::errno::Errno::EINTR
        {
            tracing::error!(%error, "the gate's listeners can't be waited for");
            return;
        }
        if fds.first().is_some_and(|fd| fd.any() == Some(true)) {
            return;
        }
        for Listening { server, is_led, socket } in listening {
            loop {
                match socket.accept(gate) {
                    Ok(None) => {}
                    Ok(Some((client, came))) => {
                        let arrived = Arrived { server: *server, came, is_led: *is_led };
                        take(gate, channel, arrived, client);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => {
                        // Of one client, or no descriptors are left: the poll comes back to it.
                        tracing::warn!(%error, "a client of the guard can't be accepted");
                        thread::sleep(std::time::Duration::from_millis(10));
                        break;
                    }
                }
            }
        }
    }
}

fn take(gate: &Gate, channel: &Channel, arrived: Arrived, client: OwnedFd) {
    let server = arrived.server;
    let number = gate.figures.clients.fetch_add(1, Ordering::Relaxed);
    let mut state = gate.state();
    if state.clients.len() >= MAX_CLIENTS {
        gate.figures.refused.fetch_add(1, Ordering::Relaxed);
        return;
    }
    state.clients.insert(number, arrived);
    drop(state);
    // Without the guard there is nobody to take it, and it closes.
    let _ = channel.send(&Order::Client { number, server }, Some(client.as_fd()));
}
