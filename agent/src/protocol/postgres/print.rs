//! What a request asks for, as a number: the same on every connection that it is passed on to.
//!
//! A pooler passes messages on as they are, except for the names of prepared statements: these are left
//! out. Of long ones the beginning and the length count. That two requests have one print by chance, or
//! because somebody made it so, makes senders harder to tell apart, and never names a wrong one.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::{deframer::Message, frontend::Bind, tables::Prepared};
use crate::event::RequestPrint;

/// How much of a text, or of the parameters, is looked at.
const HEAD: usize = 32 << 10;

/// What poolers send of themselves where nobody configured anything else: to see whether a server still
/// answers, and to clean it up for the next client.
const COMMON: [&[u8]; 2] = [b"select 1", b"discard all"];

/// Of a `Query` or a `FunctionCall`.
pub(super) fn of_message(message: &Message<'_>) -> RequestPrint {
    let mut hasher = DefaultHasher::new();
    message.tag.hash(&mut hasher);
    let Some(()) = part(message.body, message.body_len, &mut hasher) else {
        return RequestPrint::Unknown;
    };
    let text = message.body.strip_suffix(&[0]).unwrap_or(message.body).trim_ascii();
    let text = text.strip_suffix(b";").unwrap_or(text).trim_ascii_end();
    match COMMON.iter().any(|common| common.eq_ignore_ascii_case(text)) {
        true => RequestPrint::Common(hasher.finish()),
        false => RequestPrint::Known(hasher.finish()),
    }
}

/// Of what a `Bind` makes ready to run.
pub(super) fn of_bind(
    bind: &Bind<'_>,
    message: &Message<'_>,
    prepared: Option<&Prepared>,
) -> RequestPrint {
    let Some(prepared) = prepared else { return RequestPrint::Unknown };
    let names = bind.portal.len() + bind.statement.len() + 2;
    let arguments = message.body.get(names..).unwrap_or_default();
    let mut hasher = DefaultHasher::new();
    bind.portal.hash(&mut hasher);
    let text_len = prepared.text.len() as u64 + prepared.truncated + prepared.lost;
    let text = part(prepared.text.as_bytes(), text_len, &mut hasher);
    let arguments_len = message.body_len.saturating_sub(names as u64);
    match text.and(part(arguments, arguments_len, &mut hasher)) {
        Some(()) => RequestPrint::Known(hasher.finish()),
        None => RequestPrint::Unknown,
    }
}

/// Takes in what was `seen` of something that is `len` bytes long; `None` where that is too little.
fn part(seen: &[u8], len: u64, hasher: &mut DefaultHasher) -> Option<()> {
    let wanted = usize::try_from(len).unwrap_or(usize::MAX).min(HEAD);
    seen.get(..wanted)?.hash(hasher);
    len.hash(hasher);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::{HEAD, of_message};
    use crate::{
        event::{BootTime, RequestPrint},
        protocol::postgres::deframer::Message,
    };

    fn query<'a>(body: &'a [u8], body_len: u64) -> Message<'a> {
        let at = BootTime(1);
        Message { tag: b'Q', body, body_len, lost: 0, started: at, at }
    }

    fn print(text: &str) -> RequestPrint {
        let body = [text.as_bytes(), &[0]].concat();
        of_message(&query(&body, body.len() as u64))
    }

    #[test]
    fn texts_are_told_apart() {
        assert_eq!(print("SELECT 2"), print("SELECT 2"));
        assert_ne!(print("SELECT 2"), print("SELECT 3"));
        assert_ne!(print("SELECT 2"), print("SELECT 2 "));
        for text in ["select 1", "SELECT 1;", "DISCARD ALL", " discard all ; "] {
            assert!(matches!(print(text), RequestPrint::Common(_)), "{text}");
        }
    }

    #[test]
    fn what_was_not_seen_has_none() {
        assert_eq!(of_message(&query(b"SELE", 9)), RequestPrint::Unknown);
        // The beginning of a long one is enough.
        let long = vec![b'x'; HEAD];
        let whole = of_message(&query(&[&long[..], b"yy"].concat(), HEAD as u64 + 2));
        assert_eq!(of_message(&query(&long, HEAD as u64 + 2)), whole);
        assert_ne!(of_message(&query(&long, HEAD as u64 + 3)), whole);
    }
}
