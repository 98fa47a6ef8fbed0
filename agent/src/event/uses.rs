//! Where the columns go that a statement names, as its text tells.
//!
//! Whose they are only a catalog can say: here stand the names, in the order in which they are looked up.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::origin::named;

/// Of one statement. Queries name each other by their places in `queries`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uses {
    pub queries: Vec<Query>,
    /// Queries that the statement consists of, and what becomes of their rows.
    pub top: Vec<(usize, Rows)>,
    /// The relation of a `COPY … TO`, and the columns that it names.
    pub copied: Option<(Arc<str>, Vec<Arc<str>>)>,
    /// Definitions that it changes.
    pub changes: Vec<Change>,
    /// Relations that it makes for this session alone.
    pub temporary: Vec<Arc<str>>,
    /// Queries that only write within the server.
    pub aside: Vec<usize>,
    /// Relations that it makes of a query's rows.
    pub creates: Vec<Create>,
    /// Code in PL/pgSQL that it runs.
    pub does: Vec<Arc<str>>,
    /// Statements by name that it executes.
    pub executes: Vec<Arc<str>>,
    /// It shows what there is, and changes, locks and keeps nothing.
    pub only_reads: bool,
    /// All of it is here. Where not, any column may go anywhere.
    pub is_whole: bool,
    /// Other literals could mean other uses.
    pub is_literal_sensitive: bool,
}

impl Default for Uses {
    fn default() -> Self {
        Self {
            queries: Vec::new(),
            top: Vec::new(),
            copied: None,
            changes: Vec::new(),
            temporary: Vec::new(),
            aside: Vec::new(),
            creates: Vec::new(),
            does: Vec::new(),
            executes: Vec::new(),
            only_reads: false,
            is_whole: true,
            is_literal_sensitive: false,
        }
    }
}

impl Uses {
    /// Of what nobody understands.
    pub fn unknown() -> Self {
        Self { is_whole: false, is_literal_sensitive: true, ..Self::default() }
    }
}

/// What becomes of the rows of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rows {
    /// The client gets them, with the origin of each column.
    Answered,
    /// The client gets them, without.
    Copied,
    Flow(Sink),
}

/// A relation that is made of a query's rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Create {
    pub relation: Arc<str>,
    /// Names for its columns, from the first on.
    pub columns: Vec<Arc<str>>,
    pub query: usize,
    pub is_temporary: bool,
    /// It is gone with the transaction.
    pub is_dropped: bool,
}

/// A relation of whose definition something is changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    pub relation: Arc<str>,
    /// What it names of its columns; `None` where it concerns the relation as a whole.
    pub columns: Option<Vec<Arc<str>>>,
}

/// A `SELECT`, or a statement that writes with what it returns.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Query {
    pub with: Vec<Cte>,
    pub from: Vec<Source>,
    /// Its columns, in their order.
    pub outputs: Vec<Output>,
    pub flows: Vec<(Sink, Mix)>,
    /// What is said by name or place of the outputs.
    pub by_output: Vec<ByOutput>,
    pub merges: Vec<Merge>,
    /// Of a set operation.
    pub sides: Vec<usize>,
    pub is_distinct: bool,
    pub writes: Vec<Write>,
}

/// Columns of a relation that get something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Write {
    pub relation: Arc<str>,
    /// None where they are the relation's own, from the first on.
    pub columns: Vec<Arc<str>>,
    pub values: Values,
}

/// What is written, column by column.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Values {
    /// The rows of a query.
    Rows(usize),
    Outputs(Vec<Output>),
}

/// A common table expression.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cte {
    pub query: usize,
    /// Names for its columns, from the first on.
    pub columns: Vec<Arc<str>>,
    /// Columns after those, in which there may be something of each of them.
    pub extra: Vec<Arc<str>>,
}

/// Something that a `FROM` names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    pub of: Of,
    /// Empty where it has none.
    pub alias: Arc<str>,
    /// Names for its columns, from the first on.
    pub columns: Vec<Arc<str>>,
    /// `*` doesn't mean it.
    pub is_hidden: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Of {
    /// As written.
    Relation(Arc<str>),
    Query(usize),
    /// One that sees what stands before it.
    Lateral(usize),
    /// A function's rows, or the like.
    Computed(Mix),
    /// Several of this `FROM`, under one name.
    Joined(Vec<usize>),
    /// The rows of a query that were to be inserted, under the names of the columns that they are for.
    Given {
        rows: usize,
        relation: Arc<str>,
        columns: Vec<Arc<str>>,
    },
}

/// What goes into something that is computed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mix {
    pub of: Vec<Reference>,
    pub inner: Vec<Inner>,
}

impl Mix {
    pub fn is_empty(&self) -> bool {
        self.of.is_empty() && self.inner.is_empty()
    }
}

/// A query in an expression.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inner {
    pub query: usize,
    /// Its values matter, and not only whether it has any.
    pub is_read: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    /// The alias before the column; without its schema.
    pub of: Option<Arc<str>>,
    /// `None` for `*`.
    pub column: Option<Arc<str>>,
    /// `None` where nothing else could stand in its place.
    pub spot: Option<Spot>,
}

impl Reference {
    pub fn in_form(self, form: Form) -> Self {
        Self { spot: self.spot.map(|spot| Spot { form, ..spot }), ..self }
    }
}

/// Where something stands in its text, and in that of each other text which differs in literals only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Spot {
    /// Which of the tokens that say something begins it.
    pub token: u32,
    /// Names with a dot between each two.
    pub parts: u16,
    pub form: Form,
}

/// What else a reference does where it stands than to be a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Form {
    Value,
    /// It is a result, which is called after it.
    Result,
    /// A result that is made from it is called after it.
    Namesake,
    /// It is the number of a result.
    Place,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Output {
    /// `*`, or that of an alias.
    Star(Option<Arc<str>>),
    /// As it is.
    Plain { name: Arc<str>, of: Reference },
    /// `None` where PostgreSQL makes the name.
    Computed { name: Option<Arc<str>>, of: Mix },
}

/// `ORDER BY 1`, `GROUP BY name`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ByOutput {
    pub sink: Sink,
    pub by: By,
    pub spot: Option<Spot>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum By {
    /// From 1.
    Place(usize),
    Name(Arc<str>),
}

/// A join of columns with the same name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Merge {
    /// `None` for all that both sides have.
    pub names: Option<Vec<Arc<str>>>,
    /// Places in the `FROM`.
    pub left: Vec<usize>,
    pub right: Vec<usize>,
}

named! {
    /// What a column goes into that isn't followed any further.
    Sink {
        Expression = "an expression",
        Call = "the arguments of a call",
        Predicate = "a predicate",
        Join = "the condition of a join",
        Grouping = "a grouping",
        Ordering = "an ordering",
        Distinct = "DISTINCT",
        Window = "a window",
        Limit = "a limit",
        SetOperation = "a set operation",
        Write = "what is written",
        Row = "a whole row",
    }
}
