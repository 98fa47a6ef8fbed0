//! A text in pieces: its statements, what one carries, and what stands in no brackets.

use super::lexer::{Lexer, Lexing, Token, TokenKind};

/// `EXPLAIN (ANALYZE) PREPARE …` and its like.
const MAX_WRAPPINGS: usize = 4;

/// What `PREPARE` is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preparation<'a> {
    /// `None` where it takes more than these eyes to read it, as in `U&"…"`.
    pub name: Option<String>,
    /// In brackets, or nothing.
    pub types: &'a str,
    pub statement: &'a str,
}

/// What `EXECUTE` is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Execution<'a> {
    /// Likewise.
    pub name: Option<String>,
    /// In brackets, or nothing.
    pub arguments: &'a str,
}

pub fn significant(text: &str, lexing: Lexing) -> Vec<Token> {
    Lexer::new(text, lexing).filter(|token| token.is_significant()).collect()
}

/// A text cut where its statements end; empty ones are left out.
pub fn statements(text: &str, lexing: Lexing) -> Vec<&str> {
    let tokens = Lexer::new(text, lexing).filter(|token| token.is_significant());
    let mut parts = Vec::new();
    let (mut start, mut is_empty) = (0, true);
    for (token, depth) in nested(text, tokens) {
        if depth <= 0 && token.is_sign(text, ";") {
            parts.extend(text.get(start..token.start).filter(|_| !is_empty));
            (start, is_empty) = (token.end, true);
        } else {
            is_empty = false;
        }
    }
    parts.extend(text.get(start..).filter(|_| !is_empty));
    parts
}

/// Each with how many brackets it leaves open.
pub fn nested<'t>(
    text: &'t str,
    tokens: impl IntoIterator<Item = Token> + 't,
) -> impl Iterator<Item = (Token, i32)> + 't {
    tokens.into_iter().scan(0, move |depth, token| {
        match token.text(text) {
            "(" | "[" => *depth += 1,
            ")" | "]" => *depth -= 1,
            _ => {}
        }
        Some((token, *depth))
    })
}

/// Tokens that stand in no brackets, with their places.
pub fn outer<'t>(text: &'t str, tokens: &'t [Token]) -> impl Iterator<Item = (usize, Token)> + 't {
    nested(text, tokens.iter().copied()).enumerate().filter_map(|(at, (token, depth))| {
        (depth == 0 && !matches!(token.text(text), "(" | "[" | ")" | "]")).then_some((at, token))
    })
}

/// The statement inside of those that carry one.
pub fn unwrapped(text: &str, lexing: Lexing) -> Option<&str> {
    let mut text = text;
    for _ in 0..MAX_WRAPPINGS {
        let tokens = significant(text, lexing);
        let first = tokens.first()?;
        // Where the brackets end that the second token may open.
        let opens = tokens.get(1).is_some_and(|token| token.is_sign(text, "("));
        let is_closed = |(at, (_, depth)): &(usize, (Token, i32))| *at > 0 && *depth == 0;
        let close = || nested(text, tokens.iter().copied()).enumerate().find(is_closed);
        if first.is_word(text, "EXPLAIN") {
            let mut next = if opens { close()?.0 + 1 } else { 1 };
            let options = ["ANALYZE", "ANALYSE", "VERBOSE"];
            while tokens.get(next).is_some_and(|t| options.iter().any(|word| t.is_word(text, word)))
            {
                next += 1;
            }
            text = text.get(tokens.get(next)?.start..)?;
        } else if let Some(preparation) = prepares(text, &tokens) {
            text = preparation.statement;
        } else if first.is_word(text, "COPY") && opens {
            let (_, (close, _)) = close()?;
            text = text.get(tokens.get(1)?.end..close.start)?;
        } else {
            return Some(text);
        }
    }
    None
}

/// What is given to each `PREPARE` of a text.
pub fn preparations(text: &str, lexing: Lexing) -> Vec<Preparation<'_>> {
    let all = statements(text, lexing).into_iter();
    all.filter_map(|one| prepares(one, &significant(one, lexing))).collect()
}

fn prepares<'t>(text: &'t str, tokens: &[Token]) -> Option<Preparation<'t>> {
    if !tokens.first()?.is_word(text, "PREPARE") || tokens.get(1)?.is_word(text, "TRANSACTION") {
        return None;
    }
    let name = *tokens.get(1)?;
    let after = tokens.iter().position(|token| token.is_word(text, "AS"))?;
    let (start, body) = (tokens.get(after)?.start, tokens.get(after + 1)?.start);
    let types = text.get(name.end..start)?.trim();
    Some(Preparation { name: name_of(name, text), types, statement: text.get(body..)? })
}

pub fn execution(text: &str, lexing: Lexing) -> Option<Execution<'_>> {
    let mut tokens = Lexer::new(text, lexing).filter(|token| token.is_significant());
    if !tokens.next()?.is_word(text, "EXECUTE") {
        return None;
    }
    let name = tokens.next()?;
    let arguments = text.get(name.end..)?.trim().trim_end_matches(';').trim_end();
    Some(Execution { name: name_of(name, text), arguments })
}

/// A name as it is kept.
fn name_of(token: Token, text: &str) -> Option<String> {
    let written = token.text(text);
    match token.kind {
        TokenKind::Word => Some(written.to_ascii_lowercase()),
        TokenKind::QuotedName => {
            let quoted = written.strip_prefix('"')?.strip_suffix('"')?;
            Some(quoted.replace("\"\"", "\""))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{Execution, Preparation, execution, preparations, statements, unwrapped};
    use crate::statement::Lexing;

    #[test]
    fn a_text_is_cut_where_the_server_cuts_it() {
        let cut = |text| statements(text, Lexing::default());
        assert_eq!(cut("a; b"), ["a", " b"]);
        assert_eq!(cut(";; a ';' /* ; */ ; -- ;\n"), [" a ';' /* ; */ "]);
        assert_eq!(cut("a (b; c) ; $$;$$"), ["a (b; c) ", " $$;$$"]);
        assert_eq!(cut(""), [""; 0]);
    }

    #[test]
    fn a_statement_is_taken_out_of_what_carries_it() {
        for (text, expected) in [
            ("DELETE FROM a", Some("DELETE FROM a")),
            ("EXPLAIN (ANALYZE, COSTS off) DELETE FROM a", Some("DELETE FROM a")),
            ("explain analyze verbose DELETE FROM a", Some("DELETE FROM a")),
            ("PREPARE p (int) AS DELETE FROM a", Some("DELETE FROM a")),
            ("COPY (DELETE FROM a RETURNING (b)) TO STDOUT", Some("DELETE FROM a RETURNING (b)")),
            ("EXPLAIN ANALYZE EXECUTE p (1)", Some("EXECUTE p (1)")),
            ("PREPARE TRANSACTION 'AS'", Some("PREPARE TRANSACTION 'AS'")),
            ("COPY (DELETE FROM a", None),
            ("EXPLAIN (ANALYZE", None),
        ] {
            assert_eq!(unwrapped(text, Lexing::default()), expected);
        }
    }

    #[test]
    fn what_is_prepared_and_executed_is_told_from_its_name() {
        let prepared = preparations(
            "PREPARE \"P\"(int) AS DELETE FROM a; SELECT 1; PREPARE q AS SELECT 2",
            Lexing::default(),
        );
        assert_eq!(
            prepared,
            [
                Preparation { name: Some("P".into()), types: "(int)", statement: "DELETE FROM a" },
                Preparation { name: Some("q".into()), types: "", statement: "SELECT 2" },
            ]
        );
        let check = |text, name: Option<&str>, arguments| {
            let name = name.map(str::to_owned);
            let executed = execution(text, Lexing::default());
            assert_eq!(executed, Some(Execution { name, arguments }), "{text}");
        };
        check("EXECUTE p", Some("p"), "");
        check("execute P (1, ';') ; ", Some("p"), "(1, ';')");
        check("EXECUTE \"P\"\"\"(1)", Some("P\""), "(1)");
        check("EXECUTE U&\"\\0070\"(1)", None, "(1)");
        assert_eq!(execution("PREPARE p AS SELECT 1", Lexing::default()), None);
    }
}
