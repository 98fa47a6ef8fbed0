//! Pairs requests with their answers, and makes statements of them.

use std::{collections::VecDeque, sync::Arc};

use crate::{
    event::{BootTime, Outcome, SessionEvent, Statement, StatementKind, TransactionStatus},
    protocol::{Limits, Sink, Stats},
};

use super::{
    backend::{self, Report},
    deframer::Message,
    frontend::{self, Bind, Execute, Parse, Target},
    reader::Reader,
    tables::{Portal, Portals, Prepared, PreparedTable},
    value,
};

/// How sure it is which request an answer belongs to.
///
/// PostgreSQL works off one request after the other and reads more only when it has answered all that
/// it has read (up to a `Sync` or a `Query`): new request bytes after an answer therefore prove that
/// everything before them is answered. `settle` uses that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pairing {
    /// The queue holds exactly what is unanswered.
    Exact,
    /// The queue holds all that is unanswered, and perhaps requests whose answer was missed.
    AnswersMissed,
    /// There may be unanswered requests that nobody saw.
    RequestsMissed,
}

/// A request that the server has yet to answer.
#[derive(Debug)]
struct Item {
    at: BootTime,
    kind: Kind,
    /// The statement that ends with this request's answer.
    statement: Option<Statement>,
}

#[derive(Debug)]
enum Kind {
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

impl Item {
    /// The stretch that this request ends with a `ReadyForQuery`.
    fn ends_segment(&self) -> Option<u64> {
        match self.kind {
            Kind::Startup => Some(0),
            Kind::Query { segment } | Kind::FunctionCall { segment } | Kind::Sync { segment } => {
                Some(segment)
            }
            _ => None,
        }
    }
}

/// A `Parse` or `Bind` that failed: the `Execute` it was for gets the error, if one comes.
#[derive(Debug)]
struct Broken {
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

/// Bytes of requests that belong to the next statement.
#[derive(Debug, Default)]
struct Pending {
    bytes: u64,
    truncated: u64,
    lost: u64,
}

#[derive(Debug)]
pub(super) struct Exchange {
    limits: Limits,
    pub(super) stats: Stats,
    pub(super) pairing: Pairing,
    /// The newest answer was a `ReadyForQuery`.
    pub(super) quiet: bool,
    pub(super) joined_midstream: bool,
    pub(super) backend_pid: Option<u32>,
    replication: bool,
    authentication: &'static str,
    authenticated: bool,

    queue: VecDeque<Item>,
    prepared: PreparedTable,
    portals: Portals,
    /// Counts the stretches between `Sync`s, `Query`s and `FunctionCall`s.
    segment: u64,
    serial: u64,
    sequence: u64,
    /// After an error the server ignores everything up to `Sync`, which has not come yet.
    skipping: bool,
    /// The server reads copy data, and ignores `Sync`.
    copy_in: bool,
    broken: Option<Broken>,
    /// What the requests would have defined that the server ignores: their `Execute`s have a text.
    ignored: PreparedTable,
    ignored_portals: Portals,

    request: Pending,
    response_bytes: u64,
    response_lost: u64,
    first_byte: Option<BootTime>,
    /// An ended statement that waits for the transaction status.
    held: Option<Statement>,
    /// The text of the newest `Query`: clients repeat themselves.
    newest_text: Option<Arc<str>>,
    unnamed: Arc<str>,
}

impl Exchange {
    pub(super) fn new(limits: Limits) -> Exchange {
        Exchange {
            limits,
            stats: Stats::default(),
            pairing: Pairing::Exact,
            quiet: false,
            joined_midstream: false,
            backend_pid: None,
            replication: false,
            authentication: "trust",
            authenticated: false,
            queue: VecDeque::new(),
            prepared: PreparedTable::default(),
            portals: Portals::default(),
            segment: 1,
            serial: 0,
            sequence: 0,
            skipping: false,
            copy_in: false,
            broken: None,
            ignored: PreparedTable::default(),
            ignored_portals: Portals::default(),
            request: Pending::default(),
            response_bytes: 0,
            response_lost: 0,
            first_byte: None,
            held: None,
            newest_text: None,
            unnamed: Arc::from(""),
        }
    }

    /// The connection has said who it is.
    pub(super) fn startup(&mut self, at: BootTime, replication: bool, sink: &mut Sink<'_>) {
        self.replication = replication;
        self.enqueue(Item { at, kind: Kind::Startup, statement: None }, sink);
    }

    /// The connection was open before it was watched.
    pub(super) fn join(&mut self, sink: &mut Sink<'_>) {
        self.joined_midstream = true;
        self.authenticated = true;
        self.requests_missed(sink);
    }

    /// Request bytes are missing where whole messages may have been.
    pub(super) fn requests_missed(&mut self, sink: &mut Sink<'_>) {
        self.stats.pairing_lost += 1;
        self.pairing = Pairing::RequestsMissed;
        self.doubt_queued();
        // A name may have got another meaning meanwhile.
        self.prepared.clear();
        self.drop_portals(u64::MAX, Some(Outcome::Unknown), sink);
        self.broken = None;
        self.skipping = false;
        self.copy_in = false;
        self.request = Pending::default();
    }

    /// Response bytes are missing where whole messages may have been. If they were `lost`, and not
    /// left out by budget, requests may have been lost with them: that shows only when the next one
    /// comes, and an answer may belong to one that nobody saw.
    pub(super) fn answers_missed(&mut self, lost: bool) {
        if lost && self.pairing != Pairing::RequestsMissed {
            return self.unpair();
        }
        if self.pairing == Pairing::Exact {
            self.stats.pairing_lost += 1;
            self.pairing = Pairing::AnswersMissed;
        }
        self.doubt_queued();
    }

    /// What was learnt about statements that have not ended may be less than all.
    fn doubt_queued(&mut self) {
        for item in &mut self.queue {
            if let Some(statement) = &mut item.statement {
                statement.outcome = match statement.outcome {
                    Outcome::Suspended { .. } => Outcome::Suspended { rows: None },
                    _ => Outcome::Unknown,
                };
            }
        }
    }

    /// Everything in the queue is answered, though not all answers were seen.
    pub(super) fn settle(&mut self, answers_in_sync: bool, sink: &mut Sink<'_>) {
        let at = self.queue.back().map(|item| item.at);
        while let Some(item) = self.queue.pop_front() {
            self.end_unknown(item, at.unwrap_or_default(), sink);
        }
        self.skipping = false;
        self.copy_in = false;
        self.broken = None;
        self.forget_response();
        self.pairing = if answers_in_sync { Pairing::Exact } else { Pairing::AnswersMissed };
    }

    /// Response bytes that no message was made of.
    pub(super) fn response_skipped(&mut self, len: u64, lost: u64) {
        self.response_bytes = self.response_bytes.saturating_add(len);
        self.response_lost = self.response_lost.saturating_add(lost);
    }

    /// The connection has ended.
    pub(super) fn close(&mut self, at: BootTime, sink: &mut Sink<'_>) {
        self.finish_broken(sink);
        while let Some(item) = self.queue.pop_front() {
            self.end_unknown(item, at, sink);
        }
        self.drop_portals(u64::MAX, None, sink);
        self.emit_held(None, sink);
    }

    // Requests

    pub(super) fn request(&mut self, message: &Message<'_>, sink: &mut Sink<'_>) {
        let at = message.started;
        match message.tag {
            frontend::QUERY => self.query(message, sink),
            frontend::PARSE => self.parse(message, sink),
            frontend::BIND => self.bind(message, sink),
            frontend::EXECUTE => self.execute(message, sink),
            frontend::DESCRIBE => {
                self.count(message);
                let statement = match Target::read(message) {
                    Some(Target::Statement(name)) => self.prepared.find(name).cloned(),
                    _ => None,
                };
                self.enqueue_unless_skipping(Kind::Describe { statement }, at, sink);
            }
            frontend::CLOSE => {
                let mut statement = None;
                if !self.skipping {
                    match Target::read(message) {
                        Some(Target::Statement(name)) => statement = self.prepared.remove(name),
                        Some(Target::Portal(name)) => {
                            let portal = self.portals.remove(name);
                            self.end_portal(portal, None, sink);
                        }
                        None => {
                            // Any name may mean nothing now.
                            self.prepared.clear();
                            self.drop_portals(u64::MAX, Some(Outcome::Unknown), sink);
                        }
                    }
                }
                self.enqueue_unless_skipping(Kind::Close { statement }, at, sink);
            }
            frontend::SYNC => {
                self.request = Pending::default();
                if self.copy_in {
                    return;
                }
                if self.skipping {
                    self.skipping = false;
                    self.finish_broken(sink);
                }
                let kind = Kind::Sync { segment: self.next_segment() };
                self.enqueue(Item { at, kind, statement: None }, sink);
            }
            frontend::FUNCTION_CALL => {
                let mut statement = self.statement(StatementKind::FunctionCall, message);
                if let Some(arguments) = frontend::function_arguments(message) {
                    statement.parameters = value::parameters(arguments, &[]);
                }
                if self.skipping {
                    return self.end_skipped(statement, at, sink);
                }
                let kind = Kind::FunctionCall { segment: self.next_segment() };
                self.enqueue(Item { at, kind, statement: Some(statement) }, sink);
            }
            frontend::COPY_DATA => self.copy_data(message),
            frontend::COPY_DONE | frontend::COPY_FAIL => {
                self.copy_data(message);
                if self.copy_in {
                    self.copy_in = false;
                } else if !self.queue.is_empty() {
                    self.enqueue(Item { at, kind: Kind::CopyEnd, statement: None }, sink);
                }
            }
            frontend::FLUSH => self.count(message),
            frontend::TERMINATE => sink(SessionEvent::Terminated),
            _ => {}
        }
    }

    /// Counts the data towards the statement that takes it.
    fn copy_data(&mut self, message: &Message<'_>) {
        let taker = self.queue.iter_mut().find_map(|item| item.statement.as_mut());
        if let Some(statement) = taker {
            statement.bytes_in += message.wire_len();
            statement.lost_bytes += message.lost;
        }
    }

    fn query(&mut self, message: &Message<'_>, sink: &mut Sink<'_>) {
        let kind =
            if self.replication { StatementKind::Replication } else { StatementKind::Simple };
        let mut statement = self.statement(kind, message);
        let text = match message.body.split_last() {
            Some((0, text)) if message.is_whole() => text,
            _ => message.body,
        };
        // A message that a gap broke off may not have had its text's end where the length says.
        let known = !text.is_empty() || message.is_whole();
        let repeated = self.newest_text.as_ref().filter(|newest| newest.as_bytes() == text);
        let text = match repeated {
            Some(newest) => newest.clone(),
            None => decode(text, message.is_whole()),
        };
        if known {
            statement.text = Some(text.clone());
            self.newest_text = Some(text);
        }
        if self.skipping {
            return self.end_skipped(statement, message.at, sink);
        }
        // A Query drops the unnamed statement and portal.
        self.prepared.remove(b"");
        let portal = self.portals.remove(b"");
        self.end_portal(portal, None, sink);
        let kind = Kind::Query { segment: self.next_segment() };
        self.enqueue(Item { at: message.started, kind, statement: Some(statement) }, sink);
    }

    fn parse(&mut self, message: &Message<'_>, sink: &mut Sink<'_>) {
        self.request.bytes += message.wire_len();
        let (at, bytes) = (message.started, message.wire_len());
        let Some(parse) = Parse::read(message) else {
            if self.skipping {
                return self.ignored.clear();
            }
            // Any name may have got another meaning.
            self.prepared.clear();
            let kind = Kind::Parse { prepared: None, previous: None, bytes };
            return self.enqueue(Item { at, kind, statement: None }, sink);
        };
        let types = parse.types.chunks_exact(4).filter_map(|oid| Reader::new(oid).u32());
        let table = if self.skipping { &mut self.ignored } else { &mut self.prepared };
        let repeated = table.find(parse.name).filter(|known| {
            parse.name.is_empty()
                && parse.whole
                && known.text.as_bytes() == parse.text
                && (parse.types.is_empty() || known.types.iter().copied().eq(types.clone()))
                && known.truncated + known.lost == 0
        });
        let prepared = match repeated {
            Some(known) => known.clone(),
            None => Arc::new(Prepared {
                name: match parse.name {
                    [] => self.unnamed.clone(),
                    name => decode(name, true),
                },
                text: decode(parse.text, parse.whole),
                types: types.collect(),
                truncated: if parse.whole { 0 } else { message.truncated() },
                lost: if parse.whole { 0 } else { message.lost },
            }),
        };
        let previous = table.define(parse.name, prepared.clone(), &self.limits, &mut self.stats);
        if self.skipping {
            return;
        }
        let kind = Kind::Parse { prepared: Some(prepared), previous, bytes };
        self.enqueue(Item { at, kind, statement: None }, sink);
    }

    fn bind(&mut self, message: &Message<'_>, sink: &mut Sink<'_>) {
        self.count(message);
        if self.skipping {
            return self.bind_ignored(message);
        }
        let Some(bind) = Bind::read(message) else {
            // Not even the names were captured: what runs next can't be known.
            self.drop_portals(u64::MAX, None, sink);
            let kind = Kind::Bind { serial: 0, prepared: None, bytes: message.wire_len() };
            return self.enqueue(Item { at: message.started, kind, statement: None }, sink);
        };
        let prepared = self.prepared.find(bind.statement).cloned();
        let types = prepared.as_ref().map(|prepared| &*prepared.types).unwrap_or_default();
        let parameters = value::parameters(bind.arguments, types);
        let replaced = self.portals.remove(bind.portal);
        self.end_portal(replaced, None, sink);
        self.serial += 1;
        let portal = Portal {
            name: bind.portal.into(),
            serial: self.serial,
            segment: self.segment,
            prepared: prepared.clone(),
            parameters,
            limited: false,
            suspended: None,
        };
        let evicted = self.portals.add(portal, &self.limits, &mut self.stats);
        self.end_portal(evicted, None, sink);
        let kind = Kind::Bind { serial: self.serial, prepared, bytes: message.wire_len() };
        self.enqueue(Item { at: message.started, kind, statement: None }, sink);
    }

    /// A `Bind` that the server ignores.
    fn bind_ignored(&mut self, message: &Message<'_>) {
        let Some(bind) = Bind::read(message) else { return };
        let known = self.ignored.find(bind.statement);
        let prepared = known.or_else(|| self.prepared.find(bind.statement)).cloned();
        let types = prepared.as_ref().map(|prepared| &*prepared.types).unwrap_or_default();
        let parameters = value::parameters(bind.arguments, types);
        self.serial += 1;
        let portal = Portal {
            name: bind.portal.into(),
            serial: self.serial,
            segment: self.segment,
            prepared,
            parameters,
            limited: false,
            suspended: None,
        };
        self.ignored_portals.remove(bind.portal);
        self.ignored_portals.add(portal, &self.limits, &mut self.stats);
    }

    fn execute(&mut self, message: &Message<'_>, sink: &mut Sink<'_>) {
        let execute = Execute::read(message);
        if execute.is_none() {
            // Any portal may have gone on unseen.
            self.drop_portals(u64::MAX, Some(Outcome::Unknown), sink);
        }
        let max_rows = execute.as_ref().map_or(0, |execute| execute.max_rows);
        let portal = execute.and_then(|execute| {
            let ignored =
                if self.skipping { self.ignored_portals.find(execute.portal) } else { None };
            ignored.or_else(|| self.portals.find(execute.portal))
        });
        let Some(portal) = portal else {
            let statement = self.statement(self.extended(), message);
            if self.skipping {
                return self.end_skipped(statement, message.at, sink);
            }
            let kind = Kind::Execute { serial: 0, prepared: None, max_rows };
            let statement = Some(statement);
            return self.enqueue(Item { at: message.started, kind, statement }, sink);
        };
        let serial = portal.serial;
        let prepared = portal.prepared.clone();
        let continues = portal.limited || portal.suspended.is_some();
        let mut statement = portal.suspended.take();
        let parameters = std::mem::take(&mut portal.parameters);
        portal.limited |= max_rows > 0;
        match &mut statement {
            Some(statement) => {
                let request = std::mem::take(&mut self.request);
                statement.bytes_in += request.bytes + message.wire_len();
            }
            None if continues => {}
            None => {
                let mut new = self.statement(self.extended(), message);
                new.parameters = parameters;
                describe(&mut new, prepared.as_deref());
                statement = Some(new);
            }
        }
        if self.skipping {
            let broken = self.broken.take_if(|broken| broken.is_for(serial, prepared.as_ref()));
            return match (statement, broken) {
                (Some(statement), Some(broken)) => self.end_broken(statement, broken, sink),
                (Some(statement), None) => self.end_skipped(statement, message.at, sink),
                (None, _) => {}
            };
        }
        let kind = Kind::Execute { serial, prepared, max_rows };
        self.enqueue(Item { at: message.started, kind, statement }, sink);
    }

    fn extended(&self) -> StatementKind {
        if self.replication { StatementKind::Replication } else { StatementKind::Extended }
    }

    /// A new statement that `message` asks to run.
    fn statement(&mut self, kind: StatementKind, message: &Message<'_>) -> Statement {
        self.count(message);
        let request = std::mem::take(&mut self.request);
        self.sequence += 1;
        Statement {
            kind,
            sequence: self.sequence,
            start: message.started,
            bytes_in: request.bytes,
            truncated_bytes: request.truncated,
            lost_bytes: request.lost,
            joined_midstream: self.joined_midstream,
            ..Statement::default()
        }
    }

    fn count(&mut self, message: &Message<'_>) {
        self.request.bytes += message.wire_len();
        self.request.truncated += message.truncated();
        self.request.lost += message.lost;
    }

    fn next_segment(&mut self) -> u64 {
        self.segment += 1;
        self.segment - 1
    }

    fn enqueue_unless_skipping(&mut self, kind: Kind, at: BootTime, sink: &mut Sink<'_>) {
        if !self.skipping {
            self.enqueue(Item { at, kind, statement: None }, sink);
        }
    }

    fn enqueue(&mut self, item: Item, sink: &mut Sink<'_>) {
        if self.queue.len() >= self.limits.in_flight.max(1)
            && let Some(oldest) = self.queue.pop_front()
        {
            self.stats.in_flight_evicted += 1;
            self.end_unknown(oldest, item.at, sink);
            self.unpair();
        }
        self.queue.push_back(item);
    }

    // Responses

    pub(super) fn response(&mut self, message: &Message<'_>, sink: &mut Sink<'_>) {
        self.response_skipped(message.wire_len(), message.lost);
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
        self.first_byte.get_or_insert(message.started);
        self.quiet = message.tag == backend::READY_FOR_QUERY;
        // What the server said before the request came can't be its answer.
        if self.queue.front().is_some_and(|head| message.at < head.at) {
            self.unpair();
        }
        while self.pairing == Pairing::Exact
            && matches!(self.queue.front(), Some(Item { kind: Kind::CopyEnd, .. }))
        {
            self.queue.pop_front();
        }
        match self.pairing {
            Pairing::Exact => self.answer(message, sink),
            Pairing::AnswersMissed => self.uncertain_answer(message, sink),
            Pairing::RequestsMissed => {
                if message.tag == backend::READY_FOR_QUERY {
                    self.forget_response();
                }
            }
        }
    }

    fn answer(&mut self, message: &Message<'_>, sink: &mut Sink<'_>) {
        use backend::*;
        if message.tag == ERROR_RESPONSE {
            return self.error(message, sink);
        }
        if message.tag == READY_FOR_QUERY {
            return self.ready(message, sink);
        }
        let Some(head) = self.queue.front_mut() else { return self.unpair() };
        let one_step = match (message.tag, &head.kind) {
            (PARSE_COMPLETE, Kind::Parse { .. })
            | (BIND_COMPLETE, Kind::Bind { .. })
            | (CLOSE_COMPLETE, Kind::Close { .. })
            | (ROW_DESCRIPTION | NO_DATA, Kind::Describe { .. }) => true,
            (PARAMETER_DESCRIPTION, Kind::Describe { statement }) => {
                let statement = statement.clone();
                return self.parameter_description(statement, message.body);
            }
            (
                ROW_DESCRIPTION | DATA_ROW | COPY_OUT_RESPONSE | COPY_BOTH_RESPONSE | COPY_DATA
                | COPY_DONE,
                Kind::Query { .. } | Kind::Execute { .. },
            ) => return,
            (COPY_IN_RESPONSE, Kind::Query { .. } | Kind::Execute { .. }) => {
                return self.begin_copy_in();
            }
            (FUNCTION_CALL_RESPONSE, Kind::FunctionCall { .. }) => {
                if let Some(statement) = &mut head.statement {
                    statement.outcome = Outcome::Done { tag: String::new(), rows: None };
                }
                return;
            }
            (COMMAND_COMPLETE | EMPTY_QUERY_RESPONSE, Kind::Query { .. }) => {
                if let Some(statement) = &mut head.statement {
                    complete(statement, message);
                    if statement.outcome == Outcome::Unknown {
                        self.answers_missed(false);
                    }
                }
                return;
            }
            (
                COMMAND_COMPLETE | EMPTY_QUERY_RESPONSE | PORTAL_SUSPENDED,
                &Kind::Execute { serial, max_rows, .. },
            ) => {
                let statement = head.statement.take();
                self.queue.pop_front();
                return self.executed(message, statement, serial, max_rows, sink);
            }
            _ => false,
        };
        if one_step {
            self.queue.pop_front();
        } else {
            self.unpair();
        }
    }

    /// Takes what certainly belongs to the only statement in flight, and nothing else.
    fn uncertain_answer(&mut self, message: &Message<'_>, sink: &mut Sink<'_>) {
        if message.tag == backend::READY_FOR_QUERY {
            let one = self.queue.iter().filter(|item| item.ends_segment().is_some()).count() <= 1;
            self.ready(message, sink);
            if one {
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
        let mut executes = self.queue.iter().enumerate().filter(|(_, item)| {
            matches!(
                item.kind,
                Kind::Query { .. } | Kind::Execute { .. } | Kind::FunctionCall { .. }
            )
        });
        let (Some((index, _)), None, true) = (executes.next(), executes.next(), ends) else {
            return;
        };
        let one_segment =
            self.queue.iter().filter(|item| item.ends_segment().is_some()).count() <= 1;
        if !one_segment {
            return;
        }
        self.queue.drain(..index);
        let Some(head) = self.queue.front_mut() else { return };
        match (message.tag, &head.kind) {
            (backend::ERROR_RESPONSE, _) => self.error(message, sink),
            (backend::PORTAL_SUSPENDED, Kind::Query { .. }) => {}
            (_, Kind::Query { .. }) => {
                if let Some(statement) = &mut head.statement {
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
                let statement = head.statement.take();
                self.queue.pop_front();
                self.executed(message, statement, serial, max_rows, sink);
            }
            _ => {}
        }
    }

    /// An `Execute` was answered to its end.
    fn executed(
        &mut self,
        message: &Message<'_>,
        statement: Option<Statement>,
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
            return self.end(statement, message.at, sink);
        }
        // The server stops exactly at the limit.
        let rows = earlier.map(|earlier| earlier.saturating_add(u64::from(max_rows)));
        statement.outcome = Outcome::Suspended { rows };
        self.take_response(&mut statement, message.at);
        let next = self.queue.iter_mut().find(|item| {
            serial != 0
                && item.statement.is_none()
                && matches!(item.kind, Kind::Execute { serial: of, .. } if of == serial)
        });
        match next {
            Some(item) => {
                item.statement = Some(statement);
                if let Some(portal) = self.portals.by_serial(serial) {
                    portal.limited = true;
                }
            }
            None => match self.portals.by_serial(serial) {
                Some(portal) => portal.suspended = Some(statement),
                None => self.hold(statement, sink),
            },
        }
    }

    fn begin_copy_in(&mut self) {
        // The server ignores `Sync` while it reads copy data.
        let mut ended = false;
        let mut first = true;
        self.queue.retain(|item| {
            let keep = first || ended || !matches!(item.kind, Kind::Sync { .. } | Kind::CopyEnd);
            ended |= !first && matches!(item.kind, Kind::CopyEnd);
            first = false;
            keep
        });
        self.copy_in = !ended;
    }

    fn ready(&mut self, message: &Message<'_>, sink: &mut Sink<'_>) {
        let status = backend::ready_for_query(message.body);
        let mut ended = None;
        while let Some(item) = self.queue.pop_front() {
            ended = item.ends_segment();
            match (item.statement, ended) {
                (Some(mut statement), Some(_)) => {
                    self.emit_held(None, sink);
                    self.take_response(&mut statement, message.at);
                    self.held = Some(statement);
                }
                (Some(mut statement), None) => {
                    statement.outcome = Outcome::Unknown;
                    self.end(statement, message.at, sink);
                }
                (None, _) => {}
            }
            if ended.is_some() {
                break;
            }
        }
        let Some(segment) = ended else { return self.unpair() };
        self.copy_in = false;
        if status == Some(TransactionStatus::Idle) {
            // Portals don't outlive their transaction.
            self.drop_portals(segment, None, sink);
        }
        self.emit_held(status, sink);
        self.forget_response();
    }

    fn error(&mut self, message: &Message<'_>, sink: &mut Sink<'_>) {
        let report = Report::read(message.body);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let outcome = Outcome::Failed { code: text(report.code), message: text(report.message) };
        self.copy_in = false;
        let Some(head) = self.queue.front_mut() else { return notice(report, sink) };
        match &head.kind {
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
                if let Some(statement) = &mut head.statement {
                    statement.outcome = outcome;
                }
                return;
            }
            Kind::Sync { .. } => {
                // The commit of the implicit transaction failed.
                if let Some(statement) = &mut self.held {
                    statement.outcome = outcome;
                    return;
                }
                return notice(report, sink);
            }
            _ => {}
        }
        self.abort(message.at, outcome, sink);
    }

    /// The head of the queue has failed: the server ignores the rest up to `Sync`.
    fn abort(&mut self, at: BootTime, outcome: Outcome, sink: &mut Sink<'_>) {
        let until = self.queue.iter().position(|item| matches!(item.kind, Kind::Sync { .. }));
        self.skipping = until.is_none();
        let segment = match until.and_then(|at| self.queue.get(at)) {
            Some(sync) => sync.ends_segment().unwrap_or(self.segment),
            None => self.segment,
        };
        let skipped: Vec<Item> = self.queue.drain(..until.unwrap_or(self.queue.len())).collect();
        let mut items = skipped.into_iter();
        let Some(head) = items.next() else { return };
        self.ignored.clear();
        self.ignored_portals = Portals::default();
        for item in std::iter::once(&head).chain(items.as_slice()) {
            if let Kind::Parse { prepared: Some(prepared), .. } = &item.kind {
                let name = prepared.name.as_bytes();
                self.ignored.define(name, prepared.clone(), &self.limits, &mut self.stats);
            }
        }
        self.undo(&head);
        match head.kind {
            Kind::Parse { prepared, bytes, .. } => {
                self.broken =
                    Some(Broken { prepared, serial: 0, at: head.at, failed: at, bytes, outcome });
            }
            Kind::Bind { serial, prepared, bytes } => {
                self.broken =
                    Some(Broken { prepared, serial, at: head.at, failed: at, bytes, outcome });
            }
            _ => {
                if let Some(mut statement) = head.statement {
                    statement.outcome = outcome;
                    self.end(statement, at, sink);
                }
            }
        }
        let rest: Vec<Item> = items.collect();
        for item in rest.iter().rev() {
            self.undo(item);
        }
        for item in rest {
            let Some(statement) = item.statement else { continue };
            let broken = match &item.kind {
                // One whose portal's name was lost is taken for the one that failed.
                Kind::Execute { serial: 0, prepared: None, .. } if statement.lost_bytes > 0 => {
                    self.broken.take()
                }
                Kind::Execute { serial, prepared, .. } => {
                    self.broken.take_if(|broken| broken.is_for(*serial, prepared.as_ref()))
                }
                _ => None,
            };
            match broken {
                Some(broken) => self.end_broken(statement, broken, sink),
                None => self.end_skipped(statement, at, sink),
            }
        }
        if !self.skipping {
            self.finish_broken(sink);
            self.drop_portals(segment, None, sink);
        }
    }

    /// Takes back what a request that the server ignored or refused would have defined.
    fn undo(&mut self, item: &Item) {
        match &item.kind {
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

    fn parameter_status(&mut self, body: &[u8], sink: &mut Sink<'_>) {
        let mut reader = Reader::new(body);
        let (Some(name), Some(value)) = (reader.cstr(), reader.cstr()) else { return };
        // During the start-up they only repeat what was asked for.
        if !matches!(self.queue.front(), Some(Item { kind: Kind::Startup, .. })) {
            let (name, value) = (String::from_utf8_lossy(name), String::from_utf8_lossy(value));
            sink(SessionEvent::Changed { name: &name, value: &value });
        }
    }

    fn authentication(&mut self, body: &[u8], sink: &mut Sink<'_>) {
        match backend::authentication(body) {
            Some(backend::Authentication::Ok) if !self.authenticated => {
                self.authenticated = true;
                sink(SessionEvent::Authenticated { method: self.authentication });
            }
            Some(backend::Authentication::Asks(method)) => self.authentication = method,
            _ => {}
        }
    }

    // Endings

    /// An answer came that fits no request: a request must have been missed.
    fn unpair(&mut self) {
        self.stats.pairing_lost += 1;
        self.pairing = Pairing::RequestsMissed;
        self.doubt_queued();
        self.skipping = false;
        self.copy_in = false;
    }

    fn take_response(&mut self, statement: &mut Statement, at: BootTime) {
        statement.end = at;
        if statement.first_byte.is_none() {
            statement.first_byte = self.first_byte;
        }
        statement.bytes_out += self.response_bytes;
        statement.lost_bytes += self.response_lost;
        self.forget_response();
    }

    fn forget_response(&mut self) {
        self.first_byte = None;
        self.response_bytes = 0;
        self.response_lost = 0;
    }

    fn end(&mut self, mut statement: Statement, at: BootTime, sink: &mut Sink<'_>) {
        self.take_response(&mut statement, at);
        self.hold(statement, sink);
    }

    fn end_skipped(&mut self, mut statement: Statement, at: BootTime, sink: &mut Sink<'_>) {
        statement.outcome = Outcome::Skipped;
        statement.end = at;
        self.hold(statement, sink);
    }

    fn end_broken(&mut self, mut statement: Statement, broken: Broken, sink: &mut Sink<'_>) {
        statement.outcome = broken.outcome;
        statement.start = statement.start.min(broken.at);
        self.end(statement, broken.failed, sink);
    }

    /// No `Execute` came for the text that failed: it was tried all the same.
    fn finish_broken(&mut self, sink: &mut Sink<'_>) {
        let Some(broken) = self.broken.take() else { return };
        self.sequence += 1;
        let mut statement = Statement {
            kind: self.extended(),
            sequence: self.sequence,
            start: broken.at,
            bytes_in: broken.bytes,
            joined_midstream: self.joined_midstream,
            ..Statement::default()
        };
        describe(&mut statement, broken.prepared.as_deref());
        self.end_broken(statement, broken, sink);
    }

    fn end_unknown(&mut self, item: Item, at: BootTime, sink: &mut Sink<'_>) {
        if let Kind::Execute { serial, max_rows: 1.., .. } = item.kind {
            // How far its portal has got is not known any more.
            let portal = self.portals.remove_serial(serial);
            self.end_portal(portal, Some(Outcome::Unknown), sink);
        }
        let Some(mut statement) = item.statement else { return };
        statement.outcome = match statement.outcome {
            // The connection ended before the ReadyForQuery, but the answer was there.
            outcome @ (Outcome::Failed { .. } | Outcome::Empty) => outcome,
            outcome @ Outcome::Done { .. }
                if statement.kind == StatementKind::Simple
                    && is_single(statement.text.as_deref()) =>
            {
                outcome
            }
            _ => Outcome::Unknown,
        };
        self.take_response(&mut statement, at);
        self.hold(statement, sink);
    }

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
        self.hold(statement, sink);
    }

    /// Keeps an ended statement until the transaction status is known or another one ends.
    fn hold(&mut self, statement: Statement, sink: &mut Sink<'_>) {
        self.emit_held(None, sink);
        self.held = Some(statement);
    }

    fn emit_held(&mut self, status: Option<TransactionStatus>, sink: &mut Sink<'_>) {
        if let Some(mut statement) = self.held.take() {
            statement.transaction = status;
            self.stats.statements += 1;
            sink(SessionEvent::Statement(&statement));
        }
    }
}

fn notice(report: Report<'_>, sink: &mut Sink<'_>) {
    sink(SessionEvent::Notice {
        severity: &String::from_utf8_lossy(report.severity),
        code: &String::from_utf8_lossy(report.code),
        message: &String::from_utf8_lossy(report.message),
    });
}

/// Says what a statement runs, as far as it is known.
fn describe(statement: &mut Statement, prepared: Option<&Prepared>) {
    let Some(prepared) = prepared else { return };
    let nothing_left = prepared.text.is_empty() && prepared.truncated + prepared.lost > 0;
    statement.text = (!nothing_left).then(|| prepared.text.clone());
    statement.prepared = Some(prepared.name.clone());
    statement.truncated_bytes += prepared.truncated;
    statement.lost_bytes += prepared.lost;
}

/// Adds a completion to a statement: a `Query` with several has their rows together.
fn complete(statement: &mut Statement, message: &Message<'_>) {
    if message.tag == backend::EMPTY_QUERY_RESPONSE {
        statement.outcome = Outcome::Empty;
        return;
    }
    let Some((tag, rows)) = backend::command_complete(message.body) else {
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
    statement.outcome = Outcome::Done { tag: tag.to_owned(), rows };
}

/// Whether a text certainly holds one statement only.
fn is_single(text: Option<&str>) -> bool {
    text.is_some_and(|text| !text.trim_end().trim_end_matches(';').contains(';'))
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
