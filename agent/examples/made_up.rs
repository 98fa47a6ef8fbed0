//! A control socket with made-up statements behind it, to look at `watch` and `status` without databases.
//!
//! `cargo run --example made_up -- /tmp/made-up.sock`, then `dbwarden --control /tmp/made-up.sock watch`.

use std::{sync::Arc, thread, time::Duration};

use anyhow::{Context, Result};
use dbwarden::{
    control::{
        AbsentServer, Access, Hooks, Listener, Notice, Ring, ServerStatus, Service, Snapshot,
        Totals, serve,
    },
    event::{ConnectionId, Engine, Lane, LoginStrength, Record, Transport, WallTime},
};

fn main() -> Result<()> {
    let socket = std::env::args().nth(1).context("which socket? give its path")?;
    let listener = Listener::bind(socket.as_ref(), Access::new(None)?)?;
    let service = Arc::new(Service::new()?);
    thread::spawn({
        let service = service.clone();
        move || pretend(&service)
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(listener, "db1", service))?;
    Ok(())
}

fn pretend(service: &Service) {
    let statements = statements();
    for (turn, record) in statements.iter().cycle().enumerate() {
        if service.status.wanted() {
            service.status.answer(snapshot(turn as u64));
        }
        service.live.publish(|| Record { time: now(), ..record.clone() });
        if turn % statements.len() == statements.len() - 1 {
            service.live.notice(|| Notice {
                time: now(),
                notice: "lost",
                server: Some("main".into()),
                message: "3 records were lost because the ring was full".into(),
            });
        }
        thread::sleep(Duration::from_millis(80));
    }
}

fn now() -> WallTime {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    WallTime(since.map_or(0, |since| since.as_micros() as i64))
}

fn statements() -> Vec<Record> {
    let psql = Record {
        time: WallTime(0),
        duration_us: Some(1_240),
        first_byte_us: Some(1_100),
        host: "db1".into(),
        server: "main".into(),
        engine: Engine::Postgresql,
        server_address: None,
        server_port: Some(5_432),
        transport: Transport::Unix,
        lane: Lane::Observed,
        connection: ConnectionId(0x6000_0000_0000_0001),
        sequence: 1,
        database: Some("orders".into()),
        db_user: Some("postgres".into()),
        application: Some("psql".into()),
        client_address: None,
        client_port: None,
        pid: Some(4_211),
        process_start: Some(WallTime(1_764_000_000_000_000)),
        exe: Some("/usr/lib/postgresql/15/bin/psql".into()),
        command: Some("psql -d orders".into()),
        uid: Some(114),
        os_user: Some("postgres".into()),
        login_uid: Some(1_000),
        login_user: Some("alice".into()),
        login_strength: Some(LoginStrength::Strong),
        session: Some(12),
        tty: Some("pts/3".into()),
        parents: [].into(),
        cgroup: None,
        unit: Some("session-12.scope".into()),
        container: None,
        pod: None,
        text: Some("select id, email\n  from customers\n where country = 'DE' limit 20;".into()),
        text_known: true,
        parameters: None,
        rows: Some(20),
        bytes_in: 70,
        bytes_out: 900,
        error_code: None,
        error_message: None,
        transaction: Some("idle"),
        truncated_bytes: 0,
        lost_bytes: 0,
        joined_midstream: false,
    };
    let shop = Record {
        db_user: Some("shop".into()),
        exe: Some("/usr/sbin/php-fpm8.2".into()),
        command: Some("php-fpm: pool www".into()),
        os_user: Some("www-data".into()),
        login_user: None,
        login_strength: Some(LoginStrength::Unset),
        unit: Some("php8.2-fpm.service".into()),
        duration_us: Some(312),
        rows: Some(1),
        text: Some("SELECT * FROM carts WHERE id = $1 FOR UPDATE".into()),
        parameters: Some(vec![Some("81723".into())]),
        transaction: Some("in_transaction"),
        ..psql.clone()
    };
    let report = Record {
        db_user: Some("report".into()),
        exe: Some("/usr/bin/python3.11".into()),
        command: Some("python3 /srv/reports/monthly.py --all".into()),
        os_user: Some("reports".into()),
        login_user: None,
        unit: Some("monthly-report.service".into()),
        duration_us: Some(2_412_000),
        rows: Some(1_204_221),
        text: Some("select o.*, c.name from orders o join customers c on c.id = o.customer".into()),
        ..psql.clone()
    };
    let remote = Record {
        pid: None,
        transport: Transport::Tls,
        client_address: Some("10.20.0.17".into()),
        client_port: Some(41_234),
        db_user: Some("billing".into()),
        duration_us: Some(145_000),
        rows: Some(3),
        text: Some("update invoices set paid = true where id = any($1)".into()),
        parameters: Some(vec![Some("{1,2,3}".into())]),
        ..psql.clone()
    };
    vec![
        psql.clone(),
        Record { text: Some("BEGIN".into()), rows: None, parameters: None, ..shop.clone() },
        shop.clone(),
        Record {
            text: Some("UPDATE carts SET total = totl + $1 WHERE id = $2".into()),
            rows: None,
            error_code: Some("42703".into()),
            error_message: Some("column \"totl\" does not exist".into()),
            transaction: Some("failed"),
            ..shop.clone()
        },
        Record {
            text: Some("ROLLBACK".into()),
            rows: None,
            parameters: None,
            transaction: Some("idle"),
            ..shop
        },
        report,
        remote.clone(),
        Record {
            container: Some("3f2a91c0b7d4e5f60718293a4b5c6d7e".into()),
            exe: Some("/app/node".into()),
            command: Some("node server.js".into()),
            os_user: None,
            uid: Some(1_001),
            login_user: None,
            db_user: Some("api".into()),
            text: Some("select '\u{1b}[31mnot red\u{1b}[0m', '東京都 \u{202e}gnirts'".into()),
            rows: Some(1),
            ..psql.clone()
        },
        Record { text: None, text_known: false, joined_midstream: true, ..remote },
        Record {
            login_strength: Some(LoginStrength::Weak),
            text: Some(format!("insert into blobs values ('{}')", "x".repeat(400)).into()),
            truncated_bytes: 90_112,
            rows: Some(1),
            ..psql
        },
    ]
}

fn snapshot(n_statements: u64) -> Snapshot {
    let main = ServerStatus {
        name: "main".into(),
        engine: "postgresql".into(),
        version: Some("15.14".into()),
        pid: 812,
        verified: true,
        unverified_because: None,
        listens: vec!["127.0.0.1:5432".into(), "/run/postgresql/.s.PGSQL.5432".into()],
        tls: "observed".into(),
        connections_open: 12,
        connections: 300,
        blind_connections: 0,
        statements: n_statements,
        bytes_in: n_statements * 70,
        bytes_out: n_statements * 900,
    };
    let fake = ServerStatus {
        name: "postgres-5499".into(),
        version: None,
        pid: 9_321,
        verified: false,
        unverified_because: Some("/home/eve/postgres belongs to uid 1001".into()),
        listens: vec!["0.0.0.0:5499".into()],
        tls: "not observable".into(),
        blind_connections: 2,
        statements: 0,
        ..main.clone()
    };
    Snapshot {
        hooks: Hooks { set: "tp_btf".into(), why: "best of this kernel".into() },
        totals: Totals {
            statements: n_statements,
            connections: 302,
            connections_open: 14,
            bytes_in: main.bytes_in,
            bytes_out: main.bytes_out,
            drops: [("ring full".to_owned(), 3)].into(),
            dropped_bytes: [("ring full".to_owned(), 9_210)].into(),
            lost_bytes: 9_210,
            blind_connections: 2,
            unobservable_bytes: 0,
            sync_losses: 1,
        },
        servers: vec![main, fake],
        absent: vec![AbsentServer { name: "orders".into(), looked_for: "port 5433".into() }],
        rings: vec![
            Ring { name: "data".into(), size_bytes: 16 << 20, peak_bytes: 300 << 10 },
            Ring { name: "control".into(), size_bytes: 4 << 20, peak_bytes: 0 },
        ],
        processes: 412,
    }
}
