//! Who is who: facts of identity and rules, and what is decided.

use std::sync::Arc;

use super::{Rule, RuleError, Rules, Subject, Written};
use crate::event::{
    ClaimTag, Claims, Client, LoginStrength, Parent, Principal, Process, Program, Strength,
};

fn written(toml: &str) -> Vec<Written> {
    #[derive(serde::Deserialize)]
    struct File {
        principal: Vec<Written>,
    }
    toml::from_str::<File>(toml).unwrap().principal
}

fn rules(toml: &str) -> Rules {
    let written = if toml.is_empty() { Vec::new() } else { written(toml) };
    Rules::new(&written).unwrap()
}

/// `psql` of ana, with `change` made to it.
fn psql(change: impl FnOnce(&mut Process)) -> Client {
    let mut process = Process {
        pid: 100,
        exe: Some("/usr/bin/psql".into()),
        command: Some("psql shop".into()),
        comm: "psql".into(),
        uid: Some(1000),
        os_user: Some("ana".into()),
        ..Process::default()
    };
    change(&mut process);
    Client::Local(Arc::new(process))
}

fn unit(process: &mut Process, unit: &str) {
    process.unit = Some(unit.into());
}

/// In ana's login session.
fn session(process: &mut Process) {
    unit(process, "session-3.scope");
    process.login_uid = Some(1000);
    process.login_user = Some("ana".into());
    process.login_strength = LoginStrength::Strong;
}

/// Says that ana logged in, where she didn't.
fn forged(process: &mut Process) {
    process.login_uid = Some(1000);
    process.login_user = Some("ana".into());
    process.login_strength = LoginStrength::Weak;
}

/// Puts what it runs, as exe and command line, before the ancestors that are there.
fn under(process: &mut Process, exe: &str, command: &str) {
    let comm = command.split(' ').next().unwrap_or_default();
    let parent = Parent { pid: 90, comm: comm.rsplit('/').next().unwrap_or_default().into() };
    let program = Program { exe: Some(exe.into()), command: Some(command.into()) };
    process.parents = [&[parent], &*process.parents].concat().into();
    process.programs = [&[Arc::new(program)], &*process.programs].concat().into();
}

fn remote(address: &str) -> Client {
    Client::Remote { address: address.parse().unwrap(), port: 40_000 }
}

fn subject(client: &Client) -> Subject<'_> {
    Subject {
        client,
        db_user: Some("shop"),
        db_user_proven: false,
        application: Some("psql"),
        certificate: None,
        claims: None,
    }
}

/// `kind name rule`, and of an AI ` < kind name rule` of who launched it.
fn said(principal: &Principal) -> String {
    let Principal { kind, name, rule, initiator, .. } = principal;
    let initiator = initiator.as_deref().map(|other| format!(" < {}", said(other)));
    format!("{} {name} {rule}{}", kind.name(), initiator.unwrap_or_default())
}

#[track_caller]
fn check(rules: &Rules, client: &Client, expected: &str) {
    assert_eq!(said(&rules.decide(&subject(client))), expected);
}

#[test]
fn what_is_known_without_any_configuration() {
    let id = "0123456789abcdef".repeat(4);
    let rules = rules("");
    type Change<'a> = &'a dyn Fn(&mut Process);
    let cases: [(Change<'_>, &str); 17] = [
        (&|_| {}, "unknown ana builtin:local-process"),
        (&|p| p.os_user = None, "unknown uid 1000 builtin:local-process"),
        (&session, "human ana builtin:login-session"),
        // Behind sudo.
        (
            &|p| {
                session(p);
                (p.uid, p.os_user) = (Some(0), Some("root".into()));
            },
            "human ana builtin:login-session",
        ),
        (&forged, "unknown ana builtin:local-process"),
        (
            &|p| {
                forged(p);
                unit(p, "session-4.scope");
            },
            "unknown ana builtin:local-process",
        ),
        (&|p| unit(p, "shop-api.service"), "service shop-api builtin:system-unit"),
        (
            &|p| {
                forged(p);
                unit(p, "shop-api.service");
            },
            "service shop-api builtin:system-unit",
        ),
        (&|p| unit(p, "ssh.service"), "unknown ana builtin:login-service"),
        (&|p| unit(p, "sshd@7-10.0.0.1.service"), "unknown ana builtin:login-service"),
        (&|p| unit(p, "user@1000.service"), "unknown ana builtin:user-unit"),
        (&|p| unit(p, "user@1001.service/cron.service"), "unknown uid 1001 builtin:user-unit"),
        (&|p| p.container = Some(id.as_str().into()), "service 0123456789ab builtin:container"),
        (
            &|p| {
                p.container = Some(id.as_str().into());
                unit(p, "user@1000.service/libpod-x.scope");
            },
            "unknown ana builtin:user-unit",
        ),
        (
            &|p| {
                p.container = Some(id.as_str().into());
                p.pod = Some("shop-0".into());
            },
            "service shop-0 builtin:pod",
        ),
        (&|p| unit(p, "init.scope"), "unknown ana builtin:local-process"),
        (&|p| p.exe = None, "unknown unknown builtin:nobody"),
    ];
    for (change, expected) in cases {
        check(&rules, &psql(change), expected);
    }
    check(&rules, &remote("10.0.0.7"), "unknown 10.0.0.7 builtin:remote");
    check(&rules, &remote("::ffff:10.0.0.7"), "unknown 10.0.0.7 builtin:remote");
    check(&rules, &Client::LocalUnknown, "unknown unknown builtin:nobody");
}

#[test]
fn agents_and_who_launched_them() {
    let rules = rules("");
    type Change<'a> = &'a dyn Fn(&mut Process);
    let cases: [(Change<'_>, &str); 9] = [
        (
            &|p| {
                session(p);
                under(p, "/home/ana/.local/bin/claude", "claude --resume");
                under(p, "/bin/bash", "bash -c psql");
            },
            "ai claude-code builtin:claude-code < human ana builtin:login-session",
        ),
        (
            &|p| {
                unit(p, "nightly.service");
                under(p, "/usr/bin/node", "node /usr/lib/node_modules/@openai/codex/bin/codex.js");
            },
            "ai codex builtin:codex < service nightly builtin:system-unit",
        ),
        (
            &|p| {
                p.exe = Some("/usr/bin/python3.11".into());
                p.command = Some("python3 -m mcp_server_postgres".into());
            },
            "ai mcp_server_postgres builtin:mcp-server < unknown ana builtin:local-process",
        ),
        (
            &|p| {
                session(p);
                under(p, "/usr/bin/node", "npm exec @modelcontextprotocol/server-postgres x");
            },
            "ai server-postgres builtin:mcp-server < human ana builtin:login-session",
        ),
        // One that was started before dbwarden is known by the file behind the link.
        (
            &|p| under(p, "/home/ana/.local/share/claude/versions/2.0.1", "x"),
            "ai claude-code builtin:claude-code < unknown ana builtin:local-process",
        ),
        // Copied under another name, with its old title.
        (
            &|p| under(p, "/tmp/helper", "claude"),
            "ai claude-code builtin:claude-code < unknown ana builtin:local-process",
        ),
        // And without: it is what its user is.
        (
            &|p| {
                session(p);
                under(p, "/tmp/helper", "helper");
            },
            "human ana builtin:login-session",
        ),
        // Migrations, and words that only look so.
        (&|p| under(p, "/usr/local/bin/goose", "goose up"), "unknown ana builtin:local-process"),
        (&|p| under(p, "/bin/vi", "vi claude"), "unknown ana builtin:local-process"),
    ];
    for (change, expected) in cases {
        check(&rules, &psql(change), expected);
    }
}

#[test]
fn the_first_rule_wins_and_hides_no_agent() {
    let rules = rules(
        r#"
        [[principal]]
        id = "goose"
        kind = "service"
        name = "migrations"
        os_user = "ana"
        exe = "/usr/local/bin/codex"

        [[principal]]
        id = "etl"
        kind = "service"
        name = "etl"
        os_user = "etl"
        exe = "/usr/bin/psql"

        [[principal]]
        kind = "human"
        name = "Ana"
        groups = ["dba"]
        login_user = "ana"

        [[principal]]
        kind = "service"
        name = "office"
        client_address = ["10.1.0.0/16", "192.0.2.7"]

        [[principal]]
        kind = "ai"
        name = "night {unit}"
        unit = ["night-*.service", "bot.service"]

        [[principal]]
        kind = "service"
        name = "{db_user}"
        db_user = "shop"

        [[principal]]
        kind = "human"
        name = "the admin"
        uid = [0, 1001]
        "#,
    );
    type Change<'a> = &'a dyn Fn(&mut Process);
    let cases: [(Change<'_>, &str); 9] = [
        (&session, "human Ana principal-3"),
        (
            &|p| {
                session(p);
                under(p, "/usr/bin/claude", "claude");
            },
            "ai claude-code builtin:claude-code < human Ana principal-3",
        ),
        (&|p| p.os_user = Some("etl".into()), "service etl etl"),
        // It names a program, but not the agent.
        (
            &|p| {
                p.os_user = Some("etl".into());
                under(p, "/usr/bin/claude", "claude");
            },
            "ai claude-code builtin:claude-code < service etl etl",
        ),
        // This one names the agent, so its word about it stands.
        (
            &|p| {
                session(p);
                p.exe = Some("/usr/local/bin/codex".into());
            },
            "service migrations goose",
        ),
        (
            &|p| unit(p, "night-1.service"),
            "ai night night-1 principal-5 < service night-1 builtin:system-unit",
        ),
        // A user's unit of that name isn't it.
        (&|p| unit(p, "user@1000.service/bot.service"), "unknown ana builtin:user-unit"),
        (&|p| p.uid = Some(1001), "human the admin principal-7"),
        // The container's uid is nobody's here.
        (
            &|p| {
                p.uid = Some(1001);
                p.container = Some("web".into());
            },
            "service web builtin:container",
        ),
    ];
    for (change, expected) in cases {
        check(&rules, &psql(change), expected);
    }
    check(&rules, &remote("10.1.2.3"), "service office principal-4");
    check(&rules, &remote("192.0.2.8"), "unknown 192.0.2.8 builtin:remote");
    // The server has asked for a password, or it hasn't.
    let client = remote("192.0.2.8");
    let proven = Subject { db_user_proven: true, ..subject(&client) };
    assert_eq!(said(&rules.decide(&proven)), "service shop principal-6");
    let groups = rules.decide(&subject(&psql(session))).groups;
    assert_eq!(&*groups, ["dba".into()]);
}

#[test]
fn claims_lower_trust_and_never_raise_it() {
    let rules = rules(
        r#"
        [[principal]]
        kind = "unknown"
        name = "a stranger"
        application = "curl*"
        "#,
    );
    let client = psql(session);
    let tag = |name: &str, value: &str| ClaimTag { name: name.into(), value: value.into() };
    let agent = Claims { tags: vec![tag("agent", "ana")], trace: None };
    let claimed = Subject { claims: Some(&agent), ..subject(&client) };
    let principal = rules.decide(&claimed);
    assert_eq!(
        said(&principal),
        "ai claimed agent builtin:claimed-agent < human ana builtin:login-session"
    );
    assert_eq!(principal.evidence[0].value, "agent=ana");
    assert_eq!(principal.evidence[0].strength, Strength::Claim);
    let free = Claims { tags: vec![tag("model", "Order"), tag("route", "/")], trace: None };
    assert_eq!(rules.telling(&free), [tag("model", "Order")]);
    let free = Subject { claims: Some(&free), ..subject(&client) };
    assert_eq!(said(&rules.decide(&free)), "human ana builtin:login-session");
    let curl = Subject { application: Some("curl/8"), ..subject(&client) };
    assert_eq!(said(&rules.decide(&curl)), "unknown a stranger principal-1");
}

#[test]
fn evidence_says_what_it_is_worth() {
    let rules = rules("");
    let check = |client: &Client, expected: &[(&str, &str, Strength)]| {
        let principal = rules.decide(&subject(client));
        let found: Vec<_> =
            principal.evidence.iter().map(|e| (e.fact, e.value.as_str(), e.strength)).collect();
        assert_eq!(found, expected);
    };
    check(&psql(session), &[("login_user", "ana", Strength::Strong)]);
    check(
        &psql(|p| {
            forged(p);
            unit(p, "shop.service");
        }),
        &[
            ("unit", "shop.service", Strength::Strong),
            (
                "login_uid",
                "1000 (ana), but no login session of that user: it may be forged",
                Strength::Weak,
            ),
        ],
    );
    check(
        &psql(|p| under(p, "/usr/bin/aider", "aider")),
        &[("program", "/usr/bin/aider (pid 90)", Strength::Weak)],
    );
    check(
        &psql(|p| under(p, "/usr/bin/python3", "python3 aider.py")),
        &[("program", "aider.py (pid 90)", Strength::Claim)],
    );
    check(&remote("192.0.2.1"), &[("client_address", "192.0.2.1", Strength::Strong)]);
}

/// A rule's mistake in words, or nothing.
fn mistake(toml: &str) -> String {
    let toml = format!("[[principal]]\n{toml}");
    let error = Rule::new(&written(&toml)[0], "principal-1").err();
    error.as_ref().map(RuleError::to_string).unwrap_or_default()
}

#[test]
fn rules_that_trust_a_clients_word_are_refused() {
    let claims = [
        "application = \"backup\"",
        "command = \"*backup*\"",
        "exe = \"/usr/bin/pg_dump\"",
        "program = \"pg_dump\"",
        "parents = \"cron\"",
        "claims = { agent = \"backup\" }",
        "application = \"backup\"\ncommand = \"x\"\nexe = \"/x\"",
        // Nothing is added by what everybody meets.
        "application = \"backup\"\nos_user = \"*\"",
        "application = \"backup\"\ndb_user = \"*\"",
        "application = \"backup\"\nunit = \"*\"",
        "application = \"backup\"\nunit = \"session-*.scope\"",
        "application = \"backup\"\nunit = \"user@*.service/backup.service\"",
        "application = \"backup\"\nclient_address = [\"10.0.0.0/8\", \"0.0.0.0/0\"]",
    ];
    for claim in claims {
        for kind in ["human", "service"] {
            let mistake = mistake(&format!("kind = \"{kind}\"\nname = \"x\"\n{claim}"));
            let expected = format!("the rule would call anybody a {kind} who meets `");
            assert!(mistake.starts_with(&expected), "{kind} by {claim}: {mistake}");
        }
        for kind in ["ai", "unknown"] {
            assert_eq!(mistake(&format!("kind = \"{kind}\"\nname = \"x\"\n{claim}")), "");
            let group =
                mistake(&format!("kind = \"{kind}\"\nname = \"x\"\ngroups = [\"dba\"]\n{claim}"));
            assert!(
                group.starts_with("the rule would call anybody a member of \"dba\""),
                "{group}"
            );
        }
        for proof in ["os_user = \"ana\"", "uid = 0", "login_uid = [1000]", "db_user = \"ana\""] {
            if claim.contains(proof.split(' ').next().unwrap_or_default()) {
                continue;
            }
            let sound =
                format!("kind = \"human\"\nname = \"x\"\ngroups = [\"dba\"]\n{proof}\n{claim}");
            assert_eq!(mistake(&sound), "");
        }
    }
    // A person, or a service, but nobody in particular.
    for any in ["login_user = \"*\"", "unit = \"*.service\"", "container = \"*\""] {
        assert_eq!(mistake(&format!("kind = \"service\"\nname = \"x\"\n{any}")), "");
        let group = mistake(&format!("kind = \"service\"\nname = \"x\"\ngroups = [\"a\"]\n{any}"));
        assert!(group.contains("a member of \"a\""), "{group}");
    }
}

#[test]
fn other_mistakes_are_told_in_words() {
    for (toml, expected) in [
        (
            "kind = \"ai\"\nname = \"x\"",
            "the rule has no condition, so it would be about everybody",
        ),
        ("kind = \"ai\"\nname = \"x\"\nunit = []", "`unit`: an empty list or word matches nobody"),
        ("kind = \"ai\"\nname = \"x\"\nuid = []", "`uid`: an empty list or word matches nobody"),
        (
            "kind = \"ai\"\nname = \"x\"\nclaims = {}",
            "`claims`: an empty list or word matches nobody",
        ),
        ("kind = \"ai\"\nname = \" \"\nuid = 1", "`name`: it is empty"),
        ("kind = \"ai\"\nname = \"{unit\"\nuid = 1", "`name`: `{` without a `}`"),
        (
            "kind = \"ai\"\nname = \"{application}\"\nuid = 1",
            "`name`: no such fact as {application}: there are {client_address}, {container}, \
             {db_user}, {login_user}, {os_user}, {owner}, {pod}, {program}, {unit}",
        ),
        (
            "kind = \"ai\"\nname = \"x\"\nclient_address = \"10.0.0.1/8\"",
            "`client_address`: \"10.0.0.1/8\" has bits behind its prefix: 10.0.0.0/8 is meant?",
        ),
        (
            "kind = \"service\"\nname = \"{program}\"\nprogram = \"x\"\nuid = 1",
            "`name`: {program} is for rules with `program` or `parents` that say kind = \"ai\" or \
             \"unknown\" without groups: a program's name is chosen by who runs it",
        ),
    ] {
        assert_eq!(mistake(toml), expected, "{toml}");
    }
}
