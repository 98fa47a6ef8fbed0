//! One session through the guard: bytes of either side in, what goes to the other side out.
//!
//! No tokio, no file, no clock: a fuzzer drives it as the relay does. What a client asks for is judged before any
//! byte of it goes to the server ([`requests`]); what the server answers passes byte for byte, but for errors
//! that stand for a denial ([`answers`]) and what a masked client doesn't see ([`veil`]). What passes as it came is not copied: it is a part of the bytes that
//! were given.

mod answers;
mod appeal;
mod approval;
mod context;
mod fate;
mod names;
mod passing;
mod poison;
mod progress;
mod requests;
mod settings;
#[cfg(test)]
mod tests;
mod veil;
mod waiting;

use super::{
    court::{Court, Moment},
    report,
};
use crate::{
    event::{RequestSum, TransactionStatus},
    protocol::{
        Limits,
        postgres::{frontend, sums::Sums},
    },
    statement::MAX_TEXT_BYTES,
};
use answers::Answers;
use approval::{Approvals, Stage};
pub use poison::WORD as POISON;
use requests::Requests;
pub use waiting::Tiding;

/// What is to be sent.
#[derive(Debug, Default)]
pub struct Output {
    pub to_server: Vec<u8>,
    pub to_client: Vec<u8>,
}

/// The session can't go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    #[error("invalid frontend message type {0}")]
    UnknownMessage(u8),
    #[error("invalid length {0} of a frontend message")]
    BadLength(u32),
    #[error("invalid frontend message of type {0}")]
    Malformed(u8),
    #[error("too many requests in flight")]
    TooMany,
    #[error("it can't be told which requests the server skips: send Sync where it belongs")]
    Astray,
    #[error("the server speaks something else than PostgreSQL's protocol")]
    Server,
    #[error("a row of a COPY in which values are masked looks otherwise than was to be expected")]
    Copy,
    #[error(
        "a row in which values are masked is longer than the guard holds: ask for fewer columns"
    )]
    LongRow,
}

impl Broken {
    /// What the client is told before the connection ends.
    pub fn report(&self) -> Vec<u8> {
        let code = match self {
            // `protocol_violation`, `connection_failure`
            Self::Server | Self::Copy => "08006",
            // `program_limit_exceeded`
            Self::LongRow => "54000",
            _ => "08P01",
        };
        let message = format!("dbwarden: {self}");
        report::Report {
            severity: report::Severity::Fatal,
            code,
            message: &message,
            detail: None,
            hint: None,
        }
        .encode()
    }
}

/// From the answer to the `StartupMessage` on.
#[derive(Debug)]
pub struct Session {
    requests: Requests,
    answers: Answers,
    shared: Shared,
}

/// What both directions know.
#[derive(Debug)]
struct Shared {
    progress: progress::Progress,
    settings: settings::Settings,
    /// As the server has said last.
    transaction: Option<TransactionStatus>,
    /// Statements that were let pass, and those that were not.
    counts: Counts,
    /// Of all that was sent to the server.
    sums: Sums,
    prepared: names::Names,
    portals: names::Names,
    veil: veil::Veil,
    poisons: poison::Poisons,
    approvals: Approvals,
    /// For the client, as soon as no answer is half told.
    notice: Option<Vec<u8>>,
    /// `BackendKeyData`
    cancel_key: Option<Box<[u8]>>,
}

impl Shared {
    /// For a text that is sent now.
    fn state(&self) -> Moment {
        let is_idle = self.transaction == Some(TransactionStatus::Idle);
        Moment {
            conforming_strings: self.settings.standard_conforming_strings(),
            in_transaction: !(is_idle && self.progress.is_settled()),
        }
    }
}

/// Of one session, since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// `Query`, `Execute` and `FunctionCall` that went to the server.
    pub passed: u64,
    pub denied: u64,
    /// For the server, what goes in the place of others included.
    pub sent_bytes: u64,
    /// The client has said good-bye: the server has read all of it if it has read that.
    pub took_leave: bool,
}

/// A session in which nothing is under way keeps no buffer larger than this.
const SPARE_BYTES: usize = 4 << 10;

/// Judged texts are kept whole.
const LIMITS: Limits = Limits {
    text_bytes: MAX_TEXT_BYTES,
    parameter_bytes: 64 << 10,
    prepared: 0,
    prepared_bytes: 0,
    portals: 0,
    in_flight: 0,
    cancel_keys: true,
};

impl Session {
    /// `nonce` is random.
    pub fn new(nonce: u64) -> Self {
        Self {
            requests: Requests::new(),
            answers: Answers::new(),
            shared: Shared {
                progress: progress::Progress::default(),
                settings: settings::Settings::default(),
                poisons: poison::Poisons::new(nonce),
                prepared: names::Names::default(),
                portals: names::Names::default(),
                veil: veil::Veil::default(),
                transaction: None,
                counts: Counts::default(),
                sums: Sums::default(),
                approvals: Approvals::default(),
                notice: None,
                cancel_key: None,
            },
        }
    }

    /// The server has got a `StartupMessage` of so many bytes.
    pub fn introduced(&mut self, len: usize) {
        self.shared.counts.sent_bytes += len as u64;
    }

    /// The client's next bytes; gives those at their end that go to the server as they are, after what is in
    /// `out`.
    ///
    /// # Errors
    /// What it sends is none of the protocol: nothing more may be taken from it.
    pub fn take_client_bytes<'b>(
        &mut self,
        bytes: &'b [u8],
        court: &mut dyn Court,
        out: &mut Output,
    ) -> Result<&'b [u8], Broken> {
        let before = out.to_server.len();
        let passed = self.requests.bytes(bytes, &mut self.shared, court, &mut out.to_server);
        let n_passed = passed.as_ref().map_or(0, |passed| passed.len());
        self.shared.counts.sent_bytes += (out.to_server.len() - before + n_passed) as u64;
        court.summed_so_far(self.shared.counts.sent_bytes, self.shared.sums.current());
        if self.waits() {
            // Nothing passes, but for what asks the server.
            self.advance(court, out)?;
        }
        passed
    }

    /// The server's next bytes; likewise.
    ///
    /// # Errors
    /// Likewise.
    pub fn take_server_bytes<'b>(
        &mut self,
        bytes: &'b [u8],
        court: &mut dyn Court,
        out: &mut Output,
    ) -> Result<&'b [u8], Broken> {
        let mut bytes = bytes;
        if matches!(self.shared.approvals.stage, Stage::Context(..)) {
            bytes = self.take_context(bytes, court, out)?;
            if bytes.is_empty() {
                return Ok(bytes);
            }
        }
        let passed = self.answers.bytes(bytes, &mut self.shared, court, &mut out.to_client)?;
        if !self.waits() {
            return Ok(passed);
        }
        // Whatever is told now comes after it.
        out.to_client.extend_from_slice(passed);
        self.tell_notice(out);
        self.advance(court, out)?;
        Ok(&[])
    }

    /// [`Self::take_client_bytes`], with all of it in `out`.
    ///
    /// # Errors
    /// Likewise.
    pub fn client_bytes(
        &mut self,
        bytes: &[u8],
        court: &mut dyn Court,
        out: &mut Output,
    ) -> Result<(), Broken> {
        let passed = self.take_client_bytes(bytes, court, out)?;
        out.to_server.extend_from_slice(passed);
        Ok(())
    }

    /// [`Self::take_server_bytes`], with all of it in `out`.
    ///
    /// # Errors
    /// Likewise.
    pub fn server_bytes(
        &mut self,
        bytes: &[u8],
        court: &mut dyn Court,
        out: &mut Output,
    ) -> Result<(), Broken> {
        let passed = self.take_server_bytes(bytes, court, out)?;
        out.to_client.extend_from_slice(passed);
        Ok(())
    }

    /// Nothing of the server's answers is half told: the client may be told something else.
    pub fn is_between_answers(&self) -> bool {
        self.answers.are_whole()
    }

    pub fn counts(&self) -> Counts {
        self.shared.counts
    }

    /// What was asked of the server since the last sum that was told.
    pub fn sum(&self) -> RequestSum {
        self.shared.sums.current()
    }
}

/// The part of `from` before its tail `to`.
fn between<'a>(from: &'a [u8], to: &[u8]) -> &'a [u8] {
    from.get(..from.len().saturating_sub(to.len())).unwrap_or_default()
}

/// Types of messages whose bytes pass as they come.
fn is_passed_on(tag: u8) -> bool {
    matches!(
        tag,
        frontend::COPY_DATA | frontend::COPY_DONE | frontend::COPY_FAIL | frontend::PASSWORD
    )
}
