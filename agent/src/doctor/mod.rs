//! What capture needs of a host: facts gathered in one file, judged by pure functions in the other.

mod host;
mod verdicts;

pub use host::{CgroupLayout, Host, Kernel, Lockdown, Tracefs};
pub use verdicts::{Check, Verdict, verdicts};
