//! The packets of the start-up phase, which have no tag: `StartupMessage`, `SSLRequest`,
//! `GSSENCRequest`, `CancelRequest`.

use std::borrow::Cow;

use super::reader::Reader;

/// The largest packet that a server accepts before authentication.
pub(crate) const MAX_LEN: usize = 10_000;
/// Lengths, including themselves, that such a packet can have.
pub(crate) const LENGTHS: std::ops::RangeInclusive<u32> = 8..=MAX_LEN as u32;

const CANCEL: u32 = 80_877_102;
const SSL: u32 = 80_877_103;
const GSSENC: u32 = 80_877_104;

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Packet<'a> {
    /// Asks for TLS.
    SslRequest,
    /// Asks for GSSAPI encryption.
    GssEncRequest,
    /// Asks to cancel what the session of this process runs. The secret key is not read.
    CancelRequest {
        backend_pid: u32,
    },
    StartupMessage(StartupMessage<'a>),
    /// A protocol that is not version 3.
    Unsupported {
        code: u32,
    },
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct StartupMessage<'a> {
    pub minor: u16,
    pub user: Cow<'a, str>,
    /// Defaults to the user name.
    pub database: Cow<'a, str>,
    pub application: Cow<'a, str>,
    /// The `replication` parameter asks for a replication connection.
    pub replication: bool,
}

/// Reads a packet's body, from the code on.
pub(crate) fn read(body: &[u8]) -> Option<Packet<'_>> {
    let mut reader = Reader::new(body);
    match reader.u32()? {
        SSL => Some(Packet::SslRequest),
        GSSENC => Some(Packet::GssEncRequest),
        CANCEL => Some(Packet::CancelRequest { backend_pid: reader.u32()? }),
        code if code >> 16 == 3 => {
            let mut message = StartupMessage { minor: code as u16, ..StartupMessage::default() };
            while let Some(name) = reader.cstr().filter(|name| !name.is_empty()) {
                let value = String::from_utf8_lossy(reader.cstr()?);
                match name {
                    b"user" => message.user = value,
                    b"database" => message.database = value,
                    b"application_name" => message.application = value,
                    b"replication" => message.replication = asks_for_replication(&value),
                    _ => {}
                }
            }
            if message.database.is_empty() {
                message.database = message.user.clone();
            }
            Some(Packet::StartupMessage(message))
        }
        code => Some(Packet::Unsupported { code }),
    }
}

/// Names and values of a `StartupMessage`, from its length on. What is no UTF-8 is shown as such.
pub(crate) fn parameters(packet: &[u8]) -> Vec<(String, String)> {
    let mut reader = Reader::new(packet.get(8..).unwrap_or_default());
    let mut parameters = Vec::new();
    while let Some(name) = reader.cstr().filter(|name| !name.is_empty()) {
        let Some(value) = reader.cstr() else { break };
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        parameters.push((text(name), text(value)));
    }
    parameters
}

/// `database`, or one of PostgreSQL's words for true (any unambiguous beginning of them).
fn asks_for_replication(value: &str) -> bool {
    let value = value.to_ascii_lowercase();
    let begins = |word: &str| word.starts_with(&value);
    match value.as_str() {
        "" | "o" => false,
        "database" | "1" | "on" => true,
        _ => begins("true") || begins("yes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets() {
        let startup = |minor, user, database, application, replication| {
            Some(Packet::StartupMessage(StartupMessage {
                minor,
                user: Cow::Borrowed(user),
                database: Cow::Borrowed(database),
                application: Cow::Borrowed(application),
                replication,
            }))
        };
        let cases: &[(&[u8], Option<Packet>)] = &[
            (b"\x04\xd2\x16\x2f", Some(Packet::SslRequest)),
            (b"\x04\xd2\x16\x30", Some(Packet::GssEncRequest)),
            (
                b"\x04\xd2\x16\x2e\0\0\x10\x01SECR",
                Some(Packet::CancelRequest { backend_pid: 4097 }),
            ),
            (b"\x04\xd2\x16\x2e\0\0", None),
            (b"\0\x02\0\0", Some(Packet::Unsupported { code: 0x2_0000 })),
            (b"\0\x03\0\0user\0ann\0\0", startup(0, "ann", "ann", "", false)),
            (
                b"\0\x03\0\x02user\0ann\0database\0d\0application_name\0a\0\0",
                startup(2, "ann", "d", "a", false),
            ),
            (b"\0\x03\0\0user\0r\0replication\0tr\0\0", startup(0, "r", "r", "", true)),
            (b"\0\x03\0\0user\0r\0replication\0database\0\0", startup(0, "r", "r", "", true)),
            (b"\0\x03\0\0user\0r\0replication\0off\0\0", startup(0, "r", "r", "", false)),
            (b"\0\x03\0\0user\0r", None),
            (b"\0\x03", None),
        ];
        for (body, expected) in cases {
            assert_eq!(&read(body), expected, "{body:?}");
        }
    }
}
