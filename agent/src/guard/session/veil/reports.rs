//! Errors and notices of a masked client: what they say of values is left out, what they say of the trouble stays.

use crate::{
    guard::report::Words,
    protocol::postgres::{backend, reader::Reader},
};

/// Fields of a report that name things, and where in the client's own text the trouble is.
const NAMING: [u8; 9] = [b'S', b'V', b'C', b'P', b's', b't', b'c', b'd', b'n'];
/// Where in a text the trouble is.
const POSITION: u8 = b'P';
/// It came about in code: of what that says, anything may be a value.
const CONTEXT: u8 = b'W';

/// Classes of SQLSTATE whose words hold names, numbers of processes and texts of the client's own at most.
const SAFE: [&[u8; 2]; 17] = [
    b"08", b"0A", b"25", b"26", b"28", b"2B", b"2D", b"34", b"3D", b"3F", b"40", b"42", b"53",
    b"54", b"55", b"57", b"58",
];
/// Those of notices that no code gives a class.
const PLAIN: [&[u8; 2]; 2] = [b"00", b"01"];

const HINT: &str = "dbwarden leaves out what may tell masked values; the server's own log has it.";

/// What a client gets in the place of a report with this body; `None`: that itself.
///
/// `is_whole`: nothing of it is missing. `is_reworded`: the text may be another than the client's.
pub(super) fn instead(tag: u8, body: &[u8], is_whole: bool, is_reworded: bool) -> Option<Vec<u8>> {
    let fields = Fields::read(body);
    let code = fields.text(b'C').unwrap_or_default();
    let class = code.first_chunk::<2>();
    let is_notice = tag == backend::NOTICE_RESPONSE;
    let is_safe =
        class.is_some_and(|class| SAFE.contains(&class) || is_notice && PLAIN.contains(&class));
    let is_elsewhere = |field: &u8| is_reworded && *field == POSITION;
    let mut words = Words::new(tag);
    if is_whole && is_safe && fields.text(CONTEXT).is_none() {
        if !fields.all.iter().any(|(field, _)| is_elsewhere(field)) {
            return None;
        }
        let kept = fields.all.iter().filter(|(field, _)| !is_elsewhere(field));
        kept.for_each(|(field, text)| words.put(*field, text));
        return Some(words.finish());
    }
    // They come after what may be too long, and are lost with it.
    for (field, text) in fields.all.iter().filter(|(field, _)| NAMING.contains(field)) {
        if !is_elsewhere(field) {
            words.put(*field, text);
        }
    }
    words.put(b'M', message(&fields, code, is_notice).as_bytes());
    words.put(b'H', HINT.as_bytes());
    Some(words.finish())
}

/// In PostgreSQL's words, as far as names go.
fn message(fields: &Fields<'_>, code: &[u8], is_notice: bool) -> String {
    let name = |field| String::from_utf8_lossy(fields.text(field).unwrap_or(b"?")).into_owned();
    let (table, column, constraint) = (|| name(b't'), || name(b'c'), || name(b'n'));
    match code {
        b"23502" => format!(
            "null value in column \"{}\" of relation \"{}\" violates not-null constraint",
            column(),
            table()
        ),
        b"23503" => format!(
            "change of table \"{}\" violates foreign key constraint \"{}\"",
            table(),
            constraint()
        ),
        b"23505" => {
            format!("duplicate key value violates unique constraint \"{}\"", constraint())
        }
        b"23514" => format!(
            "new row for relation \"{}\" violates check constraint \"{}\"",
            table(),
            constraint()
        ),
        b"23P01" => {
            format!("conflicting key value violates exclusion constraint \"{}\"", constraint())
        }
        b"21000" => "more than one row returned by a subquery used as an expression".to_owned(),
        b"22001" => "value too long for its type".to_owned(),
        b"22003" => "value out of range for its type".to_owned(),
        b"22007" | b"22008" => "no valid date or time".to_owned(),
        b"22012" => "division by zero".to_owned(),
        b"22P02" | b"22P03" => "invalid input for its type".to_owned(),
        b"40001" => "could not serialize access".to_owned(),
        b"40P01" => "deadlock detected".to_owned(),
        b"57014" => "canceling statement".to_owned(),
        _ if is_notice => "a notice that may tell masked values".to_owned(),
        _ => "an error whose words may tell masked values".to_owned(),
    }
}

/// Of a report, as far as they have come.
struct Fields<'b> {
    all: Vec<(u8, &'b [u8])>,
}

impl<'b> Fields<'b> {
    fn read(body: &'b [u8]) -> Self {
        let mut reader = Reader::new(body);
        let mut all = Vec::new();
        while let Some(field) = reader.u8().filter(|field| *field != 0) {
            let Some(text) = reader.cstr() else { break };
            all.push((field, text));
        }
        Self { all }
    }

    fn text(&self, wanted: u8) -> Option<&'b [u8]> {
        self.all.iter().find(|(field, _)| *field == wanted).map(|(_, text)| *text)
    }
}

/// A `NotificationResponse` without what was said.
pub(super) fn silent(body: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let mut reader = Reader::new(body);
    let (process, channel) = (reader.u32()?, reader.cstr()?);
    let len = u32::try_from(4 + 4 + channel.len() + 2).ok()?;
    out.push(backend::NOTIFICATION_RESPONSE);
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(&process.to_be_bytes());
    out.extend_from_slice(channel);
    out.extend_from_slice(b"\0\0");
    Some(())
}

#[cfg(test)]
mod tests {
    use super::{instead, silent};
    use crate::protocol::postgres::backend::{ERROR_RESPONSE, NOTICE_RESPONSE};

    #[test]
    fn what_may_tell_values_is_left_out() {
        let unique = "SERROR|VERROR|C23505|Mduplicate key value violates unique constraint \"customers_ssn_key\"|\
                      DKey (ssn)=(123-45-6789) already exists.|spublic|tcustomers|ncustomers_ssn_key|Fnbtinsert.c|";
        let notice = "SNOTICE|VNOTICE|C00000|M";
        for (tag, fields, expected) in [
            (
                ERROR_RESPONSE,
                unique,
                Some(
                    "SERROR|VERROR|C23505|spublic|tcustomers|ncustomers_ssn_key|Mduplicate key value violates unique constraint \"customers_ssn_key\"|",
                ),
            ),
            (
                ERROR_RESPONSE,
                "SERROR|VERROR|C22P02|Minvalid input syntax for type integer: \"123-45-6789\"|P8|",
                Some("SERROR|VERROR|C22P02|P8|Minvalid input for its type|"),
            ),
            (ERROR_RESPONSE, "SERROR|VERROR|C42703|Mcolumn \"x\" does not exist|P8|", None),
            (
                ERROR_RESPONSE,
                "SERROR|VERROR|C57014|Mcanceling statement due to user request|",
                None,
            ),
            // Raised by code, whatever it calls itself.
            (
                ERROR_RESPONSE,
                "SERROR|VERROR|C42703|M123-45-6789|WPL/pgSQL function f() line 1 at RAISE|",
                Some("SERROR|VERROR|C42703|Man error whose words may tell masked values|"),
            ),
            (
                ERROR_RESPONSE,
                "SERROR|VERROR|CP0001|M123-45-6789|",
                Some("SERROR|VERROR|CP0001|Man error whose words may tell masked values|"),
            ),
            (
                ERROR_RESPONSE,
                "SERROR|VERROR|",
                Some("SERROR|VERROR|Man error whose words may tell masked values|"),
            ),
            (NOTICE_RESPONSE, &format!("{notice}table \"t\" does not exist, skipping|"), None),
            (
                NOTICE_RESPONSE,
                &format!("{notice}123|WPL/pgSQL function f()|"),
                Some("SNOTICE|VNOTICE|C00000|Ma notice that may tell masked values|"),
            ),
            (
                ERROR_RESPONSE,
                &format!("{notice}123|"),
                Some("SNOTICE|VNOTICE|C00000|Man error whose words may tell masked values|"),
            ),
        ] {
            let body = [fields.replace('|', "\0").as_bytes(), b"\0"].concat();
            let got = instead(tag, &body, true, false).map(|bytes| {
                assert_eq!(bytes[0], tag);
                assert_eq!(bytes[1..5], (bytes.len() as u32 - 1).to_be_bytes());
                let text = String::from_utf8(bytes[5..].to_vec()).unwrap().replace('\0', "|");
                let (kept, hint) = text.split_once("Hdbwarden leaves out").unwrap();
                assert!(hint.ends_with("||"), "{hint}");
                kept.to_owned()
            });
            assert_eq!(got.as_deref(), expected, "{fields}");
        }
        // What is too long to be looked at as a whole isn't let through.
        assert!(instead(ERROR_RESPONSE, b"SERROR\0C42703\0Mcut of", false, false).is_some());
    }

    #[test]
    fn where_in_another_text_the_trouble_is_is_left_out() {
        for (fields, expected) in [
            (
                "SERROR|C42703|Mcolumn \"x\" does not exist|P8|Rf|",
                Some("SERROR|C42703|Mcolumn \"x\" does not exist|Rf||"),
            ),
            ("SERROR|C42703|Mcolumn \"x\" does not exist|", None),
        ] {
            let body = [fields.replace('|', "\0").as_bytes(), b"\0"].concat();
            let got = instead(ERROR_RESPONSE, &body, true, true);
            let got = got.map(|bytes| String::from_utf8(bytes[5..].to_vec()).unwrap());
            assert_eq!(got.map(|text| text.replace('\0', "|")).as_deref(), expected, "{fields}");
            let plain = instead(ERROR_RESPONSE, &body, true, false);
            assert!(plain.is_none());
        }
        let invalid = b"SERROR\0C22P02\0Minvalid input\0P8\0\0";
        let got = instead(ERROR_RESPONSE, invalid, true, true).unwrap();
        assert!(!got.windows(3).any(|it| it == b"\0P8"));
    }

    #[test]
    fn a_notification_says_only_that_it_came() {
        let mut out = Vec::new();
        silent(b"\0\0\0\x07news\x00123-45-6789\0", &mut out).unwrap();
        assert_eq!(out, b"A\0\0\0\x0e\0\0\0\x07news\0\0");
        assert!(silent(b"\0\0\0\x07news", &mut out).is_none());
    }
}
