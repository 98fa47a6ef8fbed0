//! The thread that has the connections: one for a database, made when it is wanted, closed when it is not.

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, VecDeque},
    io,
    os::fd::OwnedFd,
    rc::Rc,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use tokio::{
    sync::{
        Notify,
        mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
        oneshot,
    },
    task::{LocalSet, spawn_local},
    time::{sleep, timeout},
};

use super::{
    Ask, Catalogs, Database, Job, Key, Shown,
    connection::{self, Connection, Unreached},
    load::{self, Unread},
    question,
    snapshot::Snapshot,
};
use crate::{
    event::in_full,
    guard::{
        rulebook::Rulebook,
        wire::{Account, CatalogState, Channel, Ticket, Word},
    },
};

/// At a time. Whoever wants to drop a database, or make one after its model, waits no longer than PostgreSQL itself
/// does (5 s) for an idle one to go.
const MAX_CONNECTIONS: usize = 16;
const IDLE: Duration = Duration::from_secs(3);
/// For an idle connection to make room for another.
const ROOM: Duration = Duration::from_millis(50);
/// A task that nobody has anything for ends.
const UNWANTED: Duration = Duration::from_secs(60);
/// For the service to connect.
const SOCKET: Duration = Duration::from_secs(3);
/// A server that doesn't answer for so long has hung.
const HUNG: Duration = Duration::from_secs(5);
/// Where it is seen whether the account works, before anybody comes.
const TRIED: &str = "postgres";
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(30);

pub(super) fn start(
    channel: Arc<Channel>,
    catalogs: Catalogs,
    inbox: UnboundedReceiver<Ask>,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().name("catalog".into()).spawn(move || {
        LocalSet::new().block_on(&runtime, serve(channel, catalogs, inbox));
    })?;
    Ok(())
}

type Wanted = (Arc<Database>, Job);

/// What the tasks share.
struct Office {
    channel: Arc<Channel>,
    catalogs: Catalogs,
    rules: RefCell<Option<Arc<Rulebook>>>,
    /// Who waits for a socket.
    waiting: RefCell<HashMap<Ticket, oneshot::Sender<Result<OwnedFd, String>>>>,
    next: Cell<Ticket>,
    connections: Cell<usize>,
    /// Tells one connection to close; the one that has been idle for longest is first.
    idle: RefCell<VecDeque<Rc<Notify>>>,
    freed: Notify,
    tasks: RefCell<HashMap<Key, UnboundedSender<Wanted>>>,
    /// What was said of the servers last.
    told: RefCell<HashMap<usize, CatalogState>>,
    /// Counts the rules, so that attempts by those of before end.
    era: Cell<u64>,
}

async fn serve(channel: Arc<Channel>, catalogs: Catalogs, mut inbox: UnboundedReceiver<Ask>) {
    let office = Rc::new(Office {
        channel,
        catalogs,
        rules: RefCell::default(),
        waiting: RefCell::default(),
        next: Cell::new(0),
        connections: Cell::new(0),
        idle: RefCell::default(),
        freed: Notify::new(),
        tasks: RefCell::default(),
        told: RefCell::default(),
        era: Cell::new(0),
    });
    while let Some(ask) = inbox.recv().await {
        match ask {
            Ask::Rules(rules) => office.take(rules),
            Ask::Socket(ticket, outcome) => {
                if let Some(waiting) = office.waiting.borrow_mut().remove(&ticket) {
                    // It may have given up.
                    let _ = waiting.send(outcome);
                }
            }
            Ask::Of(database, job) => office.hand_over(database, job),
        }
    }
}

impl Office {
    fn take(self: &Rc<Self>, rules: Arc<Rulebook>) {
        let before = self.rules.replace(Some(rules.clone()));
        let is_same = before.is_some_and(|before| before.accounts == rules.accounts);
        if is_same {
            return;
        }
        self.era.set(self.era.get() + 1);
        self.told.borrow_mut().clear();
        for database in super::lock(&self.catalogs.databases).values() {
            database.forgive();
        }
        for (server, account) in rules.accounts.iter().enumerate() {
            match account {
                None => {}
                Some(Err(why)) => self.tell(server, CatalogState::Lacking(why.clone())),
                Some(Ok(_)) => drop(spawn_local(self.clone().try_out(server, self.era.get()))),
            }
        }
    }

    /// Says how it goes before the first client comes.
    async fn try_out(self: Rc<Self>, server: usize, era: u64) {
        let mut pause = FIRST_RETRY;
        while self.era.get() == era
            && !matches!(self.told.borrow().get(&server), Some(CatalogState::Fine(_)))
        {
            match self.connect(server, TRIED).await {
                Ok(_) => return,
                Err(why) => self.tell(server, CatalogState::Lacking(in_full(&why))),
            }
            sleep(pause).await;
            pause = (pause * 2).min(LAST_RETRY);
        }
    }

    fn hand_over(self: &Rc<Self>, database: Arc<Database>, job: Job) {
        let key = (database.server, database.name.clone());
        let mut tasks = self.tasks.borrow_mut();
        let unsent = match tasks.get(&key) {
            Some(task) => match task.send((database, job)) {
                Ok(()) => return,
                Err(unsent) => unsent.0,
            },
            None => (database, job),
        };
        let (task, jobs) = unbounded_channel();
        let _ = task.send(unsent);
        tasks.insert(key.clone(), task);
        spawn_local(self.clone().keep(key, jobs));
    }

    /// Does what is wanted of one database.
    async fn keep(self: Rc<Self>, key: Key, mut jobs: UnboundedReceiver<Wanted>) {
        let mut connected: Option<Held> = None;
        loop {
            let next = match &mut connected {
                Some(held) => match jobs.try_recv() {
                    Ok(next) => Some(next),
                    Err(_) => held.idle(&mut jobs).await,
                },
                None => match timeout(UNWANTED, jobs.recv()).await {
                    Ok(Some(next)) => Some(next),
                    Ok(None) => return,
                    Err(_) => {
                        // Nobody can have sent anything since: this is the only thread that does.
                        self.tasks.borrow_mut().remove(&key);
                        return;
                    }
                },
            };
            let Some((database, job)) = next else {
                connected = None;
                continue;
            };
            if connected.as_ref().is_none_or(|held| held.connection.client.is_closed()) {
                drop(connected.take());
                if super::lock(&database.known).is_backing_off(Instant::now()) {
                    database.let_be();
                    continue;
                }
                match self.connect(key.0, &key.1).await {
                    Ok(held) => connected = Some(held),
                    Err(why) => {
                        // One that isn't there says nothing of the others.
                        if !why.is_of_database() {
                            self.tell(key.0, CatalogState::Lacking(in_full(&why)));
                        }
                        database.failed();
                        continue;
                    }
                }
            }
            let Some(held) = &connected else { continue };
            let wants_columns = self.rules.borrow().as_ref().is_some_and(|rules| rules.set.masks());
            let done = work(&self.channel, &held.connection, &database, job, wants_columns);
            match timeout(HUNG, done).await {
                Ok(Ok(())) => database.is_stuck.store(false, std::sync::atomic::Ordering::Release),
                // Somebody has ended it, or dropped its database.
                Ok(Err(_)) if held.connection.client.is_closed() => {
                    connected = None;
                    database.failed();
                }
                Ok(Err(unread)) if unread.is_held_up() => database.is_held_up(),
                Ok(Err(unread)) => {
                    self.tell(key.0, CatalogState::Lacking(format!("{}: {unread}", key.1)));
                    database.failed();
                }
                Err(_) => {
                    let why = format!("{}: no answer within {HUNG:?}", key.1);
                    self.tell(key.0, CatalogState::Lacking(why));
                    database.failed();
                    connected = None;
                }
            }
        }
    }

    async fn connect(self: &Rc<Self>, server: usize, database: &str) -> Result<Held, Unreached> {
        let rules = self.rules.borrow().clone();
        let socket = |why: &str| Unreached::Socket(why.to_owned());
        let rules = rules.ok_or_else(|| socket("there are no rules yet"))?;
        let account: &Account = match rules.accounts.get(server) {
            Some(Some(Ok(account))) => account,
            Some(Some(Err(why))) => return Err(socket(why)),
            _ => return Err(socket("no catalog is configured")),
        };
        let tls = match rules.tls.get(server) {
            Some(Ok(tls)) => tls.as_ref(),
            Some(Err(why)) => return Err(socket(why)),
            None => None,
        };
        let place = Place::take(self)
            .await
            .ok_or_else(|| socket("more databases at a time than there are connections for"))?;
        let ticket = self.next.get();
        self.next.set(ticket + 1);
        let (asker, answer) = oneshot::channel();
        self.waiting.borrow_mut().insert(ticket, asker);
        self.channel.tell(&Word::CatalogSocket { ticket, server });
        let answer = timeout(SOCKET, answer).await;
        self.waiting.borrow_mut().remove(&ticket);
        let fd = match answer {
            Ok(Ok(Ok(fd))) => fd,
            Ok(Ok(Err(why))) => return Err(Unreached::Socket(why)),
            _ => return Err(socket("the service does not answer")),
        };
        let connection = connection::connect(fd, tls, account, database).await?;
        self.tell(server, CatalogState::Fine(connection.rights));
        Ok(Held { connection, place })
    }

    /// Once for each change.
    fn tell(&self, server: usize, state: CatalogState) {
        if self.told.borrow().get(&server) != Some(&state) {
            self.told.borrow_mut().insert(server, state.clone());
            self.channel.tell(&Word::Catalog { server, state });
        }
    }
}

/// A connection, and its share of those that there may be.
struct Held {
    connection: Connection,
    place: Place,
}

impl Held {
    /// The next that is wanted of it; `None` where nothing is for a while, others want its place, or it has ended.
    async fn idle(&mut self, jobs: &mut UnboundedReceiver<Wanted>) -> Option<Wanted> {
        let leave = Rc::new(Notify::new());
        let office = &self.place.0;
        office.idle.borrow_mut().push_back(leave.clone());
        let next = tokio::select! {
            next = jobs.recv() => next,
            () = sleep(IDLE) => None,
            () = leave.notified() => None,
            _ = &mut self.connection.driver => None,
        };
        office.idle.borrow_mut().retain(|other| !Rc::ptr_eq(other, &leave));
        next
    }
}

struct Place(Rc<Office>);

impl Place {
    /// Whoever has been idle for longest makes room.
    async fn take(office: &Rc<Office>) -> Option<Self> {
        if office.connections.get() >= MAX_CONNECTIONS {
            let freed = office.freed.notified();
            let longest = office.idle.borrow_mut().pop_front()?;
            longest.notify_one();
            let _ = timeout(ROOM, freed).await;
        }
        let taken = office.connections.get();
        (taken < MAX_CONNECTIONS).then(|| {
            office.connections.set(taken + 1);
            Self(office.clone())
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.connections.set(self.0.connections.get().saturating_sub(1));
        self.0.freed.notify_one();
    }
}

fn tell(channel: &Channel, database: &Database, shown: Shown) {
    for inheriting in shown.inherited {
        channel.tell(&Word::inherited(database.server, &database.name, inheriting));
    }
    if !shown.gone.is_empty() {
        let (server, database) = (database.server, database.name.to_string());
        channel.tell(&Word::Gone { server, database, relations: shown.gone });
    }
}

async fn work(
    channel: &Channel,
    connection: &Connection,
    database: &Database,
    job: Job,
    wants_columns: bool,
) -> Result<(), Unread> {
    let client = &connection.client;
    // Whoever asked may be gone.
    match job {
        Job::Look => {
            let began = (Instant::now(), database.begin());
            let mut rows = load::rows(client, wants_columns).await?;
            database.mend(&mut rows);
            let print = rows.print();
            let snapshot = Arc::new(Snapshot::new(&database.name, rows));
            tell(channel, database, database.seen(snapshot, print, began));
        }
        Job::Plan(question, reply) => {
            let _ = reply.send(question::expected(client, &question).await);
        }
        Job::Name(oid, reply) => {
            const NAME: &str = "SELECT n.nspname::text, p.proname::text FROM pg_catalog.pg_proc p \
                                JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace WHERE p.oid = $1";
            let row = client.query_opt(NAME, &[&oid]).await?;
            let named = match row {
                Some(row) => Some(Arc::new((row.try_get(0)?, row.try_get(1)?))),
                None => None,
            };
            let _ = reply.send(named);
        }
    }
    Ok(())
}
