//! Who is behind the poolers of this host: wires their connections to `pooler`, and keeps who is at a front.

use std::{
    collections::{HashMap, VecDeque},
    rc::Rc,
    sync::Arc,
};

use super::profile::Profile;
use crate::{
    event::{
        BootTime, Client, ConnectionId, Direction, Endpoint, Origin, ServerSocket, SessionEvent,
        SyncLoss,
    },
    pooler::{Behind, Pooler},
    principal::Rules,
};

/// Statements of one connection to a database that have been asked for and not ended.
const MAX_ASKED: usize = 4_096;
/// The kernel's clock ticks, by which procfs tells a process's start.
const TICK_NS: u64 = 10_000_000;

/// Somebody at the front of a pooler.
pub struct Sender {
    pub client: Client,
    pub remote: Endpoint,
    /// The user that the pooler has let in, where it has made sure.
    pub proven_user: Option<Arc<str>>,
    /// What his connection's own rows say of him.
    origin: Arc<Origin>,
}

/// What a connection is to a pooler.
pub enum Part {
    /// A client has connected to the pooler.
    Front {
        pooler: u32,
        /// It speaks with the pooler itself, which passes nothing on.
        is_console: bool,
        sender: Option<Rc<Sender>>,
    },
    /// The pooler has connected to a database.
    Back {
        pooler: u32,
        /// Who may have sent the statements that have not ended, by their sequence.
        asked: VecDeque<(u64, Behind<Rc<Sender>>)>,
        newest: u64,
    },
}

/// The poolers that can be believed, by pid.
#[derive(Default)]
pub struct Poolers(HashMap<u32, Followed>);

struct Followed {
    /// Rounded down to a tick.
    start: BootTime,
    name: Arc<str>,
    link: Pooler<Rc<Sender>>,
}

impl Poolers {
    /// From now on its connections are followed. False if they are already.
    pub fn follow(
        &mut self,
        pid: u32,
        start: BootTime,
        name: &Arc<str>,
        now: BootTime,
        had_fronts: bool,
    ) -> bool {
        if self.0.get(&pid).is_some_and(|known| known.start == start) {
            return false;
        }
        let link = Pooler::new(now, had_fronts);
        self.0.insert(pid, Followed { start, name: name.clone(), link });
        true
    }

    pub fn let_go(&mut self, pid: u32) {
        self.0.remove(&pid);
    }

    /// What a connection of this client's to a database is.
    pub fn part_of(&self, client: &Client) -> Option<Part> {
        let Client::Local(process) = client else { return None };
        let followed = self.0.get(&process.pid)?;
        let is_same = process.start.0 / TICK_NS == followed.start.0 / TICK_NS;
        is_same.then(|| Part::Back { pooler: process.pid, asked: VecDeque::new(), newest: 0 })
    }

    /// Records were lost, perhaps theirs.
    pub fn unsure(&mut self, now: BootTime) {
        self.0.values_mut().for_each(|followed| followed.link.unsure(now));
    }

    pub fn tick(&mut self, now: BootTime) {
        self.0.values_mut().for_each(|followed| followed.link.tick(now));
    }

    /// Takes in what the session of a pooler's connection says.
    pub fn hear(
        &mut self,
        part: &mut Part,
        profile: &mut Profile,
        (host, rules): (&Origin, &Rules),
        at: BootTime,
        event: &SessionEvent<'_>,
    ) {
        let id = profile.id;
        match part {
            Part::Front { pooler, is_console, sender } => {
                if let SessionEvent::Startup { database, .. } = event {
                    *is_console = *database == "pgbouncer";
                }
                let Some(Followed { link, .. }) = self.0.get_mut(pooler) else { return };
                match *event {
                    SessionEvent::Asked { sequence, request } if !*is_console => {
                        let sender = Sender::at(sender, profile, host, rules);
                        link.front_asked(id, at, sequence, request, sender);
                    }
                    SessionEvent::Ready { status, unanswered } => {
                        link.front_ready(id, at, status, unanswered);
                    }
                    SessionEvent::SyncLost { direction, why }
                        if misses_requests(direction, why) =>
                    {
                        link.front_unsure(id, at, Sender::at(sender, profile, host, rules));
                    }
                    _ => {}
                }
            }
            Part::Back { pooler, asked, newest } => {
                let Some(Followed { link, .. }) = self.0.get_mut(pooler) else { return };
                match *event {
                    SessionEvent::Asked { sequence, request } => {
                        *newest = sequence;
                        asked.push_back((sequence, link.back_asked(id, at, request)));
                        if asked.len() > MAX_ASKED {
                            asked.pop_front();
                        }
                    }
                    SessionEvent::Ready { status, unanswered } => {
                        link.back_ready(id, status, unanswered > *newest);
                    }
                    SessionEvent::SyncLost { direction, why }
                        if misses_requests(direction, why) =>
                    {
                        link.back_unsure(id);
                    }
                    _ => {}
                }
            }
        }
    }

    /// The connection is over.
    pub fn closed(&mut self, part: &Part, id: ConnectionId, at: BootTime) {
        let (Part::Front { pooler, .. } | Part::Back { pooler, .. }) = part;
        let Some(Followed { link, .. }) = self.0.get_mut(pooler) else { return };
        match part {
            Part::Front { .. } => link.front_closed(id, at),
            Part::Back { .. } => link.back_closed(id),
        }
    }

    /// By which pooler a statement came to a database, and who may have sent it.
    pub fn sender(&self, part: &mut Part, sequence: u64) -> Option<(Arc<str>, Behind<Rc<Sender>>)> {
        let Part::Back { pooler, asked, .. } = part else { return None };
        let Followed { name, .. } = self.0.get(pooler)?;
        let place = asked.iter().position(|(of, _)| *of == sequence);
        let told = place.and_then(|place| asked.remove(place)).map(|(_, behind)| behind);
        Some((name.clone(), told.unwrap_or(Behind::Nobody)))
    }
}

impl Part {
    pub fn front(pooler: u32) -> Self {
        Self::Front { pooler, is_console: false, sender: None }
    }

    /// Whether its statements are told at the database, and not here.
    pub fn passes_on(&self) -> bool {
        matches!(self, Self::Front { is_console: false, .. })
    }

    pub fn is_front(&self) -> bool {
        matches!(self, Self::Front { .. })
    }
}

impl Sender {
    /// Who is at a front, made anew when something more has become known.
    fn at(
        known: &mut Option<Rc<Sender>>,
        profile: &mut Profile,
        host: &Origin,
        rules: &Rules,
    ) -> Rc<Sender> {
        let origin = profile.origin(host, rules);
        if let Some(sender) = known
            && Arc::ptr_eq(&sender.origin, &origin)
        {
            return sender.clone();
        }
        let sender = Rc::new(Sender {
            client: profile.client().clone(),
            remote: profile.remote.clone(),
            proven_user: profile.proven_user(),
            origin,
        });
        *known = Some(sender.clone());
        sender
    }

    /// Of his own connection, to the pooler.
    pub fn socket(&self) -> Option<ServerSocket> {
        self.origin.socket
    }

    pub fn is_known(&self) -> bool {
        !matches!(self.client, Client::LocalUnknown)
    }

    pub fn is_same_process(&self, other: &Sender) -> bool {
        match (&self.client, &other.client) {
            (Client::Local(a), Client::Local(b)) => a.pid == b.pid && a.start == b.start,
            _ => false,
        }
    }
}

/// Answers that were left out by budget don't hide requests.
fn misses_requests(direction: Direction, why: SyncLoss) -> bool {
    direction == Direction::Request || why == SyncLoss::JoinedMidstream
}
