//! dbwarden: sees every statement that reaches the databases of a host, and who really sent it.

pub mod capture;
pub mod discovery;
pub mod event;
pub mod identity;
