//! Rows that are not sealed yet, read from their logs while the service goes on writing.

use std::{fmt, ops::RangeInclusive, sync::Arc};

use datafusion::{
    arrow::{
        array::{ArrayRef, UInt64Array, new_null_array},
        compute::cast,
        datatypes::{Field, SchemaRef},
        record_batch::{RecordBatch, RecordBatchOptions},
    },
    common::{DataFusionError, Result},
    execution::{SendableRecordBatchStream, TaskContext},
    physical_plan::{
        ExecutionPlan,
        stream::RecordBatchReceiverStreamBuilder,
        streaming::{PartitionStream, StreamingTableExec},
    },
};

use super::{
    snapshot::Snapshot,
    table::{SEGMENT, SEGMENT_ROW},
};
use crate::{
    event::WallTime,
    ledger::log::{ReadError, Reader},
};

/// Batches that wait to be looked at.
const AHEAD: usize = 2;

/// Scans the open logs of a snapshot, where there can be rows of these times.
pub(super) fn scan(
    snapshot: Arc<Snapshot>,
    schema: &SchemaRef,
    projection: Option<&Vec<usize>>,
    times: RangeInclusive<WallTime>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let schema = match projection {
        Some(columns) => Arc::new(schema.project(columns)?),
        None => schema.clone(),
    };
    let logs = Logs { snapshot, schema: schema.clone(), times };
    let partitions: Vec<Arc<dyn PartitionStream>> = vec![Arc::new(logs)];
    Ok(Arc::new(StreamingTableExec::try_new(schema, partitions, None, None, false, None)?))
}

/// All open logs, one after the other.
struct Logs {
    snapshot: Arc<Snapshot>,
    /// Of the columns that are wanted.
    schema: SchemaRef,
    times: RangeInclusive<WallTime>,
}

impl PartitionStream for Logs {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let mut stream = RecordBatchReceiverStreamBuilder::new(self.schema.clone(), AHEAD);
        let batches = stream.tx();
        let (snapshot, schema) = (self.snapshot.clone(), self.schema.clone());
        let times = self.times.clone();
        stream.spawn_blocking(move || {
            for log in &snapshot.open {
                let mut reader = Reader::open(&log.path())
                    .map_err(unreadable)?
                    .up_to(log.len)
                    .between(times.clone())
                    .committed_since(snapshot.recorded_since)
                    .only_columns(|name| schema.column_with_name(name).is_some());
                while let Some(batch) = reader.next_batch().map_err(unreadable)? {
                    // Nobody wants more.
                    if batches.blocking_send(fitted(&batch, log.number, &schema)).is_err() {
                        return Ok(());
                    }
                }
            }
            Ok(())
        });
        stream.build()
    }
}

impl fmt::Debug for Logs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Logs").field("n", &self.snapshot.open.len()).finish()
    }
}

fn unreadable(error: ReadError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// The columns that are wanted, in the types of the table.
fn fitted(batch: &RecordBatch, segment: u64, schema: &SchemaRef) -> Result<RecordBatch> {
    let n_rows = batch.num_rows();
    let column = |field: &Field| -> Result<ArrayRef> {
        Ok(match field.name().as_str() {
            SEGMENT => Arc::new(UInt64Array::from_value(segment, n_rows)),
            SEGMENT_ROW => new_null_array(field.data_type(), n_rows),
            name => {
                let column = batch.column_by_name(name).ok_or_else(|| {
                    DataFusionError::Internal(format!("an open log without the column {name}"))
                })?;
                cast(column, field.data_type())?
            }
        })
    };
    let columns: Vec<ArrayRef> =
        schema.fields().iter().map(|field| column(field)).collect::<Result<_>>()?;
    // Whoever only counts wants no column at all.
    let rows = RecordBatchOptions::new().with_row_count(Some(n_rows));
    Ok(RecordBatch::try_new_with_options(schema.clone(), columns, &rows)?)
}
