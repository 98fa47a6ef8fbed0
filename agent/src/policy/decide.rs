//! A case and a set of rules → a judgement: the worst verdict wins, and no rule is skipped in silence.

use std::{collections::BTreeMap, sync::Arc};

use cedar_policy::{AuthorizationError, Authorizer, PolicyId};

use super::{
    Does, Set,
    question::{Case, Question, Subject, Unaskable},
};
use crate::event::{Finding, Judgement, Lane, Severity, Verdict};

/// What every rule made of a case.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Rules that apply, with what silenced them.
    pub fired: BTreeMap<Arc<str>, Option<Arc<str>>>,
    /// Rules that could not be evaluated, with Cedar's words.
    pub broken: BTreeMap<Arc<str>, String>,
}

impl Set {
    /// # Errors
    /// Where Cedar can't be asked.
    pub fn outcome(&self, case: &Case<'_>) -> Result<Outcome, Unaskable> {
        let question = Question::new(case, &self.world, &self.names)?;
        let authorizer = Authorizer::new();
        let mut outcome = Outcome::default();
        // A rule that one request silences may still apply to another.
        for (action, request) in &question.requests {
            let Some(judging) = self.judging(*action) else { continue };
            let judged = authorizer.is_authorized(request, judging, &question.entities);
            outcome.breaks(judged.diagnostics().errors());
            let fired: Vec<Arc<str>> = judged.diagnostics().reason().map(name).collect();
            if fired.is_empty() {
                continue;
            }
            let mut silenced: BTreeMap<Arc<str>, Arc<str>> = BTreeMap::new();
            if let Some(silencing) = self.silencing(*action) {
                let answer = authorizer.is_authorized(request, silencing, &question.entities);
                outcome.breaks(answer.diagnostics().errors());
                for by in answer.diagnostics().reason().map(name) {
                    if let Some(Does::Silence(rules)) = self.rule(&by).map(|rule| &rule.does) {
                        silenced.extend(rules.iter().map(|rule| (rule.clone(), by.clone())));
                    }
                }
            }
            for rule in fired {
                let by = silenced.get(&rule).cloned();
                let entry = outcome.fired.entry(rule).or_insert_with(|| by.clone());
                if by.is_none() {
                    *entry = None;
                }
            }
        }
        Ok(outcome)
    }

    /// The verdict for a case.
    pub fn decide(&self, case: &Case<'_>) -> Judgement {
        match self.outcome(case) {
            Ok(outcome) => self.judgement(&outcome, case),
            Err(error) => {
                let finding = Finding {
                    rule: UNASKABLE.into(),
                    verdict: on_error(case),
                    severity: Severity::High,
                    message: error.to_string().into(),
                    dry_run: false,
                };
                judgement(vec![finding], case.lane())
            }
        }
    }

    fn judgement(&self, outcome: &Outcome, case: &Case<'_>) -> Judgement {
        let mut findings = Vec::new();
        for (id, _) in outcome.fired.iter().filter(|(_, silenced)| silenced.is_none()) {
            let Some(rule) = self.rule(id) else { continue };
            let Does::Judge { verdict, dry_run, .. } = rule.does else { continue };
            findings.push(Finding {
                rule: rule.id.clone(),
                verdict,
                severity: rule.severity,
                message: rule.message.clone(),
                dry_run,
            });
        }
        for (id, words) in &outcome.broken {
            let rule = self.rule(id);
            findings.push(Finding {
                rule: id.clone(),
                verdict: on_error(case),
                severity: rule.map_or(Severity::High, |rule| rule.severity.max(Severity::High)),
                message: format!("this rule can't be evaluated: {words}").into(),
                dry_run: rule.is_some_and(super::Rule::dry_run),
            });
        }
        judgement(findings, case.lane())
    }
}

/// Stands for the rule where there was none to ask.
const UNASKABLE: &str = "builtin:policy-failed";

/// What can't be judged isn't let through where something can be done about it.
fn on_error(case: &Case<'_>) -> Verdict {
    match (case.subject, case.lane()) {
        (Subject::Connect, _) => Verdict::Guard,
        (_, Lane::Observed) => Verdict::Flag,
        (_, Lane::Guarded) => Verdict::Deny,
    }
}

/// What becomes of a statement in a lane, where a rule wants this.
fn possible(wanted: Verdict, lane: Lane) -> Verdict {
    match (lane, wanted) {
        // Of a connection that is yet to be made.
        (_, Verdict::Guard) => Verdict::Guard,
        (_, Verdict::Cut) => Verdict::Cut,
        // Nothing stands between client and server there: what a rule wants is recorded, and all that can
        // be done is to end the connection.
        (Lane::Observed, milder) => milder.min(Verdict::Flag),
        (Lane::Guarded, milder) => milder,
    }
}

fn judgement(mut findings: Vec<Finding>, lane: Lane) -> Judgement {
    // The rule of the worst verdict decides, of several the most severe, then the first by name.
    findings.sort_by(|a, b| {
        let rank = |one: &Finding| (one.dry_run, std::cmp::Reverse((one.verdict, one.severity)));
        rank(a).cmp(&rank(b)).then_with(|| a.rule.cmp(&b.rule))
    });
    match findings.first().filter(|worst| !worst.dry_run) {
        Some(worst) => Judgement {
            verdict: possible(worst.verdict, lane),
            rule: Some(worst.rule.clone()),
            findings,
        },
        None => Judgement { findings, ..Judgement::allowed() },
    }
}

fn name(id: &PolicyId) -> Arc<str> {
    let name: &str = id.as_ref();
    name.into()
}

impl Outcome {
    fn breaks<'a>(&mut self, errors: impl Iterator<Item = &'a AuthorizationError>) {
        for error in errors {
            let AuthorizationError::PolicyEvaluationError(error) = error;
            self.broken.insert(name(error.policy_id()), error.inner().to_string());
        }
    }
}
