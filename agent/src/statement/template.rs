//! A text with its literals taken out, so that what was learnt of one text holds for the next that differs
//! in nothing else.

use std::ops::Range;

use super::lexer::{Lexer, Lexing, LiteralKind, TokenKind};

/// A template and the literals that were taken out; kept and filled again, it allocates nothing.
#[derive(Debug, Default)]
pub struct Template {
    key: String,
    literals: Vec<Range<usize>>,
    is_whole: bool,
    is_sound: bool,
}

impl Template {
    pub fn fill(&mut self, text: &str, lexing: Lexing) {
        self.key.clear();
        self.literals.clear();
        self.is_whole = true;
        self.is_sound = true;
        // Strings that conform are told from those that don't, or one would stand for the other.
        self.key.push(if lexing.standard_conforming_strings { 's' } else { 'n' });
        let mut kept = 0;
        let mut is_after_uescape = false;
        for token in Lexer::new(text, lexing) {
            let is_escape = match token.is_significant() {
                true => std::mem::replace(&mut is_after_uescape, token.is_word(text, "UESCAPE")),
                false => false,
            };
            let marker = match token.kind {
                TokenKind::Literal(kind) => {
                    self.literals.push(token.range());
                    // It says which name stands before it.
                    if is_escape {
                        continue;
                    }
                    marker(kind)
                }
                TokenKind::Comment => " ",
                TokenKind::Junk => {
                    self.is_sound = false;
                    continue;
                }
                _ => continue,
            };
            self.is_whole = false;
            self.key.push_str(text.get(kept..token.start).unwrap_or_default());
            self.key.push_str(marker);
            kept = token.end;
        }
        self.key.push_str(text.get(kept..).unwrap_or_default());
    }

    /// Equal for texts that the grammar can't tell apart but for the values of literals.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Where the literals stand in the text, in order.
    pub fn literals(&self) -> &[Range<usize>] {
        &self.literals
    }

    /// Whether nothing was taken out.
    pub fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// Whether the key says all. It doesn't where the text has bytes that begin no token: one of them
    /// could pass for a marker.
    pub fn is_sound(&self) -> bool {
        self.is_sound
    }
}

/// Control characters, which begin no token; different ones for what the grammar tells apart.
fn marker(kind: LiteralKind) -> &'static str {
    match kind {
        LiteralKind::Plain | LiteralKind::Escaped | LiteralKind::Dollar => "\u{1}",
        LiteralKind::Unicode => "\u{2}",
        LiteralKind::Bits => "\u{3}",
        LiteralKind::Hex => "\u{4}",
        LiteralKind::Integer => "\u{5}",
        LiteralKind::Float => "\u{6}",
    }
}

#[cfg(test)]
mod tests {
    use super::Template;
    use crate::statement::lexer::Lexing;

    #[test]
    fn texts_share_a_template_if_the_grammar_sees_no_difference() {
        let key = |text: &str| {
            let mut template = Template::default();
            template.fill(text, Lexing::default());
            assert!(template.is_sound(), "{text}");
            template.key().to_owned()
        };
        for (one, other, same) in [
            ("SELECT 1", "SELECT 25", true),
            ("SELECT 1", "SELECT 3000000000", false),
            ("SELECT 1", "SELECT '1'", false),
            ("SELECT 'a'", "SELECT E'\\''", true),
            ("SELECT 'a'", "SELECT $x$a$x$", true),
            ("SELECT 'a'", "SELECT U&'a'", false),
            ("SELECT a /* x='1' */", "SELECT a /* x='2' */", true),
            ("SELECT a", "SELECT b", false),
            ("SELECT \"1\"", "SELECT \"2\"", false),
            ("SELECT 1 AS a", "SELECT 1  AS a", false),
            ("SELECT $1", "SELECT $2", false),
            ("SELECT U&\"a!0062\" UESCAPE '!'", "SELECT U&\"a!0062\" uescape /**/ '#'", false),
            ("SELECT U&\"a!0062\" UESCAPE '!', 1", "SELECT U&\"a!0062\" UESCAPE '!', 2", true),
        ] {
            assert_eq!(key(one) == key(other), same, "{one} and {other}");
        }
    }

    #[test]
    fn a_text_cannot_pass_for_a_template() {
        let mut template = Template::default();
        template.fill("SELECT \u{5}", Lexing::default());
        assert!(!template.is_sound());
        template.fill("SELECT \"\u{5}\"", Lexing::default());
        assert!(template.is_sound() && template.is_whole());
    }
}
