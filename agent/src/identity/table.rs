//! The table of processes: fed by kernel records, asked who held a socket at a given time.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    path::Path,
    sync::Arc,
};

use super::{
    arguments::Arguments,
    cgroup,
    command::command_line,
    image::{Image, Part},
    lineage::{Ancestor, parents},
    login,
    procfs::{ProcDir, Procfs, ProcfsError, Snapshot, TICK_NS},
    users::{Name, Users},
};
use crate::event::{BootTime, Clock, Process, ProcessEvent};

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
    limits: Limits,
    procfs: Procfs,
    users: Users,
    arguments: Arguments,
    /// The host has version 1 cgroups, so the kernel's version 2 path may say nothing.
    cgroups_v1: bool,
    lives: Vec<Life>,
    free: Vec<usize>,
    /// The newest life of each pid.
    newest: HashMap<u32, usize>,
    /// In the order of their exits.
    exited: VecDeque<usize>,
    live: usize,
    counters: Counters,
}

/// One holder of a pid.
#[derive(Debug)]
struct Life {
    pid: u32,
    /// 0 until a record or a peer tells it.
    key: u64,
    start: BootTime,
    exit: Option<BootTime>,
    /// The pid's holder before.
    older: Option<usize>,
    lineage: Option<Arc<Ancestor>>,
    /// This process as its children's ancestor, made at its first fork after an exec.
    ancestor: Option<Arc<Ancestor>>,
    current: Generation,
    /// What it ran before its last exec, for a connection that it made then.
    previous: Option<Generation>,
    /// From procfs, where the kernel's path says nothing.
    cgroup: Option<Arc<str>>,
}

/// What a process was between two execs.
#[derive(Clone, Debug)]
struct Generation {
    since: BootTime,
    /// Nothing is known of a process whose records were all lost.
    image: Option<Arc<Image>>,
    /// The image is the parent's: there was no exec in this life yet.
    inherited: bool,
    memo: Option<Memo>,
}

#[derive(Clone, Debug)]
struct Memo {
    process: Arc<Process>,
    /// Where a name was not known yet: how many answers the name service had given.
    names_pending: Option<u64>,
}

impl Generation {
    fn new(since: BootTime, image: Option<Arc<Image>>, inherited: bool) -> Generation {
        Generation { since, image, inherited, memo: None }
    }

    fn comm(&self) -> &[u8] {
        self.image.as_ref().map_or(&[], |image| image.part(Part::Comm))
    }
}

impl Life {
    fn starts_in_tick_of(&self, start: BootTime) -> bool {
        self.start.0 / TICK_NS == start.0 / TICK_NS
    }

    /// Whether a record about `(start, key)` is about this life.
    fn is(&self, start: BootTime, key: u64) -> bool {
        self.starts_in_tick_of(start) && (self.key == 0 || key == 0 || self.key == key)
    }

    /// What it ran at a time; `None` if that is no longer known.
    fn generation(&mut self, at: BootTime) -> Option<&mut Generation> {
        [Some(&mut self.current), self.previous.as_mut()]
            .into_iter()
            .flatten()
            .find(|generation| generation.since <= at)
    }
}

impl ProcessTable {
    /// An empty table. Attach the kernel's process probes first, then [`seed`](Self::seed), then
    /// apply what the probes have queued meanwhile: so no process falls between.
    pub fn new(limits: Limits, procfs: Procfs, users: Users) -> ProcessTable {
        ProcessTable {
            limits,
            cgroups_v1: procfs.cgroups_are_v1(),
            procfs,
            users,
            arguments: Arguments::default(),
            lives: Vec::new(),
            free: Vec::new(),
            newest: HashMap::new(),
            exited: VecDeque::new(),
            live: 0,
            counters: Counters::default(),
        }
    }

    pub fn counters(&self) -> Counters {
        Counters { hung_reads: self.arguments.stuck().into(), ..self.counters }
    }

    /// Running and exited processes in the table.
    pub fn len(&self) -> (usize, usize) {
        (self.live, self.exited.len())
    }

    /// Reads all of `/proc`. To be called at the start, and again when process records were lost: it
    /// then adds who is missing and ends who is gone, and keeps what records have told.
    pub fn seed(&mut self, now: BootTime) -> Result<(), ProcfsError> {
        let pids = self.procfs.pids()?;
        let alive: HashSet<u32> = pids.iter().copied().collect();
        let gone: Vec<usize> = self
            .newest
            .values()
            .copied()
            .filter(|&index| {
                self.lives[index].exit.is_none() && !alive.contains(&self.lives[index].pid)
            })
            .collect();
        for index in gone {
            self.end_unseen(index, now);
        }

        let mut found = Vec::new();
        for pid in pids {
            // A process that is gone meanwhile needs no place.
            let Ok(dir) = self.procfs.open(pid) else { continue };
            let Ok(stat) = dir.stat() else { continue };
            if self.current_life(pid).is_none_or(|index| !self.lives[index].is(stat.start(), 0))
                && let Ok(snapshot) = dir.snapshot()
            {
                let args = self.arguments_of(&dir);
                found.push((pid, snapshot, args));
            }
        }
        // Parents are older than their children.
        found.sort_by_key(|(pid, snapshot, _)| (snapshot.start_ticks, *pid));
        for (pid, snapshot, args) in found {
            if let Some(index) = self.current_life(pid) {
                self.end_unseen(index, now);
            }
            let life = self.life_of_snapshot(pid, 0, &snapshot, &args);
            self.insert(life);
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
                if let Some(index) = self.current_life(pid) {
                    let life = &mut self.lives[index];
                    if life.key == 0 || key == 0 || life.key == key {
                        life.key = life.key.max(key);
                        self.end(index, time);
                    } else {
                        self.counters.stale += 1;
                    }
                }
            }
        }
    }

    fn fork(&mut self, time: BootTime, parent: u32, child: u32, start: BootTime, key: u64) {
        let (lineage, image) = match self.current_life(parent) {
            Some(index) => (self.ancestor(index), self.lives[index].current.image.clone()),
            None => (Ancestor::new(parent, BootTime(0), b"", None), None),
        };
        if let Some(index) = self.current_life(child) {
            let life = &mut self.lives[index];
            if life.is(start, key) {
                // Seeded before its record was read. The record knows the true parent.
                life.key = life.key.max(key);
                life.lineage = Some(lineage);
                return;
            }
            if start < life.start {
                self.counters.stale += 1;
                return;
            }
            self.end_unseen(index, time);
        }
        self.insert(Life {
            pid: child,
            key,
            start,
            exit: None,
            older: None,
            lineage: Some(lineage),
            ancestor: None,
            current: Generation::new(start, image, true),
            previous: None,
            cgroup: None,
        });
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
        if let Some(index) = self.current_life(pid) {
            let life = &mut self.lives[index];
            if life.is(start, key) {
                life.key = life.key.max(key);
                life.ancestor = None;
                life.previous = Some(std::mem::replace(&mut life.current, generation));
                return;
            }
            if start < life.start {
                self.counters.stale += 1;
                return;
            }
            self.end_unseen(index, time);
        }
        // The record of its fork was lost.
        let lineage = self.current_life(parent).map(|index| self.ancestor(index));
        self.insert(Life {
            pid,
            key,
            start,
            exit: None,
            older: None,
            lineage,
            ancestor: None,
            current: generation,
            previous: None,
            cgroup: None,
        });
    }

    /// Live children of `pid` that still run what it runs, as far as records told of their birth: the
    /// processes that a server has made for itself.
    pub fn own_children(&self, pid: u32) -> Vec<u32> {
        let Some(parent) = self.current_life(pid).and_then(|index| self.lives.get(index)) else {
            return Vec::new();
        };
        let is_own = |life: &&Life| {
            life.exit.is_none()
                && life.current.inherited
                && life.lineage.as_ref().is_some_and(|nearest| {
                    nearest.pid == pid && parent.starts_in_tick_of(nearest.start)
                })
        };
        self.lives.iter().filter(is_own).map(|life| life.pid).collect()
    }

    /// The process as it was when it connected; `None` if nobody knows. `clock` turns its start into
    /// UTC. Shared: one process that connects a thousand times is described once.
    pub fn resolve(&mut self, peer: Peer, clock: Clock) -> Option<Arc<Process>> {
        let found = match self.find(peer) {
            Some(index) => Some(index),
            None => match self.read_unknown(peer) {
                Some(life) if self.has_room() => self.insert(life),
                Some(mut life) => {
                    // No room: described, and forgotten again.
                    self.counters.refused += 1;
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
        let mut next = self.newest.get(&peer.pid).copied();
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
                    self.end_unseen(index, peer.at);
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
        if let Some(index) = self.current_life(peer.pid) {
            if self.lives[index].starts_in_tick_of(start) || start < self.lives[index].start {
                return None; // the kernel's key says that the peer is another
            }
            self.end_unseen(index, peer.at);
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
        let lineage = match self.current_life(snapshot.parent) {
            Some(index) => Some(self.ancestor(index)),
            None if snapshot.parent != 0 => {
                Some(Ancestor::new(snapshot.parent, BootTime(0), b"", None))
            }
            None => None,
        };
        let current = Generation::new(start, Some(Image::of_snapshot(snapshot, args)), false);
        Life {
            pid,
            key,
            start,
            exit: None,
            older: None,
            lineage,
            ancestor: None,
            current,
            previous: None,
            cgroup: (!snapshot.cgroup.is_empty()).then(|| snapshot.cgroup.as_str().into()),
        }
    }

    /// Makes what people read of one generation of a life.
    fn describe(&mut self, life: &mut Life, peer: Peer, clock: Clock) -> Memo {
        let is_current = life.current.since <= peer.at;
        let (image, inherited) = match life.generation(peer.at) {
            Some(generation) => (generation.image.clone(), generation.inherited),
            None => (None, false),
        };
        let text =
            |part| image.as_ref().map(|image| image.part(part)).filter(|bytes| !bytes.is_empty());

        let exe = text(Part::Exe).filter(|path| is_plain(path));
        let kernel_cgroup = text(Part::Cgroup)
            .filter(|path| !(self.cgroups_v1 && *path == b"/"))
            .map(|path| Arc::from(String::from_utf8_lossy(path)));
        // No record tells what a child that executed nothing has changed since its fork.
        let lacks = inherited || exe.is_none() || kernel_cgroup.is_none();
        let dir = if lacks && is_current { self.open_live(life) } else { None };
        let own = if inherited { dir.as_ref().and_then(|dir| dir.snapshot().ok()) } else { None };
        let read_exe = match (&exe, &dir) {
            (None, Some(dir)) => dir.exe().ok().filter(|path| !path.is_empty()),
            _ => None,
        };
        if let Some(dir) = &dir
            && (inherited || kernel_cgroup.is_none())
            && let Some(cgroup) = dir.cgroup().ok().filter(|cgroup| !cgroup.is_empty())
        {
            life.cgroup = Some(cgroup.into());
        }
        let cgroup = if inherited { life.cgroup.clone().or(kernel_cgroup) } else { kernel_cgroup }
            .or_else(|| life.cgroup.clone())
            .or_else(|| self.ancestors_cgroup(life))
            .or_else(|| text(Part::Cgroup).map(|path| String::from_utf8_lossy(path).into()));

        let image = image.as_ref();
        let uid = peer.uid.or_else(|| match &own {
            Some(own) => own.uid,
            None => image.and_then(|image| image.uid),
        });
        let (login_uid, session) = match &own {
            Some(own) => (own.login_uid, own.session),
            None => (image.and_then(|i| i.login_uid), image.and_then(|i| i.session)),
        };
        let login_uid = login_uid.filter(|uid| *uid != u32::MAX);
        let tty = match &own {
            Some(own) => own.tty.clone(),
            None => tty_name(text(Part::Tty).unwrap_or_default()),
        };

        let mut pending = false;
        let mut name = |uid: Option<u32>| match self.users.name(uid?, peer.at) {
            Name::Known(name) => Some(name),
            Name::Nobody => None,
            Name::Pending => {
                pending = true;
                None
            }
        };
        let (os_user, login_user) = (name(uid), name(login_uid));
        let placement = cgroup.as_deref().map(cgroup::placement).unwrap_or_default();
        // The tick it began in: the same name however the process came to be known.
        let start = BootTime(life.start.0 / TICK_NS * TICK_NS);
        let exe = exe.or(read_exe.as_deref()).or_else(|| text(Part::Exe));
        let process = Process {
            pid: life.pid,
            start,
            process_start: clock.wall(start),
            exe: exe.map(|path| String::from_utf8_lossy(path).into()),
            command: text(Part::Args).and_then(command_line),
            comm: String::from_utf8_lossy(text(Part::Comm).unwrap_or_default()).into(),
            uid,
            os_user,
            login_uid,
            login_user,
            login_strength: login::strength(login_uid, cgroup.as_deref()),
            session: session.filter(|session| *session != u32::MAX),
            tty: (!tty.is_empty()).then(|| tty.into()),
            parents: parents(life.lineage.as_ref()),
            unit: placement.unit.map(Arc::from),
            container: placement.container.map(Arc::from),
            pod: placement.pod.map(Arc::from),
            cgroup,
        };
        let names_pending = pending.then(|| self.users.answers(peer.at));
        Memo { process: Arc::new(process), names_pending }
    }

    /// The process's directory, if this very life is still alive.
    fn open_live(&self, life: &Life) -> Option<ProcDir> {
        if life.exit.is_some() {
            return None;
        }
        let dir = self.procfs.open(life.pid).ok()?;
        dir.stat().ok().filter(|stat| life.is(stat.start(), 0)).map(|_| dir)
    }

    /// The cgroup of the nearest ancestor that has a known one: on a host with version 1 cgroups, the
    /// best that can be said of a process that is gone.
    fn ancestors_cgroup(&mut self, life: &Life) -> Option<Arc<str>> {
        for ancestor in life.lineage.as_ref()?.chain() {
            let index = self
                .newest
                .get(&ancestor.pid)
                .copied()
                .filter(|&index| self.lives[index].starts_in_tick_of(ancestor.start));
            let Some(index) = index else { continue };
            if self.lives[index].cgroup.is_none()
                && let Some(dir) = self.open_live(&self.lives[index])
            {
                let cgroup = dir.cgroup().ok().filter(|cgroup| !cgroup.is_empty());
                self.lives[index].cgroup = cgroup.map(Arc::from);
            }
            if let Some(cgroup) = &self.lives[index].cgroup {
                return Some(cgroup.clone());
            }
        }
        None
    }

    /// A life as the ancestor of its children.
    fn ancestor(&mut self, index: usize) -> Arc<Ancestor> {
        let life = &mut self.lives[index];
        let make =
            || Ancestor::new(life.pid, life.start, life.current.comm(), life.lineage.clone());
        life.ancestor.get_or_insert_with(make).clone()
    }

    /// The pid's holder of now.
    fn current_life(&self, pid: u32) -> Option<usize> {
        self.newest.get(&pid).copied().filter(|&index| self.lives[index].exit.is_none())
    }

    /// Whether this pid has a holder now, as far as is known.
    pub fn is_alive(&self, pid: u32) -> bool {
        self.current_life(pid).is_some()
    }

    fn has_room(&self) -> bool {
        self.live < self.limits.live
    }

    fn insert(&mut self, mut life: Life) -> Option<usize> {
        if !self.has_room() {
            self.counters.refused += 1;
            return None;
        }
        let pid = life.pid;
        life.older = self.newest.get(&pid).copied();
        let index = match self.free.pop() {
            Some(index) => {
                self.lives[index] = life;
                index
            }
            None => {
                self.lives.push(life);
                self.lives.len() - 1
            }
        };
        self.newest.insert(pid, index);
        self.live += 1;
        Some(index)
    }

    fn end_unseen(&mut self, index: usize, time: BootTime) {
        self.counters.missed_exits += 1;
        self.end(index, time);
    }

    fn end(&mut self, index: usize, time: BootTime) {
        self.lives[index].exit = Some(time);
        self.live -= 1;
        self.exited.push_back(index);
        while self.exited.len() > self.limits.exited
            && let Some(oldest) = self.exited.pop_front()
        {
            self.counters.evicted += 1;
            self.forget(oldest);
        }
    }

    /// Takes a life out of its pid's chain, where it is the last: a pid's lives end in their order.
    fn forget(&mut self, index: usize) {
        let life = std::mem::replace(&mut self.lives[index], Life::vacant());
        self.free.push(index);
        let mut next = self.newest.get(&life.pid).copied();
        if next == Some(index) {
            match life.older {
                Some(older) => self.newest.insert(life.pid, older),
                None => self.newest.remove(&life.pid),
            };
            return;
        }
        while let Some(newer) = next {
            next = self.lives[newer].older;
            if next == Some(index) {
                self.lives[newer].older = life.older;
                return;
            }
        }
    }
}

impl Life {
    /// Fills a place that nobody holds.
    fn vacant() -> Life {
        Life {
            pid: 0,
            key: 0,
            start: BootTime(0),
            exit: None,
            older: None,
            lineage: None,
            ancestor: None,
            current: Generation::new(BootTime(0), None, false),
            previous: None,
            cgroup: None,
        }
    }
}

/// Whether a process whose start is known to the tick surely began before `at`.
fn born_before(start: BootTime, at: BootTime) -> bool {
    start.0.saturating_add(TICK_NS) <= at.0
}

/// Whether an executed path names the file by itself: not relative, and not through a descriptor.
fn is_plain(path: &[u8]) -> bool {
    let path = Path::new(std::ffi::OsStr::new(match std::str::from_utf8(path) {
        Ok(path) => path,
        Err(_) => return path.starts_with(b"/"),
    }));
    path.is_absolute()
        && !path.starts_with("/dev/fd")
        && !path.starts_with("/proc")
        && !path.components().any(|part| part == std::path::Component::ParentDir)
}

/// The kernel's `pts3` as the device is called, `pts/3`.
fn tty_name(kernel: &[u8]) -> String {
    let name = String::from_utf8_lossy(kernel);
    match name.strip_prefix("pts") {
        Some(number) if number.starts_with(|c: char| c.is_ascii_digit()) => format!("pts/{number}"),
        _ => name.into_owned(),
    }
}
