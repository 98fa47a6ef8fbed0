//! Builds, tests, shows and measures dbwarden: the command table.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod bench;
mod build;
mod demo;
mod fuzz;
mod interrupt;
mod setup;
mod steps;
mod test;
mod tidy;

/// Builds, tests, shows and measures dbwarden.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what building and testing need
    ///
    /// Debian packages (PostgreSQL without a cluster of its own, pgaudit, …), the standard library's
    /// source for exactly this rustc, bpf-linker, and a Python with database drivers. What is there
    /// already is left alone, so it may be run at any time. Without root it installs what it can and
    /// names the rest with the command that brings it.
    Setup,
    /// Build the BPF object and the agent that carries it
    ///
    /// The object lands in `<target>/bpf/dbwarden.bpf.o`, the agent in `<target>/debug/dbwarden`
    /// (`<target>/release/dbwarden` with --release).
    Build(build::Args),
    /// Run every check and every test
    ///
    /// Set-up, build, formatting, lints, tidy, unit tests, tests with real servers and the real
    /// kernel, and a short run of each fuzz target. Tests that need root are skipped without it; what
    /// was skipped, and why, is listed at the end.
    Test(test::Args),
    /// Check the rules of ARCHITECTURE.md that the compiler can't
    ///
    /// Which stage may import what, one `//!` sentence on top of each file, no vague file names, no
    /// ignored tests. The rules are tables at the top of `xtask/src/tidy.rs`.
    Tidy,
    /// Run each fuzz target for a while
    Fuzz(fuzz::Args),
    /// Show dbwarden at work on a throwaway PostgreSQL
    ///
    /// Sets up and builds what is missing, starts a PostgreSQL in a temporary folder and dbwarden
    /// beside it, runs a short workload from several kinds of clients, shows the statements as they
    /// are seen, and compares them with the database's own count. Needs root for the BPF programs.
    /// Leaves nothing running and nothing behind.
    Demo(demo::Args),
    /// Measure what dbwarden costs
    Bench(bench::Args),
}

fn main() -> ExitCode {
    let task = Cli::parse();
    interrupt::listen();
    let done = match task.task {
        Task::Setup => setup::run(),
        Task::Build(args) => build::run(&args),
        Task::Test(args) => test::run(&args),
        Task::Tidy => tidy::run(),
        Task::Fuzz(args) => fuzz::run(&args),
        Task::Demo(args) => demo::run(&args),
        Task::Bench(args) => bench::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Whatever failed then failed because of it.
            let error = interrupt::check().err().unwrap_or(error);
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
