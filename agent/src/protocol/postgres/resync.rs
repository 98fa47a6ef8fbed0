//! Finds a message boundary again after bytes were missing: slow to believe, never a guess on one tag.

use crate::{event::BootTime, protocol::Limits};

use super::{backend, deframer::Message, frontend, reader::Reader};

/// How much of the newest response bytes is searched.
pub(super) const WINDOW: usize = 4096;

const READY: [u8; 5] = [backend::READY_FOR_QUERY, 0, 0, 0, 5];

/// Where in `tail` a chain of well-formed messages begins that leads exactly to a `ReadyForQuery` at
/// the very end. A server always sends that message last, before it waits for the client.
pub(super) fn backend(tail: &[u8]) -> Option<usize> {
    let ready = tail.len().checked_sub(6)?;
    if !tail.get(ready..)?.starts_with(&READY) || !matches!(tail.last()?, b'I' | b'T' | b'E') {
        return None;
    }
    let mut leads_there = vec![false; ready + 1];
    let mut first = ready;
    *leads_there.get_mut(ready)? = true;
    for start in (0..ready).rev() {
        let Some(next) = message_end(tail, start) else { continue };
        if leads_there.get(next).copied().unwrap_or(false)
            && tail.get(start + 5..next).is_some_and(|body| backend_body(tail.get(start), body))
        {
            *leads_there.get_mut(start)? = true;
            first = start;
        }
    }
    Some(first)
}

fn message_end(bytes: &[u8], start: usize) -> Option<usize> {
    let mut reader = Reader::new(bytes.get(start..)?);
    reader.u8()?;
    let len = usize::try_from(reader.u32()?).ok().filter(|&len| len >= 4)?;
    start.checked_add(1)?.checked_add(len)
}

/// Whether a body has the form that its type prescribes, for the types that end a response.
fn backend_body(tag: Option<&u8>, body: &[u8]) -> bool {
    let mut reader = Reader::new(body);
    match tag.copied().unwrap_or(0) {
        backend::READY_FOR_QUERY => backend::ready_for_query(body).is_some() && body.len() == 1,
        backend::COMMAND_COMPLETE => is_completion(body),
        backend::DATA_ROW => is_row(reader).unwrap_or(false),
        backend::ERROR_RESPONSE | backend::NOTICE_RESPONSE => is_report(reader).unwrap_or(false),
        backend::PARAMETER_STATUS => {
            reader.cstr().is_some() && reader.cstr().is_some() && reader.is_empty()
        }
        backend::COPY_DONE
        | backend::EMPTY_QUERY_RESPONSE
        | backend::PORTAL_SUSPENDED
        | backend::CLOSE_COMPLETE
        | backend::BIND_COMPLETE
        | backend::PARSE_COMPLETE
        | backend::NO_DATA => body.is_empty(),
        _ => false,
    }
}

fn is_completion(body: &[u8]) -> bool {
    let Some((&0, text)) = body.split_last() else { return false };
    text.first().is_some_and(u8::is_ascii_uppercase)
        && text.len() < 64
        && text
            .iter()
            .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || b" _".contains(byte))
}

fn is_row(mut reader: Reader<'_>) -> Option<bool> {
    for _ in 0..reader.u16()? {
        match reader.i32()? {
            -1 => {}
            len => {
                reader.take(usize::try_from(len).ok()?)?;
            }
        }
    }
    Some(reader.is_empty())
}

fn is_report(mut reader: Reader<'_>) -> Option<bool> {
    let mut field = reader.u8()?;
    if field != b'S' {
        return Some(false);
    }
    while field != 0 {
        if !field.is_ascii_alphabetic() {
            return Some(false);
        }
        reader.cstr()?;
        field = reader.u8()?;
    }
    Some(reader.is_empty())
}

/// Whether `bytes`, as one call gave them, begin at a message boundary.
///
/// Every message in them must have the form that its type prescribes, and the last one must end with
/// them. When `quiet` (the server had answered everything), a last message that goes on beyond them
/// is enough.
pub(super) fn frontend(bytes: &[u8], quiet: bool, limits: &Limits) -> bool {
    let mut start = 0;
    let mut last = 0;
    while start < bytes.len() {
        let Some(&tag) = bytes.get(start) else { return false };
        if tag == frontend::PASSWORD || frontend::keep(tag, limits).is_none() {
            return false;
        }
        let Some(end) = message_end(bytes, start) else { return false };
        let Some(body) = bytes.get(start + 5..end) else {
            let seen = bytes.get(start + 5..).unwrap_or_default();
            return quiet && end - start < 1 << 30 && may_begin(tag, seen);
        };
        if !frontend_body(tag, body) {
            return false;
        }
        last = tag;
        start = end;
    }
    matches!(
        last,
        frontend::QUERY
            | frontend::SYNC
            | frontend::FLUSH
            | frontend::FUNCTION_CALL
            | frontend::TERMINATE
    )
}

fn may_begin(tag: u8, body: &[u8]) -> bool {
    match tag {
        frontend::QUERY => !body.contains(&0),
        frontend::PARSE | frontend::BIND => true,
        _ => false,
    }
}

fn frontend_body(tag: u8, body: &[u8]) -> bool {
    let message = Message {
        tag,
        body,
        body_len: body.len() as u64,
        lost: 0,
        started: BootTime(0),
        at: BootTime(0),
    };
    let ends_its_only_string =
        |body: &[u8]| body.iter().position(|&byte| byte == 0) == body.len().checked_sub(1);
    match tag {
        frontend::QUERY | frontend::COPY_FAIL => ends_its_only_string(body),
        frontend::PARSE => frontend::Parse::read(&message).is_some_and(|parse| {
            parse.whole && body.len() == parse.name.len() + parse.text.len() + 4 + parse.types.len()
        }),
        frontend::BIND => is_bind(Reader::new(body)).unwrap_or(false),
        frontend::DESCRIBE | frontend::CLOSE => {
            matches!(body.first(), Some(b'S' | b'P'))
                && ends_its_only_string(body.get(1..).unwrap_or_default())
        }
        frontend::EXECUTE => frontend::Execute::read(&message)
            .is_some_and(|execute| body.len() == execute.portal.len() + 5),
        frontend::SYNC | frontend::FLUSH | frontend::TERMINATE | frontend::COPY_DONE => {
            body.is_empty()
        }
        frontend::FUNCTION_CALL => frontend::function_arguments(&message).is_some(),
        frontend::COPY_DATA => true,
        _ => false,
    }
}

fn is_bind(mut reader: Reader<'_>) -> Option<bool> {
    reader.cstr()?;
    reader.cstr()?;
    let formats = reader.u16()?;
    reader.take(usize::from(formats) * 2)?;
    for _ in 0..reader.u16()? {
        match reader.i32()? {
            -1 => {}
            len => {
                reader.take(usize::try_from(len).ok()?)?;
            }
        }
    }
    let results = reader.u16()?;
    reader.take(usize::from(results) * 2)?;
    Some(reader.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_is_found_by_its_end() {
        let cases: &[(&[u8], Option<usize>)] = &[
            (b"Z\0\0\0\x05I", Some(0)),
            (b"xyzZ\0\0\0\x05T", Some(3)),
            (b"xyzC\0\0\0\x0dSELECT 1\0Z\0\0\0\x05I", Some(3)),
            // The length of the message before does not lead to the ReadyForQuery.
            (b"xyzC\0\0\0\x0eSELECT 1\0Z\0\0\0\x05I", Some(17)),
            (b"D\0\0\0\x0b\0\x01\0\0\0\x01aC\0\0\0\x0dSELECT 1\0Z\0\0\0\x05I", Some(0)),
            (b"C\0\0\0\x0dselect 1\0Z\0\0\0\x05I", Some(14)),
            (b"Z\0\0\0\x05X", None),
            (b"Z\0\0\0\x05IN", None),
            (b"\0\x05I", None),
            (b"", None),
        ];
        for (tail, expected) in cases {
            assert_eq!(&backend(tail), expected, "{tail:?}");
        }
    }

    #[test]
    fn a_request_is_believed_whole_or_when_quiet() {
        let cases: &[(&[u8], bool, bool)] = &[
            (b"Q\0\0\0\x0dselect 1\0", true, true),
            (b"S\0\0\0\x04", true, true),
            (b"P\0\0\0\x0ca\0bc\0\0\0SS\0\0\0\x04", false, false),
            (b"P\0\0\0\x0ba\0bc\0\0\0S\0\0\0\x04", true, true),
            (b"Q\0\0\x10\0select", false, true),
            (b"Q\0\0\x10\0sel\0ct", false, false),
            (b"Q\0\0\0\x0dselect 1\0p\0\0\0\x04", false, false),
            (b"d\0\0\0\x05x", false, false),
            (b"select 1", false, false),
            (b"Q\0\0", false, false),
            (b"", false, false),
        ];
        for (bytes, alone, quiet) in cases {
            let limits = Limits::default();
            assert_eq!(frontend(bytes, false, &limits), *alone, "{bytes:?}");
            assert_eq!(frontend(bytes, true, &limits), *quiet, "{bytes:?} when quiet");
        }
    }
}
