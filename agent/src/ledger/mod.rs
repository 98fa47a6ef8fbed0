//! Keeps every statement: what is appended, sealed, proven and found again.

pub mod canonical;
pub mod checkpoint;
pub mod columns;
pub mod layout;
pub mod log;
pub mod merkle;
pub mod note;
#[cfg(test)]
mod samples;
pub mod schema;
mod witness;

pub use witness::{Removal, SealedSegment, Unproven, Witness, WitnessError};
