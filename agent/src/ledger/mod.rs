//! Keeps every statement: what is appended, sealed, proven and found again.

pub mod blocks;
pub mod canonical;
pub mod checkpoint;
pub mod columns;
pub mod copies;
pub(crate) mod durable;
mod encoder;
pub mod entry;
#[cfg(test)]
mod golden;
pub mod keys;
pub mod layout;
pub mod log;
pub mod merkle;
pub mod note;
pub mod prove;
pub mod root_log;
#[cfg(test)]
pub mod samples;
pub mod schema;
pub mod seal;
mod store;
pub mod trail;
pub mod verify;
mod witness;

pub use canonical::Literals;
pub use store::{Appended, CloseError, Ledger, LedgerStatus, OpenError, Options, check_directory};
pub use witness::{Removal, SealedSegment, Unproven, Witness, WitnessError};
