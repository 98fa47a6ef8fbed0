//! Dates and times: read, written, moved by days and weeks.

use std::io::Write as _;

use time::Date;

use super::pseudonym::Digest;

/// Days since 2000-01-01, in years of four digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Day(pub i32);

/// Seconds since the beginning of 2000. Fractions would tell which one it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Second {
    /// UTC where its type has a zone.
    pub at: i64,
    /// How far what is written is before UTC.
    pub offset: i64,
}

/// 2000-01-01 as a Julian day.
const EPOCH: i32 = 2_451_545;
const DAY: i64 = 86_400;
/// A date is moved by so many days at most, a time by as many seconds.
const SPAN_DAYS: u64 = 90;
/// What stands for a date is between 1900 and 2099.
const NAMES_FROM: i32 = -36_524;
const NAMES: u64 = 73_049;

impl Day {
    /// As `DateStyle` ISO writes it.
    pub(super) fn of_text(text: &[u8]) -> Option<Self> {
        let (day, rest) = Self::take(text)?;
        rest.is_empty().then_some(day)
    }

    fn take(text: &[u8]) -> Option<(Self, &[u8])> {
        let (year, rest) = number(text, 4)?;
        let (month, rest) = number(rest.strip_prefix(b"-")?, 2)?;
        let (day, rest) = number(rest.strip_prefix(b"-")?, 2)?;
        let month = u8::try_from(month).ok()?.try_into().ok()?;
        let date = Date::from_calendar_date(year, month, u8::try_from(day).ok()?).ok()?;
        Some((Self::valid(date.to_julian_day() - EPOCH)?, rest))
    }

    pub(super) fn valid(days: i32) -> Option<Self> {
        let date = Date::from_julian_day(days.checked_add(EPOCH)?).ok()?;
        (date.year() > 0).then_some(Self(days))
    }

    pub(super) fn push_text(self, out: &mut Vec<u8>) -> Option<()> {
        let date = Date::from_julian_day(self.0.checked_add(EPOCH)?).ok()?;
        let (year, month, day) = date.to_calendar_date();
        write!(out, "{year:04}-{:02}-{day:02}", u8::from(month)).ok()
    }

    pub(super) fn of_digest(digest: &Digest) -> Self {
        Self(NAMES_FROM + i32::try_from(digest.number() % NAMES).unwrap_or_default())
    }

    pub(super) fn moved(self, digest: &Digest) -> Option<Self> {
        let by = i32::try_from(digest.up_to(SPAN_DAYS)).ok()?;
        Self::valid(self.0.checked_add(if digest.is_odd() { by } else { -by })?)
    }
}

impl Second {
    /// As `DateStyle` ISO writes it, with or without a zone.
    pub(super) fn of_text(text: &[u8]) -> Option<Self> {
        let (day, rest) = Day::take(text)?;
        let (hour, rest) = number(rest.strip_prefix(b" ")?, 2)?;
        let (minute, rest) = number(rest.strip_prefix(b":")?, 2)?;
        let (second, mut rest) = number(rest.strip_prefix(b":")?, 2)?;
        if let Some(fraction) = rest.strip_prefix(b".") {
            let digits = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
            rest = fraction.get(digits..)?;
        }
        let offset = match rest.split_first() {
            None => 0,
            Some((sign @ (b'+' | b'-'), zone)) => {
                let seconds = zone_seconds(zone)?;
                if *sign == b'-' { -seconds } else { seconds }
            }
            Some(_) => return None,
        };
        let of_day = i64::from(hour) * 3_600 + i64::from(minute) * 60 + i64::from(second);
        Some(Self { at: i64::from(day.0) * DAY + of_day - offset, offset })
    }

    pub(super) fn of_micros(micros: i64) -> Self {
        Self { at: micros.div_euclid(1_000_000), offset: 0 }
    }

    pub(super) fn micros(self) -> Option<i64> {
        self.at.checked_mul(1_000_000)
    }

    pub(super) fn push_text(self, has_zone: bool, out: &mut Vec<u8>) -> Option<()> {
        let local = self.at.checked_add(self.offset)?;
        let of_day = local.rem_euclid(DAY);
        Day::valid(i32::try_from(local.div_euclid(DAY)).ok()?)?.push_text(out)?;
        let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
        write!(out, " {hour:02}:{minute:02}:{second:02}").ok()?;
        if has_zone {
            let sign = if self.offset < 0 { '-' } else { '+' };
            let offset = self.offset.abs();
            let (hour, minute, second) = (offset / 3_600, offset / 60 % 60, offset % 60);
            write!(out, "{sign}{hour:02}").ok()?;
            if (minute, second) != (0, 0) {
                write!(out, ":{minute:02}").ok()?;
            }
            if second != 0 {
                write!(out, ":{second:02}").ok()?;
            }
        }
        Some(())
    }

    pub(super) fn of_digest(self, digest: &Digest) -> Self {
        Self { at: i64::from(Day::of_digest(digest).0) * DAY, ..self }
    }

    pub(super) fn moved(self, digest: &Digest) -> Option<Self> {
        let by = i64::try_from(digest.up_to(SPAN_DAYS * DAY.unsigned_abs())).ok()?;
        let at = self.at.checked_add(if digest.is_odd() { by } else { -by })?;
        Day::valid(i32::try_from(at.div_euclid(DAY)).ok()?)?;
        Some(Self { at, ..self })
    }
}

/// `HH`, `HH:MM` or `HH:MM:SS`.
fn zone_seconds(zone: &[u8]) -> Option<i64> {
    let (hours, rest) = number(zone, 2)?;
    let mut seconds = i64::from(hours) * 3_600;
    let mut rest = rest;
    for unit in [60, 1] {
        let Some(next) = rest.strip_prefix(b":") else { break };
        let (n, after) = number(next, 2)?;
        (seconds, rest) = (seconds + i64::from(n) * unit, after);
    }
    rest.is_empty().then_some(seconds)
}

/// Of exactly so many digits.
fn number(text: &[u8], digits: usize) -> Option<(i32, &[u8])> {
    let (number, rest) = text.split_at_checked(digits)?;
    let number = number
        .iter()
        .try_fold(0, |n, byte| byte.is_ascii_digit().then(|| n * 10 + i32::from(byte - b'0')))?;
    Some((number, rest))
}

#[cfg(test)]
mod tests {
    use super::{Day, Second};

    #[test]
    fn moments_are_written_as_they_are_read() {
        for (text, days) in
            [("2000-01-01", Some(0)), ("1999-12-31", Some(-1)), ("2000-02-29", Some(59))]
        {
            let day = Day::of_text(text.as_bytes()).unwrap();
            assert_eq!(Some(day.0), days);
            let mut out = Vec::new();
            day.push_text(&mut out).unwrap();
            assert_eq!(out, text.as_bytes());
        }
        for text in ["infinity", "31/12/1999", "1999-02-30", "0044-03-15 BC", "19990-01-01", ""] {
            assert_eq!(Day::of_text(text.as_bytes()), None, "{text}");
        }
        for (text, at, has_zone) in [
            ("2000-01-01 00:00:00", 0, false),
            ("2000-01-01 02:00:01+02", 1, true),
            ("1999-12-31 18:29:59-05:30", -1, true),
            ("1999-12-31 23:07:28-00:52:32", 0, true),
        ] {
            let second = Second::of_text(text.as_bytes()).unwrap();
            assert_eq!(second.at, at, "{text}");
            let mut out = Vec::new();
            second.push_text(has_zone, &mut out).unwrap();
            assert_eq!(String::from_utf8(out).unwrap(), text);
        }
        assert_eq!(Second::of_text(b"2000-01-01 00:00:00.5").unwrap().at, 0);
        for text in ["2000-01-01", "2000-01-01 00:00:00 CET", "2000-01-01 00:00:00+2", "infinity"] {
            assert_eq!(Second::of_text(text.as_bytes()), None, "{text}");
        }
        assert_eq!(Second::of_micros(-1).at, -1);
        assert_eq!(Day::valid(i32::MAX), None);
    }
}
