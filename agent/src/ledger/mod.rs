//! Keeps every statement: what is appended, sealed, proven and found again.

pub mod checkpoint;
pub mod merkle;
pub mod note;
pub mod schema;
