//! What it takes to let a statement pass whose rules want an approval, and what the service is asked for it.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::{
    court::{Argument, Denial, Needs, Question, Reading},
    masking::Copied,
    wire::Number,
};
use crate::{
    approval::{Ask, Binding, Given, Need, Who},
    event::{Facts, Judgement, Origin, PrincipalKind, Verdict},
    pipeline::profile::Profile,
    policy::{Does, Estimate, Set},
    statement::{self, Lexing},
};

/// Gathered over the statements of one text.
#[derive(Default)]
pub(super) struct Needing {
    worst: Option<(Verdict, Denial)>,
    needs: Vec<Need>,
    facts: Vec<Arc<Facts>>,
    behind: Vec<String>,
    estimate: Option<Estimate>,
}

impl Needing {
    pub(super) fn is_nothing(&self) -> bool {
        self.worst.is_none()
    }

    /// A statement that some rules want an approval for.
    pub(super) fn add(
        &mut self,
        rules: &Set,
        judgement: &Judgement,
        denial: Denial,
        facts: &Arc<Facts>,
        by: &[String],
        estimate: Option<Estimate>,
    ) {
        let asking = judgement.findings.iter().filter(|finding| {
            matches!(finding.verdict, Verdict::Hold | Verdict::Ticket) && !finding.dry_run
        });
        for finding in asking {
            let rule = rules.rule(&finding.rule);
            let Some(Does::Judge { approvers, .. }) = rule.map(|rule| &rule.does) else { continue };
            let need = Need {
                rule: finding.rule.clone(),
                message: finding.message.clone(),
                approvers: approvers.groups.clone(),
                approvals: approvers.approvals,
                ttl: approvers.ttl,
            };
            if !self.needs.contains(&need) {
                self.needs.push(need);
            }
        }
        if self.worst.as_ref().is_none_or(|(worst, _)| judgement.verdict > *worst) {
            self.worst = Some((judgement.verdict, denial));
        }
        self.facts.push(facts.clone());
        self.behind.extend_from_slice(by);
        let is_more = |of: &Estimate| self.estimate.is_none_or(|known| of.rows > known.rows);
        self.estimate = estimate.filter(is_more).or(self.estimate);
    }

    /// What its client is told, with what it takes; `None` where nothing is needed.
    pub(super) fn denial(
        self,
        reading: &Reading,
        lexing: Lexing,
        origin: &Origin,
        policy: &Arc<str>,
        copy: &Copied,
    ) -> Option<Denial> {
        let (verdict, denial) = self.worst?;
        let facts = match self.facts.as_slice() {
            [only] if reading.analysed.statements.len() == 1 => only.clone(),
            _ => reading.analysed.whole.clone(),
        };
        let tables = names(&self.facts, &reading.analysed.whole, |facts| {
            facts.tables.iter().map(|table| table.name.clone()).collect()
        });
        let functions =
            names(&self.facts, &reading.analysed.whole, |facts| facts.functions.clone());
        let known = |text: &Option<Arc<str>>| text.as_deref().map(str::to_owned);
        let text = reading.text.as_deref().unwrap_or_default();
        let needs = Needs {
            verdict,
            needs: self.needs,
            does: digest(&self.facts, &reading.analysed.whole),
            facts,
            behind: self.behind,
            tables,
            functions,
            // `WHERE CURRENT OF` means whatever row a cursor is at.
            is_session_sensitive: reading.analysed.is_session_sensitive
                || text.to_ascii_lowercase().contains("current"),
            estimated_rows: self.estimate.and_then(Estimate::known_rows),
            estimated_percent: self.estimate.and_then(|estimate| estimate.percent),
            who: Who {
                name: known(&origin.principal).unwrap_or_else(|| "unknown".to_owned()),
                kind: origin.principal_kind.unwrap_or(PrincipalKind::Unknown),
                initiator: known(&origin.initiator),
            },
            principal_rule: known(&origin.principal_rule),
            policy: policy.clone(),
            shown: statement::redact_secrets(text, lexing),
            copy: copy.clone(),
        };
        Some(Denial { needs: Some(Arc::new(needs)), ..denial })
    }
}

/// Of all statements of a text, in order.
fn names(
    found: &[Arc<Facts>],
    whole: &Arc<Facts>,
    of: impl Fn(&Facts) -> Vec<Arc<str>>,
) -> Vec<Arc<str>> {
    let mut names: Vec<Arc<str>> =
        found.iter().chain([whole]).flat_map(|facts| of(facts)).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// The same for what does the same.
fn digest(found: &[Arc<Facts>], whole: &Arc<Facts>) -> String {
    let mut hash = Sha256::new();
    for facts in found.iter().chain([whole]) {
        // All of it can be written.
        hash.update(serde_json::to_vec(&**facts).unwrap_or_default());
    }
    hex::encode(hash.finalize().get(..16).unwrap_or_default())
}

/// What the service is asked.
pub(super) fn asked(profile: &Profile, number: Number, question: Question) -> Ask {
    let Question { needs, verdict, text, types, values, context, waits_for } = question;
    Ask {
        number,
        connection: profile.id,
        verdict,
        needs: needs.needs.clone(),
        binding: Binding {
            server: profile.server.name.to_string(),
            database: profile.database().unwrap_or_default().to_owned(),
            text,
            types: types.to_vec(),
            parameters: values.iter().map(given).collect(),
            principal: needs.who.clone(),
            context,
            does: needs.does.clone(),
            policy: needs.policy.to_string(),
        },
        shown: needs.shown.clone(),
        facts: needs.facts.clone(),
        behind: needs.behind.clone(),
        estimated_rows: needs.estimated_rows,
        estimated_percent: needs.estimated_percent,
        application: profile.application().map(str::to_owned),
        principal_rule: needs.principal_rule.clone(),
        waits_for,
    }
}

fn given(value: &Argument) -> Given {
    match value {
        Argument::Null => Given::Null,
        Argument::Text(text) => Given::Text(text.to_string()),
        Argument::Binary(bytes) => Given::Binary(hex::encode(bytes)),
        // Nobody is asked about what can't be shown.
        Argument::Unreadable => Given::Null,
    }
}
