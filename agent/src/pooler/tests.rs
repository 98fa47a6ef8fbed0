//! Cases by hand, and a made-up pooler whose every interleaving must be seen through or left open.

use std::collections::VecDeque;

use super::{Behind, DELIVERY_NS, MAX_TOLD, PATIENCE_NS, Pooler};
use crate::event::{BootTime, ConnectionId, RequestPrint, TransactionStatus};

const IDLE: Option<TransactionStatus> = Some(TransactionStatus::Idle);
const OPEN: Option<TransactionStatus> = Some(TransactionStatus::InTransaction);
const NOW: BootTime = BootTime(1);

fn front(n: u64) -> ConnectionId {
    ConnectionId(n)
}

fn back(n: u64) -> ConnectionId {
    ConnectionId(1_000 + n)
}

/// A pooler whose fronts and backs, a few of each, have logged in.
fn pooler() -> Pooler<u64> {
    let mut pooler = Pooler::new(NOW, false);
    (1..4).for_each(|n| pooler.back_ready(back(n), IDLE, true));
    pooler
}

fn ask(pooler: &mut Pooler<u64>, n: u64, sequence: u64, print: u64) {
    pooler.front_asked(front(n), NOW, sequence, RequestPrint::Known(print), n);
}

fn read(pooler: &mut Pooler<u64>, n: u64, print: u64) -> Behind<u64> {
    pooler.back_asked(back(n), NOW, RequestPrint::Known(print))
}

#[test]
fn the_only_one_who_asked_for_it_has_sent_it() {
    let mut pooler = pooler();
    ask(&mut pooler, 1, 1, 7);
    ask(&mut pooler, 2, 1, 8);
    assert_eq!(read(&mut pooler, 1, 8), Behind::One(2));
    assert_eq!(read(&mut pooler, 2, 7), Behind::One(1));
    // Nobody has: the pooler's own.
    pooler.back_ready(back(1), IDLE, true);
    assert_eq!(read(&mut pooler, 1, 9), Behind::Nobody);
}

#[test]
fn of_two_who_asked_for_the_same_neither_is_named() {
    let mut pooler = pooler();
    ask(&mut pooler, 1, 1, 7);
    ask(&mut pooler, 2, 1, 7);
    assert_eq!(read(&mut pooler, 1, 7), Behind::Several(vec![1, 2]));
    // What follows in the transaction tells.
    pooler.back_ready(back(1), OPEN, true);
    pooler.front_ready(front(2), NOW, OPEN, 2);
    ask(&mut pooler, 2, 2, 8);
    ask(&mut pooler, 3, 1, 8);
    assert_eq!(read(&mut pooler, 1, 8), Behind::One(2));
    // From then on even a text that all send.
    let common = RequestPrint::Common(0);
    assert_eq!(pooler.back_asked(back(1), NOW, common), Behind::One(2));
    pooler.back_ready(back(1), IDLE, true);
    assert_eq!(pooler.back_asked(back(1), NOW, common), Behind::Nobody);
}

#[test]
fn too_many_are_nobody() {
    let mut pooler = pooler();
    for n in 1..=MAX_TOLD as u64 + 1 {
        ask(&mut pooler, n, 1, 7);
    }
    assert_eq!(read(&mut pooler, 1, 7), Behind::Nobody);
}

#[test]
fn whoever_is_in_a_transaction_begins_none() {
    let mut pooler = pooler();
    ask(&mut pooler, 1, 1, 7);
    assert_eq!(read(&mut pooler, 1, 7), Behind::One(1));
    pooler.back_ready(back(1), OPEN, true);
    pooler.front_ready(front(1), NOW, OPEN, 2);
    ask(&mut pooler, 1, 2, 8);
    ask(&mut pooler, 2, 1, 8);
    assert_eq!(read(&mut pooler, 2, 8), Behind::One(2));
    assert_eq!(read(&mut pooler, 1, 8), Behind::One(1));
}

#[test]
fn what_has_gone_may_still_arrive() {
    let mut pooler = pooler();
    ask(&mut pooler, 1, 1, 7);
    pooler.front_closed(front(1), NOW);
    ask(&mut pooler, 2, 1, 7);
    assert_eq!(read(&mut pooler, 1, 7), Behind::Several(vec![1, 2]));
    let later = BootTime(NOW.0 + DELIVERY_NS);
    pooler.tick(later);
    assert_eq!(pooler.fronts.len(), 1);
    let asked = pooler.back_asked(back(2), later, RequestPrint::Known(7));
    assert_eq!(asked, Behind::One(2));
}

#[test]
fn what_was_not_seen_may_be_anything() {
    let mut pooler = pooler();
    pooler.front_unsure(front(1), NOW, 1);
    ask(&mut pooler, 2, 1, 7);
    assert_eq!(read(&mut pooler, 1, 7), Behind::Several(vec![1, 2]));
    // It alone is no candidate for what nobody asked for.
    assert_eq!(read(&mut pooler, 2, 8), Behind::Nobody);
    // Its next answer settles it.
    pooler.front_ready(front(1), NOW, IDLE, 5);
    assert_eq!(read(&mut pooler, 3, 7), Behind::One(2));

    let mut joined = Pooler::new(NOW, true);
    joined.back_ready(back(1), IDLE, true);
    joined.front_asked(front(1), NOW, 1, RequestPrint::Known(7), 1);
    assert_eq!(read(&mut joined, 1, 7), Behind::Nobody);
    let later = BootTime(NOW.0 + PATIENCE_NS);
    joined.back_ready(back(1), IDLE, true);
    let asked = joined.back_asked(back(1), later, RequestPrint::Known(7));
    assert_eq!(asked, Behind::One(1));
}

#[test]
fn nothing_is_kept_of_what_is_over() {
    let mut pooler = pooler();
    for n in 1..1_000 {
        ask(&mut pooler, n, 1, n % 7);
        ask(&mut pooler, n, 2, n % 5);
        if n % 3 == 0 {
            read(&mut pooler, n % 3, n % 7);
            pooler.front_unsure(front(n), NOW, n);
        }
        if n % 2 == 0 {
            pooler.front_ready(front(n), NOW, IDLE, 3);
        }
        pooler.front_closed(front(n), NOW);
        pooler.back_closed(back(n % 3));
    }
    pooler.tick(BootTime(NOW.0 + PATIENCE_NS + DELIVERY_NS));
    let Pooler { fronts, waiting, wild, gone, backs, .. } = pooler;
    assert_eq!((fronts.len(), waiting.len(), wild.len(), gone.len()), (0, 0, 0, 0));
    assert!(backs.len() <= 4);
}

/// A made-up request: whose, and what it says.
#[derive(Clone, Copy, Debug)]
struct Sent {
    /// `None`: the pooler's own.
    by: Option<u64>,
    print: u64,
}

/// Texts: two for transactions, some that everybody sends, and from 100 on those that nobody repeats.
const BEGIN: u64 = 0;
const COMMIT: u64 = 1;
const SHARED: u64 = 6;
const OWN: u64 = 50;

#[derive(Default)]
struct Client {
    connection: u64,
    sequence: u64,
    /// Sent, and not passed on.
    waiting: VecDeque<u64>,
    /// Passed on, and not answered.
    under_way: usize,
    in_transaction: bool,
    keeps: Option<usize>,
}

#[derive(Default)]
struct Session {
    /// Written by the pooler, and not read.
    inbox: VecDeque<Sent>,
    /// Read, and not answered.
    reading: Option<Sent>,
    /// Answered, and the answer not passed on; with whether a transaction goes on.
    answered: VecDeque<(Sent, bool)>,
    /// The record of an answer that has not been emitted: always before the next read.
    untold: bool,
    in_transaction: bool,
    kept_for: Option<usize>,
}

/// A pooler of clients and sessions; one step at a time, any that can come next.
struct World {
    seed: u64,
    pools_sessions: bool,
    clients: Vec<Client>,
    sessions: Vec<Session>,
    pooler: Pooler<u64>,
    next_connection: u64,
    next_unique: u64,
    unique: (u64, u64),
    named: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut world = Self {
            seed,
            pools_sessions: seed.is_multiple_of(3),
            clients: Vec::new(),
            sessions: (0..3).map(|_| Session::default()).collect(),
            pooler: pooler(),
            next_connection: 0,
            next_unique: 100,
            unique: (0, 0),
            named: 0,
        };
        world.clients = (0..6).map(|_| world.connect()).collect();
        world
    }

    fn connect(&mut self) -> Client {
        self.next_connection += 1;
        Client { connection: self.next_connection, ..Client::default() }
    }

    fn below(&mut self, end: u64) -> u64 {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }

    fn step(&mut self) {
        let client = self.below(self.clients.len() as u64) as usize;
        let session = self.below(self.sessions.len() as u64) as usize;
        match self.below(12) {
            0..3 => self.send(client),
            3..5 => self.pass_on(client),
            5..7 => self.read(session),
            7..9 => self.answer(session),
            9 => self.tell(session),
            10 => self.pass_back(session),
            _ if self.below(20) == 0 => self.leave(client),
            _ => self.pass_back(session),
        }
    }

    fn send(&mut self, n: usize) {
        let print = match self.below(3) {
            0 => self.below(2),
            1 => 2 + self.below(SHARED - 2),
            _ => {
                self.next_unique += 1;
                self.next_unique
            }
        };
        let may_pipeline = self.below(4) == 0;
        let client = &mut self.clients[n];
        if client.waiting.len() + client.under_way > usize::from(may_pipeline) {
            return;
        }
        client.sequence += 1;
        client.waiting.push_back(print);
        let (connection, sequence) = (client.connection, client.sequence);
        ask(&mut self.pooler, connection, sequence, print);
    }

    fn pass_on(&mut self, n: usize) {
        if self.clients[n].waiting.is_empty() {
            return;
        }
        let own = self.below(4) == 0;
        let place = match self.clients[n].keeps {
            Some(place) => place,
            None => {
                let free =
                    |session: &Session| session.kept_for.is_none() && session.inbox.is_empty();
                let Some(place) = self.sessions.iter().position(free) else { return };
                if own {
                    // It makes the session its client's, and waits for that.
                    self.sessions[place].inbox.push_back(Sent { by: None, print: OWN });
                    return;
                }
                place
            }
        };
        let session = &mut self.sessions[place];
        if session.inbox.iter().any(|sent| sent.by.is_none()) {
            return;
        }
        session.kept_for = Some(n);
        let client = &mut self.clients[n];
        client.keeps = Some(place);
        client.under_way += 1;
        let print = client.waiting.pop_front().unwrap();
        session.inbox.push_back(Sent { by: Some(client.connection), print });
    }

    fn read(&mut self, n: usize) {
        self.tell(n);
        let session = &mut self.sessions[n];
        if session.reading.is_some() {
            return;
        }
        let Some(sent) = session.inbox.pop_front() else { return };
        session.reading = Some(sent);
        let behind = read(&mut self.pooler, n as u64 + 1, sent.print);
        match &behind {
            Behind::One(who) => assert_eq!(Some(*who), sent.by, "{sent:?}"),
            Behind::Several(who) => {
                assert!(sent.by.is_some_and(|by| who.contains(&by)), "{sent:?} of {who:?}");
            }
            Behind::Nobody => {}
        }
        let is_named = matches!(behind, Behind::One(_));
        self.named += u64::from(is_named);
        if sent.print >= 100 {
            self.unique.0 += 1;
            self.unique.1 += u64::from(is_named);
        }
    }

    fn answer(&mut self, n: usize) {
        let session = &mut self.sessions[n];
        let Some(sent) = session.reading.take() else { return };
        match sent.print {
            BEGIN => session.in_transaction = true,
            COMMIT => session.in_transaction = false,
            _ => {}
        }
        session.answered.push_back((sent, session.in_transaction));
        session.untold = true;
    }

    fn tell(&mut self, n: usize) {
        let session = &mut self.sessions[n];
        if std::mem::take(&mut session.untold) {
            let status = if session.in_transaction { OPEN } else { IDLE };
            self.pooler.back_ready(back(n as u64 + 1), status, true);
        }
    }

    fn pass_back(&mut self, n: usize) {
        let session = &mut self.sessions[n];
        let Some((sent, in_transaction)) = session.answered.pop_front() else { return };
        let Some(by) = sent.by else { return };
        let Some(place) = self.clients.iter().position(|client| client.connection == by) else {
            return;
        };
        let client = &mut self.clients[place];
        client.under_way -= 1;
        client.in_transaction = in_transaction;
        let unanswered = client.sequence + 1 - (client.waiting.len() + client.under_way) as u64;
        let status = if in_transaction { OPEN } else { IDLE };
        let is_done = client.under_way == 0 && !in_transaction;
        if is_done && !self.pools_sessions {
            client.keeps = None;
            session.kept_for = None;
        }
        self.pooler.front_ready(front(by), NOW, status, unanswered);
    }

    /// A client goes; its session is the next one's when it is done with what is under way.
    fn leave(&mut self, n: usize) {
        if self.clients[n].in_transaction || self.clients[n].under_way > 0 {
            return;
        }
        if let Some(place) = self.clients[n].keeps {
            self.sessions[place].kept_for = None;
            self.sessions[place].inbox.push_back(Sent { by: None, print: OWN });
        }
        self.pooler.front_closed(front(self.clients[n].connection), NOW);
        self.clients[n] = self.connect();
    }
}

#[test]
fn nobody_is_named_who_did_not_send_it() {
    let (mut unique, mut told, mut named) = (0, 0, 0);
    for seed in 0..300 {
        let mut world = World::new(seed);
        (0..4_000).for_each(|_| world.step());
        unique += world.unique.0;
        told += world.unique.1;
        named += world.named;
    }
    assert!(unique > 10_000, "{unique}");
    assert_eq!(told, unique, "what nobody else sends has a sender");
    assert!(named > unique + unique / 5, "{named} of which {unique} are unique");
}
