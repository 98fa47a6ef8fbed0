//! A BPF file system of the test's own, whatever the host has.

use std::{path::PathBuf, process::Command};

use anyhow::Result;
use tempfile::TempDir;

use crate::said;

/// Gone with all that is pinned there when dropped.
pub struct Bpffs(TempDir);

impl Bpffs {
    /// Needs root.
    pub fn mount() -> Result<Bpffs> {
        let folder = tempfile::Builder::new().prefix("dbwarden-bpffs-").tempdir()?;
        said(Command::new("mount").args(["-t", "bpf", "bpf"]).arg(folder.path()))?;
        Ok(Bpffs(folder))
    }

    /// For a dbwarden's pins.
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
