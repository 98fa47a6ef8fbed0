//! What goes between the service and the process that parses: frames of a length and as many bytes.

use std::io::{self, Read, Write};

use crate::statement::{Analysed, Lexing, MAX_TEXT_BYTES};

/// No answer is longer.
pub const MAX_ANSWER_BYTES: usize = 1 << 20;

/// A request: the length of the text in four bytes, the settings in one, the text.
pub fn write_request(to: &mut impl Write, text: &str, lexing: Lexing) -> io::Result<()> {
    let len = u32::try_from(text.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut frame = Vec::with_capacity(5 + text.len());
    frame.extend_from_slice(&len.to_le_bytes());
    frame.push(u8::from(lexing.standard_conforming_strings));
    frame.extend_from_slice(text.as_bytes());
    to.write_all(&frame)
}

/// `None` at the end of the stream.
pub fn read_request(from: &mut impl Read) -> io::Result<Option<(String, Lexing)>> {
    let mut head = [0; 5];
    match from.read_exact(&mut head) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        outcome => outcome?,
    }
    let [len @ .., standard_conforming_strings] = head;
    let text = read_bytes(from, len, MAX_TEXT_BYTES)?;
    let text = String::from_utf8(text).map_err(|_| io::ErrorKind::InvalidData)?;
    let lexing = Lexing { standard_conforming_strings: standard_conforming_strings != 0 };
    Ok(Some((text, lexing)))
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
    let mut len = [0; 4];
    from.read_exact(&mut len)?;
    let json = read_bytes(from, len, MAX_ANSWER_BYTES)?;
    let mut analysed: Analysed =
        serde_json::from_slice(&json).map_err(|_| io::ErrorKind::InvalidData)?;
    if analysed.statements.is_empty() {
        analysed.statements.push(analysed.whole.clone());
    }
    Ok(analysed)
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
    use super::{MAX_ANSWER_BYTES, read_answer, read_request, write_answer, write_request};
    use crate::{
        event::Analysis,
        statement::{Analysed, Lexing},
    };

    #[test]
    fn requests_and_answers_arrive_as_they_were_sent() {
        let lexing = Lexing { standard_conforming_strings: false };
        let mut bytes = Vec::new();
        write_request(&mut bytes, "SELECT 'é'", lexing).unwrap();
        assert_eq!(
            read_request(&mut bytes.as_slice()).unwrap(),
            Some(("SELECT 'é'".to_owned(), lexing))
        );
        assert_eq!(read_request(&mut [].as_slice()).unwrap(), None);

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
