//! What the server says of the session itself: who was let in, settings, notices.

use super::{
    super::{
        backend::{self, Report},
        reader::Reader,
    },
    Exchange,
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
        let (Some(name), Some(value)) = (reader.cstr(), reader.cstr()) else { return };
        // During the start-up they only repeat what was asked for.
        if !matches!(self.in_flight.oldest(), Some(Request { kind: Kind::Startup, .. })) {
            let (name, value) = (String::from_utf8_lossy(name), String::from_utf8_lossy(value));
            sink(SessionEvent::Changed { name: &name, value: &value });
        }
    }
}

pub(super) fn notice(report: Report<'_>, sink: &mut Sink<'_>) {
    sink(SessionEvent::Notice {
        severity: &String::from_utf8_lossy(report.severity),
        code: &String::from_utf8_lossy(report.code),
        message: &String::from_utf8_lossy(report.message),
    });
}
