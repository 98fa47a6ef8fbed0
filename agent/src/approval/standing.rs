//! Who may decide: a verified human who is neither the requester nor anything of theirs.

use super::registry::Request;
use crate::event::{Origin, PrincipalKind};

/// Why somebody may not decide.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    #[error("only people may decide, and this is {0}")]
    NotHuman(String),
    #[error("{0}: somebody else has to decide")]
    Requester(String),
    #[error(
        "root decides in an emergency only: approve as yourself, or give --break-glass with a --reason"
    )]
    Root,
    #[error("{who} is in none of the groups that may approve: {groups}")]
    NotMember { who: String, groups: String },
    #[error("{who} is not in {group}, whose members may approve in an emergency")]
    NotBreakGlass { who: String, group: String },
    #[error("nobody may approve in an emergency here: [approvals] names no `break_glass` group")]
    NoBreakGlass,
    #[error("an approval in an emergency needs a --reason")]
    NoReason,
}

/// By what right somebody decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Right {
    Member,
    BreakGlass,
}

pub(super) fn right(
    request: &Request,
    approver: &Origin,
    emergency: Option<&str>,
    break_glass: Option<&str>,
) -> Result<Right, Unfit> {
    let who = words(approver);
    if approver.principal_kind != Some(PrincipalKind::Human) {
        return Err(Unfit::NotHuman(who));
    }
    if let Some(why) = kinship(&request.origin, approver) {
        return Err(Unfit::Requester(why));
    }
    let is_in = |group: &str| approver.groups.iter().any(|one| &**one == group);
    if let Some(reason) = emergency {
        let group = break_glass.ok_or(Unfit::NoBreakGlass)?;
        if !is_in(group) {
            return Err(Unfit::NotBreakGlass { who, group: group.to_owned() });
        }
        return match reason.trim().is_empty() {
            true => Err(Unfit::NoReason),
            false => Ok(Right::BreakGlass),
        };
    }
    if approver.uid.is_none_or(|uid| uid == 0) {
        return Err(Unfit::Root);
    }
    let mut groups: Vec<&str> =
        request.needs.iter().flat_map(|need| &need.approvers).map(|group| &**group).collect();
    if groups.iter().any(|group| is_in(group)) {
        return Ok(Right::Member);
    }
    groups.sort_unstable();
    groups.dedup();
    Err(Unfit::NotMember { who, groups: groups.join(", ") })
}

pub(super) fn words(origin: &Origin) -> String {
    let name = origin.principal.as_deref().unwrap_or("unknown");
    let kind = origin.principal_kind.map_or("unknown", |kind| kind.name());
    match origin.initiator.as_deref() {
        Some(initiator) => format!("{name} ({kind}, launched by {initiator})"),
        None => format!("{name} ({kind})"),
    }
}

/// What an approver has to do with who asks. It is said of more than it is true of rather than of less.
fn kinship(requester: &Origin, approver: &Origin) -> Option<String> {
    let same = |a: &Option<std::sync::Arc<str>>, b| a.is_some() && a == b;
    if same(&requester.principal, &approver.principal) {
        return Some("it is their own request".to_owned());
    }
    if same(&requester.initiator, &approver.principal) {
        let name = requester.principal.as_deref().unwrap_or_default();
        return Some(format!("it is the request of {name}, whom they have launched"));
    }
    if requester.session.is_some() && requester.session == approver.session {
        return Some("it comes from their own session".to_owned());
    }
    if let (Some(a), Some(b)) = (scope(requester), scope(approver))
        && a == b
    {
        return Some("it comes from their own session".to_owned());
    }
    if requester.login_uid.is_some() && requester.login_uid == approver.login_uid {
        return Some("it comes from their own login".to_owned());
    }
    if requester.uid.is_some_and(|uid| uid != 0) && requester.uid == approver.uid {
        return Some("it comes from their own account".to_owned());
    }
    let is_parent = |pid: Option<u32>, of: &Origin| {
        pid.is_some_and(|pid| of.pid == Some(pid) || of.parents.iter().any(|one| one.pid == pid))
    };
    if is_parent(requester.pid, approver) || is_parent(approver.pid, requester) {
        return Some("one process has started the other".to_owned());
    }
    None
}

/// The login session that a cgroup stands for.
fn scope(origin: &Origin) -> Option<&str> {
    let cgroup = origin.cgroup.as_deref()?;
    cgroup.split('/').find(|part| part.starts_with("session-") && part.ends_with(".scope"))
}
