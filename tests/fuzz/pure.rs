//! The stages that are fuzzed, compiled from the agent's own sources.

/// What sessions of the guard say of statements that wait for people.
#[path = "../../agent/src/approval"]
pub mod approval {
    pub mod ask;
    pub mod binding;
    pub use ask::{Answer, Ask, Need, Over};
    pub use binding::{Binding, Context, Who};
}
#[path = "../../agent/src/event/mod.rs"]
pub mod event;
/// What stands between two sides that may say anything, and the test that plays both.
#[path = "../../agent/src/guard"]
pub mod guard {
    pub mod court;
    pub mod hostile;
    pub mod masking;
    pub mod report;
    pub mod session;
}
/// What verification parses of a ledger's folder.
#[path = "../../agent/src/ledger"]
pub mod ledger {
    pub mod blocks;
    pub mod checkpoint;
    pub mod entry;
    pub mod merkle;
    pub mod note;
    pub mod trail;
}
#[path = "../../agent/src/policy/mod.rs"]
pub mod policy;
/// What parses the words of clients, and what `policy` knows places by.
#[path = "../../agent/src/principal"]
pub mod principal {
    pub mod claims;
    mod network;
    pub use network::Network;
}
#[path = "../../agent/src/protocol/mod.rs"]
pub mod protocol;
#[path = "../../agent/src/statement/mod.rs"]
pub mod statement;
#[path = "../../agent/src/stream/mod.rs"]
pub mod stream;
