//! Takes clients in for the guard, as long as there is one.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, atomic::Ordering},
    thread,
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::{
    event::{EventfdFlags, eventfd},
    net::{
        AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt::set_socket_reuseaddr,
    },
};

use super::{Arrived, Gate, MAX_CLIENTS, Way, own_netns};
use crate::guard::wire::{Channel, Order};

const BACKLOG: i32 = 1_024;

/// Closes its listeners when it is dropped: nobody can come in without a guard.
pub(super) struct Listeners {
    stop: Arc<OwnedFd>,
    thread: Option<thread::JoinHandle<()>>,
}

pub(super) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(TcpListener::from(socket))
}

impl Listeners {
    pub(super) fn open(gate: &Arc<Gate>, channel: Arc<Channel>) -> io::Result<Self> {
        let listening = gate.listen.iter().map(|(server, at)| Ok((*server, listen(*at)?)));
        let listening: Vec<(usize, TcpListener)> = listening.collect::<io::Result<_>>()?;
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let (gate, until) = (gate.clone(), stop.clone());
        let thread = thread::Builder::new()
            .name("gate-listen".into())
            .spawn(move || accept(&gate, &channel, &listening, &until))?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Listeners {
    fn drop(&mut self) {
        let _ = rustix::io::write(&self.stop, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn accept(gate: &Gate, channel: &Channel, listening: &[(usize, TcpListener)], until: &OwnedFd) {
    let netns = own_netns();
    loop {
        let mut fds = vec![PollFd::new(until.as_fd(), PollFlags::POLLIN)];
        fds.extend(listening.iter().map(|(_, one)| PollFd::new(one.as_fd(), PollFlags::POLLIN)));
        if let Err(error) = poll(&mut fds, PollTimeout::NONE)
            && error != nix::errno::Errno::EINTR
        {
            tracing::error!(%error, "the gate's listeners can't be waited for");
            return;
        }
        if fds.first().is_some_and(|fd| fd.any() == Some(true)) {
            return;
        }
        for (server, listener) in listening {
            loop {
                match listener.accept() {
                    Ok((client, from)) => {
                        let Ok(to) = client.local_addr() else { continue };
                        let end = |at: SocketAddr| (at.ip(), at.port());
                        let way = Way { netns, from: end(from), to: end(to) };
                        take(gate, channel, *server, way, client.into());
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

fn take(gate: &Gate, channel: &Channel, server: usize, way: Way, client: OwnedFd) {
    let number = gate.figures.clients.fetch_add(1, Ordering::Relaxed);
    let mut state = gate.state();
    if state.clients.len() >= MAX_CLIENTS {
        gate.figures.refused.fetch_add(1, Ordering::Relaxed);
        return;
    }
    state.clients.insert(number, Arrived { server, way });
    drop(state);
    // Without the guard there is nobody to take it, and it closes.
    let _ = channel.send(&Order::Client { number, server }, Some(client.as_fd()));
}
