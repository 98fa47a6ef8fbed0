//! Asking the ledger: the service while it runs, else a worker of our own over its folder.

use std::{path::Path, process::Stdio};

use anyhow::{Context, Result, bail};
use clap::Args;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdout, Command},
};

use super::Common;
use crate::{
    config,
    control::{Client, Lines},
    search::{Line, Place, Request},
};

/// Where the ledger is.
#[derive(Debug, Args)]
pub struct Ledger {
    /// Read the ledger in this folder, or the copies of many hosts' ledgers behind this URL (as in
    /// [ledger.copy]: s3://, gs://, az://, file:///); by default the service is asked, and its folder is
    /// read where none runs
    #[arg(long, value_name = "PLACE")]
    ledger: Option<Place>,
}

/// An answer, line by line.
pub(super) struct Answer(Source);

enum Source {
    Service(Lines),
    Worker { child: Box<Child>, lines: BufReader<ChildStdout>, line: Vec<u8> },
}

/// Asks whoever can answer.
pub(super) async fn ask(common: &Common, ledger: &Ledger, request: &Request) -> Result<Answer> {
    let request = serde_json::to_vec(request)?;
    if let Some(place) = &ledger.ledger {
        return worker(place, &request).await;
    }
    match Client::new(&common.control).query(request.clone()).await {
        Ok(lines) => Ok(Answer(Source::Service(lines))),
        Err(error) if error.nobody_is_there() => {
            let folder = Path::new(config::LEDGER_DIRECTORY);
            if !folder.is_dir() {
                return Err(error.into());
            }
            worker(&Place::Folder(folder.to_owned()), &request).await
        }
        Err(error) => Err(error.into()),
    }
}

/// The same process that the service would start.
pub(super) async fn worker(place: &Place, request: &[u8]) -> Result<Answer> {
    let mut child = Command::new(std::env::current_exe().context("can't find this program")?)
        .arg("query-worker")
        .arg("--ledger")
        .arg(place.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("can't start a query worker")?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(request).await.context("can't ask the query worker")?;
    }
    let output = child.stdout.take().context("a query worker without an output")?;
    let lines = BufReader::with_capacity(64 << 10, output);
    Ok(Answer(Source::Worker { child: Box::new(child), lines, line: Vec::new() }))
}

impl Answer {
    /// The next line; what went wrong, wherever it did, is an error.
    pub(super) async fn next(&mut self) -> Result<Line<'_>> {
        let line = match &mut self.0 {
            Source::Service(lines) => lines.next().await?,
            Source::Worker { child, lines, line } => {
                line.clear();
                if lines.read_until(b'\n', line).await? == 0 {
                    let status = child.wait().await?;
                    bail!("the query worker has ended without an answer ({status})");
                }
                Some(line.strip_suffix(b"\n").unwrap_or(line))
            }
        };
        let Some(line) = line else { bail!("the service has broken off its answer") };
        match Line::parse(line).context("an answer that this version can't read")? {
            Line::Error(words) => bail!(words),
            line => Ok(line),
        }
    }
}
