//! A text without its literals and comments, made by the lexer alone: a text that no grammar takes is
//! redacted as well.

use super::{
    lexer::{Lexer, Lexing, Token, TokenKind},
    literal,
    pieces::significant,
};

/// `?` for each literal, one space for each run of space and comments.
///
/// Comments are dropped whole: they carry whatever a client likes to write into them. The bodies of `DO`
/// and of functions in SQL and PL/pgSQL stay, redacted in the same way.
pub fn redact(text: &str, lexing: Lexing) -> String {
    let mut shown = String::with_capacity(text.len());
    let tokens = significant(text, lexing);
    for statement in tokens.split_inclusive(|token| token.is_sign(text, ";")) {
        let has_code = has_readable_code(text, statement);
        for (at, token) in statement.iter().enumerate() {
            write_gap(text, *token, &mut shown);
            match token.kind {
                TokenKind::Literal(kind) if has_code && is_code(text, statement, at) => {
                    let body = literal::value(kind, token.text(text));
                    shown.push_str("$$");
                    write_flat(body.trim_start(), lexing, &mut shown);
                    shown.push_str("$$");
                }
                TokenKind::Literal(_) => shown.push('?'),
                _ => shown.push_str(token.text(text)),
            }
        }
    }
    shown
}

/// Without a look for code in strings: a string inside of code may be code again, but nobody knows.
fn write_flat(text: &str, lexing: Lexing, shown: &mut String) {
    for token in Lexer::new(text, lexing).filter(|token| token.is_significant()) {
        write_gap(text, token, shown);
        match token.is_literal() {
            true => shown.push('?'),
            false => shown.push_str(token.text(text)),
        }
    }
}

/// A space where something insignificant stands before `token`.
fn write_gap(text: &str, token: Token, shown: &mut String) {
    let before = token.start.checked_sub(1).and_then(|at| text.as_bytes().get(at));
    // A comment ends in `/` or at a line's end, and an operator never joins up with a comment.
    let parted = before.is_some_and(|byte| byte.is_ascii_whitespace() || *byte == 0x0b);
    let parted = parted || text.get(..token.start).is_some_and(|text| text.ends_with("*/"));
    if parted && !shown.is_empty() {
        shown.push(' ');
    }
}

/// Whether this statement brings code in a string, in a language that is cut into tokens like SQL.
pub(super) fn has_readable_code(text: &str, statement: &[Token]) -> bool {
    let language = statement.iter().position(|token| token.is_word(text, "language"));
    let language = language.and_then(|at| statement.get(at + 1)).map(|token| match token.kind {
        TokenKind::Literal(kind) => literal::value(kind, token.text(text)),
        _ => token.text(text).trim_matches('"').to_owned(),
    });
    match language {
        Some(name) => ["sql", "plpgsql"].iter().any(|known| name.eq_ignore_ascii_case(known)),
        // A `DO` is PL/pgSQL unless it says otherwise; a function has to say.
        None => statement.first().is_some_and(|token| token.is_word(text, "do")),
    }
}

/// Whether the literal at `at` is the code of a `DO`, or of a function or procedure that is created.
pub(super) fn is_code(text: &str, statement: &[Token], at: usize) -> bool {
    let is_word =
        |at: usize, word| statement.get(at).is_some_and(|token| token.is_word(text, word));
    let Some(before) = at.checked_sub(1) else { return false };
    if is_word(0, "do") {
        return !is_word(before, "language");
    }
    // CREATE OR REPLACE FUNCTION
    let defines = is_word(0, "create")
        && (1..4).any(|at| is_word(at, "function") || is_word(at, "procedure"));
    defines && is_word(before, "as")
}

#[cfg(test)]
mod tests {
    use super::redact;
    use crate::statement::lexer::Lexing;

    #[test]
    fn literals_and_comments_go_and_all_else_stays() {
        let check = |text: &str, expected: &str| {
            assert_eq!(redact(text, Lexing::default()), expected, "{text}");
        };
        check("SELECT * FROM t WHERE a = 'x' AND b=1.5", "SELECT * FROM t WHERE a = ? AND b=?");
        check("select\n\t1 -- my secret\n, 2", "select ? , ?");
        check("/* tag='x' */ SELECT/* a */1", "SELECT ?");
        check("SELECT a/* b */FROM t", "SELECT a FROM t");
        check("SELECT 'a'\n'b', E'\\'', $$x$$, U&'\\0041', B'1', x'F'", "SELECT ?, ?, ?, ?, ?, ?");
        check("SELECT \"it's\" FROM \"a--b\"", "SELECT \"it's\" FROM \"a--b\"");
        check("INSERT INTO t VALUES (1, 'a'), (2, 'b')", "INSERT INTO t VALUES (?, ?), (?, ?)");
        check("SELECT $1, -5", "SELECT $1, -?");
        check("SELECT 'never closed", "SELECT ?");
        check("SELECT $a$ never closed $b$", "SELECT ?");
        check("this is no SQL: 'secret' 42", "this is no SQL: ? ?");
        check("SELECT 1; SELECT 'a'", "SELECT ?; SELECT ?");
        check("", "");
    }

    #[test]
    fn code_in_strings_is_redacted_inside() {
        let check = |text: &str, expected: &str| {
            assert_eq!(redact(text, Lexing::default()), expected, "{text}");
        };
        check(
            "DO $$ BEGIN DELETE FROM t WHERE a = 'x'; END $$",
            "DO $$BEGIN DELETE FROM t WHERE a = ?; END$$",
        );
        check("DO 'BEGIN PERFORM f(''x''); END'", "DO $$BEGIN PERFORM f(?); END$$");
        check("DO LANGUAGE 'plpgsql' $$ x := 1 $$", "DO LANGUAGE ? $$x := ?$$");
        check("DO $$ pass = \"secret\" $$ LANGUAGE plpython3u", "DO ? LANGUAGE plpython3u");
        check(
            "CREATE OR REPLACE FUNCTION f() RETURNS int AS $x$ SELECT 1 -- a\n + 'b' $x$ LANGUAGE SQL",
            "CREATE OR REPLACE FUNCTION f() RETURNS int AS $$SELECT ? + ?$$ LANGUAGE SQL",
        );
        check(
            "CREATE FUNCTION f() RETURNS int AS 'lib', 'f' LANGUAGE c",
            "CREATE FUNCTION f() RETURNS int AS ?, ? LANGUAGE c",
        );
        check("DO $$ EXECUTE $q$ DROP TABLE x $q$ $$", "DO $$EXECUTE ?$$");
        check("SELECT 1 AS \"function\", 'x'", "SELECT ? AS \"function\", ?");
        check("SELECT 1; DO $$ 'a' $$; SELECT $$ b $$", "SELECT ?; DO $$?$$; SELECT ?");
    }
}
