//! One client before its judge: what it says is read, judged, remembered, and told.

use std::{
    borrow::Cow,
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
};

use super::{
    approvals::{self, Needing},
    behind::Revealed,
    catalog::{self, Database, Snapshot, Value},
    court::{self, Argument, Court, Denial, Moment, Nulled, Permit, Reading},
    estimating::{self, Asked, Asking},
    judging::{Judging, denial, now},
    masking::{Hiding, Masks, TextPrint},
    passed::Passed,
    unsettled::{self, Unsettled},
    veil::Veil,
    wire::{self, Denied, Masked, Number, Summed, Word},
};
use crate::{
    approval::Over,
    event::{Access, Analysis, Effect, Facts, Origin, RequestSum, Trait, Verdict},
    pipeline::profile::Profile,
    policy::{Circumstances, Estimate},
    protocol::postgres::startup,
    statement::{self, Analysed, Body, Lexing, Parameters, Prepared, pieces},
};

/// One client before its judge.
pub(super) struct ClientCourt {
    pub profile: Profile,
    pub judging: Rc<RefCell<Judging>>,
    /// The session's.
    number: Number,
    /// What can't be recorded is refused.
    needs_ledger: bool,
    /// What it has said so far.
    pub(super) said: statement::Session,
    /// Where the server can be asked itself.
    pub(super) database: Option<Arc<Database>>,
    pub(super) unsettled: Unsettled,
    /// What is hidden from it.
    pub(super) veil: Veil,
    /// Whoever wants to tell the service of it finds it here.
    pub so_far: Rc<Cell<SoFar>>,
    pub(super) passed: Option<Passed>,
}

/// Of what was asked of a server, and after how many bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SoFar {
    pub bytes: u64,
    pub sum: RequestSum,
}

impl ClientCourt {
    pub(super) fn new(
        profile: Profile,
        judging: Rc<RefCell<Judging>>,
        number: Number,
        needs_ledger: bool,
        database: Option<Arc<Database>>,
    ) -> Self {
        Self {
            profile,
            judging,
            number,
            needs_ledger,
            said: statement::Session::default(),
            database,
            unsettled: Unsettled::default(),
            veil: Veil::default(),
            so_far: Rc::default(),
            passed: None,
        }
    }

    /// A statement with what is behind it, and the planner's word on it.
    fn known(
        &self,
        reading: &Reading,
        place: usize,
        said: &Arc<Facts>,
    ) -> (Revealed, Option<Estimate>) {
        let as_said = || (Revealed::as_said(said), None);
        let Some(database) = &self.database else { return as_said() };
        let converts = reading.takes_own_types();
        if !said.names_anything() && !converts {
            return as_said();
        }
        let mut judging = self.judging.borrow_mut();
        let made = self.unsettled.made();
        let lacking = |snapshot: &Snapshot| catalog::lacking(snapshot, said, made);
        let Some((snapshot, behind, analyst)) = judging.behind(database, lacking) else {
            return as_said();
        };
        let revealed = match converts && !snapshot.ambient().is_empty() {
            true => behind.reveal(&Arc::new(said.converting()), analyst),
            false => behind.reveal(said, analyst),
        };
        let estimate = match reading.is_estimable() {
            true => self.estimate(reading, (place, said, &revealed), database, &snapshot, &judging),
            false => None,
        };
        (revealed, estimate)
    }

    fn estimate(
        &self,
        reading: &Reading,
        (place, said, revealed): (usize, &Facts, &Revealed),
        database: &Arc<Database>,
        snapshot: &Snapshot,
        judging: &Judging,
    ) -> Option<Estimate> {
        let lexing = self.said.lexing;
        let statements = &reading.analysed.statements;
        let texts = pieces::statements(reading.text.as_deref()?, lexing);
        let texts = if texts.len() == statements.len() { &*texts } else { &[] };
        let before = texts.get(..place).unwrap_or_default();
        let values: Option<Option<Vec<Value>>> =
            reading.values.as_ref().map(|values| values.iter().map(value).collect());
        let asked = Asked {
            text: texts.get(place).copied().filter(|_| values != Some(None)),
            lexing,
            said,
            facts: &revealed.facts,
            types: &reading.types,
            values: values.as_ref().and_then(Option::as_deref),
        };
        let own = &self.unsettled_by(statements.get(..place)?);
        let worst = || asked.worst(snapshot, own, judging.bulk);
        match asked.asking(snapshot, own, |name| self.body(name, before)) {
            Asking::Nothing => None,
            Asking::Nobody => Some(worst()),
            Asking::Planner(question) => match judging.catalogs.plan(database, *question) {
                Some(planned) => estimating::weighed(&planned, snapshot, judging.bulk),
                None => (own.blocks() || said.effects.contains(Effect::Define)).then(worst),
            },
        }
    }

    /// After these too, which stand before it in the same text.
    fn unsettled_by(&self, before: &[Arc<Facts>]) -> Cow<'_, Unsettled> {
        let mut own = Cow::Borrowed(&self.unsettled);
        if !before.is_empty() {
            before.iter().for_each(|said| own.to_mut().follow(said));
        }
        own
    }

    /// What the client has prepared by this name, be it in what stands before it in the same text; `None` where that
    /// isn't known for sure.
    fn body(&self, name: &str, before: &[&str]) -> Option<Body> {
        let lexing = self.said.lexing;
        let own = before.iter().flat_map(|one| pieces::preparations(one, lexing));
        let own = own.filter(|it| it.name.as_deref() == Some(name));
        let mut own = own.map(|it| Body::new(it.types, it.statement));
        match (own.next(), self.said.prepared.bodies(name)) {
            (Some(body), None) => own.all(|other| other == body).then_some(body),
            (None, Some(bodies)) if let [body] = *bodies => Some(body.clone()),
            _ => None,
        }
    }

    fn tell(&self, word: &Word) {
        self.judging.borrow().channel.tell(word);
    }

    /// Before the server gets it, whoever reads along knows what it stands for.
    fn tell_nulled(&self, reading: &Reading) {
        let (Some(nulled), Some(text)) = (&reading.nulled, &reading.text) else { return };
        let Some(said) = nulled.said.text.clone() else { return };
        let (text, columns) = (TextPrint::of(text), nulled.columns.clone());
        let told = wire::Nulled { connection: self.profile.id, text, said, columns };
        self.tell(&Word::Nulled(Box::new(told)));
    }

    /// Whether a session may start with these settings.
    pub(super) fn judge_startup(&mut self, packet: &[u8]) -> Result<Permit, Denial> {
        let parameters = startup::parameters(packet);
        let pairs = parameters.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let facts = Arc::new(statement::startup(pairs));
        let analysed = Analysed::of(facts);
        // It reads nothing.
        self.judge_by_rules(&Reading::of(None, Arc::new(analysed), None)).map(|_| Permit::given())
    }

    fn settles(&mut self) {
        if self.unsettled.has_defined {
            self.defined();
        }
        self.unsettled.settle();
    }

    fn defined(&mut self) {
        self.veil.own.settled();
        if let Some(database) = &self.database {
            database.has_news();
            database.defined(self.profile.id);
        }
    }

    /// The rule that wants something hidden, where one does, and what it takes where some want approvals.
    fn judge_by_rules(&mut self, reading: &Reading) -> Result<(Option<Arc<str>>, Needing), Denial> {
        let claims = reading.claims.as_deref();
        let origin = self.origin(reading);
        let time = now();
        let (mut hiding, mut needing) = (None, Needing::default());
        for (place, said) in reading.analysed.statements.iter().enumerate() {
            let (Revealed { facts, by }, estimate) = self.known(reading, place, said);
            let circumstances = Circumstances {
                time,
                rows: None,
                claims: claims.map_or(&[], |claims| &claims.tags),
                estimate,
            };
            let judgement =
                self.judging.borrow_mut().judge.judge(&origin, Some(&facts), circumstances);
            match judgement.verdict {
                Verdict::Mask => hiding = judgement.rule.clone(),
                Verdict::Hold | Verdict::Ticket => {
                    let rules = self.judging.borrow().judge.set().clone();
                    let denial = denial(&judgement, &facts, &by, estimate);
                    needing.add(&rules, &judgement, denial, &facts, &by, estimate);
                }
                verdict if verdict > Verdict::Flag => {
                    return Err(denial(&judgement, &facts, &by, estimate));
                }
                _ => {}
            }
        }
        match self.judging.borrow().ledger_down().filter(|_| self.needs_ledger) {
            Some(why) if !reading.analysed.statements.iter().all(|facts| gives_up(facts)) => {
                Err(Denial::unrecorded(why))
            }
            _ => Ok((hiding, needing)),
        }
    }

    /// Who says it, with what they claim in it.
    pub(super) fn origin(&mut self, reading: &Reading) -> Arc<Origin> {
        let Self { profile, judging, .. } = self;
        let Judging { host, principals, .. } = &mut *judging.borrow_mut();
        profile.origin_claiming(host, principals, reading.claims.as_deref())
    }

    fn analyse(&mut self, text: &str, state: Moment, parameters: Parameters) -> Arc<Analysed> {
        if !state.in_transaction {
            // What it has defined is committed now, if it went well.
            self.settles();
        }
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
            return Arc::new(Reading::of(None, analysed.into(), None));
        };
        let analysed = self.analyse(text, state, Parameters::Unseen);
        let claims = self.profile.claims(Some(text)).map(Arc::new);
        Reading::anew(&mut self.judging.borrow_mut().last, text, analysed, claims)
    }

    fn read_again(
        &mut self,
        reading: &Arc<Reading>,
        values: Option<Vec<Argument>>,
        state: Moment,
    ) -> Arc<Reading> {
        let Some(text) = reading.text.as_deref() else { return reading.clone() };
        let parameters = match &values {
            None => Parameters::Unseen,
            Some(values) => Parameters::Bound(values.iter().map(Argument::parameter).collect()),
        };
        let analysed = self.analyse(text, state, parameters);
        let nulled = reading.nulled.clone().map(|nulled| {
            let said = self.read_again(&nulled.said, values.clone(), state);
            Arc::new(Nulled { said, columns: nulled.columns.clone() })
        });
        let keeps = self.database.is_some() && reading.is_estimable();
        let values = values.filter(|_| keeps);
        let values = values.map(Into::into).or_else(|| reading.values.clone());
        Arc::new(Reading { analysed, values, nulled, ..Reading::clone(reading) })
    }

    fn read_call(
        &mut self,
        oid: Option<u32>,
        values: Vec<Argument>,
        state: Moment,
    ) -> Arc<Reading> {
        let named = oid.and_then(|oid| match catalog::large_object(oid) {
            Some(name) => Some(("pg_catalog".to_owned(), name.to_owned())),
            None => {
                let database = self.database.as_ref()?;
                let named = self.judging.borrow().catalogs.name(database, oid)?;
                Some((*named).clone())
            }
        });
        let Some((schema, name)) = named else {
            let analysed = Analysed::unparsed("", Lexing::default(), Analysis::NoText);
            return Arc::new(Reading::of(None, analysed.into(), None));
        };
        let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
        let places: Vec<String> = (1..=values.len()).map(|n| format!("${n}")).collect();
        let text = format!("SELECT {}.{}({})", quoted(&schema), quoted(&name), places.join(", "));
        let parameters = Parameters::Bound(values.iter().map(Argument::parameter).collect());
        let state = Moment { conforming_strings: Some(true), ..state };
        let analysed = self.analyse(&text, state, parameters);
        Arc::new(Reading::of(Some(text), analysed, None))
    }

    fn sent(&mut self, reading: &Reading) {
        self.tell_nulled(reading);
        if let Some(database) = &self.database {
            let whole = &reading.analysed.whole;
            let is_code =
                [Trait::Code, Trait::Extension].iter().any(|it| whole.traits.contains(it));
            if is_code {
                database.changed();
            } else if unsettled::defines(whole) {
                database.has_news();
            }
            self.unsettled.has_defined |= is_code;
            reading.analysed.statements.iter().for_each(|said| self.unsettled.follow(said));
            self.defines(whole);
            if matches!(&*whole.summary, "DISCARD ALL" | "DISCARD TEMP" | "DISCARD TEMPORARY") {
                self.veil.own.clear();
            }
            for table in &whole.tables {
                // What it has dropped in a transaction may come back.
                if table.access == Access::Drop && !self.said.in_transaction {
                    self.veil.own.forget(&table.name);
                }
            }
        }
        if let Some(text) = reading.text.as_deref().filter(|_| !reading.analysed.says.is_empty()) {
            self.said.hear(&reading.analysed, text);
        }
    }

    fn prepared(&mut self, name: &str, reading: &Reading) {
        if !name.is_empty() {
            let analysed = &reading.analysed;
            self.said.prepared.push(Prepared {
                name: name.into(),
                facts: analysed.whole.clone(),
                is_parameter_sensitive: analysed.is_parameter_sensitive,
                is_by_text: false,
                body: reading.text.as_deref().map(|text| Body::new("", text)),
            });
        }
    }

    fn judge(&mut self, reading: &Reading) -> Result<Permit, Denial> {
        self.veil.flows = None;
        if self.has_passed(reading) {
            self.veil.masks = None;
            return Ok(Permit::given());
        }
        let (hiding, mut needing) = self.judge_by_rules(reading)?;
        if let Some(nulled) = &reading.nulled {
            // Who may say it needs no less because something of it is NULL.
            let (_, of_said) = self.judge_by_rules(&nulled.said)?;
            needing = if of_said.is_nothing() { needing } else { of_said };
        }
        let copy = self.look_through(reading, hiding.as_ref())?;
        if needing.is_nothing() {
            if hiding.is_none() && self.veil.masks.is_none() {
                self.passes(reading);
            }
            return Ok(Permit::copying(copy));
        }
        let origin = self.origin(reading);
        let judging = self.judging.borrow();
        match needing.denial(reading, self.said.lexing, &origin, &judging.policy, &copy) {
            Some(denial) => Err(denial),
            None => Ok(Permit::copying(copy)),
        }
    }

    fn instead(&mut self, reading: &Arc<Reading>, state: Moment) -> Option<Arc<Reading>> {
        let nulled = self.nulled(reading, state)?;
        self.tell_nulled(&nulled);
        Some(nulled)
    }

    fn masks(&mut self) -> Option<Arc<Masks>> {
        self.veil.masks.clone()
    }

    fn settled(&mut self) {
        self.settles();
    }

    fn denied(&mut self, token: &str, denial: &Denial, text: Option<&str>) {
        let denied = Denied {
            connection: self.profile.id,
            token: token.to_owned(),
            text: text.map(str::to_owned),
            denial: denial.clone(),
        };
        self.tell(&Word::Denied(Box::new(denied)));
    }

    fn summed(&mut self, sum: RequestSum) {
        let summed = Summed { connection: self.profile.id, bytes: None, sum };
        self.tell(&Word::Summed(vec![summed]));
    }

    fn summed_so_far(&mut self, bytes: u64, sum: RequestSum) {
        self.so_far.set(SoFar { bytes, sum });
    }

    fn hiding(&self) -> Arc<Hiding> {
        self.judging.borrow().hiding.clone()
    }

    fn veiled(&mut self) {
        self.tell(&Word::Veiled(self.profile.id));
    }

    fn masked(&mut self, text: TextPrint, columns: &[Arc<str>]) {
        let (connection, columns) = (self.profile.id, columns.into());
        self.tell(&Word::Masked(Box::new(Masked { connection, text, columns })));
    }

    fn authenticated(&mut self, method: &'static str) {
        self.profile.authenticated(method);
        self.passed = None;
    }

    fn renamed(&mut self, application: &str) {
        self.profile.calls_itself(application);
        self.passed = None;
    }

    fn may_hang_on_values(&self, name: &str) -> bool {
        !name.is_empty() && self.said.prepared.may_hang_on_values(name)
    }

    fn answered(&mut self, went_well: bool) {
        self.said.prepared.settle(went_well);
    }

    fn asks(&self) -> bool {
        self.judging.borrow().asks
    }

    fn ask(&mut self, question: court::Question) {
        let ask = approvals::asked(&self.profile, self.number, question);
        self.tell(&Word::Approval(Box::new(ask)));
    }

    fn gives_up(&mut self, why: Over) {
        self.tell(&Word::ApprovalOver { number: self.number, why });
    }
}

impl Drop for ClientCourt {
    fn drop(&mut self) {
        self.settles();
    }
}

/// It only takes back what was begun: nobody should hold locks because nothing can be recorded.
fn gives_up(facts: &Facts) -> bool {
    facts.analysis.is_complete() && matches!(&*facts.summary, "ROLLBACK" | "ROLLBACK TO")
}

/// For the planner; `None` where it isn't known.
fn value(argument: &Argument) -> Option<Value> {
    Some(match argument {
        Argument::Null => Value::Null,
        Argument::Text(text) => Value::Text((**text).to_owned()),
        Argument::Binary(bytes) => Value::Binary(bytes.to_vec()),
        Argument::Unreadable => return None,
    })
}
