//! The PostgreSQLs that are measured: the same data and settings, but for how each logs.

use std::fs::{self, File};

use anyhow::{Context, Result};
use dbwarden_tests::{Postgres, PostgresBuilder, Via};

/// 500 000 rows: all of it stays in the server's memory.
const SCALE: &str = "5";

/// All of them run all the time; those without a client cost next to nothing.
pub struct Servers {
    /// Logs no statements: bare, and with dbwarden.
    pub plain: Postgres,
    pub pgaudit: Postgres,
    pub log_statement: Postgres,
}

/// A server that logs to standard error, as Debian's packages do: each process writes by itself.
pub fn settings() -> PostgresBuilder {
    Postgres::builder()
        .setting("shared_buffers", "256MB")
        .setting("autovacuum", "off")
        .setting("logging_collector", "off")
        .setting("log_destination", "stderr")
        .setting("log_line_prefix", "%m [%p] %q%u@%d ")
}

impl Servers {
    pub fn start() -> Result<Servers> {
        let pgaudit = settings().preload("pgaudit").setting("pgaudit.log", "all");
        let servers = Servers {
            plain: settings().start()?,
            pgaudit: pgaudit.start()?,
            log_statement: settings().setting("log_statement", "all").start()?,
        };
        for server in servers.all() {
            server.pgbench(Via::Unix, &["-i", "-q", "-s", SCALE])?;
            // Read once, so that nobody pays for the first reading.
            server.psql(Via::Unix, "SELECT count(*), sum(abalance) FROM pgbench_accounts")?;
        }
        Ok(servers)
    }

    pub fn all(&self) -> [&Postgres; 3] {
        [&self.plain, &self.pgaudit, &self.log_statement]
    }
}

/// How many of the log's lines contain `word`; then empties the log.
pub fn take_log_lines(server: &Postgres, word: &str) -> Result<u64> {
    let path = server.output();
    let log = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    let lines = log.split(|&byte| byte == b'\n');
    let n = lines.filter(|line| line.windows(word.len()).any(|at| at == word.as_bytes())).count();
    empty_log(server)?;
    Ok(n as u64)
}

/// The server keeps it open for appending.
pub fn empty_log(server: &Postgres) -> Result<()> {
    let path = server.output();
    File::options()
        .write(true)
        .truncate(true)
        .open(&path)
        .with_context(|| format!("emptying {}", path.display()))?;
    Ok(())
}
