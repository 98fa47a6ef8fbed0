//! A masked client and a server that shows values: whatever the client says, and whenever the server fails, none of
//! the values gets to it that are hidden from it, and all others do.

use std::sync::Arc;

use super::{
    Heard, MARK, Marked, NONCE, STARTUP, messages,
    server::{Choices, Server, letters},
    texts::{COLUMNS, Column, Does, FORMS, OPEN, TABLE, read},
    values::{has_secret, push},
};
use crate::{
    event::{Analysis, Effect, Effects, Facts, Flow, Mask, RequestSum},
    guard::{
        court::{Argument, Court, Denial, Moment, Permit, Reading},
        masking::{Copied, CopyColumn, Hiding, Masked, Masks, TextPrint},
        session::{Broken, Output, Session},
    },
    protocol::postgres::reader::Reader,
    statement::Analysed,
};

/// Masks what the columns say, and denies what is marked.
struct Veiling {
    marked: Marked,
    masks: Arc<Masks>,
    /// The word for it opens nothing.
    is_strict: bool,
    is_open: bool,
    is_known: bool,
    /// For those who want to see what comes of that: nothing is masked.
    is_blind: bool,
}

impl Veiling {
    fn new(is_strict: bool, is_blind: bool) -> Self {
        let hidden = COLUMNS.iter().filter_map(|column| {
            Some(((column.relation, column.place), masked(column.letter, column.mask?)))
        });
        let masks = Masks { columns: hidden.collect(), relations: [TABLE].into() };
        Self {
            marked: Marked::default(),
            masks: masks.into(),
            is_strict,
            is_open: false,
            is_known: false,
            is_blind,
        }
    }
}

fn masked(letter: char, mask: &str) -> Masked {
    let column = format!("public.t.{letter}").into();
    let mask = mask.parse().unwrap_or(Mask::Null);
    Masked { mask, flow: Flow::default(), rule: "veil".into(), column }
}

/// What a COPY of these has to hide.
fn copied(columns: &[Column]) -> Copied {
    let copied = columns.iter().map(|column| {
        let mask = column.mask.or(column.is_hidden().then_some("null"))?;
        Some(CopyColumn { masked: masked(column.letter, mask), kind: column.kind })
    });
    let copied: Vec<_> = copied.collect();
    copied.iter().any(Option::is_some).then(|| copied.into())
}

impl Court for Veiling {
    fn read(&mut self, text: Option<&str>, _: Moment) -> Arc<Reading> {
        let statements = text.map(read).unwrap_or_default();
        let statements: Vec<Arc<Facts>> = statements.iter().map(|it| facts(it).into()).collect();
        let mut whole = Facts::nothing(Analysis::Complete);
        for one in &statements {
            whole.effects = whole.effects.union(one.effects);
            whole.summary = one.summary.clone();
        }
        let analysed =
            Analysed { is_session_sensitive: true, statements, ..Analysed::of(Arc::new(whole)) };
        Arc::new(Reading::of(text.map(Into::into), analysed.into(), None))
    }

    fn read_again(
        &mut self,
        reading: &Arc<Reading>,
        _: Option<Vec<Argument>>,
        moment: Moment,
    ) -> Arc<Reading> {
        self.read(reading.text.as_deref(), moment)
    }

    fn judge(&mut self, reading: &Reading) -> Result<Permit, Denial> {
        self.marked.judge(reading)?;
        let text = reading.text.as_deref().unwrap_or_default();
        self.is_open = text.contains(OPEN) && !self.is_strict;
        let copy = read(text).iter().find_map(|does| match does {
            Does::Copy(_, columns) => copied(columns),
            _ => None,
        });
        Ok(Permit::copying(copy.filter(|_| self.masks().is_some())))
    }

    fn masks(&mut self) -> Option<Arc<Masks>> {
        (!self.is_open && !self.is_blind).then(|| self.masks.clone())
    }

    fn hiding(&self) -> Arc<Hiding> {
        Arc::default()
    }

    fn veiled(&mut self) {
        assert!(!std::mem::replace(&mut self.is_known, true));
    }

    fn masked(&mut self, _: TextPrint, _: &[Arc<str>]) {
        assert!(self.is_known);
    }

    fn read_call(
        &mut self,
        oid: Option<u32>,
        values: Vec<Argument>,
        moment: Moment,
    ) -> Arc<Reading> {
        self.marked.read_call(oid, values, moment)
    }

    fn denied(&mut self, token: &str, denial: &Denial, text: Option<&str>) {
        self.marked.denied(token, denial, text);
    }

    fn summed(&mut self, sum: RequestSum) {
        self.marked.summed(sum);
    }

    fn sent(&mut self, _: &Reading) {}
    fn prepared(&mut self, _: &str, _: &Reading) {}
    fn authenticated(&mut self, _: &'static str) {}
    fn renamed(&mut self, _: &str) {}
    fn summed_so_far(&mut self, _: u64, _: RequestSum) {}
}

fn facts(does: &Does) -> Facts {
    let nothing = Facts::nothing(Analysis::Complete);
    match does {
        Does::Copy(form, _) => Facts {
            effects: Effects::from_iter([Effect::CopyOut]),
            copy: Some(Box::new(form.form.clone())),
            ..nothing
        },
        Does::Set => Facts { settings: vec!["client_encoding".into()], ..nothing },
        Does::Begin => Facts { summary: "BEGIN".into(), ..nothing },
        _ => nothing,
    }
}

/// Whatever stands in `data` is a conversation.
pub fn fuzz(data: &[u8]) {
    let Some((&first, _)) = data.split_first() else { return };
    let whole = play(data, usize::MAX, false);
    whole.check();
    check_answers(&whole);
    let pieces = play(data, usize::from(first >> 1) % 40 + 1, false);
    whole.agrees(&pieces);
    check_answers(&pieces);
}

/// `is_blind`: the guard masks nothing.
fn play(data: &[u8], piece: usize, is_blind: bool) -> Heard {
    let mut choices = Choices::new(data);
    let is_strict = choices.next() & 1 == 0;
    let mut talk = Talk {
        session: Session::new(NONCE),
        court: Veiling::new(is_strict, is_blind),
        out: Output::default(),
        heard: Heard { is_masked: true, ..Heard::default() },
        server: Server::new(is_strict),
        piece,
        asks: Vec::new(),
        answers: Vec::new(),
    };
    talk.session.introduced(STARTUP.len());
    push(&mut talk.answers, b'R', &[&[0; 4]]);
    push(&mut talk.answers, b'S', &[b"client_encoding\0UTF8\0"]);
    push(&mut talk.answers, b'Z', &[b"I"]);
    talk.answer(usize::MAX);
    while !choices.are_over() && !talk.heard.is_broken {
        talk.go_on(&mut choices);
    }
    talk.ask(usize::MAX);
    while !talk.heard.is_broken && talk.server.step(&mut choices, &mut talk.answers) {
        talk.answer(usize::MAX);
    }
    talk.answer(usize::MAX);
    let mut heard = talk.heard;
    if !heard.is_broken {
        heard.summed = talk.court.marked.summed;
        heard.summed.push(talk.session.sum());
    }
    heard
}

/// A conversation under way.
struct Talk {
    session: Session,
    court: Veiling,
    out: Output,
    heard: Heard,
    server: Server,
    piece: usize,
    /// What either side has said that hasn't come to the guard yet.
    asks: Vec<u8>,
    answers: Vec<u8>,
}

impl Talk {
    fn go_on(&mut self, choices: &mut Choices<'_>) {
        let choice = choices.next();
        // Not all of it comes at once.
        let part = (choice & 0xe0 == 0).then(|| usize::from(choices.next()));
        match choice & 0x1f {
            kind @ 0..16 => {
                request(kind, choices, &mut self.asks);
                self.ask(part.unwrap_or(usize::MAX));
            }
            16..30 => {
                self.server.step(choices, &mut self.answers);
                self.answer(part.unwrap_or(usize::MAX));
            }
            _ => {
                self.server.murmur(choices, &mut self.answers);
                self.answer(part.unwrap_or(usize::MAX));
            }
        }
    }

    fn ask(&mut self, most: usize) {
        let asks: Vec<u8> = self.asks.drain(..most.min(self.asks.len())).collect();
        for part in asks.chunks(self.piece) {
            if self.heard.is_broken {
                return;
            }
            self.heard.from_client.extend_from_slice(part);
            let outcome = self.session.client_bytes(part, &mut self.court, &mut self.out);
            self.heard.is_broken = outcome.is_err();
            self.server.gets(&self.out.to_server);
            self.heard.to_server.append(&mut self.out.to_server);
            self.heard.to_client.append(&mut self.out.to_client);
        }
    }

    fn answer(&mut self, most: usize) {
        let answers: Vec<u8> = self.answers.drain(..most.min(self.answers.len())).collect();
        for part in answers.chunks(self.piece) {
            if self.heard.is_broken {
                return;
            }
            self.heard.from_server.extend_from_slice(part);
            let outcome = self.session.server_bytes(part, &mut self.court, &mut self.out);
            self.heard.is_broken = outcome.is_err();
            let is_fair = matches!(outcome, Ok(()) | Err(Broken::Astray));
            assert!(is_fair, "a server as it should be ends the session: {outcome:?}");
            self.heard.to_client.append(&mut self.out.to_client);
        }
    }
}

/// What a client says.
fn request(kind: u8, choices: &mut Choices<'_>, out: &mut Vec<u8>) {
    let name = |choices: &mut Choices<'_>| {
        [&b"\0"[..], b"\0", b"s\0", b"t\0"][usize::from(choices.next() % 4)]
    };
    match kind {
        0 | 1 => push(out, b'Q', &[text(choices, 3).as_bytes(), b"\0"]),
        2 | 3 => push(out, b'P', &[name(choices), text(choices, 1).as_bytes(), b"\0\0\0"]),
        4 | 5 => {
            let format: &[u8] = [&b"\0\0"[..], b"\0\x01\0\x01"][usize::from(choices.next() & 1)];
            push(out, b'B', &[name(choices), name(choices), b"\0\0\0\0", format]);
        }
        6 => push(out, b'D', &[b"P", name(choices)]),
        7 => push(out, b'D', &[b"S", name(choices)]),
        8 | 9 => push(out, b'E', &[name(choices), b"\0\0\0", &[choices.next() % 2]]),
        10 => push(out, b'C', &[[b"P", b"S"][usize::from(choices.next() & 1)], name(choices)]),
        11 | 12 => push(out, b'S', &[]),
        // All that it takes, at once.
        13 => {
            let text = text(choices, 1);
            push(out, b'P', &[b"\0", text.as_bytes(), b"\0\0\0"]);
            push(out, b'B', &[b"\0\0\0\0\0\0\0\0"]);
            push(out, b'E', &[b"\0\0\0\0\0"]);
            push(out, b'S', &[]);
        }
        14 => push(out, [b'd', b'c', b'f', b'H'][usize::from(choices.next() % 4)], &[b"\0"]),
        _ => {
            let len = usize::from(choices.next() % 32);
            out.extend_from_slice(choices.take(len));
        }
    }
}

/// One of so many statements at most.
fn text(choices: &mut Choices<'_>, most: u8) -> String {
    let n = choices.next() % most + 1;
    let one = |_| {
        let (choice, columns) = (choices.next(), choices.next());
        let form = FORMS[usize::from(columns) % FORMS.len()];
        let mut text = match choice % 16 {
            0..6 => format!("rows {}", letters(columns)),
            6 | 7 => format!("copy {form} {}", letters(choices.next())),
            8 => "copyin".to_owned(),
            9 => "begin".to_owned(),
            10 => "end".to_owned(),
            11 => "SET".to_owned(),
            12 => "forget".to_owned(),
            13 => "nothing".to_owned(),
            14 => "fails".to_owned(),
            _ => String::new(),
        };
        if !text.is_empty() && choice & 0x30 == 0x30 {
            text.push_str(" open");
        }
        if !text.is_empty() && choice & 0xc0 == 0xc0 && choice & 1 == 1 {
            text = format!("{text} {MARK}");
        }
        text
    };
    (0..n).map(one).collect::<Vec<_>>().join(";")
}

/// What the client has got is what the server has said, but for what is hidden from it.
fn check_answers(heard: &Heard) {
    assert!(!has_secret(&heard.to_client), "what is hidden got to the client");
    let (said, under_way) = messages(&heard.from_server);
    let (got, _) = messages(&heard.to_client);
    let mut said = said.into_iter().chain([under_way]);
    let mut columns = Vec::new();
    for message in got {
        loop {
            let original = said.next().expect("the client got what nobody has said");
            if original.first() == Some(&b'T') {
                columns = described(original);
            }
            if is_for(message, original, &columns) {
                break;
            }
            let is_ours = matches!(original.first(), Some(b'T' | b'n'));
            assert!(is_ours, "the client lacks something");
        }
    }
    // The one under way may be kept back.
    let kept = said.filter(|rest| !matches!(rest.first(), None | Some(b'T' | b'n')));
    assert!(heard.is_broken || kept.count() <= 1, "the client lacks something");
}

/// Which columns of a description pass as they are.
fn described(description: &[u8]) -> Vec<bool> {
    let mut reader = Reader::new(description.get(5..).unwrap_or_default());
    let mut passes = Vec::new();
    for _ in 0..reader.u16().unwrap_or_default() {
        let _name = reader.cstr();
        let (relation, place) = (reader.u32(), reader.i16());
        let _rest = reader.take(12);
        let of =
            |column: &&Column| Some(column.relation) == relation && Some(column.place) == place;
        passes.push(COLUMNS.iter().find(of).is_some_and(|column| !column.is_hidden()));
    }
    passes
}

/// Whether a client may get this for that.
fn is_for(message: &[u8], original: &[u8], passes: &[bool]) -> bool {
    match (message.first(), original.first()) {
        _ if message == original => true,
        (Some(b'D'), Some(b'D')) => {
            let (Some(got), Some(said)) = (cells(message), cells(original)) else { return false };
            got.len() == said.len()
                && said.len() == passes.len()
                && got.iter().zip(&said).zip(passes).all(|((got, said), passes)| {
                    got == said || !passes && (said.is_some() || got.is_none())
                })
        }
        (Some(b'E'), Some(b'E')) | (Some(b'N'), Some(b'N')) => true,
        (Some(b'A'), Some(b'A')) | (Some(b'd'), Some(b'd')) => true,
        _ => false,
    }
}

fn cells(row: &[u8]) -> Option<Vec<Option<&[u8]>>> {
    let mut reader = Reader::new(row.get(5..)?);
    let cells = (0..reader.u16()?).map(|_| {
        let len = reader.i32()?;
        Some(match usize::try_from(len) {
            Ok(len) => Some(reader.take(len)?),
            Err(_) => None,
        })
    });
    cells.collect()
}

#[cfg(test)]
mod tests {
    use super::{super::contains, fuzz, has_secret, play};

    /// Scripts that are long enough for something to come of them.
    fn scripts() -> impl Iterator<Item = Vec<u8>> {
        let mut random = 0x5eed_u64;
        let mut next = move || {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 33) as usize
        };
        (0..1_500).map(move |_| {
            let len = next() % 400 + 20;
            (0..len).map(|_| next() as u8).collect()
        })
    }

    #[test]
    fn nothing_that_is_hidden_gets_to_the_client_whatever_it_says() {
        let (mut n_rows, mut n_masked) = (0, 0);
        for script in scripts() {
            fuzz(&script);
            let heard = play(&script, usize::MAX, false);
            n_rows += usize::from(has_secret(&heard.from_server));
            n_masked += usize::from(contains(&heard.to_client, b"******WORD"));
        }
        // The conversations are some.
        assert!(n_rows > 200 && n_masked > 30, "{n_rows} {n_masked}");
    }

    /// That a guard which masks nothing would be noticed.
    #[test]
    fn what_is_not_masked_is_found() {
        let leaks =
            scripts().filter(|script| has_secret(&play(script, usize::MAX, true).to_client));
        assert!(leaks.count() > 100);
    }
}
