//! Opens the ledger as the configuration wants it, and tells a mistake in that from a failure.

use anyhow::{Context, Result};

use crate::{
    config,
    event::WallTime,
    ledger::{
        self, Ledger, Literals, OpenError, Options,
        copies::{Copies, CopyError, CopyOptions},
        keys::{Keys, KeysError, LookupKey},
        root_log::RootLog,
    },
};

/// A ledger to append to.
pub struct Opened {
    pub ledger: Ledger,
    /// Hides the values of keys in its rows.
    pub lookup: LookupKey,
}

/// What the configuration asks for can't be: its author has to mend something, and waiting won't.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct Mistake(anyhow::Error);

/// Goes on with the ledger of last time, or begins one.
///
/// # Errors
/// What stands in the way of keeping anything, with what to do.
pub fn open(settings: &config::Ledger, host: &str, now: WallTime) -> Result<Opened> {
    let directory = &settings.directory;
    let words = || format!("can't keep a ledger in {}", directory.display());
    ledger::check_directory(directory).with_context(words)?;
    let keys = Keys::open_or_create(&settings.keys, host)
        .with_context(|| format!("can't use the keys in {}", settings.keys.display()))?;
    let lookup = keys.lookup().clone();
    let proof = RootLog::open(directory, keys, now).with_context(words)?;
    let ledger = Ledger::open(options(settings), host, Box::new(proof), now).with_context(words)?;
    Ok(Opened { ledger, lookup })
}

/// Begins to copy what is sealed, where that is wanted.
pub fn copy(settings: &config::Ledger, host: &str) -> Result<Option<Copies>> {
    let Some(copy) = &settings.copy else { return Ok(None) };
    let copies = Copies::start(CopyOptions {
        url: copy.url.clone(),
        options: CopyOptions::of_environment(),
        host: host.to_owned(),
        ledger: settings.directory.clone(),
        interval: copy.interval.0,
    });
    copies.map(Some).with_context(|| format!("can't copy the ledger to {}", copy.url))
}

/// Who may look into it, and what it is, is up to the one who configured it. A disk that fails, a file
/// that is damaged, another process that uses it, is not.
pub fn mistake(error: anyhow::Error) -> Result<anyhow::Error, Mistake> {
    let of_directory = matches!(
        error.downcast_ref(),
        Some(OpenError::NotDirectory { .. } | OpenError::Owner { .. } | OpenError::Mode { .. })
    );
    let of_keys = matches!(error.downcast_ref(), Some(KeysError::Exposed { .. }));
    // Its variables in the environment are a part of the configuration.
    let of_copies =
        matches!(error.downcast_ref(), Some(CopyError::Url { .. } | CopyError::Store(_)));
    if of_directory || of_keys || of_copies { Err(Mistake(error)) } else { Ok(error) }
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
