//! `dbwarden query-worker`: answers one request from standard input, for the service and for `search`.

use std::{io, path::PathBuf};

use anyhow::Result;
use clap::Args;

use super::Answer;
use crate::search::{Options, become_modest, work};

#[derive(Debug, Args)]
pub struct QueryWorker {
    /// The folder of the ledger to read
    #[arg(long, value_name = "DIR")]
    ledger: PathBuf,
}

pub fn query_worker(arguments: &QueryWorker) -> Result<Answer> {
    become_modest();
    work(&arguments.ledger, &Options::default(), io::stdin().lock(), io::stdout())?;
    Ok(Answer::Done)
}
