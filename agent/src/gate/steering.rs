//! Leads the clients of guarded servers to the guard, as far as this host allows.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    os::fd::AsFd,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{
        AddressFamily, SocketFlags, SocketType, bind, connect, socket_with,
        sockopt::{socket_cookie, socket_error},
    },
};

use super::Gate;
use crate::{
    capture::steer::{
        GuardDown, SteerError, SteerOptions, Steering, local_prefixes, own_netns_cookie,
        remove_pins,
    },
    config::{LaneChoice, OnGuardDown},
    event::in_full,
};

/// Owned by the one thread that also makes the guard's sockets.
pub(super) struct Lead {
    steering: Option<Steering>,
    netns: u64,
    /// Only once: what this host lacks it will lack in a second, too.
    tried: bool,
    settled: bool,
    pins: PathBuf,
}

/// For a server on this host to take a connection.
const CONNECT: Duration = Duration::from_secs(2);

impl Lead {
    pub(super) fn new(pins: &Path) -> Self {
        Self { steering: None, netns: 0, tried: false, settled: false, pins: pins.to_owned() }
    }

    /// Brings the kernel side up to date: where the servers and the guard are now.
    pub(super) fn follow(&mut self, gate: &Gate) {
        let (targets, ports, stands) = {
            let state = gate.state();
            (state.targets.clone(), state.ports.clone(), state.stands)
        };
        if !stands {
            return;
        }
        let problem = match self.steering(gate) {
            Ok(Some(steering)) => {
                let led = steering.lead(gate, &targets, &ports);
                let is_complete =
                    gate.servers.iter().zip(&targets).all(|(server, target)| {
                        server.lane == LaneChoice::Observe || target.is_ok()
                    });
                match led {
                    Ok(()) if is_complete && !self.settled => {
                        self.settled = true;
                        self.steering.as_mut().and_then(|steering| steering.settle().err())
                    }
                    other => other.err(),
                }
            }
            Ok(None) => return,
            Err(error) => Some(error),
        };
        let problem = problem.map(|error| in_full(&error));
        if let Some(problem) = &problem {
            tracing::error!("not guardable, clients go straight to their server: {problem}");
        }
        gate.state().steering = problem;
    }

    /// `None` where it was tried in vain before.
    fn steering(&mut self, gate: &Gate) -> Result<Option<Steered<'_>>, SteerError> {
        if self.steering.is_none() && !std::mem::replace(&mut self.tried, true) {
            self.netns = own_netns_cookie()?;
            let outlives = |server: &crate::config::Server| {
                server.lane != LaneChoice::Observe && server.on_guard_down == OnGuardDown::Refuse
            };
            let options = match gate.servers.iter().any(outlives) {
                true => SteerOptions { pins: Some(self.pins.clone()), ..SteerOptions::default() },
                false => {
                    // Of a time when the configuration said otherwise.
                    remove_pins(&self.pins)?;
                    SteerOptions::default()
                }
            };
            self.steering = Some(Steering::attach(&options)?);
            tracing::info!("clients of guarded servers are led to the guard");
        }
        let netns = self.netns;
        Ok(self.steering.as_mut().map(|steering| Steered { steering, netns }))
    }

    /// A connection to a server; from that address, if one is given.
    pub(super) fn connect(
        &mut self,
        to: SocketAddr,
        from: Option<IpAddr>,
    ) -> io::Result<TcpStream> {
        let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(family, SocketType::STREAM, flags, None)?;
        if let Some(from) = from {
            bind(&socket, &SocketAddr::new(from, 0))?;
        }
        let cookie = socket_cookie(&socket)?;
        if let Some(steering) = &mut self.steering {
            // Without this it would come back to the guard.
            steering.exempt(cookie).map_err(io::Error::other)?;
        }
        let connected = match connect(&socket, &to) {
            Err(rustix::io::Errno::INPROGRESS) => established(&socket),
            other => other.map_err(Into::into),
        };
        if let Some(steering) = &mut self.steering
            && let Err(error) = steering.forget(cookie)
        {
            tracing::warn!(%error, "an exemption stays");
        }
        connected?;
        Ok(TcpStream::from(socket))
    }

    /// Where new connections may go straight on without a guard they do so from now on. Where they may not,
    /// they are refused until the next start.
    pub(super) fn stop(self, gate: &Gate) {
        let may_be_missed = |server: &crate::config::Server| {
            server.lane == LaneChoice::Observe || server.on_guard_down == OnGuardDown::Direct
        };
        if gate.servers.iter().all(may_be_missed)
            && let Some(Err(error)) = self.steering.map(Steering::stop)
        {
            tracing::error!("steering can't be taken off: {}", in_full(&error));
        }
    }
}

/// The other side has taken it, or why not.
fn established(socket: impl AsFd) -> io::Result<()> {
    let mut fds = [PollFd::new(&socket, PollFlags::OUT)];
    let patience = Timespec { tv_sec: CONNECT.as_secs() as i64, tv_nsec: 0 };
    if poll(&mut fds, Some(&patience))? == 0 {
        return Err(io::ErrorKind::TimedOut.into());
    }
    Ok(socket_error(&socket)?.map_err(io::Error::from)?)
}

struct Steered<'a> {
    steering: &'a mut Steering,
    netns: u64,
}

impl Steered<'_> {
    fn lead(
        self,
        gate: &Gate,
        targets: &[Result<super::Target, String>],
        ports: &[super::Ports],
    ) -> Result<(), SteerError> {
        let prefixes = local_prefixes(Path::new("/proc/self/net"))
            .map_err(|source| SteerError::Namespace { source })?;
        self.steering.set_local(self.netns, &prefixes)?;
        for ((server, target), ports) in gate.servers.iter().zip(targets).zip(ports) {
            let Ok(target) = target else { continue };
            let down = match server.on_guard_down {
                OnGuardDown::Refuse => GuardDown::Refuse,
                OnGuardDown::Direct => GuardDown::Direct,
            };
            for original in &target.listens {
                // Only the port changes: the client keeps its own address.
                let (ip, port): (IpAddr, _) = match original {
                    SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED.into(), ports.v4),
                    SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED.into(), ports.v6),
                };
                if let Some(port) = port {
                    self.steering.steer(self.netns, *original, SocketAddr::new(ip, port), down)?;
                }
            }
        }
        Ok(())
    }
}
