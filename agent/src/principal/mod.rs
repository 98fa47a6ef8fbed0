//! Who it is: what is known of a client and the rules → a principal with its evidence.
//!
//! Rules are tried in order, those of the configuration before those of `builtin.toml`, and the first
//! that matches wins. One thing is added to that. A rule about a unit or a user (`unit = "cron.service"`)
//! says whom a process belongs to, not what it is; so it can't hide an agent from an `ai` rule further
//! down, unless it speaks of the same thing as that one: of that very agent's program. What an `ai` rule
//! finds is an AI, and the first of the other rules that match names its initiator.
//!
//! Whatever a client can choose itself may make it less trusted, never more: [`Rule::new`] refuses rules
//! that would.

mod anchor;
mod builtin;
pub mod claims;
mod condition;
mod name;
mod network;
mod pattern;
mod program;
mod rule;
mod subject;

pub use network::Network;
pub use pattern::Pattern;
pub use rule::{Numbers, Rule, RuleError, Words, Written};
pub use subject::Subject;

use std::collections::HashSet;

use crate::event::{ClaimTag, Claims, Evidence, LoginStrength, Principal, PrincipalKind, Strength};

/// All rules in their order. Made once, asked for each connection.
#[derive(Debug)]
pub struct Rules {
    rules: Vec<Rule>,
    /// The tags that some rule asks about.
    tags: HashSet<Box<str>>,
}

impl Rules {
    /// Those that somebody wrote, in their order, and behind them those that dbwarden brings along.
    pub fn new(written: &[Written]) -> Result<Self, RuleError> {
        let own = written.iter().enumerate().map(|(at, written)| Rule::new(written, &own_id(at)));
        let rules: Vec<Rule> = own.chain(builtin::rules()).collect::<Result<_, _>>()?;
        let tags = rules.iter().flat_map(Rule::tags).map(Into::into).collect();
        Ok(Self { rules, tags })
    }

    /// Of what a statement claims, what can change who sent it; most claim nothing of that sort.
    pub fn telling(&self, claims: &Claims) -> Vec<ClaimTag> {
        claims.tags.iter().filter(|tag| self.tags.contains(&tag.name)).cloned().collect()
    }

    /// Who it is.
    pub fn decide(&self, subject: &Subject<'_>) -> Principal {
        let mut ai = None;
        let mut other = None;
        for (at, rule) in self.rules.iter().enumerate() {
            let place = if rule.kind() == PrincipalKind::Ai { &mut ai } else { &mut other };
            if place.is_none() && rule.matches(subject) {
                *place = Some((at, rule));
                if ai.is_some() && other.is_some() {
                    break;
                }
            }
        }
        let is_outranked = |(ai_at, ai): &(usize, &Rule)| {
            other.is_some_and(|(at, rule): (usize, &Rule)| {
                at < *ai_at && rule.shares_topic(ai, subject)
            })
        };
        let other = |with| other.map_or_else(nobody, |(_, rule)| found(rule, subject, with));
        match ai.filter(|ai| !is_outranked(ai)) {
            Some((_, rule)) => {
                let initiator = Some(Box::new(other(Vec::new())));
                Principal { initiator, ..found(rule, subject, objections(subject)) }
            }
            None => other(objections(subject)),
        }
    }
}

/// What a rule of the configuration is called that has no name of its own.
pub fn own_id(at: usize) -> String {
    format!("principal-{}", at + 1)
}

fn found(rule: &Rule, subject: &Subject<'_>, objections: Vec<Evidence>) -> Principal {
    let mut evidence = rule.evidence(subject);
    evidence.extend(objections);
    Principal {
        kind: rule.kind(),
        name: rule.name_of(subject).into(),
        rule: rule.id(),
        groups: rule.groups(),
        evidence,
        initiator: None,
    }
}

/// No rule knows it: the process was gone before it could be asked.
fn nobody() -> Principal {
    Principal {
        kind: PrincipalKind::Unknown,
        name: "unknown".into(),
        rule: "builtin:nobody".into(),
        groups: [].into(),
        evidence: Vec::new(),
        initiator: None,
    }
}

/// What doesn't fit together, for whoever looks at the evidence.
fn objections(subject: &Subject<'_>) -> Vec<Evidence> {
    let Some(process) = subject.process() else { return Vec::new() };
    let Some(uid) = process.login_uid.filter(|_| process.login_strength == LoginStrength::Weak)
    else {
        return Vec::new();
    };
    let name = process.login_user.as_deref().map(|name| format!(" ({name})")).unwrap_or_default();
    vec![Evidence {
        fact: "login_uid",
        value: format!("{uid}{name}, but no login session of that user: it may be forged"),
        strength: Strength::Weak,
    }]
}

#[cfg(test)]
mod tests;
