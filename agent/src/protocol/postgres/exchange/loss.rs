//! What is still sure about requests and answers when some of them are missing.

use super::{
    super::{backend, deframer::Message},
    Exchange,
    answers::complete,
    in_flight::{Kind, Request},
    statements::is_single,
};
use crate::{
    event::{BootTime, Outcome, StatementKind},
    protocol::Sink,
};

/// How sure it is which request an answer belongs to.
///
/// PostgreSQL works off one request after the other and reads more only when it has answered all that
/// it has read (up to a `Sync` or a `Query`): new request bytes after an answer therefore prove that
/// everything before them is answered. [`Exchange::settle`] uses that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairing {
    /// What is in flight is exactly what is unanswered.
    Exact,
    /// In flight is all that is unanswered, and perhaps requests whose answer was missed.
    AnswersMissed,
    /// There may be unanswered requests that nobody saw.
    RequestsMissed,
}

impl Exchange {
    /// Request bytes are missing where whole messages may have been.
    pub fn requests_missed(&mut self, sink: &mut Sink<'_>) {
        self.unpair();
        // A name may have got another meaning meanwhile.
        self.prepared.clear();
        self.drop_portals(u64::MAX, Some(Outcome::Unknown), sink);
        self.failure.broken = None;
        self.statements.forget_request();
    }

    /// Response bytes are missing where whole messages may have been. If they were `lost`, and not
    /// left out by budget, requests may have been lost with them: that shows only when the next one
    /// comes, and an answer may belong to one that nobody saw.
    pub fn answers_missed(&mut self, lost: bool) {
        self.reported_conforming_strings = None;
        if lost && self.pairing != Pairing::RequestsMissed {
            return self.unpair();
        }
        if self.pairing == Pairing::Exact {
            self.stats.pairing_lost += 1;
            self.pairing = Pairing::AnswersMissed;
        }
        self.doubt();
    }

    /// An answer came that fits no request, or could not be seen: a request must have been missed.
    pub(super) fn unpair(&mut self) {
        self.stats.pairing_lost += 1;
        self.pairing = Pairing::RequestsMissed;
        self.doubt();
        self.failure.skipping = false;
        self.copy_in = false;
    }

    /// What was learnt about statements that have not ended may be less than all.
    fn doubt(&mut self) {
        for statement in self.in_flight.statements() {
            statement.outcome = match statement.outcome {
                Outcome::Suspended { .. } => Outcome::Suspended { rows: None },
                _ => Outcome::Unknown,
            };
        }
    }

    /// Everything in flight is answered, though not all answers were seen.
    pub fn settle(&mut self, answers_in_sync: bool, sink: &mut Sink<'_>) {
        let at = self.in_flight.newest().map(|request| request.at);
        self.end_all(at.unwrap_or_default(), sink);
        self.failure.skipping = false;
        self.copy_in = false;
        self.failure.broken = None;
        self.statements.forget_response();
        self.pairing = if answers_in_sync { Pairing::Exact } else { Pairing::AnswersMissed };
    }

    /// Ends all that is in flight without its answers.
    pub(super) fn end_all(&mut self, at: BootTime, sink: &mut Sink<'_>) {
        while let Some(request) = self.in_flight.pop() {
            self.end_unknown(request, at, sink);
        }
    }

    /// Ends a request whose answer was not seen, or not all of it.
    pub(super) fn end_unknown(&mut self, request: Request, at: BootTime, sink: &mut Sink<'_>) {
        if let Kind::Execute { serial, max_rows: 1.., .. } = request.kind {
            // How far its portal has got is not known any more.
            let portal = self.portals.remove_serial(serial);
            self.end_portal(portal, Some(Outcome::Unknown), sink);
        }
        let Some(mut statement) = request.statement else { return };
        let known = match &statement.outcome {
            // The connection ended before the ReadyForQuery, but the answer was there.
            Outcome::Failed { .. } | Outcome::Empty => true,
            Outcome::Done { .. } => {
                statement.kind == StatementKind::Simple && is_single(statement.text.as_deref())
            }
            _ => false,
        };
        if !known {
            statement.outcome = Outcome::Unknown;
        }
        self.statements.end(statement, at, sink);
    }

    /// Takes what certainly belongs to the only statement in flight, and nothing else.
    pub(super) fn uncertain_answer(&mut self, message: &Message<'_>, sink: &mut Sink<'_>) {
        let one_segment = self.in_flight.is_one_segment();
        if message.tag == backend::READY_FOR_QUERY {
            self.ready(message, sink);
            if one_segment {
                self.pairing = Pairing::Exact;
            }
            return;
        }
        let ends = matches!(
            message.tag,
            backend::COMMAND_COMPLETE
                | backend::EMPTY_QUERY_RESPONSE
                | backend::PORTAL_SUSPENDED
                | backend::ERROR_RESPONSE
        );
        if !(ends && one_segment && self.in_flight.skip_to_only_run()) {
            return;
        }
        let Some(request) = self.in_flight.oldest_mut() else { return };
        match (message.tag, &request.kind) {
            (backend::ERROR_RESPONSE, _) => self.error(message, sink),
            (backend::PORTAL_SUSPENDED, Kind::Query { .. }) => {}
            (_, Kind::Query { .. }) => {
                if let Some(statement) = &mut request.statement {
                    complete(statement, message);
                    // An earlier completion of the same text may have been missed.
                    if !is_single(statement.text.as_deref())
                        && let Outcome::Done { rows, .. } = &mut statement.outcome
                    {
                        *rows = None;
                    }
                }
            }
            (_, &Kind::Execute { serial, max_rows, .. }) => {
                let statement = request.statement.take();
                self.in_flight.pop();
                self.executed(message, statement, serial, max_rows, sink);
            }
            _ => {}
        }
    }
}
