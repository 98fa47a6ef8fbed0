//! Keeps every statement: what is appended, sealed, proven and found again.

pub mod canonical;
pub mod columns;
#[cfg(test)]
mod samples;
pub mod schema;
