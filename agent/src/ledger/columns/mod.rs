//! Canonical bytes ↔ the columns of an Arrow batch.

mod build;
mod lists;
mod read;
#[cfg(test)]
mod tests;

pub use build::{BatchBuilder, BuildError};
pub use read::{Mismatch, RowReader};
