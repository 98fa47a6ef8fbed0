//! A server as PostgreSQL is one, as far as answers go; what it shows, and when it fails, is anybody's choice.

use std::collections::{HashMap, VecDeque};

use super::{
    POISON, contains,
    texts::{COLUMNS, Column, Does, OPEN, read},
    values,
};
use crate::protocol::postgres::reader::Reader;

/// Where the choices come from: the bytes of a script, and zeros after them.
pub struct Choices<'b> {
    rest: &'b [u8],
}

impl<'b> Choices<'b> {
    pub fn new(rest: &'b [u8]) -> Self {
        Self { rest }
    }

    pub fn are_over(&self) -> bool {
        self.rest.is_empty()
    }

    pub fn next(&mut self) -> u8 {
        let Some((&first, rest)) = self.rest.split_first() else { return 0 };
        self.rest = rest;
        first
    }

    pub fn take(&mut self, len: usize) -> &'b [u8] {
        let (taken, rest) = self.rest.split_at(len.min(self.rest.len()));
        self.rest = rest;
        taken
    }

    /// True once in so many times.
    fn once_in(&mut self, times: u8) -> bool {
        self.next() % times == times - 1
    }
}

pub struct Server {
    inbox: Vec<u8>,
    prepared: HashMap<Vec<u8>, String>,
    portals: HashMap<Vec<u8>, Portal>,
    /// As `ReadyForQuery` has it.
    state: u8,
    /// An error has come: everything up to `Sync` is skipped.
    skips: bool,
    copies_in: bool,
    /// The rest of a `Query` under way, and its text.
    query: Option<(String, VecDeque<Does>)>,
    is_gone: bool,
    /// A statement has come, so the client may be known for one that is masked …
    is_begun: bool,
    /// … and is so always: nothing may be open.
    is_strict: bool,
}

#[derive(Clone)]
struct Portal {
    text: String,
    is_binary: bool,
    is_over: bool,
}

/// An error has been told.
struct Failed;

impl Server {
    pub fn new(is_strict: bool) -> Self {
        Self {
            inbox: Vec::new(),
            prepared: HashMap::new(),
            portals: HashMap::new(),
            state: b'I',
            skips: false,
            copies_in: false,
            query: None,
            is_gone: false,
            is_begun: false,
            is_strict,
        }
    }

    pub fn gets(&mut self, bytes: &[u8]) {
        self.inbox.extend_from_slice(bytes);
    }

    /// Answers one message, or says something of its own where none is there; whether one was.
    pub fn step(&mut self, choices: &mut Choices<'_>, out: &mut Vec<u8>) -> bool {
        if self.is_gone {
            return false;
        }
        let (messages, _) = super::messages(&self.inbox);
        let Some(message) = messages.first().map(|first| first.to_vec()) else {
            self.murmur(choices, out);
            return false;
        };
        self.inbox.drain(..message.len());
        let (tag, body) = (message[0], &message[5..]);
        if self.copies_in {
            self.copy(tag, choices, out);
        } else if (!self.skips || matches!(tag, b'S' | b'X'))
            && self.hear(tag, body, choices, out).is_err()
        {
            self.skips = true;
        }
        true
    }

    /// Whatever comes at any time.
    pub fn murmur(&mut self, choices: &mut Choices<'_>, out: &mut Vec<u8>) {
        let tells = self.is_strict && self.is_begun;
        match choices.next() % 3 {
            0 => values::push(out, b'S', &[b"TimeZone\0UTC\0"]),
            1 => values::report(b'N', tells, choices, out),
            _ => values::notification(tells, choices, out),
        }
    }

    fn copy(&mut self, tag: u8, choices: &mut Choices<'_>, out: &mut Vec<u8>) {
        match tag {
            b'H' | b'S' => {}
            b'd' if !choices.once_in(4) => {}
            b'd' | b'c' | b'f' => {
                self.copies_in = false;
                let done = match tag {
                    b'c' => {
                        values::complete("COPY 0", out);
                        Ok(())
                    }
                    _ => Err(self.fail(false, choices, out)),
                };
                match (self.query.is_some(), done) {
                    (true, Ok(())) => self.go_on(choices, out),
                    (true, Err(Failed)) => self.ready(out),
                    (false, done) => self.skips = done.is_err(),
                }
            }
            _ => {
                // It has lost its place in the stream.
                self.fail(false, choices, out);
                self.is_gone = true;
            }
        }
    }

    fn hear(
        &mut self,
        tag: u8,
        body: &[u8],
        choices: &mut Choices<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), Failed> {
        let mut reader = Reader::new(body);
        match tag {
            b'Q' => {
                self.prepared.remove(&b""[..]);
                let text = text(body);
                let does = read(&text).into();
                self.is_begun |= !contains(text.as_bytes(), POISON);
                self.query = Some((text, does));
                self.go_on(choices, out);
            }
            b'P' => {
                let name = reader.cstr().unwrap_or_default().to_vec();
                let text = text(reader.rest());
                self.is_begun |= !contains(text.as_bytes(), POISON);
                if name.is_empty() {
                    self.prepared.remove(&name);
                }
                let does = read(&text);
                let is_known = self.prepared.contains_key(&name);
                let is_bad = is_known || does.len() > 1 || does.contains(&Does::Fails);
                if is_bad || choices.once_in(8) || self.is_dead(&does) {
                    return Err(self.fail_at(&text, choices, out));
                }
                self.prepared.insert(name, text);
                values::push(out, b'1', &[]);
            }
            b'B' => {
                let portal = reader.cstr().unwrap_or_default().to_vec();
                let prepared = reader.cstr().and_then(|name| self.prepared.get(name).cloned());
                let Some(text) = prepared else { return Err(self.fail(false, choices, out)) };
                let format = formats(reader);
                let is_taken = !portal.is_empty() && self.portals.contains_key(&portal);
                let is_bad = is_taken || choices.once_in(8) || self.is_dead(&read(&text));
                let (Some(is_binary), false) = (format, is_bad) else {
                    return Err(self.fail_at(&text, choices, out));
                };
                self.portals.insert(portal, Portal { text, is_binary, is_over: false });
                values::push(out, b'2', &[]);
            }
            b'D' => {
                let kind = reader.u8();
                let name = reader.cstr().unwrap_or_default();
                let found = match kind {
                    Some(b'P') => {
                        self.portals.get(name).map(|portal| (portal.text.clone(), portal.is_binary))
                    }
                    _ => self.prepared.get(name).map(|text| (text.clone(), false)),
                };
                let Some((text, is_binary)) = found.filter(|_| self.state != b'E') else {
                    return Err(self.fail(false, choices, out));
                };
                if kind != Some(b'P') {
                    values::push(out, b't', &[b"\0\0"]);
                }
                match read(&text).as_slice() {
                    [Does::Rows(columns)] => values::describe(columns, is_binary, out),
                    _ => values::push(out, b'n', &[]),
                }
            }
            b'E' => {
                let name = reader.cstr().unwrap_or_default().to_vec();
                let most = reader.u32().unwrap_or_default();
                return self.execute(&name, most, choices, out);
            }
            b'C' => {
                let kind = reader.u8();
                let name = reader.cstr().unwrap_or_default();
                match kind {
                    Some(b'P') => _ = self.portals.remove(name),
                    _ => _ = self.prepared.remove(name),
                }
                values::push(out, b'3', &[]);
            }
            b'S' => self.ready(out),
            b'H' | b'd' | b'c' | b'f' => {}
            b'X' => self.is_gone = true,
            _ => {
                self.fail(false, choices, out);
                self.is_gone = true;
            }
        }
        Ok(())
    }

    fn execute(
        &mut self,
        name: &[u8],
        most: u32,
        choices: &mut Choices<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), Failed> {
        let Some(portal) = self.portals.get(name).cloned() else {
            return Err(self.fail(false, choices, out));
        };
        let does = read(&portal.text);
        let Some(does) = does.first().filter(|_| !portal.is_over) else {
            match does.is_empty() {
                true => values::push(out, b'I', &[]),
                false if matches!(does[0], Does::Rows(_)) => values::complete("SELECT 0", out),
                false => return Err(self.fail_at(&portal.text, choices, out)),
            }
            return Ok(());
        };
        if self.is_dead(std::slice::from_ref(does)) {
            return Err(self.fail_at(&portal.text, choices, out));
        }
        let is_begun = self.run(does, &portal, most, choices, out)?;
        if let Some(portal) = self.portals.get_mut(name).filter(|_| !is_begun) {
            portal.is_over = true;
        }
        Ok(())
    }

    /// What is left of a `Query`.
    fn go_on(&mut self, choices: &mut Choices<'_>, out: &mut Vec<u8>) {
        let Some((text, mut does)) = self.query.take() else { return };
        let portal = Portal { text, is_binary: false, is_over: false };
        if does.is_empty() {
            values::push(out, b'I', &[]);
        }
        while let Some(next) = does.pop_front() {
            if self.is_dead(std::slice::from_ref(&next)) || next == Does::Fails {
                self.fail_at(&portal.text, choices, out);
                break;
            }
            if let Does::Rows(columns) = &next {
                values::describe(columns, false, out);
            }
            if self.run(&next, &portal, 0, choices, out).is_err() {
                break;
            }
            if self.copies_in {
                self.query = Some((portal.text, does));
                return;
            }
        }
        self.ready(out);
    }

    /// Whether there is more to come of it.
    fn run(
        &mut self,
        does: &Does,
        portal: &Portal,
        most: u32,
        choices: &mut Choices<'_>,
        out: &mut Vec<u8>,
    ) -> Result<bool, Failed> {
        let hides = self.hides(&portal.text);
        match does {
            Does::Rows(columns) => {
                for _ in 0..choices.next() % 4 {
                    values::row(columns, hides, portal.is_binary, choices, out);
                    self.interrupt(&portal.text, choices, out)?;
                }
                if most > 0 && choices.once_in(2) {
                    values::push(out, b's', &[]);
                    return Ok(true);
                }
                values::complete("SELECT 1", out);
            }
            Does::Copy(form, columns) => {
                let mut rows = values::CopyOut::begin(form, columns, choices, out);
                for _ in 0..choices.next() % 4 {
                    rows.row(hides, choices, out);
                    self.interrupt(&portal.text, choices, out)?;
                }
                rows.end(out);
                values::complete("COPY 1", out);
            }
            Does::CopyIn => {
                values::push(out, b'G', &[b"\0\0\0"]);
                self.copies_in = true;
            }
            Does::Begin => {
                self.state = b'T';
                values::complete("BEGIN", out);
            }
            Does::End => {
                self.state = b'I';
                self.portals.clear();
                values::complete("COMMIT", out);
            }
            Does::Set => {
                let encodings = [&b"UTF8"[..], b"LATIN1", b"SJIS", b"UTF8"];
                let encoding = encodings[usize::from(choices.next() % 4)];
                values::push(out, b'S', &[b"client_encoding\0", encoding, b"\0"]);
                values::complete("SET", out);
            }
            Does::Forget => {
                self.prepared.clear();
                values::complete("DEALLOCATE ALL", out);
            }
            Does::Nothing | Does::Fails => values::complete("UPDATE 1", out),
        }
        Ok(false)
    }

    /// Something comes in between, or ends it.
    fn interrupt(
        &mut self,
        text: &str,
        choices: &mut Choices<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), Failed> {
        match choices.next() {
            0..200 => Ok(()),
            200..240 => {
                values::report(b'N', self.hides(text), choices, out);
                Ok(())
            }
            _ => Err(self.fail_at(text, choices, out)),
        }
    }

    /// Whether what it shows is to be hidden.
    fn hides(&self, text: &str) -> bool {
        self.is_strict || !text.contains(OPEN)
    }

    /// The transaction has failed, and this doesn't end it.
    fn is_dead(&self, does: &[Does]) -> bool {
        self.state == b'E' && does != [Does::End]
    }

    fn fail_at(&mut self, text: &str, choices: &mut Choices<'_>, out: &mut Vec<u8>) -> Failed {
        if contains(text.as_bytes(), POISON) {
            let word = text.split(' ').next().unwrap_or_default().as_bytes();
            values::push(out, b'E', &[b"SERROR\0C42601\0Mnear \"", word, b"\"\0\0"]);
            return self.failed();
        }
        // Of a statement that nobody has judged nothing is told.
        let tells = self.hides(text) && !read(text).contains(&Does::Fails);
        self.fail(tells, choices, out)
    }

    fn fail(&mut self, tells: bool, choices: &mut Choices<'_>, out: &mut Vec<u8>) -> Failed {
        values::report(b'E', tells, choices, out);
        self.failed()
    }

    fn failed(&mut self) -> Failed {
        self.portals.clear();
        if self.state == b'T' {
            self.state = b'E';
        }
        Failed
    }

    fn ready(&mut self, out: &mut Vec<u8>) {
        self.skips = false;
        self.query = None;
        if self.state == b'I' {
            self.portals.clear();
        }
        values::push(out, b'Z', &[&[self.state]]);
    }
}

/// Up to its end; nothing where it is no text.
fn text(body: &[u8]) -> String {
    let text = Reader::new(body).cstr().filter(|text| text.is_ascii()).unwrap_or(b"?");
    String::from_utf8_lossy(text).into_owned()
}

/// Whether a `Bind` wants its results in binary.
fn formats(mut rest: Reader<'_>) -> Option<bool> {
    for _ in 0..rest.u16()? {
        rest.u16()?;
    }
    for _ in 0..rest.u16()? {
        let len = rest.i32()?;
        rest.take(usize::try_from(len).unwrap_or_default())?;
    }
    match (rest.u16()?, rest.u16()) {
        (0, None) | (1, Some(0)) => Some(false),
        (1, Some(1)) => Some(true),
        _ => None,
    }
}

/// The columns that a byte chooses.
pub fn letters(choice: u8) -> String {
    let chosen = COLUMNS.iter().enumerate().filter(|(n, _)| choice & 1 << n != 0);
    let letters: String = chosen.map(|(_, Column { letter, .. })| *letter).collect();
    if letters.is_empty() { "s".to_owned() } else { letters }
}
