//! bpf-linker, which makes a BPF object of LLVM bitcode with the LLVM that rustc brings.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context, Result};
use dbwarden_tests::place;

use super::{Rustc, output};
use crate::{build::cargo, steps::Step};

/// The last release that borrows rustc's LLVM; later ones want an LLVM to link.
pub const VERSION: &str = "0.10.3";

/// Where it is, or will be. It depends on LLVM's major version only.
pub fn path(rustc: &Rustc) -> Result<PathBuf> {
    Ok(root(rustc)?.join("bin/bpf-linker"))
}

pub fn install(step: &mut Step, rustc: &Rustc) -> Result<String> {
    let works = || output(Command::new(path(rustc)?).arg("--version"));
    if works().is_ok_and(|version| version.trim().ends_with(VERSION)) {
        return Ok("already there".to_owned());
    }
    let root = root(rustc)?;
    fs::create_dir_all(&root).with_context(|| format!("creating {}", root.display()))?;
    let build = tempfile::tempdir_in(&root).context("a folder to build in")?;
    step.run(
        cargo()
            .args(["install", "bpf-linker", "--locked", "--version", VERSION])
            .args(["--no-default-features", "--features"])
            .arg(format!("rust-llvm-{}", rustc.llvm))
            .arg("--root")
            .arg(&root)
            // Nobody debugs it.
            .args(["--config", "profile.release.debug=false"])
            .env("CARGO_TARGET_DIR", build.path())
            .env_remove("RUSTFLAGS"),
    )
    .context(
        "building bpf-linker from crates.io (its feature `rust-llvm-N` must exist for rustc's LLVM)",
    )?;
    works().context("the new bpf-linker doesn't run")?;
    Ok("built".to_owned())
}

fn root(rustc: &Rustc) -> Result<PathBuf> {
    Ok(place::tool_dir()?.join(format!("bpf-linker-{VERSION}-llvm{}", rustc.llvm)))
}
