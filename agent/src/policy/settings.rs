//! The settings that a statement names in SET, RESET and their relatives.

use std::collections::BTreeSet;

use crate::{
    event::{Effect, Facts},
    statement::{Lexer, Lexing, Token},
};

/// In lower case. What `set_config` sets stands in a literal and isn't known.
pub(super) fn settings(facts: &Facts) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let speaks_of_some = [Effect::Session, Effect::Configure, Effect::Define, Effect::Unknown];
    if !speaks_of_some.iter().any(|effect| facts.effects.contains(*effect)) {
        return names;
    }
    let text = &*facts.text;
    let tokens: Vec<Token> =
        Lexer::new(text, Lexing::default()).filter(|token| token.is_significant()).collect();
    for (at, token) in tokens.iter().enumerate() {
        if !token.is_word(text, "set") && !token.is_word(text, "reset") {
            continue;
        }
        let mut rest = tokens.iter().skip(at + 1).peekable();
        while rest.next_if(|t| t.is_word(text, "local") || t.is_word(text, "session")).is_some() {}
        let Some(first) = rest.next() else { continue };
        let mut name = plain(first.text(text));
        while rest.next_if(|token| token.is_sign(text, ".")).is_some() {
            let Some(part) = rest.next() else { break };
            name = format!("{name}.{}", plain(part.text(text)));
        }
        names.insert(name);
    }
    names
}

fn plain(name: &str) -> String {
    name.trim_matches('"').to_lowercase()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::settings;
    use crate::event::{Analysis, Effect, Effects, Facts};

    #[test]
    fn settings_are_found_wherever_they_are_set() {
        for (text, expected) in [
            ("SET log_statement = ?", "log_statement"),
            ("set local LOG_STATEMENT to none", "log_statement"),
            ("SET SESSION pgaudit.log = ?", "pgaudit.log"),
            ("SET \"pgaudit\".\"log\" = ?", "pgaudit.log"),
            ("ALTER SYSTEM SET log_destination = ?", "log_destination"),
            ("ALTER ROLE bob RESET ALL", "all"),
            ("/* SET x = 1 */ SELECT ?; RESET log_statement", "log_statement"),
            ("SET", ""),
        ] {
            let facts = Facts {
                text: Arc::from(text),
                fingerprint: 0,
                summary: Arc::default(),
                effects: Effects::from_iter([Effect::Configure]),
                tables: Vec::new(),
                columns: Vec::new(),
                functions: Vec::new(),
                keys: Vec::new(),
                restricted: None,
                analysis: Analysis::Complete,
            };
            let found: Vec<String> = settings(&facts).into_iter().collect();
            assert_eq!(found.join(" "), expected, "{text}");
        }
    }
}
