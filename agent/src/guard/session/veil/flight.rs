//! What a client has asked and the server has yet to answer: whose description comes next, whose rows.

use std::{collections::VecDeque, sync::Arc};

use super::super::progress::TooMany;
use crate::guard::{court::Reading, masking::CopyColumn};

/// Requests that a client may have in flight. Nobody's driver comes near it.
const MAX_IN_FLIGHT: usize = 1 << 20;

/// The order of requests in flight.
#[derive(Debug, Default)]
pub(super) struct Flight {
    queue: VecDeque<(u64, Asked)>,
    /// Counts what came to stand in it.
    n_asked: u64,
}

#[derive(Debug)]
enum Asked {
    Describe {
        is_ours: bool,
    },
    Run {
        /// There may be several answers, up to `ReadyForQuery`.
        is_query: bool,
        run: Option<Box<Run>>,
    },
}

/// A `Query`, or an `Execute`, of a masked client.
#[derive(Clone, Debug)]
pub(in super::super) struct Run {
    /// All that it may be.
    pub readings: Arc<[Arc<Reading>]>,
    pub copies: Copies,
}

/// Whether it may copy something out to the client.
#[derive(Clone, Debug)]
pub(in super::super) enum Copies {
    Nothing,
    /// Columns that nobody masks.
    Plain,
    Masked(Arc<[Option<CopyColumn>]>),
}

/// What runs now, or next.
#[derive(Clone, Copy, Debug)]
pub(super) enum Running<'a> {
    Nothing,
    /// For a client that was not masked.
    Unveiled,
    Veiled(&'a Run),
}

impl Flight {
    pub(super) fn describe(&mut self, segment: u64, is_ours: bool) -> Result<(), TooMany> {
        self.push(segment, Asked::Describe { is_ours })
    }

    pub(super) fn run(
        &mut self,
        segment: u64,
        is_query: bool,
        run: Option<Run>,
    ) -> Result<(), TooMany> {
        self.push(segment, Asked::Run { is_query, run: run.map(Box::new) })
    }

    fn push(&mut self, segment: u64, asked: Asked) -> Result<(), TooMany> {
        if self.queue.len() >= MAX_IN_FLIGHT {
            return Err(TooMany);
        }
        self.queue.push_back((segment, asked));
        self.n_asked += 1;
        Ok(())
    }

    pub(super) fn asked(&self) -> u64 {
        self.n_asked
    }

    /// As it was when so much had been asked.
    pub(super) fn take_back(&mut self, asked: u64) {
        let surplus = usize::try_from(self.n_asked.saturating_sub(asked)).unwrap_or(usize::MAX);
        self.queue.truncate(self.queue.len().saturating_sub(surplus));
        self.n_asked = self.n_asked.min(asked);
    }

    /// A description has come, or that there is none; whether it is the answer to our own question.
    pub(super) fn described(&mut self) -> bool {
        let Some((_, Asked::Describe { is_ours })) = self.queue.front() else { return false };
        let is_ours = *is_ours;
        self.queue.pop_front();
        is_ours
    }

    pub(super) fn running(&self) -> Running<'_> {
        let mut runs = self.queue.iter().filter_map(|(_, asked)| match asked {
            Asked::Run { run, .. } => Some(run),
            Asked::Describe { .. } => None,
        });
        match runs.next() {
            None => Running::Nothing,
            Some(None) => Running::Unveiled,
            Some(Some(run)) => Running::Veiled(run),
        }
    }

    /// A part of it is over.
    pub(super) fn completed(&mut self) {
        if let Some((_, Asked::Run { is_query: false, .. })) = self.queue.front() {
            self.queue.pop_front();
        }
    }

    /// Up to this segment everything is answered, or skipped.
    pub(super) fn answered(&mut self, segment: u64) {
        while self.queue.front().is_some_and(|(of, _)| *of <= segment) {
            self.queue.pop_front();
        }
        if self.queue.is_empty() && self.queue.capacity() > SPARE {
            self.queue = VecDeque::new();
        }
    }
}

/// Room for so many is kept for the next ones.
const SPARE: usize = 16;
