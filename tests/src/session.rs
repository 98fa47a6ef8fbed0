//! A `psql` that stays: a client that connects once and is asked again and again.

use std::{
    io::{BufRead, BufReader, Write},
    process::{ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use crate::Running;

/// Ended when dropped.
pub struct Session {
    process: Running,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    n_asked: u64,
}

impl Session {
    /// Starts `psql` (or what ends in one) and waits until it has connected and `SELECT 'connected'`
    /// has its answer.
    pub fn start(command: &mut Command) -> Result<Session> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Running::start("psql", command, Signal::SIGTERM)?;
        let (stdin, stdout) = process.pipes().context("psql has no input or output")?;
        let stdout = BufReader::new(stdout);
        let mut session = Session { process, stdin, stdout, n_asked: 0 };
        session.ask("SELECT 'connected'")?;
        Ok(session)
    }

    /// Of the process that was started.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Runs one statement and returns what it prints.
    pub fn ask(&mut self, sql: &str) -> Result<String> {
        self.n_asked += 1;
        let end = format!("-- end {}", self.n_asked);
        writeln!(self.stdin, "{sql};\n\\echo '{end}'").context("writing to psql")?;
        let mut answer = String::new();
        loop {
            let mut line = String::new();
            if self.stdout.read_line(&mut line)? == 0 {
                bail!("psql has ended instead of answering {sql}");
            }
            if line.trim_end() == end {
                return Ok(answer.trim_end().to_owned());
            }
            answer.push_str(&line);
        }
    }
}
