//! What the server answers, given to the request it belongs to.

use std::sync::Arc;

use super::{
    super::{
        backend::{self, Report},
        deframer::Message,
        reader::Reader,
        tables::Prepared,
    },
    Exchange, Pairing,
    in_flight::Kind,
    session::notice,
};
use crate::{
    event::{Outcome, Statement, Tag, TransactionStatus},
    protocol::Sink,
};

impl Exchange {
    /// A message of the server.
    pub fn response(&mut self, message: &Message<'_>, sink: &mut Sink<'_>) {
        self.statements.answered(message.wire_len(), message.lost);
        match message.tag {
            backend::NOTICE_RESPONSE => return notice(Report::read(message.body), sink),
            backend::PARAMETER_STATUS => return self.parameter_status(message.body, sink),
            backend::NOTIFICATION_RESPONSE | backend::NEGOTIATE_PROTOCOL_VERSION => return,
            backend::BACKEND_KEY_DATA => {
                self.backend_pid = Reader::new(message.body).u32();
                return;
            }
            backend::AUTHENTICATION => return self.authentication(message.body, sink),
            _ => {}
        }
        self.statements.first_byte(message.started);
        self.quiet = message.tag == backend::READY_FOR_QUERY;
        // What the server said before the request came can't be its answer.
        if self.in_flight.oldest().is_some_and(|request| message.at < request.at) {
            self.unpair();
        }
        match self.pairing {
            Pairing::Exact => self.answer(message, sink),
            Pairing::AnswersMissed => self.uncertain_answer(message, sink),
            Pairing::RequestsMissed => {
                if message.tag == backend::READY_FOR_QUERY {
                    self.statements.forget_response();
                    self.tell_ready(None, sink);
                }
            }
        }
    }

    /// An answer that is surely the oldest request's.
    fn answer(&mut self, message: &Message<'_>, sink: &mut Sink<'_>) {
        use backend::*;
        self.in_flight.pass_copy_ends();
        if message.tag == ERROR_RESPONSE {
            return self.error(message, sink);
        }
        if message.tag == READY_FOR_QUERY {
            return self.ready(message, sink);
        }
        let Some(request) = self.in_flight.oldest_mut() else { return self.unpair() };
        match (message.tag, &request.kind) {
            (PARSE_COMPLETE, Kind::Parse { .. })
            | (BIND_COMPLETE, Kind::Bind { .. })
            | (CLOSE_COMPLETE, Kind::Close { .. })
            | (ROW_DESCRIPTION | NO_DATA, Kind::Describe { .. }) => {
                self.in_flight.pop();
            }
            (PARAMETER_DESCRIPTION, Kind::Describe { statement }) => {
                let statement = statement.clone();
                self.parameter_description(statement, message.body);
            }
            (
                ROW_DESCRIPTION | DATA_ROW | COPY_OUT_RESPONSE | COPY_BOTH_RESPONSE | COPY_DATA
                | COPY_DONE,
                Kind::Query { .. } | Kind::Execute { .. },
            ) => {}
            (COPY_IN_RESPONSE, Kind::Query { .. } | Kind::Execute { .. }) => self.begin_copy_in(),
            (FUNCTION_CALL_RESPONSE, Kind::FunctionCall { .. }) => {
                if let Some(statement) = &mut request.statement {
                    statement.outcome = Outcome::Done { tag: Tag::default(), rows: None };
                }
            }
            (COMMAND_COMPLETE | EMPTY_QUERY_RESPONSE, Kind::Query { .. }) => {
                if let Some(statement) = &mut request.statement {
                    complete(statement, message);
                    if statement.outcome == Outcome::Unknown {
                        self.answers_missed(false);
                    }
                }
            }
            (
                COMMAND_COMPLETE | EMPTY_QUERY_RESPONSE | PORTAL_SUSPENDED,
                &Kind::Execute { serial, max_rows, .. },
            ) => {
                let statement = request.statement.take();
                self.in_flight.pop();
                self.executed(message, statement, serial, max_rows, sink);
            }
            _ => self.unpair(),
        }
    }

    /// An `Execute` was answered to its end.
    pub(super) fn executed(
        &mut self,
        message: &Message<'_>,
        statement: Option<Box<Statement>>,
        serial: u64,
        max_rows: u32,
        sink: &mut Sink<'_>,
    ) {
        if max_rows > 0
            && let Some(portal) = self.portals.by_serial(serial)
        {
            portal.limited = false;
        }
        let Some(mut statement) = statement else { return };
        // Nobody knows what an unknown portal has given before.
        let earlier = match statement.outcome {
            Outcome::Suspended { rows } => rows,
            _ => Some(0),
        };
        let earlier = earlier.filter(|_| serial != 0);
        if message.tag != backend::PORTAL_SUSPENDED {
            statement.outcome = Outcome::Unknown;
            complete(&mut statement, message);
            if let Outcome::Done { rows, .. } = &mut statement.outcome {
                *rows = rows.zip(earlier).map(|(rows, earlier)| rows.saturating_add(earlier));
            }
            return self.statements.end(statement, message.at, sink);
        }
        // The server stops exactly at the limit.
        let rows = earlier.map(|earlier| earlier.saturating_add(u64::from(max_rows)));
        statement.outcome = Outcome::Suspended { rows };
        self.statements.take_response(&mut statement, message.at);
        self.suspend(statement, serial, sink);
    }

    /// Keeps a statement whose portal has rows left for the `Execute` that goes on with it.
    fn suspend(&mut self, statement: Box<Statement>, serial: u64, sink: &mut Sink<'_>) {
        let next = if serial == 0 { None } else { self.in_flight.continuing(serial) };
        match (next, self.portals.by_serial(serial)) {
            (Some(request), portal) => {
                request.statement = Some(statement);
                if let Some(portal) = portal {
                    portal.limited = true;
                }
            }
            (None, Some(portal)) => portal.suspended = Some(statement),
            (None, None) => self.statements.hold(statement, sink),
        }
    }

    /// A `ReadyForQuery`: the stretch is over.
    pub(super) fn ready(&mut self, message: &Message<'_>, sink: &mut Sink<'_>) {
        let status = backend::ready_for_query(message.body);
        let mut ended = None;
        while let Some(request) = self.in_flight.pop() {
            ended = request.ends_segment();
            if let Some(mut statement) = request.statement {
                if ended.is_none() {
                    statement.outcome = Outcome::Unknown;
                }
                self.statements.end(statement, message.at, sink);
            }
            if ended.is_some() {
                break;
            }
        }
        let Some(segment) = ended else {
            self.unpair();
            return self.tell_ready(None, sink);
        };
        self.copy_in = false;
        if status == Some(TransactionStatus::Idle) {
            // Portals don't outlive their transaction.
            self.drop_portals(segment, None, sink);
        }
        self.statements.tell(status, sink);
        self.statements.forget_response();
        self.tell_ready(status, sink);
    }

    fn parameter_description(&mut self, statement: Option<Arc<Prepared>>, body: &[u8]) {
        let Some(statement) = statement else { return };
        let mut reader = Reader::new(body);
        let count = reader.u16().unwrap_or(0);
        let types: Box<[u32]> = (0..count).map_while(|_| reader.u32()).collect();
        let name = statement.name.as_bytes();
        let current = self.prepared.find(name).is_some_and(|known| Arc::ptr_eq(known, &statement));
        if current && types != statement.types {
            let described = Arc::new(Prepared { types, ..Prepared::clone(&statement) });
            self.prepared.define(name, described, &self.limits, &mut self.stats);
        }
    }
}

/// Adds a completion to a statement: a `Query` with several has their rows together.
pub(super) fn complete(statement: &mut Statement, message: &Message<'_>) {
    if message.tag == backend::EMPTY_QUERY_RESPONSE {
        statement.outcome = Outcome::Empty;
        return;
    }
    let Some((words, rows)) = backend::command_complete(message.body) else {
        statement.outcome = Outcome::Unknown;
        return;
    };
    let earlier = match &statement.outcome {
        Outcome::Done { rows, .. } => *rows,
        _ => None,
    };
    let rows = match (earlier, rows) {
        (Some(earlier), Some(rows)) => Some(earlier.saturating_add(rows)),
        (earlier, rows) => rows.or(earlier),
    };
    statement.outcome = Outcome::Done { tag: backend::tag(words), rows };
}
