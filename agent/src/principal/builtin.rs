//! The rules that dbwarden brings along, from `builtin.toml`.

use super::{Rule, RuleError, Written};

/// Data, so that anybody can read what is known, and write more of it in the same form.
const BUILTIN: &str = include_str!("builtin.toml");
/// Stands before the id of each, where no id of the configuration can have it.
const PREFIX: &str = "builtin:";

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    principal: Vec<Written>,
}

/// In their order. They are sound: a test reads them.
pub fn rules() -> impl Iterator<Item = Result<Rule, RuleError>> {
    let read = toml::from_str::<File>(BUILTIN);
    let (written, failed) = match read {
        Ok(file) => (file.principal, None),
        Err(error) => {
            let why = error.to_string();
            (Vec::new(), Some(Err(RuleError::Invalid { key: "builtin.toml", why })))
        }
    };
    let rules = written.into_iter().map(|mut written| {
        written.id = written.id.map(|id| format!("{PREFIX}{id}"));
        Rule::new(&written, PREFIX)
    });
    failed.into_iter().chain(rules)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    #[test]
    fn all_are_sound_and_have_names_of_their_own() {
        let rules: Vec<_> = super::rules().collect::<Result<_, _>>().unwrap();
        assert!(rules.len() > 10);
        let ids: HashSet<_> = rules.iter().map(|rule| rule.id()).collect();
        assert_eq!(ids.len(), rules.len());
        assert!(ids.iter().all(|id| id.len() > super::PREFIX.len()));
    }
}
