//! What the server of a played conversation shows: values that are to be hidden hold a word that is easily found.

use super::{
    server::Choices,
    texts::{Column, Form, INT4, INT8},
};
use crate::event::CopyFormat;

/// In each value that is to be hidden, if it isn't a number.
const SECRET: &[u8] = b"SECRETWORD";
const INT4_SECRET: i32 = 1_234_567_890;
const INT8_SECRET: i64 = 5_550_001_234_567_890_123;
/// What a script can put around it, and into other values.
const LETTERS: &[u8] = b"ab ,\"\\\t\n;|'*N.\r\xc3\xa4";
/// SQLSTATEs, and whether what such an error says may tell values.
const CODES: [(&[u8], bool); 8] = [
    (b"22P02", true),
    (b"23505", true),
    (b"42703", false),
    (b"P0001", true),
    (b"57014", false),
    (b"XX000", true),
    (b"40001", false),
    (b"", true),
];
const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";

/// Whether a value that is to be hidden stands there.
pub fn has_secret(bytes: &[u8]) -> bool {
    let numbers = [INT4_SECRET.to_string(), INT8_SECRET.to_string()];
    let has = |word: &[u8]| super::contains(bytes, word);
    has(SECRET)
        || numbers.iter().any(|number| has(number.as_bytes()))
        || has(&INT4_SECRET.to_be_bytes())
        || has(&INT8_SECRET.to_be_bytes())
}

/// A message.
pub fn push(out: &mut Vec<u8>, tag: u8, parts: &[&[u8]]) {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    out.push(tag);
    out.extend((len as u32 + 4).to_be_bytes());
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

pub fn complete(tag: &str, out: &mut Vec<u8>) {
    push(out, b'C', &[tag.as_bytes(), b"\0"]);
}

pub fn describe(columns: &[Column], is_binary: bool, out: &mut Vec<u8>) {
    let mut body = (columns.len() as u16).to_be_bytes().to_vec();
    for column in columns {
        body.extend(b"name\0");
        body.extend(column.relation.to_be_bytes());
        body.extend(column.place.to_be_bytes());
        body.extend(column.kind.to_be_bytes());
        body.extend((-1_i16).to_be_bytes());
        body.extend((-1_i32).to_be_bytes());
        body.extend(u16::from(is_binary).to_be_bytes());
    }
    push(out, b'T', &[&body]);
}

pub fn row(
    columns: &[Column],
    hides: bool,
    is_binary: bool,
    choices: &mut Choices<'_>,
    out: &mut Vec<u8>,
) {
    let mut body = (columns.len() as u16).to_be_bytes().to_vec();
    for column in columns {
        put(&mut body, value(column, hides, is_binary, choices));
    }
    push(out, b'D', &[&body]);
}

/// Behind its length.
fn put(body: &mut Vec<u8>, value: Option<Vec<u8>>) {
    match value {
        None => body.extend((-1_i32).to_be_bytes()),
        Some(value) => {
            body.extend((value.len() as u32).to_be_bytes());
            body.extend(value);
        }
    }
}

/// `None` for NULL.
fn value(
    column: &Column,
    hides: bool,
    is_binary: bool,
    choices: &mut Choices<'_>,
) -> Option<Vec<u8>> {
    let choice = choices.next();
    let hides = hides && column.is_hidden();
    let written = |number: i64, bytes: &[u8]| match is_binary {
        true => bytes.to_vec(),
        false => number.to_string().into_bytes(),
    };
    let small = i64::from(choice % 90);
    match (choice % 8, column.kind) {
        (0, _) => None,
        (2.., INT4) => {
            let number = if hides { INT4_SECRET } else { small as i32 };
            Some(written(number.into(), &number.to_be_bytes()))
        }
        (2.., INT8) => {
            let number = if hides { INT8_SECRET } else { small };
            Some(written(number, &number.to_be_bytes()))
        }
        // Of a number, none.
        _ => Some(word(hides, choices)),
    }
}

fn word(hides: bool, choices: &mut Choices<'_>) -> Vec<u8> {
    let letters = |choices: &mut Choices<'_>| -> Vec<u8> {
        let n = usize::from(choices.next() % 5);
        let letter = |byte: &u8| LETTERS[usize::from(*byte) % LETTERS.len()];
        choices.take(n).iter().map(letter).collect()
    };
    let mut word = letters(choices);
    if hides {
        word.extend_from_slice(SECRET);
    }
    word.extend(letters(choices));
    word
}

/// An error or a notice; it `tells` what is to be hidden, if it is one of those that may.
pub fn report(tag: u8, tells: bool, choices: &mut Choices<'_>, out: &mut Vec<u8>) {
    let choice = choices.next();
    let (code, may_tell) = CODES[usize::from(choice % 8)];
    let is_of_code = choice & 8 != 0;
    let said = word(tells && (may_tell || is_of_code), choices);
    let mut body = b"SERROR\0VERROR\0".to_vec();
    let mut field = |name: u8, text: &[u8]| {
        body.push(name);
        body.extend(text);
        body.push(0);
    };
    if !code.is_empty() {
        field(b'C', code);
    }
    field(b'M', &said);
    if choice & 16 != 0 {
        field(b'D', &said);
    }
    if choice & 0xe0 == 0xe0 {
        field(b'H', &[b'x'; 20_000]);
    }
    if is_of_code {
        field(b'W', &said);
    }
    field(b't', b"customers");
    push(out, tag, &[&body, b"\0"]);
}

pub fn notification(tells: bool, choices: &mut Choices<'_>, out: &mut Vec<u8>) {
    push(out, b'A', &[b"\0\0\0\x07news\0", &word(tells, choices), b"\0"]);
}

/// Rows of a COPY.
pub struct CopyOut<'a> {
    form: &'a Form,
    columns: &'a [Column],
    /// What goes with the first row.
    begins: Vec<u8>,
}

impl<'a> CopyOut<'a> {
    pub fn begin(
        form: &'a Form,
        columns: &'a [Column],
        choices: &mut Choices<'_>,
        out: &mut Vec<u8>,
    ) -> Self {
        let is_binary = form.form.format == CopyFormat::Binary;
        let mut response = vec![u8::from(is_binary)];
        response.extend((columns.len() as u16).to_be_bytes());
        for _ in columns {
            response.extend(u16::from(is_binary).to_be_bytes());
        }
        push(out, b'H', &[&response]);
        let mut begins = Vec::new();
        if is_binary {
            begins = [SIGNATURE, &[0; 8]].concat();
            if choices.next() & 1 == 1 {
                push(out, b'd', &[&begins]);
                begins.clear();
            }
        } else if form.form.has_header {
            let names = vec!["name"; columns.len()];
            let between = char::from(form.form.delimiter).to_string();
            push(out, b'd', &[names.join(&between).as_bytes(), b"\n"]);
        }
        Self { form, columns, begins }
    }

    pub fn row(&mut self, hides: bool, choices: &mut Choices<'_>, out: &mut Vec<u8>) {
        let form = &self.form.form;
        let mut row = std::mem::take(&mut self.begins);
        if form.format == CopyFormat::Binary {
            row.extend((self.columns.len() as u16).to_be_bytes());
            for column in self.columns {
                put(&mut row, value(column, hides, true, choices));
            }
            return push(out, b'd', &[&row]);
        }
        for (n, column) in self.columns.iter().enumerate() {
            if n > 0 {
                row.push(form.delimiter);
            }
            match value(column, hides, false, choices) {
                None => row.extend_from_slice(&form.null),
                Some(value) if form.format == CopyFormat::Csv => self.put_csv(&value, &mut row),
                Some(value) => self.put_text(&value, &mut row),
            }
        }
        row.push(b'\n');
        push(out, b'd', &[&row]);
    }

    fn put_text(&self, value: &[u8], row: &mut Vec<u8>) {
        for byte in value {
            match byte {
                b'\n' => row.extend(b"\\n"),
                b'\r' => row.extend(b"\\r"),
                b'\t' => row.extend(b"\\t"),
                byte => {
                    if [b'\\', self.form.form.delimiter].contains(byte) {
                        row.push(b'\\');
                    }
                    row.push(*byte);
                }
            }
        }
    }

    fn put_csv(&self, value: &[u8], row: &mut Vec<u8>) {
        let form = &self.form.form;
        let special = [form.delimiter, form.quote, b'\n', b'\r'];
        let is_quoted = self.form.quotes_all
            || *value == *form.null
            || value.iter().any(|byte| special.contains(byte));
        if !is_quoted {
            return row.extend_from_slice(value);
        }
        row.push(form.quote);
        for byte in value {
            if [form.quote, form.escape].contains(byte) {
                row.push(form.escape);
            }
            row.push(*byte);
        }
        row.push(form.quote);
    }

    pub fn end(&mut self, out: &mut Vec<u8>) {
        if self.form.form.format == CopyFormat::Binary {
            push(out, b'd', &[&std::mem::take(&mut self.begins), b"\xff\xff"]);
        }
        push(out, b'c', &[]);
    }
}
