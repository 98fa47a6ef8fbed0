//! The table of processes: fed by kernel records, asked who held a socket at a given time.

mod describe;
mod life;
mod lives;
#[cfg(test)]
mod tests;

use std::{collections::HashSet, sync::Arc};

use super::{
    arguments::Arguments,
    image::Image,
    lineage::Ancestor,
    procfs::{ProcDir, Procfs, ProcfsError, Snapshot, TICK_NS},
    users::Users,
};
use crate::event::{BootTime, Clock, Process, ProcessEvent};
use life::{Generation, Life};
use lives::Lives;

/// How many processes are kept.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Running ones. One that doesn't fit is read from procfs each time it is asked for.
    pub live: usize,
    /// Exited ones, kept for connections that are told of late; the oldest goes first.
    pub exited: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { live: 65_536, exited: 16_384 }
    }
}

/// What the table has seen and what it could not do, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub forks: u64,
    pub execs: u64,
    pub exits: u64,
    /// Exited processes forgotten for room.
    pub evicted: u64,
    /// Running processes that did not fit.
    pub refused: u64,
    /// Records that tell of an older life than the table knows.
    pub stale: u64,
    /// Exits that no record told of, found out later.
    pub missed_exits: u64,
    /// Processes that no record told of, read from procfs.
    pub from_procfs: u64,
    /// Questions without an answer.
    pub unresolved: u64,
    /// Command lines whose reading never came back; after a few, no more are read.
    pub hung_reads: u64,
}

/// The process at the other end of a socket, as the kernel names it.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    pub pid: u32,
    /// See [`ProcessEvent`]; 0 if not known.
    pub key: u64,
    /// When it connected. For a connection older than the capture: a time at which the kernel side
    /// saw this very process alive, not merely its socket, which may have outlived it.
    pub at: BootTime,
    /// The uid it had then, if the kernel said: a process may change it without any record.
    pub uid: Option<u32>,
}

/// Every process of the host that is alive or was a moment ago.
///
/// A pid's successive holders are separate lives here, told apart by start time and by the kernel's
/// key. [`apply`](Self::apply) only files raw bytes; what people read is made on
/// [`resolve`](Self::resolve) and then shared by all connections of the process.
#[derive(Debug)]
pub struct ProcessTable {
    procfs: Procfs,
    users: Users,
    arguments: Arguments,
    /// The host has version 1 cgroups, so the kernel's version 2 path may say nothing.
    cgroups_v1: bool,
    lives: Lives,
    counters: Counters,
}

/// Who holds a pid that a record tells of.
enum Holder {
    /// The very life that the record is about.
    Same(usize),
    /// A later one: the record is stale.
    Newer,
    Nobody,
}

impl ProcessTable {
    /// An empty table. Attach the kernel's process probes first, then [`seed`](Self::seed), then
    /// apply what the probes have queued meanwhile: so no process falls between.
    pub fn new(limits: Limits, procfs: Procfs, users: Users) -> ProcessTable {
        ProcessTable {
            cgroups_v1: procfs.cgroups_are_v1(),
            procfs,
            users,
            arguments: Arguments::default(),
            lives: Lives::new(limits),
            counters: Counters::default(),
        }
    }

    pub fn counters(&self) -> Counters {
        Counters {
            evicted: self.lives.evicted,
            refused: self.lives.refused,
            missed_exits: self.lives.missed_exits,
            hung_reads: self.arguments.stuck().into(),
            ..self.counters
        }
    }

    /// Running and exited processes in the table.
    pub fn len(&self) -> (usize, usize) {
        self.lives.len()
    }

    /// Reads all of `/proc`. To be called at the start, and again when process records were lost: it
    /// then adds who is missing and ends who is gone, and keeps what records have told.
    pub fn seed(&mut self, now: BootTime) -> Result<(), ProcfsError> {
        let pids = self.procfs.pids()?;
        let alive: HashSet<u32> = pids.iter().copied().collect();
        let gone = self.lives.running().filter(|(_, life)| !alive.contains(&life.pid));
        let gone: Vec<usize> = gone.map(|(index, _)| index).collect();
        for index in gone {
            self.lives.end_unseen(index, now);
        }

        let mut found = Vec::new();
        for pid in pids {
            // A process that is gone meanwhile needs no place.
            let Ok(dir) = self.procfs.open(pid) else { continue };
            let Ok(stat) = dir.stat() else { continue };
            if self.lives.current(pid).is_none_or(|index| !self.lives[index].is(stat.start(), 0))
                && let Ok(snapshot) = dir.snapshot()
            {
                let args = self.arguments_of(&dir);
                found.push((pid, snapshot, args));
            }
        }
        // Parents are older than their children.
        found.sort_by_key(|(pid, snapshot, _)| (snapshot.start_ticks, *pid));
        for (pid, snapshot, args) in found {
            if let Some(index) = self.lives.current(pid) {
                self.lives.end_unseen(index, now);
            }
            let life = self.life_of_snapshot(pid, 0, &snapshot, &args);
            self.lives.insert(life);
        }
        Ok(())
    }

    /// Files one kernel record. Cheap: a fork copies no text, an exec makes two allocations.
    pub fn apply(&mut self, event: &ProcessEvent<'_>) {
        match *event {
            ProcessEvent::Fork { time, parent, child, start, key } => {
                self.counters.forks += 1;
                self.fork(time, parent, child, start, key);
            }
            ProcessEvent::Exec {
                time,
                pid,
                parent,
                start,
                key,
                uid,
                gid: _,
                login_uid,
                session,
                comm,
                filename,
                args,
                tty,
                cgroup,
                cgroup_id: _,
            } => {
                self.counters.execs += 1;
                let image = Image::new(
                    [Some(uid), login_uid, session],
                    [comm, filename, args, tty, cgroup],
                );
                self.exec(time, pid, parent, start, key, image);
            }
            ProcessEvent::Exit { time, pid, key } => {
                self.counters.exits += 1;
                if let Some(index) = self.lives.current(pid) {
                    let life = &mut self.lives[index];
                    if life.key == 0 || key == 0 || life.key == key {
                        life.key = life.key.max(key);
                        self.lives.end(index, time);
                    } else {
                        self.counters.stale += 1;
                    }
                }
            }
        }
    }

    fn fork(&mut self, time: BootTime, parent: u32, child: u32, start: BootTime, key: u64) {
        let (lineage, image) = match self.lives.current(parent) {
            Some(index) => {
                let life = &mut self.lives[index];
                (life.as_ancestor(), life.current.image.clone())
            }
            None => (Ancestor::new(parent, BootTime(0), None, None), None),
        };
        match self.holder(child, start, key, time) {
            // Seeded before its record was read. The record knows the true parent.
            Holder::Same(index) => self.lives[index].lineage = Some(lineage),
            Holder::Newer => {}
            Holder::Nobody => {
                let current = Generation::new(start, image, true);
                self.lives.insert(Life::new(child, key, start, Some(lineage), current));
            }
        }
    }

    fn exec(
        &mut self,
        time: BootTime,
        pid: u32,
        parent: u32,
        start: BootTime,
        key: u64,
        image: Arc<Image>,
    ) {
        let generation = Generation::new(time, Some(image), false);
        match self.holder(pid, start, key, time) {
            Holder::Same(index) => {
                let life = &mut self.lives[index];
                life.ancestor = None;
                life.previous = Some(std::mem::replace(&mut life.current, generation));
            }
            Holder::Newer => {}
            // The record of its fork was lost.
            Holder::Nobody => {
                let parent = self.lives.current(parent);
                let lineage = parent.map(|index| self.lives[index].as_ancestor());
                self.lives.insert(Life::new(pid, key, start, lineage, generation));
            }
        }
    }

    /// Who holds `pid`, asked by a record of the life `(start, key)`. A holder from before it has ended
    /// unseen.
    fn holder(&mut self, pid: u32, start: BootTime, key: u64, time: BootTime) -> Holder {
        let Some(index) = self.lives.current(pid) else { return Holder::Nobody };
        let life = &mut self.lives[index];
        if life.is(start, key) {
            life.key = life.key.max(key);
            return Holder::Same(index);
        }
        if start < life.start {
            self.counters.stale += 1;
            return Holder::Newer;
        }
        self.lives.end_unseen(index, time);
        Holder::Nobody
    }

    /// Live children of `pid` that still run what it runs, as far as records told of their birth: the
    /// processes that a server has made for itself.
    pub fn own_children(&self, pid: u32) -> Vec<u32> {
        let Some(index) = self.lives.current(pid) else { return Vec::new() };
        let parent = &self.lives[index];
        let is_own = |life: &&Life| {
            life.current.inherited
                && life.lineage.as_ref().is_some_and(|nearest| {
                    nearest.pid == pid && parent.starts_in_tick_of(nearest.start)
                })
        };
        self.lives.running().map(|(_, life)| life).filter(is_own).map(|life| life.pid).collect()
    }

    /// All that run, as far as is known.
    pub fn running(&self) -> impl Iterator<Item = u32> {
        self.lives.running().map(|(_, life)| life.pid)
    }

    /// Whether this pid has a holder now, as far as is known.
    pub fn is_alive(&self, pid: u32) -> bool {
        self.lives.current(pid).is_some()
    }

    /// The process as it was when it connected; `None` if nobody knows. `clock` turns its start into
    /// UTC. Shared: one process that connects a thousand times is described once.
    pub fn resolve(&mut self, peer: Peer, clock: Clock) -> Option<Arc<Process>> {
        let found = match self.find(peer) {
            Some(index) => Some(index),
            None => match self.read_unknown(peer) {
                Some(life) if self.lives.has_room() => self.lives.insert(life),
                Some(mut life) => {
                    // No room: described, and forgotten again.
                    self.lives.refused += 1;
                    return Some(self.describe(&mut life, peer, clock).process);
                }
                None => None,
            },
        };
        let Some(index) = found else {
            self.counters.unresolved += 1;
            return None;
        };
        if let Some(memo) =
            self.lives[index].generation(peer.at).and_then(|generation| generation.memo.as_ref())
            && (peer.uid.is_none() || memo.process.uid == peer.uid)
            && memo.names_pending.is_none_or(|answers| self.users.answers(peer.at) == answers)
        {
            return Some(memo.process.clone());
        }
        // Out of the table while its ancestors are looked up in it.
        let mut life = std::mem::replace(&mut self.lives[index], Life::vacant());
        let memo = self.describe(&mut life, peer, clock);
        let process = memo.process.clone();
        if let Some(generation) = life.generation(peer.at) {
            generation.memo = Some(memo);
        }
        self.lives[index] = life;
        Some(process)
    }

    /// The life that `peer` names.
    fn find(&mut self, peer: Peer) -> Option<usize> {
        let mut next = self.lives.newest(peer.pid);
        while let Some(index) = next {
            let life = &self.lives[index];
            next = life.older;
            if life.start > peer.at {
                continue;
            }
            let keys_known = life.key != 0 && peer.key != 0;
            if keys_known {
                // Its socket may outlive it in a child, so its exit proves nothing.
                if life.key == peer.key {
                    return Some(index);
                }
                continue;
            }
            if life.exit.is_some_and(|exit| exit < peer.at) {
                continue;
            }
            if life.exit.is_none() && peer.key != 0 {
                // First asked for since it was read from procfs: is it still the same?
                let now = self.procfs.open(peer.pid).and_then(|dir| dir.stat());
                if now.is_ok_and(|stat| {
                    !life.is(stat.start(), 0) && born_before(stat.start(), peer.at)
                }) {
                    self.lives.end_unseen(index, peer.at);
                    continue;
                }
                self.lives[index].key = peer.key;
            }
            return Some(index);
        }
        None
    }

    /// Reads a process that no record told of. It is alive now and was born before it connected, so
    /// it held the pid at that time.
    fn read_unknown(&mut self, peer: Peer) -> Option<Life> {
        let dir = self.procfs.open(peer.pid).ok()?;
        let snapshot = dir.snapshot().ok()?;
        let start = BootTime(snapshot.start_ticks.saturating_mul(TICK_NS));
        if !born_before(start, peer.at) {
            return None;
        }
        if let Some(index) = self.lives.current(peer.pid) {
            if self.lives[index].starts_in_tick_of(start) || start < self.lives[index].start {
                return None; // the kernel's key says that the peer is another
            }
            self.lives.end_unseen(index, peer.at);
        }
        self.counters.from_procfs += 1;
        let args = self.arguments_of(&dir);
        Some(self.life_of_snapshot(peer.pid, peer.key, &snapshot, &args))
    }

    fn arguments_of(&mut self, dir: &ProcDir) -> Vec<u8> {
        dir.file("cmdline").map(|file| self.arguments.read(file)).unwrap_or_default()
    }

    fn life_of_snapshot(&mut self, pid: u32, key: u64, snapshot: &Snapshot, args: &[u8]) -> Life {
        let start = BootTime(snapshot.start_ticks.saturating_mul(TICK_NS));
        let lineage = match self.lives.current(snapshot.parent) {
            Some(index) => Some(self.lives[index].as_ancestor()),
            None if snapshot.parent != 0 => {
                Some(Ancestor::new(snapshot.parent, BootTime(0), None, None))
            }
            None => None,
        };
        let current = Generation::new(start, Some(Image::of_snapshot(snapshot, args)), false);
        let cgroup = (!snapshot.cgroup.is_empty()).then(|| snapshot.cgroup.as_str().into());
        Life { cgroup, ..Life::new(pid, key, start, lineage, current) }
    }
}

/// Whether a process whose start is known to the tick surely began before `at`.
fn born_before(start: BootTime, at: BootTime) -> bool {
    start.0.saturating_add(TICK_NS) <= at.0
}
