//! DuckDB over the ledger's files, ready to be asked.

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Stdio},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// One question a line; of each answer its time and the values of its first column.
const SCRIPT: &str = "
import duckdb, json, sys, time
db = duckdb.connect()
db.execute(f\"CREATE VIEW rows AS FROM read_parquet('{sys.argv[1]}/segments/*.parquet')\")
for question in sys.stdin:
    begun = time.perf_counter()
    db.execute(f'CREATE OR REPLACE TEMP TABLE answer AS {question}')
    took = time.perf_counter() - begun
    keys = [row[0] for row in db.execute('SELECT CAST(#1 AS VARCHAR) FROM answer').fetchall()]
    print(json.dumps({'ms': took * 1e3, 'keys': keys}), flush=True)
";

pub struct Duckdb {
    process: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Duckdb {
    pub fn over(ledger: &Path) -> Result<Duckdb> {
        let mut process = dbwarden_tests::python()?
            .args(["-c", SCRIPT])
            .arg(ledger)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting Python")?;
        let questions = process.stdin.take().context("Python has no input")?;
        let answers = BufReader::new(process.stdout.take().context("Python has no output")?);
        Ok(Duckdb { process, questions, answers })
    }

    /// Milliseconds, and the first column of the answer.
    pub fn ask(&mut self, sql: &str) -> Result<(f64, Vec<String>)> {
        let question = sql.split_whitespace().collect::<Vec<_>>().join(" ");
        writeln!(self.questions, "{question}")?;
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            bail!("DuckDB ended with {} at: {question}", self.process.wait()?);
        }
        let answer: Value =
            serde_json::from_str(&line).with_context(|| format!("reading {line}"))?;
        let ms = answer["ms"].as_f64().context("an answer without its time")?;
        let keys = answer["keys"].as_array().context("an answer without keys")?;
        Ok((ms, keys.iter().filter_map(|key| key.as_str().map(str::to_owned)).collect()))
    }
}

impl Drop for Duckdb {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
