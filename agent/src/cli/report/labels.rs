//! Which labels a report goes by, and whether they are those that applied in its period.

use serde::Serialize;

use super::{Kind, coverage::Occurrence, head::Period};
use crate::{
    cli::Usage,
    config::{LabelOn, RegionOf, Settings},
    event::WallTime,
    pipeline::Configuration,
    policy::RESIDENCY,
};

/// Rows of the ledger don't say which labels their data had: the report applies those of one configuration.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Labels {
    /// Those that the report asks about.
    pub labels: Vec<LabelOn>,
    pub regions: Vec<RegionOf>,
    /// The file that says so, with its SHA-256 as the ledger's rows tell it.
    pub configuration: String,
    pub sha256: String,
    /// Whether each configuration that applied in the period was this one; null where the ledger doesn't say
    /// which did.
    pub applied_throughout: Option<bool>,
    /// Configurations that the ledger's rows name for the period.
    pub applied: Vec<Applied>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Applied {
    pub host: String,
    pub since: WallTime,
    pub sha256: String,
}

impl Labels {
    /// Labels that a report of this kind asks about.
    pub(super) fn of(
        kind: Kind,
        only: &[String],
        settings: &Settings,
        file: &str,
        sha256: String,
    ) -> Result<Option<Self>, Usage> {
        let is_of_kind = |label: &&LabelOn| match kind {
            Kind::Changes => false,
            Kind::Access => true,
            Kind::Residency => label.name.starts_with(RESIDENCY),
        };
        if kind == Kind::Changes {
            return Ok(None);
        }
        let known: Vec<&LabelOn> = settings.labels.iter().filter(is_of_kind).collect();
        if known.is_empty() {
            let what = if kind == Kind::Residency { "residency:… " } else { "" };
            return Err(Usage(format!(
                "{file} has no {what}[[label]], so nobody can say which data is meant: add some, or name the \
                 configuration that has them with --config"
            )));
        }
        if let Some(unknown) =
            only.iter().find(|name| !known.iter().any(|known| known.name == **name))
        {
            let names: Vec<&str> = known.iter().map(|label| label.name.as_str()).collect();
            return Err(Usage(format!(
                "{file} has no label {unknown:?}: there are {}",
                names.join(", ")
            )));
        }
        let is_wanted = |label: &&&LabelOn| only.is_empty() || only.contains(&label.name);
        Ok(Some(Self {
            labels: known.iter().filter(is_wanted).map(|label| (*label).clone()).collect(),
            regions: if kind == Kind::Residency { settings.regions.clone() } else { Vec::new() },
            configuration: file.to_owned(),
            sha256,
            applied_throughout: None,
            applied: Vec::new(),
        }))
    }

    /// Compares with what the ledger says of the period; `rows` are those of its configurations, in any order.
    pub(super) fn compare(&mut self, rows: &[Applied], period: Period) {
        let mut rows = rows.to_vec();
        rows.sort_by(|a, b| (&a.host, a.since).cmp(&(&b.host, b.since)));
        let next_begins_before = |at: usize, row: &Applied, since: WallTime| {
            rows.get(at + 1).is_some_and(|next| next.host == row.host && next.since <= since)
        };
        let applied: Vec<Applied> = rows
            .iter()
            .enumerate()
            .filter(|(at, row)| {
                period.since.is_none_or(|since| !next_begins_before(*at, row, since))
            })
            .map(|(_, row)| row.clone())
            .collect();
        let begins = |row: &Applied| period.since.is_none_or(|since| row.since <= since);
        let is_told_from_the_beginning = applied.iter().any(begins);
        self.applied_throughout = match applied.iter().all(|row| row.sha256 == self.sha256) {
            false => Some(false),
            true => is_told_from_the_beginning.then_some(true),
        };
        self.applied = applied;
        self.applied
            .dedup_by(|next, before| next.host == before.host && next.sha256 == before.sha256);
    }
}

impl Applied {
    /// What a row says that tells which configuration applies.
    pub(super) fn of_row(row: &Occurrence) -> Option<Self> {
        let message = row.message.as_deref().filter(|_| row.record == "configuration")?;
        Some(Self {
            host: row.host.clone().unwrap_or_default(),
            since: row.time,
            sha256: Configuration::sha256_of_row(message)?.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Applied, Kind, Labels};
    use crate::{
        cli::report::head::Period,
        config::{LabelOn, Settings},
        event::WallTime,
    };

    fn settings() -> Settings {
        let mut settings = Settings::defaults("db1");
        settings.labels = ["pii", "residency:eu"]
            .map(|name| LabelOn { name: name.into(), on: vec!["*.*.*.x".into()] })
            .to_vec();
        settings
    }

    fn named(kind: Kind, only: &[&str]) -> Result<String, String> {
        let only: Vec<String> = only.iter().map(|&name| name.to_owned()).collect();
        let labels = Labels::of(kind, &only, &settings(), "file", "aa".into());
        let names = labels.map_err(|error| error.to_string())?;
        let names = names.iter().flat_map(|labels| &labels.labels);
        Ok(names.map(|label| label.name.as_str()).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn labels_are_those_that_the_report_asks_about() {
        assert_eq!(named(Kind::Changes, &[]), Ok(String::new()));
        assert_eq!(named(Kind::Access, &[]), Ok("pii residency:eu".into()));
        assert_eq!(named(Kind::Access, &["pii"]), Ok("pii".into()));
        assert_eq!(named(Kind::Residency, &[]), Ok("residency:eu".into()));
        let error = named(Kind::Access, &["pi"]).unwrap_err();
        assert!(error.ends_with("has no label \"pi\": there are pii, residency:eu"), "{error}");
        let none = Labels::of(Kind::Access, &[], &Settings::defaults("db1"), "file", String::new());
        assert!(none.unwrap_err().to_string().contains("has no [[label]]"));
    }

    #[test]
    fn configurations_that_applied_are_held_against_this_one() {
        for (rows, since, expected, applied) in [
            (&[(5, "aa")][..], Some(10), Some(true), "5aa"),
            (&[(1, "bb"), (5, "aa"), (7, "aa")], Some(10), Some(true), "7aa"),
            (&[(5, "aa"), (15, "bb"), (17, "bb")], Some(10), Some(false), "5aa 15bb"),
            (&[(5, "bb"), (15, "aa")], Some(10), Some(false), "5bb 15aa"),
            // Nobody knows what applied before.
            (&[(15, "aa")], Some(10), None, "15aa"),
            (&[], Some(10), None, ""),
            (&[(15, "aa")], None, Some(true), "15aa"),
        ] {
            let mut labels =
                Labels::of(Kind::Access, &[], &settings(), "file", "aa".into()).unwrap().unwrap();
            let row = |(since, sha256): &(i64, &str)| Applied {
                host: "db1".into(),
                since: WallTime(*since),
                sha256: (*sha256).into(),
            };
            let rows: Vec<Applied> = rows.iter().map(row).collect();
            labels.compare(&rows, Period { since: since.map(WallTime), until: WallTime(99) });
            let told = labels.applied.iter().map(|row| format!("{}{}", row.since.0, row.sha256));
            let told = told.collect::<Vec<_>>().join(" ");
            assert_eq!((labels.applied_throughout, told.as_str()), (expected, applied));
        }
    }
}
