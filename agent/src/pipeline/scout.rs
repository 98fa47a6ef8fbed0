//! Looks at processes that may be database servers, on threads that may hang: procfs of strangers can.

use std::{
    collections::{HashSet, VecDeque},
    fs::File,
    sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel},
    thread,
    time::{Duration, Instant},
};

use crate::{
    discovery::{self, LibraryError, Refusal, Residents, Server, ServerRule, TlsLibrary},
    identity::{Procfs, ProcfsError},
};

/// Looks that wait for their turn; what does not fit comes up again by itself.
const MAX_QUEUE: usize = 16_384;
/// A look at a process whose files are there takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(2);
/// Looks that may hang at a time, in all and at processes of one uid: nobody can keep the scout from
/// looking at others.
const MAX_STUCK: usize = 64;
const MAX_STUCK_PER_UID: usize = 2;

/// What to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Request {
    /// Which processes may be servers.
    Candidates,
    /// Whether this is one.
    Server(u32),
    /// Whether it is one, and which processes are its own.
    ServerWithProcesses(u32),
    /// All that, and which connections it had before it was watched.
    ServerWithResidents(u32),
}

/// A server with its TLS libraries opened, so that the very inodes which it uses are probed.
pub struct Found {
    pub server: Server,
    pub libraries: Vec<(TlsLibrary, Result<File, LibraryError>)>,
    pub residents: Option<Residents>,
}

pub enum Answer {
    Server(u32, Result<Box<Found>, Refusal>),
    Candidates(Result<Vec<u32>, ProcfsError>),
}

/// One look at a time, in order. A thread that does not come back is given up and replaced.
pub struct Scout {
    procfs: Procfs,
    rules: Vec<ServerRule>,
    queue: VecDeque<Request>,
    queued: HashSet<Request>,
    worker: Option<Worker>,
    running: Option<(Request, Instant)>,
    stuck: Vec<Stuck>,
}

struct Worker {
    requests: SyncSender<Request>,
    answers: Receiver<Answer>,
}

struct Stuck {
    pid: u32,
    uid: Option<u32>,
    /// Tells when the thread comes back after all; it then ends by itself.
    answers: Receiver<Answer>,
}

impl Scout {
    pub fn new(procfs: Procfs, rules: Vec<ServerRule>) -> Self {
        Self {
            procfs,
            rules,
            queue: VecDeque::new(),
            queued: HashSet::new(),
            worker: None,
            running: None,
            stuck: Vec::new(),
        }
    }

    /// Asks for a look, unless the same one waits already.
    pub fn look(&mut self, request: Request) {
        if self.queue.len() < MAX_QUEUE && self.queued.insert(request) {
            self.queue.push_back(request);
        }
    }

    /// Likewise, before all others.
    pub fn look_next(&mut self, request: Request) {
        if self.queued.insert(request) {
            self.queue.push_front(request);
        }
    }

    /// Spares the looks that wait for these: they are a server's own processes.
    pub fn spare(&mut self, pids: &[u32]) {
        for request in pids.iter().map(|pid| Request::Server(*pid)) {
            self.queued.remove(&request);
        }
        self.queue.retain(|request| self.queued.contains(request));
    }

    /// Whether an answer is still to come.
    pub fn is_looking(&self) -> bool {
        self.running.is_some() || !self.queue.is_empty()
    }

    /// An answer that has come.
    pub fn answer(&mut self) -> Option<Answer> {
        self.next(Duration::ZERO)
    }

    /// The next answer, for as long as one is to come.
    pub fn wait(&mut self) -> Option<Answer> {
        while self.is_looking() {
            if let Some(answer) = self.next(PATIENCE) {
                return Some(answer);
            }
        }
        None
    }

    fn next(&mut self, patience: Duration) -> Option<Answer> {
        if let Some(refused) = self.start() {
            return Some(refused);
        }
        let (request, since) = self.running?;
        let worker = self.worker.as_ref()?;
        match worker.answers.recv_timeout(patience) {
            Ok(answer) => {
                self.running = None;
                Some(answer)
            }
            Err(RecvTimeoutError::Timeout) if since.elapsed() < PATIENCE => None,
            Err(_) => Some(self.give_up(request)),
        }
    }

    /// Hands the next request to the worker; the answer, if there can be none.
    fn start(&mut self) -> Option<Answer> {
        if self.running.is_some() {
            return None;
        }
        let request = self.queue.pop_front()?;
        self.queued.remove(&request);
        let hangs = |stuck: &Stuck| matches!(stuck.answers.try_recv(), Err(TryRecvError::Empty));
        self.stuck.retain(hangs);
        if let Some(pid) = request.pid()
            && self.would_hang(pid)
        {
            return Some(Answer::Server(pid, Err(Refusal::Hangs)));
        }
        let worker = match self.worker.take() {
            Some(worker) => Some(worker),
            None => Worker::start(self.procfs.clone(), self.rules.clone()),
        };
        // Without a thread, the regular look at everything tries again.
        let worker = worker.filter(|worker| worker.requests.send(request).is_ok())?;
        self.worker = Some(worker);
        self.running = Some((request, Instant::now()));
        None
    }

    fn would_hang(&self, pid: u32) -> bool {
        if self.stuck.is_empty() {
            return false;
        }
        let uid = self.uid_of(pid);
        let of_uid = self.stuck.iter().filter(|stuck| stuck.uid == uid).count();
        self.stuck.len() >= MAX_STUCK
            || of_uid >= MAX_STUCK_PER_UID
            || self.stuck.iter().any(|stuck| stuck.pid == pid)
    }

    fn uid_of(&self, pid: u32) -> Option<u32> {
        self.procfs.open(pid).and_then(|process| process.status()).ok()?.uid
    }

    fn give_up(&mut self, request: Request) -> Answer {
        self.running = None;
        let worker = self.worker.take();
        let Some(pid) = request.pid() else {
            // It touches nothing that hangs, so it ended: the next look starts another.
            return Answer::Candidates(Ok(Vec::new()));
        };
        tracing::warn!(pid, "a look at this process hangs; it is left alone until it answers");
        if let Some(worker) = worker {
            let uid = self.uid_of(pid);
            self.stuck.push(Stuck { pid, uid, answers: worker.answers });
        }
        Answer::Server(pid, Err(Refusal::Hangs))
    }
}

impl Request {
    fn pid(self) -> Option<u32> {
        match self {
            Request::Candidates => None,
            Request::Server(pid)
            | Request::ServerWithProcesses(pid)
            | Request::ServerWithResidents(pid) => Some(pid),
        }
    }
}

impl Worker {
    fn start(procfs: Procfs, rules: Vec<ServerRule>) -> Option<Worker> {
        let (requests, asked) = sync_channel::<Request>(1);
        let (answer, answers) = sync_channel(1);
        let spawned = thread::Builder::new().name("discovery".into()).spawn(move || {
            for request in asked {
                if answer.send(look(&procfs, &rules, request)).is_err() {
                    return;
                }
            }
        });
        match spawned {
            Ok(_) => Some(Worker { requests, answers }),
            Err(error) => {
                tracing::warn!(%error, "can't start the discovery thread");
                None
            }
        }
    }
}

fn look(procfs: &Procfs, rules: &[ServerRule], request: Request) -> Answer {
    let (pid, with_processes, with_residents) = match request {
        Request::Candidates => return Answer::Candidates(discovery::candidates(procfs, rules)),
        Request::Server(pid) => (pid, false, false),
        Request::ServerWithProcesses(pid) => (pid, true, false),
        Request::ServerWithResidents(pid) => (pid, true, true),
    };
    let found = discovery::inspect(procfs, pid, rules).map(|mut server| {
        let libraries =
            server.tls.iter().map(|library| (library.clone(), library.open(procfs))).collect();
        if with_processes {
            server.descendants = discovery::descendants(procfs, pid).unwrap_or_default();
        }
        let residents = with_residents
            .then(|| discovery::residents(procfs, &server, super::now).ok())
            .flatten();
        Box::new(Found { server, libraries, residents })
    });
    Answer::Server(pid, found)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink, path::Path};

    use nix::{sys::stat::Mode, unistd::mkfifo};

    use super::*;

    /// A process in a made-up procfs. To read one that hangs waits for ever.
    fn process(root: &Path, pid: u32, uid: u32, hangs: bool) {
        let folder = root.join(pid.to_string());
        fs::create_dir(&folder).unwrap();
        symlink("/x/postgres", folder.join("exe")).unwrap();
        fs::write(folder.join("status"), format!("Uid:\t{uid}\n")).unwrap();
        if hangs {
            mkfifo(&folder.join("stat"), Mode::S_IRUSR).unwrap();
        }
    }

    #[test]
    fn who_hangs_the_scout_hangs_alone() {
        let root = tempfile::tempdir().unwrap();
        for pid in 1..=3 {
            process(root.path(), pid, 1000, true);
        }
        process(root.path(), 4, 1000, false);
        process(root.path(), 5, 1001, false);
        let mut scout = Scout::new(Procfs::at(root.path()), Vec::new());
        for pid in 1..=5 {
            scout.look(Request::Server(pid));
        }
        scout.look(Request::Candidates);
        let mut answers = Vec::new();
        while let Some(answer) = scout.wait() {
            answers.push(match answer {
                Answer::Server(pid, Err(Refusal::Hangs)) => format!("{pid} hangs"),
                Answer::Server(pid, Err(_)) => format!("{pid} is none"),
                Answer::Server(pid, Ok(_)) => format!("{pid} is one"),
                Answer::Candidates(pids) => {
                    let mut pids = pids.unwrap();
                    pids.sort_unstable();
                    format!("{pids:?}")
                }
            });
        }
        // After two of a user's, no other of his is tried.
        let expected = ["1 hangs", "2 hangs", "3 hangs", "4 hangs", "5 is none", "[1, 2, 3, 4, 5]"];
        assert_eq!(answers, expected);
    }
}
