//! How many bytes pgaudit logs for the statements of a mix.

use std::{fmt::Write as _, fs, path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use dbwarden_tests::{Postgres, Via, said};

use super::super::servers;

/// Of each statement, as it is logged and as rotated logs are kept.
pub struct Logged {
    pub bytes: f64,
    pub gzip_bytes: f64,
}

/// Statements of one transaction of pgbench's TPC-B.
const TPC_B: usize = 7;
const TRANSACTIONS: usize = 3_000;
/// As in `tests/examples/ledger_append.rs`.
const DISTINCT: usize = 5_000;
const TABLES: usize = 97;
const OTHERS: usize = 31;

pub fn pgbench() -> Result<Logged> {
    let server = server()?;
    server.pgbench(Via::Unix, &["-i", "-q", "-s", "1"])?;
    let per_client = (TRANSACTIONS / 4).to_string();
    logged(&server, TPC_B * TRANSACTIONS, || {
        let mode = ["-n", "-M", "prepared", "-c", "4", "-t", &per_client];
        server.pgbench(Via::Unix, &mode).map(drop)
    })
}

/// 5 000 joins, no two of them alike but in their literals.
pub fn distinct_texts() -> Result<Logged> {
    let server = server()?;
    let mut tables = String::new();
    for n in 0..TABLES {
        writeln!(tables, "CREATE TABLE table_{n} (id int, name text, created timestamptz);")?;
    }
    for n in 0..OTHERS {
        let values = (0..DISTINCT).skip(n).step_by(OTHERS).map(|n| format!(", value_{n} int"));
        let values: String = values.collect();
        writeln!(tables, "CREATE TABLE other_{n} (id int, kind text{values});")?;
    }
    let folder = tempfile::tempdir()?;
    run_file(&server, folder.path(), &tables)?;
    let mut joins = String::new();
    for n in 0..DISTINCT {
        writeln!(
            joins,
            "SELECT a.id, a.name, b.value_{n} FROM table_{} AS a JOIN other_{} AS b ON a.id = b.id \
             WHERE a.created > '2026-11-25' AND b.kind = 'retail' ORDER BY a.name LIMIT 20;",
            n % TABLES,
            n % OTHERS
        )?;
    }
    logged(&server, DISTINCT, || run_file(&server, folder.path(), &joins))
}

fn server() -> Result<Postgres> {
    servers::settings().preload("pgaudit").setting("pgaudit.log", "all").start()
}

fn run_file(server: &Postgres, folder: &Path, script: &str) -> Result<()> {
    let path = folder.join("script.sql");
    fs::write(&path, script)?;
    said(server.psql_command(Via::Unix).arg("-f").arg(&path)).map(drop)
}

fn logged(server: &Postgres, n: usize, load: impl FnOnce() -> Result<()>) -> Result<Logged> {
    servers::empty_log(server)?;
    load()?;
    let path = server.output();
    let log = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let n_logged = log.matches("AUDIT: SESSION").count();
    ensure!(n_logged >= n, "pgaudit logged {n_logged} of {n} statements");
    let zipped = Command::new("gzip").arg("-c").arg(&path).output().context("starting gzip")?;
    ensure!(zipped.status.success(), "gzip: {}", String::from_utf8_lossy(&zipped.stderr));
    let each = |bytes: usize| bytes as f64 / n_logged as f64;
    Ok(Logged { bytes: each(log.len()), gzip_bytes: each(zipped.stdout.len()) })
}
