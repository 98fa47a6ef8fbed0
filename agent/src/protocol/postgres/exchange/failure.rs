//! An error, and what the server ignores after it, up to the next `Sync`.

use std::{collections::VecDeque, sync::Arc};

use super::{
    super::{
        backend::Report,
        deframer::Message,
        tables::{Portals, Prepared, PreparedTable},
    },
    Exchange,
    in_flight::{Kind, Request},
    session::notice,
    statements::describe,
};
use crate::{
    event::{BootTime, Outcome, SessionEvent, Statement},
    protocol::Sink,
};

/// What is left of the newest error.
#[derive(Debug, Default)]
pub(super) struct Failure {
    /// The server ignores everything up to `Sync`, which has not come yet.
    pub skipping: bool,
    pub broken: Option<Broken>,
    /// What the requests would have defined that the server ignores: their `Execute`s have a text.
    pub prepared: PreparedTable,
    pub portals: Portals,
}

/// A `Parse` or `Bind` that failed: the `Execute` it was for gets the error, if one comes.
#[derive(Debug)]
pub(super) struct Broken {
    prepared: Option<Arc<Prepared>>,
    /// The failed portal, or 0 where the `Parse` failed.
    serial: u64,
    at: BootTime,
    failed: BootTime,
    bytes: u64,
    outcome: Outcome,
}

impl Broken {
    fn is_for(&self, serial: u64, prepared: Option<&Arc<Prepared>>) -> bool {
        match (self.serial, &self.prepared, prepared) {
            (0, Some(failed), Some(prepared)) => Arc::ptr_eq(failed, prepared),
            // Neither name was captured.
            (0, None, None) => true,
            (0, _, _) => false,
            (failed, _, _) => failed == serial,
        }
    }
}

impl Failure {
    /// The error for an `Execute` of what failed.
    pub fn take_for(&mut self, serial: u64, prepared: Option<&Arc<Prepared>>) -> Option<Broken> {
        self.broken.take_if(|broken| broken.is_for(serial, prepared))
    }
}

impl Exchange {
    /// An `ErrorResponse`.
    pub(super) fn error(&mut self, message: &Message<'_>, sink: &mut Sink<'_>) {
        let report = Report::read(message.body);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let outcome = Outcome::Failed { code: text(report.code), message: text(report.message) };
        self.copy_in = false;
        let Some(request) = self.in_flight.oldest_mut() else { return notice(report, sink) };
        match &request.kind {
            Kind::Startup => {
                if self.authenticated {
                    return notice(report, sink);
                }
                sink(SessionEvent::Refused {
                    code: &String::from_utf8_lossy(report.code),
                    message: &String::from_utf8_lossy(report.message),
                });
                return;
            }
            Kind::Query { .. } | Kind::FunctionCall { .. } => {
                if let Some(statement) = &mut request.statement {
                    statement.outcome = outcome;
                }
                return;
            }
            Kind::Sync { .. } => {
                // The commit of the implicit transaction failed.
                if let Some(statement) = self.statements.held() {
                    statement.outcome = outcome;
                    return;
                }
                return notice(report, sink);
            }
            _ => {}
        }
        self.abort(message.at, outcome, sink);
    }

    /// The oldest request has failed: the server ignores the rest up to `Sync`.
    fn abort(&mut self, at: BootTime, outcome: Outcome, sink: &mut Sink<'_>) {
        let (mut ignored, sync) = self.in_flight.cut_before_sync();
        self.failure.skipping = sync.is_none();
        self.failure.prepared.clear();
        self.failure.portals = Portals::default();
        for request in &ignored {
            if let Kind::Parse { prepared: Some(prepared), .. } = &request.kind {
                let (name, prepared) = (prepared.name.as_bytes(), prepared.clone());
                self.failure.prepared.define(name, prepared, &self.limits, &mut self.stats);
            }
        }
        let Some(failed) = ignored.pop_front() else { return };
        self.undo(&failed);
        match failed.kind {
            Kind::Parse { prepared, bytes, .. } => {
                let broken =
                    Broken { prepared, serial: 0, at: failed.at, failed: at, bytes, outcome };
                self.failure.broken = Some(broken);
            }
            Kind::Bind { serial, prepared, bytes } => {
                let broken = Broken { prepared, serial, at: failed.at, failed: at, bytes, outcome };
                self.failure.broken = Some(broken);
            }
            _ => {
                if let Some(mut statement) = failed.statement {
                    statement.outcome = outcome;
                    self.statements.end(statement, at, sink);
                }
            }
        }
        self.ignore(ignored, at, sink);
        if !self.failure.skipping {
            self.finish_broken(sink);
            self.drop_portals(sync.unwrap_or(self.segment), None, sink);
        }
    }

    /// Ends the statements of requests that stood behind the one that failed `at` a time.
    fn ignore(&mut self, requests: VecDeque<Request>, at: BootTime, sink: &mut Sink<'_>) {
        for request in requests.iter().rev() {
            self.undo(request);
        }
        for request in requests {
            let Some(statement) = request.statement else { continue };
            let broken = match &request.kind {
                // One whose portal's name was lost is taken for the one that failed.
                Kind::Execute { serial: 0, prepared: None, .. } if statement.lost_bytes > 0 => {
                    self.failure.broken.take()
                }
                Kind::Execute { serial, prepared, .. } => {
                    self.failure.take_for(*serial, prepared.as_ref())
                }
                _ => None,
            };
            match broken {
                Some(broken) => self.end_broken(statement, broken, sink),
                None => self.statements.skip(statement, at, sink),
            }
        }
    }

    /// Takes back what a request that the server ignored or refused would have defined.
    fn undo(&mut self, request: &Request) {
        match &request.kind {
            Kind::Parse { prepared: Some(prepared), previous, .. } => {
                let name = prepared.name.as_bytes();
                self.prepared.remove(name);
                // A failed Parse has dropped the unnamed statement.
                if let (false, Some(previous)) = (name.is_empty(), previous) {
                    self.prepared.define(name, previous.clone(), &self.limits, &mut self.stats);
                }
            }
            Kind::Close { statement: Some(statement) } => {
                let name = statement.name.as_bytes();
                self.prepared.define(name, statement.clone(), &self.limits, &mut self.stats);
            }
            _ => {}
        }
    }

    pub(super) fn end_broken(
        &mut self,
        mut statement: Box<Statement>,
        broken: Broken,
        sink: &mut Sink<'_>,
    ) {
        statement.outcome = broken.outcome;
        statement.start = statement.start.min(broken.at);
        self.statements.end(statement, broken.failed, sink);
    }

    /// No `Execute` came for the text that failed: it was tried all the same.
    pub(super) fn finish_broken(&mut self, sink: &mut Sink<'_>) {
        let Some(broken) = self.failure.broken.take() else { return };
        let mut statement = self.statements.begin_unrun(broken.at, broken.bytes);
        describe(&mut statement, broken.prepared.as_deref());
        self.end_broken(statement, broken, sink);
    }
}
