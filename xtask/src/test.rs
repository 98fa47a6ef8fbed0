//! Every check and every test, and an honest list of what was skipped.

use std::{path::Path, process::Command, time::Instant};

use anyhow::{Result, bail};
use dbwarden_tests::is_root;

use crate::{
    build::{self, cargo, for_bpf},
    fuzz,
    setup::{self, Toolchain},
    steps::{Step, Steps, seconds},
    tidy,
};

/// Of each fuzz target, when all tests are run.
const FUZZ_SECONDS: u64 = 10;

#[derive(clap::Args)]
pub struct Args {
    /// Only what needs no servers, no kernel and no set-up: formatting, lints, tidy, unit tests
    #[arg(long)]
    fast: bool,
    /// Only tests whose name contains this (no lints, no fuzzing)
    #[arg(value_name = "NAME")]
    filter: Option<String>,
}

/// What the tests said, added up.
#[derive(Default)]
struct Tally {
    n_passed: usize,
    /// As in `harness a_test because it needs root`.
    skipped: Vec<String>,
}

pub fn run(args: &Args) -> Result<()> {
    let begun = Instant::now();
    let checks = if args.filter.is_some() { 0 } else { 3 };
    let whole = if args.fast { 0 } else { setup::STEPS + build::STEPS + 1 };
    let fuzzing = !args.fast && args.filter.is_none();
    let mut steps = Steps::new(whole + checks + 1 + usize::from(fuzzing))?;
    let mut tally = Tally::default();

    let mut toolchain = None;
    if !args.fast {
        let (found, lacks) = setup::attempt(&mut steps);
        if is_root() && !lacks.is_empty() {
            bail!("set-up is not complete\n{}", lacks.join("\n"));
        }
        tally.skipped.extend(lacks);
        match &found {
            Some(found) => drop(build::build(&mut steps, found, false)?),
            None => {
                tally.skipped.push("BPF object, which lacks what is named above".to_owned());
                build::agent(&mut steps, false)?;
            }
        }
        toolchain = found;
    }
    if args.filter.is_none() {
        checks_of_source(&mut steps, toolchain.as_ref())?;
    }
    let filter = args.filter.as_deref();
    steps.step("unit tests", |step| {
        let apart = ["--exclude", "dbwarden-ebpf", "--exclude", "dbwarden-tests"];
        step.run_tests(
            cargo()
                .args(["test", "--no-fail-fast", "--workspace"])
                .args(apart)
                .args(libtest(filter)),
        )?;
        Ok(tally.add(step))
    })?;
    if !args.fast {
        steps.step("tests with servers and the kernel", |step| {
            mount_tracefs(step)?;
            // One agent a host: one test at a time.
            step.run_tests(
                cargo()
                    .args(["test", "--no-fail-fast", "--package", "dbwarden-tests"])
                    .args(libtest(filter))
                    .arg("--test-threads=1"),
            )?;
            Ok(tally.add(step))
        })?;
    }
    if fuzzing {
        steps.step("fuzzing", |step| fuzz::all(step, FUZZ_SECONDS))?;
    }

    if !tally.skipped.is_empty() {
        println!("skipped:");
        for skipped in &tally.skipped {
            println!("  {}", skipped.replace('\n', "\n  "));
        }
    }
    let (passed, skipped) = (tally.n_passed, tally.skipped.len());
    println!("all of it in {}", seconds(begun.elapsed()));
    println!("{passed} passed, 0 failed, {skipped} skipped");
    Ok(())
}

/// The fallback hooks are tracepoints. systemd mounts their file system; a bare machine does not.
fn mount_tracefs(step: &mut Step) -> Result<()> {
    const TRACEFS: &str = "/sys/kernel/tracing";
    if is_root() && !Path::new(TRACEFS).join("events").exists() {
        step.run(Command::new("mount").args(["-t", "tracefs", "tracefs", TRACEFS]))?;
    }
    Ok(())
}

/// Formatting, lints, rules.
fn checks_of_source(steps: &mut Steps, toolchain: Option<&Toolchain>) -> Result<()> {
    steps.step("formatting", |step| {
        step.run(cargo().args(["fmt", "--all", "--check"]))?;
        Ok("clean".to_owned())
    })?;
    steps.step("lints", |step| {
        let deny = ["--", "--deny", "warnings"];
        step.run(
            cargo()
                .args(["clippy", "--workspace", "--exclude", "dbwarden-ebpf", "--all-targets"])
                .args(deny),
        )?;
        if let Some(toolchain) = toolchain {
            step.run(for_bpf(toolchain, "clippy")?.arg("--release").args(deny))?;
        }
        Ok("clean".to_owned())
    })?;
    steps.step("tidy", |_| Ok(format!("{} files keep the rules", tidy::check()?)))
}

/// Shows what tests print, where the skipped ones say so.
fn libtest(filter: Option<&str>) -> Vec<String> {
    let arguments = ["--", "--show-output"].into_iter().chain(filter);
    arguments.map(str::to_owned).collect()
}

impl Tally {
    /// Adds up what a run of `cargo test` said; returns it in words.
    fn add(&mut self, step: &Step) -> String {
        let run = Tally::read(&step.log());
        let said = format!("{} passed, {} skipped", run.n_passed, run.skipped.len());
        self.n_passed += run.n_passed;
        self.skipped.extend(run.skipped);
        said
    }

    fn read(log: &str) -> Tally {
        let skipped: Vec<String> = log
            .lines()
            .filter_map(|line| line.strip_prefix("skipped: "))
            .map(str::to_owned)
            .collect();
        let results = log.lines().filter_map(|line| line.strip_prefix("test result: ok. "));
        let passed = results.filter_map(|result| result.split(' ').next()?.parse::<usize>().ok());
        // A test that skips itself passes, as far as libtest knows.
        let n_passed = passed.sum::<usize>().saturating_sub(skipped.len());
        Tally { n_passed, skipped }
    }
}

#[cfg(test)]
mod tests {
    use super::Tally;

    #[test]
    fn a_skipped_test_did_not_pass() {
        let log = "running 2 tests\n---- a stdout ----\nskipped: harness a because it needs root\n\
                   test result: ok. 2 passed; 0 failed; 0 ignored\n\
                   test result: ok. 5 passed; 0 failed; 0 ignored\n";
        let tally = Tally::read(log);
        assert_eq!((tally.n_passed, tally.skipped.len()), (6, 1));
        assert_eq!(tally.skipped[0], "harness a because it needs root");
    }
}
