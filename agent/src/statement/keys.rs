//! The values by which a statement picks its rows.

use std::borrow::Cow;

use super::{
    lexer::{Lexer, Lexing, TokenKind},
    literal,
};
use crate::event::{Facts, KeyPredicate, KeyValue, Parameter};

/// A column, as in `customers.id`, and the value that it is compared with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyedValue<'a> {
    pub column: String,
    pub value: Cow<'a, str>,
}

/// The values of `facts.keys`, from the text and the parameters with which it was executed.
///
/// Numbers are written in plain decimal digits, so that `5`, `'5'` and a bound `5` are one value. What
/// wasn't captured, or is NULL or in a binary form that isn't read, is left out.
pub fn key_values<'a>(
    facts: &'a Facts,
    text: &'a str,
    lexing: Lexing,
    parameters: &'a [Parameter],
) -> impl Iterator<Item = KeyedValue<'a>> {
    let needs_literals = facts.keys.iter().any(|key| matches!(key.value, KeyValue::Literal(_)));
    let literals = if needs_literals { literals(text, lexing) } else { Vec::new() };
    facts.keys.iter().filter_map(move |KeyPredicate { table, column, value }| {
        let value = match value {
            KeyValue::Literal(nth) => Cow::Owned(literals.get(*nth)?.clone()),
            KeyValue::Parameter(nth) => match parameters.get(nth.checked_sub(1)?)? {
                Parameter::Text(text) => Cow::Borrowed(text.as_str()),
                Parameter::Null | Parameter::Binary { .. } | Parameter::Unknown => return None,
            },
        };
        Some(KeyedValue { column: format!("{table}.{column}"), value })
    })
}

/// The values of all literals, with the sign that stands right before a number.
fn literals(text: &str, lexing: Lexing) -> Vec<String> {
    let mut values = Vec::new();
    let mut is_negative = false;
    for token in Lexer::new(text, lexing).filter(|token| token.is_significant()) {
        if let TokenKind::Literal(kind) = token.kind {
            let value = literal::value(kind, token.text(text));
            values.push(if is_negative { format!("-{value}") } else { value });
        }
        is_negative = token.is_sign(text, "-");
    }
    values
}

#[cfg(test)]
mod tests {
    use super::key_values;
    use crate::{
        event::Parameter,
        statement::{Lexing, analyse},
    };

    #[test]
    fn values_come_from_literals_and_parameters() {
        let parameters = [Parameter::Text("7".to_owned()), Parameter::Null, Parameter::Unknown];
        let check = |text: &str, expected: &[(&str, &str)]| {
            let facts = analyse(text, Lexing::default()).whole;
            let found: Vec<(String, String)> =
                key_values(&facts, text, Lexing::default(), &parameters)
                    .map(|key| (key.column, key.value.into_owned()))
                    .collect();
            let found: Vec<(&str, &str)> =
                found.iter().map(|(column, value)| (column.as_str(), value.as_str())).collect();
            assert_eq!(found, expected, "{text}");
        };
        check("SELECT 1 FROM t WHERE id = 5", &[("t.id", "5")]);
        check(
            "SELECT 'x' FROM s.t a WHERE a.id = '5'::int AND b = 0x10",
            &[("s.t.id", "5"), ("s.t.b", "16")],
        );
        check("DELETE FROM t WHERE -5 = id", &[("t.id", "-5")]);
        check("DELETE FROM t WHERE id = - 5 AND x", &[("t.id", "-5")]);
        check("UPDATE t SET a = 1 WHERE id = $1", &[("t.id", "7")]);
        check("UPDATE t SET a = 1 WHERE id = $2 AND id = $3 AND id = $4 AND id = $0", &[]);
        check("SELECT 1 FROM t WHERE id = 5 OR a = 6", &[]);
        check("SELECT 1 FROM t WHERE id > 5", &[]);
        check(
            "SELECT 1 FROM t a JOIN u b ON a.id = b.id AND b.x = 'it''s' WHERE a.id = 3",
            &[("u.x", "it's"), ("t.id", "3")],
        );
        check("SELECT 1 FROM t a LEFT JOIN u b ON b.x = 1", &[]);
        check("SELECT 1 FROM t WHERE id = 5 UNION SELECT 1 FROM t", &[]);
        check("SELECT 1; SELECT 2 FROM t WHERE id = 3", &[("t.id", "3")]);
        check("SELECT 1 FROM t WHERE id = 3; DELETE FROM t", &[]);
        check("WITH x AS (SELECT 1 AS id) SELECT 1 FROM x WHERE id = 1", &[]);
        check("SELECT 1 FROM t WHERE id = NULL", &[]);
        check("EXPLAIN DELETE FROM t WHERE id = 1", &[]);
    }
}
