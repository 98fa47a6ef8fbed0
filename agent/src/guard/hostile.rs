//! Both sides hostile: plays any bytes to a session, and checks what must hold whatever they say.

mod server;
mod texts;
mod values;
pub mod veiled;

use std::{borrow::Cow, ops::Range, sync::Arc};

use super::{
    court::{Argument, Court, Denial, Moment, Nulled, Permit, Reading},
    masking::Hiding,
    session::{Output, Session},
};
use crate::{
    event::{Analysis, BootTime, Direction, Facts, RequestSum, SessionEvent},
    protocol::{Limits, postgres},
    statement::Analysed,
};

/// A text with this word is denied.
pub const MARK: &str = "MARKED";
/// A text with this one is sent in other words.
pub const FLOWS: &str = "FLOWS";
/// What stands in the place of that one.
const NULLED: &str = "(NULL::x)";
const NONCE: u64 = 0x5eed;
/// Comes before all that is played: `user` is `u`.
const STARTUP: &[u8] = b"\0\0\0\x10\0\x03\0\0user\0u\0\0";
/// Begins the texts that stand for denied ones.
const POISON: &[u8] = b"dbwarden_0000000000005eed_";
/// What may be kept back of an answer under way.
const MAX_HELD: usize = 8_192;

/// One side says something.
#[derive(Clone, Copy, Debug)]
pub enum Says<'a> {
    Client(&'a [u8]),
    Server(&'a [u8]),
}

/// Denies whatever is marked, whatever can't be read, and calls by number.
#[derive(Default)]
struct Marked {
    /// What the session says that it has asked.
    summed: Vec<RequestSum>,
}

fn denial() -> Denial {
    Denial {
        code: Cow::Borrowed("42501"),
        rule: "marks".into(),
        message: "it is denied".into(),
        detail: "rule marks".into(),
        hint: Cow::Borrowed("None."),
        approval: None,
        needs: None,
    }
}

impl Court for Marked {
    fn read(&mut self, text: Option<&str>, _moment: Moment) -> Arc<Reading> {
        let unread = Analysed::unparsed("", Default::default(), Analysis::TooLong).whole;
        // What may change settings is in doubt until it is answered.
        let facts = match text.is_some_and(|text| text.contains("SET")) {
            true => unread,
            false => Arc::new(Facts { analysis: Analysis::Complete, ..Facts::clone(&unread) }),
        };
        let analysed = Arc::new(Analysed { is_session_sensitive: true, ..Analysed::of(facts) });
        Arc::new(Reading::of(text.map(Into::into), analysed, None))
    }

    fn read_again(
        &mut self,
        reading: &Arc<Reading>,
        _values: Option<Vec<Argument>>,
        moment: Moment,
    ) -> Arc<Reading> {
        self.read(reading.text.as_deref(), moment)
    }

    fn sent(&mut self, _reading: &Reading) {}

    fn prepared(&mut self, _name: &str, _reading: &Reading) {}

    fn judge(&mut self, reading: &Reading) -> Result<Permit, Denial> {
        match reading.text.as_deref() {
            Some(text) if !text.contains(MARK) && !text.contains(FLOWS) => Ok(Permit::given()),
            _ => Err(denial()),
        }
    }

    fn instead(&mut self, reading: &Arc<Reading>, state: Moment) -> Option<Arc<Reading>> {
        let text = reading.text.as_deref().filter(|text| text.contains(FLOWS))?;
        let other = self.read(Some(&text.replace(FLOWS, NULLED)), state);
        let nulled = Nulled { said: reading.clone(), columns: Arc::default() };
        Some(Arc::new(Reading { nulled: Some(Arc::new(nulled)), ..Reading::clone(&other) }))
    }

    fn read_call(&mut self, _: Option<u32>, _: Vec<Argument>, moment: Moment) -> Arc<Reading> {
        self.read(None, moment)
    }

    fn denied(&mut self, token: &str, _denial: &Denial, _text: Option<&str>) {
        assert!(token.as_bytes().starts_with(POISON));
    }

    fn authenticated(&mut self, _method: &'static str) {}

    fn renamed(&mut self, _application: &str) {}

    fn hiding(&self) -> Arc<Hiding> {
        Arc::default()
    }

    fn summed(&mut self, sum: RequestSum) {
        self.summed.push(sum);
    }

    fn summed_so_far(&mut self, _bytes: u64, _sum: RequestSum) {}
}

/// What was said on either side, and what the other one got.
#[derive(Debug, Default, PartialEq, Eq)]
struct Heard {
    from_client: Vec<u8>,
    to_server: Vec<u8>,
    from_server: Vec<u8>,
    to_client: Vec<u8>,
    is_broken: bool,
    /// What the session says that it has asked.
    summed: Vec<RequestSum>,
    /// The client gets some of it otherwise than it came, and the guard asks for descriptions.
    is_masked: bool,
}

/// Reads `data` as a script: a control byte (bit 0: the server speaks; the rest: how much), then the bytes.
pub fn fuzz(data: &[u8]) {
    let mut steps = Vec::new();
    let mut rest = data;
    while let Some((&control, after)) = rest.split_first() {
        let len = usize::from(control >> 1).min(after.len());
        let (bytes, after) = after.split_at(len);
        steps.push(if control & 1 == 0 { Says::Client(bytes) } else { Says::Server(bytes) });
        rest = after;
    }
    check(&steps, 1);
}

/// The script that plays `steps` to [`fuzz`].
pub fn script(steps: &[Says<'_>]) -> Vec<u8> {
    let mut script = Vec::new();
    for step in steps {
        let (side, bytes) = match step {
            Says::Client(bytes) => (0, bytes),
            Says::Server(bytes) => (1, bytes),
        };
        for part in bytes.chunks(127) {
            script.push((part.len() as u8) << 1 | side);
            script.extend_from_slice(part);
        }
    }
    script
}

/// Plays it as it is and in pieces of so many bytes, which makes no difference.
pub fn check(steps: &[Says<'_>], piece: usize) {
    let whole = play(steps, usize::MAX);
    whole.check();
    let pieces = play(steps, piece.max(1));
    pieces.check();
    whole.agrees(&pieces);
}

fn play(steps: &[Says<'_>], piece: usize) -> Heard {
    let mut session = Session::new(NONCE);
    session.introduced(STARTUP.len());
    let (mut court, mut out, mut heard) = (Marked::default(), Output::default(), Heard::default());
    for step in steps {
        let (Says::Client(bytes) | Says::Server(bytes)) = step;
        for part in bytes.chunks(piece) {
            let outcome = match step {
                Says::Client(_) => {
                    heard.from_client.extend_from_slice(part);
                    session.client_bytes(part, &mut court, &mut out)
                }
                Says::Server(_) => {
                    heard.from_server.extend_from_slice(part);
                    session.server_bytes(part, &mut court, &mut out)
                }
            };
            heard.to_server.append(&mut out.to_server);
            heard.to_client.append(&mut out.to_client);
            if outcome.is_err() {
                heard.is_broken = true;
                return heard;
            }
        }
    }
    heard.summed = court.summed;
    heard.summed.push(session.sum());
    heard
}

impl Heard {
    /// With the same in pieces.
    fn agrees(&self, pieces: &Self) {
        assert_eq!(self.is_broken, pieces.is_broken, "in pieces it ends otherwise");
        assert!(self.to_server == pieces.to_server, "in pieces the server gets something else");
        // An answer under way may have come farther.
        let (one, other) = (&self.to_client, &pieces.to_client);
        assert!(one.starts_with(other) || other.starts_with(one), "in pieces the client does");
    }

    fn check(&self) {
        self.check_requests();
        if !self.is_masked {
            self.check_answers();
        }
        if !self.is_broken {
            self.check_sums();
        }
    }

    /// Whoever reads what the server gets comes to the same sums as the session.
    fn check_sums(&self) {
        let mut observer = postgres::Session::new(Limits::default());
        observer.sum_requests();
        let mut seen = Vec::new();
        for bytes in [STARTUP, &self.to_server] {
            observer.bytes(Direction::Request, BootTime(0), bytes, &mut |event| {
                if let SessionEvent::Summed(sum) = event {
                    seen.push(sum);
                }
            });
        }
        let (bytes, current) = observer.summed_so_far().unwrap_or_default();
        seen.push(current);
        assert_eq!(bytes, (STARTUP.len() + self.to_server.len()) as u64);
        assert_eq!(seen, self.summed, "the observer sums up something else");
    }

    fn check_requests(&self) {
        let (said, under_way) = messages(&self.from_client);
        let (sent, rest) = messages(&self.to_server);
        // Of what the client has said, how much the server has got.
        let mut n = 0;
        for message in sent {
            assert!(!is_denied(message), "what is denied got to the server");
            let original = *said.get(n).unwrap_or(&under_way);
            if self.is_masked && message != original && describes_what(message, original) {
                continue;
            }
            match has_poison(message) && message != original {
                true => assert!(original.first().is_some_and(|tag| b"QPBEF".contains(tag))),
                false if contains(message, NULLED.as_bytes()) && message != original => {
                    assert_eq!(message, reworded(original), "the server got other words");
                }
                false => assert_eq!(message, original, "the server got something else"),
            }
            n += 1;
        }
        assert!(self.is_broken || n >= said.len(), "the server lacks something");
        let original = *said.get(n).unwrap_or(&under_way);
        assert!(original.starts_with(rest), "the server gets something else");
        assert!(!is_denied(rest), "the server gets what is denied");
    }

    fn check_answers(&self) {
        let (said, under_way) = messages(&self.from_server);
        let (heard, rest) = messages(&self.to_client);
        for (n, message) in heard.iter().enumerate() {
            let original = *said.get(n).unwrap_or(&under_way);
            if *message != original {
                assert!(original.first() == Some(&b'E') && has_poison(original));
                assert!(message.first() == Some(&b'E'));
            }
        }
        assert!(self.is_broken || heard.len() >= said.len(), "the client lacks something");
        let original = *said.get(heard.len()).unwrap_or(&under_way);
        assert!(original.starts_with(rest), "the client gets something else");
        assert!(self.is_broken || original.len() - rest.len() <= MAX_HELD, "it is kept back");
    }
}

/// Whole messages, and the beginning of the one after them.
fn messages(bytes: &[u8]) -> (Vec<&[u8]>, &[u8]) {
    let (mut messages, mut rest) = (Vec::new(), bytes);
    while let Some([_, len @ ..]) = rest.first_chunk::<5>() {
        let len = u32::from_be_bytes(*len) as usize;
        let Some((message, after)) = rest.split_at_checked(len + 1).filter(|_| len >= 4) else {
            break;
        };
        messages.push(message);
        rest = after;
    }
    (messages, rest)
}

fn is_denied(message: &[u8]) -> bool {
    let text = text_of(message).and_then(|range| message.get(range)).unwrap_or_default();
    let is_marked = [MARK, FLOWS].iter().any(|word| contains(text, word.as_bytes()));
    is_marked || message.first() == Some(&b'F')
}

/// Where a message has a text.
fn text_of(message: &[u8]) -> Option<Range<usize>> {
    let end_of = |from: usize| {
        let rest = message.get(from..)?;
        Some(from + rest.iter().position(|byte| *byte == 0).unwrap_or(rest.len()))
    };
    let start = match message.first()? {
        b'Q' => 5,
        // Its name may be anything.
        b'P' => end_of(5)? + 1,
        _ => return None,
    };
    // What stands behind the text's end is no part of it, for the server neither.
    Some(start..end_of(start)?)
}

/// The message that is sent for one whose text is sent in other words.
fn reworded(message: &[u8]) -> Vec<u8> {
    let Some(range) = text_of(message) else { return message.to_vec() };
    let text = String::from_utf8_lossy(&message[range.clone()]).replace(FLOWS, NULLED);
    let mut other = message.to_vec();
    other.splice(range, text.bytes());
    let len = (other.len() as u32 - 1).to_be_bytes();
    other[1..5].copy_from_slice(&len);
    other
}

/// Whether it is the `Describe` of the portal that this `Execute` runs.
fn describes_what(message: &[u8], execute: &[u8]) -> bool {
    let name = |message: &'_ [u8], from: usize| -> Option<Vec<u8>> {
        message.get(from..)?.split(|byte| *byte == 0).next().map(<[u8]>::to_vec)
    };
    message.first() == Some(&b'D')
        && message.get(5) == Some(&b'P')
        && execute.first() == Some(&b'E')
        && name(message, 6) == name(execute, 5)
}

fn has_poison(message: &[u8]) -> bool {
    contains(message, POISON)
}

fn contains(bytes: &[u8], word: &[u8]) -> bool {
    bytes.windows(word.len()).any(|window| window == word)
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::{FLOWS, MARK, Says, check, fuzz, messages, script};

    /// What either side said in a transcript of the tests, from behind the start-up on.
    /// A name, and what was said: by the client or not.
    type Transcript = (String, Vec<(bool, Vec<u8>)>);

    fn transcripts() -> Vec<Transcript> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/transcripts");
        let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let paths = paths.filter(|path| path.extension().is_some_and(|end| end == "transcript"));
        let parse = |line: &str| {
            let (side, quoted) = line.split_at_checked(2)?;
            let escaped = quoted.strip_prefix('"')?.strip_suffix('"')?;
            Some((side == "> ", unescape(escaped)))
        };
        paths
            .map(|path| {
                let text = fs::read_to_string(&path).unwrap();
                let mut calls: Vec<_> = text.lines().filter_map(parse).collect();
                calls.remove(0);
                (path.display().to_string(), calls)
            })
            .collect()
    }

    fn unescape(text: &str) -> Vec<u8> {
        let (mut bytes, mut rest) = (Vec::new(), text.bytes());
        while let Some(byte) = rest.next() {
            bytes.push(match (byte, (byte == b'\\').then(|| rest.next().unwrap())) {
                (_, Some(b'0')) => 0,
                (_, Some(b't')) => b'\t',
                (_, Some(b'n')) => b'\n',
                (_, Some(b'r')) => b'\r',
                (_, Some(b'x')) => {
                    let digits = [rest.next().unwrap(), rest.next().unwrap()];
                    u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
                }
                (_, Some(other)) => other,
                (byte, None) => byte,
            });
        }
        bytes
    }

    fn steps(calls: &[(bool, Vec<u8>)]) -> Vec<Says<'_>> {
        let mut steps = Vec::new();
        for (is_client, bytes) in calls {
            steps.push(if *is_client { Says::Client(bytes) } else { Says::Server(bytes) });
        }
        steps
    }

    /// What a fuzzer has found: the mark behind a text's end, where the numbers of types stand.
    #[test]
    fn a_mark_behind_the_text_denies_nothing() {
        let parse = b"P\0\0\0\x14\0SELECT 1\0MARKED";
        check(&[Says::Client(parse), Says::Client(b"S\0\0\0\x04")], 3);
    }

    #[test]
    fn real_conversations_pass_in_any_pieces_and_up_to_any_place() {
        let mut played = 0;
        for (name, calls) in transcripts() {
            let size: usize = calls.iter().map(|(_, bytes)| bytes.len()).sum();
            for piece in [1, 2, 3, 5, 7, 64, 1_000] {
                check(&steps(&calls), piece);
            }
            // Each place of short ones, some of long ones.
            for end in (0..size).step_by(1 + size / 300) {
                let mut left = end;
                let cut: Vec<_> = calls
                    .iter()
                    .map(|(is_client, bytes)| {
                        let part = bytes.get(..left.min(bytes.len())).unwrap().to_vec();
                        left -= part.len();
                        (*is_client, part)
                    })
                    .collect();
                check(&steps(&cut), 3);
                played += 1;
            }
            fuzz(&script(&steps(&calls)));
            assert!(!name.is_empty());
        }
        assert!(played > 1_000, "{played}");
    }

    /// Each text of a real conversation once with the mark in it.
    #[test]
    fn a_marked_text_of_a_real_conversation_never_gets_to_the_server() {
        assert!(with(MARK) > 50);
    }

    /// Likewise.
    #[test]
    fn a_text_of_a_real_conversation_may_be_sent_in_other_words() {
        assert!(with(FLOWS) > 50);
    }

    /// Plays each text of a real conversation with this word in it; gives how many that were.
    fn with(word: &str) -> usize {
        let mut marked = 0;
        for (_, calls) in transcripts() {
            let texts = calls.iter().enumerate().filter(|(_, (is_client, _))| *is_client);
            for (n, (_, bytes)) in texts.take(60) {
                let mut changed = Vec::new();
                let (whole, rest) = messages(bytes);
                for message in whole {
                    let body = message.get(5..).unwrap();
                    let text = match message[0] {
                        b'Q' => 0,
                        b'P' => body.iter().position(|byte| *byte == 0).unwrap() + 1,
                        _ => {
                            changed.extend_from_slice(message);
                            continue;
                        }
                    };
                    let mut body = body.to_vec();
                    body.splice(text..text, word.bytes());
                    changed.push(message[0]);
                    changed.extend((body.len() as u32 + 4).to_be_bytes());
                    changed.extend(body);
                    marked += 1;
                }
                changed.extend_from_slice(rest);
                let mut calls = calls.clone();
                calls[n].1 = changed;
                for piece in [1, 4, 50] {
                    check(&steps(&calls), piece);
                }
            }
        }
        marked
    }

    /// An error may repeat the text that stands for a denied one, and be longer than any that stands for it.
    #[test]
    fn an_error_that_is_too_long_to_be_exchanged_passes_as_it_is() {
        let message = |tag: u8, body: &[u8]| {
            let len = (body.len() as u32 + 4).to_be_bytes();
            [&[tag][..], &len, body].concat()
        };
        let denied = message(b'Q', format!("{MARK}\0").as_bytes());
        for len in [100, 8_000, 8_190, 8_192, 8_200, 20_000] {
            let error =
                format!("SERROR\0C42601\0Mdbwarden_0000000000005eed_1{}\0\0", "x".repeat(len));
            let error = message(b'E', error.as_bytes());
            let ready = message(b'Z', b"I");
            for piece in [1, 1_000, 8_191] {
                let answer = [&error[..], &ready].concat();
                let whole = super::play(&[Says::Client(&denied), Says::Server(&answer)], piece);
                whole.check();
                assert!(whole.to_client.ends_with(&ready));
            }
        }
    }
}
