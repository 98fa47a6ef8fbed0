//! What keeping statements costs, and how soon they are found: beside pgaudit's log and DuckDB.

mod appending;
mod audit_log;
mod duckdb;
mod paced;
mod searches;

use anyhow::Result;
use dbwarden_tests::place;

use super::{Plan, Report, tell};
use crate::{build::cargo, steps::Steps};

/// How many steps building takes.
const STEPS: usize = 1;

/// Kept and searched on two cores; `--quick` makes do with a tenth.
const ROWS: u64 = 10_000_000;
const QUICK_ROWS: u64 = 1_000_000;

pub fn run(plan: &Plan) -> Result<Vec<Report>> {
    // The agent is built already, with the BPF object; both at once, so that the dependencies have the
    // same features as there.
    Steps::new(STEPS)?.step("measuring programs (release)", |step| {
        step.run(
            cargo()
                .args([
                    "build",
                    "--release",
                    "--package",
                    "dbwarden",
                    "--package",
                    "dbwarden-tests",
                ])
                .args(["--features", "dbwarden-tests/rows", "--bin", "dbwarden"])
                .args(["--bin", "ledger_rows", "--example", "ledger_append"]),
        )?;
        Ok("built".to_owned())
    })?;
    let release = place::target_dir()?.join("release");
    let agent = release.join("dbwarden");
    let rows = if plan.quick { QUICK_ROWS } else { ROWS };
    Ok(vec![
        appending::run(plan, &release.join("examples/ledger_append"))?,
        searches::run(plan, &agent, &release.join("ledger_rows"), rows)?,
        paced::run(plan, &agent)?,
    ])
}
