//! How long statements wait for people, and who may decide in an emergency.

use std::{ops::RangeInclusive, time::Duration};

use serde::Serialize;
use toml::Spanned;

use super::{Span, error::Complaint, file, settings::within};

/// What rules with `hold` and `ticket` go by, where they don't say it themselves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Approvals {
    /// For a decision about a ticket, and after it for its use.
    pub ttl: Span,
    /// A held statement waits no longer.
    pub hold: Span,
    /// A group that `[[principal]]` gives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub break_glass: Option<String>,
}

impl Default for Approvals {
    fn default() -> Self {
        Self {
            ttl: Span(Duration::from_secs(15 * 60)),
            hold: Span(Duration::from_secs(2 * 60)),
            break_glass: None,
        }
    }
}

const TTL: RangeInclusive<Span> =
    Span(Duration::from_secs(1))..=Span(Duration::from_secs(7 * 86_400));
/// A client that waits holds a connection of its server's.
const HOLD: RangeInclusive<Span> = Span(Duration::from_secs(1))..=Span(Duration::from_secs(3_600));

/// `groups`: those that the rules for principals give.
pub(super) fn approvals(
    written: file::Approvals,
    groups: &[String],
) -> Result<Approvals, Complaint> {
    let default = Approvals::default();
    let break_glass = written.break_glass.map(|group| known(group, groups)).transpose()?;
    Ok(Approvals {
        ttl: within("ttl", written.ttl, &TTL)?.unwrap_or(default.ttl),
        hold: within("hold", written.hold, &HOLD)?.unwrap_or(default.hold),
        break_glass,
    })
}

fn known(written: Spanned<String>, groups: &[String]) -> Result<String, Complaint> {
    let (span, group) = (written.span(), written.into_inner());
    match groups.contains(&group) {
        true => Ok(group),
        false => Err(Complaint::at(
            span,
            format!("`break_glass`: no [[principal]] has {group:?} among its `groups`"),
        )),
    }
}
