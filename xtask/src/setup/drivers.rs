//! Drivers for Java and Node.js, where the host has those: nothing else of them is installed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use dbwarden_tests::place;

use super::program;
use crate::steps::Step;

/// node-postgres.
const PG: &str = "pg@8.23.1";

pub fn install(step: &mut Step) -> Result<String> {
    let java = match (program("javac").is_some(), place::jdbc()?) {
        (false, _) => "no JDK here (default-jdk-headless): pgjdbc isn't tried",
        (true, jar) if jar.is_file() => "pgjdbc is there",
        (true, jar) => or_not(jdbc(step, &jar), "pgjdbc could not be had and isn't tried"),
    };
    let node = match (program("npm").is_some(), place::node_modules()?) {
        (false, _) => "no npm here: node-postgres isn't tried",
        (true, modules) if modules.join("pg/package.json").is_file() => "node-postgres is there",
        (true, modules) => {
            let there = node_postgres(step, &modules);
            or_not(there, "node-postgres could not be had and isn't tried")
        }
    };
    Ok(format!("{java}; {node}"))
}

/// A registry may be out of reach; the tests that want the driver say that they were skipped.
fn or_not(had: Result<&'static str>, not: &'static str) -> &'static str {
    had.unwrap_or_else(|error| {
        eprintln!("{error:#}");
        not
    })
}

/// Out of Debian's package: one file is enough.
fn jdbc(step: &mut Step, jar: &Path) -> Result<&'static str> {
    let folder = tempfile::tempdir()?;
    let package = "libpostgresql-jdbc-java";
    step.run(Command::new("apt-get").args(["download", package]).current_dir(&folder))
        .context("downloading Debian's package of pgjdbc")?;
    let files = fs::read_dir(folder.path())?.flatten().map(|entry| entry.path());
    let mut packages = files.filter(|path| path.extension().is_some_and(|end| end == "deb"));
    let file: PathBuf = packages.next().context("apt-get download left no package")?;
    step.run(Command::new("dpkg-deb").arg("-x").args([&file, &folder.path().to_owned()]))?;
    let unpacked = folder.path().join("usr/share/java/postgresql.jar");
    fs::copy(&unpacked, jar).with_context(|| format!("copying pgjdbc to {}", jar.display()))?;
    Ok("pgjdbc was unpacked")
}

fn node_postgres(step: &mut Step, modules: &Path) -> Result<&'static str> {
    let folder = modules.parent().context("the modules have no folder")?;
    fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    let quiet = ["install", "--no-audit", "--no-fund", "--loglevel=error", "--prefix"];
    step.run(Command::new("npm").args(quiet).arg(folder).arg(PG))
        .context("installing node-postgres from npm")?;
    Ok("node-postgres was installed")
}
