//! Judges what clients want: the same analysis, principals and policies as the observer's.

use std::{
    borrow::Cow,
    num::NonZeroUsize,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use lru::LruCache;

use super::{
    behind::{self, Behind},
    catalog::{Catalogs, Database, PATIENCE, Snapshot},
    court::{DENIED, Denial, Reading},
    estimating::Bulk,
    masking::Hiding,
    veil::Veils,
    wire::Channel,
};
use crate::{
    analyst::{Analyst, Bounds},
    event::{Facts, Judgement, Origin, Verdict, WallTime},
    policy::{Estimate, Judge, Set},
    principal,
    statement::{Analysed, MAX_TEXT_BYTES},
};

/// Of one worker, for all of its sessions.
pub(super) struct Judging {
    pub(super) analyst: Analyst,
    pub(super) judge: Judge,
    pub(super) host: Arc<Origin>,
    pub(super) principals: principal::Rules,
    pub(super) channel: Arc<Channel>,
    pub(super) last: Arc<Reading>,
    /// Version of the policies, and whether some of them want approvals.
    pub(super) policy: Arc<str>,
    pub(super) asks: bool,
    /// Why nothing can be recorded.
    ledger_down: Option<Arc<str>>,
    /// Counts the changes of what clients are judged by.
    era: u64,
    pub(super) catalogs: Catalogs,
    /// By a database's server and name.
    pub(super) behind: behind::Known,
    pub(super) veils: Veils,
    pub(super) bulk: Bulk,
    pub(super) hiding: Arc<Hiding>,
}

/// Databases whose code a worker remembers.
const MAX_DATABASES: NonZeroUsize = NonZeroUsize::new(64).unwrap();

impl Judging {
    pub(super) fn new(
        set: Arc<Set>,
        host: Arc<Origin>,
        principals: principal::Rules,
        channel: Arc<Channel>,
        catalogs: Catalogs,
        bulk: Bulk,
        hiding: Arc<Hiding>,
    ) -> Self {
        let bounds = Bounds { text_bytes: MAX_TEXT_BYTES, ..Bounds::default() };
        let (policy, asks) = (set.version().clone(), set.asks());
        let (analyst, judge) = (Analyst::new(bounds), Judge::new(set));
        let last = Arc::new(Reading::of(None, Arc::new(Analysed::ambiguous("")), None));
        let behind = LruCache::new(MAX_DATABASES);
        Self {
            analyst,
            judge,
            host,
            principals,
            channel,
            last,
            policy,
            asks,
            ledger_down: None,
            era: 0,
            catalogs,
            behind,
            veils: Veils::default(),
            bulk,
            hiding,
        }
    }

    pub(super) fn ledger_is_down(&mut self, why: Option<Arc<str>>) {
        self.ledger_down = why;
        self.era += 1;
    }

    /// Why nothing can be recorded, where that is so.
    pub(super) fn ledger_down(&self) -> Option<&Arc<str>> {
        self.ledger_down.as_ref()
    }

    /// As long as it stays the same, the same is judged alike; where time doesn't count, and no catalog is asked.
    pub(super) fn era(&self) -> u64 {
        self.era
    }

    /// Judges by other rules from now on.
    pub(super) fn replace(
        &mut self,
        set: Arc<Set>,
        host: Arc<Origin>,
        principals: principal::Rules,
        bulk: Bulk,
        hiding: Arc<Hiding>,
    ) {
        (self.policy, self.asks) = (set.version().clone(), set.asks());
        self.judge.replace(set);
        self.hiding = hiding;
        self.veils = Veils::default();
        self.host = host;
        self.principals = principals;
        self.bulk = bulk;
        self.era += 1;
    }

    /// The code of a database, as far as it is known now. `lacking`: what somebody names that isn't there.
    pub(super) fn behind(
        &mut self,
        database: &Arc<Database>,
        lacking: impl FnOnce(&Snapshot) -> Vec<Arc<str>>,
    ) -> Option<(Arc<Snapshot>, &mut Behind, &mut Analyst)> {
        let snapshot = self.catalogs.snapshot_with(database, PATIENCE, lacking)?;
        let key = (database.server, database.name.clone());
        let behind = behind::of(&mut self.behind, &key, &snapshot)?;
        Some((snapshot, behind, &mut self.analyst))
    }
}

/// What the client is told of a judgement.
pub(super) fn denial(
    judgement: &Judgement,
    facts: &Facts,
    by: &[String],
    estimate: Option<Estimate>,
) -> Denial {
    let rule = judgement.rule.clone().unwrap_or_else(|| "?".into());
    let finding = judgement.findings.iter().find(|finding| finding.rule == rule);
    let message = finding.map_or("denied by policy", |finding| &*finding.message);
    let mut detail = format!("rule {rule}");
    let effects: Vec<&str> = facts.effects.iter().map(|effect| effect.name()).collect();
    detail += &format!("; effects: {}", effects.join(", "));
    let mut tables: Vec<&str> = facts.tables.iter().map(|table| &*table.name).collect();
    tables.dedup();
    if !tables.is_empty() {
        detail += &format!("; tables: {}", tables.join(", "));
    }
    if !facts.analysis.is_complete() {
        detail += &format!("; analysis: {}", facts.analysis.name());
    }
    if let Some(estimate) = estimate {
        detail += match estimate.is_worst {
            true => {
                "; it can't be estimated, as it hangs on what only its session sees: up to all rows"
            }
            false => "; estimated rows",
        };
        if let Some(rows) = estimate.known_rows() {
            detail += &format!(": {rows}");
        }
        if let Some(percent) = estimate.percent {
            detail += &format!(" ({percent} % of the table)");
        }
    }
    if !by.is_empty() {
        detail += &format!("; by code that is there already: {}", by.join("; "));
    }
    let hint = match judgement.verdict {
        Verdict::Hold | Verdict::Ticket => {
            "The rule wants an approval. That is asked for a statement that is sent by itself, with all of its \
             parameters, in up to 64 KiB."
        }
        _ => {
            "Ask whoever keeps dbwarden's policies for an exception; `dbwarden policy explain` shows what it takes."
        }
    };
    Denial {
        code: Cow::Borrowed(DENIED),
        rule,
        message: format!("dbwarden: {message}").into(),
        detail: detail.into(),
        hint: Cow::Borrowed(hint),
        approval: None,
        needs: None,
    }
}

pub(super) fn now() -> WallTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    WallTime(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}
