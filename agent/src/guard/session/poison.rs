//! What the server gets instead of a statement that is denied: one that fails before it does anything.
//!
//! So it is the server itself that aborts the transaction, skips to `Sync` and says what state it is in, and
//! whatever the guard might get wrong about the answer, the denied statement was never sent. Only the words of
//! the error are exchanged on the way back; a text that nobody else can know tells which it is.

use std::collections::VecDeque;

use crate::{guard::court::Denial, protocol::postgres::frontend};

/// Denials in flight.
const MAX_WAITING: usize = 4_096;

/// Of one session.
#[derive(Debug)]
pub(super) struct Poisons {
    /// Begins each text; random, so that no client can write it.
    prefix: String,
    count: u64,
    waiting: VecDeque<(u64, Denial)>,
}

/// Begins the texts of all sessions: whoever reads the server's log may know it, and the observer does.
pub const WORD: &str = "dbwarden_";

impl Poisons {
    pub(super) fn new(nonce: u64) -> Self {
        Self { prefix: format!("{WORD}{nonce:016x}_"), count: 0, waiting: VecDeque::new() }
    }

    /// The text for the next denial: no statement of PostgreSQL begins with an identifier of its own. The
    /// comment is for whoever reads the server's log.
    pub(super) fn text(&mut self, denial: Denial) -> String {
        self.count += 1;
        let rule: String = denial
            .rule
            .chars()
            .filter(|c| c.is_ascii_alphanumeric() || ":-_.".contains(*c))
            .take(64)
            .collect();
        if self.waiting.len() >= MAX_WAITING {
            self.waiting.pop_front();
        }
        self.waiting.push_back((self.count, denial));
        format!("{}{} /* denied by {rule} */", self.prefix, self.count)
    }

    /// The word at the beginning of the newest text.
    pub(super) fn token(&self) -> String {
        format!("{}{}", self.prefix, self.count)
    }

    pub(super) fn are_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The denial that an error of the server stands for.
    pub(super) fn behind(&mut self, error: &[u8]) -> Option<Denial> {
        let prefix = self.prefix.as_bytes();
        let at = error.windows(prefix.len()).position(|window| window == prefix)?;
        let digits =
            error.get(at + prefix.len()..)?.iter().take_while(|byte| byte.is_ascii_digit());
        let number = digits
            .take(20)
            .try_fold(0_u64, |n, digit| n.checked_mul(10)?.checked_add(u64::from(digit - b'0')))?;
        while let Some((n, denial)) = self.waiting.pop_front() {
            if n == number {
                return Some(denial);
            }
        }
        None
    }

    /// Everything is answered: what waits was skipped by the server.
    pub(super) fn settle(&mut self) {
        self.waiting.clear();
    }
}

pub(super) fn query(text: &str) -> Vec<u8> {
    message(frontend::QUERY, &[text.as_bytes(), b"\0"])
}

/// Without parameters.
pub(super) fn parse(name: &[u8], text: &str) -> Vec<u8> {
    parse_with(name, text, b"\0\0")
}

/// `types`: all that stands behind the text.
pub(super) fn parse_with(name: &[u8], text: &str, types: &[u8]) -> Vec<u8> {
    message(frontend::PARSE, &[name, b"\0", text.as_bytes(), b"\0", types])
}

pub(super) fn message(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    let mut bytes = Vec::with_capacity(len + 5);
    bytes.push(tag);
    bytes.extend_from_slice(&(len as u32 + 4).to_be_bytes());
    parts.iter().for_each(|part| bytes.extend_from_slice(part));
    bytes
}
