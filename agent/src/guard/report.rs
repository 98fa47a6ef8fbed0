//! Errors in the words of PostgreSQL's protocol.

use crate::protocol::postgres::backend;

/// What a client is told; SQLSTATE in `code`.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    pub severity: Severity,
    pub code: &'a str,
    pub message: &'a str,
    pub detail: Option<&'a str>,
    pub hint: Option<&'a str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Nothing has failed.
    Notice,
    /// The session goes on.
    Error,
    /// The connection ends.
    Fatal,
}

/// A field of a report longer than this is cut.
const FIELD_BYTES: usize = 1_024;

impl Report<'_> {
    /// An `ErrorResponse`, or a `NoticeResponse`.
    pub fn encode(&self) -> Vec<u8> {
        let severity = match self.severity {
            Severity::Notice => "NOTICE",
            Severity::Error => "ERROR",
            Severity::Fatal => "FATAL",
        };
        let fields = [
            (b'S', Some(severity)),
            (b'V', Some(severity)),
            (b'C', Some(self.code)),
            (b'M', Some(self.message)),
            (b'D', self.detail),
            (b'H', self.hint),
        ];
        let mut words = Words::new(match self.severity {
            Severity::Notice => backend::NOTICE_RESPONSE,
            Severity::Error | Severity::Fatal => backend::ERROR_RESPONSE,
        });
        for (field, text) in fields {
            let Some(text) = text else { continue };
            let text = text.get(..text.floor_char_boundary(FIELD_BYTES)).unwrap_or_default();
            words.put(field, text.as_bytes());
        }
        words.finish()
    }
}

/// An `ErrorResponse` or a `NoticeResponse`, field by field.
#[derive(Debug)]
pub struct Words(Vec<u8>);

impl Words {
    pub fn new(tag: u8) -> Self {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(&[tag, 0, 0, 0, 0]);
        Self(bytes)
    }

    pub fn put(&mut self, field: u8, text: &[u8]) {
        self.0.push(field);
        self.0.extend(text.iter().filter(|byte| **byte != 0));
        self.0.push(0);
    }

    pub fn finish(self) -> Vec<u8> {
        let Self(mut bytes) = self;
        bytes.push(0);
        let len = bytes.len() as u32 - 1;
        if let Some(place) = bytes.get_mut(1..5) {
            place.copy_from_slice(&len.to_be_bytes());
        }
        bytes
    }
}
