//! `pgbench -S`: what each transaction takes, and what processors do for it.

use std::{
    fmt, fs,
    io::{BufRead, BufReader, Read},
    process::Stdio,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, ensure};
use dbwarden_tests::Running;
use nix::sys::signal::Signal;

use super::{
    super::{figures::rounded_quantile, pinned::Pinned},
    ways::{Spent, Watching, Way, Ways},
};

/// Seconds before anything counts: in a process of the server that has just come, nearly each transaction touches
/// memory that it hasn't touched yet. PgBouncer keeps those processes for whoever comes next, so it alone would be
/// measured with old ones.
pub const WARMING: u32 = 1;

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
    let folder = tempfile::tempdir()?;
    let mut command = ways.postgres.program("pgbench");
    command
        .args(["-n", "-S", "-M", load.mode, "-c", &load.clients.to_string()])
        .args(["-T", &(WARMING + seconds).to_string(), "-P", &WARMING.to_string()])
        .args(["-l", "--log-prefix"])
        .arg(folder.path().join("log"))
        .arg(ways.conninfo(way)?)
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut pgbench = {
        let _on_one = Pinned::to_one()?;
        Running::start("pgbench", &mut command, Signal::SIGTERM)?
    };
    let mut told = BufReader::new(pgbench.errors().context("pgbench has no standard error")?);
    let mut progress = String::new();
    told.read_line(&mut progress)?;
    let (before, since) = (ways.spent(way, agent)?, SystemTime::now());
    told.read_to_string(&mut progress)?;
    let status = pgbench.wait()?;
    ensure!(status.success(), "pgbench ended with {status}:\n{progress}");
    let spent = ways.spent(way, agent)?.since(before);
    let since = since.duration_since(SystemTime::UNIX_EPOCH)?;
    let mut latencies = Vec::new();
    let mut last = since;
    for file in fs::read_dir(folder.path())? {
        for line in fs::read_to_string(file?.path())?.lines() {
            let Logged { latency_us, at } =
                Logged::of(line).with_context(|| format!("pgbench has logged {line:?}"))?;
            if at > since {
                latencies.push(latency_us);
                last = last.max(at);
            }
        }
    }
    let n = latencies.len() as f64;
    ensure!(n > 0.0, "pgbench has logged no transaction:\n{progress}");
    Ok(Transactions {
        per_second: n / (last - since).as_secs_f64(),
        p50_us: rounded_quantile(latencies.iter().copied(), 0.5),
        p99_us: rounded_quantile(latencies, 0.99),
        spent: Spent {
            proxy_us: spent.proxy_us / n,
            agent_us: spent.agent_us / n,
            server_us: spent.server_us / n,
        },
    })
}

/// A transaction, and when it ended since 1970.
struct Logged {
    latency_us: u64,
    at: Duration,
}

impl Logged {
    /// Of a line `client transaction latency script seconds microseconds …`.
    fn of(line: &str) -> Option<Self> {
        let mut fields = line.split(' ').skip(2);
        let latency_us = fields.next()?.parse().ok()?;
        let seconds = Duration::from_secs(fields.nth(1)?.parse().ok()?);
        let at = seconds + Duration::from_micros(fields.next()?.parse().ok()?);
        Some(Self { latency_us, at })
    }
}
