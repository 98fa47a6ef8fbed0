//! Moments as people write them: `10m`, `yesterday`, `2026-11-23 14:00`, RFC 3339.

use time::{
    Date, Duration, PrimitiveDateTime, Time, UtcDateTime, UtcOffset,
    format_description::{BorrowedFormatItem, well_known::Rfc3339},
    macros::format_description,
};

use crate::event::WallTime;

/// What the clocks on the wall show at a moment; dates and times without an offset are read by it.
pub type Zone = fn(UtcDateTime) -> UtcOffset;

/// Which end of a span a moment is: a day given as its end is meant with all its hours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edge {
    Since,
    Until,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WhenError {
    #[error(
        "{0:?} is no time: write 10m, 2h or 3d (ago), today, yesterday, 14:00, 2026-11-23, \
         \"2026-11-23 14:00\" or 2026-11-23T14:00:00+01:00"
    )]
    Unreadable(String),
    #[error("{0:?} has no unit: write {0}s, {0}m, {0}h, {0}d or {0}w")]
    NoUnit(String),
    #[error("{text:?} is no date of the calendar: {why}")]
    NotInCalendar { text: String, why: String },
    #[error("{0:?} is further away than time goes")]
    TooFar(String),
}

/// The moment that `text` names, as somebody means it who looks at the clock at `now`.
pub fn moment(text: &str, edge: Edge, now: UtcDateTime, zone: Zone) -> Result<WallTime, WhenError> {
    let text = text.trim();
    if let Some(ago) = ago(text)? {
        return now
            .checked_sub(ago)
            .map(WallTime::from_utc)
            .ok_or_else(|| WhenError::TooFar(text.to_owned()));
    }
    let today = now.to_offset(zone(now)).date();
    let day = match text {
        "now" => return Ok(WallTime::from_utc(now)),
        "today" => Some(today),
        "yesterday" => Some(yesterday(today)),
        _ => date(text)?,
    };
    if let Some(day) = day {
        let day = match edge {
            Edge::Since => day,
            Edge::Until => day.next_day().ok_or_else(|| WhenError::TooFar(text.to_owned()))?,
        };
        return Ok(WallTime::from_utc(in_zone(day.midnight(), zone)));
    }
    if let Ok(moment) = UtcDateTime::parse(&text.replacen(' ', "T", 1), &Rfc3339) {
        return Ok(WallTime::from_utc(moment));
    }
    let (day, clock) = match text.split_once([' ', 'T']) {
        Some(("today", clock)) => (Some(today), clock),
        Some(("yesterday", clock)) => (Some(yesterday(today)), clock),
        Some((day, clock)) => (date(day)?, clock),
        None => (Some(today), text),
    };
    match (day, time_of_day(clock.trim())) {
        (Some(day), Some(clock)) => {
            Ok(WallTime::from_utc(in_zone(PrimitiveDateTime::new(day, clock), zone)))
        }
        _ => Err(WhenError::Unreadable(text.to_owned())),
    }
}

/// `90s`, `10m`, `2h`, `3d`, `1w`.
fn ago(text: &str) -> Result<Option<Duration>, WhenError> {
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let Ok(n) = number.parse::<i64>() else { return Ok(None) };
    if n < 0 {
        return Ok(None);
    }
    let seconds = match text.get(number.len()..).unwrap_or_default() {
        "s" => 1,
        "m" | "min" => 60,
        "h" => 3_600,
        "d" => 86_400,
        "w" => 7 * 86_400,
        "" => return Err(WhenError::NoUnit(text.to_owned())),
        _ => return Ok(None),
    };
    let seconds = n.checked_mul(seconds).ok_or_else(|| WhenError::TooFar(text.to_owned()))?;
    Ok(Some(Duration::seconds(seconds)))
}

fn yesterday(today: Date) -> Date {
    today.previous_day().unwrap_or(today)
}

/// `None` where it isn't written as a date; an error where it is and the calendar lacks it.
fn date(text: &str) -> Result<Option<Date>, WhenError> {
    const FORM: &[BorrowedFormatItem<'_>] = format_description!("[year]-[month]-[day]");
    let is_written_as_one = text.len() == 10
        && text.bytes().enumerate().all(|(at, byte)| match at {
            4 | 7 => byte == b'-',
            _ => byte.is_ascii_digit(),
        });
    if !is_written_as_one {
        return Ok(None);
    }
    Date::parse(text, FORM)
        .map(Some)
        .map_err(|error| WhenError::NotInCalendar { text: text.to_owned(), why: error.to_string() })
}

/// `14:00`, `14:00:30`, `14:00:30.125`.
fn time_of_day(text: &str) -> Option<Time> {
    const FORMS: [&[BorrowedFormatItem<'_>]; 3] = [
        format_description!("[hour]:[minute]"),
        format_description!("[hour]:[minute]:[second]"),
        format_description!("[hour]:[minute]:[second].[subsecond]"),
    ];
    FORMS.iter().find_map(|form| Time::parse(text, form).ok())
}

/// Where clocks are put forward the hour that is left out, where they are put back the first of the
/// two that they show, as near as one more look at the offset tells.
fn in_zone(shown: PrimitiveDateTime, zone: Zone) -> UtcDateTime {
    let guess = shown.as_utc();
    let offset = zone(guess.saturating_sub(Duration::seconds(zone(guess).whole_seconds().into())));
    guess.saturating_sub(Duration::seconds(offset.whole_seconds().into()))
}

#[cfg(test)]
mod tests {
    use time::{
        UtcDateTime, UtcOffset,
        macros::{offset, utc_datetime},
    };

    use super::{Edge, moment};

    /// Central Europe: summer time ended on 2026-10-25 at 01:00 UTC.
    fn berlin(at: UtcDateTime) -> UtcOffset {
        match at < utc_datetime!(2026-10-25 01:00) && at >= utc_datetime!(2026-03-29 01:00) {
            true => offset!(+2),
            false => offset!(+1),
        }
    }

    fn utc(_: UtcDateTime) -> UtcOffset {
        UtcOffset::UTC
    }

    fn read(text: &str, edge: Edge, zone: super::Zone) -> Result<String, String> {
        // 00:30 of the 24th in Berlin, still the 23rd in UTC.
        let now = utc_datetime!(2026-11-23 23:30:00);
        moment(text, edge, now, zone)
            .map(|at| serde_json::to_string(&at).unwrap().trim_matches('"').to_owned())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn times_as_people_write_them() {
        use Edge::{Since, Until};
        for (text, edge, zone, expected) in [
            ("10m", Since, berlin as super::Zone, "2026-11-23T23:20:00.000000Z"),
            ("90s", Since, berlin, "2026-11-23T23:28:30.000000Z"),
            ("2h", Until, berlin, "2026-11-23T21:30:00.000000Z"),
            ("3d", Since, berlin, "2026-11-20T23:30:00.000000Z"),
            ("1w", Since, berlin, "2026-11-16T23:30:00.000000Z"),
            ("now", Until, berlin, "2026-11-23T23:30:00.000000Z"),
            ("today", Since, berlin, "2026-11-23T23:00:00.000000Z"),
            ("today", Since, utc, "2026-11-23T00:00:00.000000Z"),
            ("yesterday", Since, berlin, "2026-11-22T23:00:00.000000Z"),
            ("yesterday", Until, berlin, "2026-11-23T23:00:00.000000Z"),
            ("2026-11-23", Since, berlin, "2026-11-22T23:00:00.000000Z"),
            ("2026-11-23", Until, berlin, "2026-11-23T23:00:00.000000Z"),
            ("2026-11-23", Until, utc, "2026-11-24T00:00:00.000000Z"),
            ("2026-11-23 14:00", Since, berlin, "2026-11-23T13:00:00.000000Z"),
            ("2026-11-23 14:00", Until, berlin, "2026-11-23T13:00:00.000000Z"),
            ("2026-11-23T14:00:30", Since, utc, "2026-11-23T14:00:30.000000Z"),
            ("2026-11-23 14:00:30.125", Since, utc, "2026-11-23T14:00:30.125000Z"),
            ("yesterday 08:15", Since, berlin, "2026-11-23T07:15:00.000000Z"),
            ("00:10", Since, berlin, "2026-11-23T23:10:00.000000Z"),
            ("2026-11-23T14:00:00Z", Since, berlin, "2026-11-23T14:00:00.000000Z"),
            ("2026-11-23T14:00:00.5+05:30", Since, berlin, "2026-11-23T08:30:00.500000Z"),
            ("2026-11-23 14:00:00+01:00", Since, utc, "2026-11-23T13:00:00.000000Z"),
            // On both sides of the end of summer time.
            ("2026-10-25", Since, berlin, "2026-10-24T22:00:00.000000Z"),
            ("2026-10-25", Until, berlin, "2026-10-25T23:00:00.000000Z"),
            ("2026-10-25 01:59", Since, berlin, "2026-10-24T23:59:00.000000Z"),
            ("2026-10-25 04:00", Since, berlin, "2026-10-25T03:00:00.000000Z"),
        ] {
            assert_eq!(read(text, edge, zone).as_deref(), Ok(expected), "{text} {edge:?}");
        }
    }

    #[test]
    fn what_is_no_time_is_answered_with_what_is() {
        for (text, expected) in [
            ("", "\"\" is no time: write 10m, 2h"),
            ("soon", "\"soon\" is no time: write 10m, 2h or 3d (ago), today, yesterday, 14:00"),
            ("10", "\"10\" has no unit: write 10s, 10m, 10h, 10d or 10w"),
            ("-5m", "\"-5m\" is no time"),
            ("10y", "\"10y\" is no time"),
            ("23.11.2026", "\"23.11.2026\" is no time"),
            ("2026-02-30", "\"2026-02-30\" is no date of the calendar"),
            ("2026-13-01 10:00", "\"2026-13-01\" is no date of the calendar"),
            ("2026-11-23 25:00", "\"2026-11-23 25:00\" is no time"),
            ("2026-11-23T14:00:00+99:00", "is no time"),
            ("9223372036854775807w", "further away than time goes"),
            ("99999999999999d", "further away than time goes"),
        ] {
            let error = read(text, Edge::Since, berlin).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
