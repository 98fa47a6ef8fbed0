//! The requests of this host: asked, decided, used once, over.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use super::{
    Answer, Ask, Binding, Difference, Need, Over,
    standing::{self, Right, Unfit},
};
use crate::event::{
    Approval, ApprovalAction, Entry, Episode, EpisodeAction, Facts, Finding, Origin, Severity,
    Verdict, WallTime,
};

/// Open requests, of all clients and of one principal.
const MAX_OPEN: usize = 1_000;
const MAX_OPEN_OF_ONE: usize = 50;
/// Those that are over are kept to tell why one of them is good for nothing any more.
const MAX_OVER: usize = 500;
/// Of all texts and values.
const MAX_BYTES: usize = 16 << 20;
/// An approval in an emergency is used soon, or not at all.
const BREAK_GLASS: Duration = Duration::from_secs(5 * 60);
const REASON_BYTES: usize = 500;
/// What a row says about a break-glass approval, as a finding.
pub(super) const BREAK_GLASS_RULE: &str = "builtin:break-glass";

/// What the configuration says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// For a decision about a ticket, and after it for its use.
    pub ttl: Duration,
    /// A held statement waits no longer.
    pub hold: Duration,
    /// A group.
    pub break_glass: Option<String>,
}

impl Default for Limits {
    fn default() -> Self {
        let (ttl, hold) = (Duration::from_secs(15 * 60), Duration::from_secs(2 * 60));
        Self { ttl, hold, break_glass: None }
    }
}

pub struct Registry {
    limits: Limits,
    /// Version of the policies in force.
    policy: Arc<str>,
    /// In the order of their coming.
    requests: BTreeMap<u64, Request>,
    next: u64,
    bytes: usize,
}

/// One of them.
#[derive(Clone, Debug)]
pub struct Request {
    pub id: Arc<str>,
    /// The session's number in the guard.
    pub number: u64,
    pub origin: Arc<Origin>,
    pub verdict: Verdict,
    pub needs: Vec<Need>,
    pub binding: Binding,
    /// The text without secrets.
    pub shown: Arc<str>,
    pub facts: Arc<Facts>,
    pub behind: Vec<String>,
    pub estimated_rows: Option<u64>,
    pub estimated_percent: Option<u8>,
    pub asked: WallTime,
    pub expires: WallTime,
    pub state: State,
    pub decisions: Vec<Decided>,
    pub ran: Option<Ran>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    Open,
    Approved,
    Used,
    Denied(String),
    Expired,
}

impl State {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Approved => "approved",
            Self::Used => "used",
            Self::Denied(_) => "denied",
            Self::Expired => "expired",
        }
    }

    pub fn is_over(&self) -> bool {
        !matches!(self, Self::Open | Self::Approved)
    }
}

/// Who has decided, how and why.
#[derive(Clone, Debug)]
pub struct Decided {
    pub time: WallTime,
    pub origin: Arc<Origin>,
    pub is_approval: bool,
    pub is_break_glass: bool,
    pub reason: Option<String>,
}

/// What somebody wants to decide.
#[derive(Clone, Debug, Default)]
pub struct Decision {
    pub id: String,
    pub is_approval: bool,
    pub is_break_glass: bool,
    pub reason: Option<String>,
}

/// How a statement that was let pass has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    pub rows: Option<u64>,
    pub duration_us: Option<u64>,
    pub error_code: Option<String>,
}

/// Why nothing was decided.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Undecided {
    #[error("there is no request {0}")]
    NoSuch(String),
    #[error("{0} is {1} already")]
    Over(String, &'static str),
    #[error("the policies have changed since: the statement has to be sent again")]
    PoliciesChanged,
    #[error("{0} has approved it already: somebody else has to as well")]
    Twice(String),
    #[error("a reason has at most {REASON_BYTES} bytes, and no control characters")]
    Reason,
    #[error(transparent)]
    Unfit(#[from] Unfit),
}

/// What follows from something.
#[derive(Debug, Default)]
pub struct Outcome {
    pub rows: Vec<Entry>,
    /// By the number of the session.
    pub answers: Vec<(u64, Answer)>,
}

impl Registry {
    pub fn new(limits: Limits) -> Self {
        Self { limits, policy: "".into(), requests: BTreeMap::new(), next: 0, bytes: 0 }
    }

    /// By which group somebody may approve in an emergency.
    pub fn break_glass(&self) -> Option<&str> {
        self.limits.break_glass.as_deref()
    }

    /// Newest last.
    pub fn requests(&self) -> impl DoubleEndedIterator<Item = &Request> {
        self.requests.values()
    }

    /// Those that are not over.
    pub fn pending(&self) -> impl Iterator<Item = &Request> {
        self.requests().filter(|request| !request.state.is_over())
    }

    pub fn request(&self, id: &str) -> Option<&Request> {
        self.requests.values().find(|request| *request.id == *id)
    }

    /// Other policies are in force: nothing that was asked under those of before is good for anything.
    pub fn policies(&mut self, version: &Arc<str>, now: WallTime) -> Outcome {
        if *version == self.policy {
            return Outcome::default();
        }
        self.policy = version.clone();
        let version = version.to_string();
        self.deny_all(|request| request.binding.policy != version, "the policies have changed", now)
    }

    /// A statement wants to pass; `chance` makes its name, should it need one.
    pub fn ask(&mut self, ask: Ask, origin: Arc<Origin>, chance: u64, now: WallTime) -> Outcome {
        let mut outcome = self.tick(now);
        let number = ask.number;
        let answer = match self.known(&ask, &origin, now, &mut outcome) {
            Known::Answer(answer) => answer,
            Known::Nothing(besides) => self.open(ask, origin, chance, now, besides, &mut outcome),
        };
        outcome.answers.push((number, answer));
        outcome
    }

    /// Whether there is an approval for it already, or what of it isn't the same.
    fn known(
        &mut self,
        ask: &Ask,
        origin: &Arc<Origin>,
        now: WallTime,
        outcome: &mut Outcome,
    ) -> Known {
        let is_it = |request: &Request| request.waits() == ask.waits_for.is_some();
        let mut newest = self.requests.values_mut().rev();
        if let Some(id) = &ask.waits_for {
            let Some(request) = newest.find(|request| request.id == *id) else {
                let why = format!("{id} is not known any more");
                return Known::Answer(Answer::Denied { id: Some(id.clone()), why });
            };
            let differences = request.differences(ask);
            return Known::Answer(match (&request.state, differences.as_slice()) {
                (State::Approved, []) => request.pass(origin, now, outcome),
                (State::Approved, differences) => {
                    let why =
                        format!("it is not what was approved any more: {}", words(differences));
                    outcome.rows.push(request.row(ApprovalAction::Refused, origin, &why, now));
                    request.deny(&why, origin, now, outcome);
                    Answer::Denied { id: Some(id.clone()), why }
                }
                (state, _) => {
                    let why = state.why();
                    Answer::Denied { id: Some(id.clone()), why }
                }
            });
        }
        let mut newest = self.requests.values_mut().rev();
        let fits = newest.find(|request| {
            request.state == State::Approved
                && is_it(request)
                && request.differences(ask).is_empty()
        });
        if let Some(request) = fits {
            return Known::Answer(request.pass(origin, now, outcome));
        }
        let mut besides = None;
        // One is enough to tell why, and there may be many.
        let mut told = false;
        for request in self.requests.values_mut().rev() {
            let is_alike = request.facts.fingerprint == ask.facts.fingerprint
                && request.binding.server == ask.binding.server;
            if !is_alike && !request.binding.resembles(&ask.binding) {
                continue;
            }
            let differences = request.differences(ask);
            match (&request.state, differences.as_slice()) {
                // Whoever sends it again has only not waited for the answer.
                (State::Open, []) if is_it(request) && ask.verdict == Verdict::Ticket => {
                    let besides = besides.take();
                    return Known::Answer(request.answer(besides));
                }
                (State::Open | State::Approved, []) | (State::Open, _) => {}
                (State::Approved, differences) if !told => {
                    told = true;
                    let why = format!("{} is not for this: {}", request.id, words(differences));
                    outcome.rows.push(request.row(ApprovalAction::Refused, origin, &why, now));
                    // What is bound is not for everybody's eyes.
                    let what: Vec<&str> = differences.iter().map(|one| one.what).collect();
                    besides = Some(format!("{} is not for this: {}", request.id, what.join(", ")));
                }
                (State::Used | State::Expired | State::Denied(_), differences)
                    if !told && differences.iter().all(|one| one.what == "policies") =>
                {
                    told = true;
                    let why = format!("{}: {}", request.id, request.state.why());
                    outcome.rows.push(request.row(ApprovalAction::Refused, origin, &why, now));
                    besides = Some(why);
                }
                _ => {}
            }
        }
        Known::Nothing(besides)
    }

    fn open(
        &mut self,
        ask: Ask,
        origin: Arc<Origin>,
        chance: u64,
        now: WallTime,
        besides: Option<String>,
        outcome: &mut Outcome,
    ) -> Answer {
        let n_open = self.pending().count();
        let is_theirs = |request: &&Request| request.binding.principal == ask.binding.principal;
        let n_theirs = self.pending().filter(is_theirs).count();
        let weight = weight(&ask.binding);
        self.make_room(weight);
        let is_full = n_open >= MAX_OPEN || self.bytes + weight > MAX_BYTES;
        if is_full || n_theirs >= MAX_OPEN_OF_ONE {
            let why = match is_full {
                true => "too many requests are open".to_owned(),
                false => format!("{} has {n_theirs} open requests", ask.binding.principal.words()),
            };
            return Answer::Denied { id: None, why };
        }
        let default = match ask.verdict {
            Verdict::Hold => self.limits.hold,
            _ => self.limits.ttl,
        };
        let ttl = ask.needs.iter().filter_map(|need| need.ttl).min().unwrap_or(default);
        let request = Request {
            id: id(chance),
            number: ask.number,
            origin,
            verdict: ask.verdict,
            needs: ask.needs,
            binding: ask.binding,
            shown: ask.shown.into(),
            facts: ask.facts,
            behind: ask.behind,
            estimated_rows: ask.estimated_rows,
            estimated_percent: ask.estimated_percent,
            asked: now,
            expires: after(now, ttl),
            state: State::Open,
            decisions: Vec::new(),
            ran: None,
        };
        let how = match request.verdict {
            Verdict::Hold => "waits for",
            _ => "needs",
        };
        let message = format!(
            "{} {how} the approval of {}: {}",
            request.binding.principal.words(),
            request.whose(),
            request.message()
        );
        let mut row = request.approval(ApprovalAction::Requested, &request.origin, message, now);
        row.counts.push(("ttl_seconds".into(), ttl.as_secs()));
        let estimated = request.estimated_rows.map(|rows| ("estimated_rows".into(), rows));
        row.counts.extend(estimated);
        outcome.rows.push(Entry::Approval(row));
        let answer = request.answer(besides);
        self.bytes += weight;
        self.requests.insert(self.next, request);
        self.next += 1;
        answer
    }

    /// Forgets what is over, the oldest first.
    fn make_room(&mut self, weight: usize) {
        loop {
            let over = self.requests.iter().filter(|(_, request)| request.state.is_over());
            let n_over = over.clone().count();
            let oldest = over.map(|(at, _)| *at).next();
            let is_enough = n_over <= MAX_OVER && self.bytes + weight <= MAX_BYTES;
            let Some(oldest) = oldest.filter(|_| !is_enough) else { return };
            if let Some(gone) = self.requests.remove(&oldest) {
                self.bytes = self.bytes.saturating_sub(self::weight(&gone.binding));
            }
        }
    }

    /// Somebody decides; gives the request as it is then.
    pub fn decide(
        &mut self,
        decision: &Decision,
        approver: &Arc<Origin>,
        now: WallTime,
    ) -> (Outcome, Result<Request, Undecided>) {
        let mut outcome = self.tick(now);
        let Self { limits, policy, requests, .. } = self;
        let found = requests.values_mut().find(|request| *request.id == *decision.id);
        let Some(request) = found else {
            return (outcome, Err(Undecided::NoSuch(decision.id.clone())));
        };
        let emergency = decision.is_break_glass.then(|| decision.reason.as_deref().unwrap_or(""));
        let right = standing::right(request, approver, emergency, limits.break_glass.as_deref());
        let decided = match right {
            Ok(_) if !request.state.is_over() && request.binding.policy != **policy => {
                request.deny("the policies have changed", approver, now, &mut outcome);
                Err(Undecided::PoliciesChanged)
            }
            Ok(right) => request.decide(decision, approver, right, now, &mut outcome),
            Err(unfit) => Err(unfit.into()),
        };
        if let Err(why) = &decided {
            let verb = if decision.is_approval { "approve" } else { "deny" };
            let message = format!("{} may not {verb} it: {why}", standing::words(approver));
            outcome.rows.push(request.row(ApprovalAction::Refused, approver, &message, now));
        }
        let request = request.clone();
        (outcome, decided.map(|()| request))
    }

    /// What has expired by now.
    pub fn tick(&mut self, now: WallTime) -> Outcome {
        let mut outcome = Outcome::default();
        for request in self.requests.values_mut() {
            if request.state.is_over() || request.expires > now {
                continue;
            }
            let message = match request.state {
                State::Approved => "nobody has used it in time",
                _ => "nobody has decided in time",
            };
            let waits = request.waits();
            request.state = State::Expired;
            let origin = request.origin.clone();
            outcome.rows.push(request.row(ApprovalAction::Expired, &origin, message, now));
            if waits {
                let denied =
                    Answer::Denied { id: Some(request.id.clone()), why: request.state.why() };
                outcome.answers.push((request.number, denied));
            }
        }
        outcome
    }

    /// When the next one expires.
    pub fn next_expiry(&self) -> Option<WallTime> {
        self.pending().map(|request| request.expires).min()
    }

    /// A session doesn't wait any more.
    pub fn over(&mut self, number: u64, why: Over, now: WallTime) -> Outcome {
        let waits = |request: &Request| request.number == number && request.waits();
        let mut outcome = self.deny_all(waits, why.words(), now);
        outcome.answers.clear();
        outcome
    }

    /// Everything that is open is denied.
    pub fn end(&mut self, why: &str, now: WallTime) -> Outcome {
        self.deny_all(|_| true, why, now)
    }

    fn deny_all(&mut self, which: impl Fn(&Request) -> bool, why: &str, now: WallTime) -> Outcome {
        let mut outcome = Outcome::default();
        let open = self.requests.values_mut().filter(|request| !request.state.is_over());
        for request in open.filter(|request| which(request)) {
            let origin = request.origin.clone();
            request.deny(why, &origin, now, &mut outcome);
        }
        outcome
    }

    /// The statement that was let pass has ended so.
    pub fn ran(&mut self, id: &str, origin: &Arc<Origin>, ran: Ran, now: WallTime) -> Outcome {
        let mut outcome = Outcome::default();
        let found = self.requests.values_mut().find(|request| *request.id == *id);
        if let Some(request) = found {
            let message = match &ran.error_code {
                None => "the statement has run".to_owned(),
                Some(code) => format!("the statement has failed: {code}"),
            };
            let mut row = request.approval(ApprovalAction::Executed, origin, message, now);
            row.rows = ran.rows;
            row.duration_us = ran.duration_us;
            row.error_code.clone_from(&ran.error_code);
            outcome.rows.push(Entry::Approval(row));
            request.ran = Some(ran);
        }
        outcome
    }
}

fn words(differences: &[Difference]) -> String {
    let words: Vec<&str> = differences.iter().map(|one| &*one.words).collect();
    words.join("; ")
}

enum Known {
    Answer(Answer),
    Nothing(Option<String>),
}

impl Request {
    /// Its session waits for it.
    pub fn waits(&self) -> bool {
        self.verdict == Verdict::Hold && !self.state.is_over()
    }

    /// How what is asked isn't what was asked then.
    fn differences(&self, ask: &Ask) -> Vec<Difference> {
        let mut differences = self.binding.differences(&ask.binding);
        // By the same rules: there may be more rows by now, or it may be later.
        let new = ask.needs.iter().filter(|need| !self.needs.contains(need));
        let new: Vec<&str> = new.map(|need| &*need.rule).collect();
        if !new.is_empty() {
            let words = format!("rules: {} wants an approval now as well", new.join(", "));
            differences.push(Difference { what: "rules", words });
        }
        differences
    }

    /// Of whom it needs how many.
    pub fn whose(&self) -> String {
        let whose = self.needs.iter().map(|need| {
            let groups: Vec<&str> = need.approvers.iter().map(|group| &**group).collect();
            match need.approvals {
                0 | 1 => format!("a member of {}", groups.join(" or ")),
                n => format!("{n} members of {}", groups.join(" or ")),
            }
        });
        let mut whose: Vec<String> = whose.collect();
        whose.dedup();
        whose.join(" and ")
    }

    pub fn message(&self) -> &str {
        self.needs.first().map_or("", |need| &need.message)
    }

    /// How many approvals there are of those that are needed.
    pub fn progress(&self) -> (u64, u64) {
        let needed: u64 = self.needs.iter().map(|need| u64::from(need.approvals.max(1))).sum();
        let given = self
            .needs
            .iter()
            .map(|need| (self.approvers(need).len() as u64).min(u64::from(need.approvals.max(1))));
        (given.sum(), needed)
    }

    fn approvers(&self, need: &Need) -> HashSet<&str> {
        let approvals = self.decisions.iter().filter(|decided| decided.is_approval);
        let counts = approvals.filter(|decided| {
            let groups = &decided.origin.groups;
            groups.iter().any(|group| need.approvers.contains(group))
        });
        counts.filter_map(|decided| decided.origin.principal.as_deref()).collect()
    }

    fn is_satisfied(&self) -> bool {
        let by_glass = |decided: &Decided| decided.is_approval && decided.is_break_glass;
        let is_enough = |need: &Need| self.approvers(need).len() >= need.approvals.max(1) as usize;
        self.decisions.iter().any(by_glass) || self.needs.iter().all(is_enough)
    }

    fn answer(&self, besides: Option<String>) -> Answer {
        let (id, who, until) = (self.id.clone(), self.whose(), seconds(self.expires));
        match self.verdict {
            Verdict::Hold => Answer::Wait { id, who, until, besides },
            _ => Answer::Ticket { id, who, until, besides },
        }
    }

    fn pass(&mut self, origin: &Arc<Origin>, now: WallTime, outcome: &mut Outcome) -> Answer {
        self.state = State::Used;
        let by: Vec<String> = self
            .decisions
            .iter()
            .filter(|decided| decided.is_approval)
            .map(|decided| standing::words(&decided.origin))
            .collect();
        let message = format!("the statement passes, approved by {}", by.join(", "));
        outcome.rows.push(self.row(ApprovalAction::Used, origin, &message, now));
        Answer::Pass { id: self.id.clone() }
    }

    fn deny(&mut self, why: &str, by: &Arc<Origin>, now: WallTime, outcome: &mut Outcome) {
        let waits = self.waits();
        self.state = State::Denied(why.to_owned());
        outcome.rows.push(self.row(ApprovalAction::Denied, by, why, now));
        if waits {
            let denied = Answer::Denied { id: Some(self.id.clone()), why: self.state.why() };
            outcome.answers.push((self.number, denied));
        }
    }

    fn decide(
        &mut self,
        decision: &Decision,
        approver: &Arc<Origin>,
        right: Right,
        now: WallTime,
        outcome: &mut Outcome,
    ) -> Result<(), Undecided> {
        let may = match (&self.state, decision.is_approval) {
            (State::Open, _) | (State::Approved, false) => true,
            (_, _) => false,
        };
        if !may {
            return Err(Undecided::Over(self.id.to_string(), self.state.name()));
        }
        let reason = decision.reason.as_deref().map(str::trim).filter(|text| !text.is_empty());
        if reason.is_some_and(|it| it.len() > REASON_BYTES || it.contains(char::is_control)) {
            return Err(Undecided::Reason);
        }
        let who = standing::words(approver);
        let because = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
        let requester = self.binding.principal.words();
        let decided = Decided {
            time: now,
            origin: approver.clone(),
            is_approval: decision.is_approval,
            is_break_glass: right == Right::BreakGlass,
            reason: reason.map(str::to_owned),
        };
        if !decision.is_approval {
            self.decisions.push(decided);
            let why = format!("{who} has denied the request of {requester}{because}");
            self.deny(&why, approver, now, outcome);
            return Ok(());
        }
        let is_theirs =
            |one: &Decided| one.is_approval && one.origin.principal == approver.principal;
        if right == Right::Member && self.decisions.iter().any(is_theirs) {
            return Err(Undecided::Twice(who));
        }
        self.decisions.push(decided);
        let how = match right {
            Right::Member => "",
            Right::BreakGlass => " in an emergency",
        };
        let message = format!("{who} has approved the request of {requester}{how}{because}");
        let (given, needed) = self.progress();
        let mut row = self.approval(ApprovalAction::Approved, approver, message.clone(), now);
        row.counts = vec![("approvals".into(), given), ("needed".into(), needed)];
        outcome.rows.push(Entry::Approval(row));
        if right == Right::BreakGlass {
            outcome.rows.push(self.alarm(approver, &message, now));
        }
        if self.is_satisfied() {
            self.state = State::Approved;
            let span = Duration::from_micros(self.expires.0.abs_diff(self.asked.0));
            let span = match right {
                Right::Member => span,
                Right::BreakGlass => span.min(BREAK_GLASS),
            };
            self.expires = after(now, span);
            if self.waits() {
                outcome.answers.push((self.number, Answer::Again { id: self.id.clone() }));
            }
        }
        Ok(())
    }

    fn row(&self, action: ApprovalAction, by: &Arc<Origin>, message: &str, now: WallTime) -> Entry {
        Entry::Approval(self.approval(action, by, message.to_owned(), now))
    }

    fn approval(
        &self,
        action: ApprovalAction,
        by: &Arc<Origin>,
        message: String,
        now: WallTime,
    ) -> Approval {
        // Who decides has no connection: the row is about the server all the same.
        let origin = match by.server {
            Some(_) => by.clone(),
            None => Arc::new(Origin {
                environment: self.origin.environment.clone(),
                server: self.origin.server.clone(),
                engine: self.origin.engine,
                database: self.origin.database.clone(),
                ..(**by).clone()
            }),
        };
        Approval {
            time: now,
            action,
            id: self.id.clone(),
            origin,
            rule: self.needs.first().map_or_else(|| "?".into(), |need| need.rule.clone()),
            verdict: self.verdict,
            facts: Some(self.facts.clone()),
            text: Some(self.shown.clone()),
            message,
            counts: Vec::new(),
            rows: None,
            duration_us: None,
            error_code: None,
        }
    }

    /// Somebody has gone past those who should have been asked: whoever is on watch hears of it at once.
    fn alarm(&self, approver: &Arc<Origin>, message: &str, now: WallTime) -> Entry {
        Entry::Finding(Episode {
            time: now,
            began: now,
            action: EpisodeAction::Began,
            finding: Finding {
                rule: BREAK_GLASS_RULE.into(),
                verdict: Verdict::Flag,
                severity: Severity::Critical,
                message: format!("{}: {message}", self.id).into(),
                dry_run: false,
            },
            origin: approver.clone(),
            sequence: 0,
            facts: Some(self.facts.clone()),
            destination: None,
            counts: Vec::new(),
        })
    }
}

impl State {
    /// For whoever waits for it, or comes with it.
    fn why(&self) -> String {
        match self {
            Self::Open => "nobody has decided yet".to_owned(),
            Self::Approved => "it was approved".to_owned(),
            Self::Used => "it was used already".to_owned(),
            Self::Denied(why) => format!("it was denied: {why}"),
            Self::Expired => "it has expired".to_owned(),
        }
    }
}

fn weight(binding: &Binding) -> usize {
    let values = binding.parameters.iter().map(|value| match value {
        super::Given::Null => 8,
        super::Given::Text(text) | super::Given::Binary(text) => text.len() + 8,
    });
    binding.text.len() + values.sum::<usize>() + 4_096
}

fn after(now: WallTime, span: Duration) -> WallTime {
    WallTime(now.0.saturating_add(i64::try_from(span.as_micros()).unwrap_or(i64::MAX)))
}

/// Nobody has to read parts of a second.
pub(super) fn seconds(time: WallTime) -> String {
    let text = time.to_string();
    format!("{}Z", text.split('.').next().unwrap_or_default())
}

/// Short enough to be typed, and not to be guessed.
fn id(chance: u64) -> Arc<str> {
    const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
    let digit = |at: u32| {
        let five = (chance >> (5 * at)) as usize & 31;
        char::from(DIGITS.get(five).copied().unwrap_or(b'0'))
    };
    let digits: String = (0..8).map(digit).collect();
    format!("apr-{digits}").into()
}
