//! promtool, Prometheus's own judge of a page of metrics: out of its Debian package, of which nothing is installed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use dbwarden_tests::place;

use super::{output, program};
use crate::steps::Step;

pub fn install(step: &mut Step) -> Result<String> {
    let here = place::promtool()?;
    if let Some(installed) = program("promtool") {
        return Ok(format!("already there: {}", installed.display()));
    }
    if works(&here) {
        return Ok("already there".to_owned());
    }
    // The package would start a service that listens to everybody: one program of it is enough.
    let folder = tempfile::tempdir()?;
    step.run(Command::new("apt-get").args(["download", "prometheus"]).current_dir(&folder))
        .context("downloading Debian's package of Prometheus")?;
    let package = package(folder.path())?;
    step.run(Command::new("dpkg-deb").arg("-x").args([&package, &folder.path().to_owned()]))?;
    let parent = here.parent().context("promtool has no folder")?;
    fs::create_dir_all(parent).with_context(|| format!("creating {}", parent.display()))?;
    fs::copy(folder.path().join("usr/bin/promtool"), &here)
        .with_context(|| format!("copying promtool to {}", here.display()))?;
    output(Command::new(&here).arg("--version")).context("the new promtool doesn't run")?;
    Ok("unpacked".to_owned())
}

fn works(promtool: &Path) -> bool {
    promtool.is_file() && output(Command::new(promtool).arg("--version")).is_ok()
}

fn package(folder: &Path) -> Result<PathBuf> {
    let files = fs::read_dir(folder)?.flatten().map(|entry| entry.path());
    let mut packages = files.filter(|path| path.extension().is_some_and(|end| end == "deb"));
    packages.next().context("apt-get download left no package")
}
