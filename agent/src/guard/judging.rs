//! Judges what clients want: the same analysis, principals and policies as the observer's.

use std::{
    borrow::Cow,
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use super::{
    court::{Court, DENIED, Denial, Moment, Permit, Reading},
    wire::{Channel, Denied, Summed, Word},
};
use crate::{
    analyst::{Analyst, Bounds},
    event::{Analysis, Facts, Judgement, Origin, RequestSum, Verdict, WallTime},
    pipeline::profile::Profile,
    policy::{Circumstances, Judge, Set},
    principal::{self, claims},
    protocol::postgres::startup,
    statement::{self, Analysed, Lexing, MAX_TEXT_BYTES, Parameter, Parameters, Prepared},
};

/// Of one worker, for all of its sessions.
pub(super) struct Judging {
    analyst: Analyst,
    judge: Judge,
    host: Arc<Origin>,
    principals: principal::Rules,
    channel: Arc<Channel>,
    last: Arc<Reading>,
    /// Why nothing can be recorded.
    ledger_down: Option<Arc<str>>,
}

impl Judging {
    pub(super) fn new(
        set: Arc<Set>,
        host: Arc<Origin>,
        principals: principal::Rules,
        channel: Arc<Channel>,
    ) -> Self {
        let bounds = Bounds { text_bytes: MAX_TEXT_BYTES, ..Bounds::default() };
        let (analyst, judge) = (Analyst::new(bounds), Judge::new(set));
        let last = Arc::new(Reading {
            text: None,
            analysed: Arc::new(Analysed::ambiguous("")),
            claims: None,
        });
        Self { analyst, judge, host, principals, channel, last, ledger_down: None }
    }

    pub(super) fn ledger_is_down(&mut self, why: Option<Arc<str>>) {
        self.ledger_down = why;
    }

    /// Judges by other rules from now on.
    pub(super) fn replace(
        &mut self,
        set: Arc<Set>,
        host: Arc<Origin>,
        principals: principal::Rules,
    ) {
        self.judge.replace(set);
        self.host = host;
        self.principals = principals;
    }
}

/// One client before its judge.
pub(super) struct ClientCourt {
    pub profile: Profile,
    pub judging: Rc<RefCell<Judging>>,
    /// What can't be recorded is refused.
    needs_ledger: bool,
    /// What it has said so far.
    said: statement::Session,
    /// Whoever wants to tell the service of it finds it here.
    pub so_far: Rc<Cell<SoFar>>,
}

/// Of what was asked of a server, and after how many bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SoFar {
    pub bytes: u64,
    pub sum: RequestSum,
}

/// Statements that SQL's EXECUTE can name. What was prepared before them is unknown there.
const MAX_PREPARED: usize = 256;

impl ClientCourt {
    pub(super) fn new(profile: Profile, judging: Rc<RefCell<Judging>>, needs_ledger: bool) -> Self {
        Self {
            profile,
            judging,
            needs_ledger,
            said: statement::Session::default(),
            so_far: Rc::default(),
        }
    }

    fn forget_oldest(&mut self) {
        let surplus = self.said.prepared.len().saturating_sub(MAX_PREPARED);
        self.said.prepared.drain(..surplus);
    }

    /// Whether a session may start with these settings.
    pub(super) fn judge_startup(&mut self, packet: &[u8]) -> Result<Permit, Denial> {
        let parameters = startup::parameters(packet);
        let pairs = parameters.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let facts = Arc::new(statement::startup(pairs));
        let analysed = Analysed::of(facts);
        self.judge(&Reading { text: None, analysed: Arc::new(analysed), claims: None })
    }

    fn analyse(&mut self, text: &str, state: Moment, parameters: Parameters) -> Arc<Analysed> {
        let Some(lexing) = statement::lexing(text, state.conforming_strings, false) else {
            return Arc::new(Analysed::ambiguous(text));
        };
        self.said.lexing = lexing;
        self.said.in_transaction = state.in_transaction;
        self.said.parameters = parameters;
        let analysed = self.judging.borrow_mut().analyst.analysed_in(text, &self.said);
        // Values are not kept longer than they are looked at.
        self.said.parameters = Parameters::Unseen;
        analysed
    }
}

impl Court for ClientCourt {
    fn read(&mut self, text: Option<&str>, state: Moment) -> Arc<Reading> {
        let Some(text) = text else {
            let analysed = Analysed::unparsed("", Lexing::default(), Analysis::TooLong);
            return Arc::new(Reading { text: None, analysed: analysed.into(), claims: None });
        };
        let analysed = self.analyse(text, state, Parameters::Unseen);
        let claims = claims::read(Some(text), self.profile.application()).map(Arc::new);
        Reading::anew(&mut self.judging.borrow_mut().last, text, analysed, claims)
    }

    fn read_again(
        &mut self,
        reading: &Arc<Reading>,
        values: Option<Vec<Parameter>>,
        state: Moment,
    ) -> Arc<Reading> {
        let Some(text) = reading.text.as_deref() else { return reading.clone() };
        let parameters = values.map_or(Parameters::Unseen, Parameters::Bound);
        let analysed = self.analyse(text, state, parameters);
        Arc::new(Reading { text: Some(text.to_owned()), analysed, claims: reading.claims.clone() })
    }

    fn sent(&mut self, reading: &Reading) {
        if !reading.analysed.says.is_empty() {
            self.said.hear(&reading.analysed);
            self.forget_oldest();
        }
    }

    fn prepared(&mut self, name: &str, reading: &Reading) {
        if !name.is_empty() {
            let analysed = &reading.analysed;
            self.said.prepared.push(Prepared {
                name: name.into(),
                facts: analysed.whole.clone(),
                is_parameter_sensitive: analysed.is_parameter_sensitive,
            });
            self.forget_oldest();
        }
    }

    fn judge(&mut self, reading: &Reading) -> Result<Permit, Denial> {
        let Self { profile, judging, .. } = self;
        let Judging { judge, host, principals, ledger_down, .. } = &mut *judging.borrow_mut();
        let claims = reading.claims.as_deref();
        let origin = profile.origin_claiming(host, principals, claims);
        let circumstances = Circumstances {
            time: now(),
            rows: None,
            claims: claims.map_or(&[], |claims| &claims.tags),
        };
        for facts in &reading.analysed.statements {
            let judgement = judge.judge(&origin, Some(facts), circumstances);
            if judgement.verdict > Verdict::Flag {
                return Err(denial(&judgement, Some(facts)));
            }
        }
        match ledger_down.as_ref().filter(|_| self.needs_ledger) {
            Some(why) if !reading.analysed.statements.iter().all(|facts| gives_up(facts)) => {
                Err(Denial::unrecorded(why))
            }
            _ => Ok(Permit::given()),
        }
    }

    fn judge_call(&mut self) -> Result<Permit, Denial> {
        let Self { profile, judging, .. } = self;
        let Judging { judge, host, principals, ledger_down, .. } = &mut *judging.borrow_mut();
        let origin = profile.origin(host, principals);
        let circumstances = Circumstances { time: now(), ..Circumstances::default() };
        let judgement = judge.judge(&origin, None, circumstances);
        match judgement.verdict > Verdict::Flag {
            true => Err(denial(&judgement, None)),
            false => match ledger_down.as_ref().filter(|_| self.needs_ledger) {
                Some(why) => Err(Denial::unrecorded(why)),
                None => Ok(Permit::given()),
            },
        }
    }

    fn denied(&mut self, token: &str, denial: &Denial, text: Option<&str>) {
        let denied = Denied {
            connection: self.profile.id,
            token: token.to_owned(),
            text: text.map(str::to_owned),
            denial: denial.clone(),
        };
        // Without the service, which has started this process, there is nobody to tell, and its end is near.
        if let Err(error) =
            self.judging.borrow().channel.send(&Word::Denied(Box::new(denied)), None)
        {
            tracing::error!(%error, "a denied statement can't be told to the service");
        }
    }

    fn summed(&mut self, sum: RequestSum) {
        let summed = Summed { connection: self.profile.id, bytes: None, sum };
        if let Err(error) = self.judging.borrow().channel.send(&Word::Summed(vec![summed]), None) {
            tracing::error!(%error, "what a server was asked can't be told to the service");
        }
    }

    fn summed_so_far(&mut self, bytes: u64, sum: RequestSum) {
        self.so_far.set(SoFar { bytes, sum });
    }

    fn authenticated(&mut self, method: &'static str) {
        self.profile.authenticated(method);
    }

    fn renamed(&mut self, application: &str) {
        self.profile.calls_itself(application);
    }
}

/// It only takes back what was begun: nobody should hold locks because nothing can be recorded.
fn gives_up(facts: &Facts) -> bool {
    facts.analysis.is_complete() && matches!(&*facts.summary, "ROLLBACK" | "ROLLBACK TO")
}

/// What the client is told of a judgement.
fn denial(judgement: &Judgement, facts: Option<&Arc<Facts>>) -> Denial {
    let rule = judgement.rule.clone().unwrap_or_else(|| "?".into());
    let finding = judgement.findings.iter().find(|finding| finding.rule == rule);
    let message = finding.map_or("denied by policy", |finding| &*finding.message);
    let mut detail = format!("rule {rule}");
    if let Some(facts) = facts {
        let effects: Vec<&str> = facts.effects.iter().map(|effect| effect.name()).collect();
        detail += &format!("; effects: {}", effects.join(", "));
        let mut tables: Vec<&str> = facts.tables.iter().map(|table| &*table.name).collect();
        tables.dedup();
        if !tables.is_empty() {
            detail += &format!("; tables: {}", tables.join(", "));
        }
        if !facts.analysis.is_complete() {
            detail += &format!("; analysis: {}", facts.analysis.name());
        }
    }
    let hint = match judgement.verdict {
        Verdict::Mask => "The rule wants values masked, which this guard can't do yet.",
        Verdict::Hold | Verdict::Ticket => {
            "The rule wants an approval, which this guard can't ask for yet."
        }
        _ => {
            "Ask whoever keeps dbwarden's policies for an exception; `dbwarden policy explain` shows what it takes."
        }
    };
    Denial {
        code: Cow::Borrowed(DENIED),
        rule,
        message: format!("dbwarden: {message}").into(),
        detail: detail.into(),
        hint: Cow::Borrowed(hint),
    }
}

fn now() -> WallTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    WallTime(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}
