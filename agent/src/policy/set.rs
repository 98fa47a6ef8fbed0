//! A set of rules that is sound as a whole: loaded from sources, or refused with everything that is wrong.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use cedar_policy::{
    ActionConstraint, Effect as Kind, PolicySet, Schema, ValidationError, ValidationMode,
    ValidationWarning, Validator,
};
use sha2::{Digest as _, Sha256};

use super::{
    Action, Complaint, Complaints, Does, Rule, Source, World,
    bounds::too_deep,
    complaint::did_you_mean,
    rule::places,
    schema::{Names, schema},
    volatile::{Unbounded, Volatile},
};
use crate::event::Verdict;

/// The rules that dbwarden brings along.
pub const STARTER_PACK: &str = include_str!("builtin.cedar");
/// Those for guarded servers.
pub const GUARDED_PACK: &str = include_str!("guarded.cedar");
/// What they are called as files.
const PACKS: [(&str, &str); 2] = [("builtin.cedar", STARTER_PACK), ("guarded.cedar", GUARDED_PACK)];

/// Rules at most: a statement that was not seen before is asked about each of them.
const MAX_RULES: usize = 2_000;

/// Never changed: another set takes its place as a whole.
pub struct Set {
    pub(super) rules: HashMap<Arc<str>, Rule>,
    /// Rules that can apply to an action, by [`Action::index`]: those that judge, and those that silence.
    judging: Vec<PolicySet>,
    silencing: Vec<PolicySet>,
    pub(super) names: Names,
    pub(super) world: World,
    pub(super) volatile: Volatile,
    sources: Vec<Source>,
    version: Arc<str>,
    /// A rule hides something.
    pub(super) has_masks: bool,
}

impl Set {
    /// The rules of all sources and, if they are wanted, the starter pack.
    ///
    /// # Errors
    /// Everything that is wrong, by file and line.
    pub fn load(sources: &[Source], starter_pack: bool, world: World) -> Result<Self, Complaints> {
        let packs = PACKS.map(|(name, text)| Source { name: name.into(), text: text.into() });
        let internal = |error: String| {
            Complaints(vec![Complaint::at(&packs[0], 0, format!("the schema: {error}"))])
        };
        let schema = schema().map_err(internal)?;
        let names = Names::new(&schema).map_err(internal)?;
        let mut all = Vec::new();
        if starter_pack {
            all.extend(packs.iter().cloned());
        }
        all.extend(sources.iter().cloned());

        let mut loading = Loading { complaints: Vec::new(), rules: Vec::new(), from: Vec::new() };
        for (n, source) in all.iter().enumerate() {
            loading.read(n, source, starter_pack && n < packs.len());
        }
        loading.no_id_twice(&all);
        loading.verdicts_of_connections(&all, &names);
        loading.known_names(&all, &world);
        loading.valid(&all, &schema);
        let volatile = loading.volatile(&all);
        let Loading { mut complaints, rules, .. } = loading;
        if !complaints.is_empty() {
            complaints.sort();
            complaints.dedup();
            return Err(Complaints(complaints));
        }
        let of = |kind| {
            let sets = Action::all().map(|action| applicable(&rules, kind, &names, action));
            sets.collect::<Result<Vec<_>, _>>().map_err(internal)
        };
        let (judging, silencing) = (of(Kind::Forbid)?, of(Kind::Permit)?);
        let rules: HashMap<Arc<str>, Rule> =
            rules.into_iter().map(|rule| (rule.id.clone(), rule)).collect();
        let version = version(&all).into();
        let has_masks = rules.values().any(Rule::hides);
        Ok(Self {
            rules,
            judging,
            silencing,
            names,
            world,
            volatile,
            sources: all,
            version,
            has_masks,
        })
    }

    /// By id.
    pub fn rules(&self) -> BTreeMap<&str, &Rule> {
        self.rules.iter().map(|(id, rule)| (&**id, rule)).collect()
    }

    pub fn rule(&self, id: &str) -> Option<&Rule> {
        self.rules.get(id)
    }

    /// Whether some statements need an approval.
    pub fn asks(&self) -> bool {
        let mut rules = self.rules.values();
        rules.any(|rule| match rule.does {
            Does::Judge { verdict, dry_run, .. } => {
                matches!(verdict, Verdict::Hold | Verdict::Ticket) && !dry_run
            }
            Does::Silence(_) => false,
        })
    }

    /// What it was loaded from, the starter packs first.
    pub fn sources(&self) -> &[Source] {
        &self.sources
    }

    /// Those of them that dbwarden doesn't bring along.
    pub fn own_sources(&self) -> impl Iterator<Item = &Source> {
        self.sources.iter().filter(|source| {
            !PACKS.iter().any(|(name, text)| *source.name == **name && *source.text == **text)
        })
    }

    /// SHA-256 over names and texts of its sources, in hexadecimal.
    pub fn version(&self) -> &Arc<str> {
        &self.version
    }

    pub fn world(&self) -> &World {
        &self.world
    }

    /// Whether a verdict depends on when it is asked for.
    pub fn speaks_of_time(&self) -> bool {
        self.volatile.time
    }

    pub(super) fn judging(&self, action: Action) -> Option<&PolicySet> {
        self.judging.get(action.index())
    }

    pub(super) fn silencing(&self, action: Action) -> Option<&PolicySet> {
        self.silencing.get(action.index())
    }
}

fn version(sources: &[Source]) -> String {
    let mut hash = Sha256::new();
    for part in sources.iter().flat_map(|source| [&source.name, &source.text]) {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    hex::encode(hash.finalize())
}

/// Rules of a kind whose scope lets an action in.
fn applicable(
    rules: &[Rule],
    kind: Kind,
    names: &Names,
    asked: Action,
) -> Result<PolicySet, String> {
    let (groups, action) = (asked.groups(), names.action(asked));
    let applies = |constraint: ActionConstraint| match constraint {
        ActionConstraint::Any => true,
        ActionConstraint::Eq(only) => only == *action,
        ActionConstraint::In(some) => {
            some.iter().any(|one| one == action || groups.contains(&one.id().unescaped()))
        }
    };
    // A rule about everything has a verdict on statements; who connects is none.
    let is_about = |rule: &&Rule| {
        rule.policy.effect() == Kind::Permit || rule.guards() == (asked == Action::Connect)
    };
    let policies = rules
        .iter()
        .filter(is_about)
        .map(|rule| &rule.policy)
        .filter(|policy| policy.effect() == kind && applies(policy.action_constraint()));
    PolicySet::from_policies(policies.cloned()).map_err(|error| error.to_string())
}

struct Loading {
    complaints: Vec<Complaint>,
    rules: Vec<Rule>,
    /// Which source each rule is from.
    from: Vec<usize>,
}

impl Loading {
    fn read(&mut self, n: usize, source: &Source, builtin: bool) {
        if let Some(complaint) = too_deep(source) {
            self.complaints.push(complaint);
            return;
        }
        let policies = match source.text.parse::<PolicySet>() {
            Ok(policies) => policies,
            Err(errors) => {
                let complaint = |error| Complaint::of_cedar(source, 0, error);
                self.complaints.extend(errors.iter().map(|error| complaint(error)));
                return;
            }
        };
        for template in policies.templates() {
            let text = template.to_cedar();
            let offset = source.text.find(&text).unwrap_or_default();
            let complaint = Complaint::at(source, offset, "a template stands for no rule");
            self.complaints
                .push(complaint.with_help("put a value where ?principal or ?resource is"));
        }
        let policies: Vec<_> = policies.policies().cloned().collect();
        for (place, policy) in places(source, policies) {
            if self.rules.len() >= MAX_RULES {
                let message = format!("there are more than {MAX_RULES} rules");
                self.complaints.push(Complaint::at(source, place.start, message));
                return;
            }
            let rule = Rule::of_policy(source, place, &policy, builtin, &mut self.complaints);
            if let Some(rule) = rule {
                self.rules.push(rule);
                self.from.push(n);
            }
        }
    }

    /// The rules with the source of each.
    fn each<'a>(&'a self, sources: &'a [Source]) -> impl Iterator<Item = (&'a Rule, &'a Source)> {
        let source = |n: &usize| sources.get(*n);
        self.rules.iter().zip(&self.from).filter_map(move |(rule, n)| Some((rule, source(n)?)))
    }

    fn no_id_twice(&mut self, sources: &[Source]) {
        let mut first: HashMap<&str, &Rule> = HashMap::new();
        let mut complaints = Vec::new();
        for (rule, source) in self.each(sources) {
            if let Some(other) = first.insert(&rule.id, rule) {
                let (file, line) = (&other.file, other.line);
                let message = format!("another rule has the id {:?}: {file}:{line}", rule.id);
                complaints.push(rule.complaint(source, message));
            }
        }
        self.complaints.extend(complaints);
        // Sets can't hold two of them; the first is as good as the other for what else is wrong.
        let mut seen = HashSet::new();
        let kept: Vec<bool> = self.rules.iter().map(|rule| seen.insert(rule.id.clone())).collect();
        let mut keep = kept.iter();
        self.rules.retain(|_| keep.next().copied().unwrap_or(false));
        let mut keep = kept.iter();
        self.from.retain(|_| keep.next().copied().unwrap_or(false));
    }

    /// Who connects is led to the guard or isn't: that verdict is about nothing else, and no other is about that.
    fn verdicts_of_connections(&mut self, sources: &[Source], names: &Names) {
        let connect = names.action(Action::Connect);
        let mut complaints = Vec::new();
        for (rule, source) in self.each(sources) {
            if !matches!(rule.does, Does::Judge { .. }) {
                continue;
            }
            let (is_named, is_alone) = match rule.policy.action_constraint() {
                ActionConstraint::Any => (false, false),
                ActionConstraint::Eq(only) => (only == *connect, only == *connect),
                ActionConstraint::In(some) => {
                    (some.contains(connect), some.iter().all(|one| one == connect))
                }
            };
            if rule.guards() && !is_alone {
                let message = "verdict guard is about clients that connect".into();
                let help = "say action == Action::\"connect\"";
                complaints.push(rule.complaint(source, message).with_help(help));
            }
            if is_named && !rule.guards() {
                let message = "the only verdict about clients that connect is guard".into();
                let help =
                    "@verdict(\"guard\") leads them to the guard, which judges what they say";
                complaints.push(rule.complaint(source, message).with_help(help));
            }
        }
        self.complaints.extend(complaints);
    }

    /// Groups, labels and rules that are spoken of exist.
    fn known_names(&mut self, sources: &[Source], world: &World) {
        let ids: Vec<Arc<str>> = self
            .rules
            .iter()
            .filter(|rule| matches!(rule.does, Does::Judge { .. }))
            .map(|rule| rule.id.clone())
            .collect();
        let labels: Vec<Arc<str>> = world.labels.iter().map(|label| label.name.clone()).collect();
        let mut complaints = Vec::new();
        for (rule, source) in self.each(sources) {
            let mut check = |what: &str, name: &str, known: &[Arc<str>], how: &str| {
                if known.iter().any(|one| **one == *name) {
                    return;
                }
                let hint = did_you_mean(name, known.iter().map(|one| &**one));
                let message = format!("there is no {what} {name:?}{hint}");
                complaints.push(rule.complaint(source, message).with_help(how));
            };
            match &rule.does {
                Does::Judge { approvers, .. } => {
                    for group in &approvers.groups {
                        check("group", group, &world.groups, GROUPS);
                    }
                }
                Does::Silence(rules) => {
                    for id in rules {
                        check("rule", id, &ids, "@silences names rules that forbid, by their @id");
                    }
                }
            }
            for entity in rule.policy.entity_literals() {
                let (kind, id) =
                    (entity.type_name().to_string(), entity.id().unescaped().to_owned());
                match kind.as_str() {
                    "Group" => check("group", &id, &world.groups, GROUPS),
                    "Label" => {
                        check("label", &id, &labels, "labels come from [[label]] in config.toml")
                    }
                    _ => {}
                }
            }
        }
        self.complaints.extend(complaints);
    }

    /// Types, attributes and actions are what the schema has, and each rule can fire.
    fn valid(&mut self, sources: &[Source], schema: &Schema) {
        let policies = self.rules.iter().map(|rule| rule.policy.clone());
        let Ok(set) = PolicySet::from_policies(policies) else { return };
        let result = Validator::new(schema.clone()).validate(&set, ValidationMode::Strict);
        let mut complaints = Vec::new();
        let place = |id: &cedar_policy::PolicyId| {
            let id = id.to_string();
            let mut each = self.each(sources);
            each.find(|(rule, _)| *rule.id == *id).map(|(rule, source)| {
                (source, source.text.split_inclusive('\n').take(rule.line - 1).map(str::len).sum())
            })
        };
        for error in result.validation_errors() {
            if let Some((source, start)) = place(error.policy_id()) {
                let mut complaint = of_validator(source, start, error);
                let mut of_rule =
                    result.validation_errors().filter(|one| one.policy_id() == error.policy_id());
                if of_rule.all(is_of_connections_alone) {
                    complaint.help = Some(STATEMENTS_ALONE.to_owned());
                }
                complaints.push(complaint);
            }
        }
        for warning in result.validation_warnings() {
            // A rule with a name that doesn't exist can't fire either; the name is what to mend.
            if result.validation_errors().any(|error| error.policy_id() == warning.policy_id()) {
                continue;
            }
            let Some((source, start)) = place(warning.policy_id()) else { continue };
            let mut complaint = of_validator(source, start, warning);
            if let ValidationWarning::ImpossiblePolicy(_)
            | ValidationWarning::InvalidActionApplication(_) = warning
            {
                complaint.message =
                    "this rule can never fire: its conditions exclude each other".to_owned();
            }
            complaints.push(complaint);
        }
        self.complaints.extend(complaints);
    }

    fn volatile(&mut self, sources: &[Source]) -> Volatile {
        let mut volatile = Volatile::default();
        let mut complaints = Vec::new();
        for (rule, source) in self.each(sources) {
            let Ok(json) = rule.policy.to_json() else { continue };
            let complaint = match volatile.add(&json) {
                Ok(()) => continue,
                Err(Unbounded::Count(name)) => rule
                    .complaint(
                        source,
                        format!("context.{name} stands in something else than a comparison"),
                    )
                    .with_help("compare it with a number, as in context.rows > 1000"),
                Err(Unbounded::Context) => rule
                    .complaint(source, "context is used as a whole".into())
                    .with_help("take the attributes that are meant, as in context.lane"),
            };
            complaints.push(complaint);
        }
        self.complaints.extend(complaints);
        volatile
    }
}

/// Statements have the attribute.
fn is_of_connections_alone(error: &ValidationError) -> bool {
    let words = error.to_string();
    let mut actions = [Action::ConnectOut, Action::Connect].into_iter();
    matches!(error, ValidationError::UnsafeAttributeAccess(_))
        && actions.any(|action| words.contains(&format!("Action::{:?}", action.name())))
}

const STATEMENTS_ALONE: &str = "a connection has no such attribute; where statements are meant, \
                                say action in Action::\"statement\"";
const GROUPS: &str = "groups come from `groups` of [[principal]] in config.toml";

/// In the validator's words, without the id that the line shows anyway.
fn of_validator(source: &Source, start: usize, error: &dyn miette::Diagnostic) -> Complaint {
    let mut complaint = Complaint::of_cedar(source, start, error);
    if let Some((_, rest)) = complaint.message.split_once("`, ")
        && complaint.message.starts_with("for policy `")
    {
        complaint.message = rest.to_owned();
    }
    complaint
}
