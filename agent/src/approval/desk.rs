//! The registry as the service's threads share it: the gate asks, people decide, the recorder takes the rows.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    io,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use tokio::sync::broadcast;

use super::{
    Answer, Ask, Over,
    journal::Journal,
    registry::{Decision, Limits, Outcome, Ran, Registry, Request, Undecided},
    shown::{Shown, Step, may_see},
};
use crate::event::{
    ConnectionId, Entry, Finding, Judgement, Origin, Record, Severity, Verdict, WallTime,
};

/// For the recorder, which comes by ten times a second.
const MAX_ROWS: usize = 10_000;
/// Steps that somebody who watches may be behind by.
const MAX_BEHIND: usize = 256;
/// Connections, and statements of one, whose ends have not been seen yet.
const MAX_CONNECTIONS: usize = 10_000;
const MAX_PASSED: usize = 64;
/// Between the clock of the rows and the clock of the gate.
const SLACK_US: i64 = 5_000;

pub struct Desk {
    shared: Mutex<Shared>,
    /// Rows that nobody took.
    lost: AtomicU64,
    /// Connections with statements whose ends are yet to be seen.
    n_expected: AtomicUsize,
    steps: broadcast::Sender<Arc<Step>>,
    /// Answers wait.
    wake: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

/// Requests that are open, by what their rules want.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NOpen {
    pub hold: u64,
    pub ticket: u64,
}

struct Shared {
    registry: Registry,
    journal: Journal,
    rows: Vec<Entry>,
    answers: Vec<(u64, Answer)>,
    passed: HashMap<ConnectionId, VecDeque<Passed>>,
}

/// A statement on its way to the server.
struct Passed {
    id: Arc<str>,
    text: Arc<str>,
    at: WallTime,
    verdict: Verdict,
    rule: Arc<str>,
    message: Arc<str>,
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Desk").finish_non_exhaustive()
    }
}

impl Desk {
    /// One that keeps nothing on disk.
    pub fn new(limits: Limits) -> Self {
        let shared = Shared {
            registry: Registry::new(limits),
            journal: Journal::nowhere(),
            rows: Vec::new(),
            answers: Vec::new(),
            passed: HashMap::new(),
        };
        Self {
            shared: Mutex::new(shared),
            lost: AtomicU64::new(0),
            n_expected: AtomicUsize::new(0),
            steps: broadcast::Sender::new(MAX_BEHIND),
            wake: OnceLock::new(),
        }
    }

    /// What was open when the service ended last is denied now.
    ///
    /// # Errors
    /// The file can't be read or replaced.
    pub fn open(limits: Limits, journal: &Path, host: &Origin, now: WallTime) -> io::Result<Self> {
        let desk = Self::new(limits);
        let (journal, rows) = Journal::open(journal, host, now)?;
        {
            let mut shared = desk.lock();
            (shared.journal, shared.rows) = (journal, rows);
        }
        Ok(desk)
    }

    /// To be called whenever there are answers.
    pub fn when_answered(&self, wake: impl Fn() + Send + Sync + 'static) {
        // A second gate would be a mistake in this program.
        let _ = self.wake.set(Box::new(wake));
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn policies(&self, version: &Arc<str>, now: WallTime) {
        self.change(|shared| shared.registry.policies(version, now));
    }

    /// A statement of the guard's; `base` is who its client is as far as the host knows.
    pub fn ask(&self, ask: Ask, base: &Origin, chance: u64, now: WallTime) {
        let who = &ask.binding.principal;
        let known = |text: &Option<String>| text.as_deref().map(Into::into);
        let origin = Arc::new(Origin {
            principal: Some(who.name.as_str().into()),
            principal_kind: Some(who.kind),
            principal_rule: known(&ask.principal_rule),
            initiator: known(&who.initiator),
            application: known(&ask.application),
            ..base.clone()
        });
        let connection = ask.connection;
        self.change(|shared| {
            let outcome = shared.registry.ask(ask, origin, chance, now);
            let passes = outcome.answers.iter().filter_map(|(_, answer)| match answer {
                Answer::Pass { id } => Some(id),
                _ => None,
            });
            for id in passes {
                if let Some(request) = shared.registry.request(id) {
                    let passed = Passed::new(request, now);
                    shared.expect(connection, passed);
                    self.n_expected.store(shared.passed.len(), Ordering::Release);
                }
            }
            outcome
        });
    }

    /// A session doesn't wait any more.
    pub fn over(&self, number: u64, why: Over, now: WallTime) {
        self.change(|shared| shared.registry.over(number, why, now));
    }

    /// The guard or the service ends.
    pub fn end(&self, why: &str, now: WallTime) {
        self.change(|shared| {
            let mut outcome = shared.registry.end(why, now);
            // Nobody is there to be answered.
            outcome.answers.clear();
            outcome
        });
    }

    pub fn tick(&self, now: WallTime) {
        let is_due = self.lock().registry.next_expiry().is_some_and(|due| due <= now);
        if is_due {
            self.change(|shared| shared.registry.tick(now));
        }
    }

    /// Somebody decides.
    pub fn decide(
        &self,
        decision: &Decision,
        approver: &Arc<Origin>,
        now: WallTime,
    ) -> Result<Shown, Undecided> {
        let mut decided = None;
        self.change(|shared| {
            let (outcome, request) = shared.registry.decide(decision, approver, now);
            decided = Some(request.map(|request| {
                let sees = may_see(&request, approver, shared.registry.break_glass());
                Shown::of(&request, sees)
            }));
            outcome
        });
        decided.unwrap_or_else(|| Err(Undecided::NoSuch(decision.id.clone())))
    }

    /// Those that are open, or all that are known; newest last. Whoever may decide sees the statement.
    pub fn list(&self, reader: &Origin, all: bool) -> Vec<Shown> {
        let shared = self.lock();
        let glass = shared.registry.break_glass();
        let wanted = shared.registry.requests().filter(|request| all || !request.state.is_over());
        wanted.map(|one| Shown::of(one, may_see(one, reader, glass))).collect()
    }

    /// How many are open; of a server that has had some lately also that none is.
    pub fn n_open(&self) -> BTreeMap<Arc<str>, NOpen> {
        let mut servers: BTreeMap<Arc<str>, NOpen> = BTreeMap::new();
        for request in self.lock().registry.requests() {
            let server = request.binding.server.as_str();
            let n = match servers.get_mut(server) {
                Some(n) => n,
                None => servers.entry(server.into()).or_default(),
            };
            match request.verdict {
                _ if request.state.is_over() => {}
                Verdict::Hold => n.hold += 1,
                _ => n.ticket += 1,
            }
        }
        servers
    }

    pub fn show(&self, id: &str, reader: &Origin) -> Option<Shown> {
        let shared = self.lock();
        let glass = shared.registry.break_glass();
        shared.registry.request(id).map(|one| Shown::of(one, may_see(one, reader, glass)))
    }

    /// Each step from now on.
    pub fn steps(&self) -> broadcast::Receiver<Arc<Step>> {
        self.steps.subscribe()
    }

    pub fn take_answers(&self) -> Vec<(u64, Answer)> {
        std::mem::take(&mut self.lock().answers)
    }

    /// With them, how many there was no room for.
    pub fn take_rows(&self) -> (Vec<Entry>, u64) {
        let rows = std::mem::take(&mut self.lock().rows);
        (rows, self.lost.swap(0, Ordering::Relaxed))
    }

    /// The approval that has let a statement pass which the server has got; how it has ended becomes known with it.
    pub fn ran(&self, record: &Record, now: WallTime) -> Option<(Arc<str>, Arc<Judgement>)> {
        // Asked for each statement that comes through the guard.
        if self.n_expected.load(Ordering::Acquire) == 0 {
            return None;
        }
        let connection = record.origin.connection?;
        let passed = {
            let mut shared = self.lock();
            let waiting = shared.passed.get_mut(&connection)?;
            let at = waiting.iter().position(|passed| passed.is(record))?;
            let passed = waiting.remove(at)?;
            if waiting.is_empty() {
                shared.passed.remove(&connection);
            }
            self.n_expected.store(shared.passed.len(), Ordering::Release);
            passed
        };
        let ran = Ran {
            rows: record.rows,
            duration_us: record.duration_us,
            error_code: record.error_code.clone(),
        };
        self.change(|shared| shared.registry.ran(&passed.id, &record.origin, ran, now));
        let Passed { id, verdict, rule, message, .. } = passed;
        let finding = Finding {
            rule: rule.clone(),
            verdict,
            severity: Severity::Low,
            message,
            dry_run: false,
        };
        let judgement = Judgement { verdict, rule: Some(rule), findings: vec![finding] };
        Some((id, Arc::new(judgement)))
    }

    fn change(&self, change: impl FnOnce(&mut Shared) -> Outcome) {
        let mut shared = self.lock();
        let Outcome { rows, answers } = change(&mut shared);
        for row in &rows {
            if let Entry::Approval(row) = row {
                // Without anybody who watches nobody misses it.
                let _ = self.steps.send(Arc::new(Step::of(row)));
            }
        }
        let fits = MAX_ROWS.saturating_sub(shared.rows.len());
        self.lost.fetch_add(rows.len().saturating_sub(fits) as u64, Ordering::Relaxed);
        shared.rows.extend(rows.into_iter().take(fits));
        let is_answered = !answers.is_empty();
        shared.answers.extend(answers);
        let Shared { registry, journal, .. } = &mut *shared;
        if let Err(error) = journal.keep(registry.pending()) {
            tracing::error!(%error, "the list of open approvals can't be written");
        }
        drop(shared);
        if let Some(wake) = self.wake.get().filter(|_| is_answered) {
            wake();
        }
    }
}

impl Shared {
    fn expect(&mut self, connection: ConnectionId, passed: Passed) {
        if self.passed.len() >= MAX_CONNECTIONS {
            // Their ends were never seen.
            self.passed.clear();
        }
        let waiting = self.passed.entry(connection).or_default();
        if waiting.len() >= MAX_PASSED {
            waiting.pop_front();
        }
        waiting.push_back(passed);
    }
}

impl Passed {
    fn new(request: &Request, now: WallTime) -> Self {
        let first = request.needs.first();
        Self {
            id: request.id.clone(),
            text: request.binding.text.as_str().into(),
            at: WallTime(now.0 - SLACK_US),
            verdict: request.verdict,
            rule: first.map_or_else(|| "?".into(), |need| need.rule.clone()),
            message: first.map_or_else(|| "".into(), |need| need.message.clone()),
        }
    }

    /// A call by number has no text.
    fn is(&self, record: &Record) -> bool {
        let is_text = match record.text.as_deref() {
            Some(text) if record.truncated_bytes > 0 => self.text.starts_with(text),
            Some(text) => *self.text == *text,
            None => true,
        };
        is_text && record.time >= self.at
    }
}
