//! What things cost, read from `/proc`: processor time of the host, of a process, of BPF programs.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, Result};
use nix::{
    sys::{
        resource::{UsageWho, getrusage},
        time::{TimeVal, TimeValLike},
    },
    unistd::{SysconfVar, sysconf},
};

const BPF_STATS: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// Microseconds that the host's processors were busy between two moments.
///
/// Busy is what is neither idle, nor waiting for a disk, nor stolen by a hypervisor: the kernel
/// measures idle time, but samples at each tick whom it charges the rest to, and something that wakes
/// up by a timer can hide between ticks.
pub struct HostClock {
    begun: Instant,
    idle_us: f64,
}

impl HostClock {
    pub fn start() -> Result<HostClock> {
        Ok(HostClock { begun: Instant::now(), idle_us: idle_us()? })
    }

    /// Since the start: wall-clock and busy time, in microseconds.
    pub fn elapsed(&self) -> Result<(f64, f64)> {
        let idle = idle_us()? - self.idle_us;
        let wall = self.begun.elapsed().as_secs_f64() * 1e6;
        let cores = std::thread::available_parallelism()?.get() as f64;
        Ok((wall, (wall * cores - idle).max(0.0)))
    }
}

/// Idle, waiting or stolen, of all processors since boot.
fn idle_us() -> Result<f64> {
    let text = fs::read_to_string("/proc/stat").context("reading /proc/stat")?;
    let fields: Vec<f64> = text
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|field| field.parse().ok())
        .collect();
    // user nice system idle iowait irq softirq steal …
    let not_busy = [3, 4, 7].into_iter().filter_map(|i| fields.get(i)).sum::<f64>();
    Ok(not_busy * tick_us()?)
}

fn tick_us() -> Result<f64> {
    let hz = sysconf(SysconfVar::CLK_TCK)?.context("the kernel doesn't name its clock tick")?;
    Ok(1e6 / hz as f64)
}

/// User and system time of a process and of its children that have ended, in microseconds.
///
/// In steps of a tick (10 ms), but measured by the scheduler, not sampled.
pub fn process_us(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    // The command's name stands in parentheses and may have any byte in it.
    let after = text.rsplit_once(')').map_or("", |(_, after)| after);
    // Of these utime is the 12th: utime stime cutime cstime.
    let times = after.split_whitespace().skip(11).take(4).filter_map(|n| n.parse::<f64>().ok());
    Ok(times.sum::<f64>() * tick_us()?)
}

/// The same of all living threads of a process, without children: to the nanosecond.
pub fn threads_us(pid: u32) -> Result<f64> {
    let mut total_ns = 0.0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end meanwhile.
        let text = fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
        let ns = text.split_whitespace().next().and_then(|ns| ns.parse::<f64>().ok());
        total_ns += ns.unwrap_or_default();
    }
    Ok(total_ns / 1e3)
}

/// User and system time of this program's children that have ended and been waited for.
pub fn children_us() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let us = |time: TimeVal| time.num_microseconds() as f64;
    Ok(us(usage.user_time()) + us(usage.system_time()))
}

/// The pids of a process's children, whichever of its threads has started them.
pub fn children(pid: u32) -> Result<Vec<u32>> {
    let path = format!("/proc/{pid}/task");
    let mut pids = Vec::new();
    for task in fs::read_dir(&path).with_context(|| format!("reading {path}"))? {
        // A thread may end meanwhile.
        let text = fs::read_to_string(task?.path().join("children")).unwrap_or_default();
        pids.extend(text.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
    }
    Ok(pids)
}

/// What a process and its children have used, those that have ended too.
pub fn tree_us(pid: u32) -> Result<f64> {
    let mut total = process_us(pid)?;
    for child in children(pid)? {
        // One may end meanwhile: then its parent has its time at the next look.
        total += process_us(child).unwrap_or_default();
    }
    Ok(total)
}

/// Memory of a process that would be free without it, in KiB.
pub fn proportional_kib(pid: u32) -> Result<u64> {
    kib(&format!("/proc/{pid}/smaps_rollup"), "Pss:")
}

/// The most memory that a process ever had resident, in KiB.
pub fn peak_kib(pid: u32) -> Result<u64> {
    kib(&format!("/proc/{pid}/status"), "VmHWM:")
}

/// Memory of the host that programs could have.
pub fn available_kib() -> Result<u64> {
    kib("/proc/meminfo", "MemAvailable:")
}

fn kib(path: &str, key: &str) -> Result<u64> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    kib.with_context(|| format!("{path} has no {key}"))
}

/// Run time of the BPF programs that a process holds, in microseconds: what the kernel counts while
/// [`BpfStats`] are on.
pub fn bpf_us(pid: u32) -> Result<f64> {
    let mut total_ns = 0.0;
    for file in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        let text = fs::read_to_string(file?.path()).unwrap_or_default();
        let ns = text.lines().find_map(|line| line.strip_prefix("run_time_ns:"));
        total_ns += ns.and_then(|ns| ns.trim().parse::<f64>().ok()).unwrap_or_default();
    }
    Ok(total_ns / 1e3)
}

/// The kernel's count of BPF run time, on as long as this lives: it costs something itself.
pub struct BpfStats {
    file: PathBuf,
    before: String,
}

impl BpfStats {
    pub fn on() -> Result<BpfStats> {
        let file = Path::new(BPF_STATS);
        let before =
            fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
        fs::write(file, "1").with_context(|| format!("writing {}", file.display()))?;
        Ok(BpfStats { file: file.to_owned(), before })
    }
}

impl Drop for BpfStats {
    fn drop(&mut self) {
        if let Err(error) = fs::write(&self.file, &self.before) {
            eprintln!("{} stays at 1: {error}", self.file.display());
        }
    }
}
