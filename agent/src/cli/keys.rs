//! `dbwarden keys`: the ledger's signing keys, shown and rotated.

use std::{
    io::{self, Write},
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use serde_json::json;

use super::{
    Answer, Common, Format,
    terminal::{Paint, Style, clean},
};
use crate::{
    config,
    event::WallTime,
    ledger::{
        keys::{self, Keys},
        root_log::{RootLog, RootLogError},
    },
};

/// Where a running service takes a prepared key with its next commit.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub struct KeysArguments {
    #[command(subcommand)]
    command: KeysCommand,
    /// Where the ledger is
    #[arg(long, global = true, value_name = "DIR", default_value = config::LEDGER_DIRECTORY)]
    ledger: PathBuf,
    /// Where the host keeps its keys
    #[arg(long, global = true, value_name = "DIR", default_value = config::KEY_DIRECTORY)]
    keys: PathBuf,
}

#[derive(Debug, Subcommand)]
enum KeysCommand {
    /// Show the public key that signs the ledger's checkpoints
    ///
    /// Keep a copy of it on another machine: `dbwarden verify --key` then holds the ledger against a
    /// key that nobody on this host can exchange.
    Show,
    /// Let another key sign from now on
    ///
    /// The ledger names the new key in an entry that the old one signs, so that checkpoints of before
    /// still verify, and a copy of the old public key still vouches for the new one. The old secret is
    /// deleted. A running service takes the new key with its next commit.
    Rotate,
}

pub fn keys(common: &Common, arguments: &KeysArguments) -> Result<Answer> {
    match arguments.command {
        KeysCommand::Show => show(common, arguments),
        KeysCommand::Rotate => rotate(common, arguments),
    }
}

fn show(common: &Common, arguments: &KeysArguments) -> Result<Answer> {
    let Some(key) = keys::public_key(&arguments.keys)? else {
        bail!(
            "there is no key in {}: the service makes one when it first starts",
            arguments.keys.display()
        );
    };
    let is_rotating = !keys::is_rotated(&arguments.keys);
    let mut out = io::stdout().lock();
    match common.format() {
        Format::Json | Format::Csv => {
            let shown = json!({ "key": key.to_string(), "name": key.name(),
                "id": format!("{:08x}", key.id()), "rotating": is_rotating });
            writeln!(out, "{shown}")?;
        }
        Format::Table => {
            writeln!(out, "{}", clean(&key.to_string()))?;
            if is_rotating {
                let paint = Paint::of_stdout();
                let words = "a new key is waiting for the ledger's next commit";
                writeln!(out, "{}", paint.paint(Style::Warning, words))?;
            }
        }
    }
    Ok(Answer::Done)
}

fn rotate(common: &Common, arguments: &KeysArguments) -> Result<Answer> {
    if !arguments.ledger.is_dir() {
        bail!("there is no ledger in {}", arguments.ledger.display());
    }
    let next = keys::prepare_rotation(&arguments.keys)?;
    let deadline = Instant::now() + PATIENCE;
    while !keys::is_rotated(&arguments.keys) {
        // Without a service, the log is ours to continue.
        let keys = Keys::open_or_create(&arguments.keys, "")?;
        match RootLog::open(&arguments.ledger, keys, now()) {
            Ok(mut log) => drop(log.rotate_if_prepared(now())?),
            Err(RootLogError::Busy { .. }) if Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(100));
            }
            Err(RootLogError::Busy { .. }) => break,
            Err(error) => return Err(error.into()),
        }
    }
    let is_done = keys::is_rotated(&arguments.keys);
    let mut out = io::stdout().lock();
    match common.format() {
        Format::Json | Format::Csv => {
            writeln!(out, "{}", json!({ "key": next.to_string(), "rotated": is_done }))?;
        }
        Format::Table if is_done => writeln!(out, "{}", clean(&next.to_string()))?,
        Format::Table => {
            writeln!(out, "{}", clean(&next.to_string()))?;
            writeln!(
                out,
                "the service takes it with its next commit: nothing is written just now"
            )?;
        }
    }
    Ok(Answer::Done)
}

fn now() -> WallTime {
    let micros = time::UtcDateTime::now().unix_timestamp_nanos() / 1_000;
    WallTime(i64::try_from(micros).unwrap_or(i64::MAX))
}
