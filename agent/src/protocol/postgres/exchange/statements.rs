//! A statement from its first request byte to the sink: what it is made of, and how it ends.

use super::super::{deframer::Message, tables::Prepared};
use crate::{
    event::{
        BootTime, Outcome, Parameter, SessionEvent, Statement, StatementKind, TransactionStatus,
    },
    protocol::Sink,
};

/// A list of more parameters is not kept for the next statement.
const SPARE_PARAMETERS: usize = 32;

/// Makes the statements of one session and ends them.
///
/// A statement that was told gives its memory to the next one.
#[derive(Debug, Default)]
pub(super) struct Statements {
    pub joined_midstream: bool,
    /// The session speaks the replication protocol.
    pub replication: bool,
    /// Statements that were yielded.
    pub told: u64,
    sequence: u64,
    request: RequestBytes,
    response: ResponseBytes,
    /// An ended statement that waits for the transaction status.
    held: Option<Box<Statement>>,
    /// Memory of told statements: blank, and empty.
    spare: Option<Box<Statement>>,
    spare_parameters: Vec<Parameter>,
}

/// Bytes of requests that belong to the next statement.
#[derive(Debug, Default)]
struct RequestBytes {
    len: u64,
    truncated: u64,
    lost: u64,
}

/// The response since the newest statement ended.
#[derive(Debug, Default)]
struct ResponseBytes {
    first: Option<BootTime>,
    len: u64,
    lost: u64,
}

impl Statements {
    /// The number of the statement that was begun last.
    pub fn newest(&self) -> u64 {
        self.sequence
    }

    /// Counts a request towards the statement that it prepares.
    pub fn count(&mut self, message: &Message<'_>) {
        self.request.len += message.wire_len();
        self.request.truncated += message.truncated();
        self.request.lost += message.lost;
    }

    /// Counts a `Parse`; what its text lacks is said by the prepared statement.
    pub fn count_parse(&mut self, message: &Message<'_>) {
        self.request.len += message.wire_len();
    }

    pub fn forget_request(&mut self) {
        self.request = RequestBytes::default();
    }

    /// Response bytes, of which `lost` were lost.
    pub fn answered(&mut self, len: u64, lost: u64) {
        self.response.len = self.response.len.saturating_add(len);
        self.response.lost = self.response.lost.saturating_add(lost);
    }

    pub fn first_byte(&mut self, at: BootTime) {
        self.response.first.get_or_insert(at);
    }

    pub fn forget_response(&mut self) {
        self.response = ResponseBytes::default();
    }

    /// A new statement that `message` asks to run.
    pub fn begin(&mut self, kind: StatementKind, message: &Message<'_>) -> Box<Statement> {
        self.count(message);
        let request = std::mem::take(&mut self.request);
        let mut statement = self.blank(kind, message.started);
        statement.bytes_in = request.len;
        statement.truncated_bytes = request.truncated;
        statement.lost_bytes = request.lost;
        statement
    }

    /// A statement of which only `bytes` of a `Parse` or a `Bind` were seen.
    pub fn begin_unrun(&mut self, start: BootTime, bytes: u64) -> Box<Statement> {
        let mut statement = self.blank(StatementKind::Extended, start);
        statement.bytes_in = bytes;
        statement
    }

    /// Counts a further `Execute` of a portal towards its statement.
    pub fn go_on(&mut self, statement: &mut Statement, message: &Message<'_>) {
        let request = std::mem::take(&mut self.request);
        statement.bytes_in += request.len + message.wire_len();
    }

    fn blank(&mut self, kind: StatementKind, start: BootTime) -> Box<Statement> {
        self.sequence += 1;
        let mut statement = self.spare.take().unwrap_or_default();
        statement.kind = match kind {
            StatementKind::Simple | StatementKind::Extended if self.replication => {
                StatementKind::Replication
            }
            kind => kind,
        };
        statement.sequence = self.sequence;
        statement.start = start;
        statement.joined_midstream = self.joined_midstream;
        statement
    }

    /// An empty list.
    pub fn parameters(&mut self) -> Vec<Parameter> {
        std::mem::take(&mut self.spare_parameters)
    }

    /// Gives a statement the response since the one before.
    pub fn take_response(&mut self, statement: &mut Statement, at: BootTime) {
        let response = std::mem::take(&mut self.response);
        statement.end = at;
        statement.first_byte = statement.first_byte.or(response.first);
        statement.bytes_out += response.len;
        statement.lost_bytes += response.lost;
    }

    /// Ends a statement with the response since the one before.
    pub fn end(&mut self, mut statement: Box<Statement>, at: BootTime, sink: &mut Sink<'_>) {
        self.take_response(&mut statement, at);
        self.hold(statement, sink);
    }

    /// Ends a statement that the server ignores after an error.
    pub fn skip(&mut self, mut statement: Box<Statement>, at: BootTime, sink: &mut Sink<'_>) {
        statement.outcome = Outcome::Skipped;
        statement.end = at;
        self.hold(statement, sink);
    }

    /// Keeps an ended statement until the transaction status is known or another one ends.
    pub fn hold(&mut self, statement: Box<Statement>, sink: &mut Sink<'_>) {
        self.tell(None, sink);
        self.held = Some(statement);
    }

    /// The newest statement that has ended, if it still waits.
    pub fn held(&mut self) -> Option<&mut Statement> {
        self.held.as_deref_mut()
    }

    /// Yields the statement that waits.
    pub fn tell(&mut self, status: Option<TransactionStatus>, sink: &mut Sink<'_>) {
        let Some(mut statement) = self.held.take() else { return };
        statement.transaction = status;
        self.told += 1;
        sink(SessionEvent::Statement(&statement));
        let mut parameters = std::mem::take(&mut statement.parameters);
        if (1..=SPARE_PARAMETERS).contains(&parameters.capacity()) {
            parameters.clear();
            self.spare_parameters = parameters;
        }
        *statement = Statement::default();
        self.spare = Some(statement);
    }
}

/// Says what a statement runs, as far as it is known.
pub(super) fn describe(statement: &mut Statement, prepared: Option<&Prepared>) {
    let Some(prepared) = prepared else { return };
    let nothing_left = prepared.text.is_empty() && prepared.truncated + prepared.lost > 0;
    statement.text = (!nothing_left).then(|| prepared.text.clone());
    statement.standard_conforming_strings = prepared.standard_conforming_strings;
    statement.prepared = Some(prepared.name.clone());
    statement.truncated_bytes += prepared.truncated;
    statement.lost_bytes += prepared.lost;
}

/// Whether a text certainly holds one statement only.
pub(super) fn is_single(text: Option<&str>) -> bool {
    text.is_some_and(|text| !text.trim_end().trim_end_matches(';').contains(';'))
}
