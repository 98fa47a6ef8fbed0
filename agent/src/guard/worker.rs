//! One of the guard's threads: its clients from their arrival to their end.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    io,
    os::fd::OwnedFd,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    sync::{mpsc::UnboundedReceiver, oneshot},
};

use super::{
    catalog::Catalogs,
    client_court::{ClientCourt, SoFar},
    clock::Clock,
    court::Court as _,
    entry::{self, Arrival, Failed, Unwelcome},
    holds::Holds,
    judging::Judging,
    lobby::Lobby,
    outside::{Listeners, Outside},
    past::{Past, Ran},
    reactor::Reactor,
    relay::{End, Relay},
    report::{Report, Severity},
    rulebook::Rulebook,
    session::{Session, Tiding},
    stream::{Socket, Stream},
    wire::{Admission, Channel, Number, Refusal, Sent, Summed, Wants, Word},
};
use crate::{
    approval,
    event::{BootTime, ConnectionId, Engine},
    pipeline::{profile::Profile, servers::ServerFacts},
};

/// For the service to say whether a client may go on.
const ADMISSION: Duration = Duration::from_secs(30);
/// For the server to speak TLS and take the `StartupMessage`.
const INTRODUCTION: Duration = Duration::from_secs(30);
/// For a client to take the reason why not.
const FAREWELL: Duration = Duration::from_secs(5);
/// Between what is told of sessions that say little, and looks at what is past the guard and waits.
const TICK: Duration = Duration::from_secs(1);
/// Of what a client still says after its end.
const MAX_IGNORED_BYTES: usize = 1 << 20;

/// What a worker is told.
pub(super) enum Task {
    Rules(Arc<Rulebook>),
    Client {
        number: Number,
        server: usize,
        socket: OwnedFd,
    },
    Answer {
        number: Number,
        answer: Answer,
    },
    /// For a session of this worker whose statement needs an approval.
    Approval {
        number: Number,
        answer: approval::Answer,
    },
    Ledger {
        down: Option<Arc<str>>,
    },
    /// Past the guard.
    Ran(Ran),
}

pub(super) enum Answer {
    Admitted(Box<Admission>, OwnedFd),
    Refused(Refusal),
}

struct Worker {
    judging: Rc<RefCell<Judging>>,
    rules: RefCell<Arc<Rulebook>>,
    lobby: Lobby,
    waiting: RefCell<HashMap<Number, oneshot::Sender<Answer>>>,
    sessions: RefCell<HashMap<Number, Told>>,
    listeners: Listeners,
    holds: Holds,
    channel: Arc<Channel>,
    catalogs: Catalogs,
    clock: Clock,
    reactor: Reactor,
    past: RefCell<Past>,
}

/// How much of a session's requests the service knows of.
struct Told {
    connection: ConnectionId,
    so_far: Rc<Cell<SoFar>>,
    bytes: u64,
}

impl Told {
    fn nothing(court: &ClientCourt) -> Self {
        Self { connection: court.profile.id, so_far: court.so_far.clone(), bytes: 0 }
    }

    /// What is to be told of it now.
    fn news(&mut self) -> Option<Summed> {
        let SoFar { bytes, sum } = self.so_far.get();
        let was = std::mem::replace(&mut self.bytes, bytes);
        (was != bytes).then_some(Summed { connection: self.connection, bytes: Some(bytes), sum })
    }
}

/// Until there is nobody any more who has tasks.
pub(super) fn work(
    rules: Arc<Rulebook>,
    channel: Arc<Channel>,
    catalogs: Catalogs,
    clock: Clock,
    holds: Holds,
    mut tasks: UnboundedReceiver<Task>,
) -> io::Result<()> {
    let judging = rules.judging(channel.clone(), catalogs.clone()).map_err(io::Error::other)?;
    let reactor = Reactor::new()?;
    let worker = Rc::new(Worker {
        judging: Rc::new(RefCell::new(judging)),
        rules: RefCell::new(rules),
        lobby: Lobby::new(clock.clone()),
        waiting: RefCell::default(),
        sessions: RefCell::default(),
        listeners: Listeners::default(),
        holds,
        channel,
        clock,
        reactor: reactor.clone(),
        past: RefCell::new(Past::new(catalogs.clone())),
        catalogs,
    });
    reactor.spawn(worker.clone().tick());
    reactor.run(async move {
        while let Some(task) = tasks.recv().await {
            match task {
                Task::Rules(rules) => worker.replace(rules),
                Task::Approval { number, answer } => worker.approval(number, answer),
                Task::Ledger { down } => worker.judging.borrow_mut().ledger_is_down(down),
                Task::Ran(ran) => {
                    worker.past.borrow_mut().ran(ran, &mut worker.judging.borrow_mut());
                }
                Task::Client { number, server, socket } => {
                    worker.reactor.spawn(worker.clone().client(number, server, socket));
                }
                Task::Answer { number, answer } => {
                    let asker = worker.waiting.borrow_mut().remove(&number);
                    if let Some(asker) = asker {
                        // It may have left meanwhile.
                        let _ = asker.send(answer);
                    }
                }
            }
        }
    })
}

/// Who is let in, and is judged.
struct Guest {
    stream: Stream,
    upstream: Stream,
    court: ClientCourt,
}

impl Guest {
    fn relay(self, number: Number, session: Session, worker: &Worker) -> Relay {
        let (listeners, holds) = (worker.listeners.clone(), worker.holds.clone());
        let outside = Outside::new(number, listeners, holds, worker.clock.clone());
        Relay::new(self.stream, self.upstream, session, self.court, outside)
    }
}

impl Worker {
    fn approval(&self, number: Number, answer: approval::Answer) {
        let session = self.listeners.borrow().get(&number).cloned();
        // It may have left meanwhile.
        let _ = session.map(|session| session.send(Tiding::Answer(answer)));
    }

    fn replace(&self, rules: Arc<Rulebook>) {
        match rules.principals() {
            Ok(principals) => {
                let (set, host) = (rules.set.clone(), rules.host.clone());
                let hiding = rules.hiding.clone();
                self.judging.borrow_mut().replace(set, host, principals, rules.bulk(), hiding);
            }
            Err(error) => tracing::error!(%error, "the rules for principals"),
        }
        *self.rules.borrow_mut() = rules;
    }

    async fn tick(self: Rc<Self>) {
        loop {
            self.clock.sleep(TICK).await;
            self.compare();
            self.past.borrow_mut().catch_up(&mut self.judging.borrow_mut());
        }
    }

    /// Tells the service what servers have been asked, so that it can hold it against what it sees of them. Stretches
    /// that are full are told as they end.
    fn compare(&self) {
        let news: Vec<Summed> =
            self.sessions.borrow_mut().values_mut().filter_map(Told::news).collect();
        if !news.is_empty() {
            self.channel.tell(&Word::Summed(news));
        }
    }

    async fn client(self: Rc<Self>, number: Number, server: usize, socket: OwnedFd) {
        let mut session = Session::new(rand::random());
        match self.welcome(number, server, socket, &mut session).await {
            // What it took to let it in is over.
            Ok(Some(guest)) => {
                self.reactor.spawn(self.clone().attend(number, guest.relay(number, session, &self)))
            }
            Ok(None) => self.ended(number, &session, None),
            Err(why) => self.ended(number, &session, Some(why)),
        }
    }

    async fn attend(self: Rc<Self>, number: Number, mut relay: Relay) {
        let broken = match (&mut relay).await {
            // A client may go without a word.
            End::Closed | End::Client => None,
            End::Server(error) => Some(format!("the server: {error}")),
            End::Broken(broken, words) => {
                say(&mut relay.client, &words, &self.clock).await;
                Some(broken.to_string())
            }
        };
        self.ended(number, &relay.over(), broken);
    }

    /// `broken`: what went wrong, in words.
    fn ended(&self, number: Number, session: &Session, broken: Option<String>) {
        self.sessions.borrow_mut().remove(&number);
        let counts = session.counts();
        let is_whole = counts.took_leave && broken.is_none();
        let sent = Sent { bytes: counts.sent_bytes, is_whole, sum: session.sum() };
        self.channel.tell(&Word::Ended { number, passed: counts.passed, sent, broken });
    }

    /// From its arrival until its session can begin; `None` where there is to be none. What went wrong, in words.
    async fn welcome(
        &self,
        number: Number,
        server: usize,
        socket: OwnedFd,
        session: &mut Session,
    ) -> Result<Option<Guest>, String> {
        let rules = self.rules.borrow().clone();
        let socket = Socket::given(socket, &self.reactor).map_err(|error| error.to_string())?;
        let tls = match rules.tls.get(server) {
            // As PostgreSQL, which speaks it on no unix socket.
            _ if socket.is_unix() => None,
            Some(Ok(tls)) => tls.as_ref(),
            // In the clear it would be less than what its client has without a guard.
            Some(Err(why)) => return Err(why.to_string()),
            None => None,
        };
        let arrival = match self.lobby.host(number, entry::greet(socket, tls)).await {
            Err(lingered) => return Err(lingered.to_string()),
            Ok(Err(failed)) => return turn_away(failed, &self.clock).await.map(|()| None),
            Ok(Ok(arrival)) => arrival,
        };
        let Arrival { mut stream, wants, packet } = arrival;
        if wants == Wants::Cancel && self.holds.cancel(&packet) {
            // Nothing of it is at the server.
            let _ = self.clock.timeout(FAREWELL, stream.shutdown()).await;
            return Ok(None);
        }
        let (admission, upstream) = match self.ask(number, wants.clone()).await {
            Answer::Admitted(admission, upstream) => (admission, upstream),
            Answer::Refused(refusal) => {
                say(&mut stream, &refusal.report().encode(), &self.clock).await;
                return Ok(None);
            }
        };
        let is_judged = admission.is_judged;
        let court = match &wants {
            Wants::Cancel => None,
            Wants::Session { .. } if !is_judged => None,
            Wants::Session { user, database, application, encrypted } => {
                let mut profile = profile(&rules, server, *admission);
                if *encrypted {
                    profile.encryption_started();
                }
                profile.started(BootTime(0), user, database, application);
                let needs_ledger = rules.needs_ledger(server);
                let is_asked = rules.accounts.get(server).is_some_and(Option::is_some);
                let watched = is_asked.then(|| self.catalogs.database(server, database)).flatten();
                let judging = self.judging.clone();
                let mut court =
                    ClientCourt::new(profile, judging, number, needs_ledger, watched.clone());
                if let Err(denial) = court.judge_startup(&packet) {
                    say(&mut stream, &denial.encode(Severity::Fatal), &self.clock).await;
                    return Err(format!("it may not start so: {}", denial.detail));
                }
                self.sessions.borrow_mut().insert(number, Told::nothing(&court));
                if let Some(database) = &watched {
                    self.catalogs.prepare(database, &self.clock).await;
                }
                Some(court)
            }
        };
        let tls = tls.filter(|_| matches!(stream, Stream::Tls(_)));
        let tls = tls.map(|tls| (tls, stream.certificate()));
        let upstream = Socket::given(upstream, &self.reactor).map_err(|error| error.to_string())?;
        let introduced =
            self.clock.timeout(INTRODUCTION, entry::introduce(upstream, tls, &packet)).await;
        let introduced = introduced.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let mut upstream = match introduced {
            Ok(upstream) => upstream,
            Err(error) => {
                let refusal = Refusal::unreachable(&error.to_string());
                say(&mut stream, &refusal.report().encode(), &self.clock).await;
                return Err(format!("the server: {error}"));
            }
        };
        session.introduced(packet.len());
        if !is_judged && wants != Wants::Cancel {
            // Either may go without a word; nobody here has anything to say about it.
            let _ = copy_bidirectional(&mut stream, &mut upstream).await;
            return Ok(None);
        }
        let Some(mut court) = court else {
            // The server says nothing, and closes.
            let mut nothing = [0; 1];
            let _ = self.clock.timeout(FAREWELL, upstream.read(&mut nothing)).await;
            // libpq takes an end without a word of TLS for an error.
            let _ = self.clock.timeout(FAREWELL, stream.shutdown()).await;
            return Ok(None);
        };
        court.summed_so_far(session.counts().sent_bytes, session.sum());
        Ok(Some(Guest { stream, upstream, court }))
    }

    async fn ask(&self, number: Number, wants: Wants) -> Answer {
        let (asker, answer) = oneshot::channel();
        self.waiting.borrow_mut().insert(number, asker);
        self.channel.tell(&Word::Arrived { number, wants });
        let answer = self.clock.timeout(ADMISSION, answer).await;
        self.waiting.borrow_mut().remove(&number);
        match answer {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) | Err(_) => {
                Answer::Refused(Refusal::unreachable("the service does not answer"))
            }
        }
    }
}

/// Who the client is, before it has said anything.
fn profile(rules: &Rulebook, server: usize, admission: Admission) -> Profile {
    let places = rules.places.get(server).cloned().unwrap_or_default();
    let Admission { connection, server_name, local, remote, client, .. } = admission;
    let facts = ServerFacts::named(server_name, Engine::Postgresql, places);
    Profile::new(connection, Rc::new(facts), local, remote, client, None).guarded()
}

impl Refusal {
    pub(super) fn report(&self) -> Report<'_> {
        Report {
            severity: Severity::Fatal,
            code: &self.code,
            message: &self.message,
            detail: self.detail.as_deref(),
            hint: self.hint.as_deref(),
        }
    }

    /// `cannot_connect_now`
    pub fn unreachable(why: &str) -> Self {
        Self {
            code: "57P03".to_owned(),
            message: format!("dbwarden: the guard can't reach the server: {why}"),
            detail: None,
            hint: Some("`dbwarden status` on the server's host says more.".to_owned()),
        }
    }

    /// Of a client whose own address the server would not see.
    pub fn of_network(why: &str) -> Self {
        Self {
            code: "28000".to_owned(),
            message: "dbwarden: the guard takes no clients from the network here".to_owned(),
            detail: Some(why.to_owned()),
            hint: Some("Connect to the server's own address.".to_owned()),
        }
    }
}

async fn turn_away(failed: Failed, clock: &Clock) -> Result<(), String> {
    let Failed { stream, why } = failed;
    if let Unwelcome::Io(error) = &why
        && error.kind() == io::ErrorKind::UnexpectedEof
    {
        // It only looked whether somebody listens.
        return Ok(());
    }
    if let Some(mut stream) = stream {
        let message = format!("dbwarden: {why}");
        let report = Report {
            severity: Severity::Fatal,
            code: "08P01",
            message: &message,
            detail: None,
            hint: None,
        };
        say(&mut stream, &report.encode(), clock).await;
    }
    Err(why.to_string())
}

/// The last words.
async fn say(stream: &mut Stream, words: &[u8], clock: &Clock) {
    let said = async {
        stream.write_all(words).await?;
        stream.shutdown().await?;
        // What stays unread would end the connection by a reset, which may overtake the words.
        let mut ignored = [0; 512];
        let mut left = MAX_IGNORED_BYTES;
        loop {
            match stream.read(&mut ignored).await? {
                n @ 1.. if n <= left => left -= n,
                _ => return io::Result::Ok(()),
            }
        }
    };
    // A client that doesn't listen misses them.
    let _ = clock.timeout(FAREWELL, said).await;
}
