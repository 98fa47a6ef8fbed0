//! Rows that a COPY gives a masked client, in any of its formats.
//!
//! PostgreSQL sends each row in a message of its own. Where one looks otherwise, the session ends.

use super::{super::Broken, rows::put_value};
use crate::{
    event::{CopyForm, CopyFormat},
    guard::masking::{CopyColumn, Cover, Form, Hiding, Watch},
    protocol::postgres::{backend, reader::Reader},
};

/// A COPY under way.
#[derive(Debug)]
pub(super) struct Copying {
    /// None where no label speaks of any.
    columns: Vec<Option<Cover>>,
    watch: Option<Watch>,
    form: CopyForm,
    /// What is still to come before the first row.
    begins: bool,
}

/// Begins a COPY in binary.
const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";

impl Copying {
    /// `response`: the body of the `CopyOutResponse`; `None` where that isn't what was to come.
    pub(super) fn begin(
        response: &[u8],
        columns: &[Option<CopyColumn>],
        form: CopyForm,
        watch: Option<Watch>,
        is_utf8: bool,
    ) -> Option<Self> {
        let mut reader = Reader::new(response);
        let (format, n) = (reader.u8()?, reader.u16()?);
        let is_binary = form.format == CopyFormat::Binary;
        if (format == 1) != is_binary || usize::from(n) != columns.len() {
            return None;
        }
        let cover = |column: &CopyColumn| {
            let (kind, format) = (column.kind, i16::from(format));
            Cover::new(&column.masked.mask, Form { kind, modifier: -1, format, is_utf8 })
        };
        let columns = columns.iter().map(|column| column.as_ref().map(cover)).collect();
        let begins = is_binary || form.has_header;
        Some(Self { columns, watch, form, begins })
    }

    /// Of one in which no label says that anything is to be hidden.
    pub(super) fn watching(watch: Watch) -> Self {
        let (columns, form) = (Vec::new(), CopyForm::default());
        Self { columns, watch: Some(watch), form, begins: false }
    }

    /// A field as it is written, with what is found in it hidden.
    fn put_plain(&self, field: &[u8], hiding: &Hiding, out: &mut Vec<u8>) {
        match self.watch {
            Some(watch) => hiding.detectors.put(watch, field, out),
            None => out.extend_from_slice(field),
        }
    }

    /// Writes the `CopyData` that the client gets for one with this body.
    pub(super) fn put(
        &mut self,
        body: &[u8],
        hiding: &Hiding,
        out: &mut Vec<u8>,
    ) -> Result<(), Broken> {
        let start = out.len();
        out.extend_from_slice(&[backend::COPY_DATA, 0, 0, 0, 0]);
        let put = match self.form.format {
            _ if self.columns.is_empty() => {
                self.put_plain(body, hiding, out);
                Some(())
            }
            CopyFormat::Binary => self.put_binary(body, hiding, out),
            // Names of columns.
            _ if std::mem::take(&mut self.begins) => {
                out.extend_from_slice(body);
                Some(())
            }
            CopyFormat::Text => self.put_text(body, hiding, out),
            CopyFormat::Csv => self.put_csv(body, hiding, out),
        };
        put.ok_or(Broken::Copy)?;
        let len = u32::try_from(out.len() - start - 1).map_err(|_| Broken::Copy)?;
        if let Some(place) = out.get_mut(start + 1..start + 5) {
            place.copy_from_slice(&len.to_be_bytes());
        }
        Ok(())
    }

    fn put_binary(&mut self, body: &[u8], hiding: &Hiding, out: &mut Vec<u8>) -> Option<()> {
        let mut row = body;
        if std::mem::take(&mut self.begins) {
            let mut reader = Reader::new(body.strip_prefix(SIGNATURE)?);
            let _flags = reader.u32()?;
            let extension = usize::try_from(reader.u32()?).ok()?;
            reader.take(extension)?;
            row = reader.rest();
            out.extend_from_slice(body.get(..body.len() - row.len())?);
        }
        let mut reader = Reader::new(row);
        if reader.is_empty() {
            return Some(());
        }
        let n = reader.i16()?;
        out.extend_from_slice(&n.to_be_bytes());
        // The end.
        if n == -1 {
            return reader.is_empty().then_some(());
        }
        if usize::try_from(n).ok()? != self.columns.len() {
            return None;
        }
        for cover in &self.columns {
            let value = match reader.i32()? {
                -1 => None,
                len => Some(reader.take(usize::try_from(len).ok()?)?),
            };
            put_value(out, |out| match (value, cover) {
                (None, _) => false,
                (Some(value), Some(cover)) => cover.put(value, &hiding.pseudonyms, out),
                (Some(value), None) => {
                    self.put_plain(value, hiding, out);
                    true
                }
            })?;
        }
        reader.is_empty().then_some(())
    }

    fn put_text(&self, body: &[u8], hiding: &Hiding, out: &mut Vec<u8>) -> Option<()> {
        let mut rest = body.strip_suffix(b"\n").filter(|row| !row.contains(&b'\n'))?;
        let (mut plain, mut masked) = (Vec::new(), Vec::new());
        let last = self.columns.len().checked_sub(1)?;
        for (n, cover) in self.columns.iter().enumerate() {
            let (field, after) = rest.split_at_checked(text_end(rest, self.form.delimiter))?;
            rest = match n == last {
                true => after.is_empty().then_some(after)?,
                false => after.strip_prefix(&[self.form.delimiter])?,
            };
            match cover {
                None => self.put_plain(field, hiding, out),
                Some(_) if *field == *self.form.null => out.extend_from_slice(field),
                Some(cover) => {
                    plain.clear();
                    masked.clear();
                    unescape(field, &mut plain)?;
                    match cover.put(&plain, &hiding.pseudonyms, &mut masked) {
                        true => escape(&masked, self.form.delimiter, out),
                        false => out.extend_from_slice(&self.form.null),
                    }
                }
            }
            if n != last {
                out.push(self.form.delimiter);
            }
        }
        out.push(b'\n');
        Some(())
    }

    fn put_csv(&self, body: &[u8], hiding: &Hiding, out: &mut Vec<u8>) -> Option<()> {
        let mut rest = body.strip_suffix(b"\n")?;
        let (mut plain, mut masked) = (Vec::new(), Vec::new());
        let last = self.columns.len().checked_sub(1)?;
        let CopyForm { delimiter, quote, .. } = self.form;
        for (n, cover) in self.columns.iter().enumerate() {
            plain.clear();
            let (field, after) = self.csv_field(rest, &mut plain)?;
            rest = match n == last {
                true => after.is_empty().then_some(after)?,
                false => after.strip_prefix(&[delimiter])?,
            };
            match cover {
                None => self.put_plain(field, hiding, out),
                Some(_) if *field == *self.form.null => out.extend_from_slice(field),
                Some(cover) => {
                    masked.clear();
                    if cover.put(&plain, &hiding.pseudonyms, &mut masked) {
                        // Quoted, it is never taken for NULL or for an end.
                        out.push(quote);
                        for byte in &masked {
                            if [quote, self.form.escape].contains(byte) {
                                out.push(self.form.escape);
                            }
                            out.push(*byte);
                        }
                        out.push(quote);
                    } else {
                        out.extend_from_slice(&self.form.null);
                    }
                }
            }
            if n != last {
                out.push(delimiter);
            }
        }
        out.push(b'\n');
        Some(())
    }

    /// The field at the front of a row as it stands there, and the rest; its value goes to `plain`.
    fn csv_field<'b>(&self, row: &'b [u8], plain: &mut Vec<u8>) -> Option<(&'b [u8], &'b [u8])> {
        let CopyForm { delimiter, quote, escape, .. } = self.form;
        let Some(quoted) = row.strip_prefix(&[quote]) else {
            let end = row.iter().position(|byte| *byte == delimiter).unwrap_or(row.len());
            let (field, rest) = row.split_at_checked(end)?;
            plain.extend_from_slice(field);
            return Some((field, rest));
        };
        let mut rest = quoted;
        loop {
            let (&byte, after) = rest.split_first()?;
            let next = after.first().copied().filter(|next| [quote, escape].contains(next));
            rest = after;
            match next {
                Some(next) if byte == escape => {
                    plain.push(next);
                    rest = after.get(1..)?;
                }
                _ if byte == quote => return Some((row.get(..row.len() - rest.len())?, rest)),
                _ => plain.push(byte),
            }
        }
    }
}

/// Where the field at the front of a row ends: at a delimiter that no backslash stands before.
fn text_end(row: &[u8], delimiter: u8) -> usize {
    let mut is_escaped = false;
    let end = row.iter().position(|byte| {
        let ends = *byte == delimiter && !is_escaped;
        is_escaped = *byte == b'\\' && !is_escaped;
        ends
    });
    end.unwrap_or(row.len())
}

/// What a backslash and a letter stand for.
const ESCAPES: [(u8, u8); 6] =
    [(b'b', 8), (b'f', 12), (b'n', b'\n'), (b'r', b'\r'), (b't', b'\t'), (b'v', 11)];

fn unescape(field: &[u8], plain: &mut Vec<u8>) -> Option<()> {
    let mut bytes = field.iter();
    while let Some(byte) = bytes.next() {
        if *byte != b'\\' {
            plain.push(*byte);
            continue;
        }
        let letter = bytes.next()?;
        let stands_for = ESCAPES.iter().find(|(name, _)| name == letter);
        plain.push(stands_for.map_or(*letter, |(_, byte)| *byte));
    }
    Some(())
}

fn escape(value: &[u8], delimiter: u8, out: &mut Vec<u8>) {
    for byte in value {
        if let Some((letter, _)) = ESCAPES.iter().find(|(_, control)| control == byte) {
            out.extend_from_slice(&[b'\\', *letter]);
        } else {
            if [b'\\', delimiter].contains(byte) {
                out.push(b'\\');
            }
            out.push(*byte);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Copying, SIGNATURE};
    use crate::{
        event::{CopyForm, CopyFormat, Flow},
        guard::masking::{CopyColumn, Hiding, Masked},
        protocol::postgres::backend,
    };

    fn copying(form: CopyForm, masks: &[Option<&str>]) -> Copying {
        let columns: Vec<_> = masks
            .iter()
            .map(|mask| {
                let mask = (*mask)?.parse().unwrap();
                let (rule, column, flow) = ("r".into(), "public.t.c".into(), Flow::Deny);
                let masked = Masked { mask, rule, column, flow };
                Some(CopyColumn { masked, kind: 25 })
            })
            .collect();
        let mut response = vec![u8::from(form.format == CopyFormat::Binary)];
        response.extend((columns.len() as u16).to_be_bytes());
        Copying::begin(&response, &columns, form, None, true).unwrap()
    }

    fn check(form: CopyForm, masks: &[Option<&str>], rows: &[(&str, &str)]) {
        let mut copying = copying(form.clone(), masks);
        for (row, expected) in rows {
            let mut out = Vec::new();
            let put = copying.put(row.as_bytes(), &Hiding::default(), &mut out);
            let Some((&[tag, len @ ..], body)) = out.split_first_chunk::<5>() else { panic!() };
            if expected.is_empty() {
                assert!(put.is_err(), "{row:?} {form:?}");
                continue;
            }
            assert_eq!(String::from_utf8_lossy(body), *expected, "{form:?}");
            assert_eq!(
                (tag, u32::from_be_bytes(len) as usize),
                (backend::COPY_DATA, body.len() + 4)
            );
        }
    }

    #[test]
    fn rows_in_text() {
        let masks = [None, Some("fixed:a\tb\\c"), Some("last4"), Some("null")];
        let cases = [
            ("1\tx\t123456789\ty\n", "1\ta\\tb\\\\c\t*****6789\t\\N\n"),
            ("\\N\t\\N\t\\N\t\\N\n", "\\N\t\\N\t\\N\t\\N\n"),
            ("a\\tb\\\\\t\t12\\n3456\\\\78\t\n", "a\\tb\\\\\ta\\tb\\\\c\t**\\n**56\\\\78\t\\N\n"),
            // Too few fields, too many, two rows, none.
            ("1\t2\t3\n", ""),
            ("1\t2\t3\t4\t5\n", ""),
            ("1\t2\t3\t4\n1\t2\t3\t4\n", ""),
            ("1\t2\t3\t4", ""),
        ];
        check(CopyForm::default(), &masks, &cases);
        let form = CopyForm {
            delimiter: b'|',
            null: b"nil".as_slice().into(),
            has_header: true,
            ..CopyForm::default()
        };
        let cases = [
            ("id|ssn\n", "id|ssn\n"),
            ("a\\|b|1234\n", "a\\|b|x\\|y\n"),
            ("nil|nil\n", "nil|nil\n"),
        ];
        check(form, &[None, Some("fixed:x|y")], &cases);
        check(CopyForm::default(), &[Some("fixed:x")], &[("\n", "x\n"), ("\\N\n", "\\N\n")]);
    }

    #[test]
    fn rows_in_csv() {
        let csv = CopyForm::csv();
        let masks = [None, Some("fixed:say \"x\""), Some("last4")];
        let cases = [
            ("1,a,123456789\n", "1,\"say \"\"x\"\"\",\"*****6789\"\n"),
            ("\"a,\"\"b\",\"x\ny\",\"12345678\"\n", "\"a,\"\"b\",\"say \"\"x\"\"\",\"****5678\"\n"),
            // NULL is nothing, and an empty text is quoted.
            (",,\n", ",,\n"),
            ("\"\",\"\",\"\"\n", "\"\",\"say \"\"x\"\"\",\"\"\n"),
            ("1,2\n", ""),
            ("1,2,3,4\n", ""),
            ("1,\"2,3\n", ""),
        ];
        check(csv.clone(), &masks, &cases);
        let form = CopyForm { quote: b'\'', escape: b'\\', delimiter: b';', ..csv };
        let cases = [("'it\\'s';x\n", "'it\\'s';'\\'q\\'\\\\'\n")];
        check(form, &[None, Some("fixed:'q'\\")], &cases);
    }

    #[test]
    fn rows_in_binary() {
        let form = CopyForm { format: CopyFormat::Binary, ..CopyForm::default() };
        let mut copying = copying(form, &[None, Some("fixed:xy")]);
        let first = [SIGNATURE, &[0; 8]].concat();
        let row = b"\0\x02\0\0\0\x01a\0\0\0\x05right";
        let masked = b"\0\x02\0\0\0\x01a\0\0\0\x02xy";
        let null = b"\0\x02\xff\xff\xff\xff\xff\xff\xff\xff";
        for (body, expected) in [
            ([&first[..], row].concat(), [&first[..], masked].concat()),
            (null.to_vec(), null.to_vec()),
            (b"\xff\xff".to_vec(), b"\xff\xff".to_vec()),
        ] {
            let mut out = Vec::new();
            copying.put(&body, &Hiding::default(), &mut out).unwrap();
            assert_eq!(out[5..], expected);
        }
        for broken in [&row[..9], b"\0\x03\0\0\0\0", &[&row[..], b"x"].concat()] {
            assert!(copying.put(broken, &Hiding::default(), &mut Vec::new()).is_err());
        }
    }
}
