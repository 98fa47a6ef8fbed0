//! Reports: the whole population of a period, and every row of its segments accounted for.
//!
//! All questions are asked of one snapshot, so that what they count adds up.

use std::{collections::HashMap, sync::Arc};

use datafusion::{
    arrow::{
        array::{AsArray, BooleanArray, ListBuilder, StringBuilder, UInt32Array},
        compute::take_record_batch,
        datatypes::{DataType, Field, Schema, TimestampMicrosecondType, UInt64Type},
        record_batch::RecordBatch,
    },
    functions_aggregate::expr_fn::{count, max, min},
    logical_expr::{Expr, ident, in_list, lit},
    prelude::{DataFrame, SessionContext},
};
use futures_util::StreamExt;

use super::{
    Filter, Limits, Options, Part, Report, ReportTrailer, SearchError,
    answer::{Answer, Trailer},
    expression::time_literal,
    population::{self, Member, Members},
    session::session,
    snapshot::Snapshot,
    source::Source,
    table::{Order, Rows, SEGMENT, SEGMENT_ROW},
};
use crate::{event::WallTime, ledger::log::ALL_TIMES};

/// What a report says of each statement, besides what it makes of it.
const STATEMENT: [&str; 43] = [
    "time",
    "host",
    "environment",
    "server",
    "engine",
    "transport",
    "database",
    "db_user",
    "application",
    "client_address",
    "principal",
    "principal_kind",
    "principal_rule",
    "initiator",
    "os_user",
    "login_user",
    "exe",
    "unit",
    "container",
    "pod",
    "connection",
    "sequence",
    "text",
    "text_known",
    "fingerprint",
    "summary",
    "effects",
    "tables",
    "functions",
    "restricted",
    "analysis",
    "rows",
    "duration_us",
    "error_code",
    "error_message",
    "transaction",
    "verdict",
    "rule",
    "approval",
    "truncated_bytes",
    "lost_bytes",
    "joined_midstream",
    "masked",
];
const OCCURRENCE: [&str; 11] = [
    "time",
    "host",
    "server",
    "record",
    "action",
    "connection",
    "message",
    "counts",
    "approval",
    "principal",
    "rule",
];
/// A name that no column has.
const WANTED: &str = "@wanted";
/// Of the rows before the period: what was last said is what counts.
const BEFORE: usize = 200;
/// Starts of which it is looked for what had been seen last; more than a period has that is worth a report.
const MAX_STARTS: usize = 500;

pub(super) async fn run(
    report: &Report,
    ledger: &Source,
    options: &Options<'_>,
    answer: &mut Answer<'_>,
) -> Result<(), SearchError> {
    let all = ledger.snapshot().await?;
    let (first, end) = ALL_TIMES.into_inner();
    let period = report.filter.since.unwrap_or(first)..=report.filter.until.unwrap_or(end);
    let mut snapshot = all.clone();
    snapshot.only_between(&period);
    // Asking for what can't be told, as with no key to look rows up by, is no half report.
    let filter = Filter { since: None, until: None, ..report.filter.clone() };
    let conditions = filter.conditions(options.hash_key)?;
    let wanted = conditions.into_iter().reduce(Expr::and).unwrap_or_else(|| lit(true));
    let asking = Asking {
        wide: session(ledger, options.limits)?,
        // With several threads, rows that come in order would lose it.
        narrow: session(ledger, Limits { threads: 1, ..options.limits })?,
        all,
        snapshot,
        filter: &report.filter,
    };
    asking.counts(answer).await?;
    let mut starts = Starts::default();
    asking.before(&mut starts, answer).await?;
    asking.occurrences(&mut starts, answer).await?;
    asking.last_seen(&starts, answer).await?;
    asking.coverage(answer).await?;
    let members = Members::new(&report.population);
    let told = asking.statements(&members, wanted, answer).await?;
    answer.end(Trailer { report: Some(told), ..Trailer::default() })
}

struct Asking<'a> {
    wide: SessionContext,
    narrow: SessionContext,
    /// The whole ledger, and the segments of it that may have rows of the period.
    all: Snapshot,
    snapshot: Snapshot,
    filter: &'a Filter,
}

impl Asking<'_> {
    fn in_period(&self) -> Expr {
        let since = self.filter.since.map(|since| ident("time").gt_eq(time_literal(since)));
        let until = self.filter.until.map(|until| ident("time").lt(time_literal(until)));
        since.into_iter().chain(until).reduce(Expr::and).unwrap_or_else(|| lit(true))
    }

    async fn counts(&self, answer: &mut Answer<'_>) -> Result<(), SearchError> {
        let is_sealed = ident(SEGMENT_ROW).is_not_null().alias("sealed");
        let is_statement = ident("record").eq(lit("statement")).alias("statement");
        let in_period = self.in_period().alias("in_period");
        let group = vec![ident("host"), ident(SEGMENT), is_sealed, is_statement, in_period];
        let counted = vec![
            count(lit(1)).alias("rows"),
            min(ident("time")).alias("first"),
            max(ident("time")).alias("last"),
        ];
        let rows = rows(&self.wide, &self.snapshot)?
            .aggregate(group, counted)
            .map_err(SearchError::of_engine)?;
        // Small, and nothing is answered before it is known that the segments can be read.
        let batches = rows.collect().await.map_err(SearchError::of_engine)?;
        answer.part(Part::Counts)?;
        batches.iter().try_for_each(|batch| answer.batch(batch))
    }

    async fn before(
        &self,
        starts: &mut Starts,
        answer: &mut Answer<'_>,
    ) -> Result<(), SearchError> {
        answer.part(Part::Before)?;
        let Some(since) = self.filter.since else { return Ok(()) };
        let records = ["service", "configuration"].map(lit).to_vec();
        let rows = rows(&self.wide, &self.all)?
            .filter(in_list(ident("record"), records, false))
            .and_then(|rows| rows.filter(ident("time").lt(time_literal(since))))
            .and_then(|rows| rows.select(OCCURRENCE.map(ident).to_vec()))
            .and_then(|rows| rows.sort(vec![ident("time").sort(false, false)]))
            .and_then(|rows| rows.limit(0, Some(BEFORE)))
            .map_err(SearchError::of_engine)?;
        for batch in rows.collect().await.map_err(SearchError::of_engine)? {
            starts.take(&batch);
            answer.batch(&batch)?;
        }
        Ok(())
    }

    async fn occurrences(
        &self,
        starts: &mut Starts,
        answer: &mut Answer<'_>,
    ) -> Result<(), SearchError> {
        answer.part(Part::Occurrences)?;
        let others = ["statement", "coverage", "finding"].map(lit).to_vec();
        let usual = ["opened", "closed"].map(lit).to_vec();
        let usual =
            ident("record").eq(lit("connection")).and(in_list(ident("action"), usual, false));
        let wanted = in_list(ident("record"), others, true).and(usual.is_not_true());
        for part in self.in_order(&[wanted])? {
            let part =
                part.select(OCCURRENCE.map(ident).to_vec()).map_err(SearchError::of_engine)?;
            let mut batches = part.execute_stream().await.map_err(SearchError::of_engine)?;
            while let Some(batch) = batches.next().await {
                let batch = batch.map_err(SearchError::of_engine)?;
                starts.take(&batch);
                answer.batch(&batch)?;
            }
        }
        Ok(())
    }

    /// A row for each start that came without a stop before it.
    async fn last_seen(&self, starts: &Starts, answer: &mut Answer<'_>) -> Result<(), SearchError> {
        answer.part(Part::LastSeen)?;
        let since = self.filter.since.unwrap_or(*ALL_TIMES.start());
        for (host, before, start) in starts.unclean(since) {
            let mut snapshot = self.all.clone();
            snapshot.only_between(&(before..=start));
            let rows = rows(&self.wide, &snapshot)?
                .filter(ident("time").gt_eq(time_literal(before)))
                .and_then(|rows| rows.filter(ident("time").lt(time_literal(start))))
                .and_then(|rows| rows.filter(ident("host").eq(lit(host.as_str()))))
                .and_then(|rows| {
                    let last = max(ident("time")).alias("last");
                    rows.aggregate(Vec::new(), vec![last])
                })
                .and_then(|rows| {
                    rows.select(vec![
                        lit(host.as_str()).alias("host"),
                        time_literal(start).alias("start"),
                        ident("last"),
                    ])
                })
                .map_err(SearchError::of_engine)?;
            for batch in rows.collect().await.map_err(SearchError::of_engine)? {
                answer.batch(&batch)?;
            }
        }
        Ok(())
    }

    async fn coverage(&self, answer: &mut Answer<'_>) -> Result<(), SearchError> {
        answer.part(Part::Coverage)?;
        let rows = rows(&self.wide, &self.snapshot)?
            .filter(ident("record").eq(lit("coverage")))
            .and_then(|rows| rows.filter(self.in_period()))
            .and_then(|rows| rows.select(["time", "host", "server", "counts"].map(ident).to_vec()))
            .map_err(SearchError::of_engine)?;
        let mut batches = rows.execute_stream().await.map_err(SearchError::of_engine)?;
        while let Some(batch) = batches.next().await {
            answer.batch(&batch.map_err(SearchError::of_engine)?)?;
        }
        Ok(())
    }

    async fn statements(
        &self,
        members: &Members,
        wanted: Expr,
        answer: &mut Answer<'_>,
    ) -> Result<ReportTrailer, SearchError> {
        answer.part(Part::Statements)?;
        let more = population::COLUMNS.iter().filter(|name| !STATEMENT.contains(name));
        let columns: Vec<Expr> = STATEMENT
            .iter()
            .chain(&[SEGMENT, SEGMENT_ROW])
            .chain(more)
            .map(|name| ident(*name))
            .chain([wanted.is_true().alias(WANTED)])
            .collect();
        let mut told = ReportTrailer::default();
        for part in self.in_order(&[ident("record").eq(lit("statement"))])? {
            let part = part.select(columns.clone()).map_err(SearchError::of_engine)?;
            let mut batches = part.execute_stream().await.map_err(SearchError::of_engine)?;
            while let Some(batch) = batches.next().await {
                let batch = batch.map_err(SearchError::of_engine)?;
                let found = chosen(&batch, members, &mut told).map_err(SearchError::of_engine)?;
                answer.batch(&found)?;
            }
        }
        Ok(told)
    }

    /// Sealed rows of the period in the order of time, then those of open logs in the order of their
    /// recording.
    fn in_order(&self, conditions: &[Expr]) -> Result<[DataFrame; 2], SearchError> {
        let (sealed, open) = self.snapshot.clone().split();
        let rows = |snapshot, order| {
            let rows = Arc::new(Rows::new(Arc::new(snapshot), order));
            let rows = self.narrow.read_table(rows)?.filter(self.in_period())?;
            conditions.iter().try_fold(rows, |rows, condition| rows.filter(condition.clone()))
        };
        let sealed = rows(sealed, Order::ByTime)
            .and_then(|rows| rows.sort(vec![ident("time").sort(true, true)]));
        let open = rows(open, Order::NewestFirst);
        Ok([sealed.map_err(SearchError::of_engine)?, open.map_err(SearchError::of_engine)?])
    }
}

fn rows(context: &SessionContext, snapshot: &Snapshot) -> Result<DataFrame, SearchError> {
    let rows = Rows::new(Arc::new(snapshot.clone()), Order::NewestFirst);
    context.read_table(Arc::new(rows)).map_err(SearchError::of_engine)
}

/// The rows that the report shows, with what is said of them; the others are counted.
fn chosen(
    batch: &RecordBatch,
    members: &Members,
    told: &mut ReportTrailer,
) -> datafusion::common::Result<RecordBatch> {
    let wanted = batch.column_by_name(WANTED).and_then(|wanted| wanted.as_boolean_opt());
    let is_wanted = |at| wanted.is_none_or(|wanted: &BooleanArray| wanted.value(at));
    let n_rows =
        batch.column_by_name("rows").and_then(|rows| rows.as_primitive_opt::<UInt64Type>());
    let mut shown = Vec::new();
    let mut found = Vec::new();
    for (at, member) in members.of(batch)?.into_iter().enumerate() {
        match member {
            None => told.unconcerned += 1,
            Some(_) if !is_wanted(at) => told.outside_filter += 1,
            Some(member) if member.in_region => {
                told.in_region += 1;
                let n_rows = n_rows.map_or(0, |rows| rows.value(at));
                for label in member.labels.iter().chain(&member.possible_labels) {
                    let (statements, rows) =
                        told.in_region_by_label.entry(label.to_string()).or_default();
                    (*statements, *rows) = (*statements + 1, *rows + n_rows);
                }
            }
            Some(member) => {
                told.reported += 1;
                shown.push(u32::try_from(at).unwrap_or(u32::MAX));
                found.push(member);
            }
        }
    }
    with_members(&take_record_batch(batch, &UInt32Array::from(shown))?, &found)
}

fn with_members(rows: &RecordBatch, found: &[Member]) -> datafusion::common::Result<RecordBatch> {
    let mut labels = ListBuilder::new(StringBuilder::new());
    let mut possible = ListBuilder::new(StringBuilder::new());
    let mut regions = StringBuilder::new();
    for member in found {
        labels.append_value(member.labels.iter().map(Some));
        possible.append_value(member.possible_labels.iter().map(Some));
        regions.append_option(member.client_region.as_deref());
    }
    let mut fields = Vec::new();
    let mut columns = Vec::new();
    for (field, column) in rows.schema_ref().fields().iter().zip(rows.columns()) {
        let name = field.name().as_str();
        if STATEMENT.contains(&name) || name == SEGMENT || name == SEGMENT_ROW {
            fields.push(field.clone());
            columns.push(column.clone());
        }
    }
    let list = || DataType::List(Arc::new(Field::new_list_field(DataType::Utf8, true)));
    for (name, kind, column) in [
        ("labels", list(), Arc::new(labels.finish()) as _),
        ("possible_labels", list(), Arc::new(possible.finish()) as _),
        ("client_region", DataType::Utf8, Arc::new(regions.finish()) as _),
    ] {
        fields.push(Arc::new(Field::new(name, kind, true)));
        columns.push(column);
    }
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
}

/// What each host's service said of itself, in the order of its coming.
#[derive(Default)]
struct Starts(HashMap<String, Vec<(WallTime, bool)>>);

impl Starts {
    fn take(&mut self, batch: &RecordBatch) {
        let text = |name: &str| batch.column_by_name(name)?.as_string_view_opt();
        let times = batch.column_by_name("time");
        let times = times.and_then(|times| times.as_primitive_opt::<TimestampMicrosecondType>());
        let (Some(records), Some(actions), Some(hosts), Some(times)) =
            (text("record"), text("action"), text("host"), times)
        else {
            return;
        };
        for at in 0..batch.num_rows() {
            if records.value(at) == "service" {
                let told = self.0.entry(hosts.value(at).to_owned()).or_default();
                told.push((WallTime(times.value(at)), actions.value(at) == "started"));
            }
        }
    }

    /// Starts since then that another start came before: host, that start, this one.
    fn unclean(&self, since: WallTime) -> Vec<(String, WallTime, WallTime)> {
        let mut found = Vec::new();
        for (host, told) in &self.0 {
            let mut told = told.clone();
            told.sort_unstable();
            for pair in told.windows(2) {
                if let [(before, true), (start, true)] = pair
                    && *start >= since
                {
                    found.push((host.clone(), *before, *start));
                }
            }
        }
        found.sort_by_key(|(_, _, start)| std::cmp::Reverse(*start));
        found.truncate(MAX_STARTS);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::Starts;
    use crate::event::WallTime;

    #[test]
    fn a_start_without_a_stop_before_it_is_unclean() {
        let told = [(1, true), (5, false), (7, true), (9, true), (4, true)];
        let told = told.map(|(time, is_start)| (WallTime(time), is_start)).to_vec();
        let starts = Starts([("db1".to_owned(), told)].into());
        let found = |since| -> Vec<(i64, i64)> {
            let found = starts.unclean(WallTime(since));
            found.iter().map(|(_, before, start)| (before.0, start.0)).collect()
        };
        assert_eq!(found(0), [(7, 9), (1, 4)]);
        assert_eq!(found(5), [(7, 9)]);
    }
}
