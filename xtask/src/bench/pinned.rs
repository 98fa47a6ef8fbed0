//! Keeps the load on one processor and the observer off it, so that what is compared is work and not scheduling.

use anyhow::{Context, Result};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

/// Processors of this thread and of what it starts, as long as this lives.
///
/// Four clients and four server processes on several processors sleep and wake each other, and how
/// often they do moves more processor time than any observer adds. On one processor there is always
/// one that can run. The observer's own threads stay on the others, where they would be anyway.
pub struct Pinned {
    before: CpuSet,
}

impl Pinned {
    /// On the first of the processors that this program may use.
    pub fn to_one() -> Result<Self> {
        let before = allowed()?;
        let mut one = CpuSet::new();
        one.set(first(&before)?)?;
        pin(&one)?;
        Ok(Self { before })
    }

    /// All threads that a process has now, on the first of the processors that this program may use.
    pub fn process_to_one(pid: u32) -> Result<()> {
        let mut one = CpuSet::new();
        one.set(first(&allowed()?)?)?;
        for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
            let thread = task?.file_name().to_str().and_then(|tid| tid.parse().ok());
            let thread = thread.context("a thread has no number")?;
            sched_setaffinity(Pid::from_raw(thread), &one).context("choosing processors")?;
        }
        Ok(())
    }

    /// On all the others; on a machine with one processor, there too.
    pub fn off_it() -> Result<Self> {
        let before = allowed()?;
        let mut others = before;
        others.unset(first(&before)?)?;
        if others != CpuSet::new() {
            pin(&others)?;
        }
        Ok(Self { before })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if let Err(error) = pin(&self.before) {
            eprintln!("this program stays on few processors: {error:#}");
        }
    }
}

fn allowed() -> Result<CpuSet> {
    sched_getaffinity(Pid::from_raw(0)).context("asking which processors may be used")
}

fn pin(processors: &CpuSet) -> Result<()> {
    sched_setaffinity(Pid::from_raw(0), processors).context("choosing processors")
}

fn first(processors: &CpuSet) -> Result<usize> {
    (0..CpuSet::count())
        .find(|&processor| processors.is_set(processor).unwrap_or(false))
        .context("no processor may be used")
}
