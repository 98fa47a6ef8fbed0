//! Passwords, keys and connection strings, which go even where literals are kept.

use super::{
    lexer::{Lexing, Token, TokenKind},
    literal,
    pieces::significant,
    redact::{has_readable_code, is_code},
};

/// The text as it is, but for `?` in the place of each literal that is a secret, or looks like one.
pub fn redact_secrets(text: &str, lexing: Lexing) -> String {
    let mut shown = String::with_capacity(text.len());
    write_without_secrets(text, lexing, true, &mut shown);
    shown
}

fn write_without_secrets(text: &str, lexing: Lexing, look_for_code: bool, shown: &mut String) {
    let tokens = significant(text, lexing);
    let mut kept = 0;
    for statement in tokens.split_inclusive(|token| token.is_sign(text, ";")) {
        let has_code = look_for_code && has_readable_code(text, statement);
        let mut place = Place::new(text, statement);
        for (at, token) in statement.iter().enumerate() {
            // What stands between tokens is space and comments.
            write_gap(text.get(kept..token.start).unwrap_or_default(), shown);
            kept = token.end;
            let written = token.text(text);
            match token.kind {
                TokenKind::Literal(kind) => {
                    let value = literal::value(kind, written);
                    if has_code && is_code(text, statement, at) {
                        shown.push_str("$$");
                        write_without_secrets(&value, lexing, false, shown);
                        shown.push_str("$$");
                    } else if place.is_secret() || looks_secret(&value) {
                        shown.push('?');
                    } else {
                        shown.push_str(written);
                    }
                    place.push_literal(&value);
                }
                _ => {
                    shown.push_str(written);
                    place.push(text, *token);
                }
            }
        }
    }
    write_gap(text.get(kept..).unwrap_or_default(), shown);
}

/// A comment that has a secret in it goes whole.
fn write_gap(gap: &str, shown: &mut String) {
    match gap.len() > 1 && looks_secret(gap) {
        true => shown.push(' '),
        false => shown.push_str(gap),
    }
}

/// What the words before a literal make of it.
struct Place {
    /// The next literal is a secret: `PASSWORD`, `IDENTIFIED BY`, `token = `.
    after_secret_word: bool,
    after_identified: bool,
    /// All literals of the statement are: it holds options of a connection to somewhere else.
    whole_statement: bool,
    /// All literals down to this depth of parentheses are: arguments of `dblink(…)` or `crypt(…)`.
    within: Option<usize>,
    depth: usize,
    calls_secret: bool,
}

impl Place {
    fn new(text: &str, statement: &[Token]) -> Self {
        let has = |word: &str| statement.iter().take(8).any(|token| token.is_word(text, word));
        let defines = has("create") || has("alter");
        let whole_statement =
            defines && (has("server") || has("mapping") || has("subscription") || has("foreign"));
        Self {
            after_secret_word: false,
            after_identified: false,
            whole_statement,
            within: None,
            depth: 0,
            calls_secret: false,
        }
    }

    fn is_secret(&self) -> bool {
        self.whole_statement || self.after_secret_word || self.within.is_some()
    }

    /// A literal that names a secret, as in `set_config('app.token', 'x', false)`, makes the next one.
    fn push_literal(&mut self, value: &str) {
        self.after_secret_word = value.len() < 64 && names_secret(value);
    }

    fn push(&mut self, text: &str, token: Token) {
        let written = token.text(text);
        match token.kind {
            TokenKind::Word | TokenKind::QuotedName => {
                let is = |word: &str| written.eq_ignore_ascii_case(word);
                let was_identified =
                    std::mem::replace(&mut self.after_identified, is("identified"));
                self.after_secret_word = names_secret(written)
                    || is("auth")
                    || is("connection")
                    || was_identified && (is("by") || is("using") || is("as"))
                    // Words that stand between the one that counts and its literal.
                    || self.after_secret_word && ["to", "is", "as", "by", "like", "in"].iter().any(|w| is(w));
                self.after_identified |= was_identified && (is("via") || is("with"));
                self.calls_secret = takes_secrets(written);
            }
            TokenKind::Punctuation | TokenKind::Operator => {
                match written {
                    "(" => {
                        self.depth += 1;
                        if self.calls_secret {
                            self.within.get_or_insert(self.depth);
                        }
                    }
                    ")" => {
                        if self.within == Some(self.depth) {
                            self.within = None;
                        }
                        self.depth = self.depth.saturating_sub(1);
                        self.after_secret_word = false;
                    }
                    ";" => self.after_secret_word = false,
                    _ => {}
                }
                self.calls_secret = false;
            }
            _ => {}
        }
    }
}

/// Functions whose arguments are keys, passwords or connection strings.
fn takes_secrets(name: &str) -> bool {
    let name = name.trim_matches('"').to_ascii_lowercase();
    name.starts_with("dblink")
        || name.starts_with("pgp_")
        || ["crypt", "hmac", "encrypt", "decrypt", "encrypt_iv", "decrypt_iv"]
            .contains(&name.as_str())
}

/// Whether a name is that of a secret, as in `user_password` or `ApiKey`.
fn names_secret(name: &str) -> bool {
    let name: String = name.chars().filter(|c| *c != '_').flat_map(char::to_lowercase).collect();
    [
        "passw",
        "passphrase",
        "secret",
        "token",
        "apikey",
        "privatekey",
        "accesskey",
        "credential",
        "conninfo",
    ]
    .iter()
    .any(|part| name.contains(part))
}

/// Whether a value itself shows that it is a secret: a connection string, a password's hash.
fn looks_secret(value: &str) -> bool {
    let lower = value.to_ascii_lowercase();
    let assigns =
        ["password", "passwd", "pwd", "secret", "token", "api_key", "apikey"].iter().any(|word| {
            lower.match_indices(word).any(|(at, _)| {
                let rest = lower.get(at + word.len()..).unwrap_or_default();
                let rest = rest.trim_start_matches(['"', '\'', ' ']);
                rest.starts_with(['=', ':'])
            })
        });
    assigns
        || lower.starts_with("scram-sha-256$")
        || lower.len() == 35
            && lower.strip_prefix("md5").is_some_and(|h| h.bytes().all(|b| b.is_ascii_hexdigit()))
        || lower.contains("private key-----")
        || has_userinfo(&lower)
}

/// `scheme://user:password@host`, in a pass over the text.
fn has_userinfo(text: &str) -> bool {
    text.split("://").skip(1).any(|rest| {
        let authority = rest.split(['/', ' ', '\'', '"', '\n']).next().unwrap_or_default();
        authority.split_once('@').is_some_and(|(user, _)| user.contains(':'))
    })
}

#[cfg(test)]
mod tests {
    use super::redact_secrets;
    use crate::statement::lexer::Lexing;

    #[test]
    fn secrets_go_and_other_literals_stay() {
        let check = |text: &str, expected: &str| {
            assert_eq!(redact_secrets(text, Lexing::default()), expected, "{text}");
        };
        check("SELECT  'a' -- b", "SELECT  'a' -- b");
        check("CREATE ROLE a LOGIN PASSWORD 's3'", "CREATE ROLE a LOGIN PASSWORD ?");
        check(
            "ALTER USER a WITH ENCRYPTED PASSWORD 'x' VALID UNTIL '2030-01-01'",
            "ALTER USER a WITH ENCRYPTED PASSWORD ? VALID UNTIL '2030-01-01'",
        );
        check("ALTER ROLE a PASSWORD NULL", "ALTER ROLE a PASSWORD NULL");
        check("CREATE USER a IDENTIFIED BY 'x'", "CREATE USER a IDENTIFIED BY ?");
        check(
            "CREATE USER a IDENTIFIED WITH mysql_native_password BY 'x'",
            "CREATE USER a IDENTIFIED WITH mysql_native_password BY ?",
        );
        check("AUTH 'x'", "AUTH ?");
        check("SELECT * FROM dblink('host=x', 'SELECT 1') t", "SELECT * FROM dblink(?, ?) t");
        check(
            "SELECT dblink_connect('c', lower('x')), 'y'",
            "SELECT dblink_connect(?, lower(?)), 'y'",
        );
        check(
            "CREATE SERVER s FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host 'h', port '1')",
            "CREATE SERVER s FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host ?, port ?)",
        );
        check(
            "CREATE USER MAPPING FOR a SERVER s OPTIONS (user 'u', password 'p')",
            "CREATE USER MAPPING FOR a SERVER s OPTIONS (user ?, password ?)",
        );
        check(
            "CREATE SUBSCRIPTION s CONNECTION 'host=h' PUBLICATION p",
            "CREATE SUBSCRIPTION s CONNECTION ? PUBLICATION p",
        );
        check("ALTER SUBSCRIPTION s CONNECTION 'host=h'", "ALTER SUBSCRIPTION s CONNECTION ?");
        check(
            "ALTER SYSTEM SET primary_conninfo = 'host=h'",
            "ALTER SYSTEM SET primary_conninfo = ?",
        );
        check("COPY t FROM PROGRAM 'curl https://u:p@h/x'", "COPY t FROM PROGRAM ?");
        check(
            "COPY t FROM PROGRAM 'curl https://h/u@x'",
            "COPY t FROM PROGRAM 'curl https://h/u@x'",
        );
        check(
            "SELECT set_config('app.token', 'x', false)",
            "SELECT set_config('app.token', ?, false)",
        );
        check("SET app.secret TO 'x'", "SET app.secret TO ?");
        check(
            "UPDATE u SET user_password = 'x', name = 'y'",
            "UPDATE u SET user_password = ?, name = 'y'",
        );
        check("SELECT crypt('x', gen_salt('bf'))", "SELECT crypt(?, gen_salt(?))");
        check("SELECT 'SCRAM-SHA-256$4096:a$b:c'", "SELECT ?");
        check("SELECT '{\"password\": \"x\"}'", "SELECT ?");
        check(
            "DO $$ BEGIN ALTER ROLE a PASSWORD 'x'; PERFORM 'y'; END $$",
            "DO $$ BEGIN ALTER ROLE a PASSWORD ?; PERFORM 'y'; END $$",
        );
        check("SELECT 1 /* password=x */ , 2", "SELECT 1 , 2");
        check("ALTER ROLE a PASSWORD 'never closed", "ALTER ROLE a PASSWORD ?");
    }
}
