//! What capture needs of a host: facts gathered in one file, judged by pure functions in the other.

mod guard;
mod host;
mod programs;
mod verdicts;

pub use host::{CgroupLayout, Host, Kernel, Lockdown, Tracefs};
pub use programs::Trial;
pub use verdicts::{About, Check, Verdict, kills_on_return_probes, verdicts};

/// Why return probes must not be attached on the running kernel, if so.
pub fn return_probe_danger() -> Option<String> {
    let release = nix::sys::utsname::uname().ok()?.release().to_string_lossy().into_owned();
    let dangerous = release.parse().is_ok_and(kills_on_return_probes);
    dangerous.then(|| format!("on {release}, return probes can kill sandboxed processes"))
}
