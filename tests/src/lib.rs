//! What the tests with real servers share, and `cargo xtask demo` with them.

mod agent;
mod bpffs;
mod certificates;
mod cgroup;
mod children;
mod dial;
mod failing_disk;
pub mod greeter;
mod guarded;
mod haproxy;
mod namespace;
mod need;
mod notify;
pub mod pattern;
mod pgbouncer;
pub mod place;
mod postgres;
#[cfg(feature = "rows")]
pub mod rows;
mod scrape;
pub mod sender;
mod session;
pub mod wire;

pub use agent::{Agent, AgentBuilder, Watch};
pub use bpffs::Bpffs;
pub use certificates::Certificates;
pub use cgroup::Cgroup;
pub use children::{Running, await_until, python, said};
pub use dial::{Dial, socket_cookie};
pub use failing_disk::FailingDisk;
pub use guarded::{CANCELLED, Guarded, NO_DROP, await_its_end};
pub use haproxy::Haproxy;
pub use namespace::{Netns, in_own_network};
pub use need::is_root;
pub use pgbouncer::{PgBouncer, PgBouncerBuilder};
pub use postgres::{Logged, Postgres, PostgresBuilder, Via, binaries as postgres_binaries};
pub use scrape::scraped;
pub use session::Session;
pub use wire::{Answer, Wire};
