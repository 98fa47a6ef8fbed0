//! Bound parameters as people read them: text as sent, binary decoded where the type is known.

use std::fmt::Write;

use crate::event::Parameter;

use super::{
    frontend::{Arguments, Value},
    reader::Reader,
};

/// At most so much of an undecoded binary value is kept.
const HEAD_BYTES: usize = 64;
/// At most so much of a `bytea` is written out.
const BYTEA_BYTES: usize = 1024;
/// A parameter count is the sender's word; room is made for no more than this beforehand.
const RESERVE: usize = 64;

/// Reads all values into `parameters`, an empty list whose memory is used again; `types` are object ids
/// in their order, as far as known.
pub(super) fn parameters(
    mut parameters: Vec<Parameter>,
    arguments: Arguments<'_>,
    types: &[u32],
) -> Vec<Parameter> {
    parameters.reserve(usize::from(arguments.count).min(RESERVE));
    for (index, (binary, value)) in arguments.iter().enumerate() {
        let parameter = parameter(binary, value, types.get(index).copied().unwrap_or(0));
        let lost = parameter == Parameter::Unknown;
        parameters.push(parameter);
        if lost {
            // All that follow are unknown too: one stands for them.
            break;
        }
    }
    parameters
}

fn parameter(binary: bool, value: Value<'_>, type_oid: u32) -> Parameter {
    match value {
        None => Parameter::Unknown,
        Some(None) => Parameter::Null,
        Some(Some(bytes)) if !binary => {
            Parameter::Text(String::from_utf8_lossy(bytes).into_owned())
        }
        Some(Some(bytes)) => match decode(type_oid, bytes) {
            Some(text) => Parameter::Text(text),
            None => Parameter::Binary {
                type_oid,
                len: u32::try_from(bytes.len()).unwrap_or(u32::MAX),
                head: bytes.get(..HEAD_BYTES).unwrap_or(bytes).to_vec(),
            },
        },
    }
}

/// The text form of a binary value, as PostgreSQL itself would print it (dates in ISO, times in UTC).
fn decode(type_oid: u32, bytes: &[u8]) -> Option<String> {
    let mut reader = Reader::new(bytes);
    let text = match type_oid {
        // bool
        16 => match reader.u8()? {
            0 => "f".to_owned(),
            1 => "t".to_owned(),
            _ => return None,
        },
        // bytea
        17 => return Some(hex(bytes)),
        // "char", name, text, json, xml, unknown, bpchar, varchar
        18 | 19 | 25 | 114 | 142 | 705 | 1042 | 1043 => {
            return String::from_utf8(bytes.to_vec()).ok();
        }
        // int8
        20 => int64(&mut reader)?.to_string(),
        // int2
        21 => reader.i16()?.to_string(),
        // int4
        23 => reader.i32()?.to_string(),
        // oid, regclass and its like
        26 | 24 | 2202..=2206 | 4089 | 4096 => reader.u32()?.to_string(),
        // float4
        700 => float(f32::from_bits(reader.u32()?)),
        // float8
        701 => float(f64::from_bits(int64(&mut reader)? as u64)),
        // date: days since 2000-01-01
        1082 => match reader.i32()? {
            i32::MAX => "infinity".to_owned(),
            i32::MIN => "-infinity".to_owned(),
            days => date(i64::from(days))?,
        },
        // time: microseconds since midnight
        1083 => clock(int64(&mut reader)?),
        // timestamp, timestamptz: microseconds since 2000-01-01
        1114 | 1184 => match int64(&mut reader)? {
            i64::MAX => "infinity".to_owned(),
            i64::MIN => "-infinity".to_owned(),
            micros => {
                const DAY: i64 = 86_400_000_000;
                let zone = if type_oid == 1184 { "+00" } else { "" };
                let (day, clock) = (date(micros.div_euclid(DAY))?, clock(micros.rem_euclid(DAY)));
                format!("{day} {clock}{zone}")
            }
        },
        1700 => numeric(&mut reader)?,
        2950 => uuid(&mut reader)?,
        // jsonb: a version, then text
        3802 => {
            return match reader.u8()? {
                1 => String::from_utf8(reader.rest().to_vec()).ok(),
                _ => None,
            };
        }
        _ => return None,
    };
    reader.is_empty().then_some(text)
}

fn int64(reader: &mut Reader<'_>) -> Option<i64> {
    let (high, low) = (reader.u32()?, reader.u32()?);
    Some((u64::from(high) << 32 | u64::from(low)) as i64)
}

fn float<F: std::fmt::Display + Into<f64> + Copy>(value: F) -> String {
    match value.into() {
        wide if wide.is_nan() => "NaN".to_owned(),
        wide if wide == f64::INFINITY => "Infinity".to_owned(),
        wide if wide == f64::NEG_INFINITY => "-Infinity".to_owned(),
        wide if wide != 0.0 && !(1e-5..1e15).contains(&wide.abs()) => format!("{wide:e}"),
        _ => value.to_string(),
    }
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::from("\\x");
    for byte in bytes.iter().take(BYTEA_BYTES) {
        let _ = write!(text, "{byte:02x}");
    }
    if bytes.len() > BYTEA_BYTES {
        let _ = write!(text, "… ({} bytes)", bytes.len());
    }
    text
}

fn uuid(reader: &mut Reader<'_>) -> Option<String> {
    let (a, b, c, d) = (reader.u32()?, reader.u16()?, reader.u16()?, reader.u16()?);
    let (e, f) = (reader.u16()?, reader.u32()?);
    Some(format!("{a:08x}-{b:04x}-{c:04x}-{d:04x}-{e:04x}{f:08x}"))
}

/// Days since 2000-01-01 as a date of the proleptic Gregorian calendar.
fn date(days: i64) -> Option<String> {
    // Howard Hinnant's civil_from_days, counted from 0000-03-01.
    let days = days.checked_add(730_425)?;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    Some(match year {
        1.. => format!("{year:04}-{month:02}-{day:02}"),
        _ => format!("{:04}-{month:02}-{day:02} BC", 1 - year),
    })
}

fn clock(micros: i64) -> String {
    let (seconds, fraction) = (micros / 1_000_000, micros % 1_000_000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let text = format!("{hour:02}:{minute:02}:{second:02}.{fraction:06}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Base-10000 digits, the first of weight 10000^`weight`, shown with `scale` decimals.
fn numeric(reader: &mut Reader<'_>) -> Option<String> {
    let count = reader.u16()?;
    let weight = i32::from(reader.i16()?);
    let sign = reader.u16()?;
    let scale = usize::from(reader.u16()?);
    match sign {
        0xc000 => return Some("NaN".to_owned()),
        0xd000 => return Some("Infinity".to_owned()),
        0xf000 => return Some("-Infinity".to_owned()),
        _ => {}
    }
    // Zeros that are not sent are written out: don't let a few bytes ask for a long text.
    if weight > 128 || scale > 512 || count > 256 {
        return None;
    }
    let digits: Vec<u16> = (0..count).map(|_| reader.u16()).collect::<Option<_>>()?;
    if digits.iter().any(|&digit| digit > 9999) {
        return None;
    }
    let digit = |index: i32| {
        let index = usize::try_from(index).ok();
        index.and_then(|index| digits.get(index)).copied().unwrap_or(0)
    };
    let mut whole = String::new();
    for index in 0..=weight {
        let _ = write!(whole, "{:04}", digit(index));
    }
    let whole = whole.trim_start_matches('0');
    let mut text = String::from(if sign == 0x4000 { "-" } else { "" });
    text.push_str(if whole.is_empty() { "0" } else { whole });
    if scale > 0 {
        let mut fraction = String::new();
        let mut index = weight + 1;
        while fraction.len() < scale {
            let _ = write!(fraction, "{:04}", digit(index));
            index += 1;
        }
        fraction.truncate(scale);
        text.push('.');
        text.push_str(&fraction);
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binary_values() {
        let cases: &[(u32, &[u8], Option<&str>)] = &[
            (16, b"\x01", Some("t")),
            (16, b"\x00", Some("f")),
            (16, b"\x02", None),
            (17, b"\x00\xff", Some("\\x00ff")),
            (20, b"\xff\xff\xff\xff\xff\xff\xff\xfe", Some("-2")),
            (21, b"\x80\x00", Some("-32768")),
            (23, b"\x00\x00\x00\x2a", Some("42")),
            (23, b"\x00\x00\x2a", None),
            (23, b"\x00\x00\x00\x2a\x00", None),
            (25, "é".as_bytes(), Some("é")),
            (25, b"\xff", None),
            (26, b"\xff\xff\xff\xff", Some("4294967295")),
            (700, b"\x3f\xc0\x00\x00", Some("1.5")),
            (701, b"\x7f\xf8\x00\x00\x00\x00\x00\x00", Some("NaN")),
            (701, b"\x3f\xf8\x00\x00\x00\x00\x00\x00", Some("1.5")),
            (1082, b"\x00\x00\x00\x00", Some("2000-01-01")),
            (1082, b"\x00\x00\x00\x3b", Some("2000-02-29")),
            (1082, b"\xff\xff\xff\xff", Some("1999-12-31")),
            (1082, b"\x7f\xff\xff\xff", Some("infinity")),
            (1082, b"\xff\xf4\xdb\xf8", Some("0001-12-31 BC")),
            (1114, b"\x00\x00\x00\x00\x00\x00\x00\x00", Some("2000-01-01 00:00:00")),
            (1184, b"\xff\xff\xff\xff\xff\xff\xff\xff", Some("1999-12-31 23:59:59.999999+00")),
            (1700, b"\0\x03\0\x01\0\0\0\x02\x00\x01\x09\x29\x16\x2c", Some("12345.56")),
            (1700, b"\0\x01\xff\xff\x40\0\0\x04\0\x0c", Some("-0.0012")),
            (1700, b"\0\x01\xff\xfe\0\0\0\x08\0\x0c", Some("0.00000012")),
            (1700, b"\0\0\0\0\0\0\0\0", Some("0")),
            (1700, b"\0\0\0\0\xc0\0\0\0", Some("NaN")),
            (1700, b"\0\x01\x7f\xff\0\0\0\0\0\x01", None),
            (
                2950,
                b"\x12\x34\x56\x78\x9a\xbc\xde\xf0\x12\x34\x56\x78\x9a\xbc\xde\xf0",
                Some("12345678-9abc-def0-1234-56789abcdef0"),
            ),
            (3802, b"\x01{}", Some("{}")),
            (3802, b"\x02{}", None),
            (600, b"12345678", None),
        ];
        for (oid, bytes, expected) in cases {
            assert_eq!(decode(*oid, bytes).as_deref(), *expected, "type {oid}: {bytes:?}");
        }
    }

    #[test]
    fn a_long_bytea_is_cut_and_says_so() {
        let text = decode(17, &[0xab; 5000]).unwrap();
        assert!(text.len() < 2100 && text.ends_with("… (5000 bytes)"), "{}", text.len());
    }
}
