//! Who it is: people, services and agents of every make on a real server, named with their evidence.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use dbwarden_tests::{
    Agent, Certificates, Cgroup, Netns, Postgres, Session, Via, Watch, await_until, need_root,
    python, said,
    sender::{placed, started_by, wrapped},
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// An account that every Debian has, for somebody who has logged in.
const LOGIN: (&str, &str) = ("1", "daemon");
const UNSET: &str = "4294967295";
const SESSION: &str = "user.slice/user-1.slice/session-77.scope";
const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn psql(postgres: &Postgres, sql: &str) -> Command {
    let mut command = postgres.psql_command(Via::Unix);
    // A terminal of no size is too small for any answer, and a pager would wait for a key.
    command.args(["-P", "pager=off", "-c", sql]);
    command
}

fn record(watch: &Watch, text: &str) -> Result<Value> {
    let mut records = watch.statements(1, |record| record["text"] == text)?;
    records.pop().with_context(|| format!("no record of {text}"))
}

/// Every field that `expected` names is in `record`, and is that.
#[track_caller]
fn check(record: &Value, expected: &Value) {
    for (field, value) in expected.as_object().into_iter().flatten() {
        assert_eq!(&record[field], value, "{field} of {record:#}");
    }
}

fn who(kind: &str, name: &str, rule: &str) -> Value {
    json!({
        "principal": name, "principal_kind": kind, "principal_rule": rule, "initiator": null,
    })
}

fn ai(name: &str, rule: &str, initiator: &str) -> Value {
    json!({
        "principal": name, "principal_kind": "ai", "principal_rule": rule, "initiator": initiator,
    })
}

/// Programs under the names of agents: shells, which run what they are given.
struct Agents(TempDir);

impl Agents {
    fn new() -> Result<Agents> {
        let folder = tempfile::tempdir()?;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        Ok(Agents(folder))
    }

    /// A copy of the shell under this name.
    fn named(&self, name: &str) -> Result<PathBuf> {
        let path = self.0.path().join(name);
        fs::copy("/bin/sh", &path)?;
        Ok(path)
    }

    fn folder(&self) -> &Path {
        self.0.path()
    }
}

/// People, services, containers, and one who only says that he is somebody.
#[test]
fn people_and_services_are_told_apart() -> Result<()> {
    need_root!();
    let postgres = Postgres::builder().start()?;
    let agent = Agent::builder().start()?;
    let watch = agent.watch_server(&postgres)?;
    let own = std::process::id();
    let service = format!("dbwarden-test-{own}");
    let id = "0123456789abcdef".repeat(4);
    let pty = python()?;
    let pty = pty.get_program().to_string_lossy().into_owned();
    let terminal = [pty.as_str(), "-c", "import pty, sys; pty.spawn(sys.argv[1:])"];
    let namespace = ["unshare", "--mount", "--uts", "--ipc", "--pid", "--fork"];
    let unit = format!("system.slice/{service}.service");
    let human = || who("human", LOGIN.1, "builtin:login-session");
    type Case<'a> = (&'a str, &'a str, &'a str, &'a [&'a str], Value);
    let cases: [Case<'_>; 9] = [
        ("session", SESSION, LOGIN.0, &terminal, human()),
        ("sudo", SESSION, LOGIN.0, &["sudo", "-u", "nobody", "--"], human()),
        ("su", SESSION, LOGIN.0, &["runuser", "-u", "nobody", "--"], human()),
        ("said to be logged in", "", LOGIN.0, &[], who("unknown", "root", "builtin:local-process")),
        (
            "the session of another",
            "user.slice/user-2.slice/session-78.scope",
            LOGIN.0,
            &[],
            who("unknown", "root", "builtin:local-process"),
        ),
        ("unit", &unit, UNSET, &[], who("service", &service, "builtin:system-unit")),
        // A daemon that says that somebody has logged in.
        ("forged", &unit, LOGIN.0, &[], who("service", &service, "builtin:system-unit")),
        (
            "a unit of a user",
            "user.slice/user-2.slice/user@2.service/app.slice/cron.service",
            UNSET,
            &[],
            who("unknown", "uid 2", "builtin:user-unit"),
        ),
        (
            "container",
            &format!("docker/{id}"),
            UNSET,
            &namespace,
            who("service", "0123456789ab", "builtin:container"),
        ),
    ];
    for (name, path, login, wrapper, expected) in cases {
        let text = format!("SELECT '{name}'");
        let group = if path.is_empty() { None } else { Some(Cgroup::create(path)?) };
        let client = psql(&postgres, &text);
        let client = if wrapper.is_empty() { client } else { wrapped(wrapper, &client) };
        said(placed(group.as_ref(), login, &client).current_dir("/"))?;
        let record = record(&watch, &text)?;
        check(&record, &expected);
        if name == "session" {
            let tty = record["tty"].as_str().unwrap_or_default();
            ensure!(tty.starts_with("pts/"), "{record:#}");
        }
    }
    Ok(())
}

/// Agents, however they start the client: themselves, by a double fork, under other names.
#[test]
fn agents_are_known_by_their_lineage() -> Result<()> {
    need_root!();
    let postgres = Postgres::builder().start()?;
    let agent = Agent::builder().start()?;
    let watch = agent.watch_server(&postgres)?;
    let agents = Agents::new()?;
    let claude = agents.named("claude")?;
    let unit = format!("dbwarden-night-{}", std::process::id());
    let service = format!("system.slice/{unit}.service");
    let client = |name: &str| psql(&postgres, &format!("SELECT '{name}'"));
    let ran = |group: &str, login: &str, command: &Command| -> Result<()> {
        let group = if group.is_empty() { None } else { Some(Cgroup::create(group)?) };
        said(placed(group.as_ref(), login, command).current_dir("/")).map(|_| ())
    };
    let seen = |name: &str| record(&watch, &format!("SELECT '{name}'"));
    let claude_of = |initiator| ai("claude-code", "builtin:claude-code", initiator);

    ran(SESSION, LOGIN.0, &started_by(&claude, &client("in a session")))?;
    check(&seen("in a session")?, &claude_of(LOGIN.1));

    ran(&service, UNSET, &started_by(&claude, &client("in a unit")))?;
    check(&seen("in a unit")?, &claude_of(&unit));

    // By a tool's shell, and by sudo.
    let deep = started_by(Path::new("/bin/sh"), &client("deep"));
    let deep = wrapped(&["sudo", "-u", "nobody", "--"], &deep);
    ran(SESSION, LOGIN.0, &started_by(&claude, &deep))?;
    check(&seen("deep")?, &claude_of(LOGIN.1));

    // Parent and grandparent are gone when it starts: procfs would say that init is its parent.
    let orphan = "((while kill -0 $$ 2>&-; do sleep 0.02; done; exec \"$@\") & ) >/dev/null 2>&1";
    let program = claude.display().to_string();
    let mut shell = wrapped(&[&program, "-c", orphan, "x"], &client("forked twice")).spawn()?;
    shell.wait()?;
    check(&seen("forked twice")?, &claude_of("root"));

    // The file has another name, but it still calls itself what it is.
    let renamed = agents.named("helper")?.display().to_string();
    let titled =
        ["bash", "-c", "exec -a claude \"$@\"", "bash", &renamed, "-c", "\"$@\"; true", "x"];
    ran(SESSION, LOGIN.0, &wrapped(&titled, &client("renamed")))?;
    check(&seen("renamed")?, &claude_of(LOGIN.1));

    // Nothing tells any more: it is what its user is, and not more than that.
    ran(SESSION, LOGIN.0, &started_by(Path::new(&renamed), &client("disguised")))?;
    check(&seen("disguised")?, &who("human", LOGIN.1, "builtin:login-session"));

    // A script, as most of them are.
    let script = agents.folder().join("aider.sh");
    fs::write(&script, "\"$@\"\n")?;
    let run = wrapped(&["sh", &script.display().to_string()], &client("a script"));
    ran(SESSION, LOGIN.0, &run)?;
    check(&seen("a script")?, &ai("aider", "builtin:aider", LOGIN.1));

    // A server of the Model Context Protocol, which connects itself.
    let module = agents.folder().join("mcp_server_shop.py");
    let code = "import psycopg, sys\n\
                with psycopg.connect(sys.argv[1]) as c: c.execute(\"SELECT 'a tool'\")\n";
    fs::write(&module, code)?;
    let mut server = python()?;
    server.args(["-m", "mcp_server_shop", &postgres.conninfo(Via::Tcp)]);
    server.env("PYTHONPATH", agents.folder());
    ran(SESSION, LOGIN.0, &server)?;
    check(&seen("a tool")?, &ai("mcp_server_shop", "builtin:mcp-server", LOGIN.1));
    Ok(())
}

/// What a client says of itself is kept apart, can make it less trusted, and is hidden like a literal.
#[test]
fn claims_are_kept_apart() -> Result<()> {
    need_root!();
    let postgres = Postgres::builder().start()?;
    let agent = Agent::builder().start()?;
    let watch = agent.watch_server(&postgres)?;
    let unit = format!("dbwarden-claims-{}", std::process::id());
    let group = Cgroup::create(&format!("system.slice/{unit}.service"))?;
    let claiming = format!(
        "SELECT 1 AS claiming /*agent='billing-bot',run_id='r-7',\
         route='%2Fcustomers%2F4711',traceparent='{PARENT}'*/"
    );
    let plain = "SELECT 1 AS plain";
    let mut client = psql(&postgres, plain);
    client.args(["-c", &claiming, "-c", "SELECT 1 AS after"]);
    said(&mut placed(Some(&group), UNSET, &client))?;

    let before = record(&watch, plain)?;
    let claimed = record(&watch, &claiming)?;
    let after = record(&watch, "SELECT 1 AS after")?;
    let service = who("service", &unit, "builtin:system-unit");
    for plain in [&before, &after] {
        check(plain, &service);
        check(plain, &json!({"claims": null, "trace_id": null, "span_id": null}));
    }
    check(&claimed, &ai("claimed agent", "builtin:claimed-agent", &unit));
    check(
        &claimed,
        &json!({
            "connection": before["connection"],
            "unit": format!("{unit}.service"),
            "claims": {"agent": "billing-bot", "run_id": "r-7", "route": "/customers/4711"},
            "trace_id": "0af7651916cd43dd8448eb211c80319c",
            "span_id": "b7ad6b7169203331",
        }),
    );

    // The ledger has the same, without what may be anybody's data.
    let search = |arguments: &[&str]| -> Result<Vec<Value>> {
        let arguments = [&["search", "--format", "json"], arguments].concat();
        let rows = said(&mut agent.command(&arguments))?;
        rows.lines().map(|row| Ok(serde_json::from_str(row)?)).collect()
    };
    let kept =
        await_until("the row in the ledger", || Ok(search(&["--kind", "ai", "claiming"])?.pop()))?;
    check(&kept, &ai("claimed agent", "builtin:claimed-agent", &unit));
    check(&kept, &json!({"trace_id": "0af7651916cd43dd8448eb211c80319c"}));
    let words = kept["claims"].to_string();
    ensure!(words.contains("billing-bot") && !words.contains("4711"), "{kept:#}");
    let by_unit = await_until("all rows in the ledger", || {
        Ok(Some(search(&["--who", &unit])?).filter(|rows| rows.len() >= 3))
    })?;
    ensure!(by_unit.iter().any(|row| row["principal_kind"] == "service"), "{by_unit:#?}");
    let lines = said(&mut agent.command(&["timeline", "--format", "json", "--who", &unit]))?;
    let lines = lines.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
    let of = |kind: &str, who: &str, initiator: Value| {
        let is_it = |line: &&Value| line["kind"] == kind && line["who"] == who;
        lines.iter().filter(is_it).any(|line| line["initiator"] == initiator)
    };
    ensure!(of("service", &unit, Value::Null), "{lines:#?}");
    ensure!(of("ai", "claimed agent", json!(unit)), "{lines:#?}");
    Ok(())
}

/// Rules of the configuration stand before those that dbwarden has, and don't hide an agent.
#[test]
fn rules_of_the_configuration() -> Result<()> {
    need_root!();
    let namespace = Netns::create()?;
    let postgres = Postgres::builder().everywhere().start()?;
    let own = std::process::id();
    let bot = format!("dbwarden-bot-{own}");
    let agent = Agent::builder()
        .configuration(&format!(
            r#"
            [[principal]]
            id = "bots"
            kind = "ai"
            name = "night bot"
            unit = "dbwarden-bot-*.service"

            [[principal]]
            kind = "human"
            name = "the {{login_user}}"
            groups = ["dba"]
            login_uid = {}

            [[principal]]
            id = "neighbours"
            kind = "service"
            name = "next door"
            client_address = "10.0.0.0/8"
            "#,
            LOGIN.0
        ))
        .start()?;
    let watch = agent.watch_server(&postgres)?;

    let group = Cgroup::create(&format!("system.slice/{bot}.service"))?;
    said(&mut placed(Some(&group), UNSET, &psql(&postgres, "SELECT 'bot'")))?;
    check(&record(&watch, "SELECT 'bot'")?, &ai("night bot", "bots", &bot));

    let group = Cgroup::create(SESSION)?;
    let daemon = format!("the {}", LOGIN.1);
    said(&mut placed(Some(&group), LOGIN.0, &psql(&postgres, "SELECT 'person'")))?;
    check(&record(&watch, "SELECT 'person'")?, &who("human", &daemon, "principal-2"));

    let agents = Agents::new()?;
    let codex = agents.named("codex")?;
    let command = started_by(&codex, &psql(&postgres, "SELECT 'by codex'"));
    said(&mut placed(Some(&group), LOGIN.0, &command))?;
    check(&record(&watch, "SELECT 'by codex'")?, &ai("codex", "builtin:codex", &daemon));

    let mut remote = postgres.psql_command(Via::Network(namespace.outside().into()));
    remote.args(["-c", "SELECT 'remote'"]);
    said(&mut namespace.command(&remote))?;
    check(&record(&watch, "SELECT 'remote'")?, &who("service", "next door", "neighbours"));
    Ok(())
}

/// A certificate that the server has verified says who is there; without it, or under another name,
/// nobody is.
#[test]
fn a_verified_certificate_is_a_name() -> Result<()> {
    need_root!();
    let authority = TempDir::new()?;
    let made = Certificates::create(authority.path())?;
    // The server's own certificate is another authority's.
    let postgres = Postgres::builder()
        .tls()
        .setting("ssl_ca_file", &made.authority.display().to_string())
        .start()?;
    fs::set_permissions(authority.path(), fs::Permissions::from_mode(0o755))?;
    let agent = Agent::builder()
        .configuration(
            "[[principal]]\nid = \"by-certificate\"\nkind = \"service\"\nname = \"reporter\"\n\
             groups = [\"reporters\"]\ncertificate = \"CN=report-*\"\n",
        )
        .start()?;
    let watch = agent.watch_server(&postgres)?;
    let ask = |common_name: Option<&str>, sql: &str| -> Result<Value> {
        let mut command = postgres.psql_command(Via::Tls);
        command.args(["-c", sql]);
        if let Some(common_name) = common_name {
            let (certificate, key) = made.client(common_name)?;
            command.env("PGSSLCERT", certificate).env("PGSSLKEY", key);
        }
        said(&mut command)?;
        record(&watch, sql)
    };
    let named = ask(Some("report-7"), "SELECT 'with a certificate'")?;
    check(&named, &who("service", "reporter", "by-certificate"));
    check(&named, &json!({"transport": "tls"}));
    for (common_name, sql) in
        [(Some("other"), "SELECT 'with another'"), (None, "SELECT 'without any'")]
    {
        let record = ask(common_name, sql)?;
        ensure!(record["principal_rule"] != "by-certificate", "{record:#}");
    }
    Ok(())
}

/// `dbwarden whois` names the rule and the evidence: of a process, an address, a connection.
#[test]
fn whois_explains() -> Result<()> {
    need_root!();
    let postgres = Postgres::builder().start()?;
    let agent = Agent::builder().start()?;
    let watch = agent.watch_server(&postgres)?;
    let unit = format!("dbwarden-whois-{}", std::process::id());
    let group = Cgroup::create(&format!("system.slice/{unit}.service"))?;
    let whois = |who: &str| -> Result<Vec<Value>> {
        let answer = said(&mut agent.command(&["whois", who, "--format", "json"]))?;
        answer.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    };

    // A daemon that has forged its login uid.
    let mut client = postgres.program("psql");
    client.args(["-XAtq", "-d", &postgres.conninfo(Via::Tcp)]);
    let mut session = Session::start(&mut placed(Some(&group), LOGIN.0, &client))?;
    session.ask("SELECT 'here'")?;
    let here = record(&watch, "SELECT 'here';")?;
    let connection = here["connection"].as_str().context("a connection without an id")?;
    let port = here["client_port"].as_u64().context("a connection without a port")?;
    for question in [session.pid().to_string(), format!("127.0.0.1:{port}"), connection.to_owned()]
    {
        let found = whois(&question)?;
        ensure!(found.len() == 1, "{question}: {found:#?}");
        check(&found[0], &who("service", &unit, "builtin:system-unit"));
        let forged = format!(
            "{} ({}), but no login session of that user: it may be forged",
            LOGIN.0, LOGIN.1
        );
        check(
            &found[0],
            &json!({
                "connection": connection,
                "pid": session.pid(),
                "groups": [],
                "launched_by": null,
                "evidence": [
                    {"fact": "unit", "value": format!("{unit}.service"), "strength": "strong"},
                    {"fact": "login_uid", "value": forged, "strength": "weak"},
                ],
            }),
        );
    }
    let shown = said(&mut agent.command(&["whois", connection, "--format", "table"]))?;
    let first = format!("principal    {unit} (service), by rule builtin:system-unit");
    ensure!(shown.starts_with(&first), "{shown}");

    // One that is not connected, and nobody.
    let own = whois(&std::process::id().to_string())?;
    check(&own[0], &json!({"pid": std::process::id(), "connection": null}));
    for (who, code) in [("192.0.2.1", 1), ("alice", 2)] {
        let output = agent.command(&["whois", who]).output()?;
        assert_eq!(output.status.code(), Some(code), "{who}: {output:?}");
    }
    Ok(())
}
