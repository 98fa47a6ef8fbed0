//! Rows appended and sealed: CPU time and bytes a row, beside the bytes that pgaudit logs.

use std::{path::Path, process::Command};

use anyhow::{Context, Result};
use dbwarden_tests::said;
use serde_json::Value;

use super::{
    super::{
        Target,
        figures::{median, ratio},
        table::table,
    },
    Plan, Report,
    audit_log::{self, Logged},
    tell,
};

/// CPU microseconds a row, appended and sealed.
const ROW_US: f64 = 4.0;
/// Bytes a sealed row of pgbench's mix.
const ROW_BYTES: f64 = 25.0;
/// Seconds in which a GB of open log is read again after a crash.
const RECOVERY_S: f64 = 2.0;

/// What `tests/examples/ledger_append.rs` calls them.
const PGBENCH: &str = "pgbench";
const TEXTS: &str = "5000 texts";

pub fn run(plan: &Plan, program: &Path) -> Result<Report> {
    let millions = if plan.quick { 0.5 } else { 2.0 };
    let rounds = plan.rounds();
    tell(&format!("{rounds} rounds of {millions} million rows appended and sealed, in two mixes"));
    let output = said(Command::new(program).args([millions.to_string(), rounds.to_string()]))?;
    let measured = output
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("reading {line}")))
        .collect::<Result<Vec<Value>>>()?;
    tell("the same statements in pgaudit's log");
    let logged = [(PGBENCH, audit_log::pgbench()?), (TEXTS, audit_log::distinct_texts()?)];
    Ok(report(plan, &measured, &logged))
}

fn report(plan: &Plan, measured: &[Value], logged: &[(&str, Logged)]) -> Report {
    let figure = |mix: &str, key: &str| {
        median(measured.iter().filter(|one| one["mix"] == mix).filter_map(|one| one[key].as_f64()))
    };
    let rows = logged.iter().map(|(mix, logged)| {
        let bytes = figure(mix, "bytes_per_row");
        vec![
            (*mix).to_owned(),
            format!("{:.2}", figure(mix, "append_us")),
            format!("{:.2}", figure(mix, "append_and_seal_us")),
            format!("{:.0}", figure(mix, "rows_per_second")),
            format!("{bytes:.1}"),
            format!("{:.1}", logged.bytes),
            format!("{:.1}", logged.gzip_bytes),
            format!("{:.2}", ratio(bytes, logged.gzip_bytes)),
        ]
    });
    let head = [
        "mix",
        "append µs",
        "and seal µs",
        "rows/s",
        "bytes a row",
        "pgaudit's log",
        "gzipped",
        "× gzipped",
    ];
    let title = "Appending: CPU µs and bytes a row, signed and sealed; medians";
    let mut text = table(plan.style(), title, &head, rows.collect());
    let recovery = median(measured.iter().filter_map(|one| one["recovery_s_per_gb"].as_f64()));
    text += &format!("\nAn open log is read again after a crash in {recovery:.2} s a GB.\n");
    let worst =
        f64::max(figure(PGBENCH, "append_and_seal_us"), figure(TEXTS, "append_and_seal_us"));
    let bytes = figure(PGBENCH, "bytes_per_row");
    let targets = vec![
        Target {
            what: format!("a row appended and sealed: at most {ROW_US} µs of CPU"),
            measured: format!("{worst:.2} µs"),
            met: worst <= ROW_US,
        },
        Target {
            what: format!("a sealed row of pgbench: at most {ROW_BYTES} bytes"),
            measured: format!("{bytes:.1}"),
            met: bytes <= ROW_BYTES,
        },
        Target {
            what: format!("recovery of an open log: under {RECOVERY_S} s a GB"),
            measured: format!("{recovery:.2} s"),
            met: recovery < RECOVERY_S,
        },
    ];
    Report { text, targets }
}
