//! The bytes of a group → its columns, strictly.

use std::marker::PhantomData;

use thiserror::Error;

use crate::ledger::schema::{COLUMNS, Group, Kind};

/// In the place of a text's length: an element of a list that is null.
pub(super) const NULL_ELEMENT: u32 = u32::MAX;

/// Why bytes are no group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Malformed {
    #[error("it ends in the middle of a value")]
    Short,
    #[error("column {0} is not known")]
    UnknownColumn(u8),
    #[error("column {0} belongs to another group")]
    ForeignColumn(u8),
    #[error("column {0} is out of order")]
    ColumnOrder(u8),
    #[error("a text is not UTF-8")]
    NotUtf8,
    #[error("a truth value is neither 0 nor 1")]
    NotBool,
    #[error("the keys of a map are out of order")]
    KeyOrder,
}

/// The columns of a group that aren't null, in their order. Ends after the first offence.
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    bytes: &'a [u8],
    group: Group,
    last: Option<u8>,
}

/// What a column holds; lists have been checked.
#[derive(Clone, Debug)]
pub enum Value<'a> {
    Time(i64),
    U16(u16),
    U32(u32),
    U64(u64),
    Bool(bool),
    Text(&'a str),
    Texts(Items<'a, Option<&'a str>>),
    Tables(Items<'a, (&'a str, &'a str)>),
    Parents(Items<'a, (u32, &'a str)>),
    Claims(Items<'a, (&'a str, &'a str)>),
    Counts(Items<'a, (&'a str, u64)>),
}

/// The elements of a list or map.
#[derive(Clone, Debug)]
pub struct Items<'a, T> {
    bytes: &'a [u8],
    kind: PhantomData<T>,
}

impl<'a> Fields<'a> {
    pub fn new(group: Group, bytes: &'a [u8]) -> Self {
        Self { bytes, group, last: None }
    }

    fn field(&mut self) -> Result<(usize, Value<'a>), Malformed> {
        let column = u8::read(&mut self.bytes)?;
        let index = usize::from(column);
        let about = COLUMNS.get(index).ok_or(Malformed::UnknownColumn(column))?;
        if about.group != self.group {
            return Err(Malformed::ForeignColumn(column));
        }
        if self.last.is_some_and(|last| last >= column) {
            return Err(Malformed::ColumnOrder(column));
        }
        self.last = Some(column);
        Ok((index, value(about.kind, &mut self.bytes)?))
    }
}

impl<'a> Iterator for Fields<'a> {
    /// The column's index in [`COLUMNS`].
    type Item = Result<(usize, Value<'a>), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.bytes.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.bytes = &[];
        }
        Some(field)
    }
}

impl<'a, T: Element<'a>> Iterator for Items<'a, T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        // They were read once already: bytes that are left are an element.
        if self.bytes.is_empty() { None } else { T::read(&mut self.bytes).ok() }
    }
}

fn value<'a>(kind: Kind, bytes: &mut &'a [u8]) -> Result<Value<'a>, Malformed> {
    Ok(match kind {
        Kind::Time => Value::Time(i64::from_le_bytes(fixed(bytes)?)),
        Kind::U16 => Value::U16(u16::from_le_bytes(fixed(bytes)?)),
        Kind::U32 => Value::U32(u32::read(bytes)?),
        Kind::U64 => Value::U64(u64::read(bytes)?),
        Kind::Bool => Value::Bool(match u8::read(bytes)? {
            0 => false,
            1 => true,
            _ => return Err(Malformed::NotBool),
        }),
        Kind::Text => Value::Text(<&str>::read(bytes)?),
        Kind::Texts => Value::Texts(items(bytes, |_, _| true)?),
        Kind::Tables => Value::Tables(items(bytes, |_, _| true)?),
        Kind::Parents => Value::Parents(items(bytes, |_, _| true)?),
        Kind::Claims => Value::Claims(items(bytes, |(a, _), (b, _)| a < b)?),
        Kind::Counts => Value::Counts(items(bytes, |(a, _), (b, _)| a < b)?),
    })
}

fn items<'a, T: Element<'a>>(
    bytes: &mut &'a [u8],
    ordered: impl Fn(&T, &T) -> bool,
) -> Result<Items<'a, T>, Malformed> {
    let n_items = u32::read(bytes)?;
    let start = *bytes;
    let mut last = None;
    for _ in 0..n_items {
        let item = T::read(bytes)?;
        if last.as_ref().is_some_and(|last| !ordered(last, &item)) {
            return Err(Malformed::KeyOrder);
        }
        last = Some(item);
    }
    let items = &start[..start.len() - bytes.len()];
    Ok(Items { bytes: items, kind: PhantomData })
}

/// What a list can hold. Each takes at least one byte, so that no count is too large to be checked.
pub trait Element<'a>: Sized {
    fn read(bytes: &mut &'a [u8]) -> Result<Self, Malformed>;
}

impl<'a> Element<'a> for u8 {
    fn read(bytes: &mut &'a [u8]) -> Result<Self, Malformed> {
        fixed(bytes).map(u8::from_le_bytes)
    }
}

impl<'a> Element<'a> for u32 {
    fn read(bytes: &mut &'a [u8]) -> Result<Self, Malformed> {
        fixed(bytes).map(u32::from_le_bytes)
    }
}

impl<'a> Element<'a> for u64 {
    fn read(bytes: &mut &'a [u8]) -> Result<Self, Malformed> {
        fixed(bytes).map(u64::from_le_bytes)
    }
}

impl<'a> Element<'a> for &'a str {
    fn read(bytes: &mut &'a [u8]) -> Result<Self, Malformed> {
        let len = u32::read(bytes)?;
        text(len, bytes)
    }
}

impl<'a> Element<'a> for Option<&'a str> {
    fn read(bytes: &mut &'a [u8]) -> Result<Self, Malformed> {
        match u32::read(bytes)? {
            NULL_ELEMENT => Ok(None),
            len => text(len, bytes).map(Some),
        }
    }
}

impl<'a, A: Element<'a>, B: Element<'a>> Element<'a> for (A, B) {
    fn read(bytes: &mut &'a [u8]) -> Result<Self, Malformed> {
        Ok((A::read(bytes)?, B::read(bytes)?))
    }
}

fn text<'a>(len: u32, bytes: &mut &'a [u8]) -> Result<&'a str, Malformed> {
    let (text, rest) = bytes.split_at_checked(len as usize).ok_or(Malformed::Short)?;
    *bytes = rest;
    std::str::from_utf8(text).map_err(|_| Malformed::NotUtf8)
}

fn fixed<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], Malformed> {
    let (value, rest) = bytes.split_first_chunk().ok_or(Malformed::Short)?;
    *bytes = rest;
    Ok(*value)
}
