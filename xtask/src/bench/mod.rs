//! Benchmarks: ratios against a baseline and a peer, measured in the same run.

mod observe;

use anyhow::Result;

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    subject: Subject,
}

#[derive(clap::Subcommand)]
enum Subject {
    /// What watching costs a PostgreSQL: bare, with dbwarden, with pgaudit, with log_statement=all
    Observe(observe::Args),
}

pub fn run(args: &Args) -> Result<()> {
    match &args.subject {
        Subject::Observe(args) => observe::run(args),
    }
}
