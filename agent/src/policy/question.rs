//! One statement or connection as Cedar is asked about it: its requests, and everything that they can speak of.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use cedar_policy::{
    Context, Entities, Entity, EntityId, EntityTypeName, EntityUid, Request,
    RestrictedExpression as Value,
};

use super::{
    Action, Caller, Label, World,
    label::{TableName, Touched},
    region::wider,
    schema::Names,
};
use crate::event::{
    Access, Analysis, ClaimTag, Destination, Effect, Effects, Facts, Lane, PrincipalKind, Remote,
    WallTime,
};

/// What is different from one execution to the next.
#[derive(Clone, Copy, Debug, Default)]
pub struct Circumstances<'a> {
    pub time: WallTime,
    /// Read or changed; `None` where the statement has not ended or nobody counted.
    pub rows: Option<u64>,
    /// Names and values, each name once.
    pub claims: &'a [ClaimTag],
    /// Before it runs; `None` where nobody has asked the planner, or that has not answered.
    pub estimate: Option<Estimate>,
}

/// What the planner expects a statement to change or remove of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Estimate {
    /// `u64::MAX` where nobody knows how many there are.
    pub rows: u64,
    /// Of all that the table has, where that is known.
    pub percent: Option<u8>,
    /// More than the configuration takes for ordinary.
    pub is_bulk: bool,
    /// Nobody can say, so these are all that there are.
    pub is_worst: bool,
}

impl Estimate {
    /// `None` where nobody knows how many there are.
    pub fn known_rows(self) -> Option<u64> {
        Some(self.rows).filter(|rows| *rows != u64::MAX)
    }
}

/// Everything that a verdict may depend on.
#[derive(Clone, Copy, Debug)]
pub struct Case<'a> {
    pub caller: &'a Caller,
    pub subject: Subject<'a>,
    pub circumstances: Circumstances<'a>,
}

/// What is to be judged.
#[derive(Clone, Copy, Debug)]
pub enum Subject<'a> {
    /// A statement of the caller's; `None` where nobody saw the text.
    Statement(Option<&'a Facts>),
    /// A connection that a process opens which works for the caller. Only the time counts of its circumstances.
    Outbound(&'a Destination),
    /// The caller's own connection to its server, before anything is said on it. Only the time counts.
    Connect,
}

impl<'a> Case<'a> {
    fn facts(&self) -> Option<&'a Facts> {
        match self.subject {
            Subject::Statement(facts) => facts,
            Subject::Outbound(_) | Subject::Connect => None,
        }
    }

    /// The lane that the caller is in; nobody is in one who is about to connect.
    fn lane_before(&self) -> Lane {
        match self.subject {
            Subject::Connect => Lane::Observed,
            Subject::Statement(_) | Subject::Outbound(_) => self.caller.lane,
        }
    }

    /// What can be done about it: nothing stands between a database and what it connects to.
    pub(super) fn lane(&self) -> Lane {
        match self.subject {
            Subject::Statement(_) => self.caller.lane,
            Subject::Outbound(_) | Subject::Connect => Lane::Observed,
        }
    }
}

/// Cedar could not be asked; no case that this program makes is known to do that.
#[derive(Debug, thiserror::Error)]
#[error("policies can't be asked: {0}")]
pub struct Unaskable(String);

impl Unaskable {
    fn of(error: impl std::fmt::Display) -> Self {
        Self(error.to_string())
    }
}

/// The requests of a case.
pub(super) struct Question {
    pub requests: Vec<(Action, Request)>,
    pub entities: Entities,
}

impl Question {
    pub(super) fn new(case: &Case<'_>, world: &World, names: &Names) -> Result<Self, Unaskable> {
        let mut making = Making { case, world, names, entities: Vec::new(), seen: HashSet::new() };
        let principal = making.principal()?;
        let context = making.context()?;
        let asked = match case.subject {
            Subject::Statement(facts) => making.suffered(facts)?,
            Subject::Outbound(_) => vec![(Action::ConnectOut, making.origin()?)],
            Subject::Connect => vec![(Action::Connect, making.server()?)],
        };
        let mut requests = Vec::with_capacity(asked.len());
        for (action, resource) in asked {
            let named = names.action(action).clone();
            let request = Request::new(principal.clone(), named, resource, context.clone(), None);
            requests.push((action, request.map_err(Unaskable::of)?));
        }
        let entities = making.entities;
        let entities =
            names.hierarchy.clone().add_entities(entities, None).map_err(Unaskable::of)?;
        Ok(Self { requests, entities })
    }
}

/// A statement that nobody saw, or whose analysis found nothing before it gave up, may do anything.
fn effects(facts: Option<&Facts>) -> Effects {
    match facts {
        Some(facts) if facts.analysis.is_complete() || !facts.effects.is_empty() => facts.effects,
        _ => Effects::from_iter([Effect::Unknown]),
    }
}

/// The tables that suffer an effect, each once.
fn tables(effect: Effect, facts: Option<&Facts>) -> BTreeSet<&str> {
    let access = match effect {
        Effect::Read | Effect::CopyOut => Access::Read,
        Effect::Insert | Effect::CopyIn => Access::Insert,
        Effect::Update => Access::Update,
        Effect::Delete => Access::Delete,
        Effect::Truncate => Access::Truncate,
        Effect::Define => Access::Define,
        Effect::Drop => Access::Drop,
        Effect::Grant => Access::Grant,
        Effect::Lock => Access::Lock,
        _ => return BTreeSet::new(),
    };
    let tables = facts.into_iter().flat_map(|facts| &facts.tables);
    tables.filter(|table| table.access == access).map(|table| &*table.name).collect()
}

struct Making<'a> {
    case: &'a Case<'a>,
    world: &'a World,
    names: &'a Names,
    entities: Vec<Entity>,
    seen: HashSet<EntityUid>,
}

impl Making<'_> {
    fn add(
        &mut self,
        uid: EntityUid,
        attributes: HashMap<String, Value>,
        parents: HashSet<EntityUid>,
    ) -> Result<(), Unaskable> {
        if self.seen.insert(uid.clone()) {
            let entity = Entity::new(uid, attributes, parents).map_err(Unaskable::of)?;
            self.entities.push(entity);
        }
        Ok(())
    }

    fn principal(&mut self) -> Result<EntityUid, Unaskable> {
        let caller = self.case.caller;
        let kind = match caller.kind {
            PrincipalKind::Human => &self.names.human,
            PrincipalKind::Service => &self.names.service,
            PrincipalKind::Ai => &self.names.ai,
            PrincipalKind::Unknown => &self.names.unknown,
        };
        let id = uid(kind, &caller.name);
        let mut attributes = Record::default();
        attributes.text("name", Some(&caller.name));
        attributes.text("initiator", caller.initiator.as_ref());
        attributes.text("os_user", caller.os_user.as_ref());
        attributes.text("login_user", caller.login_user.as_ref());
        attributes.text("exe", caller.exe.as_ref());
        attributes.text("unit", caller.unit.as_ref());
        attributes.text("container", caller.container.as_ref());
        attributes.text("pod", caller.pod.as_ref());
        let groups = caller.groups.iter().map(|group| uid(&self.names.group, group)).collect();
        self.add(id.clone(), attributes.0, groups)?;
        Ok(id)
    }

    /// What a statement does, each with what suffers it.
    fn suffered(&mut self, facts: Option<&Facts>) -> Result<Vec<(Action, EntityUid)>, Unaskable> {
        let database = self.database()?;
        let mut asked = Vec::new();
        for effect in effects(facts).iter() {
            let tables = tables(effect, facts);
            if tables.is_empty() {
                asked.push((Action::Effect(effect), database.clone()));
            }
            for table in tables {
                asked.push((Action::Effect(effect), self.table(table, &database)?));
            }
        }
        Ok(asked)
    }

    /// What a connection comes out of: the database where it is known, else the server.
    fn origin(&mut self) -> Result<EntityUid, Unaskable> {
        match self.case.caller.database {
            Some(_) => self.database(),
            None => self.server(),
        }
    }

    fn context(&mut self) -> Result<Context, Unaskable> {
        let Case { caller, circumstances, .. } = self.case;
        let claims = uid(&self.names.claims, "");
        let said = match self.case.subject {
            Subject::Connect => &[][..],
            _ => circumstances.claims,
        };
        let tags =
            said.iter().map(|tag| (tag.name.to_string(), Value::new_string(tag.value.to_string())));
        let entity = Entity::new_with_tags(claims.clone(), [], [], tags);
        self.entities.push(entity.map_err(Unaskable::of)?);

        let mut context = Record::default();
        match self.case.subject {
            Subject::Statement(facts) => {
                context.statement(facts);
                if let Some(rows) = circumstances.rows {
                    context.put("rows", Value::new_long(i64::try_from(rows).unwrap_or(i64::MAX)));
                }
                if let Some(estimate) = circumstances.estimate {
                    context.estimate(estimate);
                }
            }
            Subject::Outbound(destination) => context.outbound(destination),
            Subject::Connect => {}
        }
        context.text("environment", caller.environment.as_ref());
        context.text("region", caller.region.as_ref());
        context.text("engine", caller.engine.map(|engine| engine.name()));
        if let Some(address) = caller.client_address {
            context.address("client_address", address);
        }
        context.regions("client_regions", caller.client_region.as_deref());
        // What a client has yet to say can't decide which way it goes, though somebody may know it already.
        let is_connecting = matches!(self.case.subject, Subject::Connect);
        context.text("lane", Some(self.case.lane_before().name()));
        context.put("past_guard", Value::new_bool(caller.past_guard && !is_connecting));
        if !is_connecting {
            context.said(caller);
        }
        context.put("claims", Value::new_entity_uid(claims));
        let (hour, weekday) = clock(circumstances.time);
        context.put("hour", Value::new_long(hour));
        context.put("weekday", Value::new_long(weekday));
        Context::from_pairs(context.0).map_err(Unaskable::of)
    }

    fn server(&mut self) -> Result<EntityUid, Unaskable> {
        let name = shown(&self.case.caller.server);
        let id = uid(&self.names.server, name);
        let world = self.world;
        let mut attributes = Record::default();
        attributes.text("name", Some(name));
        attributes.labels(&world.labels_in(None));
        self.add(id.clone(), attributes.0, HashSet::new())?;
        Ok(id)
    }

    fn database(&mut self) -> Result<EntityUid, Unaskable> {
        let server_uid = self.server()?;
        let caller = self.case.caller;
        let (server, database) = (shown(&caller.server), shown(&caller.database));
        let id = uid(&self.names.database, &format!("{server}/{database}"));
        let world = self.world;
        let labels = world.labels_in(caller.database.as_deref());
        let mut attributes = Record::default();
        attributes.text("name", Some(database));
        attributes.text("server", Some(server));
        let parents = HashSet::from([server_uid]);
        attributes.labels(&labels);
        self.add(id.clone(), attributes.0, parents)?;
        Ok(id)
    }

    fn table(&mut self, written: &str, database: &EntityUid) -> Result<EntityUid, Unaskable> {
        let caller = self.case.caller;
        let name = TableName::new(written, caller.database.as_deref());
        let touched = Touched::by(self.case.facts(), written, &name);
        let (server, database_name) = (shown(&caller.server), name.database.unwrap_or("?"));
        let path = match name.schema {
            Some(schema) => format!("{server}/{database_name}/{schema}.{}", name.table),
            None => format!("{server}/{database_name}/{}", name.table),
        };
        let id = uid(&self.names.table, &path);
        let world = self.world;
        let labels = world.labels_on(&name, &touched);
        let mut attributes = Record::default();
        attributes.text("name", Some(name.table));
        attributes.text("schema", name.schema);
        match &touched {
            Touched::All => attributes.set("columns", ["*"].into_iter()),
            Touched::Named(columns) => attributes.set("columns", columns.iter().map(|c| &**c)),
        }
        attributes.labels(&labels);
        let mut parents: HashSet<EntityUid> =
            labels.iter().map(|label| uid(&self.names.label, &label.name)).collect();
        parents.insert(database.clone());
        self.add(id.clone(), attributes.0, parents)?;
        Ok(id)
    }
}

/// Attributes that are there.
#[derive(Default)]
struct Record(HashMap<String, Value>);

impl Record {
    fn put(&mut self, name: &str, value: Value) {
        self.0.insert(name.to_owned(), value);
    }

    fn text(&mut self, name: &str, value: Option<impl AsRef<str>>) {
        if let Some(value) = value {
            self.put(name, Value::new_string(value.as_ref().to_owned()));
        }
    }

    fn set<'a>(&mut self, name: &str, values: impl Iterator<Item = &'a str>) {
        let values = values.map(|value| Value::new_string(value.to_owned()));
        self.put(name, Value::new_set(values));
    }

    fn address(&mut self, name: &str, address: IpAddr) {
        self.put(name, Value::new_ip(address.to_canonical().to_string()));
    }

    fn regions(&mut self, name: &str, region: Option<&str>) {
        self.set(name, region.map(wider).into_iter().flatten());
    }

    fn statement(&mut self, facts: Option<&Facts>) {
        self.set("effects", effects(facts).iter().map(Effect::name));
        if let Some(restricted) = facts.and_then(|facts| facts.restricted) {
            self.put("restricted", Value::new_bool(restricted));
        }
        let analysis = facts.map_or(Analysis::NoText, |facts| facts.analysis);
        self.text("analysis", Some(analysis.name()));
        let functions = facts.map_or(&[][..], |facts| &facts.functions);
        self.set("functions", functions.iter().map(|name| &**name));
        let calls = facts.map_or(&[][..], |facts| &facts.calls);
        self.set("calls", calls.iter().map(|name| &**name));
        let traits = facts.map_or(&[][..], |facts| &facts.traits);
        self.set("traits", traits.iter().map(|one| one.name()));
        let settings = facts.map_or(&[][..], |facts| &facts.settings);
        self.set("settings", settings.iter().map(|name| &**name));
    }

    /// What is known once a client has spoken, and how it came.
    fn said(&mut self, caller: &Caller) {
        self.text("transport", caller.transport.map(|transport| transport.name()));
        self.text("db_user", caller.db_user.as_ref());
        self.text("pooler", caller.pooler.as_ref());
        self.text("application", caller.application.as_ref());
    }

    fn estimate(&mut self, Estimate { rows, percent, is_bulk, .. }: Estimate) {
        let rows = i64::try_from(rows).unwrap_or(i64::MAX);
        self.put("estimated_rows", Value::new_long(rows));
        if let Some(percent) = percent {
            self.put("estimated_percent", Value::new_long(percent.into()));
        }
        self.put("bulk", Value::new_bool(is_bulk));
    }

    fn outbound(&mut self, destination: &Destination) {
        let Destination { to, region, server, program, by_server } = destination;
        match to {
            Remote::Ip(address, port) => {
                self.address("address", *address);
                self.put("port", Value::new_long((*port).into()));
            }
            Remote::Unix(path) => self.text("path", path.as_ref()),
        }
        self.regions("destination_regions", region.as_deref());
        self.text("destination_server", server.as_ref());
        self.text("program", program.as_ref());
        self.put("by_server", Value::new_bool(*by_server));
    }

    fn labels(&mut self, labels: &[&Label]) {
        self.set("labels", labels.iter().map(|label| &*label.name));
        self.set("residency", labels.iter().filter_map(|label| label.residency()));
    }
}

fn uid(kind: &EntityTypeName, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(id))
}

fn shown(name: &Option<Arc<str>>) -> &str {
    name.as_deref().unwrap_or("?")
}

/// Hour, and weekday from 1 (Monday), in UTC.
pub(super) fn clock(time: WallTime) -> (i64, i64) {
    const HOUR_US: i64 = 3_600_000_000;
    let hours = time.0.div_euclid(HOUR_US);
    // 1970 began on a Thursday.
    (hours.rem_euclid(24), (hours.div_euclid(24) + 3).rem_euclid(7) + 1)
}
