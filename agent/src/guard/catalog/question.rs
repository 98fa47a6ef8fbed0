//! Asks the planner what a client's own statement would touch.

use std::error::Error;

use bytes::BytesMut;
use tokio_postgres::{
    Client,
    types::{Format, IsNull, Kind, ToSql, Type, to_sql_checked},
};

use super::plan::{Plan, Planned};
use crate::protocol::postgres::FIRST_OWN_OID;

/// A statement as its client sends it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::guard) struct Question {
    /// What was prepared before, as SQL's PREPARE has it: types in brackets, or nothing, and the statement. The text
    /// then is what its EXECUTE says after the name.
    pub prelude: Option<(String, String)>,
    pub text: String,
    /// Numbers of types that the client has given its parameters; 0 where it leaves that to the server.
    pub types: Vec<u32>,
    pub values: Vec<Value>,
    /// What names without a schema may be looked for in; each list is one way to read them.
    pub paths: Vec<Vec<String>>,
}

/// Of a parameter.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::guard) enum Value {
    Null,
    Text(String),
    Binary(Vec<u8>),
}

impl ToSql for Value {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        match self {
            Self::Null => return Ok(IsNull::Yes),
            Self::Text(text) => out.extend_from_slice(text.as_bytes()),
            Self::Binary(bytes) => out.extend_from_slice(bytes),
        }
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        match self {
            Self::Binary(_) => Format::Binary,
            Self::Null | Self::Text(_) => Format::Text,
        }
    }

    to_sql_checked!();
}

/// The most that any way to read it comes to; `None` where the server refuses all of them.
pub(super) async fn planned(client: &Client, question: &Question) -> Option<Vec<Planned>> {
    let mut most: Option<Vec<Planned>> = None;
    for path in &question.paths {
        let Some(planned) = in_path(client, question, path).await else { continue };
        let sum = |all: &[Planned]| all.iter().map(|one| one.rows).max();
        if most.as_ref().is_none_or(|most| sum(&planned) > sum(most)) {
            most = Some(planned);
        }
    }
    most
}

async fn in_path(client: &Client, question: &Question, path: &[String]) -> Option<Vec<Planned>> {
    let quoted: Vec<String> =
        path.iter().map(|schema| format!("\"{}\"", schema.replace('"', "\"\""))).collect();
    let set = match quoted.is_empty() {
        true => "SET search_path = ''".to_owned(),
        false => format!("SET search_path = {}", quoted.join(", ")),
    };
    client.batch_execute(&set).await.ok()?;
    let Some((kinds, prepared)) = &question.prelude else {
        return explain(client, question, &question.text).await;
    };
    // Never more than one statement, whatever the text says.
    let prepare = format!("PREPARE {PREPARED} {kinds} AS {prepared}");
    client.execute(prepare.as_str(), &[]).await.ok()?;
    let planned = explain(client, question, &format!("EXECUTE {PREPARED} {}", question.text)).await;
    client.batch_execute(&format!("DEALLOCATE {PREPARED}")).await.ok()?;
    planned
}

/// A statement of a client's, here.
const PREPARED: &str = "dbwarden_of_client";

async fn explain(client: &Client, question: &Question, text: &str) -> Option<Vec<Planned>> {
    let types: Option<Vec<Type>> = question.types.iter().map(|oid| typed(*oid)).collect();
    let text = format!("EXPLAIN (FORMAT JSON, VERBOSE) {text}");
    let statement = client.prepare_typed(&text, &types?).await.ok()?;
    // A value of a type of somebody's own may run somebody's code.
    if statement.params().len() != question.values.len() || !statement.params().iter().all(is_plain)
    {
        return None;
    }
    let values: Vec<&(dyn ToSql + Sync)> =
        question.values.iter().map(|value| value as &(dyn ToSql + Sync)).collect();
    let rows = client.query(&statement, &values).await.ok()?;
    Some(rows.first()?.try_get::<_, Plan>(0).ok()?.planned())
}

/// Left to the server where it isn't one of PostgreSQL's own.
fn typed(oid: u32) -> Option<Type> {
    match oid {
        0 => Some(Type::UNKNOWN),
        oid if oid < FIRST_OWN_OID => Type::from_oid(oid),
        _ => None,
    }
}

fn is_plain(kind: &Type) -> bool {
    match kind.kind() {
        Kind::Array(of) => is_plain(of),
        Kind::Enum(_) => true,
        Kind::Domain(_) => false,
        _ => kind.oid() < FIRST_OWN_OID,
    }
}
