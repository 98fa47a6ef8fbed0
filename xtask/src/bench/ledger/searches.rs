//! Five typical searches over a large ledger, beside DuckDB on the same files.

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result, ensure};
use dbwarden_tests::said;
use serde_json::Value;

use super::{
    super::{
        Target,
        figures::{median, ratio},
        table::table,
    },
    Plan, Report,
    duckdb::Duckdb,
    tell,
};
use crate::interrupt;

const DAYS: u32 = 14;
/// Milliseconds that a search may take, and how much slower than DuckDB it may be.
const SEARCH_MS: f64 = 300.0;
const AGAINST_DUCKDB: f64 = 2.0;

/// One search in both languages. Its answers are compared by `key`, the first column.
struct Question {
    name: &'static str,
    arguments: Vec<String>,
    key: &'static str,
    sql: String,
}

#[derive(Default)]
struct Times {
    dbwarden_ms: Vec<f64>,
    duckdb_ms: Vec<f64>,
}

pub fn run(plan: &Plan, agent: &Path, writer: &Path, n_rows: u64) -> Result<Report> {
    let folder = tempfile::tempdir()?;
    let ledger = folder.path().join("ledger");
    let millions = n_rows / 1_000_000;
    tell(&format!("a ledger of {millions} million rows over {DAYS} days"));
    let days = DAYS.to_string();
    said(Command::new(writer).arg(&ledger).args([n_rows.to_string(), days]))?;
    let questions = questions();
    let mut times: Vec<Times> = questions.iter().map(|_| Times::default()).collect();
    let mut duckdb = Duckdb::over(&ledger)?;
    // The first look of both reads from the disk, and counts for neither.
    for round in 0..=plan.rounds() {
        for (question, times) in questions.iter().zip(&mut times) {
            interrupt::check()?;
            let (theirs, their_keys) = duckdb.ask(&question.sql)?;
            let (ours, our_keys) = ask(agent, &ledger, question)?;
            ensure!(
                our_keys == their_keys,
                "{}: dbwarden found {} rows and DuckDB {}, or others",
                question.name,
                our_keys.len(),
                their_keys.len()
            );
            if round > 0 {
                times.dbwarden_ms.push(ours);
                times.duckdb_ms.push(theirs);
            }
        }
        tell(&format!("searches, round {round} of {}", plan.rounds()));
    }
    Ok(report(plan, millions, &questions, &times))
}

fn questions() -> Vec<Question> {
    let now = SystemTime::now();
    let back = |minutes: u64| {
        let then = now - Duration::from_secs(minutes * 60);
        humantime::format_rfc3339_seconds(then).to_string()
    };
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let page = |condition: String| {
        format!(
            "SELECT sequence, * FROM rows WHERE record = 'statement' AND {condition}
             ORDER BY time DESC, connection DESC, sequence DESC LIMIT 100"
        )
    };
    let touches = |table: &str, more: &str| {
        format!("len(list_filter(tables, lambda one: one.name = '{table}' {more})) > 0")
    };
    let [minutes, day, week] = [back(10), back(24 * 60), back(7 * 24 * 60)];
    let who = ["os_user", "login_user", "principal", "exe", "unit", "container", "pod"]
        .map(|column| format!("{column} ILIKE '%alice%'"))
        .join(" OR ");
    let writes = "AND one.access IN ('insert', 'update', 'delete', 'truncate', 'copy-in')";
    let by_fingerprint = "SELECT fingerprint, count(*) AS n, max(time) AS last FROM rows
         WHERE record = 'statement' AND error_code IS NOT NULL
         GROUP BY fingerprint ORDER BY n DESC, fingerprint LIMIT 20";
    vec![
        Question {
            name: "last 10 minutes by table",
            arguments: words(&["search", "--since", &minutes, "--table", "orders"]),
            key: "sequence",
            sql: page(format!("time >= '{minutes}' AND {}", touches("orders", ""))),
        },
        Question {
            name: "text in a day",
            arguments: words(&["search", "--since", &day, "truncate re"]),
            key: "sequence",
            sql: page(format!("time >= '{day}' AND text ILIKE '%truncate re%'")),
        },
        Question {
            name: "one principal in a week",
            arguments: words(&["search", "--since", &week, "--who", "alice"]),
            key: "sequence",
            sql: page(format!("time >= '{week}' AND ({who})")),
        },
        Question {
            name: "writes to one table over all",
            arguments: words(&["search", "--table", "vouchers", "--effect", "write"]),
            key: "sequence",
            sql: page(touches("vouchers", writes)),
        },
        Question {
            name: "errors by fingerprint",
            arguments: words(&["sql", by_fingerprint]),
            key: "fingerprint",
            sql: by_fingerprint.to_owned(),
        },
    ]
}

/// Milliseconds of the whole command, and the answer's keys in DuckDB's order.
fn ask(agent: &Path, ledger: &Path, question: &Question) -> Result<(f64, Vec<String>)> {
    let begun = Instant::now();
    let output = said(
        Command::new(agent)
            .args(&question.arguments)
            .args(["--format", "json", "--ledger"])
            .arg(ledger),
    )?;
    let ms = begun.elapsed().as_secs_f64() * 1e3;
    let mut keys = Vec::new();
    for line in output.lines() {
        let row: Value = serde_json::from_str(line).with_context(|| format!("reading {line}"))?;
        match &row[question.key] {
            Value::String(key) => keys.push(key.clone()),
            Value::Null => {}
            key => keys.push(key.to_string()),
        }
    }
    // A page is shown oldest first.
    if question.key == "sequence" {
        keys.reverse();
    }
    Ok((ms, keys))
}

fn report(plan: &Plan, millions: u64, questions: &[Question], times: &[Times]) -> Report {
    let mut rows = Vec::new();
    let mut targets = Vec::new();
    for (question, times) in questions.iter().zip(times) {
        let ours = median(times.dbwarden_ms.iter().copied());
        let theirs = median(times.duckdb_ms.iter().copied());
        let against = ratio(ours, theirs);
        rows.push(vec![
            question.name.to_owned(),
            format!("{ours:.0}"),
            format!("{theirs:.0}"),
            format!("{against:.2}"),
        ]);
        targets.push(Target {
            what: format!(
                "{}: under {SEARCH_MS} ms, at most {AGAINST_DUCKDB} × DuckDB",
                question.name
            ),
            measured: format!("{ours:.0} ms, {against:.2}"),
            met: ours < SEARCH_MS && against <= AGAINST_DUCKDB,
        });
    }
    let title = format!(
        "Searching {millions} million rows; ms, medians; dbwarden's whole command, DuckDB's query in a \
         running process"
    );
    let head = ["search", "dbwarden", "DuckDB", "× DuckDB"];
    Report { text: table(plan.style(), &title, &head, rows), targets }
}
