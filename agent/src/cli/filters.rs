//! The filters that `search` and `timeline` share, as they are typed and as they are asked.

use anyhow::Result;
use clap::Args;
use time::UtcDateTime;

use super::{Usage, clock};
use crate::search::{Edge, EffectWord, Filter, Touched, Zone, moment};

/// All that are given must hold.
#[derive(Debug, Args)]
pub struct Filters {
    /// From this time on: 10m, 2h, 3d (ago), today, yesterday, 14:00, 2026-11-23,
    /// "2026-11-23 14:00", 2026-11-23T14:00:00+01:00
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Up to this time; a day is meant with all its hours
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Read and show times in UTC instead of the local time zone
    #[arg(long)]
    utc: bool,
    /// Sent by somebody in whose principal, initiator, user, login, executable, unit, container, pod
    /// or address this word stands
    #[arg(long, value_name = "WORD")]
    who: Option<String>,
    /// Sent by a human, service, ai or unknown
    #[arg(long, value_name = "KIND", value_parser = ["human", "service", "ai", "unknown"])]
    kind: Option<String>,
    /// To this server
    #[arg(long, value_name = "NAME")]
    server: Option<String>,
    /// In this database
    #[arg(long, value_name = "NAME")]
    database: Option<String>,
    /// As this database user
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Touching this table; with its schema, or without for a table of any
    #[arg(long, value_name = "NAME")]
    table: Option<String>,
    /// With one of these effects, to the table where one is given: read, update, drop, …; write stands
    /// for all that change rows
    #[arg(long, value_name = "EFFECT", value_delimiter = ',')]
    effect: Vec<EffectWord>,
    /// With this verdict: allow, flag, …
    #[arg(long, value_name = "VERDICT")]
    verdict: Option<String>,
    /// Of which this rule has decided
    #[arg(long, value_name = "ID")]
    rule: Option<String>,
    /// That read or changed so many rows or more
    #[arg(long, value_name = "N")]
    min_rows: Option<u64>,
    /// That failed
    #[arg(long)]
    errors: bool,
    /// With this fingerprint
    #[arg(long, value_name = "HEX")]
    fingerprint: Option<String>,
    /// Of this connection
    #[arg(long, value_name = "HEX")]
    connection: Option<String>,
    /// That touched the row with this key, as in customers.id=42
    #[arg(long, value_name = "TABLE.COLUMN=VALUE")]
    touched: Option<Touched>,
}

impl Filters {
    /// Times are counted from `now`.
    pub(super) fn filter(&self, now: UtcDateTime) -> Result<Filter> {
        let zone = self.zone();
        let at = |text: &Option<String>, edge| {
            let moment = text.as_deref().map(|text| moment(text, edge, now, zone)).transpose();
            moment.map_err(|error| Usage(error.to_string()))
        };
        let (since, until) = (at(&self.since, Edge::Since)?, at(&self.until, Edge::Until)?);
        if let (Some(since), Some(until)) = (since, until)
            && since >= until
        {
            return Err(Usage(format!("--since {since} is not before --until {until}")).into());
        }
        let digits = |text: &Option<String>| text.as_ref().map(|text| text.to_ascii_lowercase());
        Ok(Filter {
            since,
            until,
            text: Vec::new(),
            who: self.who.clone(),
            kind: self.kind.clone(),
            server: self.server.clone(),
            database: self.database.clone(),
            user: self.user.clone(),
            table: self.table.clone(),
            effects: self.effect.clone(),
            verdict: self.verdict.clone(),
            rule: self.rule.clone(),
            min_rows: self.min_rows,
            errors: self.errors,
            fingerprint: digits(&self.fingerprint),
            connection: digits(&self.connection),
            touched: self.touched.clone(),
            recorded_since: None,
        })
    }

    /// The filters as they were typed, without the times.
    pub(super) fn given(&self) -> Vec<String> {
        let text = |name: &str, value: &Option<String>| {
            value.as_ref().map(|value| format!("--{name} {value}"))
        };
        let effects: Vec<String> =
            self.effect.iter().map(|effect| String::from(effect.clone())).collect();
        let effects = (!effects.is_empty()).then(|| effects.join(","));
        let touched = self.touched.clone().map(String::from);
        [
            text("who", &self.who),
            text("kind", &self.kind),
            text("server", &self.server),
            text("database", &self.database),
            text("user", &self.user),
            text("table", &self.table),
            text("effect", &effects),
            text("verdict", &self.verdict),
            text("rule", &self.rule),
            text("min-rows", &self.min_rows.map(|n| n.to_string())),
            self.errors.then(|| "--errors".to_owned()),
            text("fingerprint", &self.fingerprint),
            text("connection", &self.connection),
            text("touched", &touched),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// The time zone to read and show times in.
    pub(super) fn zone(&self) -> Zone {
        match self.utc {
            true => clock::utc,
            false => clock::local,
        }
    }
}
