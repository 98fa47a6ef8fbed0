//! Which rows somebody wants: the same words on every command line, as conditions on the columns.

use datafusion::{
    functions::core::expr_fn::coalesce,
    logical_expr::{Expr, ident, lit},
};
use serde::{Deserialize, Serialize};

use super::{
    SearchError,
    expression::{has_any, has_text, time_literal, touches},
};
use crate::event::{Access, Effect, WallTime};

/// All that are given must hold. Names are compared whole unless it says otherwise.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Filter {
    /// The first moment that counts.
    pub since: Option<WallTime>,
    /// The first moment that doesn't.
    pub until: Option<WallTime>,
    /// Each of them must stand somewhere in the statement's text, in any case; but for the id of an approval, which
    /// the statement has needed.
    pub text: Vec<String>,
    /// Part of who is verified to have sent it, in any case.
    pub who: Option<String>,
    /// `human`, `service`, `ai` or `unknown`.
    pub kind: Option<String>,
    pub server: Option<String>,
    pub database: Option<String>,
    /// Database user.
    pub user: Option<String>,
    /// With its schema or, for a table of any schema, without; in any case.
    pub table: Option<String>,
    /// One of them is enough. Together with `table`: one of them is done to that table.
    pub effects: Vec<EffectWord>,
    pub verdict: Option<String>,
    /// By its id.
    pub rule: Option<String>,
    /// This many rows were read or changed, or more.
    pub min_rows: Option<u64>,
    /// Only statements that failed.
    pub errors: bool,
    pub fingerprint: Option<String>,
    pub connection: Option<String>,
    /// `TABLE.COLUMN=VALUE` of a row that was touched.
    pub touched: Option<Touched>,
    /// Rows that were recorded from this moment on, whenever they happened: what following asks.
    pub recorded_since: Option<WallTime>,
}

/// An effect, or `write` for each that changes rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum EffectWord {
    One(Effect),
    Write,
}

/// Changes rows that are there, or makes some.
pub const WRITES: [Effect; 5] =
    [Effect::Insert, Effect::Update, Effect::Delete, Effect::Truncate, Effect::CopyIn];

/// A row, as somebody names it who knows its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Touched {
    /// `table.column`
    pub column: String,
    pub value: String,
}

/// The keyed hash of a value in a column, as it stands in the ledger's `keys`: `(column, value)`.
pub type HashKey = dyn Fn(&str, &str) -> String + Send + Sync;

/// Columns in which the kernel's and the system's word about the sender stands.
const VERIFIED: [&str; 9] = [
    "principal",
    "initiator",
    "login_user",
    "os_user",
    "exe",
    "unit",
    "container",
    "pod",
    "client_address",
];

impl Filter {
    /// Conditions that all must hold; those on time first, because whole files are skipped by them.
    pub(super) fn conditions(&self, hash: Option<&HashKey>) -> Result<Vec<Expr>, SearchError> {
        let mut all = Vec::new();
        all.extend(self.since.map(|since| ident("time").gt_eq(time_literal(since))));
        all.extend(self.until.map(|until| ident("time").lt(time_literal(until))));
        for (column, wanted) in [
            ("principal_kind", &self.kind),
            ("server", &self.server),
            ("database", &self.database),
            ("db_user", &self.user),
            ("verdict", &self.verdict),
            ("rule", &self.rule),
            ("fingerprint", &self.fingerprint),
            ("connection", &self.connection),
        ] {
            all.extend(wanted.as_deref().map(|wanted| ident(column).eq(lit(wanted))));
        }
        all.extend(self.min_rows.map(|least| ident("rows").gt_eq(lit(least))));
        if self.errors {
            all.push(ident("error_code").is_not_null());
        }
        all.extend(self.who.as_deref().map(is_sent_by));
        all.extend(self.table_and_effects());
        if let Some(Touched { column, value }) = &self.touched {
            let hash = hash.ok_or(SearchError::NoKey)?;
            let entry = format!("{column}={}", hash(column, value));
            all.push(has_any("keys", vec![entry]));
        }
        all.extend(self.text.iter().map(|part| match is_approval(part) {
            true => ident("approval").eq(lit(part.as_str())),
            false => has_text("text", part),
        }));
        Ok(all)
    }

    fn table_and_effects(&self) -> Vec<Expr> {
        let effects: Vec<Effect> = self.effects.iter().flat_map(EffectWord::effects).collect();
        let names = |effects: &[Effect]| effects.iter().map(|one| one.name().to_owned()).collect();
        let Some(table) = &self.table else {
            return match effects.is_empty() {
                true => Vec::new(),
                false => vec![has_any("effects", names(&effects))],
            };
        };
        // An effect that is done to tables is asked of this table; the others of the statement.
        let to_table: Vec<Effect> =
            effects.iter().copied().filter(|effect| access(*effect).is_some()).collect();
        let others: Vec<Effect> =
            effects.iter().copied().filter(|effect| access(*effect).is_none()).collect();
        let accesses = to_table.iter().filter_map(|effect| access(*effect)).map(Access::name);
        let touched = touches(table, accesses.map(str::to_owned).collect());
        match (to_table.is_empty(), others.is_empty()) {
            (_, true) => vec![touched],
            (true, false) => vec![has_any("effects", names(&others)), touched],
            (false, false) => {
                vec![touched.or(touches(table, Vec::new()).and(has_any("effects", names(&others))))]
            }
        }
    }
}

/// What a table is said to suffer under an effect.
fn access(effect: Effect) -> Option<Access> {
    Access::ALL.iter().copied().find(|access| access.name() == effect.name())
}

fn is_sent_by(who: &str) -> Expr {
    let columns = VERIFIED.iter().map(|column| has_text(column, who));
    columns.reduce(Expr::or).unwrap_or_else(|| lit(true))
}

/// Who sent it, in one word: the principal, else the best that is verified.
pub(super) fn who() -> Expr {
    let columns =
        ["principal", "login_user", "os_user", "unit", "container", "client_address"].map(ident);
    coalesce(columns.into_iter().chain([lit("?")]).collect())
}

/// Whether it is what approvals are called by, as in `apr-4f0x7k2m`.
fn is_approval(word: &str) -> bool {
    let digits = word.strip_prefix("apr-").unwrap_or_default();
    digits.len() == 8 && digits.chars().all(|c| c.is_ascii_digit() || c.is_ascii_lowercase())
}

impl EffectWord {
    fn effects(&self) -> Vec<Effect> {
        match self {
            Self::One(effect) => vec![*effect],
            Self::Write => WRITES.to_vec(),
        }
    }
}

impl std::str::FromStr for EffectWord {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let lower = text.to_ascii_lowercase();
        if lower == "write" {
            return Ok(Self::Write);
        }
        let known = Effect::ALL.iter().copied().find(|effect| effect.name() == lower);
        known.map(Self::One).ok_or_else(|| {
            let names: Vec<&str> = Effect::ALL.iter().map(|effect| effect.name()).collect();
            format!(
                "{text:?} is no effect: there are {}, and write for all that change rows",
                names.join(", ")
            )
        })
    }
}

impl TryFrom<String> for EffectWord {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<EffectWord> for String {
    fn from(word: EffectWord) -> Self {
        match word {
            EffectWord::One(effect) => effect.name().to_owned(),
            EffectWord::Write => "write".to_owned(),
        }
    }
}

impl std::str::FromStr for Touched {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('=').filter(|(column, _)| {
            column.split_once('.').is_some_and(|(table, name)| {
                !table.is_empty() && !name.is_empty() && !name.ends_with('.')
            })
        });
        let (column, value) = parts.ok_or_else(|| {
            format!("{text:?} names no row: write TABLE.COLUMN=VALUE, as in customers.id=42")
        })?;
        Ok(Self { column: column.to_owned(), value: value.to_owned() })
    }
}

impl TryFrom<String> for Touched {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Touched> for String {
    fn from(touched: Touched) -> Self {
        format!("{}={}", touched.column, touched.value)
    }
}
