//! Who connected, what they did, what data was touched: everything counted, what matters shown.
//!
//! The engine collapses runs of the same thing by the same sender; of the groups, which can be many,
//! only as many are kept as there are lines for, the remarkable ones first.

use std::{cmp::Reverse, collections::BinaryHeap, sync::Arc};

use datafusion::{
    arrow::{
        array::{Array, AsArray, ListBuilder, StringBuilder, UInt32Array},
        compute::{concat_batches, take_record_batch},
        datatypes::{Field, Int64Type, Schema, TimestampMicrosecondType, UInt32Type},
        record_batch::RecordBatch,
    },
    common::Result,
    functions_aggregate::expr_fn::{bit_or, count, max, min, sum},
    logical_expr::{Expr, ident, lit},
    prelude::DataFrame,
};
use futures_util::StreamExt;

use super::{
    Options, SearchError, Timeline, WRITES,
    answer::{Answer, TimelineTrailer, Trailer},
    expression::{effect_bits, effects_of},
    filter::who,
    session::session,
    source::Source,
    table::{Order, Rows},
};
use crate::event::{Effect, WallTime};

/// Lines of a timeline, whatever was asked for: they are kept in memory.
const LINES: u32 = 10_000;

/// Effects that nobody has every day, or that can't be told.
const UNUSUAL: [Effect; 10] = [
    Effect::Truncate,
    Effect::Define,
    Effect::Drop,
    Effect::Grant,
    Effect::Configure,
    Effect::CopyOut,
    Effect::Program,
    Effect::Replicate,
    Effect::Call,
    Effect::Unknown,
];

/// How much a line stands out, in ascending order; written as its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Weight {
    /// Reads and the like.
    Ordinary,
    /// Somebody connected or left, or rows were changed.
    Notable,
    /// It failed, or has an unusual effect.
    Unusual,
    /// The record itself has a hole, or the service or its configuration changed.
    Record,
}

impl Weight {
    fn name(self) -> &'static str {
        match self {
            Self::Ordinary => "ordinary",
            Self::Notable => "notable",
            Self::Unusual => "unusual",
            Self::Record => "record",
        }
    }

    fn of(record: &str, effects: u32, errors: i64) -> Self {
        let any = |of: &[Effect]| effects_of(effects).any(|effect| of.contains(&effect));
        match record {
            "statement" if errors > 0 || any(&UNUSUAL) => Self::Unusual,
            "statement" if any(&WRITES) => Self::Notable,
            "statement" => Self::Ordinary,
            "connection" if errors > 0 => Self::Unusual,
            "connection" => Self::Notable,
            _ => Self::Record,
        }
    }
}

pub(super) async fn run(
    timeline: &Timeline,
    ledger: &Source,
    options: &Options<'_>,
    answer: &mut Answer<'_>,
) -> Result<(), SearchError> {
    let context = session(ledger, options.limits)?;
    let rows = Rows::new(Arc::new(ledger.snapshot().await?), Order::NewestFirst);
    let conditions = timeline.filter.conditions(options.hash_key)?;
    let groups = context
        .read_table(Arc::new(rows))
        .and_then(|rows| collapsed(rows, conditions))
        .map_err(SearchError::of_engine)?;

    let schema = Arc::new(groups.schema().as_arrow().clone());
    let mut best = Best::new(timeline.lines.clamp(1, LINES) as usize);
    let mut batches = groups.execute_stream().await.map_err(SearchError::of_engine)?;
    while let Some(batch) = batches.next().await {
        best.take(&batch.map_err(SearchError::of_engine)?).map_err(SearchError::of_engine)?;
    }
    let (lines, trailer) = best.finish(schema).map_err(SearchError::of_engine)?;
    answer.batch(&lines)?;
    answer.end(Trailer { timeline: Some(trailer), ..Trailer::default() })
}

/// One row for the same thing done by the same sender in the same place.
fn collapsed(rows: DataFrame, conditions: Vec<Expr>) -> Result<DataFrame> {
    let rows = rows.filter(ident("record").not_eq(lit("coverage")))?;
    let rows = conditions.into_iter().try_fold(rows, |rows, condition| rows.filter(condition))?;
    let group = vec![
        ident("record"),
        ident("action"),
        who().alias("who"),
        ident("initiator"),
        ident("principal_kind").alias("kind"),
        ident("server"),
        ident("database"),
        ident("fingerprint"),
    ];
    let statistics = vec![
        min(ident("time")).alias("first"),
        max(ident("time")).alias("last"),
        count(lit(1)).alias("count"),
        sum(ident("rows")).alias("rows"),
        count(ident("error_code")).alias("errors"),
        max(ident("duration_us")).alias("max_duration_us"),
        bit_or(effect_bits()).alias("effects"),
        min(ident("db_user")).alias("db_user"),
        min(ident("client_address")).alias("client_address"),
        min(ident("summary")).alias("summary"),
        min(ident("text")).alias("text"),
        min(ident("error_code")).alias("error_code"),
        min(ident("message")).alias("message"),
    ];
    rows.aggregate(group, statistics)
}

/// The groups that stand out most, by weight and then by how often, and a count of the others.
struct Best {
    room: usize,
    kept: BinaryHeap<Reverse<Group>>,
    trailer: TimelineTrailer,
}

/// One group, compared by how much it stands out.
struct Group {
    rank: (Weight, i64, u64),
    row: RecordBatch,
}

impl Best {
    fn new(room: usize) -> Self {
        Self { room, kept: BinaryHeap::new(), trailer: TimelineTrailer::default() }
    }

    fn take(&mut self, groups: &RecordBatch) -> Result<()> {
        let column = |name: &str| {
            groups.column_by_name(name).ok_or_else(|| {
                datafusion::common::DataFusionError::Internal(format!("no column {name}"))
            })
        };
        let (first, last) = (column("first")?, column("last")?);
        let first = first.as_primitive::<TimestampMicrosecondType>();
        let last = last.as_primitive::<TimestampMicrosecondType>();
        let counts = column("count")?.as_primitive::<Int64Type>();
        let errors = column("errors")?.as_primitive::<Int64Type>();
        let effects = column("effects")?.as_primitive::<UInt32Type>();
        let records = column("record")?.as_string_view();
        for at in 0..groups.num_rows() {
            let record = records.value(at);
            let (n, failed) = (counts.value(at), errors.value(at));
            let effects = if effects.is_null(at) { 0 } else { effects.value(at) };
            let trailer = &mut self.trailer;
            let (from, to) = (WallTime(first.value(at)), WallTime(last.value(at)));
            trailer.first = Some(trailer.first.map_or(from, |first| first.min(from)));
            trailer.last = Some(trailer.last.map_or(to, |last| last.max(to)));
            let statements = if record == "statement" { n.unsigned_abs() } else { 0 };
            trailer.statements += statements;
            trailer.errors += failed.unsigned_abs();
            let rank = (Weight::of(record, effects, failed), n, statements);
            let full = self.kept.len() >= self.room;
            if full && self.kept.peek().is_some_and(|Reverse(least)| rank <= least.rank) {
                trailer.lines_left_out += 1;
                trailer.statements_left_out += statements;
                continue;
            }
            // A copy: a slice would keep the whole batch.
            let index = UInt32Array::from(vec![u32::try_from(at).unwrap_or(u32::MAX)]);
            let row = take_record_batch(groups, &index)?;
            self.kept.push(Reverse(Group { rank, row }));
            if full && let Some(Reverse(left_out)) = self.kept.pop() {
                trailer.lines_left_out += 1;
                trailer.statements_left_out += left_out.rank.2;
            }
        }
        Ok(())
    }

    /// The lines in the order of time.
    fn finish(self, schema: Arc<Schema>) -> Result<(RecordBatch, TimelineTrailer)> {
        let mut kept: Vec<Group> = self.kept.into_iter().map(|Reverse(group)| group).collect();
        let first = |group: &Group| {
            let column = group.row.column_by_name("first");
            column.map(|column| column.as_primitive::<TimestampMicrosecondType>().value(0))
        };
        kept.sort_by_key(first);
        let lines = concat_batches(&schema, kept.iter().map(|group| &group.row))?;
        Ok((in_words(&lines, &kept)?, self.trailer))
    }
}

impl PartialEq for Group {
    fn eq(&self, other: &Self) -> bool {
        self.rank == other.rank
    }
}

impl Eq for Group {}

impl PartialOrd for Group {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Group {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.rank.cmp(&other.rank)
    }
}

/// Effects as a list of words, and the weight as one.
fn in_words(lines: &RecordBatch, groups: &[Group]) -> Result<RecordBatch> {
    let mut effects = ListBuilder::new(StringBuilder::new());
    let mut weights = StringBuilder::new();
    for group in groups {
        let bits =
            group.row.column_by_name("effects").map(|bits| bits.as_primitive::<UInt32Type>());
        match bits.filter(|bits| bits.is_valid(0)) {
            Some(bits) => {
                effects.append_value(effects_of(bits.value(0)).map(|effect| Some(effect.name())));
            }
            None => effects.append_null(),
        }
        weights.append_value(group.rank.0.name());
    }
    let (effects, weights) = (effects.finish(), weights.finish());
    let mut fields = Vec::new();
    let mut columns = Vec::new();
    for (field, column) in lines.schema_ref().fields().iter().zip(lines.columns()) {
        match field.name().as_str() {
            "effects" => {
                fields.push(Arc::new(Field::new("effects", effects.data_type().clone(), true)));
                columns.push(Arc::new(effects.clone()) as _);
            }
            _ => {
                fields.push(field.clone());
                columns.push(column.clone());
            }
        }
    }
    fields.push(Arc::new(Field::new("weight", weights.data_type().clone(), false)));
    columns.push(Arc::new(weights));
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
}
