//! A disk that fails when a test wants it to.

use std::{fs, process::Command};

use anyhow::Result;
use tempfile::TempDir;

use crate::{place, said};

/// What an agent is started under so that its disk can fail.
pub struct FailingDisk {
    folder: TempDir,
}

impl FailingDisk {
    pub fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let source = place::workspace().join("tests/tests/troubled/failing_disk.c");
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-o"]);
        said(compiler.arg(folder.path().join("failing_disk.so")).arg(source).arg("-ldl"))?;
        Ok(Self { folder })
    }

    /// Variables of its environment.
    pub fn environment(&self) -> [String; 2] {
        let folder = self.folder.path().display();
        [format!("LD_PRELOAD={folder}/failing_disk.so"), format!("FAILING_DISK={folder}")]
    }

    /// `sync` or `write`.
    pub fn fail(&self, how: &str) -> Result<()> {
        Ok(fs::write(self.folder.path().join(how), "")?)
    }

    pub fn mend(&self, how: &str) -> Result<()> {
        Ok(fs::remove_file(self.folder.path().join(how))?)
    }
}
