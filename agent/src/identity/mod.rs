//! Who is at the client's end: processes with their lineage, cgroups, logins and account names.
//!
//! What the kernel records say is believed first; procfs only fills in what they lack, and only
//! while the same process is alive. See [`ProcessTable`].

mod arguments;
pub mod cgroup;
mod command;
mod image;
mod lineage;
mod login;
pub mod procfs;
mod table;
mod users;

pub use login::strength as login_strength;
pub use procfs::{ProcDir, Procfs, ProcfsError};
pub use table::{Counters, Limits, Peer, ProcessTable};
pub use users::{Name, Users};
