//! What a session's settings mean for how its texts are read.

use std::borrow::Cow;

use crate::event::Facts;

/// As the server has reported them; of a text that was sent before the report nothing is known.
#[derive(Debug, Default)]
pub(super) struct Settings {
    standard_conforming_strings: Option<bool>,
    encoding: Option<Encoding>,
    /// Something in flight may change them.
    in_doubt: bool,
}

/// How a client writes its texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    Utf8,
    /// A byte below 128 is that ASCII character wherever it stands.
    AsciiSafe,
    /// A byte that looks like a quote or a backslash may be the second half of a character.
    AsciiUnsafe,
}

/// Settings that say how a text is read.
const TELLING: [&str; 4] = ["standard_conforming_strings", "client_encoding", "*", "all"];

impl Settings {
    /// A `ParameterStatus`.
    pub(super) fn reported(&mut self, name: &[u8], value: &[u8]) {
        match name {
            b"standard_conforming_strings" => {
                self.standard_conforming_strings = match value {
                    b"on" => Some(true),
                    b"off" => Some(false),
                    _ => None,
                };
            }
            b"client_encoding" => self.encoding = Some(encoding(value)),
            _ => {}
        }
    }

    /// Everything in flight has been answered, and what it changed was reported before that.
    pub(super) fn settled(&mut self) {
        self.in_doubt = false;
    }

    /// A statement goes to the server.
    pub(super) fn sent(&mut self, facts: &Facts) {
        let is_known = facts.analysis.is_complete();
        self.in_doubt |= !is_known || facts.settings.iter().any(|name| TELLING.contains(&&**name));
    }

    pub(super) fn standard_conforming_strings(&self) -> Option<bool> {
        self.standard_conforming_strings.filter(|_| !self.in_doubt)
    }

    /// The client takes texts as UTF-8.
    pub(super) fn is_utf8(&self) -> bool {
        !self.in_doubt && self.encoding == Some(Encoding::Utf8)
    }

    /// A byte below 128 is that ASCII character, wherever in a text it stands.
    pub(super) fn is_ascii_safe(&self) -> bool {
        let safe = [Encoding::Utf8, Encoding::AsciiSafe];
        !self.in_doubt && self.encoding.is_some_and(|encoding| safe.contains(&encoding))
    }

    /// The characters of a text; `None` where it can't be told which the server will read.
    pub(super) fn decode<'a>(&self, bytes: &'a [u8]) -> Option<Cow<'a, str>> {
        if bytes.is_ascii() {
            return std::str::from_utf8(bytes).ok().map(Cow::Borrowed);
        }
        match self.encoding.filter(|_| !self.in_doubt)? {
            Encoding::Utf8 => std::str::from_utf8(bytes).ok().map(Cow::Borrowed),
            // Which letters they are makes no difference: no keyword has any.
            Encoding::AsciiSafe => Some(bytes.iter().map(|&byte| char::from(byte)).collect()),
            Encoding::AsciiUnsafe => None,
        }
    }
}

/// By the names that the server has for them.
fn encoding(name: &[u8]) -> Encoding {
    match name {
        b"UTF8" => Encoding::Utf8,
        b"SJIS" | b"SHIFT_JIS_2004" | b"BIG5" | b"GBK" | b"UHC" | b"GB18030" | b"JOHAB" => {
            Encoding::AsciiUnsafe
        }
        name if name.starts_with(b"LATIN")
            || name.starts_with(b"WIN")
            || name.starts_with(b"ISO_8859_")
            || name.starts_with(b"KOI8")
            || name.starts_with(b"EUC_")
            || matches!(name, b"SQL_ASCII" | b"MULE_INTERNAL") =>
        {
            Encoding::AsciiSafe
        }
        _ => Encoding::AsciiUnsafe,
    }
}

#[cfg(test)]
mod tests {
    use super::Settings;

    #[test]
    fn a_text_is_read_as_its_client_writes_it_or_not_at_all() {
        for (encoding, bytes, expected) in [
            ("UTF8", "SELECT 'ä'".as_bytes(), Some("SELECT 'ä'")),
            ("UTF8", b"SELECT '\xe4'", None),
            ("LATIN1", b"SELECT '\xe4'", Some("SELECT 'ä'")),
            ("EUC_JP", b"\xa4\xa2", Some("¤¢")),
            // The second byte of this character is a backslash.
            ("SJIS", b"SELECT '\x95\x5c'", None),
            ("GBK", b"SELECT '\xbf\x27'", None),
            ("SJIS", b"SELECT 1", Some("SELECT 1")),
            ("whatever comes", b"\xff", None),
        ] {
            let mut settings = Settings::default();
            settings.reported(b"client_encoding", encoding.as_bytes());
            assert_eq!(settings.decode(bytes).as_deref(), expected, "{encoding}");
        }
        assert_eq!(Settings::default().decode(b"\xc3\xa4"), None, "not reported yet");
    }
}
