//! How things leave this host: bounded queues, patience with receivers, requests over HTTP.

mod failure;
mod http;
mod patience;
mod pem;
mod queue;
#[cfg(test)]
pub mod receiver;

use std::borrow::Cow;

pub use self::{
    failure::Failure,
    http::{Answer, Client, Headers, StatusCode, Tls},
    patience::{Ending, Patience},
    pem::read as read_pem,
    queue::{Limits, Queue},
};

/// What requests say of who sends them; `purpose` is a word.
pub fn user_agent(purpose: &str) -> String {
    format!("dbwarden/{} {purpose}", env!("CARGO_PKG_VERSION"))
}

/// The first `max_bytes` of it, and whether there was more by the last character.
pub fn cut(text: &str, max_bytes: usize) -> Cow<'_, str> {
    if text.len() <= max_bytes {
        return Cow::Borrowed(text);
    }
    let end = (0..=max_bytes).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    Cow::Owned(format!("{}…", &text[..end]))
}

/// What a stranger says, for a line of the status.
pub fn shortened(words: &str) -> String {
    const CHARS: usize = 300;
    let mut line = words.trim().chars().map(|c| if c.is_control() { ' ' } else { c });
    let start: String = line.by_ref().take(CHARS).collect();
    match line.next() {
        Some(_) => start + "…",
        None => start,
    }
}
