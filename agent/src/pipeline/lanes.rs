//! Which way each client goes to a server whose lane policy decides: said of every process of this host before it
//! connects, and of whoever was led to the guard because nobody had said it yet.
//!
//! Only what is known before a client has spoken counts, so that it makes no difference who is asked, the kernel
//! side or the guard. Whoever isn't known is led to the guard, and so is whoever is in quarantine, to hear why.

use std::{
    collections::{HashSet, VecDeque},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use super::{profile::Profile, servers::ServerFacts};
use crate::{
    capture::steer::{Passes, SteerError},
    enforce::Quarantine,
    event::{
        BootTime, Client, Clock, ConnectionId, Endpoint, Origin, Process, ProcessEvent, Verdict,
    },
    gate::Gate,
    identity::{Peer, ProcessTable},
    policy::{Judge, Set},
    principal::Rules,
};

/// A child that executes nothing by then stays what it is.
const SETTLED_NS: u64 = 50_000_000;
/// Processes at most that are decided about in one turn of the pipeline.
const MOST_AT_ONCE: usize = 512;
/// Processes that wait for it; those that don't fit are led to the guard.
const MOST_WAITING: usize = 65_536;
/// How long passes count unless somebody says so again.
const LEASE: Duration = Duration::from_secs(5);
/// How often that is said.
const RENEWAL_NS: u64 = 1_000_000_000;
const HOUR_US: i64 = 3_600_000_000;

/// Policy's say in who is guarded.
pub struct Lanes {
    gate: Arc<Gate>,
    quarantine: Arc<Quarantine>,
    /// As it was when the reign began.
    detained: u64,
    /// `None` until there are rules.
    judge: Option<Judge>,
    rules: u64,
    servers: Vec<Rc<ServerFacts>>,
    /// Passes of before count for nothing after the next one has begun.
    reign: u64,
    /// Rules may speak of the hour.
    hour: i64,
    /// The kernel side has heard of this reign.
    is_told: bool,
    waiting: VecDeque<u32>,
    /// Newly born ones, until they are settled.
    young: VecDeque<(BootTime, u32)>,
    /// Who may have a pass.
    known: HashSet<u32>,
    next_renewal: BootTime,
}

/// Of the host, for whoever decides who somebody is.
pub struct Ground<'a> {
    pub host: &'a Origin,
    pub rules: &'a Rules,
    pub clock: Clock,
    pub now: BootTime,
}

impl Lanes {
    pub fn new(gate: Arc<Gate>, quarantine: Arc<Quarantine>) -> Self {
        Self {
            gate,
            detained: quarantine.version(),
            quarantine,
            judge: None,
            rules: 0,
            servers: Vec::new(),
            reign: 0,
            hour: 0,
            is_told: false,
            waiting: VecDeque::new(),
            young: VecDeque::new(),
            known: HashSet::new(),
            next_renewal: BootTime(0),
        }
    }

    /// Whether somebody goes straight to a server, of those that policy decides about.
    pub fn goes_straight(
        &mut self,
        server: &Rc<ServerFacts>,
        client: &Client,
        remote: &Endpoint,
        ground: &Ground<'_>,
    ) -> bool {
        let Some(judge) = &mut self.judge else { return false };
        goes_straight(judge, &self.quarantine, server, client, remote, ground)
    }

    /// A process has been let in by the guard only because nobody had said yet that it needs none.
    pub fn learn(&mut self, server: &ServerFacts, process: &Process) {
        let Some(place) = server.place.and_then(|place| u32::try_from(place).ok()) else { return };
        let (Some(uid), reign) = (process.uid, self.reign) else { return };
        let gate = self.gate.clone();
        let mut passes = gate.passes();
        if let Some(passes) = passes.as_mut().filter(|_| self.is_told) {
            self.known.insert(process.pid);
            complain(passes.give(reign, process.pid, place, uid));
        }
    }

    /// What a process was is over; what it is now will be looked at.
    pub fn process(&mut self, event: &ProcessEvent<'_>) {
        if self.servers.is_empty() {
            return;
        }
        match *event {
            ProcessEvent::Fork { time, child, .. } => {
                self.young.push_back((BootTime(time.0 + SETTLED_NS), child));
            }
            ProcessEvent::Exec { pid, .. } => {
                self.take_back(pid);
                self.waiting.push_back(pid);
            }
            ProcessEvent::Exit { pid, .. } => self.take_back(pid),
        }
        if self.young.len() > MOST_WAITING {
            self.young.pop_front();
        }
        if self.waiting.len() > MOST_WAITING {
            self.waiting.pop_front();
        }
    }

    fn take_back(&mut self, pid: u32) {
        if !self.known.remove(&pid) {
            return;
        }
        if let Some(passes) = &mut *self.gate.passes() {
            for place in self.servers.iter().filter_map(|server| server.place) {
                complain(passes.take_back(pid, place as u32));
            }
        }
    }

    /// Ends of processes, or what they execute, may have been missed: everybody is looked at anew.
    pub fn begin_anew(&mut self) {
        self.is_told = false;
    }

    /// Does what is due. `servers` are those that policy decides about.
    pub fn work(
        &mut self,
        servers: Vec<Rc<ServerFacts>>,
        processes: &mut ProcessTable,
        ground: &Ground<'_>,
    ) {
        if let Some((number, set)) = self.gate.other_rules(self.rules) {
            self.rules = number;
            self.follow(set);
        }
        let is_same = |(a, b): (&Rc<ServerFacts>, &Rc<ServerFacts>)| Rc::ptr_eq(a, b);
        if servers.len() != self.servers.len() || !servers.iter().zip(&self.servers).all(is_same) {
            self.servers = servers;
            self.is_told = false;
        }
        let hour = ground.clock.wall(ground.now).0.div_euclid(HOUR_US);
        if hour != self.hour
            && self.judge.as_ref().is_some_and(|judge| judge.set().speaks_of_time())
        {
            self.is_told = false;
        }
        self.hour = hour;
        let detained = self.quarantine.version();
        self.is_told &= detained == self.detained;
        self.detained = detained;
        let gate = self.gate.clone();
        let mut passes = gate.passes();
        let Some(passes) = &mut *passes else { return };
        if self.servers.is_empty() || self.judge.is_none() {
            return;
        }
        if !self.is_told {
            self.begin_reign(passes, processes, ground.now);
        } else if ground.now >= self.next_renewal {
            self.renew(passes, ground.now);
        }
        self.decide(passes, processes, ground);
    }

    fn follow(&mut self, set: Arc<Set>) {
        match &mut self.judge {
            Some(judge) => judge.replace(set),
            None => self.judge = Some(Judge::new(set)),
        }
        self.is_told = false;
    }

    /// All passes of before are void at once; then everybody is looked at.
    fn begin_reign(&mut self, passes: &mut Passes, processes: &ProcessTable, now: BootTime) {
        self.reign += 1;
        self.renew(passes, now);
        complain(passes.take_all_back());
        self.known.clear();
        self.young.clear();
        self.waiting = processes.running().collect();
        self.is_told = true;
    }

    fn renew(&mut self, passes: &mut Passes, now: BootTime) {
        self.next_renewal = BootTime(now.0 + RENEWAL_NS);
        complain(passes.renew(self.reign, BootTime(now.0 + LEASE.as_nanos() as u64)));
    }

    fn decide(&mut self, passes: &mut Passes, processes: &mut ProcessTable, ground: &Ground<'_>) {
        let Some(judge) = &mut self.judge else { return };
        while let Some((due, pid)) = self.young.front().copied()
            && due <= ground.now
        {
            self.young.pop_front();
            // It may have executed something since, and been decided about then.
            if !self.known.contains(&pid) {
                self.waiting.push_back(pid);
            }
        }
        for _ in 0..MOST_AT_ONCE {
            let Some(pid) = self.waiting.pop_front() else { return };
            if !processes.is_alive(pid) {
                continue;
            }
            let peer = Peer { pid, key: 0, at: ground.now, uid: None };
            let Some(process) = processes.resolve(peer, ground.clock) else { continue };
            // The kernel's own threads connect to nothing.
            let Some(uid) = process.uid.filter(|_| process.exe.is_some()) else { continue };
            let client = Client::Local(process);
            for server in &self.servers {
                let Some(place) = server.place.and_then(|place| u32::try_from(place).ok()) else {
                    continue;
                };
                let nowhere = Endpoint::Unix { path: None };
                if goes_straight(judge, &self.quarantine, server, &client, &nowhere, ground) {
                    self.known.insert(pid);
                    complain(passes.give(self.reign, pid, place, uid));
                }
            }
        }
    }
}

fn goes_straight(
    judge: &mut Judge,
    quarantine: &Quarantine,
    server: &Rc<ServerFacts>,
    client: &Client,
    remote: &Endpoint,
    ground: &Ground<'_>,
) -> bool {
    let remote = match client {
        Client::Remote { .. } => remote.clone(),
        // From which address of this host a process will come is not known before it does.
        Client::Local(_) => Endpoint::Unix { path: None },
        Client::LocalUnknown => return false,
    };
    let (local, id) = (Endpoint::Unix { path: None }, ConnectionId(0));
    let mut profile = Profile::new(id, server.clone(), local, remote, client.clone(), None);
    let origin = profile.origin(ground.host, ground.rules);
    let time = ground.clock.wall(ground.now);
    judge.judge_connect(&origin, time).verdict != Verdict::Guard
        && quarantine.holds(&origin, time).is_none()
}

/// Whoever has no pass is led to the guard, which finds out by itself.
fn complain(outcome: Result<(), SteerError>) {
    if let Err(error) = outcome {
        tracing::warn!(%error, "can't tell the kernel side who goes past the guard");
    }
}
