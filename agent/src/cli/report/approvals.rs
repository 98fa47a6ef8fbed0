//! Who was asked, who has decided, and what became of it: the steps of approvals in a report's period.

use serde::Serialize;

use super::coverage::Occurrence;
use crate::event::WallTime;

/// Steps that are told one by one; further ones are counted.
const MAX_STEPS: usize = 10_000;

/// Steps in the order of the ledger.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Approvals {
    pub steps: Vec<Step>,
    /// Those that are in the ledger, and not here.
    pub more: u64,
}

/// One row of an approval.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Step {
    pub time: WallTime,
    pub host: String,
    pub server: Option<String>,
    /// As in the column `approval` of the statements.
    pub approval: String,
    /// `requested`, `approved`, `used`, …
    pub action: String,
    /// Who took the step.
    pub principal: Option<String>,
    pub rule: Option<String>,
    pub message: Option<String>,
}

impl Approvals {
    pub(super) fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// A row that is no statement; what is no approval is of no interest here.
    pub(super) fn occurrence(&mut self, row: &Occurrence) {
        let Some(approval) = row.approval.as_ref().filter(|_| row.record == "approval") else {
            return;
        };
        if self.steps.len() >= MAX_STEPS {
            self.more += 1;
            return;
        }
        self.steps.push(Step {
            time: row.time,
            host: row.host.clone().unwrap_or_default(),
            server: row.server.clone(),
            approval: approval.clone(),
            action: row.action.clone().unwrap_or_default(),
            principal: row.principal.clone(),
            rule: row.rule.clone(),
            message: row.message.clone(),
        });
    }
}
