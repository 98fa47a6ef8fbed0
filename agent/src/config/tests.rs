//! Configuration texts and what becomes of them.

use std::{path::Path, time::Duration};

use super::{
    Catalog, DatabaseOf, HookChoice, HostFacts, LaneChoice, Ledger, LedgerCopy, Literals, LogLevel,
    OnGuardDown, OnLedgerDown, Server, Settings, Size, Span, TlsCapture, load, parse,
};
use crate::{
    event::{Detector, Engine, PrincipalKind},
    principal::{Numbers, Words},
};

pub(super) fn read(text: &str) -> Result<Settings, String> {
    let host = HostFacts { name: "db1".into(), page_bytes: 4_096, environment: Default::default() };
    parse(Path::new("c.toml"), text, &host).map_err(|error| error.to_string())
}

fn words(words: &[&str]) -> Words {
    Words(words.iter().map(|word| (*word).to_owned()).collect())
}

#[test]
fn nothing_written_is_the_defaults() {
    assert_eq!(read(""), Ok(Settings::defaults("db1")));
    assert_eq!(read("# only words\n[capture]\n"), Ok(Settings::defaults("db1")));
}

#[test]
fn every_key_arrives() {
    let settings = read(
        r#"
        [host]
        name = "orders-1"
        environment = "production"
        region = "eu-central"
        [control]
        socket = "/run/dbwarden/other.sock"
        group = "dba"
        [capture]
        hooks = "syscalls"
        ring_bytes = "32MiB"
        control_ring_bytes = 65536
        request_bytes = "4KiB"
        response_head_bytes = 1024
        response_tail_bytes = 512
        tls = "off"
        poolers = false
        [ledger]
        enabled = false
        directory = "/srv/ledger"
        keys = "/srv/keys"
        literals = "keep"
        commit_interval = "500ms"
        seal_bytes = "8MiB"
        seal_after = "10m"
        keep_for = "90d"
        keep_bytes = "20GiB"
        keep_free = "2GiB"
        [ledger.copy]
        url = "s3://ledgers/fleet"
        interval = "1m"
        [log]
        level = "debug"
        [[server]]
        name = "orders"
        engine = "postgresql"
        port = 5433
        data_directory = "/srv/pg"
        executable = "/usr/lib/postgresql/15/bin/postgres"
        socket = "/run/postgresql/.s.PGSQL.5433"
        environment = "staging"
        region = "eu-west"
        lane = "guard"
        on_guard_down = "direct"
        on_ledger_down = "pass"
        guard_socket = "/run/postgresql/.s.PGSQL.5433"
        tls_certificate = "/srv/pg/server.crt"
        tls_key = "/srv/pg/server.key"
        client_ca_certificate = "/srv/pg/clients.crt"
        client_ca_key = "/srv/pg/clients.key"
        catalog = { user = "dbwarden", password_file = "/srv/pg/password" }
        [[server.database]]
        name = "app_*"
        environment = "production"
        region = "eu-central-1"
        [guard]
        bulk_rows = 500
        bulk_percent = 50
        detectors = ["card", "national-id", "card"]
        listen = "127.0.0.1:6432"
        [approvals]
        ttl = "1h"
        hold = "30s"
        break_glass = "dba"
        [[server]]
        port = 5499
        exclude = true
        [[principal]]
        id = "dba"
        kind = "human"
        name = "{login_user}"
        groups = ["dba"]
        os_user = "postgres"
        uid = [26, 999]
        login_user = ["ana", "b*"]
        login_uid = 1000
        unit = "session-*.scope"
        container = "web"
        pod = "shop-0"
        exe = "/usr/bin/psql"
        command = "psql *"
        program = "psql"
        parents = ["bash", "sudo"]
        client_address = ["10.0.0.0/8", "::1"]
        db_user = "shop"
        application = "psql"
        certificate = "CN=ana"
        claims = { agent = "*", "team" = ["a", "b"] }
        [[principal]]
        kind = "ai"
        name = "bots"
        unit = "bot.service"
        "#,
    )
    .unwrap();
    assert_eq!(settings.host.name, "orders-1");
    assert_eq!(settings.host.environment.as_deref(), Some("production"));
    assert_eq!(settings.host.region.as_deref(), Some("eu-central"));
    assert_eq!(settings.control.socket, Path::new("/run/dbwarden/other.sock"));
    assert_eq!(settings.control.group.as_deref(), Some("dba"));
    assert_eq!(settings.approvals.ttl, Span(Duration::from_secs(3_600)));
    assert_eq!(settings.approvals.hold, Span(Duration::from_secs(30)));
    assert_eq!(settings.approvals.break_glass.as_deref(), Some("dba"));
    assert_eq!(settings.capture.hooks, HookChoice::Syscalls);
    assert_eq!(settings.capture.ring_bytes, Size(32 << 20));
    assert_eq!(settings.capture.control_ring_bytes, Size(65_536));
    assert_eq!(settings.capture.request_bytes, Size(4_096));
    assert_eq!(settings.capture.response_head_bytes, Size(1_024));
    assert_eq!(settings.capture.response_tail_bytes, Size(512));
    assert_eq!(settings.capture.tls, TlsCapture::Off);
    assert!(!settings.capture.poolers);
    let seconds = |n| Span(Duration::from_secs(n));
    assert_eq!(
        settings.ledger,
        Ledger {
            enabled: false,
            directory: "/srv/ledger".into(),
            keys: "/srv/keys".into(),
            literals: Literals::Keep,
            commit_interval: Span(Duration::from_millis(500)),
            seal_bytes: Size(8 << 20),
            seal_after: seconds(600),
            keep_for: Some(seconds(90 * 86_400)),
            keep_bytes: Some(Size(20 << 30)),
            keep_free: Size(2 << 30),
            copy: Some(LedgerCopy { url: "s3://ledgers/fleet".into(), interval: seconds(60) }),
        }
    );
    assert_eq!(settings.log.level, LogLevel::Debug);
    let named = Server {
        name: Some("orders".into()),
        engine: Some(Engine::Postgresql),
        port: Some(5_433),
        data_directory: Some("/srv/pg".into()),
        executable: Some("/usr/lib/postgresql/15/bin/postgres".into()),
        socket: Some("/run/postgresql/.s.PGSQL.5433".into()),
        environment: Some("staging".into()),
        region: Some("eu-west".into()),
        exclude: false,
        lane: LaneChoice::Guard,
        on_guard_down: OnGuardDown::Direct,
        on_ledger_down: OnLedgerDown::Pass,
        guard_socket: Some("/run/postgresql/.s.PGSQL.5433".into()),
        tls_certificate: Some("/srv/pg/server.crt".into()),
        tls_key: Some("/srv/pg/server.key".into()),
        client_ca_certificate: Some("/srv/pg/clients.crt".into()),
        client_ca_key: Some("/srv/pg/clients.key".into()),
        catalog: Some(Catalog {
            user: "dbwarden".into(),
            password_file: Some("/srv/pg/password".into()),
        }),
        databases: vec![DatabaseOf {
            name: "app_*".into(),
            environment: Some("production".into()),
            region: Some("eu-central-1".into()),
        }],
    };
    let excluded = Server {
        name: None,
        engine: None,
        port: Some(5_499),
        data_directory: None,
        executable: None,
        socket: None,
        environment: None,
        region: None,
        exclude: true,
        lane: LaneChoice::Observe,
        on_guard_down: OnGuardDown::Refuse,
        on_ledger_down: OnLedgerDown::Refuse,
        guard_socket: None,
        tls_certificate: None,
        tls_key: None,
        client_ca_certificate: None,
        client_ca_key: None,
        catalog: None,
        databases: Vec::new(),
    };
    assert_eq!(settings.servers, [named, excluded]);
    let [dba, bots] = settings.principals.as_slice() else { panic!("two principals are wanted") };
    assert_eq!((dba.id.as_deref(), dba.kind), (Some("dba"), PrincipalKind::Human));
    assert_eq!(dba.uid, Some(Numbers(vec![26, 999])));
    assert_eq!(dba.claims.as_ref().and_then(|claims| claims.get("agent")), Some(&words(&["*"])));
    assert_eq!(bots.unit, Some(words(&["bot.service"])));

    let listen = [("orders".to_owned(), "127.0.0.1:6432".parse().unwrap())];
    assert_eq!(settings.guard.listen, listen.into());
    assert_eq!((settings.guard.bulk_rows, settings.guard.bulk_percent), (500, 50));
    assert_eq!(settings.guard.detectors, [Detector::Card, Detector::NationalId]);

    // What `--print-config` shows can be used as a file.
    assert_eq!(read(&toml::to_string(&settings).unwrap()), Ok(settings));
}

#[test]
fn a_mistake_says_where_what_and_what_is_allowed() {
    for (text, expected) in [
        (
            "[capture]\nring_byte = 1",
            "c.toml:2: unknown key `ring_byte` in [capture]; did you mean `ring_bytes`? (allowed: \
             hooks, ring_bytes, control_ring_bytes, request_bytes, response_head_bytes, \
             response_tail_bytes, tls, poolers)\n    2 | ring_byte = 1",
        ),
        (
            "[hosts]\nname = \"a\"",
            "c.toml:1: unknown key `hosts`; did you mean `host`? (allowed: host, control, capture, \
             ledger, telemetry, principal, server, policy, enforce, guard, approvals, label, region, webhook, log)\n    1 | [hosts]",
        ),
        (
            "[[server]]\nname = \"a\"\nprot = 1",
            "c.toml:3: unknown key `prot` in [[server]]; did you mean `port`? (allowed: name, \
             engine, port, data_directory, executable, socket, environment, region, exclude, \
             lane, on_guard_down, on_ledger_down, guard_socket, tls_certificate, tls_key, \
             client_ca_certificate, client_ca_key, catalog, database)\n    3 | prot = 1",
        ),
        (
            "[[server]]\nname = \"a\"\nport = 1\ncatalog = { user = \"b\" }",
            "c.toml:4: `catalog` is of use to a guard only: set `lane = \"guard\"` in this \
             [[server]], or take it out\n    4 | catalog = { user = \"b\" }",
        ),
        (
            "[[server]]\nname = \"a\"\nport = 1\nlane = \"guard\"\ncatalog = { }",
            "c.toml:5: `catalog` needs the `user` to ask the server as, of 1 to 63 bytes\n    5 | \
             catalog = { }",
        ),
        (
            "[guard]\ndetectors = [\"iban\", \"cards\"]",
            "c.toml:2: `detectors`: \"cards\" is none of card, iban, email, phone, national-id, secret\n    2 | \
             detectors = [\"iban\", \"cards\"]",
        ),
        (
            "[guard]\nbulk_percent = 101",
            "c.toml:2: `bulk_percent`: from 1 to 100; 101 is not\n    2 | bulk_percent = 101",
        ),
        (
            "[log]\ncolour = true",
            "c.toml:2: unknown key `colour` in [log] (allowed: level)\n    2 | colour = true",
        ),
        (
            "[capture]\nhooks = \"fentry\"",
            "c.toml:2: `hooks`: \"fentry\" is not allowed in [capture] (allowed: \"auto\", \
             \"tp_btf\", \"syscalls\")\n    2 | hooks = \"fentry\"",
        ),
        (
            "[log]\nlevel = \"inf\"",
            "c.toml:2: `level`: \"inf\" is not allowed in [log]; did you mean `info`? (allowed: \
             \"error\", \"warn\", \"info\", \"debug\", \"trace\")\n    2 | level = \"inf\"",
        ),
        (
            "[[server]]\nengine = \"oracle\"",
            "c.toml:2: `engine`: \"oracle\" is not allowed in [[server]] (allowed: \
             \"postgresql\")\n    2 | engine = \"oracle\"",
        ),
        (
            "[capture]\nring_bytes = \"10MiB\"",
            "c.toml:2: `ring_bytes`: the kernel wants a power of two that is a multiple of its \
             page (4KiB), at most 1GiB; 10MiB is not; the nearest is \"16MiB\"\n    2 | ring_bytes \
             = \"10MiB\"",
        ),
        (
            "[capture]\nring_bytes = 2048",
            "c.toml:2: `ring_bytes`: the kernel wants a power of two that is a multiple of its \
             page (4KiB), at most 1GiB; 2KiB is not; the nearest is \"4KiB\"\n    2 | ring_bytes = \
             2048",
        ),
        (
            "[capture]\nring_bytes = \"16MB\"",
            "c.toml:2: `ring_bytes`: invalid value: string \"16MB\", expected a size: bytes as in \
             16777216, or with KiB, MiB or GiB as in \"16MiB\"\n    2 | ring_bytes = \"16MB\"",
        ),
        (
            "[capture]\nrequest_bytes = \"1MiB\"",
            "c.toml:2: `request_bytes`: from 256B to 64KiB bytes of one call can be captured; \
             1MiB can't\n    2 | request_bytes = \"1MiB\"",
        ),
        (
            "[control]\nsocket = \"control.sock\"",
            "c.toml:2: `socket`: \"control.sock\" must be an absolute path\n    2 | socket = \
             \"control.sock\"",
        ),
        (
            "[control]\ngroup = \"d b a\"",
            "c.toml:2: `group`: \"d b a\" is not allowed: 1 to 63 letters, digits, `.`, `_` or \
             `-`\n    2 | group = \"d b a\"",
        ),
        (
            "[[server]]\nname = \"a\"\nport = 70000",
            "c.toml:3: `port`: invalid value: integer `70000`, expected u16\n    3 | port = 70000",
        ),
        (
            "[[server]]\nname = \"a\"\nport = 0",
            "c.toml:3: `port`: from 1 to 65535; 0 is no port\n    3 | port = 0",
        ),
        (
            "[[server]]\nport = 5432",
            "c.toml:1: [[server]] needs a `name` to call the server by, or `exclude = true` to \
             leave it alone\n    1 | [[server]]",
        ),
        (
            "[[server]]\nname = \"a\"",
            "c.toml:1: [[server]] must say which server is meant: `port`, `socket`, \
             `data_directory` or `executable`\n    1 | [[server]]",
        ),
        (
            "[[server]]\nname = \"a\"\nport = 1\n[[server.database]]\nregion = \"eu\"",
            "c.toml:4: [[server.database]] needs a `name`: the database, as in \"app\" or \
             \"test_*\"\n    4 | [[server.database]]",
        ),
        (
            "[[server]]\nname = \"a\"\nport = 1\n[[server.database]]\nname = \"app\"",
            "c.toml:4: [[server.database]] must say what is different there: `environment` or \
             `region`\n    4 | [[server.database]]",
        ),
        (
            "[[server]]\nname = \"a\"\nport = 1\n[[server.database]]\nname = \"app\"\nregoin = \"eu\"",
            "c.toml:6: unknown key `regoin` in [[server.database]]; did you mean `region`? (allowed: \
             name, environment, region)\n    6 | regoin = \"eu\"",
        ),
        (
            "[[server]]\nname = \"a\"\nport = 1\n[[server]]\nname = \"a\"\nport = 2",
            "c.toml:5: `name`: two [[server]] are called \"a\"; names must differ\n    5 | name = \
             \"a\"",
        ),
        (
            "[approvals]\nbreak_glass = \"oncall\"",
            "c.toml:2: `break_glass`: no [[principal]] has \"oncall\" among its `groups`\n    2 | \
             break_glass = \"oncall\"",
        ),
        (
            "[approvals]\nhold = \"2h\"",
            "c.toml:2: `hold`: from 1s to 1h; 2h is not\n    2 | hold = \"2h\"",
        ),
        (
            "[[principal]]\nkind = \"robot\"\nname = \"x\"",
            "c.toml:2: `kind`: \"robot\" is not allowed in [[principal]] (allowed: \"human\", \
             \"service\", \"ai\", \"unknown\")\n    2 | kind = \"robot\"",
        ),
        (
            "[[principal]]\nkind = \"ai\"\nname = \"x\"\nuid = \"root\"",
            "c.toml:4: `uid`: invalid type: string \"root\", expected a number or a list of \
             numbers\n    4 | uid = \"root\"",
        ),
        (
            "[log]\n[[principal]]\nkind = \"human\"\nname = \"x\"\napplication = \"dba\"",
            "c.toml:2: [[principal]] principal-1: the rule would call anybody a human who meets \
             `application`: a client chooses that itself. Add what it can't choose (os_user, uid, \
             login_user, login_uid, unit, container, pod, client_address, db_user or certificate, and \
             not all of them by `*`), or let the rule say kind = \"ai\" or \"unknown\" without \
             groups\n    2 | [[principal]]",
        ),
        (
            "[[principal]]\nid = \"builtin:x\"\nkind = \"ai\"\nname = \"x\"\nuid = 1",
            "c.toml:1: [[principal]] `id`: \"builtin:x\" is not allowed: 1 to 63 letters, digits, \
             `.`, `_` or `-`\n    1 | [[principal]]",
        ),
        (
            "[[principal]]\nid = \"a\"\nkind = \"ai\"\nname = \"x\"\nuid = 1\n\
             [[principal]]\nid = \"a\"\nkind = \"ai\"\nname = \"x\"\nuid = 2",
            "c.toml:6: [[principal]] `id`: two rules are called \"a\"; rows would not tell which it \
             was\n    6 | [[principal]]",
        ),
        ("[host\nname = \"a\"", "c.toml:1: unclosed table, expected `]`\n    1 | [host"),
    ] {
        assert_eq!(read(text).unwrap_err(), expected, "for {text:?}");
    }
}

fn copied_to(url: &str) -> Result<String, String> {
    let settings = read(&format!("[ledger.copy]\nurl = {url:?}"))?;
    Ok(settings.ledger.copy.map(|copy| copy.url).unwrap_or_default())
}

#[test]
fn the_ledger_is_copied_to_places_that_can_be_meant() {
    for url in [
        "s3://ledgers",
        "s3://ledgers/fleet/eu",
        "gs://ledgers/fleet",
        "az://container/fleet",
        "abfss://container@account.dfs.core.windows.net/fleet",
        "file:///srv/copies",
    ] {
        assert_eq!(copied_to(url).as_deref(), Ok(url));
    }
    for (url, expected) in [
        ("", "\"\" is no place for copies: s3://BUCKET/PATH"),
        ("/srv/copies", "\"/srv/copies\" is no place for copies"),
        ("ftp://host/path", "\"ftp://host/path\" is no place for copies"),
        ("s3:///path", "\"s3:///path\" is no place for copies"),
        ("file://nas/copies", "\"file://nas/copies\" is no folder of this host"),
        ("file:///", "\"file:///\" is no folder of this host"),
        ("file:///var/lib/dbwarden/ledger/copies", "is in the ledger itself"),
    ] {
        let error = copied_to(url).unwrap_err();
        assert!(error.contains(expected) && error.starts_with("c.toml:2: `url`: "), "{error}");
    }
    let error = read("[ledger.copy]\ninterval = \"5s\"").unwrap_err();
    assert!(error.starts_with("c.toml:1: [ledger.copy] needs a `url`"), "{error}");
    let error = read("[ledger.copy]\nurl = \"gs://l\"\ninterval = \"1ms\"").unwrap_err();
    assert!(error.starts_with("c.toml:3: `interval`: from 1s to 1day; 1ms is not"), "{error}");
}

#[test]
fn what_may_be_a_secret_is_refused_and_not_repeated() {
    for text in [
        "[ledger.copy]\nurl = \"s3://key:hush@ledgers/fleet\"",
        "[ledger.copy]\nurl = \"s3://hush@ledgers/fleet\"",
        "[ledger.copy]\nurl = \"https://host/ledgers?signature=hush\"",
        "[ledger.copy]\nurl = \"az://container/path#hush\"",
        "[ledger.copy]\nurl = \"abfs://container:hush@account.dfs.core.windows.net/\"",
        "[ledger.copy]\nsecret_access_key = \"hush\"",
        "[ledger.copy]\nAWS_SESSION_TOKEN = \"hush\"",
        "[ledger]\ncopy = { url = \"s3://ledgers\", password = \"hush\" }",
    ] {
        let error = read(text).unwrap_err();
        assert!(error.contains("from the environment (AWS_"), "{error}");
        assert!(!error.contains("hush"), "{error}");
    }
}

#[test]
fn a_long_socket_path_is_refused() {
    let error = read(&format!("[control]\nsocket = \"/{}\"", "x".repeat(120))).unwrap_err();
    assert!(error.contains("at most 107 bytes, this one has 121"), "{error}");
}

#[test]
fn a_named_file_must_exist() {
    let error = load(Some(Path::new("/nonexistent/dbwarden.toml"))).unwrap_err();
    assert_eq!(error.to_string(), "can't read the configuration /nonexistent/dbwarden.toml");
}

#[test]
fn labels_and_regions_are_read_or_refused_with_their_place() {
    let settings = read(
        r#"
        [policy]
        enabled = false
        directory = "/srv/policies"
        starter_pack = false
        [[label]]
        name = "pii"
        on = ["app.public.customers.ssn", "*.*.*.email"]
        [[region]]
        name = "us-east-1"
        networks = ["10.9.0.0/16"]
        units = ["reports.service"]
        "#,
    )
    .unwrap();
    assert!(!settings.policy.enabled && !settings.policy.starter_pack);
    let world = settings.world();
    assert_eq!((world.labels[0].on.len(), world.regions[0].networks.len()), (2, 1));
    for (text, expected) in [
        ("[[label]]\non = [\"*.*.*.a\"]", "c.toml:1: [[label]] needs a `name`"),
        ("[[label]]\nname = \"pii\"", "c.toml:1: [[label]] needs `on`"),
        (
            "[[label]]\nname = \"pii\"\non = [\"customers.ssn\"]",
            "c.toml:3: `on`: \"customers.ssn\" names no columns",
        ),
        (
            "[[label]]\nname = \"a\"\non = [\"*.*.*.a\"]\n[[label]]\nname = \"a\"\non = [\"*.*.*.b\"]",
            "c.toml:4: `name`: two [[label]] are called \"a\"",
        ),
        ("[[region]]\nname = \"eu\"", "c.toml:1: [[region]] must say who is there"),
        (
            "[[region]]\nname = \"eu\"\nnetworks = [\"10.0.0.1/8\"]",
            "c.toml:3: `networks`: \"10.0.0.1/8\" has bits",
        ),
        (
            "[policy]\ndirectory = \"policies\"",
            "c.toml:2: `directory`: \"policies\" must be an absolute path",
        ),
    ] {
        let said = read(text).unwrap_err();
        assert!(said.starts_with(expected), "{text}\n{said}");
    }
}
