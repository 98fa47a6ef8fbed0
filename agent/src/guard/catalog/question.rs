//! Asks the planner what a client's own statement would touch.

use std::error::Error;

use bytes::BytesMut;
use tokio_postgres::{
    Client,
    types::{Format, IsNull, Kind, ToSql, Type, to_sql_checked},
};

use super::{
    connection::STATEMENT_MS,
    plan::{Expected, Plan, Sampled},
};
use crate::{protocol::postgres::FIRST_OWN_OID, statement::Body};

/// A statement as its client sends it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::guard) struct Question {
    /// What was prepared before. The text then is what its EXECUTE says after the name.
    pub prelude: Option<Body>,
    pub text: String,
    /// Numbers of types that the client has given its parameters; 0 where it leaves that to the server.
    pub types: Vec<u32>,
    pub values: Vec<Value>,
    /// What counts for how many rows its conditions are true; with what was prepared before, of that.
    pub counts: Vec<String>,
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

impl Question {
    fn parameters(&self) -> Vec<&(dyn ToSql + Sync)> {
        self.values.iter().map(|value| value as &(dyn ToSql + Sync)).collect()
    }
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
pub(super) async fn expected(client: &Client, question: &Question) -> Option<Expected> {
    let mut most: Option<Expected> = None;
    for path in &question.paths {
        let Some(expected) = in_path(client, question, path).await else { continue };
        if most.as_ref().is_none_or(|most| expected.most() > most.most()) {
            most = Some(expected);
        }
    }
    most
}

async fn in_path(client: &Client, question: &Question, path: &[String]) -> Option<Expected> {
    let quoted: Vec<String> =
        path.iter().map(|schema| format!("\"{}\"", schema.replace('"', "\"\""))).collect();
    let set = match quoted.is_empty() {
        true => "SET search_path = ''".to_owned(),
        false => format!("SET search_path = {}", quoted.join(", ")),
    };
    client.batch_execute(&set).await.ok()?;
    let Some(Body { types: kinds, statement: prepared }) = &question.prelude else {
        let types: Option<Vec<Type>> = question.types.iter().map(|oid| typed(*oid)).collect();
        let (plan, types) = explain(client, question, &question.text, &types?).await?;
        let sampled = in_time(client, async {
            let mut sampled = Vec::new();
            for count in &question.counts {
                sampled.extend(sample(client, question, count, &types).await);
            }
            sampled
        });
        return Some(Expected { planned: plan.planned(), sampled: sampled.await? });
    };
    // Never more than one statement, whatever the text says.
    prepare(client, kinds, prepared).await?;
    let execute = format!("EXECUTE {PREPARED} {}", question.text);
    let explained = explain(client, question, &execute, &[]).await;
    let kinds = parameters(client).await;
    forget(client).await?;
    let (plan, kinds) = (explained?.0, kinds?);
    let sampled = in_time(client, async {
        let mut sampled = Vec::new();
        for count in &question.counts {
            if prepare(client, &kinds, count).await.is_some() {
                sampled.extend(sample(client, question, &execute, &[]).await);
                forget(client).await;
            }
        }
        sampled
    });
    Some(Expected { planned: plan.planned(), sampled: sampled.await? })
}

/// A statement of a client's, here.
const PREPARED: &str = "dbwarden_of_client";

async fn prepare(client: &Client, kinds: &str, text: &str) -> Option<()> {
    let prepare = format!("PREPARE {PREPARED} {kinds} AS {text}");
    client.execute(prepare.as_str(), &[]).await.ok().map(drop)
}

async fn forget(client: &Client) -> Option<()> {
    client.batch_execute(&format!("DEALLOCATE {PREPARED}")).await.ok()
}

/// The types of its parameters, in brackets or nothing.
async fn parameters(client: &Client) -> Option<String> {
    const PARAMETERS: &str = "
        SELECT coalesce('(' || nullif(array_to_string(parameter_types, ', '), '') || ')', '')
        FROM pg_catalog.pg_prepared_statements WHERE name = $1";
    client.query_one(PARAMETERS, &[&PREPARED]).await.ok()?.try_get(0).ok()
}

/// With the types that the server has found for the parameters.
async fn explain(
    client: &Client,
    question: &Question,
    text: &str,
    types: &[Type],
) -> Option<(Plan, Vec<Type>)> {
    let text = format!("EXPLAIN (FORMAT JSON, VERBOSE) {text}");
    let statement = client.prepare_typed(&text, types).await.ok()?;
    let types = statement.params().to_vec();
    // A value of a type of somebody's own may run somebody's code.
    if types.len() != question.values.len() || !types.iter().all(is_plain) {
        return None;
    }
    let rows = client.query(&statement, &question.parameters()).await.ok()?;
    Some((rows.first()?.try_get(0).ok()?, types))
}

/// Counting takes no longer than this (milliseconds): else the planner's word counts alone.
const SAMPLE_MS: u32 = 50;

async fn in_time<T>(client: &Client, work: impl Future<Output = T>) -> Option<T> {
    let limit = |ms: u32| format!("SET statement_timeout = {ms}");
    client.batch_execute(&limit(SAMPLE_MS)).await.ok()?;
    let done = work.await;
    client.batch_execute(&limit(STATEMENT_MS)).await.ok()?;
    Some(done)
}

async fn sample(
    client: &Client,
    question: &Question,
    text: &str,
    types: &[Type],
) -> Option<Sampled> {
    let statement = client.prepare_typed(text, types).await.ok()?;
    let row = client.query_one(&statement, &question.parameters()).await.ok()?;
    let count = |place| row.try_get::<_, i64>(place).ok();
    Sampled::of(count(0)?, count(1)?, count(2)?, row.try_get(3).ok()?)
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
