//! What the guard asks for a statement, and what it is answered.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::Binding;
use crate::event::{ConnectionId, Facts, Verdict};

/// A statement wants to pass.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ask {
    /// The session's number in the guard.
    pub number: u64,
    pub connection: ConnectionId,
    /// It waits (`hold`), or comes again (`ticket`).
    pub verdict: Verdict,
    /// All of them must be content; the worst first.
    pub needs: Vec<Need>,
    pub binding: Binding,
    /// The text without secrets.
    pub shown: String,
    pub facts: Arc<Facts>,
    /// What of that isn't said by its text, in words.
    pub behind: Vec<String>,
    /// Rows that the planner expects, and how much of the table that is.
    pub estimated_rows: Option<u64>,
    pub estimated_percent: Option<u8>,
    /// As of now: an application may have another name than at its start.
    pub application: Option<String>,
    pub principal_rule: Option<String>,
    /// It has waited for this one already.
    pub waits_for: Option<Arc<str>>,
}

/// What one rule wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Need {
    pub rule: Arc<str>,
    /// The rule's own words.
    pub message: Arc<str>,
    /// Groups; who approves is in one of them.
    pub approvers: Vec<Arc<str>>,
    pub approvals: u32,
    pub ttl: Option<Duration>,
}

/// What becomes of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// Once, and now.
    Pass {
        id: Arc<str>,
    },
    /// It fails now; the same passes when it has been approved.
    Ticket {
        id: Arc<str>,
        who: String,
        until: String,
        besides: Option<String>,
    },
    Wait {
        id: Arc<str>,
        who: String,
        until: String,
        besides: Option<String>,
    },
    /// It was approved: whoever waits says what it is bound to now.
    Again {
        id: Arc<str>,
    },
    Denied {
        id: Option<Arc<str>>,
        why: String,
    },
}

/// Why a statement doesn't wait any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Over {
    Cancelled,
    TimedOut,
    Left,
    /// The server did not say what it would be bound to.
    Unbound,
    /// Judged anew, it needs no approval any more, or is denied anyway.
    Moot,
}

impl Over {
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Cancelled => "its client has cancelled it",
            Self::TimedOut => "its client's statement_timeout was over",
            Self::Left => "its client has left",
            Self::Unbound => "the server did not say what it would be bound to",
            Self::Moot => "the rules judge it otherwise by now",
        }
    }
}
