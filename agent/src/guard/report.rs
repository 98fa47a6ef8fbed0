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
        let mut body = Vec::with_capacity(256);
        for (field, text) in fields {
            let Some(text) = text else { continue };
            let text = text.get(..text.floor_char_boundary(FIELD_BYTES)).unwrap_or_default();
            body.push(field);
            body.extend(text.bytes().filter(|byte| *byte != 0));
            body.push(0);
        }
        body.push(0);
        let mut bytes = Vec::with_capacity(body.len() + 5);
        bytes.push(match self.severity {
            Severity::Notice => backend::NOTICE_RESPONSE,
            Severity::Error | Severity::Fatal => backend::ERROR_RESPONSE,
        });
        bytes.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
        bytes.append(&mut body);
        bytes
    }
}
