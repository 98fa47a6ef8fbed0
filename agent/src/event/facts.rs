//! What a statement does, as its text tells.

use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{CopyForm, origin::named};

/// Among the names: values are converted, or may be, and what casts and types do with them may be code.
pub const CONVERTS: &str = "::";
/// Among the names: expressions that are kept with its tables, or with all, are computed for rows that are there.
pub const COMPUTES: &str = "()";

/// Made once for a text (or for all texts that differ in harmless literals only), and shared.
///
/// (De)serialised only between the service and the process that parses; a record has fields of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// The text with `?` for each literal; secrets are never in it.
    pub text: Arc<str>,
    /// The same for texts that differ only in literals and in how they are written.
    pub fingerprint: u64,
    /// OpenTelemetry's `db.query.summary`, as in `SELECT songs artists`.
    pub summary: Arc<str>,
    pub effects: Effects,
    /// Sorted by name, then by access; each pair once. Names as written, schema-qualified where the
    /// text does so.
    pub tables: Vec<TableAccess>,
    /// Columns that the text names, as in `customers.email`, or `email` where it can't be told whose.
    pub columns: Vec<Arc<str>>,
    /// Functions that the text calls, by name as written.
    pub functions: Vec<Arc<str>>,
    /// Of functions, procedures and operators that the text calls, or keeps to be called later: those whose
    /// definition alone tells what they do. By name as written; `?` where there is none, as in `DO`.
    pub calls: Vec<Arc<str>>,
    /// What is written without a schema and runs code where a database has some by that name: operators,
    /// and with a dot before it what may be a column or a function, as in `t.f` for `f(t)`. Also [`CONVERTS`]
    /// and [`COMPUTES`].
    pub names: Vec<Arc<str>>,
    /// What stands out in it beside its effects.
    pub traits: Vec<Trait>,
    /// Settings that the text changes, in lower case; `all` where it resets every one, `*` where only
    /// running it tells which.
    pub settings: Vec<Arc<str>>,
    /// Equalities that every row which the statement touches must fulfil.
    pub keys: Vec<KeyPredicate>,
    /// Whether a condition limits what an UPDATE or DELETE touches; `None` for other statements.
    pub restricted: Option<bool>,
    /// Of a COPY to the client, how it writes its rows; `None` where that can't be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copy: Option<Box<CopyForm>>,
    pub analysis: Analysis,
}

impl Facts {
    /// Relations, functions, or what else a database keeps under a name.
    pub fn names_anything(&self) -> bool {
        !(self.tables.is_empty() && self.functions.is_empty() && self.names.is_empty())
    }

    /// The same, of what is given values of types of somebody's own.
    pub fn converting(&self) -> Self {
        let mut facts = self.clone();
        facts.names.push(CONVERTS.into());
        facts
    }

    /// Of what names nothing and does nothing.
    pub fn nothing(analysis: Analysis) -> Self {
        Self {
            text: Arc::default(),
            fingerprint: 0,
            summary: Arc::default(),
            effects: Effects::default(),
            tables: Vec::new(),
            columns: Vec::new(),
            functions: Vec::new(),
            calls: Vec::new(),
            names: Vec::new(),
            traits: Vec::new(),
            settings: Vec::new(),
            keys: Vec::new(),
            restricted: None,
            copy: None,
            analysis,
        }
    }

    /// The fingerprint as it is written out: sixteen hexadecimal digits.
    pub fn fingerprint_text(&self) -> String {
        format!("{:016x}", self.fingerprint)
    }

    /// The facts in a database that has functions and operators of its own by these names (and with a dot
    /// before it each that one argument is enough for): `None` where they are the same.
    ///
    /// One that fits its arguments better is taken before PostgreSQL's own, wherever in the path it stands.
    pub fn among(&self, is_foreign: impl Fn(&str) -> bool) -> Option<Self> {
        let called = self.functions.iter().filter(|name| !name.contains('.'));
        let foreign: Vec<Arc<str>> =
            called.chain(&self.names).filter(|name| is_foreign(name)).cloned().collect();
        if foreign.iter().all(|name| self.calls.contains(name)) {
            return None;
        }
        let mut facts = self.clone();
        facts.calls.extend(foreign);
        facts.calls.sort_unstable();
        facts.calls.dedup();
        facts.effects.insert(Effect::Call);
        facts.analysis = facts.analysis.max(Analysis::CallsCode);
        Some(facts)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TableAccess {
    pub name: Arc<str>,
    pub access: Access,
}

named! {
    /// What is done to a relation.
    #[derive(PartialOrd, Ord, Hash)]
    Access {
        Read = "read",
        Insert = "insert",
        Update = "update",
        Delete = "delete",
        Truncate = "truncate",
        Define = "define",
        Drop = "drop",
        Grant = "grant",
        Lock = "lock",
    }
}

/// `column = value` of a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyPredicate {
    pub table: Arc<str>,
    pub column: Arc<str>,
    pub value: KeyValue,
}

/// What a key is compared with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeyValue {
    /// The nth literal of the text, from 0, in the order in which they stand in it.
    Literal(usize),
    /// The nth bind parameter, from 1.
    Parameter(usize),
}

named! {
    /// One of the things that a statement can do: a closed list.
    #[derive(PartialOrd, Ord, Hash)]
    Effect {
        Read = "read",
        Insert = "insert",
        Update = "update",
        Delete = "delete",
        Truncate = "truncate",
        Define = "define",
        Drop = "drop",
        Grant = "grant",
        Configure = "configure",
        CopyOut = "copy-out",
        CopyIn = "copy-in",
        /// Runs a program or touches a file on the database's host.
        Program = "program",
        Lock = "lock",
        Session = "session",
        /// Speaks the replication protocol: the database's whole content can leave that way.
        Replicate = "replicate",
        Call = "call",
        /// It can't be told: the worst effect.
        Unknown = "unknown",
    }
}

named! {
    /// Something that an effect is too coarse to tell: a closed list.
    #[derive(PartialOrd, Ord, Hash)]
    Trait {
        /// Leaves code in the database that later statements run without naming it.
        Code = "code",
        /// Loads a library into the server, or defines a language.
        Native = "native",
        Extension = "extension",
        ServerProgram = "server-program",
        ServerFile = "server-file",
        LargeObjectFile = "large-object-file",
        LargeObjectDrop = "large-object-drop",
        /// Configures the server, a database or a role beyond this session.
        LastingSetting = "lasting-setting",
        /// Changes what the database's own log or audit says.
        AuditSetting = "audit-setting",
        /// Switches off something that keeps data whole or people out.
        SafetySetting = "safety-setting",
        /// Changes how the server reads the text of later statements.
        ReadingSetting = "reading-setting",
        /// Names of what PostgreSQL brings may mean something else from now on.
        SearchPath = "search-path",
        RoleSwitch = "role-switch",
        /// Leaves what was opened as read only.
        ReadWrite = "read-write",
        /// Ends other sessions or their statements.
        SessionKill = "session-kill",
        /// Acts on the server as a whole: its logs, its statistics, its backups.
        ServerControl = "server-control",
        /// Reaches for another server.
        OtherServer = "other-server",
        /// Changes PostgreSQL's own catalog by hand.
        CatalogWrite = "catalog-write",
        /// Takes values or rows out of a table by changing the table.
        DataLoss = "data-loss",
    }
}

/// A set of effects; written out as a list in the order of [`Effect::ALL`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Effects(u32);

impl Effects {
    pub fn insert(&mut self, effect: Effect) {
        self.0 |= 1 << effect as u32;
    }

    pub fn contains(self, effect: Effect) -> bool {
        self.0 & 1 << effect as u32 != 0
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub fn iter(self) -> impl Iterator<Item = Effect> {
        Effect::ALL.iter().copied().filter(move |effect| self.contains(*effect))
    }
}

impl FromIterator<Effect> for Effects {
    fn from_iter<T: IntoIterator<Item = Effect>>(effects: T) -> Self {
        let mut set = Self::default();
        effects.into_iter().for_each(|effect| set.insert(effect));
        set
    }
}

impl Serialize for Effects {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl<'de> Deserialize<'de> for Effects {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Vec::deserialize(deserializer)?.into_iter().collect())
    }
}

named! {
    /// Whether the facts are all there is to know, or why not; the worst reason is told.
    #[derive(PartialOrd, Ord, Hash)]
    Analysis {
        Complete = "complete",
        /// A function, procedure or block does what only its definition tells.
        CallsCode = "calls-code",
        /// Nested deeper than is looked at.
        TooDeep = "too-deep",
        /// Longer than is looked at, or captured in part.
        TooLong = "too-long",
        /// PostgreSQL's grammar doesn't know it.
        SyntaxError = "syntax-error",
        /// The grammar knows it; the analysis doesn't.
        UnknownSyntax = "unknown-syntax",
        /// It isn't known how the server reads the backslashes in it, and that makes a difference.
        AmbiguousText = "ambiguous-text",
        /// The text was never seen.
        NoText = "no-text",
        /// The process that parses did not answer.
        Unavailable = "unavailable",
    }
}

impl Analysis {
    pub fn is_complete(self) -> bool {
        self == Self::Complete
    }
}
