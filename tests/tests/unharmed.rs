//! The database under an agent that is killed again and again: no client notices, nothing stays behind.

use std::{
    collections::HashSet,
    fs::{self, File},
    os::unix::fs::FileExt,
    path::PathBuf,
    process::Stdio,
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use dbwarden_tests::{Agent, Postgres, Running, Via, await_until, need_root};
use nix::sys::signal::Signal;

const KILLS: u32 = 50;
/// No transaction may be so late, on however busy a machine: a stalled database takes for ever.
const STALL_MS: f64 = 5_000.0;

/// Ids of the BPF programs that a process holds.
fn programs_of(pid: u32) -> Result<HashSet<u32>> {
    let mut ids = HashSet::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        // A descriptor may close while we look.
        let info = fs::read_to_string(entry?.path()).unwrap_or_default();
        let id = info.lines().find_map(|line| line.strip_prefix("prog_id:"));
        ids.extend(id.and_then(|id| id.trim().parse::<u32>().ok()));
    }
    Ok(ids)
}

/// Which of these programs the kernel still has.
fn still_loaded(ids: &HashSet<u32>) -> Result<Vec<u32>> {
    let mut left = Vec::new();
    for program in aya::programs::loaded_programs() {
        // One that goes while we list is gone.
        let Ok(program) = program else { continue };
        if ids.contains(&program.id()) {
            left.push(program.id());
        }
    }
    Ok(left)
}

/// The machine code of libssl as a process has it, and as the file has it.
struct Library {
    memory: File,
    file: File,
    /// Address, offset in the file, length.
    code: (u64, u64, usize),
}

impl Library {
    fn of(pid: u64) -> Result<Library> {
        let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
        let line = maps
            .lines()
            .find(|line| line.contains("libssl.so") && line.contains(" r-xp "))
            .context("the server process has no libssl")?;
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [range, _, offset, _, _, path] = fields.as_slice() else {
            anyhow::bail!("a line of maps: {line}");
        };
        let hex = |text: &str| u64::from_str_radix(text, 16);
        let (from, to) = range.split_once('-').context("a range")?;
        let from = hex(from)?;
        Ok(Library {
            memory: File::open(format!("/proc/{pid}/mem"))?,
            file: File::open(PathBuf::from(path))?,
            code: (from, hex(offset)?, usize::try_from(hex(to)? - from)?),
        })
    }

    /// How many bytes of the code differ: breakpoints.
    fn changed_bytes(&self) -> Result<usize> {
        let (address, offset, len) = self.code;
        let (mut running, mut original) = (vec![0; len], vec![0; len]);
        self.memory.read_exact_at(&mut running, address)?;
        self.file.read_exact_at(&mut original, offset)?;
        Ok(running.iter().zip(&original).filter(|(a, b)| a != b).count())
    }
}

/// Runs pgbench over and over until told to stop; how many transactions there were. Any error of a
/// client and any stall is an error here.
fn load(postgres: &Postgres, via: Via, mode: &str, stop: &AtomicBool) -> Result<u64> {
    let mut n = 0;
    while !stop.load(Ordering::Relaxed) {
        // Load enough to be hit, and room for the agent to start in.
        let arguments = ["-n", "-M", mode, "-c", "4", "-R", "100", "-T", "3"];
        let output = postgres.pgbench_command(via, &arguments).stdin(Stdio::null()).output()?;
        let report = String::from_utf8_lossy(&output.stdout);
        let complaints = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{via:?}: {complaints}");
        ensure!(!complaints.contains("error"), "{via:?}: {complaints}");
        let value = |name: &str| report.lines().find_map(|line| line.strip_prefix(name));
        let failed =
            value("number of failed transactions: ").context("no failures in the report")?;
        ensure!(failed.starts_with("0 "), "{via:?}: {failed} failed");
        let lag = value("rate limit schedule lag: avg ").context("no lag in the report")?;
        let max = lag.split_once("(max ").and_then(|(_, max)| max.split_once(')'));
        let max: f64 = max.context("no longest lag in the report")?.0.parse()?;
        ensure!(max < STALL_MS, "{via:?}: a transaction was {max} ms late");
        let transactions = value("number of transactions actually processed: ").unwrap_or_default();
        n += transactions.trim().parse::<u64>()?;
    }
    Ok(n)
}

#[test]
fn fifty_kills_under_load_harm_nobody_and_leave_nothing() -> Result<()> {
    need_root!();
    let postgres = Postgres::builder().tls().start()?;
    postgres.pgbench(Via::Unix, &["-i", "-q", "-s", "4"])?;
    // A client over TLS that lives through all of it, with a server process to look into.
    let mut sleeper = postgres.psql_command(Via::Tls);
    sleeper.args(["-c", "SELECT pg_sleep(3600)"]).stdin(Stdio::null());
    let _sleeper = Running::start("psql", &mut sleeper, Signal::SIGTERM)?;
    let pid: u64 = await_until("the sleeping client", || {
        let query = "SELECT pid FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(3600)'";
        Ok(postgres.psql(Via::Unix, query)?.parse().ok())
    })?;
    let library = Library::of(pid)?;
    // Another agent of this host may just be leaving.
    let untouched = || Ok((library.changed_bytes()? == 0).then_some(()));
    await_until("a libssl without probes", untouched)?;
    let uprobe_events = || fs::read_to_string("/sys/kernel/tracing/uprobe_events");
    let events_before = uprobe_events().unwrap_or_default();

    let stop = AtomicBool::new(false);
    let begun = Instant::now();
    let mut programs = HashSet::new();
    let n_transactions = std::thread::scope(|scope| -> Result<u64> {
        let ways = [(Via::Tls, "prepared"), (Via::Unix, "simple"), (Via::Tcp6, "extended")];
        let loads = ways.map(|(via, mode)| {
            let (postgres, stop) = (&postgres, &stop);
            scope.spawn(move || load(postgres, via, mode, stop))
        });
        let killed = (|| -> Result<()> {
            for kill in 1..=KILLS {
                let mut agent = Agent::builder().start()?;
                agent.await_server(postgres.port())?;
                let own = programs_of(agent.pid())?;
                ensure!(!own.is_empty(), "the agent holds no programs");
                programs.extend(own);
                if kill == 1 {
                    // This test would see probes that stay.
                    ensure!(library.changed_bytes()? > 0, "no probes on TLS");
                    ensure!(!still_loaded(&programs)?.is_empty(), "no programs are loaded");
                }
                agent.kill()?;
                if kill % 10 == 0 {
                    println!("{kill} kills after {:.1} s", begun.elapsed().as_secs_f64());
                }
            }
            Ok(())
        })();
        stop.store(true, Ordering::Relaxed);
        let mut n = 0;
        for load in loads {
            n += load.join().map_err(|_| anyhow::anyhow!("a load panicked"))??;
        }
        killed?;
        Ok(n)
    })?;

    await_until("the end of all programs", || {
        Ok(still_loaded(&programs)?.is_empty().then_some(()))
    })?;
    await_until("the end of all probes", untouched)?;
    assert_eq!(uprobe_events().unwrap_or_default(), events_before);
    assert!(n_transactions > 0);
    println!(
        "{KILLS} kills in {:.1} s, {n_transactions} transactions, {} programs came and went",
        begun.elapsed().as_secs_f64(),
        programs.len()
    );
    // And it takes the next agent.
    let agent = Agent::builder().start()?;
    agent.await_server(postgres.port())?;
    let watch = agent.watch()?;
    postgres.psql(Via::Tls, "SELECT 'afterwards'")?;
    watch.statements(1, |record| record["text"] == "SELECT 'afterwards'")?;
    Ok(())
}
