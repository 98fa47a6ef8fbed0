//! A value of a column: read from either of the protocol's formats, written in the same one.

use std::{
    io::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use super::{
    decimal::Decimal,
    kind::Kind,
    moment::{Day, Second},
    pseudonym::push_hex,
};
use crate::protocol::postgres::reader::Reader;

/// What of a value matters to masks.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Plain {
    Bool(bool),
    Integer(i64),
    Real(f64),
    Decimal(Decimal),
    Day(Day),
    Second(Second),
    Uuid([u8; 16]),
    Bytes(Vec<u8>),
    Address(IpAddr),
}

/// Families of addresses, as PostgreSQL numbers them.
const INET: u8 = 2;
const INET6: u8 = 3;
/// The version that a binary `jsonb` begins with.
pub(super) const JSONB_VERSION: u8 = 1;
/// Microseconds since 2000 that mean infinity.
const INFINITE: [i64; 2] = [i64::MIN, i64::MAX];

impl Plain {
    /// `None` for what isn't read, as infinity; texts and JSON are not read at all.
    pub(super) fn read(kind: Kind, is_binary: bool, value: &[u8]) -> Option<Self> {
        match is_binary {
            true => Self::of_binary(kind, value),
            false => Self::of_text(kind, value),
        }
    }

    fn of_text(kind: Kind, value: &[u8]) -> Option<Self> {
        let text = || std::str::from_utf8(value).ok();
        Some(match kind {
            Kind::Bool => Self::Bool(match text()?.to_ascii_lowercase().as_str() {
                "t" | "true" | "on" | "yes" | "1" => true,
                "f" | "false" | "off" | "no" | "0" => false,
                _ => return None,
            }),
            Kind::Integer(bytes) => Self::Integer(ranged(text()?.parse().ok()?, bytes)?),
            Kind::Real(4) => Self::Real(f64::from(text()?.parse::<f32>().ok()?)),
            Kind::Real(_) => Self::Real(text()?.parse().ok()?),
            Kind::Numeric(_) => Self::Decimal(Decimal::of_text(value)?),
            Kind::Date => Self::Day(Day::of_text(value)?),
            Kind::Timestamp { .. } => Self::Second(Second::of_text(value)?),
            Kind::Uuid => Self::Uuid(uuid(text()?)?),
            Kind::Bytes => Self::Bytes(bytes(value)?),
            Kind::Address => Self::Address(text()?.split('/').next()?.parse().ok()?),
            Kind::Text(_) | Kind::Json { .. } => return None,
        })
    }

    fn of_binary(kind: Kind, value: &[u8]) -> Option<Self> {
        let array = || value.as_array::<8>().copied();
        Some(match kind {
            Kind::Bool => Self::Bool(*value.as_array::<1>()? != [0]),
            Kind::Integer(2) => Self::Integer(i16::from_be_bytes(*value.as_array()?).into()),
            Kind::Integer(4) => Self::Integer(i32::from_be_bytes(*value.as_array()?).into()),
            Kind::Integer(_) => Self::Integer(i64::from_be_bytes(array()?)),
            Kind::Real(4) => Self::Real(f32::from_be_bytes(*value.as_array()?).into()),
            Kind::Real(_) => Self::Real(f64::from_be_bytes(array()?)),
            Kind::Numeric(_) => Self::Decimal(Decimal::of_binary(value)?),
            Kind::Date => Self::Day(Day::valid(i32::from_be_bytes(*value.as_array()?))?),
            Kind::Timestamp { .. } => {
                let micros = Some(i64::from_be_bytes(array()?));
                let micros = micros.filter(|micros| !INFINITE.contains(micros))?;
                Self::Second(Second::of_micros(micros))
            }
            Kind::Uuid => Self::Uuid(*value.as_array()?),
            Kind::Bytes => Self::Bytes(value.to_vec()),
            Kind::Address => {
                let mut reader = Reader::new(value);
                let (family, _bits, _is_cidr) = (reader.u8()?, reader.u8()?, reader.u8()?);
                let _len = reader.u8()?;
                Self::Address(match family {
                    INET => Ipv4Addr::from(*reader.rest().as_array::<4>()?).into(),
                    INET6 => Ipv6Addr::from(*reader.rest().as_array::<16>()?).into(),
                    _ => return None,
                })
            }
            Kind::Text(_) | Kind::Json { .. } => return None,
        })
    }

    /// `None` where its type has no such value; then nothing has been written that may stay.
    pub(super) fn write(&self, kind: Kind, is_binary: bool, out: &mut Vec<u8>) -> Option<()> {
        match is_binary {
            true => self.push_binary(kind, out),
            false => self.push_text(kind, out),
        }
    }

    /// The same for the same value, in whichever format it came.
    pub(super) fn push_canonical(&self, out: &mut Vec<u8>) -> Option<()> {
        match self {
            Self::Decimal(decimal) => {
                decimal.plain().push_text(out);
                Some(())
            }
            Self::Second(second) => write!(out, "{}s", second.at).ok(),
            Self::Bytes(bytes) => {
                out.extend_from_slice(bytes);
                Some(())
            }
            other => other.push_text(Kind::Timestamp { has_zone: false }, out),
        }
    }

    fn push_text(&self, kind: Kind, out: &mut Vec<u8>) -> Option<()> {
        match self {
            Self::Bool(is) => out.push(if *is { b't' } else { b'f' }),
            Self::Integer(number) => write!(out, "{number}").ok()?,
            // A narrow one is written with its own digits.
            Self::Real(number) if kind == Kind::Real(4) => {
                write!(out, "{}", *number as f32).ok()?
            }
            Self::Real(number) => write!(out, "{number}").ok()?,
            Self::Decimal(decimal) => decimal.push_text(out),
            Self::Day(day) => day.push_text(out)?,
            Self::Second(second) => {
                let has_zone = kind == Kind::Timestamp { has_zone: true };
                second.push_text(has_zone, out)?;
            }
            Self::Uuid(bytes) => {
                let mut rest = bytes.as_slice();
                for (n, len) in [4, 2, 2, 2, 6].into_iter().enumerate() {
                    if n > 0 {
                        out.push(b'-');
                    }
                    let (part, after) = rest.split_at_checked(len)?;
                    push_hex(part, out);
                    rest = after;
                }
            }
            Self::Bytes(bytes) => {
                out.extend_from_slice(b"\\x");
                push_hex(bytes, out);
            }
            Self::Address(address) => write!(out, "{address}").ok()?,
        }
        Some(())
    }

    fn push_binary(&self, kind: Kind, out: &mut Vec<u8>) -> Option<()> {
        match (self, kind) {
            (Self::Bool(is), _) => out.push(u8::from(*is)),
            (Self::Integer(n), Kind::Integer(2)) => {
                out.extend_from_slice(&i16::try_from(*n).ok()?.to_be_bytes());
            }
            (Self::Integer(n), Kind::Integer(4)) => {
                out.extend_from_slice(&i32::try_from(*n).ok()?.to_be_bytes());
            }
            (Self::Integer(n), _) => out.extend_from_slice(&n.to_be_bytes()),
            (Self::Real(n), Kind::Real(4)) => out.extend_from_slice(&(*n as f32).to_be_bytes()),
            (Self::Real(n), _) => out.extend_from_slice(&n.to_be_bytes()),
            (Self::Decimal(decimal), _) => decimal.push_binary(out)?,
            (Self::Day(Day(days)), _) => out.extend_from_slice(&days.to_be_bytes()),
            (Self::Second(second), _) => out.extend_from_slice(&second.micros()?.to_be_bytes()),
            (Self::Uuid(bytes), _) => out.extend_from_slice(bytes),
            (Self::Bytes(bytes), _) => out.extend_from_slice(bytes),
            (Self::Address(IpAddr::V4(address)), _) => {
                out.extend_from_slice(&[INET, 32, 0, 4]);
                out.extend_from_slice(&address.octets());
            }
            (Self::Address(IpAddr::V6(address)), _) => {
                out.extend_from_slice(&[INET6, 128, 0, 16]);
                out.extend_from_slice(&address.octets());
            }
        }
        Some(())
    }
}

/// The greatest integer of so many bytes.
pub(super) fn greatest(bytes: u8) -> i64 {
    match bytes {
        2 => i64::from(i16::MAX),
        4 => i64::from(i32::MAX),
        _ => i64::MAX,
    }
}

fn ranged(number: i64, bytes: u8) -> Option<i64> {
    let most = greatest(bytes);
    (-most - 1..=most).contains(&number).then_some(number)
}

fn uuid(text: &str) -> Option<[u8; 16]> {
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    let mut bytes = [0; 16];
    hex::decode_to_slice(digits, &mut bytes).ok()?;
    Some(bytes)
}

/// As `bytea_output` writes them, in either of its ways.
fn bytes(value: &[u8]) -> Option<Vec<u8>> {
    if let Some(digits) = value.strip_prefix(b"\\x") {
        return hex::decode(digits).ok();
    }
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'\\' {
            bytes.push(byte);
        } else if let Some(after) = rest.strip_prefix(b"\\") {
            bytes.push(b'\\');
            rest = after;
        } else {
            let (octal, after) = rest.split_at_checked(3)?;
            let octal = std::str::from_utf8(octal).ok()?;
            bytes.push(u8::from_str_radix(octal, 8).ok()?);
            rest = after;
        }
    }
    Some(bytes)
}
