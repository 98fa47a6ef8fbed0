//! What policy makes of a statement, or of a connection that a database opens.

use std::sync::Arc;

use serde::Serialize;

use super::{Destination, Facts, Origin, WallTime, origin::named};

named! {
    /// What becomes of a statement, from the mildest to the worst.
    #[derive(PartialOrd, Ord, Hash)]
    Verdict {
        Allow = "allow",
        /// It goes on, and is a finding.
        Flag = "flag",
        /// Of a connection that a client makes: it comes to its server through the guard.
        Guard = "guard",
        /// It goes on; labelled values of its answer are hidden.
        Mask = "mask",
        /// It waits in its session until somebody approves.
        Hold = "hold",
        /// It fails at once, and passes once when it has been approved.
        Ticket = "ticket",
        /// It fails.
        Deny = "deny",
        /// Its connection ends.
        Cut = "cut",
    }
}

named! {
    /// How much a finding matters.
    #[derive(PartialOrd, Ord, Hash)]
    Severity { Low = "low", Medium = "medium", High = "high", Critical = "critical" }
}

/// Shared by all statements that are judged alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Judgement {
    /// What became of it, where it was seen: the observed lane can but flag and cut.
    pub verdict: Verdict,
    /// The rule that decided.
    pub rule: Option<Arc<str>>,
    /// Worst first.
    pub findings: Vec<Finding>,
}

impl Judgement {
    /// Nothing speaks against it.
    pub fn allowed() -> Self {
        Self { verdict: Verdict::Allow, rule: None, findings: Vec::new() }
    }
}

/// What one rule has to say of a statement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub rule: Arc<str>,
    /// What the rule wants.
    pub verdict: Verdict,
    pub severity: Severity,
    /// For people, without anything of the statement.
    pub message: Arc<str>,
    /// It only says what would have happened.
    pub dry_run: bool,
}

/// A run of statements by the same sender with the same finding, or of connections to the same destination,
/// or trouble with the policies themselves: a row when it begins, and one when it is over.
#[derive(Clone, Debug)]
pub struct Episode {
    /// When it began, or when its last statement did.
    pub time: WallTime,
    pub began: WallTime,
    pub action: EpisodeAction,
    pub finding: Finding,
    /// Who sent the first statement.
    pub origin: Arc<Origin>,
    /// The first statement's in its connection; 0 where no statement is meant.
    pub sequence: u64,
    /// What the first statement did.
    pub facts: Option<Arc<Facts>>,
    /// Where the database connected to.
    pub destination: Option<Arc<Destination>>,
    /// By stable names, as in `statements` and `rows`.
    pub counts: Vec<(Arc<str>, u64)>,
}

named! {
    /// Which end of an episode a row tells of.
    EpisodeAction { Began = "began", Ended = "ended" }
}
