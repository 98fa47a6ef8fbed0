//! A command line as people may see it: arguments joined by spaces, passwords masked, statements without
//! their literals.

use std::sync::Arc;

use crate::statement::redact_ambiguous;

const MASK: &str = "***";
/// What stands before the `=` of a secret, in any case: options, settings in a connection string,
/// variables given to `env`.
const SECRETS: [&str; 5] = ["password", "passwd", "pwd", "secret", "token"];

/// The command line from arguments separated by NUL; `None` if there are none.
///
/// Masked are the password of a URL, `…password=…` in any argument, and the clients of MySQL's
/// `-pPASSWORD`. What may be a statement (`psql -c 'SELECT …'`) is redacted like one, whatever the ledger
/// keeps: its text stands elsewhere. It stays a claim, and a best effort: an unknown program may take a secret in any
/// form.
pub(super) fn command_line(args: &[u8]) -> Option<Arc<str>> {
    let end = args.iter().rposition(|b| *b != 0)? + 1;
    let text = String::from_utf8_lossy(&args[..end]);
    let mut arguments = text.split('\0');
    let program = arguments.next().unwrap_or_default();
    let name = program.rsplit('/').next().unwrap_or_default();
    let short_password = name.starts_with("mysql") || name.starts_with("mariadb");
    let mut line = program.to_owned();
    for argument in arguments {
        line.push(' ');
        match argument.strip_prefix("-p") {
            Some(password) if short_password && !password.is_empty() => {
                line.push_str("-p");
                line.push_str(MASK);
            }
            _ => line.push_str(&redact_statement(&mask_settings(&mask_url(argument)))),
        }
    }
    Some(line.into())
}

/// `?` for each literal of an argument that several words or a quote make look like a text.
fn redact_statement(argument: &str) -> String {
    if !argument.contains([' ', '\t', '\n', '\'']) && !argument.contains("$$") {
        return argument.to_owned();
    }
    // To SQL, an option's dashes would begin a comment.
    let option = match argument.starts_with("--") {
        true => argument.find([' ', '=']).map_or(0, |end| end + 1),
        false => 0,
    };
    let (option, text) = argument.split_at(option);
    format!("{option}{}", redact_ambiguous(text))
}

/// `scheme://user:PASSWORD@host`.
fn mask_url(argument: &str) -> String {
    let masked = || {
        let (scheme, rest) = argument.split_once("://")?;
        let authority = rest.split(['/', '?']).next()?;
        // A password that was not escaped may hold an `@`.
        let (login, host) = authority.rsplit_once('@')?;
        let (user, _) = login.split_once(':')?;
        let path = rest.get(authority.len()..)?;
        Some(format!("{scheme}://{user}:{MASK}@{host}{path}"))
    };
    masked().unwrap_or_else(|| argument.to_owned())
}

/// `password=SECRET`, up to a space or `&`, or to the closing quote.
fn mask_settings(argument: &str) -> String {
    let mut masked = String::new();
    let mut rest = argument;
    while let Some((name, value)) = rest.split_once('=') {
        masked.push_str(name);
        masked.push('=');
        rest = value;
        let lower = name.trim_end().to_ascii_lowercase();
        if SECRETS.iter().any(|secret| lower.ends_with(secret)) {
            let value = value.trim_start();
            let end = match value.strip_prefix('\'') {
                Some(quoted) => quoted.find('\'').map(|end| end + 2),
                None => value.find([' ', '&']),
            };
            masked.push_str(MASK);
            rest = end.and_then(|end| value.get(end..)).unwrap_or_default();
        }
    }
    masked.push_str(rest);
    masked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_lines() {
        for (args, expected) in [
            ("psql\0-c\0select 1\0", Some("psql -c select ?")),
            ("psql\0--command=select 'x' a\0-p\0x", Some("psql --command=select ? a -p x")),
            ("psql\0-cALTER ROLE a PASSWORD 'pw'", Some("psql -cALTER ROLE a PASSWORD ?")),
            ("sh\0-c\0psql -c \"select 'x'\" # it's", Some("sh -c psql -c \"select 'x'\" # it?")),
            ("psql\0postgres://ana:pw@db/x?a=b\0", Some("psql postgres://ana:***@db/x?a=b")),
            ("psql\0postgres://ana:p@w@db\0", Some("psql postgres://ana:***@db")),
            ("psql\0postgres://ana@db/x\0", Some("psql postgres://ana@db/x")),
            ("psql\0host=h password=pw dbname=d\0", Some("psql host=h password=*** dbname=d")),
            ("psql\0password = 'p w' dbname=d\0", Some("psql password =*** dbname=d")),
            ("psql\0password='open\0", Some("psql password=***")),
            ("env\0PGPASSWORD=pw\0psql\0", Some("env PGPASSWORD=*** psql")),
            (
                "x\0postgres://h/d?user=a&password=b&c=d",
                Some("x postgres://h/d?user=a&password=***&c=d"),
            ),
            ("mysql\0-ppw\0-u\0ana", Some("mysql -p*** -u ana")),
            ("/usr/bin/mariadb\0--password=pw\0", Some("/usr/bin/mariadb --password=***")),
            ("psql\0-p5432\0", Some("psql -p5432")),
            (
                "postgres: ana shop 127.0.0.1(4711) idle\0\0\0",
                Some("postgres: ana shop 127.0.0.1(4711) idle"),
            ),
            ("\0\0", None),
            ("", None),
        ] {
            assert_eq!(command_line(args.as_bytes()).as_deref(), expected, "{args:?}");
        }
    }
}
