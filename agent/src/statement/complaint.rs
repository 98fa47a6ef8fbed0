//! An error message without the values that it quotes.

/// What stands before a name in a message of PostgreSQL: such a quotation is no value.
const NAMED: &[&str] = &[
    "access method",
    "aggregate",
    "alias",
    "cast",
    "channel",
    "collation",
    "column",
    "constraint",
    "conversion",
    "cursor",
    "database",
    "dictionary",
    "domain",
    "encoding",
    "enum",
    "extension",
    "field",
    "function",
    "group",
    "index",
    "language",
    "object",
    "operator",
    "parameter",
    "partition",
    "policy",
    "portal",
    "procedure",
    "publication",
    "relation",
    "role",
    "routine",
    "rule",
    "savepoint",
    "schema",
    "sequence",
    "server",
    "setting",
    "slot",
    "statement",
    "subscription",
    "table",
    "tablespace",
    "trigger",
    "type",
    "user",
    "variable",
    "view",
    "wrapper",
];

/// Values become `?`: quotations that aren't names, what stands in parentheses that no name comes right
/// before, and numbers. Messages in other languages lose their names too.
pub fn redact_error(message: &str) -> String {
    let mut shown = String::with_capacity(message.len());
    let mut rest = message;
    while let Some(c) = rest.chars().next() {
        let before = shown.chars().next_back();
        let after = rest.get(c.len_utf8()..).unwrap_or_default();
        rest = match c {
            '"' if names_something(&shown) => match after.find('"') {
                Some(end) => {
                    let (name, after) = after.split_at(end + 1);
                    shown.push(c);
                    shown.push_str(name);
                    after
                }
                None => redacted(&mut shown, ""),
            },
            '"' => redacted(&mut shown, past_last(after, '"')),
            '«' | '»' => redacted(&mut shown, past(after, &['«', '»'])),
            '„' | '“' => redacted(&mut shown, past(after, &['“', '”'])),
            '\'' if !before.is_some_and(char::is_alphanumeric) => {
                redacted(&mut shown, past(after, &['\'']))
            }
            // `f(integer)` and `varchar(5)` are names, `Key (ssn)=` has some.
            '(' if before.is_some_and(|c| c.is_alphanumeric() || c == '_') => {
                let end = after.find(')').map_or(after.len(), |at| at + 1);
                let (inside, after) = after.split_at(end);
                shown.push(c);
                shown.push_str(inside);
                after
            }
            '(' if after.contains(")=(") => {
                let end = after.find(")=(").unwrap_or_default();
                let (names, values) = after.split_at(end);
                shown.push('(');
                shown.push_str(names);
                shown.push_str(")=(?)");
                past_last(values, ')')
            }
            '(' => {
                shown.push_str("(?)");
                past_last(after, ')')
            }
            c if c.is_ascii_digit() && !before.is_some_and(|c| c.is_alphanumeric() || c == '_') => {
                let is_inside = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | ':' | '_');
                let end = after.find(|c| !is_inside(c)).unwrap_or(after.len());
                redacted(&mut shown, after.get(end..).unwrap_or_default())
            }
            c => {
                shown.push(c);
                after
            }
        };
    }
    shown
}

fn redacted<'a>(shown: &mut String, rest: &'a str) -> &'a str {
    shown.push('?');
    rest
}

/// Whether the words so far announce a name.
fn names_something(shown: &str) -> bool {
    let Some(words) = shown.strip_suffix(' ') else { return false };
    let words = words.to_ascii_lowercase();
    NAMED.iter().any(|name| {
        words.strip_suffix(name).is_some_and(|before| !before.ends_with(char::is_alphanumeric))
    })
}

/// After the first of `closing`; nothing, if there is none.
fn past<'a>(text: &'a str, closing: &[char]) -> &'a str {
    match text.find(closing) {
        Some(at) => {
            let after = text.get(at..).unwrap_or_default();
            let len = after.chars().next().map_or(0, char::len_utf8);
            after.get(len..).unwrap_or_default()
        }
        None => "",
    }
}

/// After the last `closing`: a value may have one in itself, and then ends later.
fn past_last(text: &str, closing: char) -> &str {
    match text.rfind(closing) {
        Some(at) => text.get(at + closing.len_utf8()..).unwrap_or_default(),
        None => "",
    }
}

#[cfg(test)]
mod tests {
    use super::redact_error;

    #[test]
    fn values_go_and_names_stay() {
        let check = |message: &str, expected: &str| {
            assert_eq!(redact_error(message), expected, "{message}");
        };
        check("relation \"customers\" does not exist", "relation \"customers\" does not exist");
        check(
            "duplicate key value violates unique constraint \"t_pkey\"",
            "duplicate key value violates unique constraint \"t_pkey\"",
        );
        check("Key (ssn)=(123-45) already exists.", "Key (ssn)=(?) already exists.");
        check("Key (a, b)=(x) y, (z)) already exists.", "Key (a, b)=(?) already exists.");
        check("Failing row contains (1, abc, null).", "Failing row contains (?).");
        check(
            "invalid input syntax for type integer: \"abc\"",
            "invalid input syntax for type integer: ?",
        );
        check(
            "invalid input syntax for type integer: \"a\"b\"",
            "invalid input syntax for type integer: ?",
        );
        check(
            "value too long for type character varying(5)",
            "value too long for type character varying(5)",
        );
        check("syntax error at or near \"secret\"", "syntax error at or near ?");
        check(
            "function f(integer, text) does not exist",
            "function f(integer, text) does not exist",
        );
        check(
            "value \"99999\" is out of range for type smallint",
            "value ? is out of range for type smallint",
        );
        check(
            "column \"a\" of relation \"b\" does not exist",
            "column \"a\" of relation \"b\" does not exist",
        );
        check(
            "invalid byte sequence for encoding \"UTF8\": 0xff",
            "invalid byte sequence for encoding \"UTF8\": ?",
        );
        check("customer 4711 doesn't exist", "customer ? doesn't exist");
        check("no such user 'bob'", "no such user ?");
        check("relation t2 does not exist", "relation t2 does not exist");
        check("Relation »kunden« existiert nicht", "Relation ? existiert nicht");
        check(
            "ungültige Eingabesyntax für Typ integer: „abc“",
            "ungültige Eingabesyntax für Typ integer: ?",
        );
        check(
            "syntaxe en entrée invalide pour le type integer : « abc »",
            "syntaxe en entrée invalide pour le type integer : ?",
        );
        check(
            "password authentication failed for user \"bob\"",
            "password authentication failed for user \"bob\"",
        );
        check(
            "no pg_hba.conf entry for host \"10.0.0.1\", user \"bob\"",
            "no pg_hba.conf entry for host ?",
        );
        check("quote \"never closed", "quote ?");
        check("", "");
    }
}
