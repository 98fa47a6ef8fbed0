//! The ledger as one table: sealed segments and open logs, of which only what can match is read.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use datafusion::{
    arrow::{
        array::{ArrayRef, TimestampMicrosecondArray},
        datatypes::{DataType, Field, Schema, SchemaRef},
    },
    catalog::{Session, TableProvider},
    common::{
        Column, ColumnStatistics, DFSchema, Result, ScalarValue, Statistics,
        pruning::PruningStatistics, stats::Precision,
    },
    datasource::{
        listing::PartitionedFile,
        memory::DataSourceExec,
        physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource},
        table_schema::TableSchema,
    },
    execution::object_store::ObjectStoreUrl,
    logical_expr::{Expr, TableProviderFilterPushDown, TableType, utils::conjunction},
    parquet::arrow::RowNumber,
    physical_expr::{LexOrdering, PhysicalSortExpr, expressions},
    physical_optimizer::pruning::PruningPredicateBuilder,
    physical_plan::{ExecutionPlan, empty::EmptyExec, union::UnionExec},
};

use super::{
    expression::times,
    open,
    snapshot::{Segment, Snapshot},
};
use crate::ledger::schema::{COLUMNS, Kind, schema};

/// Where the session keeps the ledger's folder; nothing else can be reached by a URL.
pub(super) const STORE: &str = "dbwarden://ledger/";
const TIME: &str = "time";
/// Where a row is, which no file says of itself: the number of its segment, and its own in the sealed
/// file, from 0. A row that isn't sealed has none yet.
pub(super) const SEGMENT: &str = "segment";
pub(super) const SEGMENT_ROW: &str = "segment_row";

/// In which order rows shall come out of a scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// The newest files first, which lets a search for the newest rows end early.
    NewestFirst,
    /// Ordered by time, as the files themselves are; of sealed rows only.
    ByTime,
}

/// The rows of a snapshot.
pub(super) struct Rows {
    snapshot: Arc<Snapshot>,
    order: Order,
    schema: SchemaRef,
}

impl Rows {
    pub(super) fn new(snapshot: Arc<Snapshot>, order: Order) -> Self {
        Self { snapshot, order, schema: table_schema() }
    }

    /// Segments in which a row can be that fulfils `filters`, as their spans of time tell.
    fn segments(&self, state: &dyn Session, filters: &[Expr]) -> Result<Vec<&Segment>> {
        let all: Vec<&Segment> = self.snapshot.segments.iter().collect();
        let Some(filter) = conjunction(filters.iter().cloned()) else { return Ok(all) };
        let schema = DFSchema::try_from(self.schema.clone())?;
        let predicate = state.create_physical_expr(filter, &schema)?;
        let predicate = PruningPredicateBuilder::new()
            .with_file_schema(self.schema.clone())
            .try_build(predicate)?;
        let kept = predicate.prune(&Spans(&all))?;
        Ok(all
            .into_iter()
            .zip(kept)
            .filter_map(|(segment, kept)| kept.then_some(segment))
            .collect())
    }

    fn sealed(
        &self,
        segments: Vec<&Segment>,
        partitions: usize,
        projection: Option<&Vec<usize>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let groups = match self.order {
            Order::NewestFirst => newest_first(segments, partitions),
            Order::ByTime => chains(segments),
        };
        let groups = groups
            .into_iter()
            .map(|group| group.into_iter().map(|segment| self.file(segment)).collect())
            .map(FileGroup::new)
            .collect();
        // The reader counts rows only for those who ask.
        let counts = projection.is_none_or(|columns| columns.contains(&(COLUMNS.len() + 1)));
        let source = Arc::new(ParquetSource::new(layers(counts)));
        let config = FileScanConfigBuilder::new(ObjectStoreUrl::parse(STORE)?, source)
            .with_file_groups(groups)
            .with_projection_indices(projection.cloned())?;
        let config = match self.order {
            Order::NewestFirst => config,
            Order::ByTime => {
                let time = expressions::col(TIME, &self.schema)?;
                let ordering = LexOrdering::new([PhysicalSortExpr::new_default(time)]);
                config
                    .with_output_ordering(ordering.into_iter().collect())
                    .with_preserve_order(true)
            }
        };
        Ok(DataSourceExec::from_data_source(config.build()))
    }

    fn file(&self, segment: &Segment) -> PartitionedFile {
        let columns = COLUMNS.iter().map(|column| match column.name {
            TIME => ColumnStatistics {
                null_count: Precision::Exact(0),
                min_value: Precision::Exact(time_value(segment.file.first_time.0)),
                max_value: Precision::Exact(time_value(segment.file.last_time.0)),
                ..ColumnStatistics::new_unknown()
            },
            _ => ColumnStatistics::new_unknown(),
        });
        let statistics = Statistics {
            num_rows: Precision::Absent,
            total_byte_size: Precision::Absent,
            column_statistics: columns.collect(),
        };
        PartitionedFile::new(segment.location.clone(), segment.bytes)
            .with_partition_values(vec![ScalarValue::UInt64(Some(segment.file.number))])
            .with_statistics(Arc::new(statistics))
    }
}

#[async_trait]
impl TableProvider for Rows {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    /// What is pushed down skips files, row groups and pages; the rows that are left are looked at
    /// again, because those of an open log come as they are.
    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let segments = self.segments(state, filters)?;
        let mut parts = Vec::new();
        if !segments.is_empty() {
            let partitions = state.config().target_partitions();
            parts.push(self.sealed(segments, partitions, projection)?);
        }
        if !self.snapshot.open.is_empty() {
            let times = times(filters);
            parts.push(open::scan(self.snapshot.clone(), &self.schema, projection, times)?);
        }
        match parts.len() {
            0 => {
                let schema = match projection {
                    Some(columns) => Arc::new(self.schema.project(columns)?),
                    None => self.schema.clone(),
                };
                Ok(Arc::new(EmptyExec::new(schema)))
            }
            _ => UnionExec::try_new(parts),
        }
    }
}

impl fmt::Debug for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rows").field("order", &self.order).finish_non_exhaustive()
    }
}

/// The ledger's columns, [`SEGMENT`] and [`SEGMENT_ROW`].
pub(super) fn table_schema() -> SchemaRef {
    layers(true).table_schema().clone()
}

/// What files have in themselves, what is the same in all rows of one, and what its reader counts.
fn layers(counts: bool) -> TableSchema {
    let segment = Field::new(SEGMENT, DataType::UInt64, false);
    let row = Field::new(SEGMENT_ROW, DataType::Int64, true).with_extension_type(RowNumber);
    let counted = if counts { vec![Arc::new(row)] } else { Vec::new() };
    TableSchema::builder(file_schema())
        .with_table_partition_cols(vec![Arc::new(segment)])
        .with_virtual_columns(counted)
        .build()
}

/// With text as it is quickest to look at: what is said of a connection or of a text is the same in many
/// rows, and stays a number and a dictionary.
fn file_schema() -> SchemaRef {
    let fields: Vec<Field> = schema()
        .fields()
        .iter()
        .zip(COLUMNS)
        .map(|(field, column)| {
            let field = Field::clone(field);
            match column.kind {
                Kind::Text => field.with_data_type(text_type()),
                _ => field,
            }
        })
        .collect();
    Arc::new(Schema::new(fields))
}

fn text_type() -> DataType {
    DataType::Utf8View
}

/// Dealt out like cards, so that each partition begins with what is newest.
fn newest_first(segments: Vec<&Segment>, partitions: usize) -> Vec<Vec<&Segment>> {
    let mut groups = vec![Vec::new(); partitions.clamp(1, segments.len().max(1))];
    let n = groups.len();
    for (at, segment) in segments.into_iter().rev().enumerate() {
        if let Some(group) = groups.get_mut(at % n) {
            group.push(segment);
        }
    }
    groups
}

/// As few rows of segments as there can be in which none begins before the one in front of it ends.
fn chains(mut segments: Vec<&Segment>) -> Vec<Vec<&Segment>> {
    segments.sort_by_key(|segment| segment.file.first_time);
    let mut chains: Vec<Vec<&Segment>> = Vec::new();
    for segment in segments {
        let fits = |chain: &&mut Vec<&Segment>| {
            chain.last().is_none_or(|last| last.file.last_time <= segment.file.first_time)
        };
        match chains.iter_mut().find(fits) {
            Some(chain) => chain.push(segment),
            None => chains.push(vec![segment]),
        }
    }
    chains
}

fn time_value(micros: i64) -> ScalarValue {
    ScalarValue::TimestampMicrosecond(Some(micros), Some("UTC".into()))
}

/// The spans of time that the names of segments tell.
struct Spans<'a>(&'a [&'a Segment]);

impl Spans<'_> {
    fn times(&self, column: &Column, of: impl Fn(&Segment) -> i64) -> Option<ArrayRef> {
        (column.name == TIME).then(|| {
            let times = self.0.iter().map(|segment| of(segment));
            let array = TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC");
            Arc::new(array) as ArrayRef
        })
    }
}

impl PruningStatistics for Spans<'_> {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        self.times(column, |segment| segment.file.first_time.0)
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        self.times(column, |segment| segment.file.last_time.0)
    }

    fn num_containers(&self) -> usize {
        self.0.len()
    }

    fn null_counts(&self, _: &Column) -> Option<ArrayRef> {
        None
    }

    fn row_counts(&self) -> Option<ArrayRef> {
        None
    }

    fn contained(
        &self,
        _: &Column,
        _: &std::collections::HashSet<ScalarValue>,
    ) -> Option<datafusion::arrow::array::BooleanArray> {
        None
    }
}
