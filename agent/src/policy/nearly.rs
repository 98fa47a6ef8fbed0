//! Which rules came close to a case, and what kept them from it.

use std::sync::Arc;

use cedar_policy::{Authorizer, Policy, PolicySet};
use serde_json::{Value, json};

use super::{
    Rule, Set,
    question::{Case, Question, Unaskable},
};

/// A rule that applies in part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Near {
    pub rule: Arc<str>,
    pub action: &'static str,
    /// What it was asked about, as in `Table::"orders/app/customers"`.
    pub resource: String,
    pub parts: Vec<Part>,
}

/// One of the conditions that must all be met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// As a policy has it.
    pub text: String,
    pub met: bool,
}

impl Near {
    fn n_unmet(&self) -> usize {
        self.parts.iter().filter(|part| !part.met).count()
    }
}

impl Set {
    /// Rules for the case's actions that don't apply although some of their conditions are met; those
    /// that lack least come first.
    ///
    /// # Errors
    /// Where Cedar can't be asked.
    pub fn nearly(&self, case: &Case<'_>) -> Result<Vec<Near>, Unaskable> {
        let question = Question::new(case, &self.world, &self.names)?;
        let outcome = self.outcome(case)?;
        let authorizer = Authorizer::new();
        let mut near: Vec<Near> = Vec::new();
        for (action, request) in &question.requests {
            let Some(judging) = self.judging(*action) else { continue };
            for policy in judging.policies() {
                let Some(rule) = self.rule(policy.id().as_ref()) else { continue };
                if outcome.fired.contains_key(&rule.id) || outcome.broken.contains_key(&rule.id) {
                    continue;
                }
                let parts = parts(rule);
                let parts: Vec<Part> = parts
                    .into_iter()
                    .map(|(text, set)| {
                        let answer = authorizer.is_authorized(request, &set, &question.entities);
                        Part { text, met: answer.diagnostics().reason().next().is_some() }
                    })
                    .collect();
                if parts.iter().any(|part| part.met) {
                    let resource = request.resource().map(ToString::to_string);
                    near.push(Near {
                        rule: rule.id.clone(),
                        action: action.name(),
                        resource: resource.unwrap_or_default(),
                        parts,
                    });
                }
            }
        }
        near.sort_by(|a, b| a.n_unmet().cmp(&b.n_unmet()).then_with(|| a.rule.cmp(&b.rule)));
        // Of several resources, the one that lacks least speaks for the rule.
        let mut told = std::collections::HashSet::new();
        near.retain(|one| told.insert(one.rule.clone()));
        Ok(near)
    }
}

/// The conditions of a rule, each as a set of one policy that only has it. That of the action is met.
fn parts(rule: &Rule) -> Vec<(String, PolicySet)> {
    let Ok(whole) = rule.policy.to_json() else { return Vec::new() };
    let everything = json!({ "op": "All" });
    let blank = || {
        json!({
            "effect": "forbid", "principal": everything, "action": everything,
            "resource": everything, "conditions": [],
        })
    };
    let mut parts = Vec::new();
    for scope in ["principal", "resource"] {
        if let Some(constraint) = whole.get(scope).filter(|constraint| **constraint != everything) {
            let mut part = blank();
            part[scope] = constraint.clone();
            parts.push(part);
        }
    }
    for condition in whole.get("conditions").and_then(Value::as_array).into_iter().flatten() {
        let (Some(kind), Some(body)) = (condition.get("kind"), condition.get("body")) else {
            continue;
        };
        let mut conjuncts = Vec::new();
        match kind.as_str() {
            Some("when") => split(body, &mut conjuncts),
            _ => conjuncts.push(body),
        }
        for body in conjuncts {
            let mut part = blank();
            part["conditions"] = json!([{ "kind": kind, "body": body }]);
            parts.push(part);
        }
    }
    parts.into_iter().filter_map(set_of).collect()
}

/// `a && b && c` → a, b, c
fn split<'a>(body: &'a Value, conjuncts: &mut Vec<&'a Value>) {
    match body.get("&&").and_then(|and| Some((and.get("left")?, and.get("right")?))) {
        Some((left, right)) => {
            split(left, conjuncts);
            split(right, conjuncts);
        }
        None => conjuncts.push(body),
    }
}

fn set_of(part: Value) -> Option<(String, PolicySet)> {
    let policy = Policy::from_json(None, part).ok()?;
    let text = shown(&policy.to_string());
    let set = PolicySet::from_policies([policy]).ok()?;
    Some((text, set))
}

/// `forbid(principal is Ai, action, resource);` → `principal is Ai`, and so for conditions.
fn shown(policy: &str) -> String {
    let words: Vec<&str> = policy.split_whitespace().collect();
    let line = words.join(" ");
    let condition = ["when {", "unless {"].iter().find_map(|kind| {
        let (_, body) = line.split_once(kind)?;
        let body = body.trim().trim_end_matches(';').trim_end().strip_suffix('}')?.trim();
        Some(if kind.starts_with("unless") { format!("unless {body}") } else { body.to_owned() })
    });
    condition.unwrap_or_else(|| {
        let scope = line.split_once('(').map_or("", |(_, scope)| scope);
        let scope = scope.trim_end_matches(';').trim_end_matches(')');
        let parts = scope.split(", ").map(str::trim);
        parts.filter(|part| !matches!(*part, "principal" | "action" | "resource")).collect()
    })
}
