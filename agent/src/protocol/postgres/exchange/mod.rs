//! Pairs requests with their answers, and makes statements of them.
//!
//! | room | what |
//! |---|---|
//! | [`requests`] | what the client asks: `Query`, `FunctionCall`, `Sync` |
//! | [`extended`] | what it asks in parts: `Parse`, `Bind`, `Describe`, `Execute`, `Close` |
//! | [`copy`] | the data that it sends for a COPY |
//! | [`in_flight`] | requests that wait for their answers |
//! | [`answers`] | the answers, each given to its request |
//! | [`failure`] | an error, and what the server ignores after it |
//! | [`session`] | what the server says of the session itself |
//! | [`loss`] | what is still sure when requests or answers are missing |
//! | [`statements`] | statements from their first request byte to the sink |

mod answers;
mod copy;
mod extended;
mod failure;
mod in_flight;
mod loss;
mod requests;
mod session;
mod statements;

use std::sync::Arc;

use super::{
    deframer::Message,
    print,
    tables::{Portal, Portals, PreparedTable},
};
use crate::{
    event::{BootTime, Outcome, RequestPrint, SessionEvent, TransactionStatus},
    protocol::{Limits, Sink, Stats},
};

pub(super) use loss::Pairing;

use failure::Failure;
use in_flight::{InFlight, Kind, Request};
use statements::Statements;

#[derive(Debug)]
pub(super) struct Exchange {
    limits: Limits,
    /// What came before it in the session included; see [`Exchange::stats`].
    pub stats: Stats,
    pub pairing: Pairing,
    /// The newest answer was a `ReadyForQuery`.
    pub quiet: bool,
    pub backend_pid: Option<u32>,
    /// Somebody wants to know what is asked before it is answered.
    pub tells_requests: bool,
    authentication: &'static str,
    authenticated: bool,
    /// The newest value that the server has reported, while no report can have been missed.
    reported_conforming_strings: Option<bool>,

    in_flight: InFlight,
    prepared: PreparedTable,
    portals: Portals,
    failure: Failure,
    statements: Statements,
    /// Counts the stretches between `Sync`s, `Query`s and `FunctionCall`s.
    segment: u64,
    /// Counts the portals.
    serial: u64,
    /// The server reads copy data, and ignores `Sync`.
    copy_in: bool,
    /// The text of the newest `Query`: clients repeat themselves.
    newest_text: Option<Arc<str>>,
    unnamed: Arc<str>,
}

impl Exchange {
    pub fn new(limits: Limits, stats: Stats) -> Exchange {
        Exchange {
            limits,
            stats,
            pairing: Pairing::Exact,
            quiet: false,
            backend_pid: None,
            tells_requests: false,
            authentication: "trust",
            authenticated: false,
            reported_conforming_strings: None,
            in_flight: InFlight::default(),
            prepared: PreparedTable::default(),
            portals: Portals::default(),
            failure: Failure::default(),
            statements: Statements::default(),
            segment: 1,
            serial: 0,
            copy_in: false,
            newest_text: None,
            unnamed: Arc::from(""),
        }
    }

    /// With the statements that were told since.
    pub fn stats(&self) -> Stats {
        Stats { statements: self.stats.statements + self.statements.told, ..self.stats }
    }

    pub fn joined_midstream(&self) -> bool {
        self.statements.joined_midstream
    }

    /// The connection has said who it is.
    pub fn startup(&mut self, at: BootTime, replication: bool, sink: &mut Sink<'_>) {
        self.statements.replication = replication;
        self.enqueue(Request::new(at, Kind::Startup), sink);
    }

    /// The connection was open before it was watched.
    pub fn join(&mut self, sink: &mut Sink<'_>) {
        self.statements.joined_midstream = true;
        self.authenticated = true;
        self.requests_missed(sink);
    }

    /// Response bytes that no message was made of.
    pub fn response_skipped(&mut self, len: u64, lost: u64) {
        self.statements.answered(len, lost);
    }

    /// The connection has ended.
    pub fn close(&mut self, at: BootTime, sink: &mut Sink<'_>) {
        self.finish_broken(sink);
        self.end_all(at, sink);
        self.drop_portals(u64::MAX, None, sink);
        self.statements.tell(None, sink);
    }

    /// Tells of a new statement's request, if somebody wants to know.
    fn tell_asked(&self, print: RequestPrint, sink: &mut Sink<'_>) {
        if self.tells_requests {
            sink(SessionEvent::Asked { sequence: self.statements.newest(), request: print });
        }
    }

    /// Likewise of one whose whole message is the request.
    fn tell_message(&self, message: &Message<'_>, sink: &mut Sink<'_>) {
        if self.tells_requests {
            self.tell_asked(print::of_message(message), sink);
        }
    }

    /// Tells which statements have their answers by now, if somebody wants to know.
    fn tell_ready(&self, status: Option<TransactionStatus>, sink: &mut Sink<'_>) {
        if !self.tells_requests {
            return;
        }
        let exact = match self.pairing {
            Pairing::Exact => true,
            // Nothing can be unanswered that is not in flight.
            Pairing::AnswersMissed => self.in_flight.is_empty(),
            Pairing::RequestsMissed => false,
        };
        let status = status.filter(|_| exact);
        let newest = self.statements.newest();
        let unanswered = self.in_flight.oldest_sequence().unwrap_or(newest + 1);
        sink(SessionEvent::Ready { status, unanswered });
    }

    fn enqueue(&mut self, request: Request, sink: &mut Sink<'_>) {
        if self.in_flight.len() >= self.limits.in_flight.max(1)
            && let Some(oldest) = self.in_flight.pop()
        {
            self.stats.in_flight_evicted += 1;
            self.end_unknown(oldest, request.at, sink);
            self.unpair();
        }
        self.in_flight.push(request);
    }

    /// Closes the portals that were bound in the stretch `until` or earlier.
    fn drop_portals(&mut self, until: u64, outcome: Option<Outcome>, sink: &mut Sink<'_>) {
        while let Some(portal) = self.portals.pop_until(until) {
            self.end_portal(Some(portal), outcome.clone(), sink);
        }
    }

    /// Ends the statement of a portal that was left before its last row.
    fn end_portal(
        &mut self,
        portal: Option<Portal>,
        outcome: Option<Outcome>,
        sink: &mut Sink<'_>,
    ) {
        let Some(mut statement) = portal.and_then(|portal| portal.suspended) else { return };
        if let Some(outcome) = outcome {
            statement.outcome = outcome;
        }
        self.statements.hold(statement, sink);
    }
}

/// The text of request bytes; a character that the end of the kept bytes cuts is left out.
fn decode(bytes: &[u8], whole: bool) -> Arc<str> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Arc::from(text),
        Err(error) if !whole && error.error_len().is_none() => {
            let valid = bytes.get(..error.valid_up_to()).unwrap_or_default();
            Arc::from(String::from_utf8_lossy(valid))
        }
        Err(_) => Arc::from(String::from_utf8_lossy(bytes)),
    }
}
