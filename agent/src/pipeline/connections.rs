//! The open connections: whose they are, what is being said on them, and their ends.

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
};

use dbwarden_common::COOKIE_IS_INODE;
use rustc_hash::FxHashMap;

use super::{
    behind::{Part, Poolers},
    crosscheck::CrossCheck,
    dialogue::Dialogue,
    lanes::{Ground, Lanes},
    outbox::Outbox,
    profile::Profile,
    record::Tally,
    servers::ServerFacts,
};
use crate::{
    capture::{Connected, DataRecord, Ends, Opened},
    config::LaneChoice,
    control::{GuardStatus, Hub, Totals},
    discovery::Residents,
    enforce::Quarantine,
    event::{
        BootTime, Client, Clock, ConnectionId, Endpoint, Extent, Origin, Piece, ProcessEvent,
        ServerSocket, SocketId, SocketName,
    },
    gate::{Gate, Identified, Upstream, Way},
    identity::{Peer, ProcessTable},
    principal::Rules,
    protocol::postgres::{Title, cluster_name},
    stream::Assembler,
};

/// Connections followed at a time; the kernel's own table is as large.
const MAX_CONNECTIONS: usize = 65_536;
/// TCP clients that have connected and not been seen at the server's end yet.
const MAX_CLIENTS: usize = 8_192;
/// A client that was not accepted for so long never will be.
const CLIENT_LIFE_NS: u64 = 60_000_000_000;

/// What all connections use and count into.
pub struct Shared {
    pub clock: Clock,
    /// What every record says of this host.
    pub host: Arc<Origin>,
    /// Who is who.
    pub rules: Rules,
    pub live: Arc<Hub>,
    /// What is to be recorded.
    pub outbox: Outbox,
    /// Who is behind the poolers of this host.
    pub poolers: Poolers,
    /// The connections' part of the status.
    pub totals: Totals,
    next_id: u32,
    /// Where servers are guarded.
    pub gate: Option<Arc<Gate>>,
    /// Likewise: who goes past the guard, where policy decides.
    pub lanes: Option<Lanes>,
    pub cross_check: CrossCheck,
}

impl Shared {
    pub fn new(
        host: Arc<Origin>,
        rules: Rules,
        live: Arc<Hub>,
        outbox: Outbox,
        gate: Option<Arc<Gate>>,
        quarantine: Arc<Quarantine>,
    ) -> Self {
        Self {
            clock: Clock::default(),
            host,
            rules,
            live,
            outbox,
            poolers: Poolers::default(),
            totals: Totals::default(),
            next_id: 0,
            lanes: gate.clone().map(|gate| Lanes::new(gate, quarantine)),
            gate,
            cross_check: CrossCheck::default(),
        }
    }

    /// Whether policy lets a client go past the guard of a server; nobody is guarded where it has no say and the
    /// configuration does not say so.
    pub fn goes_straight(
        &mut self,
        server: &Rc<ServerFacts>,
        client: &Client,
        remote: &Endpoint,
        now: BootTime,
    ) -> bool {
        let Self { lanes, host, rules, clock, .. } = self;
        let ground = Ground { host, rules, clock: *clock, now };
        match (server.lane, lanes) {
            (LaneChoice::Observe, _) => true,
            (LaneChoice::Policy, Some(lanes)) => {
                lanes.goes_straight(server, client, remote, &ground)
            }
            (LaneChoice::Guard, _) | (LaneChoice::Policy, None) => false,
        }
    }

    pub fn new_id(&mut self, at: BootTime) -> ConnectionId {
        self.next_id = self.next_id.wrapping_add(1);
        let seconds = self.clock.wall(at).0 / 1_000_000;
        ConnectionId((seconds as u64) << 32 | u64::from(self.next_id))
    }
}

struct Connection {
    /// The server's process that reads and writes it.
    pid: u32,
    assembler: Assembler,
    dialogue: Dialogue,
    /// How far it has come, once the kernel has told of its end.
    extent: Option<Extent>,
}

/// Connections of one server.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub open: u64,
    pub blind: u64,
}

pub struct Connections {
    pub shared: Shared,
    open: FxHashMap<SocketId, Connection>,
    /// The newest life of each socket's address: the next one ends it.
    by_address: HashMap<u64, SocketId>,
    /// Sockets by the server's process, whose exit ends them where no socket's end is told (unix).
    by_pid: HashMap<u32, Vec<SocketId>>,
    clients: HashMap<(u32, Ends), Peer>,
    client_order: VecDeque<(BootTime, (u32, Ends))>,
    /// TCP clients that were connected before their server was watched, and have said nothing since.
    residents: HashMap<(u32, Ends), Peer>,
    /// What server processes say of their sessions, whose start nobody saw; by pid.
    titles: HashMap<u32, Title>,
    ends: Vec<SocketId>,
}

impl Connections {
    pub fn new(shared: Shared) -> Self {
        Self {
            shared,
            open: FxHashMap::default(),
            by_address: HashMap::new(),
            by_pid: HashMap::new(),
            clients: HashMap::new(),
            client_order: VecDeque::new(),
            residents: HashMap::new(),
            titles: HashMap::new(),
            ends: Vec::new(),
        }
    }

    pub fn knows(&self, socket: SocketId) -> bool {
        self.open.contains_key(&socket)
    }

    /// A process of this host has connected to a port that a database listens on.
    pub fn connected(&mut self, connected: Connected) {
        let Connected { time, pid, key, uid, netns, ends } = connected;
        while self.client_order.len() >= MAX_CLIENTS
            || self
                .client_order
                .front()
                .is_some_and(|(since, _)| time.0.saturating_sub(since.0) > CLIENT_LIFE_NS)
        {
            let Some((since, old)) = self.client_order.pop_front() else { break };
            if self.clients.get(&old).is_some_and(|peer| peer.at == since) {
                self.clients.remove(&old);
            }
        }
        let client = (netns, ends);
        self.residents.remove(&client);
        self.clients.insert(client, Peer { pid, key, at: time, uid: Some(uid) });
        self.client_order.push_back((time, client));
    }

    /// A client's connection was seen at the server's end for the first time.
    pub fn open(
        &mut self,
        opened: &Opened,
        server: Option<Rc<ServerFacts>>,
        processes: &mut ProcessTable,
    ) {
        let Some(server) = server else { return };
        let clock = self.shared.clock;
        let mut is_own = false;
        let (client, remote) = match opened.ends {
            None => {
                let way = Upstream::Unix { cookie: opened.peer_cookie };
                if let Some(guarded) = self.guarded(way) {
                    return self.open_guarded(opened, server, guarded);
                }
                let peer = opened.peer.map(|(pid, key, uid)| Peer {
                    pid,
                    key,
                    at: opened.time,
                    uid: Some(uid),
                });
                let process = peer.and_then(|peer| processes.resolve(peer, clock));
                let client = process.map_or(Client::LocalUnknown, Client::Local);
                (client, Endpoint::Unix { path: None })
            }
            Some(ends) => {
                let way = Way { netns: opened.netns, from: ends.remote, to: ends.local };
                if let Some(guarded) = self.guarded(Upstream::Tcp(way)) {
                    return self.open_guarded(opened, server, guarded);
                }
                let (address, port) = ends.remote;
                is_own = self.is_own(opened.netns, ends);
                let client = self.client_at(opened.netns, ends, processes);
                (client, Endpoint::Ip { address, port })
            }
        };
        let id = self.shared.new_id(opened.time);
        // Whoever pretends to be a server may say anything of whoever connects to it.
        let socket = server.is_verified.then(|| server_socket(opened));
        let is_allowed = self.shared.goes_straight(&server, &client, &remote, opened.time);
        let profile = Profile::new(id, server, opened.local.clone(), remote, client, socket);
        // What dbwarden asks itself has no need of the guard.
        let profile = profile.straight(is_allowed || is_own);
        self.insert(opened.socket, opened.pid, opened.time, profile);
    }

    /// Who is at the other end of a connection to this host, as its own end has it.
    pub fn client_at(&mut self, netns: u32, ends: Ends, processes: &mut ProcessTable) -> Client {
        let (address, port) = ends.remote;
        let client = (netns, ends.mirrored());
        let resident = self.residents.remove(&client);
        let peer = self.clients.remove(&client).or(resident);
        let here = peer.is_some() || address.is_loopback() || address == ends.local.0;
        let process = peer.and_then(|peer| processes.resolve(peer, self.shared.clock));
        match process {
            Some(process) => Client::Local(process),
            None if here => Client::LocalUnknown,
            None => Client::Remote { address, port },
        }
    }

    /// Who is behind a connection that the guard has made.
    fn guarded(&self, way: Upstream) -> Option<Identified> {
        self.shared.gate.as_ref()?.expected(&way)
    }

    /// Whether the guard has made it to ask the server something itself.
    fn is_own(&self, netns: u32, ends: Ends) -> bool {
        let way = Way { netns, from: ends.remote, to: ends.local };
        self.shared.gate.as_ref().is_some_and(|gate| gate.is_own(&way))
    }

    fn open_guarded(&mut self, opened: &Opened, server: Rc<ServerFacts>, guarded: Identified) {
        let Identified { connection, client, remote, is_judged, .. } = guarded;
        let socket = server.is_verified.then(|| server_socket(opened));
        let local = opened.local.clone();
        let profile = Profile::new(connection, server, local, remote, client, socket);
        let profile = if is_judged { profile.guarded() } else { profile.straight(true) };
        if is_judged {
            self.shared.cross_check.open(connection);
        }
        self.insert(opened.socket, opened.pid, opened.time, profile);
    }

    /// Takes in what procfs says of connections that were open before `server` was watched.
    pub fn reside(
        &mut self,
        server: &Rc<ServerFacts>,
        netns: u32,
        residents: Residents,
        processes: &mut ProcessTable,
    ) {
        let titles = &residents.titles;
        if let Some(cluster) = titles.iter().find_map(|(_, title)| cluster_name(title)) {
            for (pid, title) in titles {
                if let Some(title) = Title::parse(title, cluster)
                    && self.titles.len() < MAX_CONNECTIONS
                {
                    self.titles.insert(*pid, title);
                }
            }
        }
        for resident in &residents.clients {
            let end = |address: SocketAddr| (address.ip(), address.port());
            let ends = Ends { local: end(resident.client), remote: end(resident.server) };
            let peer = Peer { pid: resident.pid, key: 0, at: resident.at, uid: None };
            if self.residents.len() < MAX_CONNECTIONS {
                self.residents.insert((netns, ends), peer);
            }
        }
        // Those that have spoken already.
        for connection in self.open.values_mut() {
            let Connection { dialogue: Dialogue { profile, .. }, pid, .. } = connection;
            if !Rc::ptr_eq(&profile.server, server) {
                continue;
            }
            if let Some(title) = self.titles.get(pid) {
                profile.entitle(title);
            }
            let mut part = None;
            if profile.lacks_client()
                && let (Endpoint::Ip { address, port }, Endpoint::Ip { address: to, port: at }) =
                    (&profile.remote, &profile.local)
                && let ends = (Ends { local: (*address, *port), remote: (*to, *at) })
                && let Some(peer) = self.residents.remove(&(netns, ends))
                && let Some(process) = processes.resolve(peer, self.shared.clock)
            {
                profile.client_found(process);
                if profile.server.pooler.is_none() {
                    part = self.shared.poolers.part_of(profile.client());
                }
            }
            part.into_iter().for_each(|part| connection.dialogue.take_part(part));
        }
    }

    fn insert(&mut self, socket: SocketId, pid: u32, at: BootTime, mut profile: Profile) {
        if let Some(old) = self.remove(socket) {
            old.finish(&mut self.shared, at);
        }
        // Bytes of the address's life before may still be on their way, as of any that has ended.
        if let Some(old) = self.by_address.get(&socket.sock) {
            self.ends.push(*old);
        }
        if self.open.len() >= MAX_CONNECTIONS {
            *self.shared.totals.drops.entry("too_many_connections".to_owned()).or_default() += 1;
            return;
        }
        if let Some(title) = self.titles.get(&pid) {
            profile.entitle(title);
        }
        profile.server.coverage.add(&Tally { connections: 1, ..Tally::default() });
        self.shared.totals.connections += 1;
        self.by_pid.entry(pid).or_default().push(socket);
        self.by_address.insert(socket.sock, socket);
        let part = match profile.server.pooler {
            Some(pooler) => Some(Part::front(pooler)),
            None => self.shared.poolers.part_of(profile.client()),
        };
        let mut dialogue = Dialogue::new(profile);
        part.into_iter().for_each(|part| dialogue.take_part(part));
        let connection =
            Connection { pid, assembler: Assembler::default(), dialogue, extent: None };
        self.open.insert(socket, connection);
    }

    /// A server's process has verified the certificate of the client that it serves.
    pub fn certificate(&mut self, pid: u32, at: BootTime, common_name: &[u8]) {
        // A process with several connections doesn't tell which of them this is about.
        let Some([socket]) = self.by_pid.get(&pid).map(Vec::as_slice) else { return };
        let Some(connection) = self.open.get_mut(socket) else { return };
        // Others may be about to come, and a pooler looks at the certificates of databases, too.
        if connection.dialogue.is_front() {
            return;
        }
        let name = std::str::from_utf8(common_name).ok();
        if let Some(name) = name.filter(|name| !name.is_empty() && !name.contains(char::is_control))
        {
            connection.dialogue.profile.certified(name, at);
        }
    }

    /// The origin of the one connection that a process of `server` serves at this moment.
    pub fn served_by(&mut self, pid: u32, server: &Rc<ServerFacts>) -> Option<Arc<Origin>> {
        let [socket] = self.by_pid.get(&pid)?.as_slice() else { return None };
        let profile = &mut self.open.get_mut(socket)?.dialogue.profile;
        let is_its = Rc::ptr_eq(&profile.server, server);
        is_its.then(|| profile.origin(&self.shared.host, &self.shared.rules))
    }

    /// Takes a connection whose opening was never told.
    pub fn join(&mut self, record: &DataRecord<'_>, server: Rc<ServerFacts>) {
        let id = self.shared.new_id(record.chunk.time);
        let unknown = Endpoint::Unix { path: None };
        // Without its namespace and its ends nobody would know which it is.
        let client = Client::LocalUnknown;
        let profile = Profile::new(id, server, unknown.clone(), unknown, client, None);
        self.insert(record.socket, record.pid, record.chunk.time, profile);
    }

    /// Bytes of a connection; false if it isn't known.
    pub fn data(&mut self, record: &DataRecord<'_>) -> bool {
        let Some(connection) = self.open.get_mut(&record.socket) else { return false };
        let (dialogue, shared) = (&mut connection.dialogue, &mut self.shared);
        connection.assembler.push(record.chunk, &mut |direction, layer, at, piece| {
            dialogue.take(shared, direction, layer, at, piece);
        });
        if dialogue.may_be_blind() {
            dialogue.settle(shared, record.chunk.time);
        }
        if dialogue.is_over() {
            self.ends.push(record.socket);
        }
        true
    }

    /// From now on, who is behind this pooler is told.
    pub fn follow(
        &mut self,
        pid: u32,
        start: BootTime,
        name: &Arc<str>,
        now: BootTime,
        had_fronts: bool,
    ) {
        let poolers = &mut self.shared.poolers;
        if !poolers.follow(pid, start, name, now, had_fronts) {
            return;
        }
        for Connection { dialogue, .. } in self.open.values_mut() {
            if dialogue.profile.server.pooler.is_none()
                && let Client::Local(process) = dialogue.profile.client()
                && process.pid == pid
                && let Some(part) = poolers.part_of(dialogue.profile.client())
            {
                dialogue.take_part(part);
            }
        }
    }

    /// What the guard and the observer have told of the guard's connections, compared.
    pub fn cross_check(&mut self, now: BootTime) {
        let Some(gate) = &self.shared.gate else { return };
        let differences = self.shared.cross_check.tick(|connection| gate.sent(connection), now);
        let time = self.shared.clock.wall(now);
        for difference in differences {
            let shared = &mut self.shared;
            let of_open = || {
                let mut open = self.open.values_mut().map(|open| &mut open.dialogue.profile);
                let profile = open.find(|profile| profile.id == difference.connection)?;
                Some(profile.origin(&shared.host, &shared.rules))
            };
            if let Some(origin) = difference.origin.clone().or_else(of_open) {
                shared.outbox.push(difference.finding(origin, time));
            }
        }
    }

    /// Where servers are guarded.
    pub fn guard_status(&self) -> Option<GuardStatus> {
        let (compared, differing) = self.shared.cross_check.figures();
        let gate = self.shared.gate.as_ref()?;
        Some(GuardStatus { compared, differing, ..gate.status() })
    }

    /// Whether this is a client's connection to a pooler.
    pub fn is_front(&self, socket: SocketId) -> bool {
        self.open.get(&socket).is_some_and(|connection| connection.dialogue.is_front())
    }

    /// The kernel says that a socket is gone.
    pub fn closed(&mut self, socket: SocketId, extent: Extent) {
        if let Some(connection) = self.open.get_mut(&socket) {
            connection.extent = Some(extent);
        }
        self.ends.push(socket);
    }

    /// A server's process that ends takes its connections along.
    pub fn process(&mut self, event: &ProcessEvent<'_>) {
        let ProcessEvent::Exit { pid, .. } = event else { return };
        self.titles.remove(pid);
        if let Some(sockets) = self.by_pid.get(pid) {
            self.ends.extend(sockets);
        }
    }

    /// Ends what belongs to processes that are gone, whose exits were not told.
    pub fn end_of_gone(&mut self, processes: &ProcessTable) {
        self.titles.retain(|pid, _| processes.is_alive(*pid));
        let gone = self.by_pid.iter().filter(|(pid, _)| !processes.is_alive(**pid));
        self.ends.extend(gone.flat_map(|(_, sockets)| sockets));
    }

    /// The ends that were told; to be passed to `end` when their last bytes have been read.
    pub fn take_ends(&mut self) -> Vec<SocketId> {
        std::mem::take(&mut self.ends)
    }

    /// Finds out how far those have come whose process has ended: the kernel tells of the end of a unix
    /// socket nowhere, and of a TCP socket's a little later.
    pub fn measure(&mut self, ends: &[SocketId], known: impl Fn(SocketId) -> Option<Extent>) {
        for socket in ends {
            if let Some(connection) = self.open.get_mut(socket) {
                connection.extent = connection.extent.or_else(|| known(*socket));
            }
        }
    }

    /// Ends connections whose last bytes have been read.
    pub fn end(&mut self, ends: Vec<SocketId>, at: BootTime) {
        for socket in ends {
            if let Some(connection) = self.remove(socket) {
                connection.finish(&mut self.shared, at);
            }
        }
    }

    pub fn close_all(&mut self, at: BootTime) {
        for (_, connection) in std::mem::take(&mut self.open) {
            connection.finish(&mut self.shared, at);
        }
        self.by_pid.clear();
        self.by_address.clear();
    }

    fn remove(&mut self, socket: SocketId) -> Option<Connection> {
        let connection = self.open.remove(&socket)?;
        if let Some(sockets) = self.by_pid.get_mut(&connection.pid) {
            sockets.retain(|other| *other != socket);
            if sockets.is_empty() {
                self.by_pid.remove(&connection.pid);
            }
        }
        if self.by_address.get(&socket.sock) == Some(&socket) {
            self.by_address.remove(&socket.sock);
        }
        Some(connection)
    }

    /// Gives up holes that nobody filled in time.
    pub fn poll(&mut self, now: BootTime) {
        self.shared.poolers.tick(now);
        for connection in self.open.values_mut() {
            let (dialogue, shared) = (&mut connection.dialogue, &mut self.shared);
            if connection.assembler.deadline().is_some_and(|deadline| deadline <= now) {
                connection.assembler.poll(now, &mut |direction, layer, at, piece| {
                    dialogue.take(shared, direction, layer, at, piece);
                });
            }
            dialogue.settle(shared, now);
        }
    }

    pub fn totals(&self) -> Totals {
        Totals { connections_open: self.open.len() as u64, ..self.shared.totals.clone() }
    }

    /// What is known of the open connections, to be asked about, and what they all use.
    pub fn profiles(&mut self) -> (impl Iterator<Item = &mut Profile>, &Shared) {
        (self.open.values_mut().map(|connection| &mut connection.dialogue.profile), &self.shared)
    }

    /// Open connections of one server.
    pub fn counts(&self, server: &Rc<ServerFacts>) -> Counts {
        let of_server =
            self.open.values().filter(|c| Rc::ptr_eq(&c.dialogue.profile.server, server));
        of_server.fold(Counts::default(), |counts, connection| Counts {
            open: counts.open + 1,
            blind: counts.blind + u64::from(connection.dialogue.is_blind()),
        })
    }
}

/// What whoever would end the connection must know.
fn server_socket(opened: &Opened) -> ServerSocket {
    let cookie = opened.socket.cookie;
    let name = match cookie & COOKIE_IS_INODE {
        0 => SocketName::Cookie(cookie),
        _ => SocketName::Inode(cookie & !COOKIE_IS_INODE),
    };
    let ends = opened.ends.map(|ends| [ends.local, ends.remote]);
    ServerSocket { name, pid: opened.pid, netns: opened.netns, ends }
}

impl Connection {
    fn finish(mut self, shared: &mut Shared, at: BootTime) {
        let Self { dialogue, assembler, extent, .. } = &mut self;
        let mut sink = |direction, layer, at, piece: Piece<'_>| {
            dialogue.take(shared, direction, layer, at, piece);
        };
        match extent {
            Some(extent) => assembler.end(at, extent, &mut sink),
            None => assembler.flush(at, &mut sink),
        }
        dialogue.end(shared, at);
    }
}
