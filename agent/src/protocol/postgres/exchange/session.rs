//! What the server says of the session itself: who was let in, settings, notices.

use super::{
    super::{
        backend::{self, Report},
        reader::Reader,
    },
    Exchange, Pairing,
    in_flight::{Kind, Request},
};
use crate::{event::SessionEvent, protocol::Sink};

impl Exchange {
    pub(super) fn authentication(&mut self, body: &[u8], sink: &mut Sink<'_>) {
        match backend::authentication(body) {
            Some(backend::Authentication::Ok) if !self.authenticated => {
                self.authenticated = true;
                sink(SessionEvent::Authenticated { method: self.authentication });
            }
            Some(backend::Authentication::Asks(method)) => self.authentication = method,
            _ => {}
        }
    }

    pub(super) fn parameter_status(&mut self, body: &[u8], sink: &mut Sink<'_>) {
        let mut reader = Reader::new(body);
        let (Some(name), Some(value)) = (reader.cstr(), reader.cstr()) else {
            // It may have been any.
            self.reported_conforming_strings = None;
            return;
        };
        if name == b"standard_conforming_strings" {
            self.reported_conforming_strings = Some(value == b"on");
        }
        // During the start-up they only repeat what was asked for.
        if !matches!(self.in_flight.oldest(), Some(Request { kind: Kind::Startup, .. })) {
            let (name, value) = (String::from_utf8_lossy(name), String::from_utf8_lossy(value));
            sink(SessionEvent::Changed { name: &name, value: &value });
        }
    }

    /// The setting for a text that the server reads now.
    ///
    /// A statement that isn't answered yet may change it: that is reported before the next
    /// `ReadyForQuery` at the latest, but a text that was sent meanwhile is read before that.
    pub(super) fn standard_conforming_strings(&self) -> Option<bool> {
        let is_settled = self.pairing == Pairing::Exact
            && !self.failure.skipping
            && !self.in_flight.may_change_settings();
        self.reported_conforming_strings.filter(|_| is_settled)
    }
}

pub(super) fn notice(report: Report<'_>, sink: &mut Sink<'_>) {
    sink(SessionEvent::Notice {
        severity: &String::from_utf8_lossy(report.severity),
        code: &String::from_utf8_lossy(report.code),
        message: &String::from_utf8_lossy(report.message),
    });
}
