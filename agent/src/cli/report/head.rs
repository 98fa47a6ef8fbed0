//! The first page as data: whose report, of what and when, what vouches for it, what it lacks, what it adds up to.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{
    Kind,
    approvals::Approvals,
    coverage::{Gap, Server},
    labels::Labels,
    proof::{Proof, Verdict},
    reconciliation::Reconciliation,
    totals::Totals,
};
use crate::event::WallTime;

/// Of the document's form; a later one may only add fields.
pub(super) const FORMAT: &str = "dbwarden-report-1";
pub(super) const HASHED: &str = "each row of the report as one line of JSON (UTF-8, no spaces, fields in the order of its columns, \
     absent ones null) and a newline, in the report's order";

#[derive(Debug, Serialize)]
pub(super) struct Head {
    pub format: &'static str,
    pub report: Kind,
    pub title: &'static str,
    /// Which statements belong to it.
    pub population: &'static str,
    pub dbwarden: &'static str,
    pub made: Made,
    pub hosts: Vec<String>,
    pub period: Period,
    /// As they were typed.
    pub filters: Vec<String>,
    pub ledger: String,
    pub keys: String,
    pub proof: Proof,
    pub reconciliation: Reconciliation,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<Labels>,
    /// What is known to be missing.
    pub unobserved: Vec<Gap>,
    pub servers: Vec<Server>,
    #[serde(skip_serializing_if = "Approvals::is_empty")]
    pub approvals: Approvals,
    /// What else bears on how much the report can say.
    pub notes: Vec<String>,
    /// Reads that stayed in the region of their label: statements and rows.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub in_region: BTreeMap<String, (u64, u64)>,
    pub totals: Totals,
    pub columns: &'static [&'static str],
    pub rows_sha256: String,
    pub rows_sha256_is_over: &'static str,
    /// Everything adds up, and the ledger is not known to be broken.
    pub sound: bool,
}

#[derive(Debug, Serialize)]
pub(super) struct Made {
    pub time: WallTime,
    pub by: String,
    pub on: String,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Period {
    /// `None` is the ledger's beginning.
    pub since: Option<WallTime>,
    pub until: WallTime,
}

impl Head {
    /// How long nobody watched, in microseconds.
    pub(super) fn unwatched_us(&self) -> i64 {
        let gaps = self.unobserved.iter().filter(|gap| gap.reason == "not-running");
        gaps.filter_map(|gap| Some(gap.to?.0 - gap.from?.0)).sum()
    }

    pub(super) fn is_sound(&self) -> bool {
        self.proof.verdict != Verdict::Broken && self.reconciliation.differences.is_empty()
    }
}

/// Who makes the report, as this process knows it.
pub(super) fn maker() -> String {
    let name = |uid: u32| {
        let user = nix::unistd::User::from_uid(uid.into()).ok().flatten();
        user.map_or_else(|| format!("uid {uid}"), |user| user.name)
    };
    let user = name(nix::unistd::getuid().as_raw());
    let login = std::fs::read_to_string("/proc/self/loginuid").ok();
    let login: Option<u32> = login.and_then(|text| text.trim().parse().ok());
    match login.filter(|uid| *uid != u32::MAX).map(name) {
        Some(login) if login != user => format!("{user} (logged in as {login})"),
        _ => user,
    }
}
