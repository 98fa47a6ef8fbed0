//! Searching statements one by one: a page of them, or all.

use std::sync::Arc;

use datafusion::{
    arrow::{
        array::{AsArray, UInt32Array},
        compute::{concat_batches, take_record_batch},
        datatypes::{TimestampMicrosecondType, UInt64Type},
        record_batch::RecordBatch,
    },
    functions::core::expr_fn::coalesce,
    logical_expr::{Expr, SortExpr, cast, ident, lit},
    prelude::{DataFrame, SessionContext},
};
use futures_util::StreamExt;

use super::{
    Limits, Options, Page, RowKey, Search, SearchError,
    answer::{Answer, Trailer},
    session::session,
    snapshot::Snapshot,
    source::Source,
    table::{Order, Rows, table_schema},
};
use crate::event::WallTime;

/// Rows of a page, whatever was asked for: a page is sorted in memory.
const PAGE_ROWS: u32 = 10_000;

pub(super) async fn run(
    search: &Search,
    ledger: &Source,
    options: &Options<'_>,
    answer: &mut Answer<'_>,
) -> Result<(), SearchError> {
    // With several threads, rows that come in order would lose it.
    let threads = if search.page == Page::All { 1 } else { options.limits.threads };
    let context = session(ledger, Limits { threads, ..options.limits })?;
    let mut snapshot = ledger.snapshot().await?;
    let record = if search.findings { "finding" } else { "statement" };
    let mut conditions = vec![ident("record").eq(lit(record))];
    conditions.extend(search.filter.conditions(options.hash_key)?);
    if let Some(since) = search.filter.recorded_since {
        snapshot.only_recorded_since(since);
        conditions.push(ended_since(since));
    }
    let columns = columns(&search.columns)?;
    let query = Query { context, conditions, columns };
    match &search.page {
        Page::All => query.all(snapshot, answer).await,
        Page::Newest(n) => query.page(snapshot, None, false, *n, answer).await,
        Page::Before(key, n) => {
            query.page(snapshot, Some(key.after_others()), false, *n, answer).await
        }
        Page::After(key, n) => {
            query.page(snapshot, Some(key.before_others()), true, *n, answer).await
        }
    }
}

struct Query {
    context: SessionContext,
    conditions: Vec<Expr>,
    columns: Vec<String>,
}

impl Query {
    /// Sealed rows in the order of time, then those of open logs in the order of their recording.
    async fn all(&self, snapshot: Snapshot, answer: &mut Answer<'_>) -> Result<(), SearchError> {
        let (sealed, open) = snapshot.split();
        let sealed = self
            .rows(sealed, Order::ByTime)?
            .sort(vec![ident("time").sort(true, true)])
            .map_err(SearchError::of_engine)?;
        let open = self.rows(open, Order::NewestFirst)?;
        for part in [sealed, open] {
            let part = self.chosen(part)?;
            let mut batches = part.execute_stream().await.map_err(SearchError::of_engine)?;
            while let Some(batch) = batches.next().await {
                answer.batch(&batch.map_err(SearchError::of_engine)?)?;
            }
        }
        let names: Vec<&str> = self.columns.iter().map(String::as_str).collect();
        answer.columns(&names)?;
        answer.end(Trailer::default())
    }

    /// The first `n` rows in ascending or the last in descending order, shown oldest first.
    async fn page(
        &self,
        snapshot: Snapshot,
        condition: Option<Expr>,
        ascending: bool,
        n: u32,
        answer: &mut Answer<'_>,
    ) -> Result<(), SearchError> {
        let n = n.clamp(1, PAGE_ROWS) as usize;
        let order: Vec<SortExpr> =
            RowKey::COLUMNS.iter().map(|name| ident(*name).sort(ascending, false)).collect();
        let mut rows = self.rows(snapshot, Order::NewestFirst)?;
        if let Some(condition) = condition {
            rows = rows.filter(condition).map_err(SearchError::of_engine)?;
        }
        // One more, to know whether there is more.
        let rows = self.chosen(rows)?;
        let rows = rows
            .sort(order)
            .and_then(|rows| rows.limit(0, Some(n + 1)))
            .map_err(SearchError::of_engine)?;
        let schema = Arc::new(rows.schema().as_arrow().clone());
        let batches = rows.collect().await.map_err(SearchError::of_engine)?;
        let found = concat_batches(&schema, &batches)
            .map_err(|error| SearchError::of_engine(error.into()))?;
        let shown = found.num_rows().min(n);
        let mut indices: Vec<u32> = (0..u32::try_from(shown).unwrap_or(u32::MAX)).collect();
        if !ascending {
            indices.reverse();
        }
        let page = take_record_batch(&found, &UInt32Array::from(indices))
            .map_err(|error| SearchError::of_engine(error.into()))?;
        answer.batch(&page)?;
        answer.end(Trailer {
            more: Some(found.num_rows() > n),
            first: key(&page, 0),
            last: key(&page, shown.saturating_sub(1)),
            ..Trailer::default()
        })
    }

    fn rows(&self, snapshot: Snapshot, order: Order) -> Result<DataFrame, SearchError> {
        let rows = Arc::new(Rows::new(Arc::new(snapshot), order));
        let rows = self.context.read_table(rows).map_err(SearchError::of_engine)?;
        self.conditions
            .iter()
            .try_fold(rows, |rows, condition| rows.filter(condition.clone()))
            .map_err(SearchError::of_engine)
    }

    fn chosen(&self, rows: DataFrame) -> Result<DataFrame, SearchError> {
        rows.select(self.columns.iter().map(|name| ident(name.as_str())).collect::<Vec<_>>())
            .map_err(SearchError::of_engine)
    }
}

/// Those that are wanted, and the ones that rows are named by, in the order of the schema.
fn columns(wanted: &[String]) -> Result<Vec<String>, SearchError> {
    let schema = table_schema();
    if let Some(unknown) = wanted.iter().find(|name| schema.index_of(name).is_err()) {
        let words = format!("there is no column {unknown:?}: see dbwarden sql --schema");
        return Err(SearchError::Query(words));
    }
    let is_wanted = |name: &str| {
        wanted.is_empty() || wanted.iter().any(|w| w == name) || RowKey::COLUMNS.contains(&name)
    };
    Ok(schema.fields().iter().map(|field| field.name().clone()).filter(|n| is_wanted(n)).collect())
}

/// A statement is recorded when it has ended.
fn ended_since(moment: WallTime) -> Expr {
    use datafusion::arrow::datatypes::DataType::Int64;
    let took = coalesce(vec![cast(ident("duration_us"), Int64), lit(0_i64)]);
    (cast(ident("time"), Int64) + took).gt_eq(lit(moment.0))
}

fn key(rows: &RecordBatch, at: usize) -> Option<RowKey> {
    let [time, connection, sequence] = RowKey::COLUMNS.map(|name| rows.column_by_name(name));
    let time = time?.as_primitive_opt::<TimestampMicrosecondType>()?;
    let connection = connection?.as_string_view_opt()?;
    let sequence = sequence?.as_primitive_opt::<UInt64Type>()?;
    (at < rows.num_rows()).then(|| RowKey {
        time: WallTime(time.value(at)),
        connection: connection.value(at).to_owned(),
        sequence: sequence.value(at),
    })
}
