//! Leads the clients of guarded servers to the guard, as far as this host allows.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{
        AddressFamily, SocketFlags, SocketType, bind, connect, socket_with,
        sockopt::{socket_cookie, socket_error},
    },
};

use super::{Gate, GateError, Ports, Target, return_way, transparent};
use crate::{
    capture::steer::{
        GuardDown, SteerError, SteerOptions, Steering, local_prefixes, own_netns_cookie,
        remove_pins,
    },
    config::{LaneChoice, OnGuardDown, Server},
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
    /// Servers' addresses from which answers to clients of the network come back here, or why there are none.
    returns: Result<BTreeSet<SocketAddr>, String>,
    /// Which listener takes in the network's clients of an address, or why none does.
    network: BTreeMap<SocketAddr, (Weak<TcpListener>, Result<(), String>)>,
    /// What is led: the servers' places in the settings by their addresses.
    led: BTreeMap<SocketAddr, usize>,
}

/// In whose name the guard comes to a server.
pub(super) enum Caller {
    /// Somebody of this host; from that address, if one is given.
    Here(Option<IpAddr>),
    Network(SocketAddr),
}

/// For a server on this host to take a connection.
const CONNECT: Duration = Duration::from_secs(2);

impl Lead {
    pub(super) fn new(pins: &Path) -> Self {
        Self {
            steering: None,
            netns: 0,
            tried: false,
            settled: false,
            pins: pins.to_owned(),
            returns: Ok(BTreeSet::new()),
            network: BTreeMap::new(),
            led: BTreeMap::new(),
        }
    }

    /// Brings the kernel side up to date: where the servers and the guard are now.
    pub(super) fn follow(&mut self, gate: &Gate) {
        let (targets, ports, stands) = {
            let state = gate.state();
            (state.targets(), state.ports.clone(), state.stands)
        };
        self.make_returns(gate, &targets);
        if !gate.steer {
            gate.state().steering = Some("clients may come to it by themselves".to_owned());
            return;
        }
        if !stands {
            return;
        }
        let outcome = match self.attach(gate) {
            Ok(true) => self.lead(gate, &targets, &ports),
            Ok(false) => return,
            Err(error) => Err(error),
        };
        let how = match outcome.as_ref().err().map(|error| in_full(error)) {
            None => "its clients are led to the guard".to_owned(),
            Some(problem) => format!("not guardable, its clients go past the guard: {problem}"),
        };
        let network = outcome.unwrap_or_default();
        let mut state = gate.state();
        if state.steering.as_ref() != Some(&how) {
            tracing::info!("{how}");
            state.steering = Some(how);
        }
        if state.network != network {
            for (server, why) in gate.servers.iter().zip(&network) {
                let server = server.name.as_deref().unwrap_or_default();
                if let Some(why) = why {
                    tracing::error!(
                        server,
                        "its clients from the network are not guardable: {why}"
                    );
                }
            }
            state.network = network;
        }
    }

    /// Whether there is a steering; none where it was tried in vain before.
    fn attach(&mut self, gate: &Gate) -> Result<bool, SteerError> {
        if self.steering.is_none() && !std::mem::replace(&mut self.tried, true) {
            self.netns = own_netns_cookie()?;
            let outlives = |server: &Server| {
                !server.lane.is_observe() && server.on_guard_down == OnGuardDown::Refuse
            };
            let options = match gate.servers.iter().any(outlives) {
                true => SteerOptions { pins: Some(self.pins.clone()), ..SteerOptions::default() },
                false => {
                    // Of a time when the configuration said otherwise.
                    remove_pins(&self.pins)?;
                    SteerOptions::default()
                }
            };
            let mut steering = Steering::attach(&options)?;
            *gate.passes() = steering.take_passes();
            self.steering = Some(steering);
        }
        Ok(self.steering.is_some())
    }

    /// The ways back for those servers that the network can reach, with the guard or without.
    fn make_returns(&mut self, gate: &Gate, targets: &[Result<Target, String>]) {
        let mut servers = BTreeSet::new();
        for (place, target) in targets.iter().enumerate() {
            let Ok(target) = target else { continue };
            let own = gate.listen.iter().filter(|(of, _)| *of == place).map(|(_, at)| at);
            if target.listens.iter().chain(own).all(|at| at.ip().is_loopback()) {
                continue;
            }
            let loopback = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
            servers.extend(loopback.into_iter().filter_map(|ip| target.loopback(ip).ok()));
        }
        self.returns = match return_way::keep(&servers) {
            Ok(()) => Ok(servers),
            Err(error) => Err(format!("no rule for the way back from it: {error}")),
        };
    }

    /// Why clients from the network aren't led, by the servers' places in the settings.
    fn lead(
        &mut self,
        gate: &Gate,
        targets: &[Result<Target, String>],
        ports: &[Ports],
    ) -> Result<Vec<Option<String>>, SteerError> {
        let Some(steering) = &mut self.steering else { return Ok(Vec::new()) };
        let prefixes = local_prefixes(Path::new("/proc/thread-self/net"))
            .map_err(|source| SteerError::Namespace { source })?;
        steering.set_local(self.netns, &prefixes)?;
        for ((place, server), (target, ports)) in
            gate.servers.iter().enumerate().zip(targets.iter().zip(ports))
        {
            let Ok(target) = target else { continue };
            for original in &target.listens {
                // Only the port changes: the client keeps its own address.
                let (ip, port): (IpAddr, _) = match original {
                    SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED.into(), &ports.v4),
                    SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED.into(), &ports.v6),
                };
                if let Some(port) = port {
                    let guard = SocketAddr::new(ip, port.number);
                    let (netns, down) = (self.netns, down(server));
                    match server.lane {
                        LaneChoice::Policy => {
                            let number = place as u32;
                            steering.steer_by_policy(netns, *original, guard, down, number)?;
                        }
                        _ => steering.steer(netns, *original, guard, down)?,
                    }
                    self.led.insert(*original, place);
                }
            }
        }
        let mut network = Vec::new();
        for (server, (target, ports)) in gate.servers.iter().zip(targets.iter().zip(ports)) {
            let listens =
                target.iter().flat_map(|target| target.listens.iter().map(move |at| (target, at)));
            let from_outside = listens.filter(|(_, at)| !at.ip().is_loopback());
            let led =
                from_outside.map(|(target, at)| self.lead_network(server, target, *at, ports));
            network.push(led.filter_map(Result::err).last());
        }
        self.let_go(gate)?;
        let is_known = |(place, server): (usize, &Server)| {
            server.lane.is_observe()
                || targets.get(place).is_some_and(Result::is_ok)
                || gate.state().unfit(place).is_some()
        };
        if !self.settled
            && gate.servers.iter().enumerate().all(is_known)
            && let Some(steering) = &mut self.steering
        {
            steering.settle()?;
            self.settled = true;
        }
        Ok(network)
    }

    /// # Errors
    /// Why clients from the network go straight to that address.
    fn lead_network(
        &mut self,
        server: &Server,
        target: &Target,
        original: SocketAddr,
        ports: &Ports,
    ) -> Result<(), String> {
        let loopback = target.loopback(original.ip())?;
        self.returns
            .as_ref()
            .map_err(Clone::clone)?
            .get(&loopback)
            .ok_or("there is no way back")?;
        let port = if original.is_ipv4() { &ports.v4 } else { &ports.v6 };
        let socket = &port.as_ref().ok_or("the guard can't listen there")?.socket;
        let listener = Arc::downgrade(socket);
        if let Some((known, outcome)) = self.network.get(&original)
            && Weak::ptr_eq(known, &listener)
        {
            return outcome.clone();
        }
        let Some(steering) = &mut self.steering else { return Ok(()) };
        let netns = File::open("/proc/thread-self/ns/net").map_err(|error| error.to_string())?;
        let led = steering.attach_network(netns.as_fd(), original, socket.as_fd(), down(server));
        let outcome = led.map_err(|error| in_full(&error));
        self.network.insert(original, (listener, outcome.clone()));
        outcome
    }

    /// Servers whose clients can't be served through a guard any more.
    fn let_go(&mut self, gate: &Gate) -> Result<(), SteerError> {
        let Some(steering) = &mut self.steering else { return Ok(()) };
        let state = gate.state();
        for (original, _) in self.led.extract_if(.., |_, place| state.unfit(*place).is_some()) {
            self.network.remove(&original);
            steering.release(self.netns, original)?;
            steering.release_network(self.netns, original)?;
        }
        Ok(())
    }

    /// A connection to a server.
    pub(super) fn connect(&mut self, to: SocketAddr, caller: Caller) -> io::Result<TcpStream> {
        match caller {
            Caller::Here(from) => {
                let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
                let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
                let socket = socket_with(family, SocketType::STREAM, flags, None)?;
                if let Some(from) = from {
                    bind(&socket, &SocketAddr::new(from, 0))?;
                }
                self.reach(socket, to)
            }
            Caller::Network(client) => {
                let returns = self.returns.as_ref().map_err(|why| io::Error::other(why.clone()))?;
                if !returns.contains(&to) {
                    return Err(io::Error::other("there is no way back"));
                }
                match transparent::socket_of(client).and_then(|socket| self.reach(socket, to)) {
                    // Somebody of this host has the client's port: the address is what counts.
                    Err(error) if is_taken(&error) => {
                        let socket = transparent::socket_of(SocketAddr::new(client.ip(), 0))?;
                        self.reach(socket, to)
                    }
                    outcome => outcome,
                }
            }
        }
    }

    fn reach(&mut self, socket: OwnedFd, to: SocketAddr) -> io::Result<TcpStream> {
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
        let may_be_missed = |server: &Server| {
            server.lane.is_observe() || server.on_guard_down == OnGuardDown::Direct
        };
        if gate.servers.iter().all(may_be_missed)
            && let Some(Err(error)) = self.steering.map(Steering::stop)
        {
            tracing::error!("steering can't be taken off: {}", in_full(&error));
        }
        if let Err(error) = return_way::keep(&BTreeSet::new()) {
            tracing::error!(%error, "the rules for the way back can't be taken off");
        }
    }
}

/// Takes off what an earlier start has left: for one that leads nobody.
///
/// # Errors
/// What the host refuses.
pub fn take_off(pins: &Path) -> Result<(), GateError> {
    remove_pins(pins)?;
    return_way::keep(&BTreeSet::new()).map_err(GateError::Returns)
}

fn down(server: &Server) -> GuardDown {
    match server.on_guard_down {
        OnGuardDown::Refuse => GuardDown::Refuse,
        OnGuardDown::Direct => GuardDown::Direct,
    }
}

fn is_taken(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable)
}

/// The other side has taken it, or why not.
fn established(socket: impl AsFd) -> io::Result<()> {
    let mut fds = [PollFd::new(&socket, PollFlags::OUT)];
    let patience = Timespec { tv_sec: CONNECT.as_secs() as i64, tv_nsec: 0 };
    if poll(&mut fds, Some(&patience))? == 0 {
        return Err(io::ErrorKind::TimedOut.into());
    }
    socket_error(&socket)?.map_err(io::Error::from)
}
