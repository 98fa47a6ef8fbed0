//! A request as people and programs see it: the statement only for those who may decide about it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{
    Given,
    registry::{Decided, Request, State, seconds},
    standing::words,
};
use crate::event::{Approval, Origin, TableAccess, WallTime};

/// Absent is null.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Shown {
    pub id: String,
    pub state: String,
    /// Why it was denied.
    pub why: Option<String>,
    pub verdict: String,
    pub asked: WallTime,
    pub expires: WallTime,
    /// Who has to approve, in words, and how many of them have.
    pub needs: String,
    pub approvals: u64,
    pub needed: u64,
    pub rules: Vec<String>,
    pub message: String,

    pub principal: String,
    pub principal_kind: String,
    /// The human behind an AI.
    pub initiator: Option<String>,
    pub os_user: Option<String>,
    pub login_user: Option<String>,
    pub exe: Option<String>,
    pub unit: Option<String>,
    pub container: Option<String>,
    pub client_address: Option<String>,
    pub application: Option<String>,

    pub host: String,
    pub environment: Option<String>,
    pub server: String,
    pub database: String,
    pub role: String,
    pub search_path: String,

    /// As it was sent, but for secrets; with `?` for each value where the reader may not decide.
    pub text: String,
    pub exact: bool,
    pub parameters: Option<Vec<Option<String>>>,
    /// What the session has prepared, where the statement depends on it.
    pub prepared: Option<String>,
    pub fingerprint: String,
    pub summary: String,
    pub effects: Vec<String>,
    pub tables: Vec<Table>,
    pub analysis: String,
    /// What it does by code that is there already.
    pub behind: Vec<String>,
    /// As the planner expects.
    pub estimated_rows: Option<u64>,
    pub estimated_percent: Option<u8>,

    pub decisions: Vec<ShownDecision>,
    pub rows: Option<u64>,
    pub duration_us: Option<u64>,
    pub error_code: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Table {
    pub name: String,
    pub access: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ShownDecision {
    pub time: WallTime,
    pub who: String,
    pub decision: String,
    pub break_glass: bool,
    pub reason: Option<String>,
}

/// A step as it is told to those who watch.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Step {
    pub time: WallTime,
    pub approval: String,
    pub action: String,
    pub rule: String,
    pub server: Option<String>,
    pub database: Option<String>,
    pub who: String,
    pub message: String,
    /// With `?` for each value.
    pub text: Option<String>,
}

impl Step {
    pub(super) fn of(row: &Approval) -> Self {
        let known = |text: &Option<Arc<str>>| text.as_deref().map(str::to_owned);
        Self {
            time: row.time,
            approval: row.id.to_string(),
            action: row.action.name().to_owned(),
            rule: row.rule.to_string(),
            server: known(&row.origin.server),
            database: known(&row.origin.database),
            who: words(&row.origin),
            message: row.message.clone(),
            text: row.facts.as_ref().map(|facts| facts.text.to_string()),
        }
    }
}

/// Whether somebody may see what a statement says: those who may approve it, and root.
pub(super) fn may_see(request: &Request, reader: &Origin, break_glass: Option<&str>) -> bool {
    let approvers = request.needs.iter().flat_map(|need| &need.approvers).map(|group| &**group);
    let mut groups = approvers.chain(break_glass);
    reader.uid == Some(0) || groups.any(|group| reader.groups.iter().any(|one| **one == *group))
}

impl Shown {
    pub(super) fn of(request: &Request, exact: bool) -> Self {
        let Request { binding, facts, origin, .. } = request;
        let known = |text: &Option<Arc<str>>| text.as_deref().map(str::to_owned);
        let (approvals, needed) = request.progress();
        let ran = request.ran.as_ref();
        let text = match exact {
            true => request.shown.to_string(),
            false => facts.text.to_string(),
        };
        Self {
            id: request.id.to_string(),
            state: request.state.name().to_owned(),
            why: match &request.state {
                State::Denied(why) => Some(why.clone()),
                _ => None,
            },
            verdict: request.verdict.name().to_owned(),
            asked: request.asked,
            expires: request.expires,
            needs: request.whose(),
            approvals,
            needed,
            rules: request.needs.iter().map(|need| need.rule.to_string()).collect(),
            message: request.message().to_owned(),
            principal: binding.principal.name.clone(),
            principal_kind: binding.principal.kind.name().to_owned(),
            initiator: binding.principal.initiator.clone(),
            os_user: known(&origin.os_user),
            login_user: known(&origin.login_user),
            exe: known(&origin.exe),
            unit: known(&origin.unit),
            container: known(&origin.container),
            client_address: known(&origin.client_address),
            application: known(&origin.application),
            host: origin.host.to_string(),
            environment: known(&origin.environment),
            server: binding.server.clone(),
            database: binding.database.clone(),
            role: binding.context.role(),
            search_path: binding.context.search_path.clone(),
            text,
            exact,
            parameters: exact.then(|| values(&binding.types, &binding.parameters)),
            prepared: binding.context.prepared.clone().filter(|_| exact),
            fingerprint: facts.fingerprint_text(),
            summary: facts.summary.to_string(),
            effects: facts.effects.iter().map(|effect| effect.name().to_owned()).collect(),
            tables: facts.tables.iter().map(table).collect(),
            analysis: facts.analysis.name().to_owned(),
            behind: request.behind.clone(),
            estimated_rows: request.estimated_rows,
            estimated_percent: request.estimated_percent,
            decisions: request.decisions.iter().map(decision).collect(),
            rows: ran.and_then(|ran| ran.rows),
            duration_us: ran.and_then(|ran| ran.duration_us),
            error_code: ran.and_then(|ran| ran.error_code.clone()),
        }
    }

    /// Without parts of a second.
    pub fn until(&self) -> String {
        seconds(self.expires)
    }
}

fn values(types: &[u32], given: &[Given]) -> Vec<Option<String>> {
    let types = types.iter().copied().chain(std::iter::repeat(0));
    let value = |(of, given): (u32, &Given)| match given {
        Given::Null => None,
        Given::Text(text) => Some(text.clone()),
        Given::Binary(digits) => {
            Some(in_words(of, digits).unwrap_or_else(|| format!("\\x{digits}")))
        }
    };
    types.zip(given).map(value).collect()
}

/// What people can read of a value in its type's binary format, by the numbers of PostgreSQL's own types.
fn in_words(of: u32, digits: &str) -> Option<String> {
    let bytes = hex::decode(digits).ok()?;
    Some(match (of, bytes.as_slice()) {
        // `bool`, `int8`, `int2`, `int4`
        (16, [is]) => (*is != 0).to_string(),
        (20, bytes) => i64::from_be_bytes(bytes.try_into().ok()?).to_string(),
        (21, bytes) => i16::from_be_bytes(bytes.try_into().ok()?).to_string(),
        (23, bytes) => i32::from_be_bytes(bytes.try_into().ok()?).to_string(),
        // `text`, `varchar`
        (25 | 1_043, bytes) => String::from_utf8(bytes.to_vec()).ok()?,
        _ => return None,
    })
}

fn table(table: &TableAccess) -> Table {
    Table { name: table.name.to_string(), access: table.access.name().to_owned() }
}

fn decision(decided: &Decided) -> ShownDecision {
    ShownDecision {
        time: decided.time,
        who: words(&decided.origin),
        decision: if decided.is_approval { "approved" } else { "denied" }.to_owned(),
        break_glass: decided.is_break_glass,
        reason: decided.reason.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::values;
    use crate::approval::Given;

    #[test]
    fn people_read_what_programs_send() {
        let given = ["0007", "fffffffb", "0000000000000009", "01", "c3bc", "ff", "0007"];
        let given: Vec<Given> = given.iter().map(|it| Given::Binary((*it).to_owned())).collect();
        let read = values(&[21, 23, 20, 16, 25, 25], &given);
        let read: Vec<&str> = read.iter().flatten().map(String::as_str).collect();
        assert_eq!(read, ["7", "-5", "9", "true", "ü", "\\xff", "\\x0007"]);
    }
}
