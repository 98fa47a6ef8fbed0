//! What goes between the service and the process that parses: frames of a length and as many bytes.

use std::io::{self, Read, Write};

use serde::de::DeserializeOwned;

use crate::{
    event::Uses,
    statement::{Analysed, Lexing, MAX_TEXT_BYTES, Session},
};

/// No answer is longer.
pub const MAX_ANSWER_BYTES: usize = 1 << 20;

/// No session is described in more; one that would be is taken for one of which nothing is known.
const MAX_SESSION_BYTES: usize = 1 << 20;

/// A text is read with standard-conforming strings.
const CONFORMING: u8 = 1;
/// What else is known of its session follows it, as JSON.
const IN_SESSION: u8 = 2;
/// It is a definition, of which the facts are what is behind it.
const BEHIND: u8 = 4;
/// Its uses are wanted, and not its facts.
const USES: u8 = 8;

/// What a text is analysed by.
#[derive(Clone, Copy, Debug)]
pub enum Asked<'a> {
    /// For any session that reads it so.
    Alone(Lexing),
    In(&'a Session),
    /// What a definition of the database's does once it is used.
    Behind,
    /// Where the columns go that it names.
    Uses(Lexing),
}

/// What the process that parses is asked.
#[derive(Debug)]
pub struct Request {
    pub text: String,
    pub session: Session,
    pub is_behind: bool,
    pub is_of_uses: bool,
}

/// A request: the length of the text in four bytes, how it is read in one, the text, the session.
pub fn write_request(to: &mut impl Write, text: &str, asked: Asked<'_>) -> io::Result<()> {
    let (lexing, session) = match asked {
        Asked::Alone(lexing) => (lexing, None),
        Asked::In(session) => (session.lexing, Some(serde_json::to_vec(session)?)),
        Asked::Behind => (Lexing::default(), None),
        Asked::Uses(lexing) => (lexing, None),
    };
    let session = session.filter(|json| json.len() <= MAX_SESSION_BYTES);
    let len = |bytes: &[u8]| {
        u32::try_from(bytes.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
    };
    let mut frame = Vec::with_capacity(5 + text.len());
    frame.extend_from_slice(&len(text.as_bytes())?.to_le_bytes());
    let conforming = if lexing.standard_conforming_strings { CONFORMING } else { 0 };
    let wanted = match asked {
        Asked::Behind => BEHIND,
        Asked::Uses(_) => USES,
        Asked::Alone(_) | Asked::In(_) => 0,
    };
    frame.push(conforming | wanted | if session.is_some() { IN_SESSION } else { 0 });
    frame.extend_from_slice(text.as_bytes());
    if let Some(session) = session {
        frame.extend_from_slice(&len(&session)?.to_le_bytes());
        frame.extend_from_slice(&session);
    }
    to.write_all(&frame)
}

/// `None` at the end of the stream.
pub fn read_request(from: &mut impl Read) -> io::Result<Option<Request>> {
    let mut head = [0; 5];
    match from.read_exact(&mut head) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        outcome => outcome?,
    }
    let [len @ .., flags] = head;
    let text = read_bytes(from, len, MAX_TEXT_BYTES)?;
    let text = String::from_utf8(text).map_err(|_| io::ErrorKind::InvalidData)?;
    let lexing = Lexing { standard_conforming_strings: flags & CONFORMING != 0 };
    let (is_behind, is_of_uses) = (flags & BEHIND != 0, flags & USES != 0);
    if flags & IN_SESSION == 0 {
        let session = Session { lexing, ..Session::default() };
        return Ok(Some(Request { text, session, is_behind, is_of_uses }));
    }
    let mut len = [0; 4];
    from.read_exact(&mut len)?;
    let json = read_bytes(from, len, MAX_SESSION_BYTES)?;
    let session = serde_json::from_slice(&json).map_err(|_| io::ErrorKind::InvalidData)?;
    Ok(Some(Request { text, session, is_behind, is_of_uses }))
}

/// An answer: its length in four bytes, JSON.
pub fn write_answer(to: &mut impl Write, json: &[u8]) -> io::Result<()> {
    let len = u32::try_from(json.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut frame = Vec::with_capacity(4 + json.len());
    frame.extend_from_slice(&len.to_le_bytes());
    frame.extend_from_slice(json);
    to.write_all(&frame)
}

/// Whatever the other side sends: facts, or an error. Statements that are left out are one, the whole.
pub fn read_answer(from: &mut impl Read) -> io::Result<Analysed> {
    let mut analysed: Analysed = read_json(from)?;
    if analysed.statements.is_empty() {
        analysed.statements.push(analysed.whole.clone());
    }
    Ok(analysed)
}

/// The same of uses, statement by statement.
pub fn read_uses(from: &mut impl Read) -> io::Result<Vec<Uses>> {
    read_json(from)
}

fn read_json<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<T> {
    let mut len = [0; 4];
    from.read_exact(&mut len)?;
    let json = read_bytes(from, len, MAX_ANSWER_BYTES)?;
    serde_json::from_slice(&json).map_err(|_| io::ErrorKind::InvalidData.into())
}

fn read_bytes(from: &mut impl Read, len: [u8; 4], max: usize) -> io::Result<Vec<u8>> {
    let len = usize::try_from(u32::from_le_bytes(len)).unwrap_or(usize::MAX);
    if len > max {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = vec![0; len];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::{
        Asked, MAX_ANSWER_BYTES, Request, read_answer, read_request, write_answer, write_request,
    };
    use crate::{
        event::Analysis,
        statement::{Analysed, Lexing, Parameter, Parameters, Session},
    };

    #[test]
    fn requests_and_answers_arrive_as_they_were_sent() {
        let lexing = Lexing { standard_conforming_strings: false };
        let mut bytes = Vec::new();
        write_request(&mut bytes, "SELECT 'é'", Asked::Alone(lexing)).unwrap();
        let parameters = Parameters::Bound(vec![Parameter::Text("ü".into())]);
        let said = Session { in_transaction: true, parameters, ..Session::default() };
        write_request(&mut bytes, "SELECT $1", Asked::In(&said)).unwrap();
        write_request(&mut bytes, "CREATE RULE", Asked::Behind).unwrap();
        write_request(&mut bytes, "TABLE a", Asked::Uses(lexing)).unwrap();
        let mut bytes = bytes.as_slice();
        let Request { text, session, is_behind, .. } = read_request(&mut bytes).unwrap().unwrap();
        assert_eq!((text.as_str(), session.lexing, is_behind), ("SELECT 'é'", lexing, false));
        let Request { text, session, is_behind, .. } = read_request(&mut bytes).unwrap().unwrap();
        assert!(!is_behind);
        assert_eq!(text, "SELECT $1");
        assert!(session.in_transaction);
        assert!(matches!(session.parameters, Parameters::Bound(values) if values.len() == 1));
        assert!(read_request(&mut bytes).unwrap().unwrap().is_behind);
        let request = read_request(&mut bytes).unwrap().unwrap();
        assert!(request.is_of_uses && !request.is_behind);
        assert_eq!(request.session.lexing, lexing);
        assert!(read_request(&mut bytes).unwrap().is_none());

        let answer = Analysed::unparsed("SELECT 'é'", lexing, Analysis::TooLong);
        let mut bytes = Vec::new();
        write_answer(&mut bytes, &serde_json::to_vec(&answer).unwrap()).unwrap();
        assert_eq!(read_answer(&mut bytes.as_slice()).unwrap(), answer);
    }

    #[test]
    fn hostile_frames_are_errors() {
        let too_long = u32::try_from(MAX_ANSWER_BYTES + 1).unwrap().to_le_bytes();
        let deep = [b"\x00\x00\x01\x00".as_slice(), &[b'['; 1 << 16]].concat();
        for bytes in [
            b"".as_slice(),
            b"\x01\x00",
            b"\x05\x00\x00\x00{}",
            b"\x02\x00\x00\x00{}",
            b"\x04\x00\x00\x00null",
            b"\x04\x00\x00\x00\xff\xff\xff\xff",
            b"\xff\xff\xff\xff",
            &too_long,
            &deep,
        ] {
            assert!(read_answer(&mut &*bytes).is_err(), "{bytes:?}");
        }
    }
}
