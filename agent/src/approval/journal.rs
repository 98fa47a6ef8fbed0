//! What is open, on disk: only for the next start to say that it was denied.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::registry::Request;
use crate::{
    event::{Approval, ApprovalAction, Engine, Entry, Origin, PrincipalKind, Verdict, WallTime},
    ledger::durable,
};

/// Never longer: a file that is isn't ours.
const MAX_BYTES: u64 = 4 << 20;

/// Knows what it has written last.
#[derive(Debug)]
pub(super) struct Journal {
    file: Option<PathBuf>,
    written: Vec<Arc<str>>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Open {
    id: Arc<str>,
    rule: Arc<str>,
    verdict: Verdict,
    asked: WallTime,
    principal: Arc<str>,
    principal_kind: PrincipalKind,
    initiator: Option<Arc<str>>,
    server: Arc<str>,
    database: Arc<str>,
}

impl Journal {
    pub(super) fn nowhere() -> Self {
        Self { file: None, written: Vec::new() }
    }

    /// With rows about what was open when the service ended without a word.
    pub(super) fn open(
        file: &Path,
        host: &Origin,
        now: WallTime,
    ) -> io::Result<(Self, Vec<Entry>)> {
        let open: Vec<Open> = durable::read_json(file, MAX_BYTES)?;
        let rows = open.iter().map(|open| open.denied(host, now)).collect();
        let mut journal = Self { file: Some(file.to_owned()), written: Vec::new() };
        if !open.is_empty() {
            journal.write(&[])?;
        }
        Ok((journal, rows))
    }

    /// These are open now.
    pub(super) fn keep<'a>(&mut self, open: impl Iterator<Item = &'a Request>) -> io::Result<()> {
        let open: Vec<&Request> = open.collect();
        if open.len() == self.written.len()
            && open.iter().zip(&self.written).all(|(request, known)| request.id == *known)
        {
            return Ok(());
        }
        self.written = open.iter().map(|request| request.id.clone()).collect();
        let open: Vec<Open> = open.into_iter().map(Open::of).collect();
        self.write(&open)
    }

    fn write(&mut self, open: &[Open]) -> io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        durable::replace(file, &serde_json::to_vec(open)?)
    }
}

impl Open {
    fn of(request: &Request) -> Self {
        let who = &request.binding.principal;
        Self {
            id: request.id.clone(),
            rule: request.needs.first().map_or_else(|| "?".into(), |need| need.rule.clone()),
            verdict: request.verdict,
            asked: request.asked,
            principal: who.name.as_str().into(),
            principal_kind: who.kind,
            initiator: who.initiator.as_deref().map(Into::into),
            server: request.binding.server.as_str().into(),
            database: request.binding.database.as_str().into(),
        }
    }

    fn denied(&self, host: &Origin, now: WallTime) -> Entry {
        let Self { id, rule, verdict, asked, .. } = self;
        let origin = Origin {
            server: Some(self.server.clone()),
            engine: Some(Engine::Postgresql),
            database: Some(self.database.clone()),
            principal: Some(self.principal.clone()),
            principal_kind: Some(self.principal_kind),
            initiator: self.initiator.clone(),
            ..host.clone()
        };
        Entry::Approval(Approval {
            time: now,
            action: ApprovalAction::Denied,
            id: id.clone(),
            origin: Arc::new(origin),
            rule: rule.clone(),
            verdict: *verdict,
            facts: None,
            text: None,
            message: format!("dbwarden was started again; it had been asked for at {asked}"),
            counts: Vec::new(),
            rows: None,
            duration_us: None,
            error_code: None,
        })
    }
}
