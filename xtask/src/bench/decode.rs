//! What decoding a PostgreSQL statement costs, without a kernel or a database.

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{
    Plan, Report,
    figures::{median, ratio},
    table::table,
    tell,
};
use crate::{build::cargo, interrupt};

/// Runs the measuring program of the test package, built as the agent is.
pub fn run(plan: &Plan) -> Result<Report> {
    let mut command = cargo();
    command
        .args(["run", "--release", "--package", "dbwarden-tests", "--example", "decode", "--"])
        .args([plan.rounds().to_string(), plan.seconds().to_string()])
        .stdout(Stdio::piped());
    let mut child = command.spawn().context("starting cargo")?;
    let stdout = child.stdout.take().context("cargo has no output")?;
    let mut visits = Vec::new();
    for line in BufReader::new(stdout).lines() {
        let visit = Visit::read(&line?)?;
        tell(&format!("{}, {:.0} ns a statement", visit.subject, visit.statement_ns));
        visits.push(visit);
    }
    ensure!(child.wait()?.success(), "the measuring program failed");
    interrupt::check()?;
    Ok(report(plan, &visits))
}

struct Visit {
    subject: String,
    statement_ns: f64,
    statement_bytes: f64,
    megabytes_a_second: f64,
    statement_allocations: f64,
}

impl Visit {
    fn read(line: &str) -> Result<Visit> {
        let visit: Value = serde_json::from_str(line).with_context(|| format!("reading {line}"))?;
        let number = |key: &str| visit[key].as_f64().with_context(|| format!("no {key} in {line}"));
        let (statements, bytes) = (number("statements")?, number("bytes")?);
        let seconds = number("seconds")?;
        Ok(Visit {
            subject: visit["subject"].as_str().context("no subject")?.to_owned(),
            statement_ns: ratio(seconds * 1e9, statements),
            statement_bytes: ratio(bytes, statements),
            megabytes_a_second: ratio(bytes / 1e6, seconds),
            statement_allocations: ratio(number("allocations")?, statements),
        })
    }
}

fn report(plan: &Plan, visits: &[Visit]) -> Report {
    let mut subjects: Vec<&str> = Vec::new();
    for visit in visits {
        if !subjects.contains(&visit.subject.as_str()) {
            subjects.push(&visit.subject);
        }
    }
    let rows = subjects.iter().map(|subject| {
        let of = |figure: fn(&Visit) -> f64| {
            median(visits.iter().filter(|visit| visit.subject == *subject).map(figure))
        };
        vec![
            (*subject).to_owned(),
            format!("{:.0}", of(|visit| visit.statement_ns)),
            format!("{:.0}", of(|visit| visit.megabytes_a_second)),
            format!("{:.1}", of(|visit| visit.statement_allocations)),
            format!("{:.0}", of(|visit| visit.statement_bytes)),
        ]
    });
    let title = "Decoding PostgreSQL; by the thread's own CPU time, medians";
    let head = ["connection", "ns a statement", "MB/s", "allocations", "bytes"];
    Report { text: table(plan.style(), title, &head, rows.collect()), targets: Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::Visit;

    #[test]
    fn a_visit_is_read() {
        let line = r#"{"subject":"s","statements":1000,"bytes":50000,"allocations":3000,
            "seconds":0.0005}"#;
        let visit = Visit::read(line).unwrap();
        assert_eq!(visit.statement_ns, 500.0);
        assert_eq!(visit.megabytes_a_second, 100.0);
        assert_eq!((visit.statement_allocations, visit.statement_bytes), (3.0, 50.0));
        assert!(Visit::read("{}").is_err());
    }
}
