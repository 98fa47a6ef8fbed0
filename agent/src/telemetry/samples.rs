//! Records to test with.

use std::sync::Arc;

use crate::event::{
    Analysis, ConnectionId, Effect, Engine, Facts, Lane, LoginStrength, Origin, Parent,
    PrincipalKind, Record, StatementKind, Transport, WallTime,
};

pub fn origin() -> Origin {
    Origin {
        host: "db1".into(),
        server: Some("main".into()),
        engine: Some(Engine::Postgresql),
        server_address: Some("127.0.0.1".into()),
        server_port: Some(5_432),
        transport: Some(Transport::Tls),
        lane: Some(Lane::Observed),
        connection: Some(ConnectionId(7)),
        database: Some("clinic".into()),
        db_user: Some("app".into()),
        application: Some("billing".into()),
        client_address: Some("127.0.0.1".into()),
        client_port: Some(40_000),
        pid: Some(4_711),
        process_start: Some(WallTime(1_000_000)),
        exe: Some("/usr/bin/python3.11".into()),
        uid: Some(1_000),
        os_user: Some("ana".into()),
        login_uid: Some(1_000),
        login_user: Some("ana".into()),
        login_strength: Some(LoginStrength::Strong),
        parents: vec![Parent { pid: 4_000, comm: "bash".into() }].into(),
        principal: Some("billing".into()),
        principal_kind: Some(PrincipalKind::Service),
        unit: Some("billing.service".into()),
        ..Origin::default()
    }
}

pub fn facts(summary: &str, effects: &[Effect]) -> Arc<Facts> {
    Arc::new(Facts {
        text: format!("{summary} /* ? */").into(),
        fingerprint: 0xabc,
        summary: summary.into(),
        effects: effects.iter().copied().collect(),
        ..Facts::nothing(Analysis::Complete)
    })
}

/// A statement of `origin()`'s connection, with its start and duration in microseconds.
pub fn record(start: i64, duration_us: u64, facts: Option<Arc<Facts>>) -> Record {
    Record {
        time: WallTime(start),
        duration_us: Some(duration_us),
        first_byte_us: Some(1),
        origin: Arc::new(origin()),
        sequence: 3,
        claims: None,
        judgement: None,
        approval: None,
        text: Some("SELECT 'a literal'".into()),
        standard_conforming_strings: Some(true),
        parameters: Vec::new(),
        kind: StatementKind::Simple,
        facts,
        keys: Vec::new(),
        rows: Some(20),
        bytes_in: 10,
        bytes_out: 20,
        error_code: None,
        error_message: None,
        redacted_error: None,
        transaction: Some("idle"),
        masked: Arc::default(),
        truncated_bytes: 0,
        lost_bytes: 0,
        joined_midstream: false,
    }
}
