//! Who is at the client's end, as the rules name them, and what that rests on.

use std::sync::Arc;

use serde::Serialize;

use super::origin::named;

named! {
    /// What sort of actor it is.
    #[derive(Hash)]
    PrincipalKind { Human = "human", Service = "service", Ai = "ai", Unknown = "unknown" }
}

/// One rule's word about a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Principal {
    pub kind: PrincipalKind,
    pub name: Arc<str>,
    /// The rule's id; those that dbwarden brings along begin with `builtin:`.
    pub rule: Arc<str>,
    pub groups: Arc<[Arc<str>]>,
    /// Each condition of the rule with what met it, then what speaks against it.
    pub evidence: Vec<Evidence>,
    /// Of an AI, who launched it; itself without one.
    pub initiator: Option<Box<Principal>>,
}

/// Something that is known of a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Evidence {
    /// A field of the record, as in `unit`.
    pub fact: &'static str,
    pub value: String,
    pub strength: Strength,
}

named! {
    /// How much a piece of evidence proves.
    Strength {
        /// The kernel's or the server's own word, which the client can't choose.
        Strong = "strong",
        /// An unprivileged process can forge it in some situation.
        Weak = "weak",
        /// The client's own word.
        Claim = "claim",
    }
}
