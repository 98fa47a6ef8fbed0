//! What happens to an approval, step by step: each is a row.

use std::sync::Arc;

use serde::Serialize;

use super::{Facts, Origin, Verdict, WallTime, origin::named};

/// One step of an approval's life. All of them have the same `id`, and so has the statement that it lets pass.
#[derive(Clone, Debug)]
pub struct Approval {
    pub time: WallTime,
    pub action: ApprovalAction,
    pub id: Arc<str>,
    /// Who took the step: whoever sent the statement, or whoever decided about it.
    pub origin: Arc<Origin>,
    /// The first of the rules that want it.
    pub rule: Arc<str>,
    /// What that rule wants: `hold` or `ticket`.
    pub verdict: Verdict,
    /// Of the statement.
    pub facts: Option<Arc<Facts>>,
    /// The statement as it was sent.
    pub text: Option<Arc<str>>,
    /// For people, without literals of the statement.
    pub message: String,
    /// By stable names, as in `needed`.
    pub counts: Vec<(Arc<str>, u64)>,
    /// Of the statement's execution.
    pub rows: Option<u64>,
    pub duration_us: Option<u64>,
    pub error_code: Option<String>,
}

named! {
    #[derive(PartialOrd, Ord)]
    ApprovalAction {
        Requested = "requested",
        /// Somebody has approved; it may take more than one.
        Approved = "approved",
        Denied = "denied",
        Expired = "expired",
        /// Somebody wanted to use or to decide it who may not, or for something else.
        Refused = "refused",
        /// The statement passes.
        Used = "used",
        /// It has ended, in whatever way.
        Executed = "executed",
    }
}
