//! Keeps every statement: what is appended, sealed, proven and found again.

pub mod canonical;
pub mod checkpoint;
pub mod columns;
mod encoder;
pub mod layout;
pub mod log;
pub mod merkle;
pub mod note;
#[cfg(test)]
mod samples;
pub mod schema;
pub mod seal;
mod store;
mod witness;

pub use canonical::Literals;
pub use store::{Appended, CloseError, Ledger, LedgerStatus, OpenError, Options};
pub use witness::{Removal, SealedSegment, Unproven, Witness, WitnessError};
