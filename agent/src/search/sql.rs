//! The ledger in SQL: questions only, over four tables and nothing else.

use std::sync::Arc;

use datafusion::{
    common::DataFusionError,
    config::Dialect,
    logical_expr::{LogicalPlan, Statement, ident, lit},
    prelude::{SQLOptions, SessionContext},
    sql::parser::Statement as Parsed,
};
use futures_util::StreamExt;

use super::{
    Options, SearchError,
    answer::{Answer, Trailer},
    session::session,
    source::Source,
    table::{Order, Rows, SEGMENT, SEGMENT_ROW},
};
use crate::ledger::schema::{COLUMNS, Kind};

/// All rows, and those with a certain `record`.
pub const TABLES: [(&str, Option<&str>); 5] = [
    ("rows", None),
    ("statements", Some("statement")),
    ("connections", Some("connection")),
    ("coverage", Some("coverage")),
    ("findings", Some("finding")),
];

/// Names and types of the tables' columns, as SQL knows them.
pub fn columns() -> impl Iterator<Item = (&'static str, &'static str)> {
    let columns = COLUMNS.iter().map(|column| {
        let words = match column.kind {
            Kind::Time => "timestamp (UTC, microseconds)",
            Kind::U16 | Kind::U32 | Kind::U64 => "unsigned integer",
            Kind::Bool => "boolean",
            Kind::Text => "text",
            Kind::Texts => "list of text",
            Kind::Tables => "list of struct (name text, access text)",
            Kind::Parents => "list of struct (pid integer, comm text)",
            Kind::Claims => "map from text to text",
            Kind::Counts => "map from text to unsigned integer",
        };
        (column.name, words)
    });
    columns.chain([
        (SEGMENT, "unsigned integer: the segment that the row is in"),
        (SEGMENT_ROW, "integer: its place there, from 0; null while that isn't sealed"),
    ])
}

pub(super) async fn run(
    query: &str,
    ledger: &Source,
    options: &Options<'_>,
    answer: &mut Answer<'_>,
) -> Result<(), SearchError> {
    let context = session(ledger, options.limits)?;
    register(&context, ledger).await?;
    let state = context.state();
    let statement =
        state.sql_to_statement(query, &Dialect::Generic).map_err(SearchError::of_engine)?;
    if let Some(what) = file_statement(&statement) {
        return Err(SearchError::NotAQuestion(what.into()));
    }
    let plan = state.statement_to_plan(statement).await.map_err(SearchError::of_engine)?;
    if let Some(what) = change(&plan) {
        return Err(SearchError::NotAQuestion(what));
    }
    // What `change` doesn't know it can't let through either.
    SQLOptions::new()
        .with_allow_ddl(false)
        .with_allow_dml(false)
        .with_allow_statements(false)
        .verify_plan(&plan)
        .map_err(SearchError::of_engine)?;
    let found = context.execute_logical_plan(plan).await.map_err(SearchError::of_engine)?;
    let names: Vec<String> =
        found.schema().fields().iter().map(|field| field.name().clone()).collect();
    let mut batches = found.execute_stream().await.map_err(SearchError::of_engine)?;
    while let Some(batch) = batches.next().await {
        answer.batch(&batch.map_err(SearchError::of_engine)?)?;
    }
    answer.columns(&names.iter().map(String::as_str).collect::<Vec<_>>())?;
    answer.end(Trailer::default())
}

/// The four tables over one snapshot.
async fn register(context: &SessionContext, ledger: &Source) -> Result<(), SearchError> {
    let snapshot = Arc::new(ledger.snapshot().await?);
    let rows = Arc::new(Rows::new(snapshot, Order::NewestFirst));
    for (name, record) in TABLES {
        let table = match record {
            None => Ok(context.register_table(name, rows.clone())),
            Some(record) => context
                .read_table(rows.clone())
                .and_then(|rows| rows.filter(ident("record").eq(lit(record))))
                .map(|rows| context.register_table(name, rows.into_view())),
        };
        table.and_then(|registered| registered).map_err(SearchError::of_engine)?;
    }
    Ok(())
}

/// Statements of the engine's own that name files; they are told before it looks for their formats.
fn file_statement(statement: &Parsed) -> Option<&'static str> {
    match statement {
        Parsed::CopyTo(_) => Some("COPY"),
        Parsed::CreateExternalTable(_) => Some("CREATE EXTERNAL TABLE"),
        Parsed::Explain(explain) => file_statement(&explain.statement),
        _ => None,
    }
}

/// What a statement would do that is no question, in a word or two.
fn change(plan: &LogicalPlan) -> Option<String> {
    let explained = match plan {
        LogicalPlan::Explain(explain) => &explain.plan,
        LogicalPlan::Analyze(analyze) => &analyze.input,
        _ => plan,
    };
    match explained {
        LogicalPlan::Ddl(ddl) => Some(ddl.name().into()),
        LogicalPlan::Dml(dml) => Some(dml.op.name().to_uppercase()),
        LogicalPlan::Statement(Statement::SetVariable(_)) => Some("SET".into()),
        LogicalPlan::Statement(statement) => Some(statement.name().into()),
        _ => None,
    }
}

/// The engine's words without its own name for the sort of error, and with what helps here.
pub(super) fn in_plain_words(error: &DataFusionError) -> String {
    let words = error.strip_backtrace();
    let words = [
        "Error during planning: ",
        "Execution error: ",
        "SQL error: ParserError(\"",
        "Schema error: ",
        "This feature is not implemented: ",
        "Arrow error: ",
        "Parquet error: ",
    ]
    .iter()
    .fold(words, |words, prefix| words.replace(prefix, ""));
    let words = words.trim_end_matches("\")").replace("datafusion.public.", "");
    if words.contains("table '") && words.contains("not found") {
        let names: Vec<&str> = TABLES.iter().map(|(name, _)| *name).collect();
        return format!("{words}: there are {}", names.join(", "));
    }
    if words.contains("No field named") {
        return format!("{words} (dbwarden sql --schema lists the columns)");
    }
    words
}
