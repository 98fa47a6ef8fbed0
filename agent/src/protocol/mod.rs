//! Protocol sessions: bytes and gaps of one connection in, what was said out.

#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

pub mod postgres;

use crate::event::{BootTime, Direction, Engine, RequestSum, SessionEvent};

/// The engines whose protocol is understood. A new protocol is registered here and in `Session`.
pub const ENGINES: &[Engine] = &[Engine::Postgresql];

/// Takes the events of a session. Borrowed: whoever keeps something copies it.
pub type Sink<'s> = dyn FnMut(SessionEvent<'_>) + 's;

/// How much one session keeps.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes kept of one statement's text; the rest is counted in `truncated_bytes`.
    pub text_bytes: usize,
    /// Bytes kept of one message of bound parameters.
    pub parameter_bytes: usize,
    /// Prepared statements remembered, and the bytes of their texts together.
    pub prepared: usize,
    pub prepared_bytes: usize,
    /// Portals (cursors of the protocol) remembered.
    pub portals: usize,
    /// Requests that wait for an answer.
    pub in_flight: usize,
    /// Whether what cancels a session's statements is kept; it is a secret.
    pub cancel_keys: bool,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            text_bytes: 1 << 20,
            parameter_bytes: 64 << 10,
            prepared: 1024,
            prepared_bytes: 8 << 20,
            portals: 64,
            in_flight: 4096,
            cancel_keys: false,
        }
    }
}

/// What a session had to leave out or give up. All counts are since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Statements that were yielded.
    pub statements: u64,
    /// Times that the message boundaries were lost, either direction.
    pub sync_lost: u64,
    /// Times that it became uncertain which answer belongs to which request.
    pub pairing_lost: u64,
    /// Prepared statements, portals and requests in flight that were forgotten for want of room.
    pub prepared_evicted: u64,
    pub portals_evicted: u64,
    pub in_flight_evicted: u64,
    /// Bytes that went by unread: ciphertext, or while the boundaries were lost.
    pub skipped_bytes: u64,
}

/// One connection's conversation, whatever its protocol. It never fails: trouble is an event.
#[derive(Debug)]
pub enum Session {
    Postgres(Box<postgres::Session>),
}

impl Session {
    pub fn new(engine: Engine, limits: Limits) -> Session {
        match engine {
            Engine::Postgresql => Session::Postgres(Box::new(postgres::Session::new(limits))),
        }
    }

    /// From here on, requests are told when they are asked, and when they are answered.
    pub fn tell_requests(&mut self) {
        match self {
            Session::Postgres(session) => session.tell_requests(),
        }
    }

    /// From here on, it is told what was asked in each stretch of the stream.
    pub fn sum_requests(&mut self) {
        match self {
            Session::Postgres(session) => session.sum_requests(),
        }
    }

    /// What was asked in the stretch that is not over yet, after so many bytes in all.
    pub fn summed_so_far(&self) -> Option<(u64, RequestSum)> {
        match self {
            Session::Postgres(session) => session.summed_so_far(),
        }
    }

    /// The next bytes of one direction, as one call of the server moved them.
    pub fn bytes(&mut self, direction: Direction, at: BootTime, bytes: &[u8], sink: &mut Sink<'_>) {
        match self {
            Session::Postgres(session) => session.bytes(direction, at, bytes, sink),
        }
    }

    /// `len` bytes are missing here, of which `lost` were lost and the others left out by budget.
    pub fn gap(
        &mut self,
        direction: Direction,
        at: BootTime,
        len: u64,
        lost: u64,
        sink: &mut Sink<'_>,
    ) {
        match self {
            Session::Postgres(session) => session.gap(direction, at, len, lost, sink),
        }
    }

    /// From here on this direction's bytes are the plaintext of a TLS library, from its first byte.
    pub fn tls(&mut self, direction: Direction) {
        match self {
            Session::Postgres(session) => session.tls(direction),
        }
    }

    /// The connection has ended: yields the statements that never got an answer.
    pub fn close(&mut self, at: BootTime, sink: &mut Sink<'_>) {
        match self {
            Session::Postgres(session) => session.close(at, sink),
        }
    }

    pub fn stats(&self) -> Stats {
        match self {
            Session::Postgres(session) => session.stats(),
        }
    }
}
