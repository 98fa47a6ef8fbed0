//! Why a receiver is not known to have something.

use std::time::Duration;

use super::shortened;

/// It is not known to have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub why: String,
    /// The same can go well another time.
    pub is_passing: bool,
    /// When, if the receiver says so.
    pub again_after: Option<Duration>,
}

impl Failure {
    pub fn passing(why: impl Into<String>) -> Self {
        Self { why: shortened(&why.into()), is_passing: true, again_after: None }
    }

    pub fn final_(why: impl Into<String>) -> Self {
        Self { why: shortened(&why.into()), is_passing: false, again_after: None }
    }
}
