//! `dbwarden keeper`: leads clients of a unix socket to their server when the service is gone, which starts it for itself.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;

use super::Answer;
use crate::gate::unix::{FileId, keep};

#[derive(Args, Debug)]
pub struct Keeper {
    /// The guard's socket
    at: PathBuf,
    /// The server's own
    to: PathBuf,
    /// Of the guard's, so that nobody else's is touched
    device: u64,
    inode: u64,
}

pub fn keeper(arguments: &Keeper) -> Result<Answer> {
    let Keeper { at, to, device, inode } = arguments;
    let ours = FileId { device: *device, inode: *inode };
    keep(at, to, ours).with_context(|| format!("can't lead {} to the server", at.display()))?;
    Ok(Answer::Done)
}
