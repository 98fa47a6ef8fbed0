//! The rules for principals: each sound by itself, with a name of its own.

use std::collections::HashSet;

use toml::Spanned;

use super::{error::Complaint, settings::NAME_MAX};
use crate::principal::{Rule, Written, own_id};

pub(super) fn principals(written: Vec<Spanned<Written>>) -> Result<Vec<Written>, Complaint> {
    let mut ids = HashSet::new();
    let mut rules = Vec::with_capacity(written.len());
    for (at, entry) in written.into_iter().enumerate() {
        let span = entry.span();
        let rule = entry.into_inner();
        let complaint = |words: String| Complaint::at(span.clone(), words);
        let id = rule.id.clone().unwrap_or_else(|| own_id(at));
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if id.is_empty() || id.len() > NAME_MAX || !id.chars().all(plain) {
            return Err(complaint(format!(
                "[[principal]] `id`: {id:?} is not allowed: 1 to {NAME_MAX} letters, digits, `.`, `_` \
                 or `-`"
            )));
        }
        Rule::new(&rule, &id).map_err(|error| complaint(format!("[[principal]] {id}: {error}")))?;
        if !ids.insert(id.clone()) {
            return Err(complaint(format!(
                "[[principal]] `id`: two rules are called \"{id}\"; rows would not tell which it was"
            )));
        }
        rules.push(rule);
    }
    Ok(rules)
}
