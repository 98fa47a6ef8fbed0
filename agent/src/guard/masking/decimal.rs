//! Decimal numbers: read, written, moved a little.

use std::io::Write as _;

use super::{kind::Precision, pseudonym::Digest};
use crate::protocol::postgres::reader::Reader;

/// `mantissa` / 10^`scale`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Decimal {
    pub mantissa: i128,
    pub scale: u16,
}

/// More digits than these are of no number that is masked.
const MAX_DIGITS: u16 = 36;

fn power(exponent: u32) -> Option<i128> {
    10_i128.checked_pow(exponent)
}

impl Decimal {
    /// As PostgreSQL writes it; `None` for `NaN`, infinity, and what is too long.
    pub(super) fn of_text(text: &[u8]) -> Option<Self> {
        let (is_negative, digits) = match text.split_first()? {
            (b'-', rest) => (true, rest),
            _ => (false, text),
        };
        let (mut mantissa, mut scale, mut has_point, mut n) = (0_i128, 0_u16, false, 0);
        for byte in digits {
            match byte {
                b'0'..=b'9' => {
                    mantissa = mantissa.checked_mul(10)?.checked_add(i128::from(byte - b'0'))?;
                    scale += u16::from(has_point);
                    n += 1;
                }
                b'.' if !has_point => has_point = true,
                _ => return None,
            }
        }
        let is_fit = n > 0 && scale <= MAX_DIGITS && mantissa < power(u32::from(MAX_DIGITS))?;
        is_fit.then_some(Self { mantissa: if is_negative { -mantissa } else { mantissa }, scale })
    }

    /// Digits of base 10 000, as `numeric_send` writes them.
    pub(super) fn of_binary(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let (count, weight) = (reader.u16()?, i32::from(reader.i16()?));
        let (sign, scale) = (reader.u16()?, reader.u16()?);
        if scale > MAX_DIGITS || count > MAX_DIGITS / 4 + 1 || sign & !NEGATIVE != 0 {
            return None;
        }
        let mut mantissa = 0_i128;
        for _ in 0..count {
            let digit = reader.u16().filter(|digit| *digit < 10_000)?;
            mantissa = mantissa.checked_mul(10_000)?.checked_add(i128::from(digit))?;
        }
        let shift = 4 * (weight + 1 - i32::from(count)) + i32::from(scale);
        let by = power(shift.unsigned_abs())?;
        mantissa = if shift >= 0 { mantissa.checked_mul(by)? } else { mantissa / by };
        if !reader.is_empty() || mantissa >= power(u32::from(MAX_DIGITS))? {
            return None;
        }
        Some(Self { mantissa: if sign == NEGATIVE { -mantissa } else { mantissa }, scale })
    }

    pub(super) fn push_text(self, out: &mut Vec<u8>) {
        let sign = if self.mantissa < 0 { "-" } else { "" };
        let one = power(u32::from(self.scale)).map_or(1, i128::unsigned_abs);
        let (whole, rest) =
            (self.mantissa.unsigned_abs() / one, self.mantissa.unsigned_abs() % one);
        // A Vec takes whatever is written to it.
        let _ = match self.scale {
            0 => write!(out, "{sign}{whole}"),
            scale => write!(out, "{sign}{whole}.{rest:0width$}", width = usize::from(scale)),
        };
    }

    pub(super) fn push_binary(self, out: &mut Vec<u8>) -> Option<()> {
        let groups = self.scale.div_ceil(4);
        let by = power(u32::from(4 * groups - self.scale))?;
        let mut rest = self.mantissa.checked_abs()?.checked_mul(by)?;
        // Least first.
        let (mut digits, mut n) = ([0_u16; 12], 0_u16);
        while rest > 0 {
            *digits.get_mut(usize::from(n))? = u16::try_from(rest % 10_000).ok()?;
            (rest, n) = (rest / 10_000, n + 1);
        }
        let weight = i16::try_from(n).ok()? - 1 - i16::try_from(groups).ok()?;
        let weight = if n == 0 { 0 } else { weight };
        let digits = digits.get(..usize::from(n))?;
        let zeros = digits.iter().take_while(|digit| **digit == 0).count();
        let digits = digits.get(zeros..)?;
        let sign = if self.mantissa < 0 { NEGATIVE } else { 0 };
        out.extend_from_slice(&u16::try_from(digits.len()).ok()?.to_be_bytes());
        out.extend_from_slice(&weight.to_be_bytes());
        out.extend_from_slice(&sign.to_be_bytes());
        out.extend_from_slice(&self.scale.to_be_bytes());
        digits.iter().rev().for_each(|digit| out.extend_from_slice(&digit.to_be_bytes()));
        Some(())
    }

    /// The same number is written in the same way, whatever its scale.
    pub(super) fn plain(mut self) -> Self {
        while self.scale > 0 && self.mantissa % 10 == 0 {
            self = Self { mantissa: self.mantissa / 10, scale: self.scale - 1 };
        }
        self
    }

    /// With the scale of its column, as far as its digits fit that.
    pub(super) fn fitted(self, precision: Option<Precision>) -> Option<Self> {
        let Some(Precision { digits, scale }) = precision else { return Some(self) };
        let Self { mantissa, scale: is } = self.plain();
        let by = power(u32::from(scale.checked_sub(is)?))?;
        let mantissa = mantissa.checked_mul(by)?;
        let fits = power(digits).is_none_or(|end| mantissa.abs() < end);
        fits.then_some(Self { mantissa, scale })
    }

    /// A number of these many digits.
    pub(super) fn of_digest(digest: &Digest, precision: Option<Precision>) -> Self {
        let digits = precision.map_or(MOST_OF_NAME, |precision| precision.digits);
        let end = 10_u64.pow(digits.min(MOST_OF_NAME));
        let scale = precision.map_or(0, |precision| precision.scale);
        Self { mantissa: i128::from(digest.number() % end), scale }
    }
}

/// A pseudonym has no more digits.
const MOST_OF_NAME: u32 = 18;
const NEGATIVE: u16 = 0x4000;

/// Another number near to it, by a tenth at most and on the same side of zero; `None` where none is within `most`.
pub(super) fn nudged(number: i128, most: i128, digest: &Digest) -> Option<i128> {
    let size = number.checked_abs()?;
    let span = u64::try_from(size / 10).unwrap_or(u64::MAX).max(LEAST_SPAN);
    let by = i128::from(digest.up_to(span));
    let (up, down) = (size.checked_add(by)?, size - by);
    let moved = match digest.is_odd() {
        true if up <= most => up,
        _ if down >= 0 => down,
        _ if up <= most => up,
        _ => return None,
    };
    Some(if number < 0 { -moved } else { moved })
}

/// Small numbers are moved by a few.
const LEAST_SPAN: u64 = 3;

#[cfg(test)]
mod tests {
    use super::{
        super::{
            kind::Precision,
            pseudonym::{Pseudonyms, Purpose},
        },
        Decimal, nudged,
    };

    #[test]
    fn decimals_are_written_as_they_are_read() {
        for (text, plain) in [
            ("0", "0"),
            ("0.00", "0"),
            ("-12345.5600", "-12345.56"),
            ("0.00012", "0.00012"),
            ("100000000", "100000000"),
            ("99999999999999999999999999999999.9999", "99999999999999999999999999999999.9999"),
        ] {
            let decimal = Decimal::of_text(text.as_bytes()).unwrap();
            let mut out = Vec::new();
            decimal.push_text(&mut out);
            assert_eq!(String::from_utf8(out).unwrap(), text);
            let mut binary = Vec::new();
            decimal.push_binary(&mut binary).unwrap();
            assert_eq!(Decimal::of_binary(&binary), Some(decimal), "{text}");
            let mut out = Vec::new();
            decimal.plain().push_text(&mut out);
            assert_eq!(String::from_utf8(out).unwrap(), plain);
        }
        for text in ["", "-", ".", "NaN", "Infinity", "1e5", "1.2.3"] {
            assert_eq!(Decimal::of_text(text.as_bytes()), None, "{text}");
        }
        assert_eq!(Decimal::of_text("9".repeat(37).as_bytes()), None);
        // What numeric_send writes for 12345.56.
        let sent = b"\0\x03\0\x01\0\0\0\x02\x00\x01\x09\x29\x15\xe0";
        assert_eq!(Decimal::of_binary(sent), Decimal::of_text(b"12345.56"));
        let mut out = Vec::new();
        Decimal::of_text(b"12345.56").unwrap().push_binary(&mut out).unwrap();
        assert_eq!(out, sent);
        for bytes in [&b""[..], b"\0\0\0\0\xc0\0\0\0", b"\0\x01\0\0\0\0\0\0\x27\x10", &sent[..9]] {
            assert_eq!(Decimal::of_binary(bytes), None, "{bytes:?}");
        }
    }

    #[test]
    fn what_stands_for_a_number_fits_its_column() {
        let precision = Some(Precision { digits: 4, scale: 2 });
        for (text, expected) in [("7", Some("7.00")), ("99.99", Some("99.99")), ("100", None)] {
            let fitted = Decimal::of_text(text.as_bytes()).unwrap().fitted(precision);
            let fitted = fitted.map(|decimal| {
                let mut out = Vec::new();
                decimal.push_text(&mut out);
                String::from_utf8(out).unwrap()
            });
            assert_eq!(fitted.as_deref(), expected, "{text}");
        }
        let pseudonyms = Pseudonyms::new(&[1; 32]);
        for number in -200..200 {
            let digest = pseudonyms.digest(Purpose::Noise, &i32::to_be_bytes(number));
            let number = i128::from(number);
            let moved = nudged(number, 127, &digest);
            if let Some(moved) = moved {
                assert!(
                    moved != number && moved.abs() <= 127.max(number.abs()),
                    "{number} {moved}"
                );
                assert!(moved == 0 || (moved < 0) == (number < 0), "{number} {moved}");
                assert!((moved - number).abs() <= (number.abs() / 10).max(3), "{number} {moved}");
            }
        }
    }
}
