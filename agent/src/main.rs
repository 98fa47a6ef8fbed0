//! The `dbwarden` binary: parse, call, exit code.

use std::process::ExitCode;

use clap::Parser;
use dbwarden::cli::{self, Arguments, Command};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let common = &arguments.common;
    let answer = || match &arguments.command {
        Command::Run(run) => cli::run(run),
        Command::Watch(watch) => cli::watch(common, watch),
        Command::Approvals(arguments) => cli::approvals(common, arguments),
        Command::Quarantine(arguments) => cli::quarantine(common, arguments),
        Command::Labels(arguments) => cli::labels(common, arguments),
        Command::Whois(who) => cli::whois(common, who),
        Command::Status => cli::status(common),
        Command::Doctor => cli::doctor(common),
        Command::Verify(verify) => cli::verify(common, verify),
        Command::Keys(keys) => cli::keys(common, keys),
        Command::Policy(policy) => cli::policy(common, policy),
        Command::Webhook(webhook) => cli::webhook(common, webhook),
        Command::Analyst => cli::analyst(),
        Command::Guard => cli::guard(),
        Command::Keeper(keeper) => cli::keeper(keeper),
        Command::Search(search) => cli::search(common, search),
        Command::Findings(findings) => cli::findings(common, findings),
        Command::Timeline(timeline) => cli::timeline(common, timeline),
        Command::Unsteer(arguments) => cli::unsteer(arguments),
        Command::Sql(sql) => cli::sql(common, sql),
        Command::Report(report) => cli::report(common, report),
        Command::QueryWorker(worker) => cli::query_worker(worker),
    };
    cli::exit(arguments.check().and_then(|()| answer()))
}
