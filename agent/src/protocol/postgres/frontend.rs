//! The messages of a client, in the protocol's own words.

use super::{deframer::Message, reader::Reader};
use crate::protocol::Limits;

pub(crate) const BIND: u8 = b'B';
pub(crate) const CLOSE: u8 = b'C';
pub(crate) const COPY_DATA: u8 = b'd';
pub(crate) const COPY_DONE: u8 = b'c';
pub(crate) const COPY_FAIL: u8 = b'f';
pub(crate) const DESCRIBE: u8 = b'D';
pub(crate) const EXECUTE: u8 = b'E';
pub(crate) const FLUSH: u8 = b'H';
pub(crate) const FUNCTION_CALL: u8 = b'F';
pub(crate) const PARSE: u8 = b'P';
/// `PasswordMessage`, `SASLInitialResponse`, `SASLResponse`, `GSSResponse`: never read.
pub(crate) const PASSWORD: u8 = b'p';
pub(crate) const QUERY: u8 = b'Q';
pub(crate) const SYNC: u8 = b'S';
pub(crate) const TERMINATE: u8 = b'X';

/// Names are at most 63 bytes by nature; longer ones still tell statements apart.
const NAME_BYTES: usize = 1024;

/// How much of a message's body its reader wants; `None` for a type that does not exist.
pub(crate) fn keep(tag: u8, limits: &Limits) -> Option<usize> {
    match tag {
        QUERY => Some(limits.text_bytes + 1),
        PARSE => Some(limits.text_bytes + NAME_BYTES),
        BIND | FUNCTION_CALL => Some(limits.parameter_bytes),
        CLOSE | DESCRIBE | EXECUTE => Some(NAME_BYTES),
        COPY_DATA | COPY_DONE | COPY_FAIL | FLUSH | PASSWORD | SYNC | TERMINATE => Some(0),
        _ => None,
    }
}

/// Asks for a statement to be prepared.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Parse<'a> {
    /// The prepared statement's name; empty for the unnamed one.
    pub name: &'a [u8],
    /// The text, as far as it was kept.
    pub text: &'a [u8],
    /// Object ids of the parameters' types, as far as the client gave them (0: unspecified).
    pub types: &'a [u8],
    /// Whether `text` is whole.
    pub whole: bool,
}

impl<'a> Parse<'a> {
    pub(crate) fn read(message: &Message<'a>) -> Option<Parse<'a>> {
        let mut reader = Reader::new(message.body);
        let name = reader.cstr()?;
        let rest = reader.rest();
        let Some(text) = reader.cstr() else {
            return Some(Parse { name, text: rest, types: &[], whole: false });
        };
        let count = usize::from(reader.u16().unwrap_or(0));
        let types = reader.take(count * 4).unwrap_or_default();
        Some(Parse { name, text, types, whole: true })
    }
}

/// Asks for a prepared statement to be made ready with parameters.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Bind<'a> {
    pub portal: &'a [u8],
    pub statement: &'a [u8],
    pub arguments: Arguments<'a>,
}

impl<'a> Bind<'a> {
    pub(crate) fn read(message: &Message<'a>) -> Option<Bind<'a>> {
        let mut reader = Reader::new(message.body);
        let (portal, statement) = (reader.cstr()?, reader.cstr()?);
        Some(Bind { portal, statement, arguments: Arguments::read(reader) })
    }
}

/// Parameter values with their format codes, as `Bind` and `FunctionCall` carry them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Arguments<'a> {
    /// Format codes, two bytes each: none (all text), one (for all) or one for each value.
    formats: &'a [u8],
    pub count: u16,
    values: &'a [u8],
}

/// One value: `None` where its bytes were not kept, `Some(None)` for NULL.
pub(crate) type Value<'a> = Option<Option<&'a [u8]>>;

impl<'a> Arguments<'a> {
    fn read(mut reader: Reader<'a>) -> Arguments<'a> {
        let formats = usize::from(reader.u16().unwrap_or(0));
        let formats = reader.take(formats * 2).unwrap_or_default();
        let count = reader.u16().unwrap_or(0);
        Arguments { formats, count, values: reader.rest() }
    }

    /// Format (true: binary) and value of each parameter, in order.
    pub(crate) fn iter(self) -> impl Iterator<Item = (bool, Value<'a>)> {
        let mut reader = Reader::new(self.values);
        let mut broken = false;
        (0..usize::from(self.count)).map(move |index| {
            let value = if broken { None } else { value(&mut reader) };
            broken |= value.is_none();
            (self.is_binary(index), value)
        })
    }

    fn is_binary(&self, index: usize) -> bool {
        let index = if self.formats.len() == 2 { 0 } else { index };
        self.formats.get(index * 2 + 1) == Some(&1)
    }
}

fn value<'a>(reader: &mut Reader<'a>) -> Value<'a> {
    match reader.i32()? {
        -1 => Some(None),
        len => Some(Some(reader.take(usize::try_from(len).ok()?)?)),
    }
}

/// What a `Describe` or a `Close` is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target<'a> {
    Statement(&'a [u8]),
    Portal(&'a [u8]),
}

impl<'a> Target<'a> {
    pub(crate) fn read(message: &Message<'a>) -> Option<Target<'a>> {
        let mut reader = Reader::new(message.body);
        match reader.u8()? {
            b'S' => Some(Target::Statement(reader.cstr()?)),
            b'P' => Some(Target::Portal(reader.cstr()?)),
            _ => None,
        }
    }
}

/// Asks for a portal to be run.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Execute<'a> {
    pub portal: &'a [u8],
    /// The most rows to give; 0 for all.
    pub max_rows: u32,
}

impl<'a> Execute<'a> {
    pub(crate) fn read(message: &Message<'a>) -> Option<Execute<'a>> {
        let mut reader = Reader::new(message.body);
        Some(Execute { portal: reader.cstr()?, max_rows: reader.u32()? })
    }
}

/// Calls a function by its object id.
pub(crate) fn function_call<'a>(message: &Message<'a>) -> Option<(u32, Arguments<'a>)> {
    let mut reader = Reader::new(message.body);
    Some((reader.u32()?, Arguments::read(reader)))
}

/// Its arguments; which function it is is of no use without the catalog.
pub(crate) fn function_arguments<'a>(message: &Message<'a>) -> Option<Arguments<'a>> {
    function_call(message).map(|(_, arguments)| arguments)
}
