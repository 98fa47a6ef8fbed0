//! Writes a ledger of made-up rows: `ledger_rows DIR N_ROWS DAYS`, the last of them now.

use std::{
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail};
use dbwarden_tests::rows::Rows;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [ledger, n_rows, days] = arguments.as_slice() else {
        bail!("usage: ledger_rows DIR N_ROWS DAYS");
    };
    let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros())?;
    let days: i64 = days.parse().context("DAYS")?;
    let rows = Rows {
        n_rows: n_rows.parse().context("N_ROWS")?,
        first_us: now - days * 86_400_000_000,
        last_us: now,
        segment_rows: 500_000,
        seed: 1,
    };
    rows.write(Path::new(ledger))
}
