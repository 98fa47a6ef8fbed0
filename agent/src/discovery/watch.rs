//! When to look at which process: a pure state machine over process records and the time.

use std::{
    collections::HashMap,
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use super::{
    Refusal, Server, ServerRule,
    inspect::{EXECUTABLES, POOLER},
};
use crate::event::{BootTime, ProcessEvent};

const MS: u64 = 1_000_000;
const FIRST_DELAY_NS: u64 = 10 * MS;
const LONGEST_DELAY_NS: u64 = 1_000 * MS;
/// A process that shows nothing of a server for this long is none; the regular look at everything
/// would still find it.
const PATIENCE_NS: u64 = 60_000 * MS;
/// Looks that one process can bring about before they are due.
const MAX_CALLS: u8 = 16;
const SCAN_EVERY_NS: u64 = 30_000 * MS;
/// Processes waited for, in all and of one uid: nobody can crowd out a server by starting programs
/// called `postgres`.
const MAX_PENDING: usize = 256;
const MAX_PENDING_PER_UID: usize = 32;

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// [`inspect`](super::inspect) this process and tell [`Watcher::looked`].
    At(u32),
    /// [`inspect`](super::inspect) all [`candidates`](super::candidates).
    Everywhere,
}

/// Follows starts and ends of servers.
#[derive(Debug)]
pub struct Watcher {
    /// Executables that rules name.
    executables: Vec<PathBuf>,
    pending: HashMap<u32, Pending>,
    /// Known servers by pid: their start, and when they were last looked at.
    servers: HashMap<u32, (BootTime, BootTime)>,
    next_scan: BootTime,
    refused: u64,
}

#[derive(Debug)]
struct Pending {
    uid: u32,
    since: BootTime,
    due: BootTime,
    delay_ns: u64,
    /// How often it may still call for a look by what it does.
    calls: u8,
}

impl Pending {
    /// It has done what a server does when it is about to be ready: to wait would miss its first clients.
    fn hurry(&mut self, now: BootTime) {
        if let Some(left) = self.calls.checked_sub(1) {
            self.calls = left;
            self.due = self.due.min(now);
            self.delay_ns = FIRST_DELAY_NS;
        }
    }
}

impl Watcher {
    /// Wants a look at everything at once.
    pub fn new(rules: &[ServerRule]) -> Watcher {
        Watcher {
            executables: rules.iter().filter_map(|rule| rule.executable.clone()).collect(),
            pending: HashMap::new(),
            servers: HashMap::new(),
            next_scan: BootTime(0),
            refused: 0,
        }
    }

    /// Takes a process record; returns the pid of a known server that has just ended.
    pub fn take(&mut self, event: &ProcessEvent<'_>) -> Option<u32> {
        match *event {
            ProcessEvent::Exec { time, pid, uid, comm, filename, .. } => {
                self.pending.remove(&pid);
                if self.is_candidate(filename) || is_known_name(comm) {
                    self.wait_for(pid, uid, time);
                }
                // One that was told late is what made it the server that was found.
                let newer = self.servers.get(&pid).is_some_and(|(_, seen)| time > *seen);
                newer.then(|| self.servers.remove(&pid)).flatten().map(|_| pid)
            }
            ProcessEvent::Exit { pid, .. } => {
                self.pending.remove(&pid);
                self.servers.remove(&pid).map(|_| pid)
            }
            ProcessEvent::Fork { time, parent, .. } => {
                // With its sockets open, a postmaster starts its first children.
                if let Some(pending) = self.pending.get_mut(&parent) {
                    pending.hurry(time);
                }
                None
            }
        }
    }

    /// A process listens on a port now.
    pub fn listening(&mut self, pid: u32, time: BootTime) {
        if let Some(pending) = self.pending.get_mut(&pid) {
            pending.hurry(time);
        }
    }

    /// What is due now.
    pub fn due(&mut self, now: BootTime) -> Vec<Look> {
        let mut looks = Vec::new();
        if self.next_scan <= now {
            self.next_scan = BootTime(now.0.saturating_add(SCAN_EVERY_NS));
            looks.push(Look::Everywhere);
        }
        for (pid, pending) in &mut self.pending {
            if pending.due <= now {
                // Until the answer comes, or again if it never does.
                pending.due = BootTime(now.0.saturating_add(LONGEST_DELAY_NS));
                looks.push(Look::At(*pid));
            }
        }
        looks
    }

    /// When something will be due next.
    pub fn next_due(&self) -> BootTime {
        let soonest = self.pending.values().map(|pending| pending.due).min();
        soonest.map_or(self.next_scan, |soonest| soonest.min(self.next_scan))
    }

    /// Takes the answer to [`Look::At`]; returns whether this is a server that was not known.
    pub fn looked(&mut self, pid: u32, answer: Result<&Server, &Refusal>, now: BootTime) -> bool {
        let refusal = match answer {
            Ok(server) => return self.found(server, now),
            Err(refusal) => refusal,
        };
        let Some(pending) = self.pending.get_mut(&pid) else { return false };
        // What has a server's files waits for its sockets as long as it lives.
        let hopeless = matches!(refusal, Refusal::NoData { .. } | Refusal::Hangs)
            && now.0.saturating_sub(pending.since.0) > PATIENCE_NS;
        if refusal.may_change() && !hopeless {
            pending.due = BootTime(now.0.saturating_add(pending.delay_ns));
            pending.delay_ns = (pending.delay_ns * 2).min(LONGEST_DELAY_NS);
        } else {
            self.pending.remove(&pid);
        }
        false
    }

    fn found(&mut self, server: &Server, now: BootTime) -> bool {
        self.pending.remove(&server.pid);
        let before = self.servers.insert(server.pid, (server.start, now));
        before.is_none_or(|(start, _)| start != server.start)
    }

    /// Records were lost: what they told of is looked for at once.
    pub fn look_everywhere(&mut self) {
        self.next_scan = BootTime(0);
    }

    /// Forgets a server that has ended unseen.
    pub fn forget(&mut self, pid: u32) {
        self.servers.remove(&pid);
    }

    /// Processes that called themselves servers while too many did.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    fn is_candidate(&self, filename: &[u8]) -> bool {
        let path = Path::new(OsStr::from_bytes(filename));
        path.file_name().is_some_and(|name| is_known_name(name.as_bytes()))
            || self.executables.iter().any(|executable| executable == path)
    }

    fn wait_for(&mut self, pid: u32, uid: u32, time: BootTime) {
        let of_uid = self.pending.values().filter(|pending| pending.uid == uid).count();
        if self.pending.len() >= MAX_PENDING || of_uid >= MAX_PENDING_PER_UID {
            self.refused += 1;
            return;
        }
        let pending = Pending {
            uid,
            since: time,
            due: BootTime(time.0.saturating_add(FIRST_DELAY_NS)),
            delay_ns: FIRST_DELAY_NS,
            calls: MAX_CALLS,
        };
        self.pending.insert(pid, pending);
    }
}

fn is_known_name(name: &[u8]) -> bool {
    name == POOLER.as_bytes() || EXECUTABLES.iter().any(|known| known.as_bytes() == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> BootTime {
        BootTime(ms * MS)
    }

    fn exec<'a>(ms: u64, pid: u32, uid: u32, filename: &'a str) -> ProcessEvent<'a> {
        ProcessEvent::Exec {
            time: at(ms),
            pid,
            parent: 1,
            start: at(ms),
            key: pid.into(),
            uid,
            gid: uid,
            login_uid: None,
            session: None,
            comm: b"x",
            filename: filename.as_bytes(),
            args: b"",
            tty: b"",
            cgroup: b"",
            cgroup_id: 0,
        }
    }

    /// A watcher that has had its first look at everything, at 0.
    fn watcher() -> Watcher {
        let rule = ServerRule { executable: Some("/opt/fork/bin/db".into()), ..Default::default() };
        let mut watcher = Watcher::new(&[rule]);
        assert_eq!(watcher.next_due(), at(0));
        assert_eq!(watcher.due(at(0)), [Look::Everywhere]);
        assert_eq!(watcher.due(at(0)), []);
        watcher
    }

    #[test]
    fn only_candidates_are_looked_at() {
        for (filename, expected) in [
            ("/usr/lib/postgresql/15/bin/postgres", true),
            ("postgres", true),
            ("/usr/pgsql/bin/postmaster", true),
            ("/usr/sbin/pgbouncer", true),
            ("/opt/fork/bin/db", true),
            ("/other/db", false),
            ("/usr/bin/psql", false),
            ("/usr/bin/postgres_exporter", false),
            ("", false),
        ] {
            let mut watcher = watcher();
            watcher.take(&exec(0, 9, 1, filename));
            let looks: &[Look] = if expected { &[Look::At(9)] } else { &[] };
            assert_eq!(watcher.due(at(10)), looks, "{filename}");
        }
    }

    #[test]
    fn looks_come_later_and_later() {
        let mut watcher = watcher();
        watcher.take(&exec(0, 9, 1, "postgres"));
        let mut looks = Vec::new();
        for _ in 0..10 {
            let now = watcher.next_due();
            assert_eq!(watcher.due(now), [Look::At(9)]);
            looks.push(now.0 / MS);
            watcher.looked(9, Err(&Refusal::NotListening), now);
        }
        assert_eq!(looks, [10, 20, 40, 80, 160, 320, 640, 1280, 2280, 3280]);
        // It exits: nothing but the regular look is left.
        watcher.take(&ProcessEvent::Exit { time: at(3300), pid: 9, key: 9 });
        assert_eq!(watcher.next_due(), at(30_000));
    }

    #[test]
    fn children_and_ports_bring_looks_forward() {
        let mut watcher = watcher();
        watcher.take(&exec(0, 9, 1, "postgres"));
        assert_eq!(watcher.due(at(10)), [Look::At(9)]);
        watcher.looked(9, Err(&Refusal::Starting), at(500));
        let fork = |parent| ProcessEvent::Fork {
            time: at(501),
            parent,
            child: 10,
            start: at(501),
            key: 10,
        };
        watcher.take(&fork(8));
        watcher.listening(8, at(501));
        assert_eq!(watcher.due(at(501)), []);
        for n in 0..MAX_CALLS + 1 {
            if n % 2 == 0 {
                watcher.take(&fork(9));
            } else {
                watcher.listening(9, at(501));
            }
            let looks: &[Look] = if n < MAX_CALLS { &[Look::At(9)] } else { &[] };
            assert_eq!(watcher.due(at(501)), looks, "{n}");
        }
    }

    #[test]
    fn patience_ends_where_nothing_of_a_server_is_seen() {
        let no_data =
            || Refusal::NoData { directory: "/".into(), file: "PG_VERSION", source: None };
        let other = Refusal::OtherProgram("/bin/sleep".into());
        let child = Refusal::NotPostmaster { postmaster: 1 };
        for (refusal, now, waits) in [
            (&other, at(10), false),
            (&child, at(10), false),
            (&Refusal::Starting, at(10), true),
            (&no_data(), at(10), true),
            (&no_data(), at(60_001), false),
            (&Refusal::NotListening, at(60_001), true),
        ] {
            let mut watcher = watcher();
            watcher.take(&exec(0, 9, 1, "postgres"));
            assert!(!watcher.looked(9, Err(refusal), now));
            assert_eq!(watcher.pending.contains_key(&9), waits, "{refusal}");
        }
    }

    #[test]
    fn nobody_crowds_out_a_server() {
        let mut watcher = watcher();
        for pid in 100..1100 {
            watcher.take(&exec(0, pid, 1000, "postgres"));
        }
        watcher.take(&exec(0, 9, 101, "postgres"));
        let looks = watcher.due(at(10));
        assert_eq!(looks.len(), MAX_PENDING_PER_UID + 1);
        assert!(looks.contains(&Look::At(9)));
        assert_eq!(watcher.refused(), 1000 - MAX_PENDING_PER_UID as u64);
        for uid in 0..1000 {
            watcher.take(&exec(0, 10_000 + uid, uid, "postgres"));
        }
        assert_eq!(watcher.pending.len(), MAX_PENDING);
    }
}
