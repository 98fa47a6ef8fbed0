//! Opens the ledger as the configuration wants it, and says how it is.

use anyhow::{Context, Result};

use crate::{
    config, control,
    event::WallTime,
    ledger::{
        Ledger, LedgerStatus, Literals, Options,
        keys::{Keys, LookupKey},
        root_log::RootLog,
    },
};

/// A ledger to append to.
pub struct Keeping {
    pub ledger: Ledger,
    /// Hides the values of keys in its rows.
    pub lookup: LookupKey,
    /// Literals are kept.
    pub literals: bool,
}

/// Goes on with the ledger of last time, or begins one.
///
/// # Errors
/// What stands in the way of keeping anything, with what to do.
pub fn open(settings: &config::Ledger, host: &str, now: WallTime) -> Result<Keeping> {
    let keys = Keys::open_or_create(&settings.keys, host)
        .with_context(|| format!("can't use the keys in {}", settings.keys.display()))?;
    let lookup = keys.lookup().clone();
    let directory = &settings.directory;
    let words = || format!("can't keep a ledger in {}", directory.display());
    let proof = RootLog::open(directory, keys, now).with_context(words)?;
    let ledger = Ledger::open(options(settings), host, Box::new(proof), now).with_context(words)?;
    Ok(Keeping { ledger, lookup, literals: settings.literals == config::Literals::Keep })
}

fn options(settings: &config::Ledger) -> Options {
    Options {
        directory: settings.directory.clone(),
        commit_interval: settings.commit_interval.0,
        seal_bytes: settings.seal_bytes.0,
        seal_age: settings.seal_after.0,
        max_age: settings.keep_for.map(|span| span.0),
        max_bytes: settings.keep_bytes.map(|size| size.0),
        min_free_bytes: settings.keep_free.0,
        literals: match settings.literals {
            config::Literals::Redact => Literals::Redacted,
            config::Literals::Keep => Literals::Kept,
        },
    }
}

/// In the words of `dbwarden status`.
pub fn status(settings: &config::Ledger, status: &LedgerStatus) -> control::LedgerStatus {
    control::LedgerStatus {
        directory: settings.directory.display().to_string(),
        open_segment: status.open_segment,
        open_rows: status.open_rows,
        open_bytes: status.open_bytes,
        unsealed_segments: status.unsealed_segments,
        sealed_segments: status.sealed_segments,
        sealed_bytes: status.sealed_bytes,
        last_commit: status.last_commit.map(|time| time.to_string()),
        missed_rows: status.missed_rows,
        troubles: [&status.paused, &status.failing, &status.unproven]
            .into_iter()
            .flatten()
            .cloned()
            .collect(),
    }
}
