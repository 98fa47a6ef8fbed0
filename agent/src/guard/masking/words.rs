//! Texts that stand in the place of others: pseudonyms, addresses, the last few characters.

use super::{
    kind::Length,
    pseudonym::{Pseudonyms, Purpose, push_hex},
};

/// Of a mail address, where there is room: sixteen digits before the `@`.
const NAME_BYTES: usize = 8;
/// So many digits still tell names apart.
const LEAST_DIGITS: usize = 6;
/// So many are shown at the end …
const SHOWN: usize = 4;
/// … of no fewer than these: of a shorter one they would be most of it.
const LEAST_CHARACTERS: usize = 8;

/// Thirty-two hexadecimal digits, or as many as there is room for.
pub(super) fn push_name(value: &[u8], length: Length, pseudonyms: &Pseudonyms, out: &mut Vec<u8>) {
    let from = out.len();
    push_hex(&pseudonyms.digest(Purpose::Name, same(value, length)).half(), out);
    fit(from, length, out);
}

/// The name before the `@` becomes a pseudonym; what is no address becomes one as a whole.
pub(super) fn push_email(value: &[u8], length: Length, pseudonyms: &Pseudonyms, out: &mut Vec<u8>) {
    let address = same(value, length);
    let at = address.iter().rposition(|byte| *byte == b'@').filter(|at| *at > 0);
    let domain = at.and_then(|at| address.get(at..)).filter(|domain| {
        // In some encodings a half of a character looks like an `@`.
        domain.len() > 1 && address.is_ascii()
    });
    let room = match length {
        Length::Any => usize::MAX,
        Length::Characters(n) | Length::Padded(n) => n as usize,
    };
    let Some((domain, room)) =
        domain.and_then(|domain| Some((domain, room.checked_sub(domain.len())?)))
    else {
        return push_name(value, length, pseudonyms, out);
    };
    if room < LEAST_DIGITS {
        return push_name(value, length, pseudonyms, out);
    }
    let from = out.len();
    let digest = pseudonyms.digest(Purpose::Name, address).half();
    push_hex(digest.get(..NAME_BYTES).unwrap_or_default(), out);
    out.truncate(out.len().min(from.saturating_add(room)));
    out.extend_from_slice(domain);
    fit(from, length, out);
}

/// Letters and digits become `*`, but for the last four where there are eight or more.
pub(super) fn push_last4(value: &[u8], length: Length, out: &mut Vec<u8>) {
    let from = out.len();
    let value = same(value, length);
    let all = value.iter().filter(|byte| byte.is_ascii_alphanumeric()).count();
    let mut hidden = if all >= LEAST_CHARACTERS { all - SHOWN } else { all };
    for byte in value {
        match byte {
            byte if byte.is_ascii_alphanumeric() => {
                out.push(if hidden > 0 { b'*' } else { *byte });
                hidden = hidden.saturating_sub(1);
            }
            byte if byte.is_ascii() => out.push(*byte),
            // What follows the first byte of a character in UTF-8.
            0x80..0xc0 => {}
            _ => out.push(b'*'),
        }
    }
    fit(from, length, out);
}

/// A fixed one; `None` where it can't be told what its characters are to the client.
pub(super) fn push_fixed(
    text: &str,
    length: Length,
    is_utf8: bool,
    out: &mut Vec<u8>,
) -> Option<()> {
    if !is_utf8 && !text.is_ascii() {
        return None;
    }
    let end = match length {
        Length::Any => text.len(),
        Length::Characters(n) | Length::Padded(n) => {
            text.char_indices().nth(n as usize).map_or(text.len(), |(at, _)| at)
        }
    };
    let text = text.get(..end)?;
    out.extend_from_slice(text.as_bytes());
    if let Length::Padded(n) = length {
        let missing = (n as usize).saturating_sub(text.chars().count());
        out.resize(out.len() + missing, b' ');
    }
    Some(())
}

/// Without what it is filled up with.
fn same(value: &[u8], length: Length) -> &[u8] {
    match length {
        Length::Padded(_) => value.trim_ascii_end(),
        _ => value,
    }
}

/// Of ASCII alone.
fn fit(from: usize, length: Length, out: &mut Vec<u8>) {
    match length {
        Length::Any => {}
        Length::Characters(n) => out.truncate(from.saturating_add(n as usize)),
        Length::Padded(n) => out.resize(from.saturating_add(n as usize), b' '),
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{kind::Length, pseudonym::Pseudonyms},
        push_email, push_fixed, push_last4, push_name,
    };

    fn text(push: impl Fn(&mut Vec<u8>)) -> String {
        let mut out = b"before this long word ".to_vec();
        push(&mut out);
        String::from_utf8(out).unwrap().strip_prefix("before this long word ").unwrap().to_owned()
    }

    #[test]
    fn the_last_characters_of_what_is_long_enough() {
        for (value, expected) in [
            ("123-45-6789", "***-**-6789"),
            ("4111 1111 1111 1111", "**** **** **** 1111"),
            ("+49 30 901820", "+** ** **1820"),
            ("1234567", "*******"),
            ("", ""),
            ("Jürgen Müller", "****** **ller"),
            ("李小龍", "***"),
        ] {
            assert_eq!(text(|out| push_last4(value.as_bytes(), Length::Any, out)), expected);
        }
    }

    #[test]
    fn a_name_fits_its_column() {
        let pseudonyms = Pseudonyms::new(&[1; 32]);
        let name = |value: &[u8], length| text(|out| push_name(value, length, &pseudonyms, out));
        let long = name(b"Ann", Length::Any);
        assert!(long.len() == 32 && long.bytes().all(|byte| byte.is_ascii_hexdigit()), "{long}");
        assert_eq!(name(b"Ann", Length::Characters(5)), long[..5]);
        assert_eq!(name(b"Ann  ", Length::Padded(40)), format!("{long:<40}"));
        assert_ne!(name(b"Ann ", Length::Any), long);

        let email = |value: &str, length| {
            text(|out| push_email(value.as_bytes(), length, &pseudonyms, out))
        };
        let whole = email("ann@example.org", Length::Any);
        let (name, domain) = whole.split_once('@').unwrap();
        assert_eq!((name.len(), domain), (16, "example.org"));
        assert_eq!(
            email("ann@example.org", Length::Characters(20)),
            format!("{}@{domain}", &name[..8])
        );
        assert!(!email("ann@example.org", Length::Characters(14)).contains('@'));
        for odd in ["@example.org", "ann@", "ann", "ann@exämple.org"] {
            assert_eq!(
                email(odd, Length::Any),
                text(|out| push_name(odd.as_bytes(), Length::Any, &pseudonyms, out))
            );
        }
    }

    #[test]
    fn a_fixed_text_is_cut_by_characters() {
        for (length, is_utf8, expected) in [
            (Length::Any, true, Some("verdächtig")),
            (Length::Any, false, None),
            (Length::Characters(6), true, Some("verdäc")),
            (Length::Padded(12), true, Some("verdächtig  ")),
        ] {
            let mut out = Vec::new();
            let fixed = push_fixed("verdächtig", length, is_utf8, &mut out);
            assert_eq!(fixed.map(|()| String::from_utf8(out).unwrap()).as_deref(), expected);
        }
    }
}
