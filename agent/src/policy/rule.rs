//! What a rule says about itself in its annotations.

use std::{ops::Range, sync::Arc, time::Duration};

use cedar_policy::{Effect, Policy, PolicyId};

use super::complaint::{Complaint, Source, did_you_mean};
use crate::event::{Flow, MASKS, Mask, NoMask, Severity, Verdict};

/// One policy with its annotations understood.
#[derive(Clone, Debug)]
pub struct Rule {
    pub id: Arc<str>,
    pub severity: Severity,
    pub message: Arc<str>,
    /// What a finding means, for whoever has to decide about it.
    pub why: Option<String>,
    /// How to make an exception that stays honest.
    pub silence: Option<String>,
    pub does: Does,
    /// Where it stands.
    pub file: Arc<str>,
    pub line: usize,
    pub(super) policy: Policy,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Does {
    /// `forbid`
    Judge {
        verdict: Verdict,
        /// It only says what would have happened.
        dry_run: bool,
        /// Who may approve.
        approvers: Approvers,
        /// Of the verdict `mask`.
        mask: Option<Mask>,
        /// Likewise.
        flow: Flow,
    },
    /// `permit`: these rules don't apply where it does.
    Silence(Vec<Arc<str>>),
}

/// Whose approval a rule wants, of how many of them, and for how long it waits for that.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Approvers {
    pub groups: Vec<Arc<str>>,
    /// 1 where the rule doesn't say.
    pub approvals: u32,
    /// `None`: as the configuration says.
    pub ttl: Option<Duration>,
}

/// Ids of what dbwarden brings along begin with one of these, and only they do.
pub const BUILTIN: [&str; 2] = ["builtin:", "guard:"];

const OF_FORBID: [&str; 13] = [
    "id",
    "verdict",
    "severity",
    "message",
    "why",
    "silence",
    "mode",
    "approvers",
    "approvals",
    "ttl",
    "owner",
    "mask",
    "flow",
];
const OF_PERMIT: [&str; 4] = ["id", "silences", "message", "owner"];
const MODES: [&str; 2] = ["enforce", "dry-run"];
const ID_BYTES: usize = 100;
const MAX_APPROVALS: u32 = 20;
const MAX_TTL: Duration = Duration::from_secs(7 * 86_400);

fn is_builtin(id: &str) -> bool {
    BUILTIN.iter().any(|family| id.starts_with(family))
}

/// The policies of a source in their order, each with its place.
pub(super) fn places(source: &Source, policies: Vec<Policy>) -> Vec<(Range<usize>, Policy)> {
    let mut policies = policies;
    // Cedar calls them policy0, policy1, … as they come.
    policies.sort_by_key(|policy| {
        policy.id().to_string().trim_start_matches("policy").parse().unwrap_or(usize::MAX)
    });
    let mut from = 0;
    let mut placed = Vec::with_capacity(policies.len());
    for policy in policies {
        let text = policy.to_cedar().unwrap_or_default();
        let rest = source.text.get(from..).unwrap_or_default();
        let start = from + rest.find(text.as_str()).unwrap_or_default();
        from = start + text.len();
        placed.push((start..from, policy));
    }
    placed
}

impl Rule {
    /// Reads the annotations; complains of each that is missing, unknown or makes no sense.
    pub(super) fn of_policy(
        source: &Source,
        place: Range<usize>,
        policy: &Policy,
        builtin: bool,
        complaints: &mut Vec<Complaint>,
    ) -> Option<Self> {
        let mut reader = Reader { source, place, policy, complaints, failed: false };
        let allowed: &[&str] = match policy.effect() {
            Effect::Forbid => &OF_FORBID,
            Effect::Permit => &OF_PERMIT,
        };
        let mut names: Vec<&str> = policy.annotations().map(|(name, _)| name).collect();
        names.sort_unstable();
        for name in names.into_iter().filter(|name| !allowed.contains(name)) {
            let hint = did_you_mean(name, allowed.iter().copied());
            let list = allowed.join(", @");
            reader.complain(
                name,
                format!("unknown annotation @{name}{hint}"),
                Some(format!("here can stand @{list}")),
            );
        }
        let id = reader.id(builtin);
        let message = reader.text("message");
        let (severity, does) = match policy.effect() {
            Effect::Forbid => {
                let verdict = reader.verdict();
                let severity = reader.one_of("severity", Severity::ALL, |one| one.name());
                let mode = reader.one_of("mode", &MODES, |one| one);
                let approvers = reader.approvers(verdict);
                if message.is_none() {
                    let help = "what people read who run into it: @message(\"ask the DBA first\")";
                    reader.complain("id", "this rule has no @message".into(), Some(help.into()));
                }
                if let Some(verdict @ (Verdict::Hold | Verdict::Ticket)) = verdict
                    && approvers.groups.is_empty()
                {
                    let message =
                        format!("verdict {} needs somebody who may approve", verdict.name());
                    let help = "name groups that [[principal]] gives: @approvers(\"dba\")";
                    reader.complain("verdict", message, Some(help.into()));
                }
                let mask = reader.mask(verdict);
                let dry_run = mode.is_some_and(|mode| mode == "dry-run");
                let flow = reader.flow(verdict);
                let does =
                    verdict.map(|verdict| Does::Judge { verdict, dry_run, approvers, mask, flow });
                (severity.unwrap_or(Severity::Medium), does)
            }
            Effect::Permit => {
                let silences = reader.list("silences");
                if silences.is_empty() {
                    let message =
                        "this permit changes nothing: everything is allowed that no forbid names";
                    let help = "name the rules that it makes an exception of: @silences(\"builtin:bulk-read\")";
                    reader.complain("id", message.into(), Some(help.into()));
                }
                (Severity::Low, Some(Does::Silence(silences)))
            }
        };
        let (why, silence) = (reader.text("why"), reader.text("silence"));
        if reader.failed {
            return None;
        }
        let (id, does) = (id?, does?);
        let line = Complaint::at(source, reader.place.start, "").line;
        Some(Self {
            policy: policy.new_id(PolicyId::new(&*id)),
            id,
            severity,
            message: message.unwrap_or_default().into(),
            why,
            silence,
            does,
            file: source.name.clone(),
            line,
        })
    }

    pub fn is_builtin(&self) -> bool {
        is_builtin(&self.id)
    }

    /// Whether it is about connections that clients make.
    pub(super) fn guards(&self) -> bool {
        matches!(self.does, Does::Judge { verdict: Verdict::Guard, .. })
    }

    /// Whether it hides something from somebody.
    pub(super) fn hides(&self) -> bool {
        matches!(self.does, Does::Judge { verdict: Verdict::Mask, dry_run: false, .. })
    }

    /// What it hides values by.
    pub fn mask(&self) -> Option<&Mask> {
        match &self.does {
            Does::Judge { mask, .. } => mask.as_ref(),
            Does::Silence(_) => None,
        }
    }

    /// What becomes of a statement in which what it hides goes into something else.
    pub fn flow(&self) -> Flow {
        match &self.does {
            Does::Judge { flow, .. } => *flow,
            Does::Silence(_) => Flow::default(),
        }
    }

    pub fn dry_run(&self) -> bool {
        matches!(self.does, Does::Judge { dry_run: true, .. })
    }

    /// Points to the first line of the policy.
    pub(super) fn complaint(&self, source: &Source, message: String) -> Complaint {
        let lines = source.text.split_inclusive('\n').take(self.line.saturating_sub(1));
        Complaint::at(source, lines.map(str::len).sum(), message)
    }
}

struct Reader<'a> {
    source: &'a Source,
    place: Range<usize>,
    policy: &'a Policy,
    complaints: &'a mut Vec<Complaint>,
    failed: bool,
}

impl Reader<'_> {
    /// About an annotation, or the whole policy where it isn't there.
    fn complain(&mut self, annotation: &str, message: String, help: Option<String>) {
        self.failed = true;
        let text = self.source.text.get(self.place.clone()).unwrap_or_default();
        let offset = self.place.start + text.find(&format!("@{annotation}")).unwrap_or_default();
        let complaint = Complaint::at(self.source, offset, message);
        self.complaints.push(match help {
            Some(help) => complaint.with_help(help),
            None => complaint,
        });
    }

    fn text(&self, name: &str) -> Option<String> {
        let text = self.policy.annotation(name)?.trim();
        (!text.is_empty()).then(|| text.to_owned())
    }

    fn id(&mut self, builtin: bool) -> Option<Arc<str>> {
        let Some(id) = self.text("id") else {
            let help = "every verdict names its rule: @id(\"no-friday-drops\")";
            self.complain("id", "this rule has no @id".into(), Some(help.into()));
            return None;
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | ':');
        if id.len() > ID_BYTES || !id.chars().all(plain) {
            let message =
                format!("@id({id:?}): up to {ID_BYTES} letters, digits, `-`, `_`, `.` or `:`");
            self.complain("id", message, None);
            return None;
        }
        if !builtin && is_builtin(&id) {
            let help =
                "give it a name of your own, and @silences the built-in one where it applies";
            let family = id.split_inclusive(':').next().unwrap_or_default();
            let message = format!("@id({id:?}): {family} is for what dbwarden brings along");
            self.complain("id", message, Some(help.into()));
            return None;
        }
        Some(id.into())
    }

    fn verdict(&mut self) -> Option<Verdict> {
        let verdicts = Verdict::ALL.get(1..).unwrap_or_default();
        if self.policy.annotation("verdict").is_none() {
            let names: Vec<&str> = verdicts.iter().map(|verdict| verdict.name()).collect();
            let help = format!("one of {}", names.join(", "));
            self.complain("id", "this rule has no @verdict".into(), Some(help));
            return None;
        }
        self.one_of("verdict", verdicts, |verdict| verdict.name())
    }

    /// Which the verdict `mask` needs, and no other has a use for.
    fn mask(&mut self, verdict: Option<Verdict>) -> Option<Mask> {
        let given = self.policy.annotation("mask").map(str::to_owned);
        let help = || format!("one of {}", MASKS.map(|mask| format!("@mask({mask:?})")).join(", "));
        match (verdict?, given) {
            (Verdict::Mask, None) => {
                let message = "verdict mask needs a mask".to_owned();
                self.complain("verdict", message, Some(help()));
                None
            }
            (Verdict::Mask, Some(given)) => match given.parse() {
                Ok(mask) => Some(mask),
                Err(error) => {
                    let hint = match error {
                        NoMask::Unknown(_) => did_you_mean(&given, MASKS.iter().copied()),
                        NoMask::Unfit => String::new(),
                    };
                    self.complain("mask", format!("@mask({given:?}): {error}{hint}"), Some(help()));
                    None
                }
            },
            (_, None) => None,
            (other, Some(_)) => {
                let message = format!("@mask is of no use to the verdict {}", other.name());
                let help = "say @verdict(\"mask\"), or take it out";
                self.complain("mask", message, Some(help.into()));
                None
            }
        }
    }

    /// Which is of no use without a mask.
    fn flow(&mut self, verdict: Option<Verdict>) -> Flow {
        let other = verdict.filter(|verdict| *verdict != Verdict::Mask);
        if let Some(other) = other.filter(|_| self.policy.annotation("flow").is_some()) {
            let message = format!("@flow is of no use to the verdict {}", other.name());
            let help = "say @verdict(\"mask\"), or take it out";
            self.complain("flow", message, Some(help.into()));
        }
        self.one_of("flow", Flow::ALL, |flow| flow.name()).unwrap_or_default()
    }

    fn one_of<T: Copy>(
        &mut self,
        annotation: &str,
        all: &[T],
        name: fn(T) -> &'static str,
    ) -> Option<T> {
        let given = self.policy.annotation(annotation)?.to_owned();
        let found = all.iter().copied().find(|one| name(*one) == given);
        if found.is_none() {
            let names: Vec<&str> = all.iter().map(|one| name(*one)).collect();
            let hint = did_you_mean(&given, names.iter().copied());
            let help = format!("one of {}", names.join(", "));
            self.complain(
                annotation,
                format!("@{annotation}({given:?}) is not known{hint}"),
                Some(help),
            );
        }
        found
    }

    fn approvers(&mut self, verdict: Option<Verdict>) -> Approvers {
        let groups = self.list("approvers");
        let wants = matches!(verdict, Some(Verdict::Hold | Verdict::Ticket));
        for name in ["approvals", "ttl"] {
            if !wants && verdict.is_some() && self.policy.annotation(name).is_some() {
                let message = format!("@{name} is for verdicts that wait: hold and ticket");
                self.complain(name, message, None);
            }
        }
        let mut approvals = 1;
        if let Some(text) = self.text("approvals") {
            match text.parse() {
                Ok(n @ 1..=MAX_APPROVALS) => approvals = n,
                _ => {
                    let message =
                        format!("@approvals({text:?}): a number from 1 to {MAX_APPROVALS}");
                    self.complain("approvals", message, None);
                }
            }
        }
        let mut ttl = None;
        if let Some(text) = self.text("ttl") {
            match humantime::parse_duration(&text) {
                Ok(span) if !span.is_zero() && span <= MAX_TTL => ttl = Some(span),
                _ => {
                    let message = format!(
                        "@ttl({text:?}): a time as in \"15m\" or \"2h\", of at most 7 days"
                    );
                    self.complain("ttl", message, None);
                }
            }
        }
        Approvers { groups, approvals, ttl }
    }

    /// Names between commas.
    fn list(&self, name: &str) -> Vec<Arc<str>> {
        let text = self.policy.annotation(name).unwrap_or_default();
        text.split(',').map(str::trim).filter(|word| !word.is_empty()).map(Into::into).collect()
    }
}
