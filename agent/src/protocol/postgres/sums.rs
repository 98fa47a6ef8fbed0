//! Sums over what a client asks for, stretch by stretch of its stream: two who have read the same stream compare them.

use std::hash::Hasher as _;

use rustc_hash::FxHasher;

use super::{deframer::Message, frontend};
use crate::event::RequestSum;

/// What ends within so many bytes of the stream is summed up together.
const STRETCH_BYTES: u64 = 64 << 10;
/// Of a message; what it is longer by counts as its length does.
const SUMMED_BYTES: usize = 64 << 10;

/// Of the requests of one connection, from its `StartupMessage` on.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sums {
    current: RequestSum,
}

impl Sums {
    /// A request whose last byte is before `end`; gives the sum of what was asked before the stretch that it is in.
    pub(crate) fn add(&mut self, end: u64, message: &Message<'_>) -> Option<RequestSum> {
        if !is_summed(message.tag) {
            return None;
        }
        let before = self.enter(end);
        let kept = message.body.len().min(SUMMED_BYTES);
        let is_torn = message.lost > 0 || (kept as u64) < message.body_len.min(SUMMED_BYTES as u64);
        let body = message.body.get(..kept).unwrap_or_default();
        self.count(end, message.tag, message.body_len, body);
        self.current.is_torn |= is_torn;
        before
    }

    /// Likewise, of a message as it stands on the wire.
    pub(crate) fn add_wire(&mut self, end: u64, wire: &[u8]) -> Option<RequestSum> {
        let [tag, _, _, _, _, body @ ..] = wire else { return None };
        let before = self.enter(end);
        let kept = body.get(..SUMMED_BYTES).unwrap_or(body);
        self.count(end, *tag, body.len() as u64, kept);
        before
    }

    /// Nobody knows what was asked up to here.
    pub(crate) fn tear(&mut self, end: u64) -> Option<RequestSum> {
        let before = self.enter(end);
        self.current.is_torn = true;
        before
    }

    /// Of the stretch that is not over yet.
    pub(crate) fn current(&self) -> RequestSum {
        self.current
    }

    fn enter(&mut self, end: u64) -> Option<RequestSum> {
        let stretch = end / STRETCH_BYTES;
        if stretch == self.current.stretch {
            return None;
        }
        let next = RequestSum { stretch, ..RequestSum::default() };
        let before = std::mem::replace(&mut self.current, next);
        (before.requests > 0 || before.is_torn).then_some(before)
    }

    /// Where it ends is a part of it: the same requests in another order have another sum.
    fn count(&mut self, end: u64, tag: u8, body_len: u64, body: &[u8]) {
        let mut hasher = FxHasher::default();
        hasher.write_u64(end);
        hasher.write_u8(tag);
        hasher.write_u64(body_len);
        hasher.write(body);
        self.current.requests = self.current.requests.wrapping_add(1);
        self.current.sum = self.current.sum.wrapping_add(hasher.finish());
    }
}

/// What makes a server do something; data of a COPY is none of it, nor is what names and describes.
fn is_summed(tag: u8) -> bool {
    matches!(
        tag,
        frontend::QUERY
            | frontend::PARSE
            | frontend::BIND
            | frontend::EXECUTE
            | frontend::FUNCTION_CALL
    )
}
