//! Canonical bytes → an Arrow batch.

use std::sync::Arc;

use arrow_array::{
    ArrayRef, RecordBatch, RecordBatchOptions, UInt32Array,
    builder::{
        BooleanBuilder, StringBuilder, TimestampMicrosecondBuilder, UInt16Builder, UInt32Builder,
        UInt64Builder,
    },
    new_null_array,
};
use arrow_schema::{ArrowError, DataType, Schema, SchemaRef};
use arrow_select::take::take;
use thiserror::Error;

use super::lists::{ListBuilder, Part};
use crate::ledger::{
    canonical::{Fields, Malformed, Value},
    schema::{self, COLUMNS, Group, Kind},
};

#[derive(Debug, Error)]
pub enum BuildError {
    #[error("a row's bytes are malformed")]
    Malformed(#[from] Malformed),
    #[error("a row names an origin or facts that the batch doesn't have")]
    UnknownDefinition,
    #[error("the columns don't make a batch")]
    Arrow(#[from] ArrowError),
}

/// Gathers rows. Origins and facts are handed in once a batch, however many rows share them.
pub struct BatchBuilder {
    /// Of the columns that are wanted.
    schema: SchemaRef,
    origins: GroupBuilder,
    facts: GroupBuilder,
    rows: GroupBuilder,
    /// For each row, its place among `origins` and `facts`.
    origin_of: Vec<u32>,
    facts_of: Vec<u32>,
}

impl Default for BatchBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl BatchBuilder {
    pub fn new() -> Self {
        Self::of_columns(|_| true)
    }

    /// Without all other columns.
    pub fn of_columns(is_wanted: impl Fn(&str) -> bool) -> Self {
        let fields = schema::schema().fields().clone();
        let wanted = fields.iter().filter(|field| is_wanted(field.name()));
        Self {
            schema: Arc::new(Schema::new(wanted.cloned().collect::<Vec<_>>())),
            origins: GroupBuilder::new(Group::Origin, &is_wanted),
            facts: GroupBuilder::new(Group::Facts, &is_wanted),
            rows: GroupBuilder::new(Group::Row, &is_wanted),
            origin_of: Vec::new(),
            facts_of: Vec::new(),
        }
    }

    /// Gives the origin's number in this batch.
    pub fn origin(&mut self, group: &[u8]) -> Result<u32, BuildError> {
        self.origins.push(group)
    }

    /// Gives the facts' number in this batch.
    pub fn facts(&mut self, group: &[u8]) -> Result<u32, BuildError> {
        self.facts.push(group)
    }

    /// A row of an origin and facts that were given before. After an error the batch is of no use.
    pub fn row(&mut self, origin: u32, facts: u32, group: &[u8]) -> Result<(), BuildError> {
        if origin >= self.origins.n_rows || facts >= self.facts.n_rows {
            return Err(BuildError::UnknownDefinition);
        }
        self.rows.push(group)?;
        self.origin_of.push(origin);
        self.facts_of.push(facts);
        Ok(())
    }

    pub fn n_rows(&self) -> usize {
        self.origin_of.len()
    }

    /// The batch; the builder is empty afterwards, its definitions too.
    pub fn finish(&mut self) -> Result<RecordBatch, BuildError> {
        let origin_of = UInt32Array::from(std::mem::take(&mut self.origin_of));
        let facts_of = UInt32Array::from(std::mem::take(&mut self.facts_of));
        let n_rows = origin_of.len();
        let mut columns: Vec<(usize, ArrayRef)> = Vec::with_capacity(self.schema.fields().len());
        for (group, places) in [
            (&mut self.rows, None),
            (&mut self.origins, Some(&origin_of)),
            (&mut self.facts, Some(&facts_of)),
        ] {
            let n_defined = std::mem::take(&mut group.n_rows) as usize;
            for column in &mut group.columns {
                let array = match (column.filled, places) {
                    (0, _) => new_null_array(&column.data_type, n_rows),
                    (_, None) => column.finish(n_defined)?,
                    (_, Some(places)) => take(&column.finish(n_defined)?, places, None)?,
                };
                columns.push((column.index, array));
            }
        }
        columns.sort_unstable_by_key(|(index, _)| *index);
        let columns = columns.into_iter().map(|(_, array)| array).collect();
        // Whoever only counts wants no column at all.
        let rows = RecordBatchOptions::new().with_row_count(Some(n_rows));
        Ok(RecordBatch::try_new_with_options(self.schema.clone(), columns, &rows)?)
    }
}

/// The columns of one group.
struct GroupBuilder {
    group: Group,
    columns: Vec<ColumnBuilder>,
    /// For each of `COLUMNS`, its place in `columns`; beyond its end where it isn't there.
    places: Vec<usize>,
    n_rows: u32,
}

impl GroupBuilder {
    fn new(group: Group, is_wanted: &impl Fn(&str) -> bool) -> Self {
        let mut columns = Vec::new();
        let mut places = vec![usize::MAX; COLUMNS.len()];
        for (index, column) in COLUMNS.iter().enumerate() {
            if column.group == group && is_wanted(column.name) {
                places[index] = columns.len();
                columns.push(ColumnBuilder::new(index, column.kind));
            }
        }
        Self { group, columns, places, n_rows: 0 }
    }

    fn push(&mut self, bytes: &[u8]) -> Result<u32, BuildError> {
        for field in Fields::new(self.group, bytes) {
            let (index, value) = field?;
            // One of this group, as the decoder has checked; others than the wanted have no place.
            if let Some(column) = self.columns.get_mut(self.places[index]) {
                column.push(self.n_rows as usize, value);
            }
        }
        self.n_rows += 1;
        Ok(self.n_rows - 1)
    }
}

/// One column. Nulls are appended when the next value comes: most columns of most rows are null.
struct ColumnBuilder {
    /// In `COLUMNS`.
    index: usize,
    data_type: DataType,
    values: Values,
    /// Rows that have been appended.
    filled: usize,
}

impl ColumnBuilder {
    fn new(index: usize, kind: Kind) -> Self {
        Self { index, data_type: schema::data_type(kind), values: Values::new(kind), filled: 0 }
    }

    fn push(&mut self, row: usize, value: Value<'_>) {
        self.fill(row);
        self.values.append(value);
        self.filled = row + 1;
    }

    fn fill(&mut self, n_rows: usize) {
        if n_rows > self.filled {
            self.values.append_nulls(n_rows - self.filled);
            self.filled = n_rows;
        }
    }

    fn finish(&mut self, n_rows: usize) -> Result<ArrayRef, ArrowError> {
        self.fill(n_rows);
        self.filled = 0;
        self.values.finish(&self.data_type)
    }
}

enum Values {
    Time(TimestampMicrosecondBuilder),
    U16(UInt16Builder),
    U32(UInt32Builder),
    U64(UInt64Builder),
    Bool(BooleanBuilder),
    Text(StringBuilder),
    List(ListBuilder),
}

impl Values {
    fn new(kind: Kind) -> Self {
        match kind {
            Kind::Time => Self::Time(TimestampMicrosecondBuilder::new().with_timezone("UTC")),
            Kind::U16 => Self::U16(UInt16Builder::new()),
            Kind::U32 => Self::U32(UInt32Builder::new()),
            Kind::U64 => Self::U64(UInt64Builder::new()),
            Kind::Bool => Self::Bool(BooleanBuilder::new()),
            Kind::Text => Self::Text(StringBuilder::new()),
            Kind::Texts => Self::List(ListBuilder::texts()),
            Kind::Tables | Kind::Claims => Self::List(ListBuilder::pairs_of_texts()),
            Kind::Parents => Self::List(ListBuilder::numbers_and_texts()),
            Kind::Counts => Self::List(ListBuilder::texts_and_numbers()),
        }
    }

    fn append(&mut self, value: Value<'_>) {
        match (self, value) {
            (Self::Time(values), Value::Time(value)) => values.append_value(value),
            (Self::U16(values), Value::U16(value)) => values.append_value(value),
            (Self::U32(values), Value::U32(value)) => values.append_value(value),
            (Self::U64(values), Value::U64(value)) => values.append_value(value),
            (Self::Bool(values), Value::Bool(value)) => values.append_value(value),
            (Self::Text(values), Value::Text(value)) => values.append_value(value),
            (Self::List(list), value) => append_list(list, value),
            // `new` and the decoder go by the same table.
            _ => {}
        }
    }

    fn append_nulls(&mut self, n: usize) {
        match self {
            Self::Time(values) => values.append_nulls(n),
            Self::U16(values) => values.append_nulls(n),
            Self::U32(values) => values.append_nulls(n),
            Self::U64(values) => values.append_nulls(n),
            Self::Bool(values) => values.append_nulls(n),
            Self::Text(values) => values.append_nulls(n),
            Self::List(list) => list.append_nulls(n),
        }
    }

    fn finish(&mut self, data_type: &DataType) -> Result<ArrayRef, ArrowError> {
        Ok(match self {
            Self::Time(values) => Arc::new(values.finish()),
            Self::U16(values) => Arc::new(values.finish()),
            Self::U32(values) => Arc::new(values.finish()),
            Self::U64(values) => Arc::new(values.finish()),
            Self::Bool(values) => Arc::new(values.finish()),
            Self::Text(values) => Arc::new(values.finish()),
            Self::List(list) => list.finish(data_type)?,
        })
    }
}

fn append_list(list: &mut ListBuilder, value: Value<'_>) {
    let mut n_elements = 0;
    match (list.parts.as_mut_slice(), value) {
        ([Part::Text(texts)], Value::Texts(items)) => {
            for text in items {
                texts.append_option(text);
                n_elements += 1;
            }
        }
        ([Part::Text(a), Part::Text(b)], Value::Tables(items) | Value::Claims(items)) => {
            for (first, second) in items {
                a.append_value(first);
                b.append_value(second);
                n_elements += 1;
            }
        }
        ([Part::U32(a), Part::Text(b)], Value::Parents(items)) => {
            for (first, second) in items {
                a.append_value(first);
                b.append_value(second);
                n_elements += 1;
            }
        }
        ([Part::Text(a), Part::U64(b)], Value::Counts(items)) => {
            for (first, second) in items {
                a.append_value(first);
                b.append_value(second);
                n_elements += 1;
            }
        }
        _ => {}
    }
    list.end_list(n_elements);
}
