//! Who sent it: real clients of a real server, however they came, named by the agent.

use std::{fs, process::Command};

use anyhow::{Context, Result, ensure};
use dbwarden_tests::{
    Agent, Cgroup, Netns, Postgres, Session, Via, Watch, await_until, need_root, python, said,
    sender::wrapped,
};
use serde_json::{Value, json};

const NOBODY: u64 = 65534;

/// Waits for the record of `text`.
fn record(watch: &Watch, text: &str) -> Result<Value> {
    let mut records = watch.statements(1, |record| record["text"] == text)?;
    records.pop().with_context(|| format!("no record of {text}"))
}

fn psql(postgres: &Postgres, via: Via, sql: &str) -> Command {
    let mut command = postgres.psql_command(via);
    command.args(["-c", sql]);
    command
}

fn parents(record: &Value) -> Vec<(u64, &str)> {
    let parents = record["parents"].as_array().map(Vec::as_slice).unwrap_or_default();
    parents
        .iter()
        .map(|p| (p["pid"].as_u64().unwrap_or(0), p["comm"].as_str().unwrap_or_default()))
        .collect()
}

/// Whether the chain of parents leads through this test.
fn is_ours(record: &Value) -> bool {
    parents(record).iter().any(|(pid, _)| *pid == u64::from(std::process::id()))
}

/// Every field that `expected` names is in `record`, and is that.
fn check(record: &Value, expected: &Value) {
    for (field, value) in expected.as_object().into_iter().flatten() {
        assert_eq!(&record[field], value, "{field} of {record:#}");
    }
}

/// Connections that were open before the agent started: their users and their processes are known.
#[test]
fn connections_from_before_are_joined() -> Result<()> {
    need_root!();
    for cluster in ["", "main: cluster"] {
        let postgres = Postgres::builder().tls().setting("cluster_name", cluster).start()?;
        postgres.psql(Via::Unix, "CREATE ROLE \"a b\" LOGIN; CREATE ROLE carol LOGIN")?;
        let session = |via, user: &str| {
            let mut command = postgres.program("psql");
            command.args(["-XAtq", "-d", &postgres.conninfo_as(via, user, "postgres")]);
            Session::start(&mut command)
        };
        let mut sessions = [
            (session(Via::Unix, "carol")?, json!({"db_user": "carol", "transport": "unix"})),
            (session(Via::Tcp, "carol")?, json!({"db_user": "carol", "transport": "tcp"})),
            (session(Via::Tcp6, "postgres")?, json!({"db_user": "postgres"})),
            (session(Via::Tls, "carol")?, json!({"db_user": "carol", "transport": "tls"})),
        ];
        let mut ambiguous = session(Via::Unix, "'a b'")?;

        let agent = Agent::builder().start()?;
        let watch = agent.watch_server(&postgres)?;
        for (n, (session, expected)) in sessions.iter_mut().enumerate() {
            // Whether the first answer is the first question's is known when the second one comes.
            session.ask(&format!("SELECT 'first {n}'"))?;
            session.ask(&format!("SELECT 'second {n}'"))?;
            let first = record(&watch, &format!("SELECT 'first {n}';"))?;
            let second = record(&watch, &format!("SELECT 'second {n}';"))?;
            check(&second, &json!({"rows": 1, "connection": first["connection"]}));
            for record in [&first, &second] {
                check(record, expected);
                check(
                    record,
                    &json!({
                        "joined_midstream": true,
                        "database": "postgres",
                        "pid": session.pid(),
                        "os_user": "root",
                        "application": null,
                    }),
                );
                ensure!(is_ours(record), "{record:#}");
                let exe = record["exe"].as_str().unwrap_or_default();
                ensure!(exe.ends_with("/psql"), "{record:#}");
            }
        }
        ambiguous.ask("SELECT 'whose'")?;
        ambiguous.ask("SELECT 'whose, again'")?;
        let record = record(&watch, "SELECT 'whose';")?;
        check(&record, &json!({"db_user": null, "database": null, "pid": ambiguous.pid()}));
    }
    Ok(())
}

/// Each way to start a client: its process, its user, and who started it.
#[test]
fn clients_are_named() -> Result<()> {
    need_root!();
    let postgres = Postgres::builder().start()?;
    let agent = Agent::builder().start()?;
    let watch = agent.watch_server(&postgres)?;
    let at = |name: &str| json!({"os_user": name});
    type Case<'a> = (&'a str, Via, &'a [&'a str], &'a [&'a str], Value);
    let cases: [Case<'_>; 7] = [
        ("unix", Via::Unix, &["env"], &[], at("root")),
        ("tcp", Via::Tcp, &["env"], &[], at("root")),
        ("tcp6", Via::Tcp6, &["env"], &[], json!({"client_address": "::1"})),
        ("shell", Via::Tcp, &["sh", "-c", "\"$@\"; true", "sh"], &["sh"], at("root")),
        ("runuser", Via::Unix, &["runuser", "-u", "nobody", "--"], &["runuser"], at("nobody")),
        ("sudo", Via::Tcp, &["sudo", "-u", "nobody", "--"], &["sudo"], at("nobody")),
        (
            "sudo in a shell",
            Via::Unix,
            &["sh", "-c", "sudo -u nobody -- \"$@\"; true", "bash"],
            &["sudo", "sh"],
            json!({"uid": NOBODY}),
        ),
    ];
    for (name, via, wrapper, ancestors, expected) in cases {
        let text = format!("SELECT '{name}'");
        said(wrapped(wrapper, &psql(&postgres, via, &text)).current_dir("/"))?;
        let record = record(&watch, &text)?;
        check(&record, &expected);
        check(
            &record,
            &json!({
                "db_user": "postgres",
                "database": "postgres",
                "application": "psql",
                "joined_midstream": false,
                "container": null,
            }),
        );
        let command = record["command"].as_str().unwrap_or_default();
        // What it holds of the statement is redacted.
        ensure!(command.ends_with("-c SELECT ?"), "{record:#}");
        ensure!(record["exe"].as_str().is_some_and(|exe| exe.ends_with("/psql")), "{record:#}");
        ensure!(is_ours(&record), "{record:#}");
        let found = parents(&record);
        for ancestor in ancestors {
            ensure!(found.iter().any(|(_, comm)| comm == ancestor), "{ancestor}: {record:#}");
        }
    }

    let script = "import psycopg, sys\n\
                  with psycopg.connect(sys.argv[1]) as c: c.execute('SELECT %s::int', [7])";
    said(python()?.args(["-c", script, &postgres.conninfo(Via::Tcp)]))?;
    let driver = record(&watch, "SELECT $1::int")?;
    check(&driver, &json!({"parameters": ["7"], "os_user": "root"}));
    ensure!(driver["exe"].as_str().is_some_and(|exe| exe.contains("python")), "{driver:#}");
    ensure!(is_ours(&driver), "{driver:#}");

    // It connects when its parent is gone: procfs would say that init is its parent.
    let orphan = "(while kill -0 $$ 2>&-; do sleep 0.02; done; exec \"$@\") >/dev/null 2>&1 &";
    let client = psql(&postgres, Via::Unix, "SELECT 'orphan'");
    let mut shell = wrapped(&["sh", "-c", orphan, "sh"], &client).spawn()?;
    shell.wait()?;
    let orphan = record(&watch, "SELECT 'orphan'")?;
    ensure!(parents(&orphan).first() == Some(&(shell.id().into(), "sh")), "{orphan:#}");
    ensure!(is_ours(&orphan), "{orphan:#}");
    Ok(())
}

/// Where a client stands in the tree of cgroups, and what its login uid proves there.
#[test]
fn cgroups_and_logins_are_judged() -> Result<()> {
    need_root!();
    let postgres = Postgres::builder().start()?;
    let agent = Agent::builder().start()?;
    let watch = agent.watch_server(&postgres)?;
    let id = "0123456789abcdef".repeat(4);
    let pod = "c8f1a9e2-6f0b-4b7e-9d1c-0a1b2c3d4e5f";
    let own = std::process::id();
    let cases = [
        (String::new(), "4242", json!({"login_uid": 4242, "login_strength": "weak"})),
        (
            "user.slice/user-4242.slice/session-77.scope".to_owned(),
            "4242",
            json!({"login_uid": 4242, "login_strength": "strong", "unit": "session-77.scope"}),
        ),
        (
            "user.slice/user-4242.slice/session-78.scope".to_owned(),
            "4343",
            json!({"login_uid": 4343, "login_strength": "weak", "unit": "session-78.scope"}),
        ),
        (
            format!("system.slice/dbwarden-test-{own}.service"),
            "4294967295",
            json!({
                "login_uid": null,
                "login_strength": "unset",
                "unit": format!("dbwarden-test-{own}.service"),
                "container": null,
            }),
        ),
        (format!("docker/{id}"), "4242", json!({"container": id, "login_strength": "weak"})),
        (
            format!("kubepods/burstable/pod{pod}/{id}"),
            "4294967295",
            json!({"container": id, "pod": pod, "unit": null}),
        ),
    ];
    let enter = "if [ -n \"$1\" ]; then echo $$ >\"$1/cgroup.procs\"; fi\n\
                 if [ \"$(cat /proc/self/loginuid)\" != \"$2\" ]; then echo $2 >/proc/self/loginuid; fi\n\
                 shift 2; exec \"$@\"";
    for (n, (path, login, expected)) in cases.iter().enumerate() {
        let text = format!("SELECT 'cgroup {n}'");
        let group = if path.is_empty() { None } else { Some(Cgroup::create(path)?) };
        let folder = group.as_ref().map_or(String::new(), |g| g.path().display().to_string());
        let wrapper = ["sh", "-ec", enter, "sh", &folder, login];
        said(&mut wrapped(&wrapper, &psql(&postgres, Via::Unix, &text)))?;
        let record = record(&watch, &text)?;
        check(&record, expected);
        if !path.is_empty() {
            check(&record, &json!({"cgroup": format!("/{path}")}));
        }
    }
    Ok(())
}

/// 200 clients come and go while the agent stands still: procfs knows none of them any more.
#[test]
fn clients_that_are_gone_are_named_from_records() -> Result<()> {
    need_root!();
    let postgres = Postgres::builder().start()?;
    let mut agent = Agent::builder().start()?;
    let watch = agent.watch_server(&postgres)?;
    let started = std::time::Instant::now();
    agent.pause()?;
    for n in 0..200 {
        let via = [Via::Unix, Via::Tcp, Via::Tcp6][n % 3];
        let client = psql(&postgres, via, &format!("SELECT 1 AS gone_{n}"));
        if n % 2 == 0 {
            said(&mut wrapped(&["runuser", "-u", "nobody", "--"], &client))?;
        } else {
            said(&mut wrapped(&["env"], &client))?;
        }
    }
    let left = std::time::Duration::from_secs(2).saturating_sub(started.elapsed());
    std::thread::sleep(left);
    agent.resume()?;
    let ours = |record: &Value| record["text"].as_str().is_some_and(|t| t.contains(" gone_"));
    let records = watch
        .statements(200, ours)
        .with_context(|| format!("status: {:#}", agent.status().unwrap_or_default()["totals"]))?;
    let mut pids = std::collections::HashSet::new();
    for (n, record) in records.iter().enumerate() {
        let (uid, near) = if n % 2 == 0 { (NOBODY, "runuser") } else { (0, "") };
        check(record, &json!({"text": format!("SELECT 1 AS gone_{n}"), "uid": uid, "rows": 1}));
        let command = record["command"].as_str().unwrap_or_default();
        ensure!(command.ends_with(&format!("-c SELECT ? AS gone_{n}")), "{record:#}");
        ensure!(record["exe"].as_str().is_some_and(|exe| exe.ends_with("/psql")), "{record:#}");
        ensure!(is_ours(record), "{record:#}");
        ensure!(near.is_empty() || parents(record)[0].1 == near, "{record:#}");
        pids.insert(record["pid"].as_u64());
    }
    assert_eq!(pids.len(), 200);
    let status = agent.status()?;
    assert_eq!(status["totals"]["drops"], json!({}), "{status:#}");
    Ok(())
}

/// Two clients with one pid, one after the other, told apart afterwards.
#[test]
fn a_pid_used_twice_names_two() -> Result<()> {
    need_root!();
    let postgres = Postgres::builder().start()?;
    let mut agent = Agent::builder().start()?;
    let watch = agent.watch_server(&postgres)?;
    agent.pause()?;
    let mut pids: Vec<u32> = Vec::new();
    for n in 0..2 {
        // Others start processes too, so the number may be taken before us.
        let mut client = await_until("a second process with the same pid", || {
            if let Some(first) = pids.first() {
                fs::write("/proc/sys/kernel/ns_last_pid", (first - 1).to_string())?;
            }
            let text = format!("SELECT 1 AS life_{n}");
            let mut client = psql(&postgres, Via::Tcp, &text);
            let mut client = client.arg("-c").arg("SELECT 'same'").spawn()?;
            if pids.first().is_none_or(|first| *first == client.id()) {
                return Ok(Some(client));
            }
            client.kill()?;
            client.wait()?;
            Ok(None)
        })?;
        ensure!(client.wait()?.success());
        pids.push(client.id());
    }
    agent.resume()?;
    let of_pid = |record: &Value| {
        record["pid"].as_u64() == pids.first().copied().map(u64::from)
            && record["text"].as_str().is_some_and(|text| text.contains(" life_"))
    };
    let records = watch.statements(2, of_pid)?;
    for (n, record) in records.iter().enumerate() {
        let command = record["command"].as_str().unwrap_or_default();
        ensure!(command.contains(&format!(" life_{n}")), "{record:#}");
        check(record, &json!({"text": format!("SELECT 1 AS life_{n}")}));
    }
    assert_ne!(records[0]["connection"], records[1]["connection"]);
    Ok(())
}

/// Clients on the network have an address and no process; one in a namespace with a server of its own
/// is as local there as any.
#[test]
fn clients_in_other_networks() -> Result<()> {
    need_root!();
    let namespace = Netns::create()?;
    let postgres = Postgres::builder().everywhere().start()?;
    let name = namespace.name();
    let inner = Postgres::builder().by_way_of(&["ip", "netns", "exec", name]).start()?;
    let agent = Agent::builder().start()?;
    let watch = agent.watch_only(&["--who", "psql"])?;

    let via = Via::Network(namespace.outside().into());
    let of_server = agent.watch_server(&postgres)?;
    said(&mut namespace.command(&psql(&postgres, via, "SELECT 'remote'")))?;
    let remote = record(&of_server, "SELECT 'remote'")?;
    check(
        &remote,
        &json!({
            "client_address": namespace.inside().to_string(),
            "server_address": namespace.outside().to_string(),
            "pid": null,
            "exe": null,
            "parents": [],
            "db_user": "postgres",
        }),
    );
    ensure!(remote["client_port"].as_u64().is_some_and(|port| port > 0), "{remote:#}");

    // To the host's own address from the host: local, though not by loopback.
    said(&mut psql(&postgres, via, "SELECT 'own address'"))?;
    let own = record(&watch, "SELECT 'own address'")?;
    ensure!(is_ours(&own) && own["pid"].is_u64(), "{own:#}");

    said(&mut namespace.command(&psql(&inner, Via::Tcp, "SELECT 'inside'")))?;
    let inside = record(&watch, "SELECT 'inside'")?;
    check(&inside, &json!({"client_address": "127.0.0.1", "server_port": inner.port()}));
    ensure!(is_ours(&inside) && inside["pid"].is_u64(), "{inside:#}");
    assert_ne!(inside["server"], remote["server"]);
    Ok(())
}
