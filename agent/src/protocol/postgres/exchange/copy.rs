//! COPY from the client: its data belongs to the statement that takes it, and hides `Sync`s.

use super::{
    super::deframer::Message,
    Exchange,
    in_flight::{Kind, Request},
};
use crate::protocol::Sink;

impl Exchange {
    /// Counts the data towards the statement that takes it.
    pub(super) fn copy_data(&mut self, message: &Message<'_>) {
        if let Some(statement) = self.in_flight.statements().next() {
            statement.bytes_in += message.wire_len();
            statement.lost_bytes += message.lost;
        }
    }

    /// `CopyDone` or `CopyFail`.
    pub(super) fn end_copy_in(&mut self, message: &Message<'_>, sink: &mut Sink<'_>) {
        self.copy_data(message);
        if self.copy_in {
            self.copy_in = false;
        } else if !self.in_flight.is_empty() {
            // Sent ahead of the server's `CopyInResponse`.
            self.enqueue(Request::new(message.started, Kind::CopyEnd), sink);
        }
    }

    /// A `CopyInResponse`: the server ignores `Sync` while it reads copy data.
    pub(super) fn begin_copy_in(&mut self) {
        self.copy_in = !self.in_flight.pass_copy_in();
    }
}
