//! `dbwarden analyst`: the process that parses, which the service starts for itself.

use anyhow::{Context, Result};

use super::Answer;
use crate::analyst;

pub fn analyst() -> Result<Answer> {
    analyst::serve().context("the process that parses")?;
    Ok(Answer::Done)
}
