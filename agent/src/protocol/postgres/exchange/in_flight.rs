//! The requests that the server has yet to answer, in their order.

use std::{collections::VecDeque, sync::Arc};

use super::super::tables::Prepared;
use crate::event::{BootTime, Statement};

/// A request that the server has yet to answer.
#[derive(Debug)]
pub(super) struct Request {
    pub at: BootTime,
    pub kind: Kind,
    /// The statement that ends with this request's answer. Boxed, since most requests have none.
    pub statement: Option<Box<Statement>>,
}

#[derive(Debug)]
pub(super) enum Kind {
    /// `StartupMessage`, answered by authentication and `ReadyForQuery`.
    Startup,
    Query {
        segment: u64,
    },
    FunctionCall {
        segment: u64,
    },
    Parse {
        /// None if not even the name was captured.
        prepared: Option<Arc<Prepared>>,
        previous: Option<Arc<Prepared>>,
        bytes: u64,
    },
    Bind {
        serial: u64,
        prepared: Option<Arc<Prepared>>,
        bytes: u64,
    },
    Describe {
        statement: Option<Arc<Prepared>>,
    },
    Close {
        statement: Option<Arc<Prepared>>,
    },
    Execute {
        /// The portal, or 0 for one that is not known.
        serial: u64,
        prepared: Option<Arc<Prepared>>,
        max_rows: u32,
    },
    Sync {
        segment: u64,
    },
    /// `CopyDone` or `CopyFail`: not answered, but it ends the time in which `Sync` is ignored.
    CopyEnd,
}

impl Request {
    /// A request that runs nothing by itself.
    pub fn new(at: BootTime, kind: Kind) -> Request {
        Request { at, kind, statement: None }
    }

    pub fn running(at: BootTime, kind: Kind, statement: Box<Statement>) -> Request {
        Request { at, kind, statement: Some(statement) }
    }

    /// The stretch that this request ends with a `ReadyForQuery`.
    pub fn ends_segment(&self) -> Option<u64> {
        match self.kind {
            Kind::Startup => Some(0),
            Kind::Query { segment } | Kind::FunctionCall { segment } | Kind::Sync { segment } => {
                Some(segment)
            }
            _ => None,
        }
    }

    fn is_sync(&self) -> bool {
        matches!(self.kind, Kind::Sync { .. })
    }

    fn is_copy_end(&self) -> bool {
        matches!(self.kind, Kind::CopyEnd)
    }
}

/// The requests in flight, oldest first.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    queue: VecDeque<Request>,
}

impl InFlight {
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub fn push(&mut self, request: Request) {
        self.queue.push_back(request);
    }

    pub fn pop(&mut self) -> Option<Request> {
        self.queue.pop_front()
    }

    pub fn oldest(&self) -> Option<&Request> {
        self.queue.front()
    }

    pub fn oldest_mut(&mut self) -> Option<&mut Request> {
        self.queue.front_mut()
    }

    pub fn newest(&self) -> Option<&Request> {
        self.queue.back()
    }

    /// The number of the oldest statement that has not ended.
    pub fn oldest_sequence(&self) -> Option<u64> {
        let statements = self.queue.iter().filter_map(|request| request.statement.as_deref());
        statements.map(|statement| statement.sequence).min()
    }

    /// The statements that have not ended.
    pub fn statements(&mut self) -> impl Iterator<Item = &mut Statement> {
        self.queue.iter_mut().filter_map(|request| request.statement.as_deref_mut())
    }

    /// Whether one of them may change the session's settings, by running a statement or by ending its
    /// transaction.
    pub fn may_change_settings(&self) -> bool {
        // The newest first: of a long pipeline they tell at once.
        self.queue.iter().rev().any(|request| {
            !matches!(
                request.kind,
                Kind::Parse { .. }
                    | Kind::Bind { .. }
                    | Kind::Describe { .. }
                    | Kind::Close { .. }
                    | Kind::CopyEnd
            )
        })
    }

    /// The next `Execute` that goes on with a portal whose statement has none in flight.
    pub fn continuing(&mut self, serial: u64) -> Option<&mut Request> {
        self.queue.iter_mut().find(|request| {
            request.statement.is_none()
                && matches!(request.kind, Kind::Execute { serial: of, .. } if of == serial)
        })
    }

    /// Whether at most one `ReadyForQuery` is to come.
    pub fn is_one_segment(&self) -> bool {
        self.queue.iter().filter(|request| request.ends_segment().is_some()).count() <= 1
    }

    /// Takes out what stands before the one request that runs something; false if it is not one.
    pub fn skip_to_only_run(&mut self) -> bool {
        let mut runs = self.queue.iter().enumerate().filter(|(_, request)| {
            matches!(
                request.kind,
                Kind::Query { .. } | Kind::Execute { .. } | Kind::FunctionCall { .. }
            )
        });
        let (Some((index, _)), None) = (runs.next(), runs.next()) else { return false };
        self.queue.drain(..index);
        true
    }

    /// Takes out what stands before the next `Sync`, or everything; gives it with that `Sync`'s stretch.
    pub fn cut_before_sync(&mut self) -> (VecDeque<Request>, Option<u64>) {
        let sync = self.queue.iter().position(Request::is_sync);
        let rest = self.queue.split_off(sync.unwrap_or(self.queue.len()));
        let cut = std::mem::replace(&mut self.queue, rest);
        (cut, self.queue.front().and_then(Request::ends_segment))
    }

    /// Takes out the ends of copies that come first: nothing answers them.
    pub fn pass_copy_ends(&mut self) {
        while self.oldest().is_some_and(Request::is_copy_end) {
            self.queue.pop_front();
        }
    }

    /// Takes out the `Sync`s that the server ignores because the oldest request reads copy data; gives
    /// whether the end of that data was seen already.
    pub fn pass_copy_in(&mut self) -> bool {
        let mut ended = false;
        let mut first = true;
        self.queue.retain(|request| {
            let keep = first || ended || !(request.is_sync() || request.is_copy_end());
            ended |= !first && request.is_copy_end();
            first = false;
            keep
        });
        ended
    }
}
