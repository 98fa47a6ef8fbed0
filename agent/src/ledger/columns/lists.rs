//! Columns that hold lists and maps, made by hand: Arrow's own builders for nested types can panic.

use std::sync::Arc;

use arrow_array::{
    ArrayRef, ListArray, MapArray, StructArray,
    builder::{StringBuilder, UInt32Builder, UInt64Builder},
};
use arrow_buffer::{NullBufferBuilder, OffsetBuffer};
use arrow_schema::{ArrowError, DataType, Fields};

/// One of an element's parts, as many values as there are elements.
pub enum Part {
    Text(StringBuilder),
    U32(UInt32Builder),
    U64(UInt64Builder),
}

/// A list of elements that have one or two parts.
pub struct ListBuilder {
    pub parts: Vec<Part>,
    offsets: Vec<i32>,
    nulls: NullBufferBuilder,
    n_elements: i32,
}

impl Part {
    fn text() -> Self {
        Self::Text(StringBuilder::new())
    }

    fn finish(&mut self) -> ArrayRef {
        match self {
            Self::Text(part) => Arc::new(part.finish()),
            Self::U32(part) => Arc::new(part.finish()),
            Self::U64(part) => Arc::new(part.finish()),
        }
    }
}

impl ListBuilder {
    pub fn texts() -> Self {
        Self::new(vec![Part::text()])
    }

    pub fn pairs_of_texts() -> Self {
        Self::new(vec![Part::text(), Part::text()])
    }

    pub fn numbers_and_texts() -> Self {
        Self::new(vec![Part::U32(UInt32Builder::new()), Part::text()])
    }

    pub fn texts_and_numbers() -> Self {
        Self::new(vec![Part::text(), Part::U64(UInt64Builder::new())])
    }

    fn new(parts: Vec<Part>) -> Self {
        Self { parts, offsets: vec![0], nulls: NullBufferBuilder::new(0), n_elements: 0 }
    }

    /// Ends a list to which `n_elements` were appended in each part.
    pub fn end_list(&mut self, n_elements: i32) {
        self.n_elements += n_elements;
        self.offsets.push(self.n_elements);
        self.nulls.append_non_null();
    }

    pub fn append_nulls(&mut self, n_rows: usize) {
        self.offsets.extend(std::iter::repeat_n(self.n_elements, n_rows));
        self.nulls.append_n_nulls(n_rows);
    }

    /// The array of `data_type`, which is a list or map of what the parts are; empty afterwards.
    pub fn finish(&mut self, data_type: &DataType) -> Result<ArrayRef, ArrowError> {
        let mut parts: Vec<ArrayRef> = self.parts.iter_mut().map(Part::finish).collect();
        let offsets = OffsetBuffer::new(std::mem::replace(&mut self.offsets, vec![0]).into());
        let nulls = self.nulls.finish();
        self.n_elements = 0;
        let structure = |fields: &Fields, parts| StructArray::try_new(fields.clone(), parts, None);
        match data_type {
            DataType::Map(field, sorted) => {
                let DataType::Struct(fields) = field.data_type() else {
                    return Err(ArrowError::SchemaError("a map without entries".to_owned()));
                };
                let entries = structure(fields, parts)?;
                Ok(Arc::new(MapArray::try_new(field.clone(), offsets, entries, nulls, *sorted)?))
            }
            DataType::List(field) => {
                let values: ArrayRef = match (field.data_type(), parts.pop()) {
                    (DataType::Struct(fields), Some(last)) => {
                        parts.push(last);
                        Arc::new(structure(fields, parts)?)
                    }
                    (_, Some(only)) => only,
                    (_, None) => return Err(ArrowError::SchemaError("no parts".to_owned())),
                };
                Ok(Arc::new(ListArray::try_new(field.clone(), offsets, values, nulls)?))
            }
            other => Err(ArrowError::SchemaError(format!("{other} is no list"))),
        }
    }
}
