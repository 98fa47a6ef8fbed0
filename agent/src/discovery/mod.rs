//! Database servers found by themselves, from procfs only, whatever their owners would have us think.
//!
//! Everything here may touch file systems that hang, so it belongs on a thread that may wait.
//! A server is a *postmaster*: its executable (the kernel's `exe` link, not a name that a process
//! gives itself) is called `postgres` or is configured, its working directory holds `PG_VERSION` and
//! a `postmaster.pid` with its pid, and it listens. Whether that makes it what it seems is another
//! question, answered by [`Trust`].

mod files;
mod inspect;
mod libraries;
mod residents;
mod rules;
mod server;
mod sockets;
#[cfg(test)]
mod tests;
mod watch;

pub use files::open_as;
pub use inspect::{Refusal, candidates, descendants, inspect, namespaces_of_agent};
pub use libraries::{LibraryError, TlsLibrary};
pub use residents::{Resident, Residents, residents};
pub use rules::{Missing, Names, ServerRule, excluded, missing};
pub use server::{Doubt, FileId, Listener, Namespaces, Server, ServerKind, Trust};
pub use watch::{Look, Watcher};
