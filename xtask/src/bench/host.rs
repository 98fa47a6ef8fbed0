//! What machine the figures come from.

use std::{fs, process::Command};

use anyhow::{Context, Result};
use dbwarden_tests::said;

use super::table::Style;

/// Kernel, processors, memory and versions, as the head of a report.
pub fn facts(style: Style) -> Result<String> {
    let uname = nix::sys::utsname::uname().context("asking for the kernel's version")?;
    let cores = std::thread::available_parallelism()?;
    let line = format!(
        "Linux {} on {cores} cores ({}), {} of memory; {}; dbwarden {}",
        uname.release().to_string_lossy(),
        processor().unwrap_or_else(|| uname.machine().to_string_lossy().into_owned()),
        memory().unwrap_or_else(|| "?".to_owned()),
        postgres(),
        env!("CARGO_PKG_VERSION"),
    );
    Ok(match style {
        Style::Plain => format!("{line}\n"),
        Style::Markdown => format!("{line}.\n"),
    })
}

fn processor() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn memory() -> Option<String> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(format!("{:.0} GiB", kib as f64 / f64::from(1 << 20)))
}

/// As in `PostgreSQL 15.14 (Debian 15.14-0+deb12u1)`.
fn postgres() -> String {
    let version = dbwarden_tests::postgres_binaries()
        .and_then(|folder| said(Command::new(folder.join("postgres")).arg("--version")));
    let version = version.unwrap_or_default();
    version.trim().replacen("postgres (PostgreSQL)", "PostgreSQL", 1)
}
