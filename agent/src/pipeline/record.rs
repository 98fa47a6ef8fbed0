//! A statement with what is known of its connection → the record that everybody outside sees.

use std::sync::Arc;

use super::connections::{Facts, Shared};
use crate::event::{
    Client, Effect, Endpoint, Lane, Outcome, Parameter, Process, Record, Statement, StatementKind,
    TransactionStatus, Transport,
};

/// What is said of a statement that the server never ran.
const SKIPPED: &str = "not run: an earlier statement of the same pipeline failed";

pub fn record(shared: &Shared, facts: &Facts, statement: &Statement) -> Record {
    let process = match &facts.client {
        Client::Local(process) => Some(process.as_ref()),
        Client::LocalUnknown | Client::Remote { .. } => None,
    };
    let (server_address, server_port) = address(&facts.local);
    let (client_address, client_port) = address(&facts.remote);
    let (error_code, error_message) = match &statement.outcome {
        Outcome::Failed { code, message } => (Some(code.clone()), Some(message.clone())),
        // The server has no error for it, but it must not look like one that ran.
        Outcome::Skipped => (None, Some(SKIPPED.to_owned())),
        _ => (None, None),
    };
    let identity =
        |field: fn(&Process) -> &Option<Arc<str>>| process.and_then(|p| field(p).clone());
    Record {
        time: shared.clock.wall(statement.start),
        // Without an end, its time would be a guess.
        duration_us: (statement.outcome != Outcome::Unknown)
            .then(|| statement.end.micros_since(statement.start)),
        first_byte_us: statement.first_byte.map(|first| first.micros_since(statement.start)),

        host: shared.host.clone(),
        server: facts.server.name.clone(),
        engine: facts.server.engine,
        server_address,
        server_port,
        transport: match (&facts.local, facts.encrypted) {
            (Endpoint::Ip { .. }, false) => Transport::Tcp,
            (Endpoint::Ip { .. }, true) => Transport::Tls,
            (Endpoint::Unix { .. }, false) => Transport::Unix,
            (Endpoint::Unix { .. }, true) => Transport::UnixTls,
        },
        lane: Lane::Observed,

        connection: facts.id,
        sequence: statement.sequence,
        database: facts.database.clone(),
        db_user: facts.db_user.clone(),
        application: facts.application.clone(),
        client_address,
        client_port,

        pid: process.map(|p| p.pid),
        process_start: process.map(|p| p.process_start),
        exe: identity(|p| &p.exe),
        command: identity(|p| &p.command),
        uid: process.and_then(|p| p.uid),
        os_user: identity(|p| &p.os_user),
        login_uid: process.and_then(|p| p.login_uid),
        login_user: identity(|p| &p.login_user),
        login_strength: process.map(|p| p.login_strength),
        session: process.and_then(|p| p.session),
        tty: identity(|p| &p.tty),
        parents: process.map(|p| p.parents.clone()).unwrap_or_default(),
        cgroup: identity(|p| &p.cgroup),
        unit: identity(|p| &p.unit),
        container: identity(|p| &p.container),
        pod: identity(|p| &p.pod),

        text: statement.text.clone(),
        text_known: statement.text.is_some(),
        parameters: (!statement.parameters.is_empty())
            .then(|| statement.parameters.iter().map(parameter).collect()),

        effects: (statement.kind == StatementKind::Replication).then_some(&[Effect::Replicate]),

        rows: match statement.outcome {
            Outcome::Done { rows, .. } | Outcome::Suspended { rows } => rows,
            _ => None,
        },
        bytes_in: statement.bytes_in,
        bytes_out: statement.bytes_out,
        error_code,
        error_message,
        transaction: statement.transaction.map(|status| match status {
            TransactionStatus::Idle => "idle",
            TransactionStatus::InTransaction => "in_transaction",
            TransactionStatus::Failed => "failed",
        }),

        truncated_bytes: statement.truncated_bytes,
        lost_bytes: statement.lost_bytes,
        joined_midstream: statement.joined_midstream,
    }
}

fn address(end: &Endpoint) -> (Option<Arc<str>>, Option<u16>) {
    match end {
        Endpoint::Ip { address, port } => (Some(address.to_string().into()), Some(*port)),
        Endpoint::Unix { path } => (path.clone(), None),
    }
}

/// `None` is SQL's NULL.
fn parameter(parameter: &Parameter) -> Option<String> {
    match parameter {
        Parameter::Null => None,
        Parameter::Text(text) => Some(text.clone()),
        Parameter::Binary { type_oid, len, .. } => {
            Some(format!("<{len} bytes of type {type_oid}>"))
        }
        Parameter::Unknown => Some("<not captured>".to_owned()),
    }
}
