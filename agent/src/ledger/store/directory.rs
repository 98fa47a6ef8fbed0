//! The ledger's directory: who may look into it, who writes to it, how much room it has.

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock, statvfs};
use thiserror::Error;

use crate::ledger::{layout::Layout, log::ScanError};

/// Why a ledger can't be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    #[error("{} can't be made or read", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{} is no directory: move it away, or name another directory", path.display())]
    NotDirectory { path: PathBuf },
    #[error(
        "{0} belongs to user {owner}, but what it holds is for user {expected} only: \
         run `chown {expected} {0}`", path.display()
    )]
    Owner { path: PathBuf, owner: u32, expected: u32 },
    #[error("{0} is open to others (mode {mode:04o}): run `chmod 700 {0}`", path.display())]
    Mode { path: PathBuf, mode: u32 },
    #[error("{} is in use by another dbwarden: end that one first", path.display())]
    Busy { path: PathBuf },
    #[error("{} can't be read", path.display())]
    Log { path: PathBuf, source: ScanError },
    #[error("a thread can't be started")]
    Thread(#[source] io::Error),
}

/// Held as long as the ledger is open.
#[derive(Debug)]
pub struct Lock {
    _directory: File,
}

/// Makes what isn't there, refuses what is open to others, and keeps other writers out.
pub fn prepare(layout: &Layout) -> Result<Lock, OpenError> {
    for path in [layout.root().to_owned(), layout.open_dir(), layout.segment_dir()] {
        make(&path)?;
    }
    let path = layout.root();
    let directory = File::open(path).map_err(failed(path))?;
    match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Lock { _directory: directory }),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(OpenError::Busy { path: path.to_owned() }),
        Err(error) => Err(failed(path)(error.into())),
    }
}

fn make(path: &Path) -> Result<(), OpenError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.or_else(|error| if path.exists() { Ok(()) } else { Err(error) }).map_err(failed(path))?;
    check(path)
}

/// Whether what is there can hold a ledger; nothing can.
pub fn check(path: &Path) -> Result<(), OpenError> {
    if let Err(error) = fs::symlink_metadata(path)
        && error.kind() == io::ErrorKind::NotFound
    {
        return Ok(());
    }
    let metadata = fs::metadata(path).map_err(failed(path))?;
    let path = path.to_owned();
    let (owner, expected) = (metadata.uid(), rustix::process::geteuid().as_raw());
    let mode = metadata.mode() & 0o7777;
    if !metadata.is_dir() {
        Err(OpenError::NotDirectory { path })
    } else if owner != expected {
        Err(OpenError::Owner { path, owner, expected })
    } else if mode & 0o077 != 0 {
        Err(OpenError::Mode { path, mode })
    } else {
        Ok(())
    }
}

pub fn failed(path: &Path) -> impl FnOnce(io::Error) -> OpenError {
    let path = path.to_owned();
    |source| OpenError::Io { path, source }
}

/// What an unprivileged process could still write there: what is reserved for root is for emergencies.
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    let filesystem = statvfs(path)?;
    Ok(filesystem.f_bavail.saturating_mul(filesystem.f_frsize))
}
