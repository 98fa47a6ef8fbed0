//! The `dbwarden` binary: parse, call, exit code.

use std::process::ExitCode;

use clap::Parser;
use dbwarden::cli::{self, Arguments, Command};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let common = &arguments.common;
    let outcome = match &arguments.command {
        Command::Run(run) => cli::run(run),
        Command::Watch(watch) => cli::watch(common, watch),
        Command::Status => cli::status(common),
        Command::Doctor => cli::doctor(common),
        Command::Analyst => cli::analyst(),
    };
    cli::exit(outcome)
}
