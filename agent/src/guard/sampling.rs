//! For how many rows of a table a condition is true, asked of some of its blocks: what the planner can't estimate, as
//! `sign(id) = 1`, it takes for one row of two hundred.

use super::plainly;
use crate::statement::{
    Lexing, Token, TokenKind,
    pieces::{nested, outer, significant},
};

/// Blocks that are looked at.
const BLOCKS: u32 = 30;
/// Rows of a view, which has no blocks.
const ROWS: u32 = 3_000;
/// Parts of a statement that change something.
const MAX_PARTS: usize = 4;

/// What is known of the relation whose rows are changed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Target {
    pub is_view: bool,
    /// The planner has statistics of it: of what they tell, nobody needs to ask rows.
    pub is_analysed: bool,
}

/// What counts, for each part of a statement that changes or removes rows by a condition. It gives one row: of how
/// many, for how many it is true, in how many blocks, and what percent of all blocks was looked at.
///
/// Its words are the statement's own: nobody runs it whose conditions do more than compute, nor where it could write.
pub(super) fn counts(text: &str, lexing: Lexing, target: Target) -> Vec<String> {
    let tokens = significant(text, lexing);
    let starts = nested(text, tokens.iter().copied()).enumerate().filter(|(at, (token, _))| {
        let before = at.checked_sub(1).and_then(|before| tokens.get(before));
        let is_first = before.is_none_or(|token| matches!(token.text(text), "(" | ")"));
        is_first && ["DELETE", "UPDATE", "MERGE"].iter().any(|word| token.is_word(text, word))
    });
    let parts = starts.take(MAX_PARTS).filter_map(|(at, (first, depth))| {
        let with = text.get(..first.start).filter(|_| depth == 0).unwrap_or_default();
        let rest = tokens.get(at..)?;
        let part = Part { text, tokens: rest.get(..len(text, rest))? };
        part.count(with, target)
    });
    parts.collect()
}

/// `DELETE`, `UPDATE` or `MERGE`, with what stands in the same brackets.
struct Part<'a> {
    text: &'a str,
    tokens: &'a [Token],
}

impl<'a> Part<'a> {
    fn word(&self, at: usize, word: &str) -> bool {
        self.tokens.get(at).is_some_and(|token| token.is_word(self.text, word))
    }

    fn sign(&self, at: usize, sign: &str) -> bool {
        self.tokens.get(at).is_some_and(|token| token.is_sign(self.text, sign))
    }

    /// `None` where it has no condition, or isn't of that form.
    fn count(&self, with: &str, target: Target) -> Option<String> {
        let Self { text, tokens } = *self;
        let mut at = 1;
        at += usize::from(self.word(at, "FROM") || self.word(at, "INTO"));
        let is_only = self.word(at, "ONLY");
        at += usize::from(is_only);
        let is_bracketed = self.sign(at, "(");
        at += usize::from(is_bracketed);
        let first = tokens.get(at)?;
        while self.sign(at + 1, ".") {
            at += 2;
        }
        let last = tokens.get(at)?;
        let name = text.get(first.start..last.end)?;
        at += 1 + usize::from(is_bracketed);
        at += usize::from(self.sign(at, "*"));
        let is_named = self.word(at, "AS");
        at += usize::from(is_named);
        let alias = tokens.get(at).filter(|token| match token.kind {
            TokenKind::QuotedName => true,
            TokenKind::Word if is_named => true,
            TokenKind::Word => {
                !["SET", "USING", "WHERE", "RETURNING"].iter().any(|word| token.is_word(text, word))
            }
            _ => false,
        });
        let alias = alias.unwrap_or(last).text(text);
        let row = [alias, last.text(text)];
        let Condition { met, others } = self.condition(at)?;
        let is_plain = target.is_analysed && !target.is_view && others.is_none();
        if is_plain && plainly::compares(text, met, &row) {
            return None;
        }
        let words = |tokens: &[Token]| {
            let (first, last) = (tokens.first()?, tokens.last()?);
            text.get(first.start..last.end)
        };
        let met = match others {
            None => format!("({}\n)", words(met)?),
            Some(others) => {
                format!("EXISTS (SELECT FROM {}\nWHERE {}\n)", words(others)?, words(met)?)
            }
        };
        if target.is_view {
            return Some(format!(
                "{with} SELECT count(*), count(*) FILTER (WHERE met), count(*), 100::float8 FROM (SELECT {met} AS met \
                 FROM (SELECT * FROM {name} LIMIT {ROWS}) AS {alias}) AS sample"
            ));
        }
        let only = if is_only { "ONLY " } else { "" };
        let oid = match first.text(text).starts_with(['U', 'u']) && name.contains('"') {
            // Not every name can be written into a literal as it is.
            true => format!("(SELECT tableoid FROM {name} LIMIT 1)"),
            false => format!("'{}'::pg_catalog.regclass::oid", name.replace('\'', "''")),
        };
        let percent = format!(
            "(WITH RECURSIVE parts (oid) AS (SELECT {oid} UNION SELECT inhrelid FROM pg_catalog.pg_inherits \
             JOIN parts ON inhparent = parts.oid) SELECT least(100, {BLOCKS} * 100.0 \
             * pg_catalog.current_setting('block_size')::int \
             / greatest(sum(pg_catalog.pg_relation_size(parts.oid::pg_catalog.regclass)), 1))::float8 FROM parts)"
        );
        Some(format!(
            "{with} SELECT count(*), count(*) FILTER (WHERE met), count(DISTINCT block) FILTER (WHERE met), {percent} \
             FROM (SELECT {met} AS met, \
             {alias}.tableoid::text || pg_catalog.split_part({alias}.ctid::text, ',', 1) AS block \
             FROM {only}{name} AS {alias} TABLESAMPLE SYSTEM ({percent})) AS sample"
        ))
    }

    /// Whether a row is changed or removed.
    fn condition(&self, from: usize) -> Option<Condition<'a>> {
        let Self { text, tokens } = *self;
        let rest = tokens.get(from..)?;
        let outer: Vec<(usize, Token)> = outer(text, rest).collect();
        let find = |word: &str| outer.iter().position(|(_, token)| token.is_word(text, word));
        let is_merge = self.word(0, "MERGE");
        let (condition, ends) = match is_merge {
            // A source may be a join, with conditions of its own.
            true => {
                let when = find("WHEN")?;
                let before = outer.get(..when)?;
                (before.iter().rposition(|(_, token)| token.is_word(text, "ON"))?, Some(when))
            }
            false => {
                let place = find("WHERE")?;
                (place, find("RETURNING").filter(|end| *end > place))
            }
        };
        let end = match ends {
            Some(place) => outer.get(place)?.0,
            None => rest.len(),
        };
        let before = outer.get(..condition)?;
        let is_from = |at: usize, token: &Token| {
            // `IS DISTINCT FROM` begins nothing.
            let before = at.checked_sub(1).and_then(|at| before.get(at));
            token.is_word(text, "FROM") && !before.is_some_and(|(_, t)| t.is_word(text, "DISTINCT"))
        };
        let others =
            before.iter().enumerate().find(|(at, (_, token))| match self.word(0, "UPDATE") {
                true => is_from(*at, token),
                false => token.is_word(text, "USING"),
            });
        let (condition, _) = *outer.get(condition)?;
        let others = others.and_then(|(_, (at, _))| rest.get(at + 1..condition));
        let met = rest.get(condition + 1..end).filter(|met| !met.is_empty())?;
        Some(Condition { met, others })
    }
}

struct Condition<'a> {
    met: &'a [Token],
    /// Other relations that it is about.
    others: Option<&'a [Token]>,
}

/// Up to what closes the brackets that the first token stands in, or ends its statement.
fn len(text: &str, tokens: &[Token]) -> usize {
    let ends = |(token, depth): (Token, i32)| depth < 0 || depth == 0 && token.is_sign(text, ";");
    nested(text, tokens.iter().copied()).position(ends).unwrap_or(tokens.len())
}

#[cfg(test)]
mod tests {
    use super::{Target, counts};
    use crate::statement::Lexing;

    /// The condition, and what it is held against.
    fn counted(text: &str) -> Vec<(String, String)> {
        let between = |count: &str, from: &str, to: &str| {
            let (_, rest) = count.rsplit_once(from).unwrap();
            rest.split_once(to).unwrap().0.replace('\n', "")
        };
        let counts = counts(text, Lexing::default(), Target::default());
        let parts = counts.iter().map(|count| {
            (
                between(count, "FROM (SELECT ", " AS met"),
                between(count, "AS block FROM ", " TABLESAMPLE"),
            )
        });
        parts.collect()
    }

    #[test]
    fn conditions_are_taken_out_of_what_they_limit() {
        let check = |text: &str, met: &str, from: &str| {
            assert_eq!(counted(text), [(met.to_owned(), from.to_owned())], "{text}");
        };
        check("DELETE FROM a WHERE f(b) = 1", "(f(b) = 1)", "a AS a");
        check("delete from only (s.a) where (b) -- c", "((b))", "ONLY s.a AS a");
        check("DELETE FROM a * AS \"B\" WHERE b RETURNING c", "(b)", "a AS \"B\"");
        check(
            "DELETE FROM d.s.a x USING o, (SELECT 1 WHERE c) p WHERE b",
            "EXISTS (SELECT FROM o, (SELECT 1 WHERE c) pWHERE b)",
            "d.s.a AS x",
        );
        check("UPDATE a SET b = 1, c = (SELECT d FROM e WHERE f) WHERE g", "(g)", "a AS a");
        check(
            "UPDATE a AS set SET b = c IS DISTINCT FROM d FROM e JOIN f ON g WHERE h RETURNING i",
            "EXISTS (SELECT FROM e JOIN f ON gWHERE h)",
            "a AS set",
        );
        check(
            "MERGE INTO a AS x USING o JOIN p ON q ON r WHEN MATCHED AND s THEN DELETE",
            "EXISTS (SELECT FROM o JOIN p ON qWHERE r)",
            "a AS x",
        );
        check(
            "WITH x AS (DELETE FROM a WHERE (b) RETURNING c) SELECT 1 FROM x WHERE d",
            "((b))",
            "a AS a",
        );
    }

    #[test]
    fn what_a_condition_may_name_stands_before_it() {
        let text = "WITH x AS (SELECT 1 AS n) DELETE FROM a USING x WHERE b = n";
        let counts = counts(text, Lexing::default(), Target::default());
        assert_eq!(counts.len(), 1);
        assert!(counts[0].starts_with("WITH x AS (SELECT 1 AS n)  SELECT count(*)"), "{counts:?}");
    }

    #[test]
    fn what_statistics_tell_is_not_asked_of_rows() {
        let is_asked = |text: &str, is_analysed| {
            !counts(text, Lexing::default(), Target { is_view: false, is_analysed }).is_empty()
        };
        assert!(
            is_asked("DELETE FROM a WHERE b = 1", false)
                && !is_asked("DELETE FROM a WHERE b = 1", true)
        );
        assert!(is_asked("DELETE FROM a WHERE f(b) = 1", true));
        assert!(is_asked("DELETE FROM a USING o WHERE b = 1", true));
    }

    #[test]
    fn views_have_rows_and_no_blocks() {
        let counts = counts(
            "DELETE FROM v WHERE b",
            Lexing::default(),
            Target { is_view: true, is_analysed: true },
        );
        assert!(
            counts[0].ends_with("FROM (SELECT * FROM v LIMIT 3000) AS v) AS sample"),
            "{counts:?}"
        );
    }

    #[test]
    fn other_texts_are_no_condition() {
        for text in [
            "",
            "DELETE",
            "DELETE FROM",
            "DELETE FROM a",
            "UPDATE a SET b = 1",
            "MERGE INTO a USING b ON c",
            "SELECT 1 FROM a WHERE b FOR UPDATE",
            "DELETE FROM a WHERE",
            "DELETE FROM a)) WHERE b",
            "UPDATE ( ( WHERE",
        ] {
            let counted = counts(text, Lexing::default(), Target::default());
            assert!(counted.is_empty(), "{text}: {counted:?}");
        }
    }
}
