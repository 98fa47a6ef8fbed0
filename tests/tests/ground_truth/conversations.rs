//! The statements of each connection, from PostgreSQL's log and from dbwarden, in one form.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use serde_json::Value;

/// One statement as both sides must have it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Said {
    pub text: String,
    pub user: String,
    pub database: String,
    pub error: Option<String>,
}

#[derive(Clone, Debug, PartialEq, PartialOrd)]
pub struct Statement {
    pub said: Said,
    pub duration: Option<Duration>,
    /// As in `$1 = '7', $2 = NULL`.
    pub parameters: Option<String>,
}

/// The statements of each connection, by the application's name.
pub type Conversations = BTreeMap<String, Vec<Vec<Statement>>>;

/// The log's rules, which are not quite those of dbwarden:
///
/// * A `Query` is logged once with its whole text, however many statements stand in it. So does
///   dbwarden.
/// * The extended protocol is logged at `Execute`. The `Execute`s that go on with a portal are logged
///   as `execute fetch from`: to dbwarden they are the same statement.
/// * What fails before it runs (a syntax error, a failed `Parse` or `Bind`) shows only as the
///   `statement` of its error. To dbwarden it is a statement.
/// * An empty text in the extended protocol, and what stands behind an error in a pipeline, is never
///   logged. dbwarden reports both, the latter as not run. Their texts here say `unlogged`.
pub fn logged(entries: &[Value]) -> Conversations {
    let mut connections: BTreeMap<u64, (String, Vec<Statement>)> = BTreeMap::new();
    // The connections whose newest statement has not ended.
    let mut running: HashMap<u64, bool> = HashMap::new();
    for entry in entries.iter().filter(|entry| entry["backend_type"] == "client backend") {
        let field = |name: &str| entry[name].as_str().unwrap_or_default();
        let pid = entry["pid"].as_u64().unwrap_or_default();
        let (application, statements) = connections.entry(pid).or_default();
        let statement = |text: &str, error: Option<&str>| Statement {
            said: Said {
                text: text.to_owned(),
                user: field("user").to_owned(),
                database: field("dbname").to_owned(),
                error: error.map(str::to_owned),
            },
            duration: None,
            parameters: field("detail").strip_prefix("parameters: ").map(str::to_owned),
        };
        let message = field("message");
        match field("error_severity") {
            "LOG" => {
                let text = match message.strip_prefix("statement: ") {
                    Some(text) => Some(text),
                    None => message
                        .strip_prefix("execute ")
                        .filter(|rest| !rest.starts_with("fetch from "))
                        .and_then(|rest| Some(rest.split_once(": ")?.1)),
                };
                if let Some(text) = text {
                    statements.push(statement(text, None));
                    running.insert(pid, true);
                    *application = field("application_name").to_owned();
                } else if let Some(duration) = message.strip_prefix("duration: ")
                    && running.remove(&pid).is_some()
                    && let Some(statement) = statements.last_mut()
                {
                    let ms: f64 = duration.trim_end_matches(" ms").parse().unwrap_or_default();
                    statement.duration = Some(Duration::from_secs_f64(ms / 1_000.0));
                }
            }
            "ERROR" | "FATAL" if entry["statement"].is_string() => {
                let code = field("state_code");
                let ran = running.remove(&pid).is_some();
                match statements.last_mut() {
                    Some(last) if ran && last.said.text == field("statement") => {
                        last.said.error = Some(code.to_owned());
                    }
                    _ => statements.push(statement(field("statement"), Some(code))),
                }
                *application = field("application_name").to_owned();
            }
            _ => {}
        }
    }
    let mut conversations = Conversations::new();
    for (application, statements) in connections.into_values() {
        if !statements.is_empty() {
            conversations.entry(application).or_default().push(statements);
        }
    }
    conversations
}

/// The same of what dbwarden reported, without what the log never has.
pub fn reported(records: &[Value]) -> Conversations {
    let mut connections: BTreeMap<(String, String), Vec<&Value>> = BTreeMap::new();
    for record in records.iter().filter(|record| !is_unlogged(record)) {
        let field = |name: &str| record[name].as_str().unwrap_or("(null)").to_owned();
        connections.entry((field("application"), field("connection"))).or_default().push(record);
    }
    let mut conversations = Conversations::new();
    for ((application, _), mut records) in connections {
        records.sort_by_key(|record| record["sequence"].as_u64());
        let statements = records.into_iter().map(statement).collect();
        conversations.entry(application).or_default().push(statements);
    }
    conversations
}

fn statement(record: &Value) -> Statement {
    let field = |name: &str| record[name].as_str().unwrap_or("(null)").to_owned();
    let parameters = record["parameters"].as_array().map(|parameters| {
        let one = |(n, value): (usize, &Value)| match value.as_str() {
            Some(text) => format!("${} = '{}'", n + 1, text.replace('\'', "''")),
            None => format!("${} = NULL", n + 1),
        };
        parameters.iter().enumerate().map(one).collect::<Vec<_>>().join(", ")
    });
    Statement {
        said: Said {
            text: field("text"),
            user: field("db_user"),
            database: field("database"),
            error: record["error_code"].as_str().map(str::to_owned),
        },
        duration: record["duration_us"].as_u64().map(Duration::from_micros),
        parameters,
    }
}

pub fn text(record: &Value) -> &str {
    record["text"].as_str().unwrap_or_default()
}

pub fn is_unlogged(record: &Value) -> bool {
    text(record).contains("unlogged")
}
