//! A result of 100 000 rows, again and again: how fast it comes.

use std::{
    fmt,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use dbwarden_tests::Wire;

use super::{
    super::pinned::Pinned,
    ways::{Spent, Watching, Way, Ways},
};

const N_ROWS: u64 = 100_000;
/// About 120 bytes a row on the wire.
const QUERY: &str = "SELECT * FROM pgbench_accounts LIMIT 100000";

pub struct Rows {
    /// Bytes on the client's side, in millions.
    pub mb_per_second: f64,
    /// Masked rows are longer or shorter than those that they stand for.
    pub rows_per_second: f64,
    /// A million bytes.
    pub spent: Spent,
}

impl fmt::Display for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (rate, proxy) = (self.mb_per_second, self.spent.proxy_us);
        write!(f, "{N_ROWS} rows at {rate:.0} MB/s, proxy {proxy:.0} µs of CPU a MB")
    }
}

pub fn measure(ways: &Ways, way: Way, agent: Option<&Watching>, seconds: u32) -> Result<Rows> {
    let mut wire = Wire::connect_at(ways.port(way)?, "rows")?;
    // The server's process has inherited its processor from the postmaster; this is for the client.
    let _on_one = Pinned::to_one()?;
    ask(&mut wire)?;
    let before = ways.spent(way, agent)?;
    let (begun, start) = (Instant::now(), wire.received());
    let time = Duration::from_secs(seconds.into());
    let mut n_rows = 0;
    while begun.elapsed() < time {
        ask(&mut wire)?;
        n_rows += N_ROWS;
    }
    let elapsed = begun.elapsed().as_secs_f64();
    let mb = (wire.received() - start) as f64 / 1e6;
    let spent = ways.spent(way, agent)?.since(before);
    Ok(Rows {
        mb_per_second: mb / elapsed,
        rows_per_second: n_rows as f64 / elapsed,
        spent: Spent {
            proxy_us: spent.proxy_us / mb,
            agent_us: spent.agent_us / mb,
            server_us: spent.server_us / mb,
        },
    })
}

fn ask(wire: &mut Wire) -> Result<()> {
    let answer = wire.query(QUERY)?;
    ensure!(answer.rows == N_ROWS, "{} rows came, and {:?}", answer.rows, answer.error);
    Ok(())
}
