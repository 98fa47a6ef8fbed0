//! Conditions that a planner with statistics can judge: columns compared with values, and nothing else.

use crate::statement::{Token, TokenKind, only_computes};

/// Of these there are no statistics.
const SYSTEM_COLUMNS: [&str; 6] = ["ctid", "xmin", "xmax", "cmin", "cmax", "tableoid"];
const COMPARISONS: [&str; 7] = ["=", "<", ">", "<=", ">=", "<>", "!="];
/// Values that hold for a whole transaction.
const MOMENTS: [&str; 3] = ["CURRENT_DATE", "CURRENT_TIMESTAMP", "LOCALTIMESTAMP"];

/// Whether a condition is such, of rows that are called so as a whole.
pub(super) fn compares(text: &str, tokens: &[Token], rows: &[&str]) -> bool {
    let mut reader = Reader { text, tokens, at: 0 };
    loop {
        if reader.comparison(rows).is_none() {
            return false;
        }
        if reader.at == tokens.len() {
            return true;
        }
        if reader.word(&["AND"]).is_none() {
            return false;
        }
    }
}

struct Reader<'a> {
    text: &'a str,
    tokens: &'a [Token],
    at: usize,
}

impl Reader<'_> {
    /// Takes the next token if it is of this sort.
    fn take(&mut self, is: impl Fn(&Token) -> bool) -> Option<Token> {
        let token = *self.tokens.get(self.at).filter(|token| is(token))?;
        self.at += 1;
        Some(token)
    }

    fn word(&mut self, words: &[&str]) -> Option<Token> {
        let text = self.text;
        self.take(|token| words.iter().any(|word| token.is_word(text, word)))
    }

    fn sign(&mut self, signs: &[&str]) -> Option<Token> {
        let text = self.text;
        self.take(|token| signs.iter().any(|sign| token.is_sign(text, sign)))
    }

    fn comparison(&mut self, rows: &[&str]) -> Option<()> {
        self.column(rows)?;
        if self.word(&["IS"]).is_some() {
            self.word(&["NOT"]);
            return self.word(&["NULL"]).map(drop);
        }
        if self.word(&["BETWEEN"]).is_some() {
            self.value()?;
            self.word(&["AND"])?;
            return self.value();
        }
        let is_negated = self.word(&["NOT"]).is_some();
        if is_negated || self.word(&["IN"]).is_some() {
            if is_negated {
                self.word(&["IN"])?;
            }
            self.sign(&["("])?;
            self.value()?;
            while self.sign(&[","]).is_some() {
                self.value()?;
            }
            return self.sign(&[")"]).map(drop);
        }
        self.sign(&COMPARISONS)?;
        if self.word(&["ANY"]).is_some() {
            self.sign(&["("])?;
            self.value()?;
            return self.sign(&[")"]).map(drop);
        }
        self.value()
    }

    /// `a.f` may be a function of `a`.
    fn column(&mut self, rows: &[&str]) -> Option<()> {
        let is_name = |token: &Token| matches!(token.kind, TokenKind::Word | TokenKind::QuotedName);
        let mut name = self.take(is_name)?;
        let mut is_qualified = false;
        while self.sign(&["."]).is_some() {
            name = self.take(is_name)?;
            is_qualified = true;
        }
        let written = name.text(self.text).trim_matches('"').to_ascii_lowercase();
        let is_row = rows.iter().any(|row| row.trim_matches('"').eq_ignore_ascii_case(&written));
        let is_function = is_qualified && only_computes(&written);
        let is_plain = !is_row && !is_function && !SYSTEM_COLUMNS.contains(&written.as_str());
        is_plain.then_some(())
    }

    /// A literal or a parameter, of whatever type; or a moment, and so much before or after it.
    fn value(&mut self) -> Option<()> {
        let is_moment = if self.word(&["NOW"]).is_some() {
            self.sign(&["("])?;
            self.sign(&[")"])?;
            true
        } else {
            self.word(&MOMENTS).is_some()
        };
        if is_moment {
            self.casts()?;
            return match self.sign(&["+", "-"]) {
                Some(_) => self.constant(),
                None => Some(()),
            };
        }
        self.constant()
    }

    fn constant(&mut self) -> Option<()> {
        let is_literal = |token: &Token| token.is_literal();
        if self.take(|token| token.kind == TokenKind::Parameter).is_none() {
            self.sign(&["-", "+"]);
            if self.word(&["TRUE", "FALSE"]).is_none() && self.take(is_literal).is_none() {
                // `date '2024-01-01'`.
                self.word(&["DATE", "TIME", "TIMESTAMP", "TIMESTAMPTZ", "INTERVAL"])?;
                self.take(is_literal)?;
            }
        }
        self.casts()
    }

    fn casts(&mut self) -> Option<()> {
        while self.sign(&["::"]).is_some() {
            self.take(|token| token.kind == TokenKind::Word)?;
            if self.sign(&["["]).is_some() {
                self.sign(&["]"])?;
            }
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::compares;
    use crate::statement::{Lexing, pieces::significant};

    #[test]
    fn columns_are_compared_with_values() {
        let is_plain =
            |text: &str| compares(text, &significant(text, Lexing::default()), &["t", "Row"]);
        for text in [
            "a = 1",
            "a = $1 AND t.b <> 'x' AND \"C\" >= -5",
            "a IS NULL AND b IS NOT NULL",
            "a BETWEEN $1 AND $2 AND b IN (1, 2, 3) AND c NOT IN ('x')",
            "a = ANY ($1::int[]) AND b = '5'::bigint",
            "at < now() - interval '30 days' AND day >= date '2024-01-01'",
            "at < CURRENT_TIMESTAMP AND done = true AND at > $1::timestamptz",
        ] {
            assert!(is_plain(text), "{text}");
        }
        for text in [
            "",
            "a",
            "NOT a = 1",
            "a = b",
            "a = 1 OR b = 2",
            "f(a) = 1",
            "a + 0 = 1",
            "a::text = '1'",
            "1 = a",
            "a = 1 AND",
            "a = (SELECT 1)",
            "a LIKE $1",
            "a = coalesce($1, 1)",
            "a = $1 + 1",
            "a = random()",
            "a IN (SELECT 1)",
            "a IN (1, b)",
            "a = ANY (b)",
            "ctid > '(0,0)'",
            "xmax = 0",
            "t IS NOT NULL",
            "\"Row\" IS NOT NULL",
            "t.to_jsonb = $1",
            "t.length > 0",
            "EXISTS (SELECT 1)",
        ] {
            assert!(!is_plain(text), "{text}");
        }
    }
}
