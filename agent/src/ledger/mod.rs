//! Keeps every statement: what is appended, sealed, proven and found again.

pub mod canonical;
pub mod checkpoint;
pub mod columns;
pub mod merkle;
pub mod note;
#[cfg(test)]
mod samples;
pub mod schema;
