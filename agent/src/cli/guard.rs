//! `dbwarden guard`: the process between clients and guarded servers, which the service starts for itself.

use anyhow::{Context, Result};

use super::Answer;
use crate::{config::LogLevel, guard};

pub fn guard() -> Result<Answer> {
    super::run::log_to_stderr(LogLevel::Info);
    guard::serve().context("the guard")?;
    Ok(Answer::Done)
}
