//! What a database has of its own that statements run without naming it, as its catalog said at one moment.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use crate::{event::Access, statement::qualified};

/// Object identifiers below are PostgreSQL's own, and the same everywhere.
pub(in crate::guard) const FIRST_OWN_OID: u32 = 16_384;

/// As the catalog's rows have it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::guard) struct Rows {
    pub relations: Vec<Relation>,
    pub functions: Vec<Function>,
    /// Names of operators, and the functions that they call.
    pub operators: Vec<(String, u32)>,
    /// Functions that run where nobody names them: of casts, of domains.
    pub ambient: Vec<u32>,
    /// Functions of event triggers.
    pub on_definition: Vec<u32>,
    /// Of relations by their numbers.
    pub code: Vec<(u32, Code)>,
    pub children: Vec<(u32, u32)>,
    /// Columns of a key: no two rows have the same in all of them.
    pub keys: Vec<(u32, Vec<String>)>,
    /// In the order of their relations and places; `None` where nobody wants them, or there are too many.
    pub columns: Option<Vec<Column>>,
    /// Views, and the relations that they name.
    pub reads: Vec<(u32, u32)>,
}

/// `pg_attribute`, without what was dropped and what the system adds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::guard) struct Column {
    pub relation: u32,
    pub place: i16,
    pub name: Arc<str>,
    /// Number of its type.
    pub kind: u32,
    /// COPY leaves it out where nobody names it.
    pub is_generated: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(in crate::guard) struct Relation {
    pub oid: u32,
    pub schema: String,
    pub name: String,
    pub kind: Kind,
    /// As it was last analysed.
    pub rows: Option<u64>,
    /// The query of a view.
    pub definition: Option<Arc<str>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::guard) enum Kind {
    Table,
    View,
    MaterializedView,
    Foreign,
    Sequence,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::guard) struct Function {
    pub oid: u32,
    pub schema: String,
    pub name: String,
    /// As PostgreSQL writes it out; `None` where it isn't SQL or PL/pgSQL.
    pub definition: Option<Arc<str>>,
    pub extension: Option<String>,
    /// Fewest and most arguments.
    pub takes: (u16, u16),
    pub is_aggregate: bool,
    /// Functions of somebody's own that an aggregate is made of.
    pub parts: Vec<u32>,
}

/// What runs when a relation is touched.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::guard) struct Code {
    pub on: Events,
    pub what: What,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::guard) enum What {
    /// With its condition, as PostgreSQL writes it out.
    Trigger {
        function: u32,
        definition: Arc<str>,
        is_instead: bool,
    },
    Rule {
        definition: Arc<str>,
        is_instead: bool,
    },
    /// A default, a check, the expression of an index, a policy for rows.
    Expression(Arc<str>),
    /// A foreign key follows there.
    Cascade {
        to: u32,
        access: Access,
    },
}

/// A set of accesses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(in crate::guard) struct Events(u8);

impl Events {
    pub(in crate::guard) const READ: Self = Self(1);
    pub(in crate::guard) const INSERT: Self = Self(2);
    pub(in crate::guard) const UPDATE: Self = Self(4);
    pub(in crate::guard) const DELETE: Self = Self(8);
    pub(in crate::guard) const TRUNCATE: Self = Self(16);

    pub(in crate::guard) fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(in crate::guard) fn of(access: Access) -> Self {
        match access {
            Access::Read | Access::Lock => Self::READ,
            Access::Insert => Self::INSERT,
            Access::Update => Self::UPDATE,
            Access::Delete => Self::DELETE,
            Access::Truncate => Self::TRUNCATE,
            Access::Define | Access::Drop | Access::Grant => Self::default(),
        }
    }

    pub(in crate::guard) fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// `tgtype` of `pg_trigger`.
    pub(in crate::guard) fn of_trigger(bits: i32) -> Self {
        [(4, Self::INSERT), (8, Self::DELETE), (16, Self::UPDATE), (32, Self::TRUNCATE)]
            .into_iter()
            .filter(|(bit, _)| bits & bit != 0)
            .fold(Self::default(), |all, (_, event)| all.and(event))
    }
}

/// [`Rows`] in order: found by name and number.
#[derive(Debug)]
pub(in crate::guard) struct Snapshot {
    rows: Rows,
    database: Arc<str>,
    relations_by_name: HashMap<Arc<str>, Vec<usize>>,
    relations_by_oid: HashMap<u32, usize>,
    functions_by_name: HashMap<Arc<str>, Vec<usize>>,
    functions_by_oid: HashMap<u32, usize>,
    operators: HashMap<Arc<str>, Vec<u32>>,
    code: HashMap<u32, Vec<Code>>,
    children: HashMap<u32, Vec<u32>>,
    keys: HashMap<u32, Vec<Vec<String>>>,
    reads: HashMap<u32, Vec<u32>>,
}

impl Snapshot {
    pub(in crate::guard) fn new(database: &str, mut rows: Rows) -> Self {
        let mut relations_by_name: HashMap<Arc<str>, Vec<usize>> = HashMap::new();
        let mut relations_by_oid = HashMap::new();
        for (place, relation) in rows.relations.iter().enumerate() {
            relations_by_oid.insert(relation.oid, place);
            for name in names(&relation.schema, &relation.name) {
                relations_by_name.entry(name).or_default().push(place);
            }
        }
        let mut functions_by_name: HashMap<Arc<str>, Vec<usize>> = HashMap::new();
        let mut functions_by_oid = HashMap::new();
        for (place, function) in rows.functions.iter().enumerate() {
            functions_by_oid.insert(function.oid, place);
            for name in names(&function.schema, &function.name) {
                functions_by_name.entry(name).or_default().push(place);
            }
        }
        let code = grouped(std::mem::take(&mut rows.code));
        let children = grouped(std::mem::take(&mut rows.children));
        let keys = grouped(std::mem::take(&mut rows.keys));
        let reads = grouped(std::mem::take(&mut rows.reads));
        let mut operators: HashMap<Arc<str>, Vec<u32>> = HashMap::new();
        for (name, function) in std::mem::take(&mut rows.operators) {
            operators.entry(name.into()).or_default().push(function);
        }
        Self {
            rows,
            database: database.into(),
            relations_by_name,
            relations_by_oid,
            functions_by_name,
            functions_by_oid,
            operators,
            code,
            children,
            keys,
            reads,
        }
    }

    pub(in crate::guard) fn database(&self) -> &str {
        &self.database
    }

    pub(in crate::guard) fn all(&self) -> &[Relation] {
        &self.rows.relations
    }

    /// Whether it is known which columns there are.
    pub(in crate::guard) fn has_columns(&self) -> bool {
        self.rows.columns.is_some()
    }

    pub(in crate::guard) fn columns(&self, relation: u32) -> &[Column] {
        let all = self.rows.columns.as_deref().unwrap_or_default();
        let from = all.partition_point(|column| column.relation < relation);
        let rest = all.get(from..).unwrap_or_default();
        let len = rest.partition_point(|column| column.relation == relation);
        rest.get(..len).unwrap_or_default()
    }

    /// What a view names.
    pub(in crate::guard) fn reads(&self, view: u32) -> &[u32] {
        self.reads.get(&view).map(Vec::as_slice).unwrap_or_default()
    }

    /// All that a name may mean, as a statement writes it: without a schema, whatever has that name anywhere.
    pub(in crate::guard) fn relations(&self, written: &str) -> impl Iterator<Item = &Relation> {
        let places = self.relations_by_name.get(self.within(written));
        places.into_iter().flatten().filter_map(|place| self.rows.relations.get(*place))
    }

    pub(in crate::guard) fn relation(&self, oid: u32) -> Option<&Relation> {
        self.relations_by_oid.get(&oid).and_then(|place| self.rows.relations.get(*place))
    }

    pub(in crate::guard) fn functions(&self, written: &str) -> impl Iterator<Item = &Function> {
        let places = self.functions_by_name.get(self.within(written));
        places.into_iter().flatten().filter_map(|place| self.rows.functions.get(*place))
    }

    pub(in crate::guard) fn function(&self, oid: u32) -> Option<&Function> {
        self.functions_by_oid.get(&oid).and_then(|place| self.rows.functions.get(*place))
    }

    /// Functions of the operators by that name.
    pub(in crate::guard) fn operators(&self, name: &str) -> &[u32] {
        self.operators.get(name).map(Vec::as_slice).unwrap_or_default()
    }

    pub(in crate::guard) fn code(&self, relation: u32) -> &[Code] {
        self.code.get(&relation).map(Vec::as_slice).unwrap_or_default()
    }

    /// Partitions, and tables that inherit.
    pub(in crate::guard) fn children(&self, relation: u32) -> &[u32] {
        self.children.get(&relation).map(Vec::as_slice).unwrap_or_default()
    }

    pub(in crate::guard) fn keys(&self, relation: u32) -> &[Vec<String>] {
        self.keys.get(&relation).map(Vec::as_slice).unwrap_or_default()
    }

    pub(in crate::guard) fn ambient(&self) -> &[u32] {
        &self.rows.ambient
    }

    pub(in crate::guard) fn on_definition(&self) -> &[u32] {
        &self.rows.on_definition
    }

    /// With all that inherits from it; `None` where part of it was never analysed.
    pub(in crate::guard) fn count(&self, relation: u32) -> Option<u64> {
        let children = self.children(relation);
        let own = self.relation(relation)?.rows;
        if children.is_empty() {
            return own;
        }
        let counts = children.iter().filter(|child| **child != relation);
        counts.map(|child| self.count(*child)).try_fold(own.unwrap_or(0), |all, n| Some(all + n?))
    }

    /// `database.schema.name` without the database.
    fn within<'w>(&self, written: &'w str) -> &'w str {
        match written.matches('.').count() {
            0 | 1 => written,
            _ => written
                .strip_prefix(&*self.database)
                .and_then(|rest| rest.strip_prefix('.'))
                .unwrap_or(written),
        }
    }
}

impl Rows {
    /// The same for two that say the same of code.
    pub(in crate::guard) fn print(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for Relation { oid, schema, name, kind, rows, definition } in &self.relations {
            (oid, schema, name, kind, definition).hash(&mut hasher);
            rows.hash(&mut hasher);
        }
        (&self.functions, &self.operators, &self.ambient, &self.on_definition).hash(&mut hasher);
        (&self.code, &self.children, &self.keys).hash(&mut hasher);
        (&self.columns, &self.reads).hash(&mut hasher);
        hasher.finish()
    }
}

/// As it may be written, with its schema and without.
fn names(schema: &str, name: &str) -> [Arc<str>; 2] {
    [qualified([schema, name].into_iter()), qualified([name].into_iter())]
}

fn grouped<T>(pairs: Vec<(u32, T)>) -> HashMap<u32, Vec<T>> {
    let mut groups: HashMap<u32, Vec<T>> = HashMap::new();
    for (of, one) in pairs {
        groups.entry(of).or_default().push(one);
    }
    groups
}
