//! Puts the captured chunks of one connection in order, and says where bytes are missing.

#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

mod assembler;
#[cfg(test)]
mod tests;

pub use assembler::{Assembler, Limits, Stats};
