//! Runs the fuzz targets of `tests/fuzz` with libFuzzer, on stable Rust and without cargo-fuzz.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use dbwarden_tests::place;

use crate::{
    build::cargo,
    steps::{Step, Steps},
};

/// What cargo-fuzz passes, but for the address sanitizer: the code has no unsafe to watch. (PostgreSQL's
/// parser is C, and the one part that runs in a process of its own because of that.)
const COVERAGE: &str = "--cfg fuzzing -C passes=sancov-module \
    -C llvm-args=-sanitizer-coverage-level=4 \
    -C llvm-args=-sanitizer-coverage-inline-8bit-counters \
    -C llvm-args=-sanitizer-coverage-pc-table \
    -C llvm-args=-sanitizer-coverage-trace-compares \
    -C codegen-units=1 -C debug-assertions=yes";

#[derive(clap::Args)]
pub struct Args {
    /// How long each target runs
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

pub fn run(args: &Args) -> Result<()> {
    Steps::new(1)?.step("fuzzing", |step| all(step, args.seconds))
}

/// Builds all targets and runs each for `seconds`; the corpus grows in the target folder.
pub fn all(step: &mut Step, seconds: u64) -> Result<String> {
    let package = place::workspace().join("tests/fuzz");
    let targets = targets(&package)?;
    if targets.is_empty() {
        return Ok("there are no targets yet".to_owned());
    }
    let output = place::target_dir()?.join("fuzz");
    let host = host()?;
    step.run(
        cargo()
            .current_dir(&package)
            .args(["build", "--release", "--bins", "--target", &host])
            .env("CARGO_TARGET_DIR", &output)
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .env("RUSTFLAGS", COVERAGE),
    )?;
    // Real conversations and statements to start from.
    let seeds = output.join("seeds");
    step.run(
        cargo()
            .args(["run", "--quiet", "--package", "dbwarden-tests", "--example", "seeds", "--"])
            .arg(&seeds),
    )?;
    for target in &targets {
        let corpus = output.join("corpus").join(target);
        let artifacts = output.join("artifacts").join(target);
        for folder in [&corpus, &artifacts] {
            fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
        }
        let mut fuzzer = Command::new(output.join(&host).join("release").join(target));
        fuzzer
            .arg(format!("-max_total_time={seconds}"))
            .args(["-rss_limit_mb=1024", "-timeout=10", "-print_final_stats=1"])
            .arg(format!("-artifact_prefix={}/", artifacts.display()))
            .arg(&corpus);
        if seeds.join(target).is_dir() {
            fuzzer.arg(seeds.join(target));
        }
        step.run(&mut fuzzer).with_context(|| {
            format!("{target} found something; its input is in {}", artifacts.display())
        })?;
    }
    Ok(format!("{} for {seconds} s each", targets.join(", ")))
}

/// One program a file of `fuzz_targets`.
fn targets(package: &Path) -> Result<Vec<String>> {
    if !package.is_dir() {
        return Ok(Vec::new());
    }
    let folder = package.join("fuzz_targets");
    let entries = fs::read_dir(&folder).with_context(|| format!("listing {}", folder.display()))?;
    let paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    let mut names: Vec<String> = paths
        .iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .filter_map(|path| Some(path.file_stem()?.to_string_lossy().into_owned()))
        .collect();
    names.sort();
    Ok(names)
}

fn host() -> Result<String> {
    let version = dbwarden_tests::said(Command::new("rustc").arg("-vV"))?;
    match version.lines().find_map(|line| line.strip_prefix("host: ")) {
        Some(host) => Ok(host.to_owned()),
        None => bail!("`rustc -vV` names no host"),
    }
}
