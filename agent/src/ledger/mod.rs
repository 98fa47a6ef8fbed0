//! Keeps every statement: what is appended, sealed, proven and found again.

pub mod merkle;
pub mod schema;
