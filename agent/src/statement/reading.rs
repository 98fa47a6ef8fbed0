//! How a server reads the backslashes of a text, as far as its setting and its answer tell.

use super::{
    lexer::{Lexer, Lexing, TokenKind},
    redact::redact,
    secrets::redact_secrets,
};

const ON: Lexing = Lexing { standard_conforming_strings: true };
const OFF: Lexing = Lexing { standard_conforming_strings: false };

/// How the server has cut `text` into tokens; `None` where that can't be told and makes a difference.
///
/// `setting` is what the session has said of `standard_conforming_strings`. Where it has said nothing, a
/// text that the server took (`is_accepted`, and the text is whole) had only one reading if the other
/// could be no SQL: so it is with `LIKE $1 ESCAPE '\'`, which would never end.
pub fn lexing(text: &str, setting: Option<bool>, is_accepted: bool) -> Option<Lexing> {
    if !text.contains('\\') {
        return Some(ON);
    }
    if let Some(standard_conforming_strings) = setting {
        return Some(Lexing { standard_conforming_strings });
    }
    if redact(text, ON) == redact(text, OFF) {
        return Some(ON);
    }
    match (may_be_sql(text, ON), may_be_sql(text, OFF)) {
        (true, false) if is_accepted => Some(ON),
        (false, true) if is_accepted => Some(OFF),
        _ => None,
    }
}

/// Redacted so that no literal is shown whichever way the text is read.
pub fn redact_ambiguous(text: &str) -> String {
    shown_in_both(&redact(text, ON), &redact(text, OFF))
}

/// The same for secrets alone.
pub fn redact_ambiguous_secrets(text: &str) -> String {
    shown_in_both(&redact_secrets(text, ON), &redact_secrets(text, OFF))
}

/// What stands at the beginning of both: each is fit to be shown if the text is read its way, and so is
/// any beginning of it.
fn shown_in_both(one: &str, other: &str) -> String {
    let same = one.chars().zip(other.chars()).take_while(|(a, b)| a == b);
    let mut shown: String = same.map(|(a, _)| a).collect();
    if (shown.len() < one.len() || shown.len() < other.len()) && !shown.ends_with('?') {
        shown.push('?');
    }
    shown
}

/// Whether the lexer has nothing against it: every quotation ends, and no backslash stands alone.
fn may_be_sql(text: &str, lexing: Lexing) -> bool {
    // Whatever is still open at the end swallows what comes after it.
    let text = format!("{text}\n;");
    let is_lone = |kind, written: &str| kind == TokenKind::Junk && written == "\\";
    let mut last = None;
    for token in Lexer::new(&text, lexing) {
        if is_lone(token.kind, token.text(&text)) {
            return false;
        }
        last = Some(token.kind);
    }
    last == Some(TokenKind::Punctuation)
}

#[cfg(test)]
mod tests {
    use super::{OFF, ON, lexing, redact_ambiguous, redact_ambiguous_secrets};

    #[test]
    fn the_setting_decides_and_without_it_the_answer_may() {
        for (text, setting, is_accepted, expected) in [
            ("SELECT 'a'", None, false, Some(ON)),
            ("SELECT 'a'", Some(false), true, Some(ON)),
            (r"SELECT 'a\'b'", Some(false), false, Some(OFF)),
            (r"SELECT 'a\'", Some(true), true, Some(ON)),
            // Read either way, the same is hidden.
            (r"SELECT 'C:\dir\x', 1", None, false, Some(ON)),
            (r"SELECT E'a\'b', U&'\0061', $$\'$$", None, false, Some(ON)),
            // One of the two never ends, or has a backslash where none can be.
            (r"SELECT 1 WHERE a LIKE $1 ESCAPE '\' OR b", None, true, Some(ON)),
            (
                r"SELECT 1 WHERE a LIKE 'x' ESCAPE '\' AND b LIKE 'y' ESCAPE '\'",
                None,
                true,
                Some(ON),
            ),
            (r"SELECT 'a\'b'", None, true, Some(OFF)),
            // Nobody has taken it, or it is a part only.
            (r"SELECT 1 WHERE a LIKE $1 ESCAPE '\' OR b", None, false, None),
            // Both are SQL.
            (r"SELECT '\'' -- it's", None, true, None),
            (r"SELECT 'a\', ' x ' /* \' ' */", None, true, None),
            (r"DO $$ BEGIN PERFORM 'a\'; PERFORM 'b'; END $$", None, true, None),
        ] {
            assert_eq!(lexing(text, setting, is_accepted), expected, "{text}");
        }
    }

    #[test]
    fn no_literal_is_shown_in_any_reading() {
        let check = |text: &str, expected: &str| assert_eq!(redact_ambiguous(text), expected);
        check(r"SELECT 1, 'a' FROM t", "SELECT ?, ? FROM t");
        check(r"SELECT x, 'a\', ' secret ', 'b\', y FROM t", "SELECT x, ?");
        check(r"SELECT x, 'a\' secret', y FROM t", "SELECT x, ?");
        check(r"DO $$ BEGIN f('a\', ' secret'); END $$", "DO $$BEGIN f(?");
        check(r"\", r"\");
        let check = |text: &str, expected: &str| {
            assert_eq!(redact_ambiguous_secrets(text), expected, "{text}");
        };
        check(r"SELECT 'a\', ' b', y FROM t", r"SELECT 'a\', ' b', y FROM t");
        check(r"ALTER ROLE a PASSWORD 'x\' secret'", "ALTER ROLE a PASSWORD ?");
    }
}
