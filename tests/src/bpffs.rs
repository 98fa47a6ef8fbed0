//! A BPF file system of a test's own.

use std::{path::PathBuf, process::Command};

use anyhow::Result;
use tempfile::TempDir;

use crate::said;

/// Unmounted when dropped.
pub struct Bpffs(TempDir);

impl Bpffs {
    pub fn mount() -> Result<Bpffs> {
        let folder = tempfile::Builder::new().prefix("dbwarden-bpffs-").tempdir()?;
        said(Command::new("mount").args(["-t", "bpf", "bpf"]).arg(folder.path()))?;
        Ok(Bpffs(folder))
    }

    /// On it, for pins; not there yet.
    pub fn folder(&self) -> PathBuf {
        self.0.path().join("dbwarden")
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        if let Err(error) = said(Command::new("umount").arg(self.0.path())) {
            eprintln!("{error:#}");
        }
    }
}
