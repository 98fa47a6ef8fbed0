//! The starter pack for guarded servers against the corpus: what does damage is denied, what people's
//! programs send is not.

use std::{collections::BTreeSet, sync::Arc, thread};

use serde::Deserialize;

use super::{Caller, Case, Circumstances, Lane, Set, Subject, Verdict, World, caller};
use crate::statement::{
    Analysed, Lexer, Lexing, Parameter, Parameters, Prepared, STACK_BYTES, Session, TokenKind,
    analyse_in,
};

#[derive(Deserialize)]
struct Corpus {
    case: Vec<Sample>,
}

#[derive(Deserialize)]
struct Sample {
    id: String,
    steps: Vec<Step>,
    #[serde(default)]
    needs: BTreeSet<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Step {
    Text(String),
    Pipeline { pipeline: Vec<String> },
    Function { function: String, arguments: Vec<toml::Value> },
    Prepared { name: Option<String>, text: Option<String>, values: Vec<String> },
}

fn hostile() -> Vec<Sample> {
    toml::from_str::<Corpus>(include_str!("../../../../tests/corpus/hostile.toml")).unwrap().case
}

fn harmless() -> Vec<Sample> {
    toml::from_str::<Corpus>(include_str!("../../../../tests/corpus/harmless.toml")).unwrap().case
}

/// A guard without sockets: follows a session and judges what it is given.
struct Judge {
    set: Set,
    caller: Caller,
    session: Session,
}

impl Judge {
    fn new() -> Self {
        let set = Set::load(&[], true, World::default()).unwrap_or_else(|wrong| panic!("{wrong}"));
        let caller = Caller { lane: Lane::Guarded, ..caller() };
        Self { set, caller, session: Session::default() }
    }

    /// The rule that denies, if one does.
    fn denies(&self, analysed: &Analysed) -> Option<Arc<str>> {
        let facts = Some(&*analysed.whole);
        let circumstances = Circumstances::default();
        let judgement = self.set.decide(&Case {
            caller: &self.caller,
            subject: Subject::Statement(facts),
            circumstances,
        });
        (judgement.verdict >= Verdict::Deny).then(|| judgement.rule.unwrap_or_default())
    }

    fn query(&mut self, text: &str) -> Option<Arc<str>> {
        let analysed = analyse_in(text, &self.session);
        let denied = self.denies(&analysed);
        if denied.is_none() {
            self.session.hear(&analysed, text);
            self.session.prepared.settle(true);
        }
        denied
    }

    fn bound(&mut self, name: &str, text: &str, values: Vec<Parameter>) -> Option<Arc<str>> {
        let parsed = analyse_in(text, &self.session);
        if let Some(rule) = self.denies(&parsed) {
            return Some(rule);
        }
        if !name.is_empty() {
            self.session.prepared.push(Prepared {
                name: name.into(),
                facts: parsed.whole.clone(),
                is_parameter_sensitive: parsed.is_parameter_sensitive,
                is_by_text: false,
                body: None,
            });
        }
        let session = Session { parameters: Parameters::Bound(values), ..self.session.clone() };
        let denied = self.denies(&analyse_in(text, &session));
        if denied.is_none() {
            self.session.hear(&parsed, text);
        }
        denied
    }

    fn step(&mut self, step: &Step) -> Option<Arc<str>> {
        let text = |value: &String| Parameter::Text(value.as_str().into());
        match step {
            Step::Text(text) => self.query(text),
            Step::Pipeline { pipeline } => pipeline.iter().find_map(|text| self.query(text)),
            Step::Prepared { name, text: Some(sql), values } => {
                let name = name.as_deref().unwrap_or_default();
                self.bound(name, sql, values.iter().map(text).collect())
            }
            Step::Prepared { text: None, .. } => None,
            Step::Function { function, arguments } => {
                let (schema, name) = function.split_once('.').unwrap();
                let places: Vec<String> = (1..=arguments.len()).map(|n| format!("${n}")).collect();
                let sql = format!("SELECT \"{schema}\".\"{name}\"({})", places.join(","));
                let values = arguments.iter().map(|value| match value {
                    toml::Value::String(value) => Parameter::Text(value.as_str().into()),
                    _ => Parameter::Unreadable,
                });
                self.bound("", &sql, values.collect())
            }
        }
    }

    fn case(&mut self, steps: &[Step]) -> Option<Arc<str>> {
        self.session = Session::default();
        steps.iter().find_map(|step| self.step(step))
    }
}

/// The analysis wants a large stack.
fn judging(test: impl FnOnce(Judge) + Send + 'static) {
    let thread = thread::Builder::new().stack_size(STACK_BYTES);
    let thread = thread.spawn(move || test(Judge::new())).unwrap();
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn what_does_damage_is_denied() {
    judging(|mut judge| {
        let mut passed = Vec::new();
        let mut rules = BTreeSet::new();
        for sample in hostile().iter().filter(|sample| sample.needs.is_empty()) {
            match judge.case(&sample.steps) {
                Some(rule) => drop(rules.insert(rule)),
                None => passed.push(sample.id.clone()),
            }
        }
        assert!(passed.is_empty(), "let through: {passed:#?}");
        let all = judge.set.rules().into_keys().filter(|id| id.starts_with("guard:"));
        // Only a planner can tell.
        let all = all.filter(|id| *id != "guard:bulk-write");
        let idle: Vec<&str> = all.filter(|id| !rules.contains(*id)).collect();
        // The replication protocol's own words are no SQL; code by native languages is code first.
        assert!(idle.is_empty(), "no case shows what these are for: {idle:?}");
    });
}

#[test]
fn the_pack_is_for_guarded_servers_in_production() {
    judging(|judge| {
        for (lane, environment, expected) in [
            (Lane::Guarded, Some("production"), Verdict::Deny),
            (Lane::Guarded, Some("prod"), Verdict::Deny),
            (Lane::Guarded, Some("live"), Verdict::Deny),
            (Lane::Guarded, None, Verdict::Deny),
            (Lane::Guarded, Some("staging"), Verdict::Allow),
            (Lane::Observed, Some("production"), Verdict::Allow),
        ] {
            let environment = environment.map(Into::into);
            let caller = Caller { lane, environment, ..caller() };
            let facts = analyse_in("SET ROLE bob", &Session::default()).whole;
            let circumstances = Circumstances::default();
            let subject = Subject::Statement(Some(&facts));
            let case = Case { caller: &caller, subject, circumstances };
            assert_eq!(judge.set.decide(&case).verdict, expected, "{lane:?} {caller:?}");
        }
    });
}

#[test]
fn what_programs_send_is_let_through() {
    judging(|mut judge| {
        let mut denied = Vec::new();
        for sample in harmless() {
            if let Some(rule) = judge.case(&sample.steps) {
                denied.push(format!("{}: {rule}", sample.id));
            }
        }
        assert!(denied.is_empty(), "denied: {denied:#?}");
    });
}

/// Random numbers that are the same in each run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % sides
    }

    fn one_of<'a>(&mut self, all: &[&'a str]) -> &'a str {
        all[self.roll(all.len())]
    }
}

/// The same statement in other letters, with other gaps, and something around it.
fn variant(text: &str, dice: &mut Dice) -> String {
    const GAPS: &[&str] =
        &[" ", "\n", "\t", "\r\n", "/**/", "/* ; */", "/* /* ' */ */", " -- '\n", "\u{c}"];
    let mut varied = String::new();
    for token in Lexer::new(text, Lexing::default()) {
        let written = token.text(text);
        match token.kind {
            // A line's end parts what is written in two pieces.
            TokenKind::Space if written.contains(['\n', '\r']) => varied.push_str(written),
            TokenKind::Space => varied.push_str(dice.one_of(GAPS)),
            TokenKind::Word => varied.extend(written.chars().map(|c| match dice.roll(2) {
                0 => c.to_ascii_uppercase(),
                _ => c.to_ascii_lowercase(),
            })),
            TokenKind::Punctuation if matches!(written, "(" | "," | ")") => {
                varied.push_str(written);
                varied.push_str(dice.one_of(&["", " ", "/**/"]));
            }
            _ => varied.push_str(written),
        }
    }
    varied
}

/// The same inside of something else; only where it is one statement that can stand there.
fn nested(text: &str, dice: &mut Dice) -> Option<String> {
    let verb = text.trim_start().get(..6)?.to_ascii_uppercase();
    let is_single = !text.contains(';');
    let is_query = is_single && matches!(&*verb, "DELETE" | "UPDATE" | "SELECT" | "INSERT");
    let text = text.trim();
    Some(match dice.roll(8) {
        0 if is_query => format!("EXPLAIN ANALYZE {text}"),
        1 if is_query => format!("EXPLAIN (VERBOSE, ANALYZE on) {text}"),
        2 if is_query && verb != "SELECT" && !text.contains("RETURNING") => {
            format!("WITH x AS ({text} RETURNING 1) SELECT * FROM x")
        }
        3 if is_query && verb == "SELECT" => format!("SELECT * FROM ({text}) AS x (a)"),
        4 if is_query && !text.contains('$') => format!("PREPARE p AS {text}"),
        5 => format!("DO $do$BEGIN {text}; END$do$"),
        6 => format!("SELECT 1; {text}; SELECT 2"),
        7 if is_single => format!("BEGIN; SAVEPOINT a; {text}; COMMIT"),
        _ => return None,
    })
}

#[test]
fn no_variant_of_it_is_let_through() {
    judging(|mut judge| {
        let mut dice = Dice(11);
        let mut passed = Vec::new();
        let mut n_judged = 0;
        for sample in hostile().iter().filter(|sample| sample.needs.is_empty()) {
            // One statement alone, which was denied for what it says.
            let [Step::Text(text)] = sample.steps.as_slice() else { continue };
            for _ in 0..6 {
                let mut varied = variant(text, &mut dice);
                if let Some(inside) = nested(&varied, &mut dice) {
                    varied = inside;
                }
                n_judged += 1;
                if judge.case(&[Step::Text(varied.clone())]).is_none() {
                    passed.push(format!("{}: {varied}", sample.id));
                }
            }
        }
        assert!(passed.is_empty(), "let through: {passed:#?}");
        assert!(n_judged > 900, "{n_judged}");
    });
}
