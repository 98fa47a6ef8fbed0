//! Rows of an Arrow batch → canonical bytes.

use std::ops::Range;

use arrow_array::{
    Array, BooleanArray, ListArray, MapArray, RecordBatch, StringArray, StructArray,
    TimestampMicrosecondArray, UInt16Array, UInt32Array, UInt64Array,
};
use arrow_buffer::OffsetBuffer;
use thiserror::Error;

use crate::ledger::{
    canonical::{Groups, Writer},
    schema::{self, COLUMNS, Group, Kind},
};

/// Why a batch has no rows of the ledger.
#[derive(Debug, Error)]
pub enum Mismatch {
    #[error("there is no column `{0}`")]
    Missing(&'static str),
    #[error("column `{name}` is of type {found}")]
    Type { name: &'static str, found: String },
    #[error("column `{0}` has a null where there can't be one")]
    Null(&'static str),
    #[error("column `{0}` is not known to this version")]
    Unknown(String),
}

/// Reads the rows of one batch whose columns are those of the table, by name and type.
///
/// A column that is missing altogether was not there yet when the file was written.
pub struct RowReader<'a> {
    columns: Vec<(usize, Column<'a>)>,
}

enum Column<'a> {
    Time(&'a TimestampMicrosecondArray),
    U16(&'a UInt16Array),
    U32(&'a UInt32Array),
    U64(&'a UInt64Array),
    Bool(&'a BooleanArray),
    Text(&'a StringArray),
    Texts(&'a ListArray, &'a StringArray),
    Tables(&'a ListArray, &'a StringArray, &'a StringArray),
    Parents(&'a ListArray, &'a UInt32Array, &'a StringArray),
    Claims(&'a MapArray, &'a StringArray, &'a StringArray),
    Counts(&'a MapArray, &'a StringArray, &'a UInt64Array),
}

impl<'a> RowReader<'a> {
    pub fn new(batch: &'a RecordBatch) -> Result<Self, Mismatch> {
        let known = schema::schema();
        for field in batch.schema_ref().fields() {
            if known.field_with_name(field.name()).is_err() {
                return Err(Mismatch::Unknown(field.name().clone()));
            }
        }
        let mut columns = Vec::with_capacity(COLUMNS.len());
        for (index, about) in COLUMNS.iter().enumerate() {
            let Some(array) = batch.column_by_name(about.name) else { continue };
            let column = column(about.kind, array.as_ref()).ok_or_else(|| Mismatch::Type {
                name: about.name,
                found: array.data_type().to_string(),
            })?;
            // An all-null column says nothing about any row.
            if array.null_count() < array.len() {
                columns.push((index, column));
            }
        }
        Ok(Self { columns })
    }

    /// Replaces `groups` by those of a row, which must be one of the batch's.
    pub fn read(&self, row: usize, groups: &mut Groups) -> Result<(), Mismatch> {
        groups.origin.clear();
        groups.facts.clear();
        groups.row.clear();
        for (index, column) in &self.columns {
            let about = COLUMNS[*index];
            let out = match about.group {
                Group::Origin => &mut groups.origin,
                Group::Facts => &mut groups.facts,
                Group::Row => &mut groups.row,
            };
            column.write(*index as u8, row, &mut Writer(out)).ok_or(Mismatch::Null(about.name))?;
        }
        Ok(())
    }
}

fn column(kind: Kind, array: &dyn Array) -> Option<Column<'_>> {
    let list = || array.as_any().downcast_ref::<ListArray>();
    let map = || array.as_any().downcast_ref::<MapArray>();
    Some(match kind {
        Kind::Time => Column::Time(cast(array)?),
        Kind::U16 => Column::U16(cast(array)?),
        Kind::U32 => Column::U32(cast(array)?),
        Kind::U64 => Column::U64(cast(array)?),
        Kind::Bool => Column::Bool(cast(array)?),
        Kind::Text => Column::Text(cast(array)?),
        Kind::Texts => Column::Texts(list()?, cast(list()?.values())?),
        Kind::Tables => {
            let (name, access) = parts(list()?.values())?;
            Column::Tables(list()?, name, access)
        }
        Kind::Parents => {
            let (pid, comm) = parts(list()?.values())?;
            Column::Parents(list()?, pid, comm)
        }
        Kind::Claims => {
            let (key, value) = parts(map()?.entries())?;
            Column::Claims(map()?, key, value)
        }
        Kind::Counts => {
            let (key, value) = parts(map()?.entries())?;
            Column::Counts(map()?, key, value)
        }
    })
}

fn cast<T: 'static>(array: &dyn Array) -> Option<&T> {
    array.as_any().downcast_ref()
}

/// The two columns of a list's elements. An element that is null itself has no bytes to be written as.
fn parts<A: 'static, B: 'static>(elements: &dyn Array) -> Option<(&A, &B)> {
    let elements: &StructArray = cast(elements)?;
    match elements.columns() {
        [a, b] if elements.null_count() == 0 => Some((cast(a)?, cast(b)?)),
        _ => None,
    }
}

impl Column<'_> {
    /// `None`: a null inside of a list that can't hold one.
    fn write(&self, index: u8, row: usize, put: &mut Writer<'_>) -> Option<()> {
        match self {
            Self::Time(array) => put.time(index, value(array, row, |row| array.value(row))),
            Self::U16(array) => put.u16(index, value(array, row, |row| array.value(row))),
            Self::U32(array) => put.u32(index, value(array, row, |row| array.value(row))),
            Self::U64(array) => put.u64(index, value(array, row, |row| array.value(row))),
            Self::Bool(array) => put.bool(index, value(array, row, |row| array.value(row))),
            Self::Text(array) => put.text(index, value(array, row, |row| array.value(row))),
            Self::Texts(list, texts) => {
                for element in begin(index, *list, list.offsets(), row, put) {
                    put.nullable_text(texts.is_valid(element).then(|| texts.value(element)));
                }
            }
            Self::Tables(list, a, b) => {
                for element in begin(index, *list, list.offsets(), row, put) {
                    put.bare_text(value(a, element, |at| a.value(at))?);
                    put.bare_text(value(b, element, |at| b.value(at))?);
                }
            }
            Self::Parents(list, a, b) => {
                for element in begin(index, *list, list.offsets(), row, put) {
                    put.bare_u32(value(a, element, |at| a.value(at))?);
                    put.bare_text(value(b, element, |at| b.value(at))?);
                }
            }
            Self::Claims(map, a, b) => {
                for element in begin(index, *map, map.offsets(), row, put) {
                    put.bare_text(value(a, element, |at| a.value(at))?);
                    put.bare_text(value(b, element, |at| b.value(at))?);
                }
            }
            Self::Counts(map, a, b) => {
                for element in begin(index, *map, map.offsets(), row, put) {
                    put.bare_text(value(a, element, |at| a.value(at))?);
                    put.bare_u64(value(b, element, |at| b.value(at))?);
                }
            }
        }
        Some(())
    }
}

fn value<'a, T>(array: &'a dyn Array, row: usize, value: impl Fn(usize) -> T + 'a) -> Option<T> {
    array.is_valid(row).then(|| value(row))
}

/// Writes the head of a list and gives its elements' places; none where it is null.
fn begin(
    index: u8,
    list: &dyn Array,
    offsets: &OffsetBuffer<i32>,
    row: usize,
    put: &mut Writer<'_>,
) -> Range<usize> {
    if list.is_null(row) {
        return 0..0;
    }
    let elements = offsets[row] as usize..offsets[row + 1] as usize;
    put.column(index);
    put.count(elements.len());
    elements
}
