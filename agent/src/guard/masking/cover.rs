//! A mask made ready for the values of one column: type, modifier and format are looked at once.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{
    decimal::{Decimal, nudged},
    kind::{Kind, Length},
    moment::Day,
    pseudonym::{Digest, Pseudonyms, Purpose, push_hex},
    value::{JSONB_VERSION, Plain, greatest},
    words,
};
use crate::event::Mask;

/// What stands in the place of a column's values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cover {
    how: How,
    is_binary: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum How {
    Null,
    Fixed(Box<[u8]>),
    Name(Kind),
    Email(Length),
    Last4(Kind),
    Noise(Kind),
}

/// Of a column, as the server describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// Object identifier of its type.
    pub kind: u32,
    pub modifier: i32,
    /// 0 or 1.
    pub format: i16,
    /// The client takes texts as UTF-8.
    pub is_utf8: bool,
}

impl Cover {
    /// A mask that makes no sense for values of such a type makes them NULL.
    pub fn new(mask: &Mask, form: Form) -> Self {
        let is_binary = form.format == 1;
        let kind = Kind::of(form.kind, form.modifier).filter(|_| (0..=1).contains(&form.format));
        let how = kind.and_then(|kind| how(mask, kind, is_binary, form.is_utf8));
        Self { how: how.unwrap_or(How::Null), is_binary }
    }

    /// Whatever stands there.
    pub fn null() -> Self {
        Self { how: How::Null, is_binary: false }
    }

    pub fn is_null(&self) -> bool {
        self.how == How::Null
    }

    /// Writes what stands for a value, which is not NULL; `false`: it is NULL, and nothing was written.
    pub fn put(&self, value: &[u8], pseudonyms: &Pseudonyms, out: &mut Vec<u8>) -> bool {
        let from = out.len();
        let written = self.try_put(value, pseudonyms, out).is_some();
        if !written {
            out.truncate(from);
        }
        written
    }

    fn try_put(&self, value: &[u8], pseudonyms: &Pseudonyms, out: &mut Vec<u8>) -> Option<()> {
        match &self.how {
            How::Null => return None,
            How::Fixed(bytes) => out.extend_from_slice(bytes),
            How::Email(length) => words::push_email(value, *length, pseudonyms, out),
            How::Name(Kind::Text(length)) => words::push_name(value, *length, pseudonyms, out),
            How::Name(Kind::Json { is_binary }) => {
                let has_version = *is_binary && self.is_binary;
                let json = if has_version { value.get(1..)? } else { value };
                if has_version {
                    out.push(JSONB_VERSION);
                }
                out.push(b'"');
                push_hex(&pseudonyms.digest(Purpose::Name, json).half(), out);
                out.push(b'"');
            }
            How::Last4(Kind::Text(length)) => words::push_last4(value, *length, out),
            How::Name(kind) | How::Last4(kind) | How::Noise(kind) => {
                let plain = Plain::read(*kind, self.is_binary, value)?;
                let other = match self.how {
                    How::Name(_) => {
                        named(*kind, &plain, &digest(&plain, pseudonyms, Purpose::Name, out)?)?
                    }
                    How::Noise(_) => {
                        noisy(*kind, &plain, &digest(&plain, pseudonyms, Purpose::Noise, out)?)?
                    }
                    _ => last4(&plain)?,
                };
                other.write(*kind, self.is_binary, out)?;
            }
        }
        Some(())
    }
}

fn how(mask: &Mask, kind: Kind, is_binary: bool, is_utf8: bool) -> Option<How> {
    Some(match (mask, kind) {
        (Mask::Null, _) => return None,
        (Mask::Fixed(text), kind) => How::Fixed(fixed(text, kind, is_binary, is_utf8)?.into()),
        (Mask::Hash, Kind::Bool) => return None,
        (Mask::Hash, kind) => How::Name(kind),
        (Mask::Email, Kind::Text(length)) => How::Email(length),
        (Mask::Email, _) => return None,
        (Mask::Last4, Kind::Text(_) | Kind::Integer(_) | Kind::Numeric(_) | Kind::Uuid) => {
            How::Last4(kind)
        }
        (Mask::Last4, _) => return None,
        (
            Mask::Noise,
            Kind::Integer(_)
            | Kind::Real(_)
            | Kind::Numeric(_)
            | Kind::Date
            | Kind::Timestamp { .. },
        ) => How::Noise(kind),
        (Mask::Noise, _) => return None,
    })
}

/// What is written for every value; `None` where the text is no value of the type.
fn fixed(text: &str, kind: Kind, is_binary: bool, is_utf8: bool) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    match kind {
        Kind::Text(length) => words::push_fixed(text, length, is_utf8, &mut out)?,
        Kind::Json { is_binary: has_version } => {
            if has_version && is_binary {
                out.push(JSONB_VERSION);
            }
            let is_json = serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok();
            let json = if is_json { text.to_owned() } else { serde_json::to_string(text).ok()? };
            words::push_fixed(&json, Length::Any, is_utf8, &mut out)?;
        }
        Kind::Numeric(precision) => {
            let decimal = Decimal::of_text(text.as_bytes())?.fitted(precision)?;
            Plain::Decimal(decimal).write(kind, is_binary, &mut out)?;
        }
        Kind::Bytes if !text.starts_with("\\x") => {
            Plain::Bytes(text.as_bytes().to_vec()).write(kind, is_binary, &mut out)?;
        }
        Kind::Timestamp { .. } => {
            // A day alone is its beginning.
            let whole = format!("{text} 00:00:00");
            let plain =
                [text, &whole].iter().find_map(|text| Plain::read(kind, false, text.as_bytes()));
            plain?.write(kind, is_binary, &mut out)?;
        }
        kind => Plain::read(kind, false, text.as_bytes())
            .filter(|plain| !matches!(plain, Plain::Real(number) if !number.is_finite()))?
            .write(kind, is_binary, &mut out)?,
    }
    Some(out)
}

/// What is written meanwhile is taken back.
fn digest(
    plain: &Plain,
    pseudonyms: &Pseudonyms,
    purpose: Purpose,
    out: &mut Vec<u8>,
) -> Option<Digest> {
    let from = out.len();
    plain.push_canonical(out)?;
    let digest = pseudonyms.digest(purpose, out.get(from..)?);
    out.truncate(from);
    Some(digest)
}

/// Integers up to here are exact in a number of so many bytes.
const EXACT: u64 = 1 << 53;
const EXACT_NARROW: u64 = 1 << 24;

/// A pseudonym.
fn named(kind: Kind, plain: &Plain, digest: &Digest) -> Option<Plain> {
    Some(match (plain, kind) {
        (Plain::Integer(_), Kind::Integer(bytes)) => {
            let most = greatest(bytes).unsigned_abs();
            Plain::Integer(i64::try_from(digest.up_to(most)).ok()?)
        }
        (Plain::Real(_), Kind::Real(bytes)) => {
            let end = if bytes == 4 { EXACT_NARROW } else { EXACT };
            Plain::Real((digest.number() % end) as f64)
        }
        (Plain::Decimal(_), Kind::Numeric(precision)) => {
            Plain::Decimal(Decimal::of_digest(digest, precision))
        }
        (Plain::Day(_), _) => Plain::Day(Day::of_digest(digest)),
        (Plain::Second(second), _) => Plain::Second(second.of_digest(digest)),
        (Plain::Uuid(_), _) => {
            let mut bytes = digest.half();
            // Version 8, as those have that somebody makes in a way of his own.
            bytes[6] = bytes[6] & 0x0f | 0x80;
            bytes[8] = bytes[8] & 0x3f | 0x80;
            Plain::Uuid(bytes)
        }
        (Plain::Bytes(_), _) => Plain::Bytes(digest.half().to_vec()),
        // Addresses that nobody has: reserved ones, and those for private use.
        (Plain::Address(IpAddr::V4(_)), _) => {
            let bits = (digest.number() as u32) & 0x0fff_ffff | 0xf000_0000;
            Plain::Address(Ipv4Addr::from_bits(bits).into())
        }
        (Plain::Address(IpAddr::V6(_)), _) => {
            let mut bytes = digest.half();
            bytes[0] = 0xfd;
            Plain::Address(Ipv6Addr::from(bytes).into())
        }
        _ => return None,
    })
}

/// A tenth more or less at most, and never as much as nothing.
const MOST_NOISE: f64 = 0.1;
const LEAST_NOISE: f64 = 0.005;

fn noisy(kind: Kind, plain: &Plain, digest: &Digest) -> Option<Plain> {
    Some(match (plain, kind) {
        (Plain::Integer(number), Kind::Integer(bytes)) => {
            let moved = nudged(i128::from(*number), i128::from(greatest(bytes)), digest)?;
            Plain::Integer(i64::try_from(moved).ok()?)
        }
        (Plain::Real(number), Kind::Real(bytes)) if number.is_finite() => {
            let part = LEAST_NOISE + digest.part() * (MOST_NOISE - LEAST_NOISE);
            let up = if *number == 0.0 { part } else { number * (1.0 + part) };
            let most = if bytes == 4 { f64::from(f32::MAX) } else { f64::MAX };
            let is_up = *number == 0.0 || digest.is_odd() && up.abs() <= most;
            Plain::Real(if is_up { up } else { number * (1.0 - part) })
        }
        (Plain::Decimal(Decimal { mantissa, scale }), Kind::Numeric(precision)) => {
            let digits = precision.map_or(MOST_DIGITS, |precision| precision.digits);
            let end = 10_i128.checked_pow(digits.min(MOST_DIGITS))?;
            Plain::Decimal(Decimal { mantissa: nudged(*mantissa, end - 1, digest)?, scale: *scale })
        }
        (Plain::Day(day), _) => Plain::Day(day.moved(digest)?),
        (Plain::Second(second), _) => Plain::Second(second.moved(digest)?),
        _ => return None,
    })
}

/// Of a number that is moved.
const MOST_DIGITS: u32 = 37;
/// A number of fewer digits would be shown as a whole, or nearly.
const LONG: i128 = 10_000_000;

fn last4(plain: &Plain) -> Option<Plain> {
    Some(match plain {
        Plain::Integer(number) if i128::from(*number).abs() >= LONG => {
            Plain::Integer((number % 10_000).abs())
        }
        Plain::Decimal(Decimal { mantissa, scale: 0 }) if mantissa.abs() >= LONG => {
            Plain::Decimal(Decimal { mantissa: (mantissa % 10_000).abs(), scale: 0 })
        }
        Plain::Uuid([.., a, b]) => {
            let mut bytes = [0; 16];
            (bytes[14], bytes[15]) = (*a, *b);
            Plain::Uuid(bytes)
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::{super::Pseudonyms, Cover, Form};
    use crate::event::Mask;

    /// Type, what is masked, and what stands for it by each mask; `-` for NULL.
    type Masked = (u32, &'static str, &'static [(&'static str, &'static str)]);

    const TEXTS: &[Masked] = &[
        (16, "t", &[("hash", "-"), ("fixed:false", "f"), ("fixed:x", "-"), ("noise", "-")]),
        (17, "\\x616263", &[("fixed:\\xff", "\\xff"), ("fixed:ab", "\\x6162"), ("last4", "-")]),
        (20, "123456789", &[("last4", "6789"), ("fixed:7", "7"), ("fixed:seven", "-")]),
        (21, "4711", &[("last4", "-"), ("fixed:32768", "-"), ("email", "-")]),
        (25, "ann@example.org", &[("last4", "***@******e.org"), ("fixed:", ""), ("null", "-")]),
        (
            114,
            "{\"a\": 1}",
            &[("fixed:REDACTED", "\"REDACTED\""), ("fixed:{}", "{}"), ("email", "-")],
        ),
        (701, "1.5", &[("fixed:0", "0"), ("fixed:NaN", "-"), ("last4", "-")]),
        (869, "192.168.1.7/24", &[("fixed:10.0.0.1", "10.0.0.1"), ("noise", "-")]),
        (1082, "1999-12-31", &[("fixed:2000-01-01", "2000-01-01"), ("fixed:31/12/99", "-")]),
        (1082, "infinity", &[("noise", "-"), ("hash", "-"), ("fixed:2000-01-01", "2000-01-01")]),
        (1114, "1999-12-31 23:59:59", &[("fixed:2000-01-01", "2000-01-01 00:00:00")]),
        (1184, "1999-12-31 23:59:59+01", &[("fixed:2000-01-01", "2000-01-01 00:00:00+00")]),
        (1700, "123456789", &[("last4", "6789"), ("fixed:1.50", "1.50"), ("fixed:1e5", "-")]),
        (
            2950,
            "12345678-9abc-def0-1234-56789abcdef0",
            &[
                ("last4", "00000000-0000-0000-0000-00000000def0"),
                (
                    "fixed:00000000-0000-0000-0000-000000000000",
                    "00000000-0000-0000-0000-000000000000",
                ),
            ],
        ),
        // money, text[], a type that somebody has made
        (790, "$1.00", &[("hash", "-"), ("fixed:1", "-")]),
        (1009, "{a,b}", &[("hash", "-"), ("fixed:{}", "-")]),
        (16_400, "red", &[("hash", "-"), ("fixed:red", "-"), ("last4", "-")]),
    ];

    fn put(mask: &str, kind: u32, modifier: i32, format: i16, value: &[u8]) -> Option<Vec<u8>> {
        let mask: Mask = mask.parse().unwrap();
        let cover = Cover::new(&mask, Form { kind, modifier, format, is_utf8: true });
        let mut out = b"x".to_vec();
        let written = cover.put(value, &Pseudonyms::new(&[3; 32]), &mut out);
        assert_eq!(out.remove(0), b'x');
        assert!(written || out.is_empty());
        written.then_some(out)
    }

    #[test]
    fn masks_by_type() {
        for (kind, value, cases) in TEXTS {
            for (mask, expected) in *cases {
                let got = put(mask, *kind, -1, 0, value.as_bytes());
                let got = got.map_or("-".to_owned(), |bytes| String::from_utf8(bytes).unwrap());
                assert_eq!(got, *expected, "{mask} of {value} ({kind})");
            }
        }
    }

    /// By whichever format a value comes, it gets the same one in its place.
    #[test]
    fn either_format_gives_the_same() {
        let decimal = b"\0\x03\0\x01\0\0\0\x02\x00\x01\x09\x29\x15\xe0";
        let address = b"\x02\x18\0\x04\xc0\xa8\x01\x07";
        let day = (-1_i32).to_be_bytes();
        let second = (-1_500_000_i64).to_be_bytes();
        let cases: &[(u32, &str, &[u8])] = &[
            (20, "-5000", &(-5_000_i64).to_be_bytes()),
            (21, "12", b"\0\x0c"),
            (23, "12", b"\0\0\0\x0c"),
            (25, "Ann", b"Ann"),
            (17, "\\x0aff", b"\x0a\xff"),
            (17, "\\012\\377", b"\x0a\xff"),
            (700, "1.1", &1.1_f32.to_be_bytes()),
            (701, "-1.1e300", &(-1.1e300_f64).to_be_bytes()),
            (869, "192.168.1.7/24", address),
            (1082, "1999-12-31", &day),
            (1114, "1999-12-31 23:59:58.5", &second),
            (1184, "2000-01-01 00:59:58.5+01", &second),
            (1700, "12345.56", decimal),
            (1700, "12345.560", b"\0\x03\0\x01\0\0\0\x03\x00\x01\x09\x29\x15\xe0"),
        ];
        for (kind, text, binary) in cases {
            for mask in ["hash", "noise", "last4"] {
                let of_text = put(mask, *kind, -1, 0, text.as_bytes());
                let of_binary = put(mask, *kind, -1, 1, binary);
                assert_eq!(of_text.is_some(), of_binary.is_some(), "{mask} of {text}");
                let (Some(of_text), Some(of_binary)) = (of_text, of_binary) else { continue };
                assert_ne!(of_text, text.as_bytes(), "{mask} of {text}");
                // What stands there is read back: masked once more, both are the same again.
                let again = |format, value: &[u8]| put("hash", *kind, -1, format, value).unwrap();
                let words = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
                let (again_text, again_binary) = (again(0, &of_text), again(1, &of_binary));
                let twice = put("hash", *kind, -1, 0, &of_text).unwrap();
                assert_eq!(words(again_text), words(twice));
                assert!(!again_binary.is_empty());
            }
        }
        // One value, one pseudonym, by whichever type it is text.
        assert_eq!(
            put("hash", 25, -1, 0, b"Ann"),
            put("hash", 1042, 44, 0, b"Ann").map(|it| it[..32].to_vec())
        );
        assert_eq!(put("hash", 1043, 9, 0, b"Ann").unwrap().len(), 5);
        assert_eq!(
            put("hash", 3802, -1, 1, b"\x01{}").unwrap()[1..],
            put("hash", 3802, -1, 0, b"{}").unwrap()[..]
        );
    }

    /// Whatever bytes stand there.
    #[test]
    fn nonsense_is_null_and_never_a_panic() {
        let kinds = TEXTS.iter().map(|(kind, ..)| *kind).chain([0, 19, 23, 700, 1042, 1043, 3802]);
        for kind in kinds {
            for mask in ["hash", "noise", "last4", "email", "fixed:1", "null"] {
                for format in [-1, 0, 1, 2] {
                    for value in
                        [&b""[..], b"\xff", b"\xff\xff\xff\xff", &[0; 8], &[0x80; 16], b"\\"]
                    {
                        for modifier in [-1, 4, 5, i32::MAX, i32::MIN] {
                            put(mask, kind, modifier, format, value);
                        }
                    }
                }
            }
        }
    }
}
