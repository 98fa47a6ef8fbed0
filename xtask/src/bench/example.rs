//! An example of the agent's crate that measures a part of it by itself, without a host.

use std::{ffi::OsStr, path::PathBuf, process::Command};

use anyhow::{Context, Result, bail};
use dbwarden_tests::place;

use crate::{build::cargo, steps::Steps};

/// A built measuring program.
pub struct Example(PathBuf);

impl Example {
    /// Builds it, and the agent. Nothing is captured, so the stand-in for the BPF object will do. Both at
    /// once: apart, they would want their dependencies with different features, and build all of them twice.
    pub fn build(name: &str) -> Result<Self> {
        Steps::new(1)?.step("agent and measuring program (release)", |step| {
            step.run(cargo().args(["build", "--release", "--package", "dbwarden"]).args([
                "--bin",
                "dbwarden",
                "--example",
                name,
            ]))?;
            Ok("built".to_owned())
        })?;
        Ok(Self(place::target_dir()?.join("release/examples").join(name)))
    }

    /// What it prints: a measurement a line.
    pub fn run(&self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<String> {
        let output = Command::new(&self.0)
            .args(arguments)
            .output()
            .with_context(|| format!("starting {}", self.0.display()))?;
        if !output.status.success() {
            bail!("{}: {}", self.0.display(), String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8(output.stdout)?)
    }
}
