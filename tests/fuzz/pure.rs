//! The stages that are fuzzed, compiled from the agent's own sources.

#[path = "../../agent/src/event/mod.rs"]
pub mod event;
#[path = "../../agent/src/protocol/mod.rs"]
pub mod protocol;
#[path = "../../agent/src/statement/mod.rs"]
pub mod statement;
#[path = "../../agent/src/stream/mod.rs"]
pub mod stream;
