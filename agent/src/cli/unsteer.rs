//! `dbwarden unsteer`: takes off what a service that is gone has left in front of guarded servers.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;

use super::Answer;
use crate::{
    config,
    control::{HOST_LOCK, HostLock},
    gate,
};

#[derive(Debug, Args)]
pub struct Unsteer {
    /// Read this configuration; by default /etc/dbwarden/config.toml where there is one
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub fn unsteer(arguments: &Unsteer) -> Result<Answer> {
    let settings = config::load(arguments.config.as_deref())?;
    // A service that runs would put it back.
    let _only_one = HostLock::acquire(HOST_LOCK.as_ref())?;
    let pins = &settings.guard.pins;
    gate::take_off(pins).with_context(|| format!("can't take off {}", pins.display()))?;
    println!(
        "new connections go straight to their servers; nothing is pinned in {}",
        pins.display()
    );
    Ok(Answer::Done)
}
