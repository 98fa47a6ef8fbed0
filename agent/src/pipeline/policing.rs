//! The rules in force: loaded, replaced when their files change, asked about every statement and about every
//! connection that a database opens.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, TryRecvError, channel},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use super::episodes::{Episodes, Occasion};
use crate::{
    config::{self, Settings, UnreadablePolicies},
    event::{
        Entry, Episode, EpisodeAction, Finding, Judgement, Occurrence, OccurrenceKind, Origin,
        Outbound, Record, Severity, Verdict, WallTime,
    },
    gate::Gate,
    policy::{Circumstances, Complaints, Judge, STACK_BYTES, Set, World},
};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(2);
/// How often the episodes are looked through.
const SWEEP: Duration = Duration::from_secs(1);

/// What the recorder asks.
pub struct Policing {
    directory: PathBuf,
    starter_pack: bool,
    world: World,
    judge: Judge,
    episodes: Episodes,
    /// What the files looked like when they were last read.
    seen: Vec<Look>,
    loading: Option<Receiver<Result<Set, Refused>>>,
    /// Goes on as long as the newest files are not taken.
    trouble: Option<Episode>,
    /// Somebody wants them read again.
    wanted: Arc<AtomicBool>,
    next_look: Instant,
    next_sweep: Instant,
    /// What the rows of the agent itself say of this host.
    host: Arc<Origin>,
    /// Judges by the same rules.
    gate: Option<Arc<Gate>>,
}

/// What tells that a file is another one.
type Look = (PathBuf, Option<SystemTime>, u64);

/// Why there is no other set.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("{0}")]
    Unsound(#[from] Complaints),
    #[error(transparent)]
    Unreadable(#[from] UnreadablePolicies),
}

impl Policing {
    /// Loads the configured rules; where they can't be loaded, the starter pack stands alone and the
    /// entries to record tell why.
    ///
    /// # Errors
    /// Where even the starter pack can't be loaded, which would be a mistake in this program.
    pub fn new(
        settings: &Settings,
        host: Arc<Origin>,
        wanted: Arc<AtomicBool>,
        now: WallTime,
        gate: Option<Arc<Gate>>,
    ) -> anyhow::Result<(Self, Vec<Entry>)> {
        let config::Policy { directory, starter_pack, .. } = settings.policy.clone();
        let world = settings.world();
        let seen = look(&directory);
        let mut told = Vec::new();
        let mut trouble = None;
        let loaded = load(&directory, starter_pack, world.clone());
        let judge = match loaded {
            Ok(set) => Judge::new(Arc::new(set)),
            Err(refused) => {
                let refused = refusal(&refused, "only the built-in rules apply", &host, now);
                told.push(Entry::Finding(refused.clone()));
                trouble = Some(refused);
                Judge::new(Arc::new(Set::load(&[], true, world.clone())?))
            }
        };
        told.push(in_force(judge.set(), &host, now));
        let at = Instant::now();
        let policing = Self {
            directory,
            starter_pack,
            world,
            judge,
            episodes: Episodes::default(),
            seen,
            loading: None,
            trouble,
            wanted,
            next_look: at + LOOK,
            next_sweep: at + SWEEP,
            host,
            gate,
        };
        policing.tell_gate();
        Ok((policing, told))
    }

    fn tell_gate(&self) {
        if let Some(gate) = &self.gate {
            gate.policies(self.judge.set());
        }
    }

    /// Judges a statement or a connection that a database opens; gives the episodes that begin with it.
    ///
    /// `denied`: the guard's judgement, where it has let the server have something else.
    pub fn take(
        &mut self,
        entry: &mut Entry,
        denied: Option<Arc<Judgement>>,
        told: &mut Vec<Entry>,
    ) {
        match entry {
            Entry::Statement(record) => self.statement(record, denied, told),
            Entry::Outbound(outbound) => self.outbound(outbound, told),
            Entry::Occurrence(_) | Entry::Finding(_) | Entry::Approval(_) => {}
        }
    }

    fn statement(
        &mut self,
        record: &mut Record,
        denied: Option<Arc<Judgement>>,
        told: &mut Vec<Entry>,
    ) {
        let claims = record.claims.as_ref().map_or(&[][..], |claims| &claims.tags);
        let circumstances =
            Circumstances { time: record.time, rows: record.rows, claims, estimate: None };
        let facts = record.facts.as_ref();
        let judged = self.judge.judge(&record.origin, facts, circumstances);
        let judgement = match denied {
            // By the same rule, but with all that the rules of now have to say.
            Some(denied) if judged.verdict > Verdict::Mask && judged.rule == denied.rule => judged,
            Some(denied) => denied,
            // Masks are made while it is answered.
            None if judged.verdict == Verdict::Mask && !record.masked.is_empty() => judged,
            None => happened(judged),
        };
        let has_findings = !judgement.findings.is_empty();
        record.judgement = Some(judgement);
        if has_findings {
            self.episodes.take(Occasion::of_statement(record), told);
        }
    }

    fn outbound(&mut self, outbound: &mut Outbound, told: &mut Vec<Entry>) {
        let Outbound { origin, destination, time, .. } = outbound;
        let mut judgement = self.judge.judge_outbound(origin, destination, *time);
        // Of the server itself there is no client whose connection could be ended.
        if judgement.verdict == Verdict::Cut && origin.socket.is_none() {
            judgement = Arc::new(Judgement { verdict: Verdict::Flag, ..(*judgement).clone() });
        }
        let has_findings = !judgement.findings.is_empty();
        outbound.judgement = Some(judgement);
        if has_findings {
            self.episodes.take(Occasion::of_outbound(outbound), told);
        }
    }

    /// What is due: episodes that are over, rules that have changed.
    pub fn tick(&mut self, now: WallTime, told: &mut Vec<Entry>) {
        let at = Instant::now();
        if at >= self.next_sweep {
            self.next_sweep = at + SWEEP;
            self.episodes.tick(now, told);
        }
        let is_wanted = self.wanted.swap(false, Ordering::Relaxed);
        if is_wanted || at >= self.next_look {
            self.next_look = at + LOOK;
            let seen = look(&self.directory);
            if is_wanted || seen != self.seen {
                self.seen = seen;
                self.loading = Some(self.load());
            }
        }
        let loaded = self.loading.as_ref().map(Receiver::try_recv);
        match loaded {
            None | Some(Err(TryRecvError::Empty)) => {}
            Some(Ok(loaded)) => {
                self.loading = None;
                self.replace(loaded, now, told);
            }
            Some(Err(TryRecvError::Disconnected)) => self.loading = None,
        }
    }

    /// Reads and validates, which takes a while, apart from those who wait for verdicts.
    fn load(&self) -> Receiver<Result<Set, Refused>> {
        let (done, loading) = channel();
        let (directory, starter_pack) = (self.directory.clone(), self.starter_pack);
        let world = self.world.clone();
        let work = move || {
            // Nobody waits for it any more when the service ends.
            let _ = done.send(load(&directory, starter_pack, world));
        };
        if let Err(error) =
            thread::Builder::new().name("policies".into()).stack_size(STACK_BYTES).spawn(work)
        {
            tracing::error!(%error, "can't start a thread to load policies");
        }
        loading
    }

    /// The last words.
    pub fn end(&mut self, told: &mut Vec<Entry>) {
        self.episodes.end(told);
    }

    /// All of the new rules, or all of the old ones.
    fn replace(&mut self, loaded: Result<Set, Refused>, now: WallTime, told: &mut Vec<Entry>) {
        let set = match loaded {
            Ok(set) => set,
            Err(refused) => {
                let consequence = "the rules of before stay in force";
                let refused = refusal(&refused, consequence, &self.host, now);
                let is_known = |known: &Episode| known.finding == refused.finding;
                if !self.trouble.as_ref().is_some_and(is_known) {
                    told.extend(self.trouble.take().map(|known| over(known, now)));
                    told.push(Entry::Finding(refused.clone()));
                    self.trouble = Some(refused);
                }
                return;
            }
        };
        told.extend(self.trouble.take().map(|known| over(known, now)));
        if set.version() != self.judge.set().version() {
            self.judge.replace(Arc::new(set));
            self.tell_gate();
            told.push(in_force(self.judge.set(), &self.host, now));
        }
    }
}

/// What can become of a statement that has been run already, whatever its rules would have wanted.
fn happened(judged: Arc<Judgement>) -> Arc<Judgement> {
    match judged.verdict {
        Verdict::Mask | Verdict::Hold | Verdict::Ticket | Verdict::Deny => {
            Arc::new(Judgement { verdict: Verdict::Flag, ..Judgement::clone(&judged) })
        }
        Verdict::Allow | Verdict::Flag | Verdict::Guard | Verdict::Cut => judged,
    }
}

fn over(known: Episode, now: WallTime) -> Entry {
    Entry::Finding(Episode { time: now, action: EpisodeAction::Ended, ..known })
}

fn load(directory: &Path, starter_pack: bool, world: World) -> Result<Set, Refused> {
    let sources = config::policy_sources(directory)?;
    Ok(Set::load(&sources, starter_pack, world)?)
}

/// A row that says which rules apply from now on.
fn in_force(set: &Set, host: &Arc<Origin>, now: WallTime) -> Entry {
    let n_rules = set.rules().len();
    let message = format!("{n_rules} rules apply from now on, version {}", set.version());
    tracing::info!("{message}");
    Entry::Occurrence(Occurrence {
        time: now,
        kind: OccurrenceKind::Configuration,
        action: "policies_loaded",
        origin: host.clone(),
        message: Some(message),
        counts: vec![("rules".into(), n_rules as u64)],
    })
}

fn refusal(refused: &Refused, consequence: &str, host: &Arc<Origin>, now: WallTime) -> Episode {
    tracing::error!("the policies are not taken, {consequence}: {refused}");
    // The first complaint says where to begin; `dbwarden policy check` has all of them.
    let first = refused.to_string().lines().next().unwrap_or_default().to_owned();
    Episode {
        time: now,
        began: now,
        action: EpisodeAction::Began,
        finding: Finding {
            rule: "builtin:policies-refused".into(),
            verdict: Verdict::Flag,
            severity: Severity::Critical,
            message: format!("the policies are not taken, {consequence}: {first}").into(),
            dry_run: false,
        },
        origin: host.clone(),
        sequence: 0,
        facts: None,
        destination: None,
        counts: Vec::new(),
    }
}

/// Names, times and sizes of the files; empty where there is no directory.
fn look(directory: &Path) -> Vec<Look> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut files: Vec<Look> = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|end| end == "cedar"))
        .map(|path| {
            let about = std::fs::metadata(&path).ok();
            let changed = about.as_ref().and_then(|about| about.modified().ok());
            (path, changed, about.map_or(0, |about| about.len()))
        })
        .collect();
    files.sort();
    files
}
