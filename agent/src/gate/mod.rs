//! The service's side of the guard: its process, the listeners in front of guarded servers, and who may go on.
//!
//! The guard reads what strangers wrote and holds keys of TLS; here are the rights that it doesn't have. A client is
//! accepted here and handed to the guard; when it has said what it wants, the pipeline says who it is, and the
//! socket that leads to the server is made here as well.

mod accounts;
mod admission;
mod approvals;
mod certificate;
mod client_certificates;
mod endings;
mod files;
mod inherited;
mod listeners;
mod masked;
mod process;
mod return_way;
mod server_settings;
mod steering;
mod summed;
mod transparent;
pub mod unix;

use std::{
    collections::{BTreeMap, HashMap},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    num::NonZeroUsize,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
        mpsc::{Sender, channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use lru::LruCache;
use rustix::event::{EventfdFlags, eventfd};

use crate::{
    approval::{Desk, NOpen, Over},
    capture::steer::{Passes, SteerError},
    config::{OnLedgerDown, Settings},
    control::{GuardStatus, GuardedServer, OpenApprovals},
    event::{Client, ConnectionId, Endpoint, Origin, in_full},
    guard::{
        masking::TextPrint,
        wire::{
            CatalogRights, CatalogState, Channel, Denied, MaskKey, Nulled, Number, Refusal, Sent,
            Summed, Ticket, Wants,
        },
    },
    inheritance::Inheritance,
    policy::Set,
};
use admission::Job;
pub use endings::BrokenOff;
use endings::Endings;

pub use steering::take_off;
use summed::Sums;
pub use unix::Caller;

/// Denied statements that the observer has not seen yet, or saw a moment ago.
const MAX_DENIED: NonZeroUsize = NonZeroUsize::new(10_000).unwrap();
/// For the guard's word on a statement whose end has been observed already.
const DENIED_PATIENCE: Duration = Duration::from_millis(500);
/// Sessions that are over, until the observer has seen their ends too.
const MAX_SENT: NonZeroUsize = NonZeroUsize::new(20_000).unwrap();
/// For the pipeline to come by.
const KNOWN_PATIENCE: Duration = Duration::from_secs(5);
/// Clients in the guard at a time.
const MAX_CLIENTS: usize = 20_000;
/// Sockets to servers on which nobody has spoken yet.
const MAX_EXPECTED: NonZeroUsize = NonZeroUsize::new(20_000).unwrap();
/// Databases in which something is wrong with labels.
const MAX_LACKING: NonZeroUsize = NonZeroUsize::new(256).unwrap();
const MAX_DEPARTED: NonZeroUsize = NonZeroUsize::new(1_000).unwrap();
const MAX_OWN: NonZeroUsize = NonZeroUsize::new(1_000).unwrap();

type End = (IpAddr, u16);

/// A TCP connection in a network namespace, as the client's socket has it: its own end, the other one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Way {
    pub netns: u32,
    pub from: End,
    pub to: End,
}

impl Way {
    fn new(netns: u32, from: SocketAddr, to: SocketAddr) -> Self {
        let end = |at: SocketAddr| (at.ip(), at.port());
        Self { netns, from: end(from), to: end(to) }
    }
}

/// How a client has come to the guard.
#[derive(Clone, Debug)]
pub enum Came {
    Tcp(Way),
    Unix(Caller),
}

/// A connection of the guard's to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Upstream {
    Tcp(Way),
    /// By the cookie of the guard's end.
    Unix {
        cookie: u64,
    },
}

/// A guarded server, as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub name: Arc<str>,
    pub pid: u32,
    pub netns: u32,
    /// Where it listens, and where the guard reaches it.
    pub listens: Vec<SocketAddr>,
    /// `None` where it takes no TCP.
    pub address: Option<SocketAddr>,
    /// Its unix socket, as the server sees the path.
    pub socket: Option<PathBuf>,
    pub data_directory: PathBuf,
}

impl Target {
    /// The end that a client means who has come so.
    pub fn end(&self, came: &Came) -> Endpoint {
        match (came, self.address) {
            (Came::Tcp(_), Some(at)) => Endpoint::Ip { address: at.ip(), port: at.port() },
            (Came::Tcp(Way { to: (address, port), .. }), None) => {
                Endpoint::Ip { address: *address, port: *port }
            }
            (Came::Unix(_), _) => {
                let path = self.socket.as_ref().map(|path| path.to_string_lossy().into());
                Endpoint::Unix { path }
            }
        }
    }

    /// Where it takes a client from the network, in that one's name: nowhere else would its answers stay on this
    /// host.
    fn loopback(&self, client: IpAddr) -> Result<SocketAddr, String> {
        let loopback: IpAddr = match client {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        };
        let takes = |at: &&SocketAddr| {
            at.ip() == loopback || at.is_ipv4() == loopback.is_ipv4() && at.ip().is_unspecified()
        };
        let at = self.listens.iter().find(takes).map(|at| SocketAddr::new(loopback, at.port()));
        at.ok_or_else(|| format!("the server does not listen on {loopback}"))
    }
}

/// Somebody who wants to get to a server, to be identified.
#[derive(Clone, Debug)]
pub struct Asked {
    pub number: Number,
    /// The server's place in the settings.
    pub server: usize,
    pub target: Target,
    pub came: Came,
    /// It wanted to get to the server itself, at the address that its way ends with.
    pub is_led: bool,
    pub wants: Wants,
}

/// Who somebody is that comes through the guard.
#[derive(Clone, Debug)]
pub struct Identified {
    pub connection: ConnectionId,
    pub client: Client,
    pub remote: Endpoint,
    /// What it says is judged; else the guard but passes it on, for somebody whom policy lets go past it.
    pub is_judged: bool,
    /// All of it, before it has logged in.
    pub origin: Arc<Origin>,
}

/// Shared by the pipeline, the recorder and the gate's own threads.
pub struct Gate {
    /// What the guard is given of the settings.
    settings: String,
    mask_key: MaskKey,
    steer: bool,
    servers: Vec<crate::config::Server>,
    /// By the server's place in the settings.
    listen: Vec<(usize, SocketAddr)>,
    state: Mutex<State>,
    /// By what the server has got in their place.
    denied: Mutex<LruCache<String, Arc<Denied>>>,
    /// Inode of the network namespace that the service is in.
    netns: u32,
    was_denied: Condvar,
    masked: masked::Masked,
    was_known: Condvar,
    asked: Mutex<Vec<Asked>>,
    endings: Endings,
    summed: Sums,
    is_asked: AtomicBool,
    /// The guard listens on other ports.
    moved: AtomicBool,
    /// Readable while somebody is asked about.
    wake: OwnedFd,
    jobs: Mutex<Sender<Job>>,
    stopping: AtomicBool,
    figures: Figures,
    /// Rules that policy decides lanes by, and how often there were others.
    rules: Mutex<(u64, Option<Arc<Set>>)>,
    /// Once this host is steered.
    passes: Mutex<Option<Passes>>,
    /// Where statements wait for people.
    desk: Arc<Desk>,
    inheritance: Arc<Inheritance>,
    /// Statements past the guard that it was not told of yet.
    n_ran: AtomicUsize,
}

/// Names and texts, and whether those that dbwarden brings along apply too.
type Policies = (Vec<(Arc<str>, Arc<str>)>, bool);

struct State {
    /// `None` until they have been loaded.
    policies: Option<Policies>,
    /// By the server's place in the settings; why there is none, where there is none.
    targets: Vec<Result<Target, String>>,
    /// Why nobody may be led to a server that was found, where that is so.
    unfit: Vec<Option<String>>,
    /// Why the certificate that TLS is answered with isn't the newest, likewise.
    stale: Vec<Option<String>>,
    /// Likewise, why the guard can't stand in for a server that speaks TLS.
    unusable: BTreeMap<usize, String>,
    clients: HashMap<Number, Arrived>,
    expected: LruCache<Upstream, Identified>,
    /// Of the guard's own questions.
    own: LruCache<Way, ()>,
    /// How these go, by the server's place in the settings.
    catalogs: HashMap<usize, CatalogState>,
    /// What is wrong with labels and masks, by the server's place and database.
    lacks: LruCache<(usize, String), Vec<String>>,
    /// Who the clients are that have been let in.
    admitted: HashMap<Number, Identified>,
    /// And who has left: what they have made may be seen later.
    departed: LruCache<ConnectionId, Arc<Origin>>,
    /// What sessions that are over have sent to their servers.
    sent: LruCache<ConnectionId, Sent>,
    /// To the guard that runs.
    channel: Option<Arc<Channel>>,
    /// It takes clients in.
    stands: bool,
    /// What is wrong with its newest rules or certificates.
    problem: Option<String>,
    /// Where the guard takes in those who are led to it; by the server's place in the settings.
    ports: Vec<Ports>,
    /// Whether clients are led to the guard, or why not.
    steering: Option<String>,
    /// Why clients from the network aren't, by the server's place in the settings.
    network: Vec<Option<String>>,
    /// Why nothing can be recorded.
    ledger_down: Option<String>,
    /// Whether the guard listens in the servers' places, where it shall, or why not; by the same places.
    sockets: Vec<Option<Result<(), String>>>,
    /// Whether clients of their unix sockets are led to the guard, or why not.
    unix: Vec<Option<Result<(), String>>>,
}

impl State {
    fn new(settings: &Settings) -> Self {
        let not_yet = || Err("the server was not found".to_owned());
        Self {
            policies: None,
            targets: settings.servers.iter().map(|_| not_yet()).collect(),
            unfit: Vec::new(),
            stale: Vec::new(),
            unusable: BTreeMap::new(),
            clients: HashMap::new(),
            expected: LruCache::new(MAX_EXPECTED),
            own: LruCache::new(MAX_OWN),
            catalogs: HashMap::new(),
            lacks: LruCache::new(MAX_LACKING),
            admitted: HashMap::new(),
            departed: LruCache::new(MAX_DEPARTED),
            sent: LruCache::new(MAX_SENT),
            channel: None,
            stands: false,
            problem: None,
            ports: Vec::new(),
            steering: None,
            network: Vec::new(),
            ledger_down: None,
            sockets: Vec::new(),
            unix: Vec::new(),
        }
    }

    /// Those that clients can get to by the guard.
    fn targets(&self) -> Vec<Result<Target, String>> {
        let mut targets = self.targets.clone();
        for (place, target) in targets.iter_mut().enumerate() {
            if let (Ok(_), Some(why)) = (&target, self.unfit(place)) {
                *target = Err(why.to_owned());
            }
        }
        targets
    }

    /// Why nobody may be led to a server.
    fn unfit(&self, place: usize) -> Option<&str> {
        let by_files = self.unfit.get(place).and_then(Option::as_deref);
        by_files.or_else(|| self.unusable.get(&place).map(String::as_str))
    }
}

/// Of the guard, for the clients of one server; gone with the guard.
#[derive(Clone, Debug, Default)]
struct Ports {
    v4: Option<Port>,
    v6: Option<Port>,
}

/// Where those are taken in who are led.
#[derive(Clone, Debug)]
struct Port {
    number: u16,
    socket: Arc<TcpListener>,
}

/// A client between its arrival and its end.
#[derive(Clone, Debug)]
struct Arrived {
    server: usize,
    came: Came,
    /// It wanted to get to the server itself.
    is_led: bool,
}

/// Counts since the start.
#[derive(Default)]
struct Figures {
    starts: AtomicU64,
    clients: AtomicU64,
    refused: AtomicU64,
    unjudged: AtomicU64,
    passed: AtomicU64,
    denied: AtomicU64,
}

/// The gate's threads.
pub struct Threads {
    gate: Arc<Gate>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug, thiserror::Error)]
pub enum GateError {
    #[error("[guard] listen: can't listen on {address}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("can't start the guard")]
    Start(#[from] io::Error),
    #[error("can't take off what leads clients to a guard")]
    Steering(#[from] SteerError),
    #[error("can't take off the rules for the way back of clients from the network")]
    Returns(#[source] io::Error),
    #[error("can't write the settings for the guard")]
    Settings(#[from] toml::ser::Error),
    #[error("can't get at what masks are made with")]
    MaskKey(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Gate {
    /// `None` where no server is guarded; `mask_key` is asked where one is.
    ///
    /// # Errors
    /// An address that can't be listened on, or what the host refuses.
    pub fn open<E: std::error::Error + Send + Sync + 'static>(
        settings: &Settings,
        desk: Arc<Desk>,
        inheritance: Arc<Inheritance>,
        mask_key: impl FnOnce() -> Result<[u8; 32], E>,
    ) -> Result<Option<(Arc<Self>, Threads)>, GateError> {
        let guarded = |server: &crate::config::Server| !server.lane.is_observe();
        let is_guarded = settings.servers.iter().any(guarded);
        if !(is_guarded && settings.guard.steer)
            && let Err(error) = take_off(&settings.guard.pins)
        {
            // Of a time when the configuration said otherwise.
            tracing::error!("the steering of before stays: {}", in_full(&error));
        }
        if !is_guarded {
            return Ok(None);
        }
        let listen = listen(settings);
        // Whoever has written the addresses is told at once.
        for (_, address) in &listen {
            let failed = |source| GateError::Listen { address: *address, source };
            listeners::bound(*address).map_err(failed)?;
        }
        let mask_key = mask_key().map_err(|error| GateError::MaskKey(Box::new(error)))?;
        // The service's own, beside its control socket.
        let folder = settings.control.socket.parent().unwrap_or(Path::new("/"));
        let (jobs, inbox) = channel();
        let gate = Arc::new(Self {
            settings: toml::to_string(&settings.of_guard())?,
            mask_key: MaskKey(mask_key),
            steer: settings.guard.steer,
            servers: settings.servers.clone(),
            listen,
            state: Mutex::new(State::new(settings)),
            denied: Mutex::new(LruCache::new(MAX_DENIED)),
            netns: own_netns(),
            was_denied: Condvar::new(),
            masked: masked::Masked::default(),
            was_known: Condvar::new(),
            asked: Mutex::default(),
            endings: Endings::default(),
            summed: Sums::default(),
            is_asked: AtomicBool::new(false),
            moved: AtomicBool::new(false),
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
                .map_err(io::Error::from)?,
            jobs: Mutex::new(jobs),
            stopping: AtomicBool::new(false),
            figures: Figures::default(),
            rules: Mutex::default(),
            passes: Mutex::default(),
            desk: desk.clone(),
            inheritance: inheritance.clone(),
            n_ran: AtomicUsize::new(0),
        });
        let weak = Arc::downgrade(&gate);
        desk.when_answered(move || {
            if let Some(gate) = weak.upgrade() {
                gate.job(Job::Approvals);
            }
        });
        let weak = Arc::downgrade(&gate);
        inheritance.when_forgotten(move || {
            if let Some(gate) = weak.upgrade() {
                gate.job(Job::Labels);
            }
        });
        let threads = vec![
            admission::start(gate.clone(), inbox, &settings.guard.pins, folder)?,
            process::start(gate.clone())?,
        ];
        Ok(Some((gate.clone(), Threads { gate, threads })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn job(&self, job: Job) {
        // Its reader ends with the service.
        let _ = self.jobs.lock().unwrap_or_else(PoisonError::into_inner).send(job);
    }

    /// The policies that apply from now on.
    pub fn policies(&self, set: &Arc<Set>) {
        let policies = set.own_sources().map(|source| {
            let (name, text): (&str, &str) = (&source.name, &source.text);
            (name.into(), text.into())
        });
        let policies: Vec<_> = policies.collect();
        let brings_along = set.sources().len() > policies.len();
        self.state().policies = Some((policies, brings_along));
        self.desk.policies(set.version(), approvals::now());
        {
            let mut rules = self.rules();
            *rules = (rules.0 + 1, Some(set.clone()));
        }
        self.job(Job::Rules);
        self.wake();
    }

    /// Why the ledger can't be written, or that it can.
    pub fn ledger(&self, down: Option<&str>) {
        let mut state = self.state();
        if state.ledger_down.as_deref() != down {
            state.ledger_down = down.map(str::to_owned);
            drop(state);
            self.job(Job::Ledger);
        }
    }

    fn rules(&self) -> MutexGuard<'_, (u64, Option<Arc<Set>>)> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The rules in force, if they are others than those of that number.
    pub fn other_rules(&self, than: u64) -> Option<(u64, Arc<Set>)> {
        let rules = self.rules();
        let set = rules.1.as_ref().filter(|_| rules.0 != than)?;
        Some((rules.0, set.clone()))
    }

    /// What tells the kernel side who goes straight on; `None` while this host isn't steered.
    pub fn passes(&self) -> MutexGuard<'_, Option<Passes>> {
        self.passes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the guarded servers are now, by their places in the settings.
    pub fn targets(&self, targets: Vec<Result<Target, String>>) {
        let mut state = self.state();
        if state.targets != targets {
            state.targets = targets;
            drop(state);
            self.job(Job::Rules);
        }
    }

    /// Whether the guard is about to listen on other ports than before; to be followed by
    /// [`Gate::is_known`].
    pub fn has_moved(&self) -> bool {
        self.moved.load(Ordering::Acquire)
    }

    /// The kernel side tells from now on who connects to [`Gate::ports`].
    pub fn is_known(&self) {
        self.moved.store(false, Ordering::Release);
        let _state = self.state();
        self.was_known.notify_all();
    }

    /// Nobody comes in there before the kernel side would tell who it is.
    fn move_to(&self, ports: Vec<Ports>) {
        let mut state = self.state();
        state.ports = ports;
        self.moved.store(true, Ordering::Release);
        self.wake();
        let moved = |_: &mut State| self.moved.load(Ordering::Acquire) && !self.is_stopping();
        // A pipeline that is so busy has worse troubles than a client without a name.
        drop(self.was_known.wait_timeout_while(state, KNOWN_PATIENCE, moved));
    }

    /// Ports in front of servers, in this network namespace.
    pub fn ports(&self) -> Vec<u16> {
        let own = self.listen.iter().map(|(_, at)| at.port());
        let state = self.state();
        let led = state.ports.iter().flat_map(|ports| [&ports.v4, &ports.v6]).flatten();
        own.chain(led.map(|port| port.number)).collect()
    }

    /// Those who wait to be identified.
    pub fn take_asked(&self) -> Vec<Asked> {
        if !self.is_asked.swap(false, Ordering::AcqRel) {
            return Vec::new();
        }
        let mut count = [0; 8];
        // It isn't readable any more, or was not yet.
        let _ = rustix::io::read(&self.wake, &mut count);
        std::mem::take(&mut *self.asked.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn ask(&self, asked: Asked) {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).push(asked);
        self.wake();
    }

    fn wake(&self) {
        self.is_asked.store(true, Ordering::Release);
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    /// Sessions that broke off since the last call, and how many more there were.
    pub fn take_broken(&self) -> (Vec<BrokenOff>, u64) {
        self.endings.take()
    }

    /// What the guard has told of the requests that it sends, since the last call; `None` where more was told than was
    /// kept.
    pub fn take_summed(&self) -> Option<Vec<Summed>> {
        self.summed.take()
    }

    /// A client has left; why, if not as clients do.
    fn ended(&self, number: Number, sent: Sent, broken: Option<String>) {
        let mut state = self.state();
        let (client, who) = (state.clients.remove(&number), state.admitted.remove(&number));
        self.desk.over(number, Over::Left, approvals::now());
        if let Some(who) = who.as_ref().filter(|who| who.is_judged) {
            state.sent.put(who.connection, sent);
            state.departed.put(who.connection, who.origin.clone());
        }
        let (Some(why), Some(client)) = (broken, client) else { return };
        let target = state.targets.get(client.server).cloned().and_then(Result::ok);
        drop(state);
        tracing::debug!(came = ?client.came, "a guarded session broke off: {why}");
        self.endings.push(BrokenOff { target, came: client.came, who, why });
        self.wake();
    }

    /// What a session has sent to its server, once it is over.
    pub fn sent(&self, connection: ConnectionId) -> Option<Sent> {
        self.state().sent.pop(&connection)
    }

    /// What becomes of somebody who was asked about. Never waits.
    pub fn answer(&self, asked: Asked, outcome: Result<Identified, Refusal>) {
        self.job(match outcome {
            Ok(identified) => Job::Admit { asked, identified: Box::new(identified) },
            Err(refusal) => Job::Refuse { number: asked.number, refusal },
        });
    }

    /// Who is behind a connection that a server has got, if it comes from the guard.
    pub fn expected(&self, way: &Upstream) -> Option<Identified> {
        self.state().expected.pop(way)
    }

    fn expect(&self, way: Upstream, identified: Identified) {
        self.state().expected.put(way, identified);
    }

    /// Whether that client is still there.
    fn has(&self, number: Number) -> bool {
        self.state().clients.contains_key(&number)
    }

    /// Whether a connection that a server has got is the guard's own, for its questions.
    pub fn is_own(&self, way: &Way) -> bool {
        self.state().own.pop(way).is_some()
    }

    /// The guard wants to ask a server something.
    fn wanted(&self, ticket: Ticket, server: usize) {
        self.job(Job::Catalog { ticket, server });
    }

    fn catalog(&self, server: usize, state: CatalogState) {
        let name = self.servers.get(server).and_then(|server| server.name.as_deref());
        let name = name.unwrap_or_default();
        match told(&state) {
            Ok(words) => tracing::info!(server = name, "the catalog: {words}"),
            Err(words) => tracing::error!(server = name, "the catalog: {words}"),
        }
        self.state().catalogs.insert(server, state);
    }

    fn lacks(&self, server: usize, database: String, lacks: Vec<String>) {
        for lack in &lacks {
            tracing::warn!(database, "{lack}");
        }
        self.state().lacks.put((server, database), lacks);
    }

    /// The statement that was denied where the server has got `token`.
    pub fn denied(&self, token: &str) -> Option<Arc<Denied>> {
        let until = Instant::now() + DENIED_PATIENCE;
        let mut denied = self.denied.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(found) = denied.peek(token) {
                return Some(found.clone());
            }
            let left = until.checked_duration_since(Instant::now())?;
            let waited = self.was_denied.wait_timeout(denied, left);
            denied = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Whether values are masked for this client.
    pub fn is_veiled(&self, connection: ConnectionId) -> bool {
        self.masked.is_veiled(connection)
    }

    /// What was masked in the answer to a text; where it is `awaited`, as soon as that is known.
    pub fn masked(
        &self,
        connection: ConnectionId,
        text: TextPrint,
        awaited: bool,
    ) -> Arc<[Arc<str>]> {
        self.masked.of(connection, text, awaited)
    }

    /// What a client has said, where the server got this text for it.
    pub fn nulled(&self, connection: ConnectionId, text: TextPrint) -> Option<Arc<Nulled>> {
        self.masked.nulled(connection, text)
    }

    fn deny(&self, told: Denied) {
        let mut denied = self.denied.lock().unwrap_or_else(PoisonError::into_inner);
        denied.put(told.token.clone(), Arc::new(told));
        self.was_denied.notify_all();
    }

    pub fn status(&self) -> GuardStatus {
        let Figures { starts, clients, refused, unjudged, passed, denied } = &self.figures;
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let state = self.state();
        let targets = state.targets();
        let servers = self.servers.iter().zip(&targets).enumerate();
        let guarded = servers.filter(|(_, (server, _))| !server.lane.is_observe());
        let servers = guarded.map(|(place, (server, target))| GuardedServer {
            name: server.name.clone().unwrap_or_default(),
            listens: self.listen.iter().find(|(at, _)| *at == place).map(|(_, at)| at.to_string()),
            problem: target.as_ref().err().cloned(),
            steering: state.steering.clone().unwrap_or_else(|| "there is no guard yet".to_owned()),
            network: state.network.get(place).cloned().flatten(),
            certificate: state.stale.get(place).cloned().flatten(),
            socket: server.guard_socket.as_ref().map(|at| at.display().to_string()),
            unix: state.unix.get(place).cloned().flatten().map(|led| match led {
                Ok(()) => "clients of its unix socket are led to the guard".to_owned(),
                Err(why) => format!("clients of its unix socket go past the guard: {why}"),
            }),
            socket_problem: state.sockets.get(place).and_then(|open| open.clone()?.err()),
            lacks: state
                .lacks
                .iter()
                .filter(|((at, _), _)| *at == place)
                .flat_map(|((_, database), lacks)| {
                    lacks.iter().map(move |lack| format!("{database}: {lack}"))
                })
                .collect(),
            catalog: server.catalog.as_ref().map(|_| match state.catalogs.get(&place) {
                Some(state) => told(state),
                None => Err("it was not asked yet".to_owned()),
            }),
        });
        let needs_ledger = |server: &crate::config::Server| {
            !server.lane.is_observe() && server.on_ledger_down == OnLedgerDown::Refuse
        };
        let refuses = state.ledger_down.as_ref().filter(|_| self.servers.iter().any(needs_ledger));
        let refuses = refuses.map(|why| format!("what comes through it is refused: {why}"));
        let open = self.desk.n_open().into_iter().map(|(server, NOpen { hold, ticket })| {
            OpenApprovals { server: server.to_string(), hold, ticket }
        });
        let problems: Vec<String> = state.problem.clone().into_iter().chain(refuses).collect();
        GuardStatus {
            stands: state.stands,
            problem: Some(problems.join("; ")).filter(|problems| !problems.is_empty()),
            servers: servers.collect(),
            starts: read(starts),
            clients: read(clients),
            clients_open: state.clients.len() as u64,
            refused: read(refused),
            unjudged: read(unjudged),
            passed: read(passed),
            denied: read(denied),
            approvals_open: open.collect(),
            inherited: self.inheritance.n_columns(),
            ..GuardStatus::default()
        }
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }
}

/// Readable while somebody waits to be identified.
impl AsFd for Gate {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

impl Threads {
    /// Ends the guard, and with it the sessions that go through it.
    pub fn stop(self) {
        self.gate.stopping.store(true, Ordering::Release);
        self.gate.ends_approvals("dbwarden has stopped");
        let channel = self.gate.state().channel.take();
        if let Some(channel) = channel {
            channel.close();
        }
        self.gate.job(Job::Stop);
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a thread of the gate panicked");
            }
        }
    }
}

/// How it goes with the questions to a server, in words; what is lacking for all of them.
fn told(state: &CatalogState) -> Result<String, String> {
    match state {
        CatalogState::Fine(CatalogRights { is_superuser: true, .. }) => {
            Ok("it is asked as a superuser: a role with pg_read_all_data and pg_write_all_data is \
                enough"
                .to_owned())
        }
        CatalogState::Fine(CatalogRights { reads: true, writes: true, .. }) => {
            Ok("it is asked, and estimates".to_owned())
        }
        CatalogState::Fine(_) => Err("it is asked, and doesn't estimate: GRANT pg_read_all_data, \
                                      pg_write_all_data to its role (EXPLAIN wants them)"
            .to_owned()),
        CatalogState::Lacking(why) => Err(format!("it is not known: {why}")),
    }
}

/// Addresses by the servers' places in the settings.
fn listen(settings: &Settings) -> Vec<(usize, SocketAddr)> {
    let places: BTreeMap<&str, usize> = settings
        .servers
        .iter()
        .enumerate()
        .filter_map(|(place, server)| Some((server.name.as_deref()?, place)))
        .collect();
    let listen = settings.guard.listen.iter();
    listen.filter_map(|(name, at)| Some((*places.get(name.as_str())?, *at))).collect()
}

/// The inode of the network namespace that the service is in.
pub fn own_netns() -> u32 {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self/ns/net").map_or(0, |place| place.ino() as u32)
}
