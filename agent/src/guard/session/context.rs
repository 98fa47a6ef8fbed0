//! What an approval is bound to beside its text: asked of the server in the client's own session, before the statement.
//!
//! Only there names mean what they will mean for the statement: with the session's role, search path and temporary
//! tables, and with what its transaction has made. Nothing of the question is looked up where the client could have
//! put something of its own.

use std::{sync::Arc, time::Duration};

use super::poison::message;
use crate::{approval::Context, protocol::postgres::frontend};

/// The answer is a handful of names.
const MAX_ANSWER: usize = 256 << 10;
/// Of a message: its type and its length.
const HEADER: usize = 5;
/// Names in one statement that are looked up.
const MAX_NAMES: usize = 200;

/// `$1` names of relations, `$2` and `$3` schemas and names of functions, `$4` whether prepared statements matter.
const QUESTION: &str = r#"/* dbwarden: what an approval is bound to */
SELECT (SELECT s.setting FROM pg_catalog.pg_settings s
        WHERE s.name OPERATOR(pg_catalog.=) 'statement_timeout'),
    session_user::pg_catalog.text, current_user::pg_catalog.text,
    pg_catalog.current_setting('search_path'),
    pg_catalog.array_to_string(pg_catalog.current_schemas(true), ', '),
    (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(' ', n, pg_catalog.current_setting(n)), ', ')
        FROM pg_catalog.unnest('{DateStyle,IntervalStyle,TimeZone,standard_conforming_strings,session_replication_role,row_security,transform_null_equals}'::pg_catalog.text[]) n),
    (SELECT pg_catalog.string_agg(CASE WHEN c.oid IS NULL THEN '-' ELSE pg_catalog.concat(c.oid,
            CASE WHEN c.relkind OPERATOR(pg_catalog.=) ANY ('{v,m}'::pg_catalog."char"[])
                THEN pg_catalog.concat(':', pg_catalog.md5(pg_catalog.pg_get_viewdef(c.oid))) END) END,
            ',' ORDER BY o.at)
        FROM pg_catalog.unnest($1) WITH ORDINALITY o (name, at)
        LEFT JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) pg_catalog.to_regclass(o.name)::pg_catalog.oid),
    (SELECT pg_catalog.string_agg(coalesce(f.found, '-'), ',' ORDER BY o.at)
        FROM unnest($2, $3) WITH ORDINALITY o (schema, name, at)
        LEFT JOIN LATERAL (
            SELECT pg_catalog.string_agg(pg_catalog.concat(p.oid, ':', p.xmin), ' ' ORDER BY p.oid) AS found
            FROM pg_catalog.pg_proc p
            JOIN pg_catalog.pg_namespace s ON s.oid OPERATOR(pg_catalog.=) p.pronamespace
            WHERE p.proname OPERATOR(pg_catalog.=) o.name::pg_catalog.name
                AND CASE o.schema OPERATOR(pg_catalog.=) '' WHEN true
                    THEN pg_catalog.pg_function_is_visible(p.oid)
                    ELSE s.nspname OPERATOR(pg_catalog.=) o.schema::pg_catalog.name END) f ON true),
    CASE WHEN $4 THEN pg_catalog.concat(
        (SELECT pg_catalog.string_agg(pg_catalog.concat(p.name, ': ', p.statement), E'\n' ORDER BY p.name)
            FROM pg_catalog.pg_prepared_statements p WHERE p.from_sql), E'\n',
        (SELECT pg_catalog.string_agg(pg_catalog.concat(c.name, ': ', c.statement), E'\n' ORDER BY c.name)
            FROM pg_catalog.pg_cursors c WHERE pg_catalog.starts_with(c.name, 'dbwarden_') IS FALSE)) END"#;
/// `text[]`, `bool`
const TYPES: [u32; 4] = [1_009, 1_009, 1_009, 16];

/// What is to be looked up.
pub(super) struct Names<'a> {
    pub tables: &'a [Arc<str>],
    pub functions: &'a [Arc<str>],
    pub with_prepared: bool,
}

impl Names<'_> {
    /// The messages of the question; `None` where there are too many names.
    pub(super) fn messages(&self, nth: u64) -> Option<Vec<Vec<u8>>> {
        if self.tables.len() + self.functions.len() > MAX_NAMES {
            return None;
        }
        let name = format!("dbwarden_ask_{nth}\0");
        let name = name.as_bytes();
        let mut types = (TYPES.len() as u16).to_be_bytes().to_vec();
        types.extend(TYPES.iter().flat_map(|oid| oid.to_be_bytes()));

        let tables = array(self.tables.iter().map(|name| quoted(name)));
        let parts: Vec<Vec<String>> = self.functions.iter().map(|name| parts_of(name)).collect();
        let schemas = array(parts.iter().map(|parts| match parts.as_slice() {
            [.., schema, _] => schema.clone(),
            _ => String::new(),
        }));
        let functions = array(parts.iter().map(|parts| parts.last().cloned().unwrap_or_default()));
        let with_prepared = if self.with_prepared { "t" } else { "f" };
        // Everything in text.
        let mut values = b"\0\0\0\x04".to_vec();
        for value in [&tables, &schemas, &functions, with_prepared] {
            values.extend(u32::try_from(value.len()).ok()?.to_be_bytes());
            values.extend(value.as_bytes());
        }
        values.extend(b"\0\0");
        Some(vec![
            message(frontend::PARSE, &[name, QUESTION.as_bytes(), b"\0", &types]),
            message(frontend::BIND, &[name, name, &values]),
            message(frontend::EXECUTE, &[name, b"\0\0\0\0"]),
            message(frontend::CLOSE, &[b"P", name]),
            message(frontend::CLOSE, &[b"S", name]),
            sync(),
        ])
    }
}

/// Ends a segment.
pub(super) fn sync() -> Vec<u8> {
    message(frontend::SYNC, &[])
}

/// A literal of `text[]`.
fn array(words: impl Iterator<Item = String>) -> String {
    let words = words.map(|word| {
        let escaped = word.replace('\\', "\\\\").replace('"', "\\\"");
        format!("\"{escaped}\"")
    });
    format!("{{{}}}", words.collect::<Vec<_>>().join(","))
}

/// Facts write names without the quotation marks that SQL wants around capitals.
fn quoted(name: &str) -> String {
    let mut parts = parts_of(name);
    // With its database, which is this one.
    if parts.len() == 3 {
        parts.remove(0);
    }
    let quoted = parts.iter().map(|part| format!("\"{}\"", part.replace('"', "\"\"")));
    quoted.collect::<Vec<_>>().join(".")
}

/// As [`qualified`](crate::statement::qualified) has joined them.
fn parts_of(name: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut is_quoted = false;
    let mut letters = name.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '"' if is_quoted && letters.peek() == Some(&'"') => {
                letters.next();
                parts.iter_mut().last().into_iter().for_each(|part| part.push('"'));
            }
            '"' => is_quoted = !is_quoted,
            '.' if !is_quoted => parts.push(String::new()),
            letter => parts.iter_mut().last().into_iter().for_each(|part| part.push(letter)),
        }
    }
    parts
}

/// Reads the answer out of what the server says.
#[derive(Debug, Default)]
pub(super) struct Reader {
    /// Of the message under way.
    bytes: Vec<u8>,
    columns: Option<Vec<Option<String>>>,
    has_failed: bool,
    /// What comes first, up to `ReadyForQuery`, is the answer to what the client has asked before.
    is_before: bool,
}

/// What came of some bytes.
pub(super) enum Read {
    /// Nothing is lacking; what follows belongs to others.
    Done,
    More,
    /// The server speaks something else.
    Broken,
}

impl Reader {
    /// `is_before`: the end of a segment of the client's was put before the question.
    pub(super) fn new(is_before: bool) -> Self {
        Self { is_before, ..Self::default() }
    }

    /// Takes messages from the front of `bytes`; those that are for the client are put into `aside`.
    pub(super) fn read(&mut self, bytes: &mut &[u8], aside: &mut Vec<u8>) -> Read {
        loop {
            let Some(len) = self.fill(HEADER, bytes).and_then(|header| header.get(1..)) else {
                return Read::More;
            };
            let len = len.try_into().map_or(0, u32::from_be_bytes) as usize;
            if !(4..MAX_ANSWER).contains(&len) {
                return Read::Broken;
            }
            if self.fill(len + 1, bytes).is_none() {
                return Read::More;
            }
            let message = std::mem::take(&mut self.bytes);
            let body = message.get(5..).unwrap_or_default();
            match message.first() {
                // The client has yet to ask for its end.
                Some(b'Z') if self.is_before => self.is_before = false,
                Some(_) if self.is_before => aside.extend_from_slice(&message),
                Some(b'Z') => return Read::Done,
                Some(b'D') => self.columns = columns(body),
                Some(b'E') => self.has_failed = true,
                Some(b'S' | b'N' | b'A') => aside.extend_from_slice(&message),
                Some(b'1' | b'2' | b'3' | b'C') => {}
                _ => return Read::Broken,
            }
        }
    }

    /// The first bytes of the message under way, once there are so many.
    fn fill(&mut self, want: usize, bytes: &mut &[u8]) -> Option<&[u8]> {
        let lacking = want.saturating_sub(self.bytes.len()).min(bytes.len());
        let (more, rest) = bytes.split_at(lacking);
        self.bytes.extend_from_slice(more);
        *bytes = rest;
        self.bytes.get(..want)
    }

    /// What the server has said, and the session's `statement_timeout`.
    pub(super) fn context(self, names: &Names<'_>) -> Option<(Context, Option<Duration>)> {
        let columns = self.columns.filter(|_| !self.has_failed)?;
        let mut columns = columns.into_iter();
        let mut next = || columns.next().flatten();
        let timeout: u64 = next()?.parse().ok()?;
        let timeout = Some(Duration::from_millis(timeout)).filter(|timeout| !timeout.is_zero());
        let mut context = Context {
            session_user: next()?,
            current_user: next()?,
            search_path: next()?,
            schemas: next()?,
            settings: next()?,
            objects: Vec::new(),
            prepared: None,
        };
        let (tables, functions) = (next(), next());
        let found = numbers(names.tables, tables)?;
        context.objects.extend(found);
        let found = numbers(names.functions, functions)?;
        context.objects.extend(found.map(|(name, number)| (format!("{name}()"), number)));
        context.prepared = next();
        Some((context, timeout))
    }
}

/// Names with what was found for them, where that is as many.
fn numbers(
    names: &[Arc<str>],
    found: Option<String>,
) -> Option<impl Iterator<Item = (String, Option<String>)>> {
    let found: Vec<String> = match &found {
        None => Vec::new(),
        Some(found) => found.split(',').map(str::to_owned).collect(),
    };
    let pairs = names
        .iter()
        .map(ToString::to_string)
        .zip(found.clone().into_iter().map(|number| Some(number).filter(|number| number != "-")));
    (found.len() == names.len()).then_some(pairs)
}

/// The values of a `DataRow` in text.
fn columns(body: &[u8]) -> Option<Vec<Option<String>>> {
    let (count, mut rest) = body.split_first_chunk::<2>()?;
    let mut columns = Vec::new();
    for _ in 0..u16::from_be_bytes(*count) {
        let (len, after) = rest.split_first_chunk::<4>()?;
        let len = i32::from_be_bytes(*len);
        let Ok(len) = usize::try_from(len) else {
            columns.push(None);
            rest = after;
            continue;
        };
        let (value, after) = after.split_at_checked(len)?;
        // In the client's encoding: another one than UTF-8 is as good for comparing.
        columns.push(Some(String::from_utf8_lossy(value).into_owned()));
        rest = after;
    }
    Some(columns)
}

#[cfg(test)]
mod tests {
    use super::{Names, Read, Reader, array, parts_of, quoted};

    #[test]
    fn names_are_looked_up_as_they_are() {
        for (name, parts, expected) in [
            ("customers", vec!["customers"], r#""customers""#),
            ("Customers", vec!["Customers"], r#""Customers""#),
            ("shop.Orders", vec!["shop", "Orders"], r#""shop"."Orders""#),
            (r#"shop."two words""#, vec!["shop", "two words"], r#""shop"."two words""#),
            (r#""a.b"."c""d""#, vec!["a.b", "c\"d"], r#""a.b"."c""d""#),
            ("db.shop.orders", vec!["db", "shop", "orders"], r#""shop"."orders""#),
        ] {
            assert_eq!(parts_of(name), parts, "{name}");
            assert_eq!(quoted(name), expected, "{name}");
        }
        let words = ["a", "b\"c", "d\\e", ""].map(str::to_owned);
        assert_eq!(array(words.into_iter()), r#"{"a","b\"c","d\\e",""}"#);
        assert_eq!(array(std::iter::empty()), "{}");
    }

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        super::message(tag, &[body])
    }

    #[test]
    fn an_answer_is_read_in_any_pieces() {
        let mut row = 9_u16.to_be_bytes().to_vec();
        let values =
            ["2000", "app", "admin", "public", "pg_catalog, public", "ISO", "16401,-", "16500:7"];
        for value in values {
            row.extend((value.len() as u32).to_be_bytes());
            row.extend(value.as_bytes());
        }
        row.extend((-1_i32).to_be_bytes());
        let notice = message(b'N', b"SNOTICE\0\0");
        let wire = [
            message(b'1', b""),
            notice.clone(),
            message(b'2', b""),
            message(b'D', &row),
            message(b'C', b"SELECT 1\0"),
            message(b'3', b""),
            message(b'3', b""),
            message(b'Z', b"I"),
            b"A".to_vec(),
        ]
        .concat();
        let (tables, functions) = (["customers".into(), "gone".into()], ["f".into()]);
        let names = Names { tables: &tables, functions: &functions, with_prepared: false };
        for piece in [1, 3, 1_000] {
            let (mut reader, mut aside) = (Reader::default(), Vec::new());
            let mut left: &[u8] = &[];
            let mut is_done = false;
            for bytes in wire.chunks(piece) {
                left = bytes;
                match reader.read(&mut left, &mut aside) {
                    Read::Done => {
                        is_done = true;
                        break;
                    }
                    Read::More => assert!(left.is_empty()),
                    Read::Broken => panic!("broken"),
                }
            }
            assert!(is_done && (left == b"A" || left.is_empty()), "{left:?}");
            assert_eq!(aside, notice);
            let (context, timeout) = reader.context(&names).unwrap();
            assert_eq!(timeout.unwrap().as_millis(), 2_000);
            assert_eq!(context.role(), "admin (session of app)");
            let expected = [
                ("customers".to_owned(), Some("16401".to_owned())),
                ("gone".to_owned(), None),
                ("f()".to_owned(), Some("16500:7".to_owned())),
            ];
            assert_eq!(context.objects, expected);
            assert_eq!(context.prepared, None);
        }
    }

    #[test]
    fn what_fails_is_not_known() {
        let names = Names { tables: &[], functions: &[], with_prepared: false };
        for wire in [
            [message(b'E', b"SERROR\0\0"), message(b'Z', b"I")].concat(),
            message(b'Z', b"I"),
            [message(b'D', b"\0\x09\0\0"), message(b'Z', b"I")].concat(),
        ] {
            let mut reader = Reader::default();
            assert!(matches!(reader.read(&mut &*wire, &mut Vec::new()), Read::Done));
            assert!(reader.context(&names).is_none());
        }
        for wire in [&b"Z\0\0\0\x03"[..], b"D\xff\xff\xff\xff", b"?\0\0\0\x04"] {
            let mut reader = Reader::default();
            assert!(matches!(reader.read(&mut &*wire, &mut Vec::new()), Read::Broken));
        }
    }
}
