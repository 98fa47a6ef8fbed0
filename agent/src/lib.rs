//! dbwarden: sees every statement that reaches the databases of a host, and who really sent it.

pub mod event;
pub mod protocol;
pub mod stream;
