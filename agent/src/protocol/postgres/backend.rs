//! The messages of a server, in the protocol's own words.

use crate::event::{Tag, TransactionStatus};

use super::reader::Reader;
use crate::protocol::Limits;

pub(crate) const AUTHENTICATION: u8 = b'R';
pub(crate) const BACKEND_KEY_DATA: u8 = b'K';
pub(crate) const BIND_COMPLETE: u8 = b'2';
pub(crate) const CLOSE_COMPLETE: u8 = b'3';
pub(crate) const COMMAND_COMPLETE: u8 = b'C';
pub(crate) const COPY_BOTH_RESPONSE: u8 = b'W';
pub(crate) const COPY_DATA: u8 = b'd';
pub(crate) const COPY_DONE: u8 = b'c';
pub(crate) const COPY_IN_RESPONSE: u8 = b'G';
pub(crate) const COPY_OUT_RESPONSE: u8 = b'H';
pub(crate) const DATA_ROW: u8 = b'D';
pub(crate) const EMPTY_QUERY_RESPONSE: u8 = b'I';
pub(crate) const ERROR_RESPONSE: u8 = b'E';
pub(crate) const FUNCTION_CALL_RESPONSE: u8 = b'V';
pub(crate) const NEGOTIATE_PROTOCOL_VERSION: u8 = b'v';
pub(crate) const NO_DATA: u8 = b'n';
pub(crate) const NOTICE_RESPONSE: u8 = b'N';
pub(crate) const NOTIFICATION_RESPONSE: u8 = b'A';
pub(crate) const PARAMETER_DESCRIPTION: u8 = b't';
pub(crate) const PARAMETER_STATUS: u8 = b'S';
pub(crate) const PARSE_COMPLETE: u8 = b'1';
pub(crate) const PORTAL_SUSPENDED: u8 = b's';
pub(crate) const READY_FOR_QUERY: u8 = b'Z';
pub(crate) const ROW_DESCRIPTION: u8 = b'T';

/// Of a secret key, from protocol 3.2 on; four bytes before.
const MAX_KEY: usize = 256;

/// How much of a message's body its reader wants; `None` for a type that does not exist.
pub(crate) fn keep(tag: u8, limits: &Limits) -> Option<usize> {
    match tag {
        DATA_ROW
        | COPY_DATA
        | ROW_DESCRIPTION
        | COPY_DONE
        | BIND_COMPLETE
        | CLOSE_COMPLETE
        | PARSE_COMPLETE
        | COPY_BOTH_RESPONSE
        | COPY_IN_RESPONSE
        | COPY_OUT_RESPONSE
        | EMPTY_QUERY_RESPONSE
        | FUNCTION_CALL_RESPONSE
        | NEGOTIATE_PROTOCOL_VERSION
        | NO_DATA
        | NOTIFICATION_RESPONSE
        | PORTAL_SUSPENDED => Some(0),
        READY_FOR_QUERY => Some(1),
        BACKEND_KEY_DATA if limits.cancel_keys => Some(4 + MAX_KEY),
        // The process id, not the secret key behind it.
        BACKEND_KEY_DATA => Some(4),
        COMMAND_COMPLETE | AUTHENTICATION => Some(64),
        PARAMETER_STATUS => Some(1024),
        PARAMETER_DESCRIPTION => Some(4096),
        ERROR_RESPONSE | NOTICE_RESPONSE => Some(8192),
        _ => None,
    }
}

/// Fields of an `ErrorResponse` or a `NoticeResponse`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Report<'a> {
    /// Not localised where the server says so (`V`), else as it stands (`S`).
    pub severity: &'a [u8],
    /// SQLSTATE.
    pub code: &'a [u8],
    /// As far as it was kept.
    pub message: &'a [u8],
}

impl<'a> Report<'a> {
    pub(crate) fn read(body: &'a [u8]) -> Report<'a> {
        let mut report = Report::default();
        let mut reader = Reader::new(body);
        while let Some(field) = reader.u8().filter(|&field| field != 0) {
            let rest = reader.rest();
            let Some(text) = reader.cstr() else {
                // A message that was cut off still says something; a code does not.
                if field == b'M' {
                    report.message = rest;
                }
                break;
            };
            match field {
                b'V' => report.severity = text,
                b'S' if report.severity.is_empty() => report.severity = text,
                b'C' => report.code = text,
                b'M' => report.message = text,
                _ => {}
            }
        }
        report
    }
}

/// Tag and row count of a `CommandComplete`: `INSERT 0 5`, `SELECT 3`, `CREATE TABLE`.
pub(crate) fn command_complete(body: &[u8]) -> Option<(&str, Option<u64>)> {
    let text = std::str::from_utf8(Reader::new(body).cstr()?).ok()?;
    let words = text.trim_end_matches(|c: char| c.is_ascii_digit() || c == ' ');
    let rows = text.rsplit(' ').next().filter(|_| words.len() < text.len());
    Some((words, rows.and_then(|rows| rows.parse().ok())))
}

/// The tags of the commands that nearly all statements are, most frequent first: nothing is allocated
/// for these.
const COMMON_TAGS: &[&str] = &[
    "SELECT",
    "UPDATE",
    "INSERT",
    "BEGIN",
    "COMMIT",
    "DELETE",
    "SET",
    "ROLLBACK",
    "COPY",
    "FETCH",
    "DECLARE CURSOR",
    "CLOSE CURSOR",
    "MERGE",
    "SAVEPOINT",
    "RELEASE",
    "SHOW",
    "DISCARD ALL",
    "DEALLOCATE",
];

pub(crate) fn tag(words: &str) -> Tag {
    match COMMON_TAGS.iter().find(|common| **common == words) {
        Some(common) => Tag::Borrowed(common),
        None => Tag::Owned(words.to_owned()),
    }
}

/// The status byte of a `ReadyForQuery`.
pub(crate) fn ready_for_query(body: &[u8]) -> Option<TransactionStatus> {
    match body.first()? {
        b'I' => Some(TransactionStatus::Idle),
        b'T' => Some(TransactionStatus::InTransaction),
        b'E' => Some(TransactionStatus::Failed),
        _ => None,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Authentication {
    Ok,
    /// The method that the server asks for.
    Asks(&'static str),
    /// A further round of the same method.
    Continues,
}

pub(crate) fn authentication(body: &[u8]) -> Option<Authentication> {
    let mut reader = Reader::new(body);
    Some(match reader.u32()? {
        0 => Authentication::Ok,
        2 => Authentication::Asks("kerberos-v5"),
        3 => Authentication::Asks("password"),
        5 => Authentication::Asks("md5"),
        7 => Authentication::Asks("gssapi"),
        9 => Authentication::Asks("sspi"),
        10 => Authentication::Asks(match reader.cstr() {
            Some(name) if name.starts_with(b"SCRAM-SHA-256") => "scram-sha-256",
            Some(b"OAUTHBEARER") => "oauth",
            _ => "sasl",
        }),
        _ => Authentication::Continues,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A body, and the tag and rows read from it.
    type Completion = (&'static [u8], Option<(&'static str, Option<u64>)>);

    #[test]
    fn completions() {
        let cases: &[Completion] = &[
            (b"INSERT 0 5\0", Some(("INSERT", Some(5)))),
            (b"SELECT 3\0", Some(("SELECT", Some(3)))),
            (b"CREATE TABLE\0", Some(("CREATE TABLE", None))),
            (b"COPY 18446744073709551615\0", Some(("COPY", Some(u64::MAX)))),
            (b"SELECT 18446744073709551616\0", Some(("SELECT", None))),
            (b"\0", Some(("", None))),
            (b"7\0", Some(("", Some(7)))),
            (b"SELECT 3", None),
            (b"\xff\0", None),
        ];
        for (body, expected) in cases {
            assert_eq!(&command_complete(body), expected, "{body:?}");
        }
    }

    #[test]
    fn common_tags_are_static() {
        for words in ["SELECT", "CLOSE CURSOR"] {
            assert!(matches!(tag(words), Tag::Borrowed(tag) if tag == words), "{words}");
        }
        for words in ["CREATE TABLE", "SELECT INTO", ""] {
            assert_eq!(tag(words), Tag::Owned(words.to_owned()));
        }
    }

    #[test]
    fn reports() {
        let report = Report::read(b"SFEHLER\0VERROR\0C42P01\0Mno such\0Ffile.c\0\0");
        assert_eq!(
            report,
            Report { severity: b"ERROR", code: b"42P01", message: b"no such" },
            "the severity that is not localised wins"
        );
        assert_eq!(Report::read(b"SERROR\0C42601\0Mcut of").message, b"cut of");
        assert_eq!(Report::read(b""), Report::default());
    }

    #[test]
    fn authentications() {
        let cases: &[(&[u8], Option<Authentication>)] = &[
            (b"\0\0\0\0", Some(Authentication::Ok)),
            (b"\0\0\0\x03", Some(Authentication::Asks("password"))),
            (b"\0\0\0\x05salt", Some(Authentication::Asks("md5"))),
            (b"\0\0\0\x0aSCRAM-SHA-256-PLUS\0\0", Some(Authentication::Asks("scram-sha-256"))),
            (b"\0\0\0\x0bnonce", Some(Authentication::Continues)),
            (b"\0\0", None),
        ];
        for (body, expected) in cases {
            assert_eq!(&authentication(body), expected, "{body:?}");
        }
    }
}
