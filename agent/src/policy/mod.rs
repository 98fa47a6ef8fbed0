//! Facts in, verdict out: Cedar policies over who does what to which data.
//!
//! A policy is a `forbid` whose annotations say what a match means (`@id`, `@verdict`, `@severity`,
//! `@message`), or a `permit` that makes an exception of some (`@silences`). A statement is several requests,
//! one for each of its effects and each table that suffers it, and a connection is one; the worst verdict wins, and
//! always names the rule. Sets are replaced as a whole or not at all: nothing is loaded in part.

mod action;
mod alike;
mod bounds;
mod caller;
mod complaint;
mod decide;
mod hiding;
mod judge;
mod label;
mod nearly;
mod question;
mod region;
mod rule;
mod schema;
mod set;
#[cfg(test)]
mod tests;
mod volatile;
mod world;

pub use action::Action;
pub use bounds::STACK_BYTES;
pub use caller::Caller;
pub use complaint::{Complaint, Complaints, Source};
pub use decide::Outcome;
pub use hiding::{ColumnName, Hidden};
pub use judge::{Counts, Judge, Standing};
pub use label::{Label, NoPattern, Pattern, RESIDENCY, TableName, Touched};
pub use nearly::{Near, Part};
pub use question::{Case, Circumstances, Estimate, Subject, Unaskable};
pub use region::{Region, wider};
pub use rule::{Approvers, BUILTIN, Does, Rule};
pub use schema::SCHEMA;
pub use set::{GUARDED_PACK, STARTER_PACK, Set};
pub use world::{Whereabouts, World};
