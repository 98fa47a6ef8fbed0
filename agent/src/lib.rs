//! dbwarden: sees every statement that reaches the databases of a host, and who really sent it.

pub mod analyst;
pub mod approval;
pub mod capture;
pub mod cli;
pub mod config;
mod confine;
pub mod control;
pub mod delivery;
pub mod discovery;
pub mod doctor;
pub mod enforce;
pub mod event;
pub mod gate;
pub mod guard;
pub mod identity;
pub mod ledger;
mod netlink;
pub mod pipeline;
pub mod policy;
pub mod pooler;
pub mod principal;
pub mod protocol;
pub mod search;
pub mod statement;
pub mod stream;
pub mod telemetry;
pub mod webhook;
