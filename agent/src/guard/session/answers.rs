//! What the server answers: passed on byte for byte, but for the error that stands for a denial.

use super::{Broken, LIMITS, SPARE_BYTES, Shared, between};
use crate::{
    event::{BootTime, TransactionStatus},
    guard::{court::Court, report::Severity},
    protocol::postgres::{
        backend::{self, Authentication},
        deframer::{Deframer, Message, Side, Step},
        reader::Reader,
    },
};

#[derive(Debug)]
pub(super) struct Answers {
    deframer: Deframer,
    /// Of an error under way that may stand for a denial: what has come of it.
    waiting: Vec<u8>,
    authentication: &'static str,
    /// The log-in is over.
    authenticated: bool,
}

/// The beginnings of an error's message that no denial is as long as.
const ERROR_BYTES: usize = 8_192;

impl Answers {
    pub(super) fn new() -> Self {
        Self {
            deframer: Deframer::new(Side::Backend),
            waiting: Vec::new(),
            authentication: "trust",
            authenticated: false,
        }
    }

    /// All that has come was passed on, and ends with a message.
    pub(super) fn are_whole(&self) -> bool {
        self.deframer.at_boundary()
    }

    /// Gives the end of `bytes`, which passes as it is, after what is in `out`.
    pub(super) fn bytes<'b>(
        &mut self,
        bytes: &'b [u8],
        shared: &mut Shared,
        court: &mut dyn Court,
        out: &mut Vec<u8>,
    ) -> Result<&'b [u8], Broken> {
        let mut rest = bytes;
        // Where what hasn't been passed on begins.
        let mut from = bytes;
        loop {
            self.deframer
                .skip(&mut rest, |tag| matches!(tag, backend::DATA_ROW | backend::COPY_DATA));
            let at = rest;
            match self.deframer.next(&mut rest, BootTime(0), &LIMITS) {
                Some(Step::Message(message)) => {
                    let here = self.waiting.len() + at.len() - rest.len();
                    // The beginning of a long one has been passed on already.
                    let is_here = here as u64 == message.wire_len();
                    let heard = hear(
                        &message,
                        &mut self.authentication,
                        &mut self.authenticated,
                        shared,
                        court,
                    );
                    let held = !self.waiting.is_empty();
                    if let Some(other) = heard.filter(|_| is_here) {
                        out.extend_from_slice(between(from, at));
                        out.extend_from_slice(&other);
                        from = rest;
                    } else if held {
                        out.append(&mut self.waiting);
                    }
                    self.waiting.clear();
                }
                Some(_) => {
                    out.extend_from_slice(between(from, at));
                    return Err(Broken::Server);
                }
                None => {
                    let may_be_denial = shared.poisons.are_waiting()
                        && self.waiting.len() + at.len() <= ERROR_BYTES
                        && self
                            .deframer
                            .tag_under_way()
                            .is_none_or(|tag| tag == backend::ERROR_RESPONSE);
                    if may_be_denial {
                        self.waiting.extend_from_slice(at);
                        return Ok(between(from, at));
                    }
                    // Only the first message of these bytes can have begun before them.
                    out.append(&mut self.waiting);
                    self.deframer.give_back(SPARE_BYTES);
                    return Ok(from);
                }
            }
        }
    }
}

/// Takes in a message; gives what is sent instead, if anything is.
fn hear(
    message: &Message<'_>,
    authentication: &mut &'static str,
    authenticated: &mut bool,
    shared: &mut Shared,
    court: &mut dyn Court,
) -> Option<Vec<u8>> {
    match message.tag {
        backend::AUTHENTICATION if !*authenticated => match backend::authentication(message.body) {
            Some(Authentication::Ok) => {
                *authenticated = true;
                court.authenticated(authentication);
            }
            Some(Authentication::Asks(method)) => *authentication = method,
            Some(Authentication::Continues) | None => {}
        },
        backend::PARAMETER_STATUS => {
            let mut reader = Reader::new(message.body);
            let (name, value) = (reader.cstr()?, reader.cstr()?);
            shared.settings.reported(name, value);
            if name == b"application_name" {
                court.renamed(&String::from_utf8_lossy(value));
            }
        }
        backend::COMMAND_COMPLETE
            if [&b"DISCARD ALL\0"[..], b"DEALLOCATE ALL\0"].contains(&message.body) =>
        {
            shared.prepared.clear();
        }
        backend::COPY_IN_RESPONSE => shared.progress.copy_in(),
        backend::ERROR_RESPONSE => {
            shared.progress.error();
            return shared
                .poisons
                .behind(message.body)
                .map(|denial| denial.encode(Severity::Error));
        }
        backend::READY_FOR_QUERY => {
            let status = backend::ready_for_query(message.body);
            shared.transaction = status;
            if let Some(went_well) = shared.progress.ready() {
                shared.settings.settled();
                shared.poisons.settle();
                shared.prepared.settle(went_well);
                shared.portals.settle(went_well);
                if status == Some(TransactionStatus::Idle) {
                    // A portal ends with its transaction.
                    shared.portals.clear();
                    court.settled();
                }
            }
        }
        _ => {}
    }
    None
}
