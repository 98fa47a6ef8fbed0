//! Cuts one direction's bytes into messages, keeping of each only what its reader wants.

use crate::event::{BootTime, SyncLoss};

use super::{backend, frontend, startup};
use crate::protocol::Limits;

/// PostgreSQL accepts no message of more than 1 GiB.
const MAX_LEN: u32 = 0x3fff_ffff;
/// A kept body larger than this gives its memory back.
const SPARE_CAPACITY: usize = 64 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Frontend,
    Backend,
}

/// What the next byte is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// The first of a packet without a tag: `SSLRequest`, `StartupMessage`, …
    Start,
    /// The one-byte answer to `SSLRequest` or `GSSENCRequest`.
    Answer,
    /// Part of a tag and length.
    Header,
    /// Part of a message body.
    Body,
    /// Anything: the boundaries are lost.
    Lost,
    /// Ciphertext.
    Encrypted,
}

/// One message, or as much of it as was kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message<'a> {
    /// The message type; 0 for packets of the start-up phase.
    pub tag: u8,
    /// The beginning of the body.
    pub body: &'a [u8],
    /// How long the body is on the wire.
    pub body_len: u64,
    /// Bytes of the body that were lost.
    pub lost: u64,
    /// When the first byte came.
    pub started: BootTime,
    /// When the last byte came.
    pub at: BootTime,
}

impl Message<'_> {
    /// Bytes on the wire, header included.
    pub(crate) fn wire_len(&self) -> u64 {
        self.body_len + if self.tag == 0 { 4 } else { 5 }
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.body.len() as u64 == self.body_len
    }

    /// Bytes of the body that exist but were not kept.
    pub(crate) fn truncated(&self) -> u64 {
        self.body_len.saturating_sub(self.body.len() as u64).saturating_sub(self.lost)
    }
}

/// What came off the wire.
#[derive(Debug)]
pub(crate) enum Step<'a> {
    Message(Message<'a>),
    /// The answer to an encryption request.
    Answer(u8),
    /// The first byte belongs to a TLS handshake.
    ClientHello,
    /// The first byte can't begin a connection.
    NotAStart,
    Bad(SyncLoss),
}

#[derive(Debug)]
pub(crate) struct Deframer {
    side: Side,
    state: State,
    header: [u8; 5],
    have: usize,
    tag: u8,
    body_len: u32,
    remaining: u64,
    /// How much of the body is wanted.
    keep: usize,
    /// False once a gap has broken the kept beginning off.
    keeping: bool,
    lost: u64,
    started: BootTime,
    kept: Vec<u8>,
}

enum Progress {
    Starved,
    /// The body is whole in the input, at its front.
    Here(usize),
    /// The body has ended; what was wanted of it is in `kept`.
    Kept,
    Bad(SyncLoss),
}

impl Deframer {
    pub(crate) fn new(side: Side) -> Deframer {
        Deframer {
            side,
            state: match side {
                Side::Frontend => State::Start,
                Side::Backend => State::Header,
            },
            header: [0; 5],
            have: 0,
            tag: 0,
            body_len: 0,
            remaining: 0,
            keep: 0,
            keeping: false,
            lost: 0,
            started: BootTime(0),
            kept: Vec::new(),
        }
    }

    pub(crate) fn state(&self) -> State {
        self.state
    }

    /// Whether the next byte begins a message.
    pub(crate) fn at_boundary(&self) -> bool {
        self.state == State::Header && self.have == 0
    }

    pub(crate) fn enter(&mut self, state: State) {
        self.state = state;
        self.have = 0;
        self.kept.clear();
    }

    /// The next step within `input`, whose consumed bytes are cut off its front.
    pub(crate) fn next<'s, 'i: 's>(
        &'s mut self,
        input: &mut &'i [u8],
        at: BootTime,
        limits: &Limits,
    ) -> Option<Step<'s>> {
        if self.state == State::Answer {
            let (&answer, rest) = input.split_first()?;
            // An old server answers with an ErrorResponse.
            self.enter(State::Header);
            if answer != b'E' {
                *input = rest;
                return Some(Step::Answer(answer));
            }
        }
        if self.state == State::Start && self.have == 0 {
            match input.first()? {
                0 => {}
                0x16 => return Some(Step::ClientHello),
                _ => return Some(Step::NotAStart),
            }
        }
        match self.advance(input, at, limits) {
            Progress::Starved => None,
            Progress::Here(len) => {
                let (body, rest) = input.split_at_checked(len)?;
                *input = rest;
                let body = body.get(..self.keep.min(len)).unwrap_or(body);
                Some(Step::Message(Message {
                    tag: self.tag,
                    body,
                    body_len: u64::from(self.body_len),
                    lost: 0,
                    started: self.started,
                    at,
                }))
            }
            Progress::Kept => Some(Step::Message(self.kept_message(at))),
            Progress::Bad(why) => Some(Step::Bad(why)),
        }
    }

    /// Passes over the whole messages of these types at the front of `input`: of those nobody wants to know
    /// anything.
    pub(crate) fn skip(&self, input: &mut &[u8], is_unwanted: impl Fn(u8) -> bool) {
        if !self.at_boundary() {
            return;
        }
        while let Some((&[tag, len @ ..], rest)) = input.split_first_chunk::<5>() {
            let len = u32::from_be_bytes(len);
            if !is_unwanted(tag) || !(4..=MAX_LEN).contains(&len) {
                return;
            }
            let Some(rest) = rest.get(len as usize - 4..) else { return };
            *input = rest;
        }
    }

    /// Between two messages, keeps no more than so many bytes of memory.
    pub(crate) fn give_back(&mut self, bytes: usize) {
        if self.at_boundary() && self.kept.capacity() > bytes {
            self.kept = Vec::new();
        }
    }

    fn kept_message(&self, at: BootTime) -> Message<'_> {
        Message {
            tag: self.tag,
            body: &self.kept,
            body_len: u64::from(self.body_len),
            lost: self.lost,
            started: self.started,
            at,
        }
    }

    fn advance(&mut self, input: &mut &[u8], at: BootTime, limits: &Limits) -> Progress {
        if matches!(self.state, State::Header | State::Start) {
            let wanted = if self.state == State::Start { 4 } else { 5 };
            if self.have == 0 {
                self.started = at;
            }
            // Nearly always it is there as a whole.
            if self.have == 0
                && self.state == State::Header
                && let Some((header, rest)) = input.split_first_chunk()
            {
                self.header = *header;
                self.have = header.len();
                *input = rest;
            }
            while self.have < wanted {
                let Some((&byte, rest)) = input.split_first() else { return Progress::Starved };
                if let Some(place) = self.header.get_mut(self.have) {
                    *place = byte;
                }
                self.have += 1;
                *input = rest;
            }
            if let Err(why) = self.open(limits) {
                self.enter(State::Lost);
                return Progress::Bad(why);
            }
            if self.remaining <= input.len() as u64 {
                self.close();
                return Progress::Here(self.body_len as usize);
            }
            // Keeps the memory of one long statement from outliving it.
            if self.kept.capacity() > SPARE_CAPACITY {
                self.kept = Vec::new();
            }
            self.kept.clear();
            self.state = State::Body;
        }
        if self.state != State::Body {
            *input = &[];
            return Progress::Starved;
        }
        let len = self.remaining.min(input.len() as u64) as usize;
        let (part, rest) = input.split_at_checked(len).unwrap_or((input, &[]));
        *input = rest;
        if self.keeping {
            let wanted = self.keep.saturating_sub(self.kept.len()).min(part.len());
            self.kept.extend_from_slice(part.get(..wanted).unwrap_or_default());
        }
        self.remaining -= part.len() as u64;
        if self.remaining > 0 {
            return Progress::Starved;
        }
        self.close();
        Progress::Kept
    }

    /// Reads the header that is complete now.
    fn open(&mut self, limits: &Limits) -> Result<(), SyncLoss> {
        let [a, b, c, d, e] = self.header;
        let (tag, len) = match self.state {
            State::Start => (0, u32::from_be_bytes([a, b, c, d])),
            _ => (a, u32::from_be_bytes([b, c, d, e])),
        };
        let keep = match (self.side, self.state) {
            (_, State::Start) => {
                if !startup::LENGTHS.contains(&len) {
                    return Err(SyncLoss::BadLength(len));
                }
                Some(startup::MAX_LEN)
            }
            (Side::Frontend, _) => frontend::keep(tag, limits),
            (Side::Backend, _) => backend::keep(tag, limits),
        };
        let Some(keep) = keep else { return Err(SyncLoss::UnknownMessage(tag)) };
        if !(4..=MAX_LEN).contains(&len) {
            return Err(SyncLoss::BadLength(len));
        }
        self.tag = tag;
        self.body_len = len - 4;
        self.remaining = u64::from(self.body_len);
        self.keep = keep;
        self.keeping = true;
        self.lost = 0;
        Ok(())
    }

    fn close(&mut self) {
        self.state = State::Header;
        self.have = 0;
    }

    /// Passes over `len` missing bytes, `lost` of them lost. Gives the message that the gap ended or
    /// broke off, and whether the boundaries are still known.
    pub(crate) fn gap(&mut self, len: u64, lost: u64, at: BootTime) -> (Option<Message<'_>>, bool) {
        if matches!(self.state, State::Lost | State::Encrypted) {
            return (None, true);
        }
        if self.state != State::Body {
            self.enter(State::Lost);
            return (None, false);
        }
        self.keeping = false;
        let within = len.min(self.remaining);
        self.lost += lost.min(within);
        self.remaining -= within;
        if self.remaining > 0 {
            return (None, true);
        }
        self.close();
        let in_sync = within == len;
        if !in_sync {
            self.state = State::Lost;
        }
        (Some(self.kept_message(at)), in_sync)
    }

    /// The type of the message under way, once it has come.
    pub(crate) fn tag_under_way(&self) -> Option<u8> {
        match self.state {
            State::Body => Some(self.tag),
            State::Header if self.have > 0 => self.header.first().copied(),
            _ => None,
        }
    }

    /// The message that was under way when the connection ended.
    pub(crate) fn unfinished(&self, at: BootTime) -> Option<Message<'_>> {
        (self.state == State::Body && self.tag != 0).then(|| self.kept_message(at))
    }
}
