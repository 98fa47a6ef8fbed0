//! What watching costs a PostgreSQL, beside what its own ways of logging cost.

use anyhow::{Result, bail};

#[derive(clap::Args)]
pub struct Args {
    /// Interleaved rounds; the figures are their medians
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// How long pgbench runs in each
    #[arg(long, default_value_t = 10)]
    seconds: u32,
}

pub fn run(args: &Args) -> Result<()> {
    bail!("nothing is measured yet ({} rounds of {} s)", args.rounds, args.seconds)
}
