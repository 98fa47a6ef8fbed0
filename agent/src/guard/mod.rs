//! The guard: stands between client and server, and sends on what policy lets pass.
//!
//! It judges with the same code as the observer: `protocol` reads the messages, `statement` says what a text does,
//! `policy` says what becomes of it. It is a process of its own without rights (`serve`), to which the service
//! hands its sockets.

mod approvals;
mod behind;
mod catalog;
mod client_ca;
mod client_court;
mod clock;
mod court;
mod entry;
mod estimating;
mod holds;
#[cfg(test)]
mod hostile;
mod judging;
mod lineage;
mod lobby;
pub mod masking;
mod outside;
mod passed;
mod past;
mod plainly;
mod reactor;
mod relay;
mod report;
mod rulebook;
mod sampling;
mod serve;
pub mod session;
mod stream;
mod tls;
mod unsettled;
mod veil;
pub mod wire;
mod worker;

pub use court::Denial;
pub use serve::serve;
