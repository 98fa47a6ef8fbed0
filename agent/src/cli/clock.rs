//! Moments as people read them: in a time zone, and with its name.

use time::{
    UtcDateTime, UtcOffset, format_description::well_known::Rfc3339, macros::format_description,
};

use crate::search::Zone;

/// Of this host. Asks the C library, which `time` only does as long as there is one thread.
pub(super) fn local(at: UtcDateTime) -> UtcOffset {
    UtcOffset::local_offset_at(at.to_offset(UtcOffset::UTC)).unwrap_or(UtcOffset::UTC)
}

pub(super) fn utc(_: UtcDateTime) -> UtcOffset {
    UtcOffset::UTC
}

/// RFC 3339, as rows have it.
pub(super) fn parse(time: &str) -> Option<UtcDateTime> {
    UtcDateTime::parse(time, &Rfc3339).ok()
}

/// `Mon 2026-11-23`
pub(super) fn day(time: UtcDateTime, zone: Zone) -> String {
    let format = format_description!("[weekday repr:short] [year]-[month]-[day]");
    time.to_offset(zone(time)).format(format).unwrap_or_default()
}

/// `15:04:05`
pub(super) fn second(time: UtcDateTime, zone: Zone) -> String {
    let format = format_description!("[hour]:[minute]:[second]");
    time.to_offset(zone(time)).format(format).unwrap_or_default()
}

/// `11-23 15:04:05`
pub(super) fn day_and_second(time: UtcDateTime, zone: Zone) -> String {
    let format = format_description!("[month]-[day] [hour]:[minute]:[second]");
    time.to_offset(zone(time)).format(format).unwrap_or_default()
}

/// `15:04:05.123`
pub(super) fn millisecond(time: UtcDateTime, zone: Zone) -> String {
    let format = format_description!("[hour]:[minute]:[second].[subsecond digits:3]");
    time.to_offset(zone(time)).format(format).unwrap_or_default()
}

/// `UTC`, `UTC+01:00`: what the zone's clocks show at that moment.
pub(super) fn zone_name(time: UtcDateTime, zone: Zone) -> String {
    let offset = zone(time);
    let (hours, minutes, _) = offset.as_hms();
    match offset.is_utc() {
        true => "UTC".into(),
        false => {
            let sign = if offset.is_negative() { '-' } else { '+' };
            format!("UTC{sign}{:02}:{:02}", hours.abs(), minutes.abs())
        }
    }
}
