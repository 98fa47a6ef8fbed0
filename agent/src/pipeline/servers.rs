//! The database servers that are watched: found, named, tracked in the kernel, and let go.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::PathBuf,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use dbwarden_common::{TRACKED_LIMITED, Tracked};

use super::{
    connections::Connections,
    coverage::Coverage,
    places::Places,
    scout::{Answer, Found, Request, Scout},
};
use crate::{
    capture::{Capture, MAX_SERVERS, Opened, TableError, TlsLibrary},
    config::{self, LaneChoice, Settings, TlsCapture},
    control::{AbsentServer, Hub, Notice, ServerStatus},
    discovery::{self, Listener, Look, Names, Server, ServerKind, ServerRule, Trust, Watcher},
    event::{
        BootTime, Destination, Endpoint, Engine, Entry, EpisodeAction, Origin, Outbound,
        ProcessEvent, Remote, WallTime,
    },
    gate::{self, Gate, Target},
    identity::{Peer, ProcessTable, Procfs},
    policy::{Whereabouts, World},
};

/// Unverified servers watched at a time: anybody can start a program that looks like one.
const MAX_UNVERIFIED: usize = 8;
/// What is copied for one of them in a second.
const UNVERIFIED_BYTES_PER_SECOND: u64 = 1 << 20;
/// A pooler that was found so soon after its start had no clients before.
const POOLER_START_NS: u64 = 2_000_000_000;
/// How long the start waits for the first look at everything.
const FIRST_PATIENCE: Duration = Duration::from_secs(10);

/// What statements say of their server, with its counters.
pub struct ServerFacts {
    pub name: Arc<str>,
    pub engine: Engine,
    pub places: Places,
    pub coverage: Coverage,
    /// Its program and its files are root's or its own account's: nobody pretends to be it.
    pub is_verified: bool,
    /// Which of its clients are to come through the guard.
    pub lane: LaneChoice,
    /// In the settings, where they name it.
    pub place: Option<usize>,
    /// Of a pooler, its process.
    pub pooler: Option<u32>,
}

impl ServerFacts {
    /// For whoever tells of a connection to it, and counts nothing.
    pub fn named(name: Arc<str>, engine: Engine, places: Places) -> Self {
        let coverage = Coverage::default();
        let (is_verified, lane) = (true, LaneChoice::Guard);
        Self { name, engine, places, coverage, is_verified, lane, place: None, pooler: None }
    }

    /// What is said of the server where no client is known.
    fn origin(&self, host: &Origin) -> Arc<Origin> {
        let (environment, region) = self.places.of(None, host);
        Arc::new(Origin {
            environment,
            region,
            server: Some(self.name.clone()),
            engine: Some(self.engine),
            ..host.clone()
        })
    }
}

/// One watched server; its index in the list is the kernel side's number for it.
struct Watched {
    server: Server,
    facts: Rc<ServerFacts>,
    /// What is seen of its TLS connections.
    tls: String,
}

pub struct Servers {
    rules: Vec<ServerRule>,
    /// Of the servers that the rules name.
    places: Vec<Places>,
    /// What [[region]] says of addresses.
    world: World,
    tls: TlsCapture,
    /// Whether poolers are watched.
    poolers: bool,
    scout: Scout,
    watcher: Watcher,
    names: Names,
    watched: Vec<Option<Watched>>,
    /// Servers that are tracked from now on; their children of before are still to be.
    new: Vec<u32>,
    /// Postmasters that have gone, to be let go with the capture at hand.
    gone: Vec<u32>,
    /// Processes that opened a port and may be servers.
    listeners: HashSet<u32>,
    live: Arc<Hub>,
    lanes: Vec<LaneChoice>,
    /// Where the guard listens in the place of a server that has moved.
    guard_sockets: Vec<Option<PathBuf>>,
    /// Servers were found, have changed or are gone.
    have_changed: bool,
    /// Where the guard takes clients in.
    guard_ports: Vec<u16>,
    own_netns: u32,
}

impl Servers {
    pub fn new(settings: &Settings, procfs: Procfs, live: Arc<Hub>) -> Self {
        let rules: Vec<ServerRule> = settings.servers.iter().map(rule).collect();
        let own_netns = gate::own_netns();
        Self {
            tls: settings.capture.tls,
            poolers: settings.capture.poolers,
            scout: Scout::new(procfs, rules.clone()),
            watcher: Watcher::new(&rules),
            names: Names::new(own_netns.into()),
            watched: Vec::new(),
            new: Vec::new(),
            gone: Vec::new(),
            listeners: HashSet::new(),
            places: settings.servers.iter().map(Places::new).collect(),
            world: settings.world(),
            lanes: settings.servers.iter().map(|server| server.lane).collect(),
            guard_sockets: settings.servers.iter().map(|s| s.guard_socket.clone()).collect(),
            have_changed: true,
            guard_ports: Vec::new(),
            own_netns,
            rules,
            live,
        }
    }

    /// Looks through the whole host once, before anybody is told that it is watched.
    pub fn find_first(
        &mut self,
        capture: &mut Capture,
        connections: &mut Connections,
        processes: &mut ProcessTable,
    ) {
        let until = Instant::now() + FIRST_PATIENCE;
        self.send_out(super::now());
        // What is found is looked at again, for the connections that it has.
        while Instant::now() < until
            && let Some(answer) = self.scout.wait()
        {
            self.take(answer, capture, super::now(), connections, processes);
        }
        for missing in discovery::missing(&self.rules, &self.running()) {
            tracing::warn!("{missing}");
        }
    }

    /// How many are watched, as a sentence says it.
    pub fn summary(&self) -> String {
        let names: Vec<&str> =
            self.watched.iter().flatten().map(|watched| &*watched.facts.name).collect();
        match names.as_slice() {
            [] => "for database servers (none runs now)".to_owned(),
            [one] => format!("1 server ({one})"),
            many => format!("{} servers ({})", many.len(), many.join(", ")),
        }
    }

    pub fn next_due(&self) -> BootTime {
        self.watcher.next_due()
    }

    /// What the records of a server's connections say of it.
    pub fn facts(&self, server: u32) -> Option<Rc<ServerFacts>> {
        let watched = self.watched.get(server as usize)?.as_ref()?;
        Some(watched.facts.clone())
    }

    /// The same of the server that is called so.
    pub fn named(&self, name: &str) -> Option<Rc<ServerFacts>> {
        let mut watched = self.watched.iter().flatten();
        Some(watched.find(|watched| *watched.facts.name == *name)?.facts.clone())
    }

    pub fn process(&mut self, event: &ProcessEvent<'_>) {
        if let Some(pid) = self.watcher.take(event) {
            self.gone.push(pid);
        }
    }

    /// Process records were lost, and servers with them, perhaps.
    pub fn look_everywhere(&mut self) {
        self.watcher.look_everywhere();
    }

    /// A process listens on a port now: perhaps a server whose sockets were awaited.
    pub fn listening(&mut self, pid: u32, time: BootTime) {
        self.watcher.listening(pid, time);
        if self.watched.iter().flatten().any(|watched| watched.server.pid == pid) {
            self.listeners.insert(pid);
        }
    }

    /// Whether answers about processes are still to come.
    pub fn is_looking(&self) -> bool {
        self.scout.is_looking()
    }

    /// A database's own process reaches out: data can leave that way.
    pub fn outbound(
        &mut self,
        opened: &Opened,
        connections: &mut Connections,
        processes: &mut ProcessTable,
    ) {
        let Some(facts) = self.facts(opened.server).filter(|facts| facts.pooler.is_none()) else {
            return;
        };
        let clock = connections.shared.clock;
        let peer = Peer { pid: opened.pid, key: 0, at: opened.time, uid: None };
        let process = processes.resolve(peer, clock);
        // A program works for the client of the nearest process that started it and serves one.
        let parents = process.iter().flat_map(|process| process.parents.iter());
        let origin = std::iter::once(opened.pid)
            .chain(parents.map(|parent| parent.pid))
            .find_map(|pid| connections.served_by(pid, &facts))
            .unwrap_or_else(|| facts.origin(&connections.shared.host));
        let server = self.reached(opened);
        let region = self.region_of(opened, server.as_deref(), &connections.shared.host);
        let to = match (opened.ends, &opened.local) {
            (Some(ends), _) => Remote::Ip(ends.remote.0, ends.remote.1),
            (None, Endpoint::Unix { path }) => Remote::Unix(path.clone()),
            (None, Endpoint::Ip { .. }) => Remote::Unix(None),
        };
        let destination = Destination {
            to,
            region,
            server: server.map(|server| server.name.clone()),
            program: process.and_then(|process| process.exe.clone()),
            by_server: opened.by_server,
        };
        let outbound = Outbound {
            time: clock.wall(opened.time),
            action: EpisodeAction::Began,
            origin,
            pid: opened.pid,
            destination: Arc::new(destination),
            judgement: None,
            connections: None,
        };
        let message = outbound.message();
        tracing::info!(server = %facts.name, "{message}");
        self.live.notice(|| Notice {
            time: outbound.time,
            notice: "outbound",
            server: Some(facts.name.clone()),
            message,
        });
        connections.shared.outbox.push(Entry::Outbound(outbound));
    }

    /// The watched server of this host that is at the other end.
    fn reached(&self, opened: &Opened) -> Option<Rc<ServerFacts>> {
        let is_it = |listener: &Listener| match (listener, opened.ends, &opened.local) {
            (Listener::Tcp { address, .. }, Some(ends), _) => {
                let (to, port) = ends.remote;
                let is_here = to.is_loopback() || to == ends.local.0;
                let takes = address.ip().is_unspecified() || address.ip() == to;
                is_here && takes && address.port() == port
            }
            (Listener::Unix { path, .. }, None, Endpoint::Unix { path: Some(to) }) => {
                path.as_os_str() == &**to
            }
            _ => false,
        };
        let mut here = self.watched.iter().flatten().filter(|watched| {
            watched.server.namespaces.net as u32 == opened.netns
                && watched.server.listeners.iter().any(is_it)
        });
        here.next().map(|watched| watched.facts.clone())
    }

    /// Where the other end is: what [[region]] says of its address, else where the server is that it is.
    fn region_of(
        &self,
        opened: &Opened,
        server: Option<&ServerFacts>,
        host: &Origin,
    ) -> Option<Arc<str>> {
        let address = opened.ends.map(|ends| ends.remote.0);
        let is_local = address.is_none_or(|address| address.is_loopback()) || server.is_some();
        let here = server.map_or(host.region.clone(), |server| server.places.of(None, host).1);
        self.world.region_of(Whereabouts { address, is_local, ..Default::default() }, here.as_ref())
    }

    /// Sends the scout where it is due, and takes what it has found.
    pub fn work(
        &mut self,
        capture: &mut Capture,
        now: BootTime,
        connections: &mut Connections,
        processes: &mut ProcessTable,
    ) {
        for pid in std::mem::take(&mut self.gone) {
            connections.shared.poolers.let_go(pid);
            self.let_go(pid, capture, connections.shared.clock.wall(now));
        }
        self.send_out(now);
        while let Some(answer) = self.scout.answer() {
            self.take(answer, capture, now, connections, processes);
        }
        if let Some(gate) = &connections.shared.gate {
            if std::mem::take(&mut self.have_changed) {
                self.tell_gate(gate);
            }
            if gate.has_moved() {
                self.know_ports(gate.ports(), capture);
                gate.is_known();
            }
        }
    }

    /// Those where policy decides who comes through the guard.
    pub fn by_policy(&self) -> Vec<Rc<ServerFacts>> {
        let facts = self.watched.iter().flatten().map(|watched| &watched.facts);
        facts.filter(|facts| facts.lane == LaneChoice::Policy).cloned().collect()
    }

    /// Tells the gate where the guarded servers are now.
    fn tell_gate(&self, gate: &Gate) {
        let rules = self.rules.iter().zip(&self.lanes).zip(&self.guard_sockets);
        let targets = rules.map(|((rule, lane), socket)| match lane {
            LaneChoice::Observe => Err("it is not guarded".to_owned()),
            LaneChoice::Guard | LaneChoice::Policy => self.target(rule, socket.as_ref()),
        });
        gate.targets(targets.collect());
    }

    /// Who connects to the guard is told by the kernel side as of a server's own port.
    fn know_ports(&mut self, ports: Vec<u16>, capture: &mut Capture) {
        let netns = self.own_netns;
        for port in self.guard_ports.iter().filter(|port| !ports.contains(port)) {
            let _ = capture.unlisten(netns, *port);
        }
        for port in &ports {
            if let Err(error) = capture.listen(netns, *port, u32::MAX) {
                tracing::warn!(port, %error, "can't tell the kernel side of the guard's port");
            }
        }
        self.guard_ports = ports;
    }

    /// How the guard gets to a server, or why it doesn't.
    fn target(&self, rule: &ServerRule, in_its_place: Option<&PathBuf>) -> Result<Target, String> {
        let mut found = self
            .watched
            .iter()
            .flatten()
            .filter(|watched| watched.facts.pooler.is_none() && rule.matches(&watched.server));
        let watched = found.next().ok_or("the server was not found")?;
        let server = &watched.server;
        if let Trust::Unverified(doubts) = &server.trust {
            let doubts: Vec<String> = doubts.iter().map(ToString::to_string).collect();
            return Err(format!("the server is not verified: {}", doubts.join("; ")));
        }
        let netns = server.namespaces.net as u32;
        if netns != self.own_netns {
            return Err("the server is in another network namespace".to_owned());
        }
        let listens = server.listeners.iter().filter_map(|listener| match listener {
            Listener::Tcp { address, .. } => Some(*address),
            Listener::Unix { .. } => None,
        });
        let listens: Vec<SocketAddr> = listens.collect();
        let address = listens.first().map(|address| near(*address));
        // Abstract names have no file, and so nobody's permissions.
        let socket = server.listeners.iter().find_map(|listener| match listener {
            Listener::Unix { path, .. } if path.is_absolute() && Some(path) != in_its_place => {
                Some(path.clone())
            }
            _ => None,
        });
        if address.is_none() && socket.is_none() {
            return Err("the server listens on no TCP port".to_owned());
        }
        let (name, pid) = (watched.facts.name.clone(), server.pid);
        let data_directory = server.data_directory.clone();
        Ok(Target { name, pid, netns, listens, address, socket, data_directory })
    }

    /// Servers whose tracking began since the last time.
    pub fn take_new(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.new)
    }

    /// Tracks the children that a server made before it was tracked itself, so that no statement of theirs
    /// waits for a look at procfs. The records of their births must have been applied.
    pub fn adopt(&self, number: u32, capture: &mut Capture, processes: &ProcessTable) {
        let Some(Some(watched)) = self.watched.get(number as usize) else { return };
        let tracked = tracked(&watched.server, number);
        for pid in processes.own_children(watched.server.pid) {
            if let Err(error) = capture.track(pid, tracked) {
                tracing::warn!(pid, %error, "can't tell the kernel side of a server's process");
            }
        }
    }

    fn send_out(&mut self, now: BootTime) {
        for look in self.watcher.due(now) {
            self.scout.look(match look {
                Look::At(pid) => Request::Server(pid),
                Look::Everywhere => Request::Candidates,
            });
        }
        for pid in std::mem::take(&mut self.listeners) {
            self.scout.look(Request::Server(pid));
        }
    }

    fn take(
        &mut self,
        answer: Answer,
        capture: &mut Capture,
        now: BootTime,
        connections: &mut Connections,
        processes: &mut ProcessTable,
    ) {
        let time = connections.shared.clock.wall(now);
        match answer {
            Answer::Server(pid, Ok(mut found)) => {
                self.watcher.looked(pid, Ok(&found.server), now);
                let residents = found.residents.take();
                let number = self.watch(*found, capture, time);
                if let Some(number) = number {
                    self.follow(number, now, connections);
                }
                if let (Some(number), Some(residents)) = (number, residents)
                    && let Some(Some(watched)) = self.watched.get(number)
                {
                    let netns = watched.server.namespaces.net as u32;
                    connections.reside(&watched.facts, netns, residents, processes);
                }
            }
            Answer::Server(pid, Err(refusal)) => {
                tracing::debug!(pid, %refusal, "no server");
                self.watcher.looked(pid, Err(&refusal), now);
            }
            Answer::Candidates(Ok(candidates)) => self.sift(&candidates, capture, time),
            Answer::Candidates(Err(error)) => {
                tracing::warn!(%error, "can't look for database servers");
            }
        }
    }

    /// A pooler that can be believed tells who is behind it.
    fn follow(&self, number: usize, now: BootTime, connections: &mut Connections) {
        let Some(Some(Watched { server, facts, .. })) = self.watched.get(number) else { return };
        if facts.pooler.is_some() && server.is_verified() {
            let had_fronts = now.0.saturating_sub(server.start.0) > POOLER_START_NS;
            connections.follow(server.pid, server.start, &facts.name, now, had_fronts);
        }
    }

    /// Looks at those candidates that are no server's children, and lets go of servers that have ended
    /// unseen.
    fn sift(&mut self, candidates: &[u32], capture: &mut Capture, time: WallTime) {
        let servers: HashSet<u32> = self.watched.iter().flatten().map(|w| w.server.pid).collect();
        for pid in servers.iter().filter(|pid| !candidates.contains(pid)) {
            self.watcher.forget(*pid);
            self.let_go(*pid, capture, time);
        }
        let numbers = self.watched.iter().enumerate().filter(|(_, slot)| slot.is_some());
        let tracked: HashSet<u32> =
            numbers.flat_map(|(number, _)| capture.tracked_pids(number as u32)).collect();
        for pid in candidates {
            if servers.contains(pid) {
                self.scout.look(Request::ServerWithProcesses(*pid));
            } else if !tracked.contains(pid) {
                self.scout.look(Request::Server(*pid));
            }
        }
    }

    /// Takes a server under watch, or brings what is watched of it up to date; its number.
    fn watch(&mut self, found: Found, capture: &mut Capture, time: WallTime) -> Option<usize> {
        let Found { server, libraries, .. } = found;
        let is_pooler = server.kind == ServerKind::Pooler;
        if discovery::excluded(&self.rules, &server) || is_pooler && !self.poolers {
            return None;
        }
        let is_former = |w: &Watched| w.server.pid == server.pid && w.server.start != server.start;
        if self.watched.iter().flatten().any(is_former) {
            // It ended unseen, and its pid was given to this one.
            self.let_go(server.pid, capture, time);
        }
        let known = self.watched.iter().position(|slot| {
            slot.as_ref()
                .is_some_and(|w| w.server.pid == server.pid && w.server.start == server.start)
        });
        self.scout.spare(&server.descendants);
        let index = match known {
            Some(index) => index,
            None => self.room_for(&server)?,
        };
        let number = index as u32;
        if let Err(error) = track(capture, &server, number) {
            tracing::warn!(pid = server.pid, %error, "can't tell the kernel side of a server");
            return None;
        }
        if known.is_none() && !server.is_verified() {
            let _ = capture.refill_quota(number, UNVERIFIED_BYTES_PER_SECOND);
        }
        let tls = self.watch_tls(&server, libraries, capture);
        if let Some(Some(watched)) = self.watched.get_mut(index)
            && known.is_some()
        {
            watched.server = server;
            watched.tls = tls;
            self.have_changed = true;
            return Some(index);
        }
        let name = self.names.assign(&server, &self.rules);
        let message = describe(&server);
        tracing::info!(server = %name, pid = server.pid, tls, "{message}");
        self.live.notice(|| Notice {
            time,
            notice: "server_found",
            server: Some(name.clone()),
            message,
        });
        let named = self.rules.iter().position(|rule| rule.name.is_some() && rule.matches(&server));
        let places = named.and_then(|at| self.places.get(at)).cloned().unwrap_or_default();
        let coverage = Coverage::default();
        let pooler = is_pooler.then_some(server.pid);
        let is_verified = server.is_verified();
        let engine = Engine::Postgresql;
        let lane = named.filter(|_| !is_pooler).and_then(|at| self.lanes.get(at));
        let (lane, place) = (lane.copied().unwrap_or_default(), named);
        let facts =
            ServerFacts { name, engine, places, coverage, is_verified, lane, place, pooler };
        let watched = Watched { server, facts: Rc::new(facts), tls };
        self.have_changed = true;
        if let Some(slot) = self.watched.get_mut(index) {
            *slot = Some(watched);
        }
        // Again, now that it is tracked: for the processes and the connections that were there before.
        if let Some(Some(watched)) = self.watched.get(index) {
            self.new.push(number);
            self.scout.look_next(Request::ServerWithResidents(watched.server.pid));
        }
        Some(index)
    }

    /// A number for one more server.
    fn room_for(&mut self, server: &Server) -> Option<usize> {
        let unverified = self.watched.iter().flatten().filter(|w| !w.server.is_verified()).count();
        if !server.is_verified() && unverified >= MAX_UNVERIFIED {
            tracing::warn!(pid = server.pid, "too many unverified servers: this one isn't watched");
            return None;
        }
        if let Some(free) = self.watched.iter().position(Option::is_none) {
            return Some(free);
        }
        if self.watched.len() >= MAX_SERVERS as usize {
            tracing::warn!(pid = server.pid, "too many servers: this one isn't watched");
            return None;
        }
        self.watched.push(None);
        Some(self.watched.len() - 1)
    }

    /// Probes the TLS libraries of a server, and says what that makes of its TLS connections.
    fn watch_tls(
        &self,
        server: &Server,
        libraries: Vec<(discovery::TlsLibrary, Result<std::fs::File, discovery::LibraryError>)>,
        capture: &mut Capture,
    ) -> String {
        if self.tls == TlsCapture::Off {
            return "blind: switched off by [capture] tls".to_owned();
        }
        if let Some(danger) = crate::doctor::return_probe_danger() {
            return format!("blind: {danger}");
        }
        if libraries.iter().all(|(library, _)| library.is_crypto) {
            return "blind: the server uses no OpenSSL library that can be seen".to_owned();
        }
        let mut state = "observed".to_owned();
        for (library, file) in libraries {
            let name = library.path.display().to_string();
            let is_crypto = library.is_crypto;
            let attached = file.map_err(anyhow::Error::from).and_then(|file| {
                let stat = file.metadata()?;
                let file = OwnedFd::from(file);
                let library = TlsLibrary {
                    is_crypto,
                    path: PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd())),
                    name: name.clone(),
                    device: stat.dev(),
                    inode: stat.ino(),
                };
                Ok(capture.watch_tls(&library)?)
            });
            if let Err(error) = &attached
                && is_crypto
            {
                tracing::warn!(
                    pid = server.pid,
                    library = name,
                    "no client certificates: {error:#}"
                );
            } else if let Err(error) = attached {
                tracing::warn!(pid = server.pid, library = name, "no TLS probes: {error:#}");
                state = format!("blind: {error:#}");
            }
        }
        state
    }

    /// A server's first process has gone. Its connections end by themselves.
    fn let_go(&mut self, pid: u32, capture: &mut Capture, time: WallTime) {
        let of_pid = |slot: &mut Option<Watched>| slot.take_if(|w| w.server.pid == pid);
        let Some((number, watched)) =
            self.watched.iter_mut().enumerate().find_map(|(n, slot)| of_pid(slot).map(|w| (n, w)))
        else {
            return;
        };
        for pid in capture.tracked_pids(number as u32) {
            let _ = capture.untrack(pid);
        }
        for (netns, port) in tcp_ports(&watched.server) {
            let shared = self
                .watched
                .iter()
                .flatten()
                .any(|other| tcp_ports(&other.server).any(|place| place == (netns, port)));
            if !shared {
                let _ = capture.unlisten(netns, port);
            }
        }
        let name = watched.facts.name.clone();
        self.have_changed = true;
        self.names.release(&name);
        tracing::info!(server = %name, pid, "the server has gone");
        self.live.notice(|| Notice {
            time,
            notice: "server_gone",
            server: Some(name),
            message: format!("the server with process {pid} has gone"),
        });
    }

    pub fn refill_quotas(&self, capture: &mut Capture) {
        for (number, watched) in self.watched.iter().enumerate() {
            if watched.as_ref().is_some_and(|w| !w.server.is_verified()) {
                let _ = capture.refill_quota(number as u32, UNVERIFIED_BYTES_PER_SECOND);
            }
        }
    }

    fn running(&self) -> Vec<Server> {
        self.watched.iter().flatten().map(|watched| watched.server.clone()).collect()
    }

    /// What was seen of each since the last time.
    pub fn coverage<'a>(&'a self, time: WallTime, host: &'a Origin) -> impl Iterator<Item = Entry> {
        self.watched.iter().flatten().filter_map(move |Watched { facts, .. }| {
            let server = Origin {
                server: Some(facts.name.clone()),
                engine: Some(facts.engine),
                ..host.clone()
            };
            facts.coverage.row(time, server)
        })
    }

    pub fn absent(&self) -> Vec<AbsentServer> {
        discovery::missing(&self.rules, &self.running())
            .into_iter()
            .map(|missing| AbsentServer {
                name: missing.rule.name.clone().unwrap_or_default(),
                looked_for: missing.to_string(),
            })
            .collect()
    }

    pub fn status(&self, connections: &Connections) -> Vec<ServerStatus> {
        self.watched
            .iter()
            .flatten()
            .map(|watched| {
                let Watched { server, facts, tls } = watched;
                let open = connections.counts(facts);
                let total = facts.coverage.total();
                ServerStatus {
                    name: facts.name.to_string(),
                    engine: match server.kind {
                        ServerKind::Postgresql => "postgresql".to_owned(),
                        ServerKind::Pooler => "pgbouncer".to_owned(),
                    },
                    version: Some(server.version.clone()).filter(|version| !version.is_empty()),
                    pid: server.pid,
                    verified: server.is_verified(),
                    unverified_because: doubts(server),
                    listens: server.listeners.iter().map(listens).collect(),
                    tls: tls.clone(),
                    connections_open: open.open,
                    connections: total.connections,
                    blind_connections: open.blind,
                    statements: total.statements,
                    bytes_in: total.bytes_in,
                    bytes_out: total.bytes_out,
                }
            })
            .collect()
    }
}

/// The address by which a listener is reached from its own host.
fn near(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

fn rule(server: &config::Server) -> ServerRule {
    ServerRule {
        name: server.name.clone(),
        port: server.port,
        data_directory: server.data_directory.clone(),
        executable: server.executable.clone(),
        unix_socket: server.socket.clone(),
        exclude: server.exclude,
    }
}

/// Tells the kernel side of a server's ports and processes: ports first, so that no accepted socket of
/// a tracked process is taken for an outbound one.
fn track(capture: &mut Capture, server: &Server, number: u32) -> Result<(), TableError> {
    for (netns, port) in tcp_ports(server) {
        capture.listen(netns, port, number)?;
    }
    let tracked = tracked(server, number);
    for pid in std::iter::once(server.pid).chain(server.descendants.iter().copied()) {
        capture.track(pid, tracked)?;
    }
    Ok(())
}

/// What the kernel side knows of each process of a server.
fn tracked(server: &Server, number: u32) -> Tracked {
    let flags = if server.is_verified() { 0 } else { TRACKED_LIMITED };
    Tracked { server: number, flags }
}

fn tcp_ports(server: &Server) -> impl Iterator<Item = (u32, u16)> {
    let netns = server.namespaces.net as u32;
    server.listeners.iter().filter_map(move |listener| match listener {
        Listener::Tcp { address, .. } => Some((netns, address.port())),
        Listener::Unix { .. } => None,
    })
}

fn listens(listener: &Listener) -> String {
    match listener {
        Listener::Tcp { address, .. } => address.to_string(),
        Listener::Unix { path, .. } => path.display().to_string(),
    }
}

fn doubts(server: &Server) -> Option<String> {
    match &server.trust {
        Trust::Verified => None,
        Trust::Unverified(doubts) => {
            let doubts: Vec<String> = doubts.iter().map(ToString::to_string).collect();
            Some(doubts.join("; "))
        }
    }
}

fn describe(server: &Server) -> String {
    let listens: Vec<String> = server.listeners.iter().map(listens).collect();
    let doubts = doubts(server).map(|doubts| format!("; unverified: {doubts}")).unwrap_or_default();
    let what = match server.kind {
        ServerKind::Postgresql => format!("PostgreSQL {}", server.version),
        ServerKind::Pooler => "the pooler PgBouncer".to_owned(),
    };
    format!("{what} on {}{doubts}", listens.join(", "))
}
