//! PostgreSQL's frontend/backend protocol, version 3.
//!
//! The bytes of each direction are cut into messages by a `deframer`, whose header `startup`,
//! `frontend` and `backend` read; where the boundaries are lost, `resync` finds them again. The
//! `exchange` pairs requests with answers and makes statements of them, with what the session has
//! prepared in `tables` and its bound parameters by `value`. `title` reads what a server process
//! says of its session to the host. The guard reads the same messages from both sides, by the same readers;
//! that it has sent what the server was seen to get is compared by `sums`.

pub(crate) mod backend;
pub(crate) mod deframer;
mod exchange;
pub(crate) mod frontend;
mod print;
pub(crate) mod reader;
mod resync;
pub(crate) mod startup;
pub(crate) mod sums;
mod tables;
#[cfg(test)]
mod tests;
mod title;
mod value;

use crate::event::{BootTime, Direction, RequestSum, SessionEvent, SyncLoss};

use super::{Limits, Sink, Stats};
pub use title::{Title, cluster_name};

use deframer::{Deframer, Side, State, Step};
use exchange::{Exchange, Pairing};
use startup::Packet;
use sums::Sums;

/// Object identifiers below are PostgreSQL's own, and the same everywhere.
pub(crate) const FIRST_OWN_OID: u32 = 16_384;

/// One PostgreSQL connection.
#[derive(Debug)]
pub struct Session {
    limits: Limits,
    frontend: Deframer,
    backend: Deframer,
    exchange: Exchange,
    /// Response bytes have come since the newest request bytes.
    answered: bool,
    /// The encryption that was asked for.
    asked: &'static str,
    /// The newest response bytes while the boundaries are lost.
    tail: Vec<u8>,
    /// Bytes that went by since the boundaries were lost.
    skipped: [u64; 2],
    /// Bytes of requests so far, what was missed included; before encryption where that is read.
    requested: u64,
    /// Where somebody compares them.
    sums: Option<Sums>,
}

impl Session {
    pub fn new(limits: Limits) -> Session {
        Session {
            limits,
            frontend: Deframer::new(Side::Frontend),
            backend: Deframer::new(Side::Backend),
            exchange: Exchange::new(limits, Stats::default()),
            answered: false,
            asked: "tls",
            tail: Vec::new(),
            skipped: [0; 2],
            requested: 0,
            sums: None,
        }
    }

    pub fn stats(&self) -> Stats {
        self.exchange.stats()
    }

    /// From here on, requests are told when they are asked, and when they are answered.
    pub fn tell_requests(&mut self) {
        self.exchange.tells_requests = true;
    }

    /// From here on, it is told what was asked in each stretch of the stream.
    pub fn sum_requests(&mut self) {
        self.sums = Some(Sums::default());
    }

    /// What was asked in the stretch that is not over yet, after so many bytes in all.
    pub fn summed_so_far(&self) -> Option<(u64, RequestSum)> {
        self.sums.map(|sums| (self.requested, sums.current()))
    }

    /// The process id of the server process, as it named itself to the client.
    pub fn backend_pid(&self) -> Option<u32> {
        self.exchange.backend_pid
    }

    /// The next bytes of one direction, as one call of the server moved them.
    pub fn bytes(&mut self, direction: Direction, at: BootTime, bytes: &[u8], sink: &mut Sink<'_>) {
        if bytes.is_empty() {
            return;
        }
        match direction {
            Direction::Request => {
                self.requested += bytes.len() as u64;
                self.request_bytes(at, bytes, sink);
                if self.frontend.state() == State::Lost {
                    self.tear(sink);
                }
            }
            Direction::Response => self.response_bytes(at, bytes, sink),
        }
    }

    /// Whatever was asked up to here, it can't be summed up.
    fn tear(&mut self, sink: &mut Sink<'_>) {
        let summed = self.sums.as_mut().and_then(|sums| sums.tear(self.requested));
        summed.into_iter().for_each(|sum| sink(SessionEvent::Summed(sum)));
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
        if len == 0 {
            return;
        }
        let response = direction == Direction::Response;
        if !response {
            self.requested += len;
            self.tear(sink);
        }
        let deframer = if response { &mut self.backend } else { &mut self.frontend };
        if deframer.state() == State::Encrypted {
            self.exchange.stats.skipped_bytes += len;
            return;
        }
        self.answered = response;
        if self.frontend.state() == State::Start {
            self.join(sink);
        }
        let deframer = if response { &mut self.backend } else { &mut self.frontend };
        if deframer.state() == State::Lost {
            self.skip(direction, len);
            self.tail.clear();
            if response {
                self.exchange.response_skipped(len, lost);
                self.exchange.answers_missed(lost > 0);
            } else {
                self.exchange.requests_missed(sink);
            }
            return;
        }
        let (message, in_sync) = deframer.gap(len, lost, at);
        if let Some(message) = message {
            match direction {
                Direction::Request => self.exchange.request(&message, sink),
                Direction::Response => self.exchange.response(&message, sink),
            }
        }
        if !in_sync {
            self.lose(direction, SyncLoss::Gap, sink);
            if response {
                self.exchange.answers_missed(lost > 0);
            }
        }
    }

    /// From here on this direction's bytes are the plaintext of a TLS library, from its first byte.
    pub fn tls(&mut self, direction: Direction) {
        match direction {
            Direction::Request => {
                self.frontend = Deframer::new(Side::Frontend);
                self.requested = 0;
                self.sums = self.sums.map(|_| Sums::default());
                // Whatever the ciphertext was taken for was none of it.
                if self.exchange.joined_midstream() {
                    let tells_requests = self.exchange.tells_requests;
                    self.exchange = Exchange::new(self.limits, self.exchange.stats());
                    self.exchange.tells_requests = tells_requests;
                    self.backend = Deframer::new(Side::Backend);
                }
            }
            Direction::Response => {
                self.backend = Deframer::new(Side::Backend);
                if matches!(self.frontend.state(), State::Encrypted | State::Lost) {
                    // The request side has shown no plaintext yet: it will be joined.
                    self.frontend = Deframer::new(Side::Frontend);
                }
            }
        }
    }

    /// The connection has ended: yields the statements that never got an answer.
    pub fn close(&mut self, at: BootTime, sink: &mut Sink<'_>) {
        if let Some(message) = self.frontend.unfinished(at)
            && message.tag == frontend::QUERY
        {
            self.exchange.request(&message, sink);
            self.frontend.enter(State::Lost);
        }
        self.exchange.close(at, sink);
    }

    fn request_bytes(&mut self, at: BootTime, bytes: &[u8], sink: &mut Sink<'_>) {
        let answered = std::mem::replace(&mut self.answered, false);
        let answers_in_sync = self.backend.state() != State::Lost;
        match self.frontend.state() {
            State::Encrypted => {
                self.exchange.stats.skipped_bytes += bytes.len() as u64;
                return;
            }
            State::Lost => {
                let quiet = answered && answers_in_sync && self.exchange.quiet;
                if !self.find_request(bytes, quiet, sink) {
                    return;
                }
                if quiet {
                    self.exchange.settle(answers_in_sync, sink);
                }
            }
            State::Header
                if answered
                    && self.frontend.at_boundary()
                    && self.exchange.pairing != Pairing::Exact
                    && !bytes.first().is_some_and(|tag| b"dcfp".contains(tag)) =>
            {
                self.exchange.settle(answers_in_sync, sink);
            }
            _ => {}
        }
        self.run_requests(at, bytes, sink);
    }

    fn run_requests(&mut self, at: BootTime, mut rest: &[u8], sink: &mut Sink<'_>) {
        while let Some(step) = self.frontend.next(&mut rest, at, &self.limits) {
            match step {
                Step::Message(message) if message.tag != 0 => {
                    if let Some(sums) = &mut self.sums
                        && let end = self.requested.saturating_sub(rest.len() as u64)
                        && let Some(sum) = sums.add(end, &message)
                    {
                        sink(SessionEvent::Summed(sum));
                    }
                    self.exchange.request(&message, sink);
                }
                Step::Message(message) => {
                    let packet = startup::read(message.body);
                    let started = message.started;
                    match packet {
                        Some(Packet::StartupMessage(startup)) => {
                            sink(SessionEvent::Startup {
                                user: &startup.user,
                                database: &startup.database,
                                application: &startup.application,
                                protocol: &format!("3.{}", startup.minor),
                                replication: startup.replication,
                            });
                            self.exchange.startup(started, startup.replication, sink);
                        }
                        Some(Packet::CancelRequest { backend_pid }) => {
                            sink(SessionEvent::Cancel { backend_pid });
                        }
                        Some(packet @ (Packet::SslRequest | Packet::GssEncRequest)) => {
                            self.asked =
                                if packet == Packet::SslRequest { "tls" } else { "gssapi" };
                            self.frontend.enter(State::Start);
                            self.backend.enter(State::Answer);
                        }
                        Some(Packet::Unsupported { code }) => {
                            self.lose(Direction::Request, SyncLoss::BadLength(code), sink);
                        }
                        None => {
                            let why = SyncLoss::BadLength(message.body_len as u32);
                            self.lose(Direction::Request, why, sink);
                        }
                    }
                }
                Step::ClientHello => {
                    self.encrypt("tls", sink);
                    self.exchange.stats.skipped_bytes += rest.len() as u64;
                    return;
                }
                Step::NotAStart => {
                    self.join(sink);
                    if !self.find_request(rest, false, sink) {
                        return;
                    }
                }
                Step::Answer(_) => {}
                Step::Bad(why) => self.lose(Direction::Request, why, sink),
            }
            if self.frontend.state() == State::Lost {
                self.skip(Direction::Request, rest.len() as u64);
                return;
            }
        }
    }

    /// Looks for a message boundary at the beginning of `bytes`.
    fn find_request(&mut self, bytes: &[u8], quiet: bool, sink: &mut Sink<'_>) -> bool {
        if !resync::frontend(bytes, quiet, &self.limits) {
            self.skip(Direction::Request, bytes.len() as u64);
            return false;
        }
        self.frontend.enter(State::Header);
        self.found(Direction::Request, sink);
        true
    }

    fn response_bytes(&mut self, at: BootTime, bytes: &[u8], sink: &mut Sink<'_>) {
        self.answered = true;
        if self.frontend.state() == State::Start && self.backend.state() == State::Header {
            // An answer to a request that nobody saw.
            self.join(sink);
        }
        match self.backend.state() {
            State::Encrypted => self.exchange.stats.skipped_bytes += bytes.len() as u64,
            State::Lost => {
                let mut tail = std::mem::take(&mut self.tail);
                let newest = bytes.len().saturating_sub(resync::WINDOW);
                tail.extend_from_slice(bytes.get(newest..).unwrap_or(bytes));
                tail.drain(..tail.len().saturating_sub(resync::WINDOW));
                if let Some(found) = resync::backend(&tail).and_then(|at| tail.get(at..)) {
                    let skipped = (bytes.len() as u64).saturating_sub(found.len() as u64);
                    self.skip(Direction::Response, skipped);
                    self.exchange.response_skipped(skipped, 0);
                    self.backend.enter(State::Header);
                    self.found(Direction::Response, sink);
                    self.run_responses(at, found, sink);
                    tail.clear();
                } else {
                    self.skip(Direction::Response, bytes.len() as u64);
                    self.exchange.response_skipped(bytes.len() as u64, 0);
                }
                if self.backend.state() == State::Lost {
                    self.tail = tail;
                }
            }
            _ => self.run_responses(at, bytes, sink),
        }
    }

    fn run_responses(&mut self, at: BootTime, mut rest: &[u8], sink: &mut Sink<'_>) {
        while let Some(step) = self.backend.next(&mut rest, at, &self.limits) {
            match step {
                Step::Message(message) => self.exchange.response(&message, sink),
                Step::Answer(b'S') if self.asked == "tls" => self.encrypt("tls", sink),
                Step::Answer(b'G') if self.asked == "gssapi" => self.encrypt("gssapi", sink),
                Step::Answer(b'N') => {}
                Step::Answer(other) => {
                    self.lose(Direction::Response, SyncLoss::UnknownMessage(other), sink);
                }
                Step::ClientHello | Step::NotAStart => {}
                Step::Bad(why) => self.lose(Direction::Response, why, sink),
            }
            if self.backend.state() == State::Lost {
                self.skip(Direction::Response, rest.len() as u64);
                self.exchange.response_skipped(rest.len() as u64, 0);
                return;
            }
        }
    }

    fn encrypt(&mut self, method: &'static str, sink: &mut Sink<'_>) {
        self.frontend.enter(State::Encrypted);
        self.backend.enter(State::Encrypted);
        sink(SessionEvent::EncryptionStarted { method });
    }

    /// The connection was open before it was watched.
    fn join(&mut self, sink: &mut Sink<'_>) {
        for (direction, deframer) in
            [(Direction::Request, &mut self.frontend), (Direction::Response, &mut self.backend)]
        {
            deframer.enter(State::Lost);
            self.exchange.stats.sync_lost += 1;
            sink(SessionEvent::SyncLost { direction, why: SyncLoss::JoinedMidstream });
        }
        self.tail.clear();
        self.skipped = [0; 2];
        self.exchange.join(sink);
    }

    fn lose(&mut self, direction: Direction, why: SyncLoss, sink: &mut Sink<'_>) {
        self.exchange.stats.sync_lost += 1;
        self.tail.clear();
        match direction {
            Direction::Request => {
                self.frontend.enter(State::Lost);
                self.exchange.requests_missed(sink);
            }
            Direction::Response => {
                self.backend.enter(State::Lost);
                self.exchange.answers_missed(false);
            }
        }
        sink(SessionEvent::SyncLost { direction, why });
    }

    fn found(&mut self, direction: Direction, sink: &mut Sink<'_>) {
        let [request, response] = &mut self.skipped;
        let skipped = std::mem::take(match direction {
            Direction::Request => request,
            Direction::Response => response,
        });
        sink(SessionEvent::SyncFound { direction, skipped });
    }

    fn skip(&mut self, direction: Direction, len: u64) {
        self.exchange.stats.skipped_bytes += len;
        let [request, response] = &mut self.skipped;
        let skipped = match direction {
            Direction::Request => request,
            Direction::Response => response,
        };
        *skipped = skipped.saturating_add(len);
    }
}
