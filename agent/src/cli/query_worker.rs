//! `dbwarden query-worker`: answers one request from standard input, for the service and for `search`.

use std::{io, path::PathBuf};

use anyhow::Result;
use clap::Args;

use super::Answer;
use crate::{
    ledger::keys::lookup_key,
    search::{HashKey, Options, Place, become_modest, work},
};

#[derive(Debug, Args)]
pub struct QueryWorker {
    /// The folder of the ledger to read, or the URL of copies of ledgers
    #[arg(long, value_name = "PLACE")]
    ledger: Place,
    /// The folder of its keys, for whoever looks for the value of one; by default `keys` beside it
    #[arg(long, value_name = "DIR")]
    keys: Option<PathBuf>,
}

pub fn query_worker(arguments: &QueryWorker) -> Result<Answer> {
    become_modest();
    let keys = match (&arguments.keys, &arguments.ledger) {
        (Some(keys), _) => Some(keys.clone()),
        (None, Place::Folder(folder)) => Some(folder.with_file_name("keys")),
        (None, Place::Bucket(_)) => None,
    };
    let lookup = keys.and_then(|keys| lookup_key(&keys).ok().flatten());
    let hash =
        lookup.map(|lookup| move |column: &str, value: &str| lookup.hash_text(column, value));
    let hash_key = hash.as_ref().map(|hash| hash as &HashKey);
    let options = Options { hash_key, ..Options::default() };
    work(&arguments.ledger, &options, io::stdin().lock(), io::stdout())?;
    Ok(Answer::Done)
}
