//! A connection of a client to a pooler, and what it waits for.

use std::collections::VecDeque;

use crate::event::BootTime;

/// Requests of one front that wait for an answer; more make it one that may have asked for anything.
const MAX_WAITING: usize = 4_096;

#[derive(Debug)]
pub(super) struct Front<W> {
    pub who: W,
    /// As the client was told.
    pub in_transaction: bool,
    /// Until then it may have asked for what nobody saw.
    pub unsure_until: BootTime,
    pub gone_at: Option<BootTime>,
    /// Not known to have been passed on, in their order.
    waiting: VecDeque<Waiting>,
    /// The first that has no answer.
    unanswered: u64,
}

#[derive(Debug)]
struct Waiting {
    sequence: u64,
    print: u64,
}

impl<W> Front<W> {
    pub fn new(who: W) -> Self {
        Self {
            who,
            in_transaction: false,
            unsure_until: BootTime(0),
            gone_at: None,
            waiting: VecDeque::new(),
            unanswered: 1,
        }
    }

    /// False if there is no room.
    pub fn ask(&mut self, sequence: u64, print: u64) -> bool {
        self.waiting.push_back(Waiting { sequence, print });
        self.waiting.len() <= MAX_WAITING
    }

    /// Gives the prints of those that have their answers.
    pub fn answered(&mut self, unanswered: u64) -> Vec<u64> {
        self.unanswered = unanswered;
        let n = self.waiting.iter().take_while(|waiting| waiting.sequence < unanswered).count();
        self.waiting.drain(..n).map(|waiting| waiting.print).collect()
    }

    /// The first of that print was passed on, and with it all before: gives their prints.
    pub fn passed_on(&mut self, print: u64) -> Vec<u64> {
        let Some(at) = self.waiting.iter().position(|waiting| waiting.print == print) else {
            return Vec::new();
        };
        self.waiting.drain(..=at).map(|waiting| waiting.print).collect()
    }

    pub fn waits_with(&self, print: u64) -> bool {
        self.waiting.iter().any(|waiting| waiting.print == print)
    }

    /// Whether nothing that it asked for before a request of that print has yet to be answered.
    pub fn is_next(&self, print: u64) -> bool {
        let newest = self.waiting.iter().rfind(|waiting| waiting.print == print);
        newest.is_some_and(|waiting| waiting.sequence <= self.unanswered)
    }

    /// Nothing of it can be on its way to the database.
    pub fn is_quiet(&self) -> bool {
        self.waiting.is_empty()
    }

    pub fn forget(&mut self) -> Vec<u64> {
        self.waiting.drain(..).map(|waiting| waiting.print).collect()
    }
}
