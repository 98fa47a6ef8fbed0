//! What a session must know of those who judge: a text becomes a reading, a reading is let pass or denied.

use std::{borrow::Cow, sync::Arc};

use serde::{Deserialize, Serialize};

use super::report::{Report, Severity};
use crate::event::{Claims, Facts};

/// Judges what one client wants to do.
pub trait Court {
    /// What a text does. `None`: nobody can tell how the server will read it.
    fn read(&mut self, text: Option<&str>, conforming_strings: Option<bool>) -> Arc<Reading>;

    /// Whether it may go to the server. Whoever has no permit can't send it.
    fn judge(&mut self, reading: &Reading) -> Result<Permit, Denial>;

    /// A call by object identifier: there is no text to read.
    fn judge_call(&mut self) -> Result<Permit, Denial>;

    /// A statement is denied; `token` stands for it at the server.
    fn denied(&mut self, token: &str, denial: &Denial, text: Option<&str>);

    /// The server has let the client in.
    fn authenticated(&mut self, method: &'static str);

    /// The client calls itself so from now on.
    fn renamed(&mut self, application: &str);
}

/// A text with all that is known of it.
#[derive(Debug)]
pub struct Reading {
    pub text: Option<Arc<str>>,
    /// Statement by statement, in their order; at least one.
    pub statements: Vec<Arc<Facts>>,
    pub claims: Option<Arc<Claims>>,
}

impl Reading {
    pub(super) fn weight(&self) -> usize {
        self.text.as_ref().map_or(0, |text| text.len()) + 256
    }
}

/// Shows that somebody has judged.
#[derive(Debug, PartialEq, Eq)]
pub struct Permit(());

impl Permit {
    pub(super) fn given() -> Self {
        Self(())
    }
}

/// Why a statement doesn't go to the server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Denial {
    /// SQLSTATE.
    pub code: Cow<'static, str>,
    pub rule: Arc<str>,
    pub message: Arc<str>,
    pub detail: Arc<str>,
    pub hint: Cow<'static, str>,
}

/// `insufficient_privilege`
pub const DENIED: &str = "42501";
/// `configuration_limit_exceeded`
const TOO_MUCH: &str = "53400";

impl Denial {
    /// The guard can't follow what the client wants.
    pub(super) fn limit(message: &str, hint: &'static str) -> Self {
        Self {
            code: Cow::Borrowed(TOO_MUCH),
            rule: "guard:limit".into(),
            message: message.into(),
            detail: "rule guard:limit".into(),
            hint: Cow::Borrowed(hint),
        }
    }

    /// As the client is told.
    pub(super) fn encode(&self) -> Vec<u8> {
        Report {
            severity: Severity::Error,
            code: &self.code,
            message: &self.message,
            detail: Some(&self.detail),
            hint: Some(&self.hint),
        }
        .encode()
    }
}
