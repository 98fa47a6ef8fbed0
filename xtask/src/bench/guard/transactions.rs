//! `pgbench -S`: what each transaction takes, and what processors do for it.

use std::{fmt, fs, process::Command};

use anyhow::{Context, Result, ensure};
use dbwarden_tests::said;

use super::{
    super::{figures::quantile, pinned::Pinned},
    ways::{Spent, Watching, Way, Ways},
};

/// How many ask, and how.
pub struct Load {
    /// Of `pgbench -M`.
    mode: &'static str,
    clients: u32,
}

pub const LOADS: [Load; 4] = [
    Load { mode: "simple", clients: 1 },
    Load { mode: "simple", clients: 16 },
    Load { mode: "prepared", clients: 1 },
    Load { mode: "prepared", clients: 16 },
];

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let clients = if self.clients == 1 { "client" } else { "clients" };
        write!(f, "{}, {} {clients}", self.mode, self.clients)
    }
}

pub struct Transactions {
    pub per_second: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    /// A transaction.
    pub spent: Spent,
}

impl fmt::Display for Transactions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.0} tx/s, {:.0} µs (p99 {:.0}), proxy {:.1} µs of CPU a transaction",
            self.per_second, self.p50_us, self.p99_us, self.spent.proxy_us
        )
    }
}

pub fn measure(
    ways: &Ways,
    way: Way,
    agent: Option<&Watching>,
    load: &Load,
    seconds: u32,
) -> Result<Transactions> {
    let (mode, clients) = (load.mode, load.clients.to_string());
    let load = ["-n", "-S", "-M", mode, "-c", &clients];
    // PgBouncer opens its connections one after the other, and keeps them.
    on_one(
        ways.postgres.program("pgbench").args(load).args(["-t", "100"]).arg(ways.conninfo(way)?),
    )?;
    let folder = tempfile::tempdir()?;
    let log = folder.path().join("log");
    let mut command = ways.postgres.program("pgbench");
    command
        .args(load)
        .args(["-l", "--log-prefix"])
        .arg(&log)
        .args(["-T", &seconds.to_string()])
        .arg(ways.conninfo(way)?);
    let before = ways.spent(way, agent)?;
    let report = on_one(&mut command)?;
    let spent = ways.spent(way, agent)?.since(before);
    let mut latencies = Vec::new();
    for file in fs::read_dir(folder.path())? {
        latencies.extend(fs::read_to_string(file?.path())?.lines().filter_map(latency_us));
    }
    let n = latencies.len() as f64;
    ensure!(n > 0.0, "pgbench has logged no transaction:\n{report}");
    let per_second = report.lines().find_map(|line| line.strip_prefix("tps = "));
    let per_second = per_second.and_then(|line| line.split_whitespace().next()?.parse().ok());
    Ok(Transactions {
        per_second: per_second
            .with_context(|| format!("no rate in pgbench's report:\n{report}"))?,
        p50_us: quantile(latencies.iter().copied(), 0.5),
        p99_us: quantile(latencies, 0.99),
        spent: Spent {
            proxy_us: spent.proxy_us / n,
            agent_us: spent.agent_us / n,
            server_us: spent.server_us / n,
        },
    })
}

fn on_one(command: &mut Command) -> Result<String> {
    let _on_one = Pinned::to_one()?;
    said(command)
}

/// Of a line `client transaction latency …`.
fn latency_us(line: &str) -> Option<f64> {
    line.split(' ').nth(2)?.parse().ok()
}
