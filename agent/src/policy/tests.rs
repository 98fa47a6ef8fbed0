//! Policies, statements and what becomes of them.

mod corpus;

use std::sync::Arc;

use super::{Caller, Case, Circumstances, Judge, Label, Region, Set, Source, Subject, World};
use crate::{
    event::{
        Analysis, ClaimTag, Destination, Effects, Facts, Judgement, Lane, Origin, PrincipalKind,
        Remote, Verdict, WallTime,
    },
    statement::{Lexing, analyse},
};

fn source(name: &str, text: &str) -> Source {
    Source { name: name.into(), text: text.into() }
}

fn world() -> World {
    let label = |name: &str, on: &str| Label { name: name.into(), on: vec![on.parse().unwrap()] };
    World {
        labels: vec![
            label("pii", "app.public.customers.ssn"),
            label("secret", "*.*.*.email"),
            label("residency:eu", "app.*.patients.*"),
        ],
        regions: vec![Region {
            name: "us-east-1".into(),
            networks: vec!["10.9.0.0/16".parse().unwrap()],
            units: Vec::new(),
            containers: Vec::new(),
        }],
        groups: vec!["dba".into(), "etl".into()],
    }
}

fn load(text: &str) -> Set {
    Set::load(&[source("t.cedar", text)], true, world()).unwrap_or_else(|wrong| panic!("{wrong}"))
}

/// What is wrong with a text.
fn wrong(text: &str) -> String {
    match Set::load(&[source("t.cedar", text)], true, world()) {
        Ok(_) => "nothing".into(),
        Err(complaints) => complaints.to_string(),
    }
}

fn facts(text: &str) -> Facts {
    Facts::clone(&analyse(text, Lexing::default()).whole)
}

/// Alice, who is nobody in particular, on the database `app` of a host in production.
fn caller() -> Caller {
    let origin = Origin {
        host: "db1".into(),
        environment: Some("production".into()),
        region: Some("eu-central-1".into()),
        server: Some("orders".into()),
        database: Some("app".into()),
        db_user: Some("app".into()),
        pid: Some(1),
        os_user: Some("alice".into()),
        lane: Some(Lane::Observed),
        ..Origin::default()
    };
    Caller::new(&origin, &world())
}

fn ai() -> Caller {
    Caller {
        kind: PrincipalKind::Ai,
        name: "codex".into(),
        initiator: Some("alice".into()),
        ..caller()
    }
}

fn human(groups: &[&str]) -> Caller {
    let groups = groups.iter().map(|group| Arc::from(*group)).collect();
    Caller { kind: PrincipalKind::Human, name: "alice".into(), groups, ..caller() }
}

fn judge(set: &Set, caller: &Caller, text: &str, rows: u64) -> Judgement {
    let facts = facts(text);
    let circumstances = Circumstances { rows: Some(rows), ..Circumstances::default() };
    set.decide(&Case { caller, subject: Subject::Statement(Some(&facts)), circumstances })
}

/// `10.0.0.1 443` or a path, its region, and the program that the database has started.
fn destination(to: &str, region: Option<&str>, program: Option<&str>) -> Destination {
    Destination {
        to: match to.split_once(' ') {
            Some((address, port)) => Remote::Ip(address.parse().unwrap(), port.parse().unwrap()),
            None => Remote::Unix(Some(to.into())),
        },
        region: region.map(Into::into),
        server: None,
        program: program.map(Into::into),
        by_server: program.is_none(),
    }
}

fn judge_outbound(set: &Set, caller: &Caller, to: &Destination) -> Judgement {
    let circumstances = Circumstances::default();
    set.decide(&Case { caller, subject: Subject::Outbound(to), circumstances })
}

fn judge_connect(set: &Set, caller: &Caller) -> Judgement {
    let circumstances = Circumstances::default();
    set.decide(&Case { caller, subject: Subject::Connect, circumstances })
}

fn rules(judgement: &Judgement) -> String {
    let dry = |dry: bool| if dry { "?" } else { "" };
    let all = judgement.findings.iter().map(|one| format!("{}{}", one.rule, dry(one.dry_run)));
    format!("{} {}", judgement.verdict.name(), all.collect::<Vec<_>>().join(" "))
        .trim_end()
        .replace("builtin:", "")
}

#[test]
fn the_starter_pack_tells_what_matters() {
    let set = load("");
    let remote = |address: &str| {
        let origin = Origin { client_address: Some(address.into()), ..Origin::default() };
        Caller { database: Some("app".into()), ..Caller::new(&origin, &world()) }
    };
    let test = Caller { environment: Some("test".into()), ..caller() };
    for (caller, text, rows, expected) in [
        (caller(), "SELECT 1", 1, "allow"),
        (caller(), "SELECT a FROM orders WHERE id = 1", 5_000, "allow"),
        // Any table may have the column that has the label.
        (caller(), "SELECT * FROM orders WHERE id = 1", 5_000, "flag bulk-read"),
        (caller(), "DELETE FROM visits WHERE id = 1", 1, "allow"),
        (caller(), "DELETE FROM visits", 0, "flag unrestricted-write"),
        (caller(), "UPDATE visits SET a = 1 WHERE true", 9, "flag unrestricted-write"),
        (caller(), "DROP TABLE visits", 0, "flag drop-in-production"),
        (caller(), "TRUNCATE visits", 0, "flag drop-in-production"),
        (test, "DROP TABLE visits", 0, "allow"),
        (caller(), "GRANT SELECT ON visits TO public", 0, "flag privileges"),
        (caller(), "CREATE ROLE bob", 0, "flag privileges"),
        (caller(), "ALTER SYSTEM SET wal_level = 'logical'", 0, "flag configuration"),
        (caller(), "SET log_statement = 'none'", 0, "flag audit-settings"),
        (caller(), "SELECT set_config('Log_Statement', 'none', false)", 0, "flag audit-settings"),
        (
            caller(),
            "SELECT set_config('log_' || 'statement', 'none', false)",
            0,
            "flag audit-settings",
        ),
        (caller(), "SELECT set_config($1, $2, true)", 0, "allow"),
        (caller(), "SELECT set_config('search_path', '', false)", 0, "allow"),
        (
            caller(),
            "UPDATE pg_settings SET setting = 'none' WHERE name = 'x'",
            0,
            "flag audit-settings",
        ),
        (caller(), "RESET ALL", 0, "allow"),
        (caller(), "ALTER SYSTEM RESET ALL", 0, "flag audit-settings configuration"),
        (caller(), "ALTER SYSTEM SET pgaudit.log = ''", 0, "flag audit-settings configuration"),
        (caller(), "SET search_path = x", 0, "allow"),
        (caller(), "COPY visits TO PROGRAM 'cat'", 5, "flag host-access"),
        // Labels: by column, by table, by what can't be told.
        (caller(), "SELECT ssn FROM customers", 1_001, "flag bulk-read"),
        (caller(), "SELECT ssn FROM customers", 1_000, "allow"),
        (caller(), "SELECT id FROM customers", 1_001, "allow"),
        (caller(), "SELECT * FROM public.customers", 1_001, "flag bulk-read"),
        (caller(), "SELECT email FROM staff", 1_001, "flag bulk-read"),
        (caller(), "COPY customers TO STDOUT", 1_001, "flag bulk-read"),
        (caller(), "SELECT * FROM generate_series(1, 2000)", 2_000, "allow"),
        // Who is meant.
        (ai(), "SELECT 1", 1, "allow"),
        (ai(), "INSERT INTO visits VALUES (1)", 1, "flag ai-writes"),
        (ai(), "CREATE TABLE x (a int)", 0, "flag ai-writes"),
        (ai(), "DELETE FROM visits", 1, "flag unrestricted-write ai-writes"),
        // Where it is read.
        (caller(), "SELECT * FROM patients", 1, "allow"),
        (remote("10.9.1.1"), "SELECT * FROM patients", 1, "flag residency"),
        (remote("192.0.2.1"), "SELECT * FROM patients", 1, "flag residency-unknown"),
        (remote("10.9.1.1"), "SELECT 1", 1, "allow"),
        (remote("10.9.1.1"), "SELECT * FROM visits", 1, "allow"),
        // What nobody can read.
        (caller(), "SELEC 1", 0, "flag unanalysed"),
    ] {
        assert_eq!(rules(&judge(&set, &caller, text, rows)), expected, "{text}");
    }
    let unseen = Case {
        caller: &caller(),
        subject: Subject::Statement(None),
        circumstances: Circumstances::default(),
    };
    assert_eq!(rules(&set.decide(&unseen)), "flag unanalysed");
    for rule in set.rules().values() {
        assert!(rule.why.is_some() && rule.silence.is_some(), "{}", rule.id);
    }
}

#[test]
fn what_a_database_connects_to_is_judged_too() {
    let set = load(
        r#"
        @id("no-lake") @verdict("cut") @message("m")
        forbid (principal, action == Action::"connect-out", resource == Database::"orders/app")
        when { context has address && context.address.isInRange(ip("10.7.0.0/16")) && context has port && context.port == 443 };
        @id("no-archive") @verdict("deny") @message("m")
        forbid (principal is Ai, action == Action::"connect-out", resource in Server::"orders")
        when { context has path && context.path like "/run/archive/*" };
        @id("backups") @silences("builtin:program-connects-out") @message("backups go out")
        permit (principal, action == Action::"connect-out", resource)
        when { context has program && context.program == "/usr/bin/pgbackrest" };
        @id("asleep") @verdict("flag") @message("m")
        forbid (principal, action, resource) when { context.hour > 22 };
        @id("statements-alone") @verdict("flag") @message("m")
        forbid (principal, action in Action::"statement", resource) when { context.effects.contains("lock") };
        "#,
    );
    let other = Caller { database: Some("other".into()), ..caller() };
    let server = Caller { database: None, ..caller() };
    let curl = Some("/usr/bin/curl");
    for (caller, to, region, program, expected) in [
        // `app` has tables that must not leave the eu.
        (caller(), "10.1.0.1 5432", Some("eu-west-1"), None, "allow"),
        (caller(), "10.1.0.1 5432", Some("us-east-1"), None, "flag residency-out"),
        (caller(), "10.1.0.1 5432", None, None, "flag residency-out-unknown"),
        (other.clone(), "10.1.0.1 5432", Some("us-east-1"), None, "allow"),
        // Nobody knows which database the server itself works for.
        (server, "10.1.0.1 5432", Some("us-east-1"), None, "flag residency-out"),
        (other.clone(), "10.1.0.1 443", None, curl, "flag program-connects-out"),
        (other.clone(), "/run/x", None, curl, "allow"),
        (other.clone(), "10.1.0.1 443", None, Some("/usr/bin/pgbackrest"), "allow"),
        (caller(), "10.7.0.1 443", Some("eu-west-1"), None, "cut no-lake"),
        (caller(), "10.7.0.1 80", Some("eu-west-1"), None, "allow"),
        (other, "10.7.0.1 443", Some("eu-west-1"), None, "allow"),
        // Nothing stands between a database and what it connects to.
        (ai(), "/run/archive/s", Some("eu-west-1"), None, "flag no-archive"),
        (caller(), "/run/archive/s", Some("eu-west-1"), None, "allow"),
    ] {
        let to = destination(to, region, program);
        assert_eq!(rules(&judge_outbound(&set, &caller, &to)), expected, "{to}");
    }
    let judgement = judge(&set, &caller(), "LOCK TABLE visits", 0);
    assert_eq!(rules(&judgement), "flag statements-alone");
    let near = set.nearly(&Case {
        caller: &caller(),
        subject: Subject::Outbound(&destination("10.7.0.1 80", Some("eu"), None)),
        circumstances: Circumstances::default(),
    });
    let near = near.unwrap().into_iter().find(|near| &*near.rule == "no-lake").unwrap();
    let unmet: Vec<_> = near.parts.iter().filter(|part| !part.met).collect();
    assert_eq!((near.action, unmet.len()), ("connect-out", 1));
}

#[test]
fn the_worst_verdict_wins_and_names_its_rule() {
    let set = load(
        r#"
        @id("mild") @verdict("flag") @severity("critical") @message("m")
        forbid (principal, action == Action::"delete", resource);
        @id("bad") @verdict("deny") @message("m")
        forbid (principal, action in Action::"write", resource);
        @id("worst-some-day") @verdict("cut") @mode("dry-run") @message("m")
        forbid (principal, action == Action::"delete", resource);
        @id("ask") @verdict("hold") @approvers("dba") @message("m")
        forbid (principal, action == Action::"delete", resource);
        "#,
    );
    let judgement = judge(&set, &caller(), "DELETE FROM t WHERE a = 1", 1);
    // The observed lane can't do more than flag.
    assert_eq!(rules(&judgement), "flag bad ask mild worst-some-day?");
    assert_eq!(judgement.rule.as_deref(), Some("bad"));
    assert_eq!(judgement.findings[0].verdict, Verdict::Deny);
    // What a rule would do some day makes no verdict.
    let set = load(
        r#"@id("dry") @verdict("deny") @mode("dry-run") @message("m")
        forbid (principal, action == Action::"read", resource);"#,
    );
    let judgement = judge(&set, &caller(), "SELECT a FROM t", 1);
    assert_eq!((rules(&judgement).as_str(), &judgement.rule), ("allow dry?", &None));
}

#[test]
fn exceptions_are_as_narrow_as_they_are_written() {
    let set = load(
        r#"
        @id("etl-empties-staging") @silences("builtin:unrestricted-write") @message("it owns it")
        permit (principal in Group::"etl", action == Action::"delete", resource == Table::"orders/app/staging");
        "#,
    );
    for (caller, text, expected) in [
        (human(&["etl"]), "DELETE FROM staging", "allow"),
        (human(&["dba"]), "DELETE FROM staging", "flag unrestricted-write"),
        (human(&["etl"]), "DELETE FROM visits", "flag unrestricted-write"),
        // One of two tables is not all.
        (
            human(&["etl"]),
            "WITH x AS (DELETE FROM staging RETURNING 1) DELETE FROM visits",
            "flag unrestricted-write",
        ),
        // The exception is from that rule only.
        (
            Caller { groups: human(&["etl"]).groups, ..ai() },
            "DELETE FROM staging",
            "flag ai-writes",
        ),
    ] {
        assert_eq!(rules(&judge(&set, &caller, text, 1)), expected, "{text}");
    }
}

#[test]
fn a_rule_that_breaks_is_a_finding() {
    let set = load(
        r#"@id("overflows") @verdict("deny") @message("m")
        forbid (principal, action == Action::"read", resource)
        when { 9223372036854775807 + context.hour > 0 };"#,
    );
    let at = |hour: i64| {
        let time = WallTime(hour * 3_600_000_000);
        let facts = facts("SELECT a FROM t");
        let circumstances = Circumstances { time, ..Circumstances::default() };
        set.decide(&Case {
            caller: &caller(),
            subject: Subject::Statement(Some(&facts)),
            circumstances,
        })
    };
    assert_eq!(at(0).findings[0].message.as_ref(), "m");
    let broken = at(1);
    assert_eq!(
        (rules(&broken).as_str(), broken.findings[0].verdict),
        ("flag overflows", Verdict::Flag)
    );
    assert!(broken.findings[0].message.contains("can't be evaluated"), "{broken:?}");
}

#[test]
fn claims_add_suspicion_and_only_where_rules_ask() {
    let set = load(
        r#"@id("says-it-is-an-agent") @verdict("flag") @message("m")
        forbid (principal, action, resource)
        when { context.claims.hasTag("agent") && context.claims.getTag("agent") like "codex*" };"#,
    );
    let facts = facts("SELECT a FROM t");
    for (claims, expected) in [
        (vec![], "allow"),
        (vec![("agent", "codex-cli")], "flag says-it-is-an-agent"),
        (vec![("agent", "other"), ("run_id", "codex")], "allow"),
    ] {
        let claims: Vec<ClaimTag> = claims
            .into_iter()
            .map(|(name, value)| ClaimTag { name: name.into(), value: value.into() })
            .collect();
        let circumstances = Circumstances { claims: &claims, ..Circumstances::default() };
        let case =
            Case { caller: &caller(), subject: Subject::Statement(Some(&facts)), circumstances };
        assert_eq!(rules(&set.decide(&case)), expected);
    }
}

#[test]
fn what_is_wrong_is_said_with_its_place_and_what_to_do() {
    let forbid = |annotations: &str, rest: &str| {
        format!(
            "@id(\"x\") @message(\"m\")\n{annotations}\nforbid (principal, action, resource){rest};"
        )
    };
    let when = |condition: &str| forbid("@verdict(\"flag\")", &format!("\nwhen {{ {condition} }}"));
    for (text, expected) in [
        (when("context.hour > 8"), "nothing"),
        // Missing attributes: strict.
        (when("context.region == \"eu\""), "t.cedar:4: unable to guarantee safety of access to optional attribute `region`"),
        (when("context.regoin == \"eu\""), "t.cedar:4: attribute `regoin`"),
        (when("principal.grade > 4"), "t.cedar:4: attribute `grade`"),
        (when("context.hour > \"8\""), "t.cedar:4: unexpected type"),
        (when("principal in Group::\"dbaa\""), "t.cedar:1: there is no group \"dbaa\"; did you mean `dba`?"),
        (when("resource in Label::\"pi\""), "t.cedar:1: there is no label \"pi\"; did you mean `pii`?"),
        (when("principal is Robot"), "t.cedar:4: unrecognized entity type `Robot`"),
        (when("context.hour > 8 && context.lane == context.hour"), "t.cedar:4: the types"),
        (when("principal is Human && principal is Ai"), "this rule can never fire"),
        (when("context.rows > 1000"), "optional attribute `rows`"),
        (when("context has rows && context.rows * 2 > 10"), "t.cedar:1: context.rows stands in something else"),
        (when("context has rows && context.rows > 1000"), "nothing"),
        (when("context == context"), "t.cedar:1: context is used as a whole"),
        (when("context.hour >"), "t.cedar:4: unexpected token `}`"),
        (forbid("@verdict(\"flagg\")", ""), "t.cedar:2: @verdict(\"flagg\") is not known; did you mean `flag`?"),
        (forbid("@verdict(\"allow\")", ""), "t.cedar:2: @verdict(\"allow\") is not known"),
        (forbid("", ""), "t.cedar:1: this rule has no @verdict"),
        (forbid("@verdict(\"flag\") @sevrity(\"low\")", ""), "t.cedar:2: unknown annotation @sevrity; did you mean `severity`?"),
        (forbid("@verdict(\"flag\") @mode(\"dryrun\")", ""), "t.cedar:2: @mode(\"dryrun\") is not known; did you mean `dry-run`?"),
        (forbid("@verdict(\"hold\")", ""), "t.cedar:2: verdict hold needs somebody who may approve"),
        (forbid("@verdict(\"hold\") @approvers(\"boss\")", ""), "t.cedar:1: there is no group \"boss\""),
        (forbid("@verdict(\"hold\") @approvers(\"dba, etl\")", ""), "nothing"),
        (
            forbid("@verdict(\"hold\") @approvers(\"dba\") @approvals(\"2\") @ttl(\"15m\")", ""),
            "nothing",
        ),
        (
            forbid("@verdict(\"hold\") @approvers(\"dba\") @approvals(\"many\")", ""),
            "t.cedar:2: @approvals(\"many\"): a number from 1 to 20",
        ),
        (
            forbid("@verdict(\"ticket\") @approvers(\"dba\") @ttl(\"soon\")", ""),
            "t.cedar:2: @ttl(\"soon\"): a time as in \"15m\" or \"2h\", of at most 7 days",
        ),
        (
            forbid("@verdict(\"deny\") @ttl(\"15m\")", ""),
            "t.cedar:2: @ttl is for verdicts that wait: hold and ticket",
        ),
        (forbid("@verdict(\"mask\")", ""), "t.cedar:2: verdict mask needs a mask"),
        (forbid("@verdict(\"mask\") @mask(\"hsah\")", ""), "t.cedar:2: @mask(\"hsah\"): there is no mask \"hsah\"; did you mean `hash`?"),
        (forbid("@verdict(\"mask\") @mask(\"fixed:\\0\")", ""), "t.cedar:2: @mask(\"fixed:\\0\"): a fixed text has up to 256 bytes"),
        (forbid("@verdict(\"deny\") @mask(\"hash\")", ""), "t.cedar:2: @mask is of no use to the verdict deny"),
        (forbid("@verdict(\"mask\") @mask(\"fixed:REDACTED\")", ""), "nothing"),
        (forbid("@verdict(\"mask\") @mask(\"hash\")\n@flow(\"nul\")", ""), "t.cedar:3: @flow(\"nul\") is not known; did you mean `null`?"),
        (forbid("@verdict(\"mask\") @mask(\"hash\")\n@flow(\"allow\")", ""), "t.cedar:3: @flow(\"allow\") is not known"),
        (forbid("@verdict(\"deny\")\n@flow(\"null\")", ""), "t.cedar:3: @flow is of no use to the verdict deny"),
        (forbid("@verdict(\"mask\") @mask(\"hash\") @flow(\"null\")", ""), "nothing"),
        // Not every action has every attribute.
        (when("context.effects.contains(\"read\")"), "say action in Action::\"statement\""),
        (when("context has program && context.program == \"/usr/bin/curl\""), "nothing"),
        (when("action == Action::\"connect-out\" && context has rows"), "this rule can never fire"),
        ("@id(\"x\") @verdict(\"flag\") @message(\"m\") forbid (principal, action == Action::\"connect-out\", resource is Table);".into(), "this rule can never fire"),
        ("@id(\"x\") @verdict(\"flag\") @message(\"m\") forbid (principal, action == Action::\"connect-out\", resource) when { context.by_servr };".into(), "t.cedar:1: attribute `by_servr`"),
        ("forbid (principal, action, resource);".into(), "t.cedar:1: this rule has no @id"),
        ("permit (principal, action, resource);".into(), "t.cedar:1: this rule has no @id"),
        ("@id(\"x\")\npermit (principal, action, resource);".into(), "t.cedar:1: this permit changes nothing"),
        ("@id(\"x\") @silences(\"builtin:bulk-reads\")\npermit (principal, action, resource);".into(), "t.cedar:1: there is no rule \"builtin:bulk-reads\"; did you mean `builtin:bulk-read`?"),
        ("@id(\"builtin:x\") @verdict(\"flag\") @message(\"m\") forbid (principal, action, resource);".into(), "builtin: is for what dbwarden brings along"),
        ("@id(\"x\") @verdict(\"flag\") @message(\"m\") forbid (principal == ?principal, action, resource);".into(), "a template stands for no rule"),
        (format!("{}\n{}", when("true"), when("true")), "t.cedar:5: another rule has the id \"x\": t.cedar:1"),
        ("@id(\"x\") @verdict(\"flag\") @message(\"m\") forbid (principal, action == Action::\"raed\", resource);".into(), "did you mean `Action::\"read\"`?"),
    ] {
        let said = wrong(&text);
        assert!(said.contains(expected), "{text}\n  expected {expected}\n  got {said}");
    }
}

#[test]
fn verdicts_are_remembered_as_far_as_rules_can_tell() {
    let text = r#"@id("night") @verdict("flag") @message("m")
        forbid (principal, action == Action::"drop", resource) when { context.hour < 6 };"#;
    let mut judge = Judge::new(Arc::new(load(text)));
    let origin = |pid| {
        let database = Some("app".into());
        Arc::new(Origin {
            pid: Some(pid),
            database,
            os_user: Some("a".into()),
            ..Origin::default()
        })
    };
    let facts = Arc::new(facts("SELECT ssn FROM customers"));
    let mut ask = |pid, rows, hour: i64| {
        let time = WallTime(hour * 3_600_000_000);
        let circumstances = Circumstances { time, rows: Some(rows), ..Circumstances::default() };
        let verdict = judge.judge(&origin(pid), Some(&facts), circumstances).verdict;
        (verdict, judge.counts().evaluated)
    };
    assert_eq!(ask(1, 1, 0), (Verdict::Allow, 1));
    assert_eq!(ask(1, 1_000, 0), (Verdict::Allow, 2));
    assert_eq!(ask(1, 999, 0), (Verdict::Allow, 2));
    assert_eq!(ask(1, 5_000, 0), (Verdict::Flag, 3));
    assert_eq!(ask(1, 6_000, 0), (Verdict::Flag, 3));
    // Another connection of the same caller; another text that says the same; another hour.
    assert_eq!(ask(2, 6_000, 0), (Verdict::Flag, 3));
    assert_eq!(ask(1, 1, 1), (Verdict::Allow, 4));
    let mut reach = |pid, region: &str| {
        let to = Arc::new(destination("10.1.0.1 5432", Some(region), None));
        judge.judge_outbound(&origin(pid), &to, WallTime(0));
        judge.counts().evaluated
    };
    assert_eq!([reach(1, "eu"), reach(2, "eu"), reach(1, "us"), reach(1, "eu")], [5, 5, 6, 6]);
    judge.replace(Arc::new(load("")));
    let circumstances = Circumstances { rows: Some(5_000), ..Circumstances::default() };
    assert_eq!(judge.judge(&origin(1), Some(&facts), circumstances).verdict, Verdict::Flag);
}

#[test]
fn what_came_close_is_told_by_its_parts() {
    let set = load(
        r#"@id("near") @verdict("flag") @message("m")
        forbid (principal is Ai, action == Action::"read", resource)
        when { context.hour < 6 && context has rows && context.rows > 10 }
        unless { principal in Group::"dba" };"#,
    );
    let facts = facts("SELECT a FROM t");
    let circumstances = Circumstances { rows: Some(1), ..Circumstances::default() };
    let near = set
        .nearly(&Case { caller: &ai(), subject: Subject::Statement(Some(&facts)), circumstances })
        .unwrap();
    let first = near.iter().find(|near| &*near.rule == "near").unwrap();
    let parts: Vec<String> = first
        .parts
        .iter()
        .map(|part| format!("{} {}", if part.met { "+" } else { "-" }, part.text))
        .collect();
    let expected = [
        "+ principal is Ai",
        "+ context.hour < 6",
        "+ context has rows",
        "- context.rows > 10",
        "+ unless principal in Group::\"dba\"",
    ];
    assert_eq!(
        parts.join("\n").replace(['(', ')'], "").replace("\"rows\"", "rows"),
        expected.join("\n")
    );
}

/// Whatever the loader is given, it answers; what it takes can be asked.
#[test]
fn the_loader_survives_any_text() {
    let seeds = [
        super::STARTER_PACK,
        "@id(\"x\") @verdict(\"flag\") @message(\"m\") forbid (principal, action, resource) when { context.hour > 3 };",
    ];
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below.max(1) as u64) as usize
    };
    for round in 0..150 {
        let seed = seeds[round % 2];
        let mut bytes = seed.as_bytes()[..seed.len().min(1_500)].to_vec();
        for _ in 0..=random(6) {
            let at = random(bytes.len());
            match random(4) {
                0 => bytes[at] = b"(){}[]\"@;,.&|=<>!?:\\0a\n"[random(23)],
                1 => drop(bytes.remove(at)),
                2 => bytes.truncate(at.max(1)),
                _ => {
                    let (from, to) = (random(bytes.len()), random(bytes.len()));
                    let part = bytes[from.min(to)..from.max(to).min(from.min(to) + 40)].to_vec();
                    bytes.splice(at..at, part);
                }
            }
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Ok(set) = Set::load(&[source("t.cedar", &text)], false, world()) {
            judge(&set, &ai(), "DELETE FROM t", 1);
        }
    }
    for nested in [
        format!(
            "@id(\"x\") @verdict(\"flag\") @message(\"m\") forbid (principal, action, resource) when {{ {}true{} }};",
            "(".repeat(20_000),
            ")".repeat(20_000)
        ),
        format!(
            "@id(\"x\") @verdict(\"flag\") @message(\"m\") forbid (principal, action, resource) when {{ {}true }};",
            "!".repeat(20_000)
        ),
        format!(
            "@id(\"x\") @verdict(\"flag\") @message(\"m\") forbid (principal, action, resource) when {{ {} }};",
            vec!["true"; 500].join(" && ")
        ),
    ] {
        let loaded = Set::load(&[source("t.cedar", &nested)], false, world());
        assert!(loaded.is_err());
    }
    let policy = |condition: &str| {
        format!(
            "@id(\"x\") @verdict(\"flag\") @message(\"m\") forbid (principal, action, resource) \
             when {{ {condition} }};"
        )
    };
    for deep in [vec!["1"; 99].join(" + ") + " > 3", vec!["context"; 99].join(".") + " > 3"] {
        let _ = Set::load(&[source("t.cedar", &policy(&deep))], false, world());
    }
    // As deep as it may be.
    let chain = vec!["context.hour > 3"; 33].join(" && ");
    let nested = format!("{}context.hour > 3{}", "(".repeat(14), ")".repeat(14));
    for condition in [chain, nested] {
        let set = load(&policy(&condition));
        let facts = facts("SELECT 1");
        let circumstances = Circumstances::default();
        let case =
            Case { caller: &caller(), subject: Subject::Statement(Some(&facts)), circumstances };
        set.nearly(&case).unwrap();
    }
}

#[test]
fn no_facts_are_worse_than_any() {
    for (analysis, expected) in
        [(Analysis::TooDeep, "flag unanalysed"), (Analysis::Complete, "allow")]
    {
        let nothing = Facts { effects: Effects::default(), analysis, ..facts("SELECT 1") };
        let circumstances = Circumstances::default();
        let case =
            Case { caller: &caller(), subject: Subject::Statement(Some(&nothing)), circumstances };
        assert_eq!(rules(&load("").decide(&case)), expected);
    }
}

/// Who connects is led to the guard, or goes straight on: rules about everything are about statements.
#[test]
fn who_connects_is_guarded_where_a_rule_says_so() {
    let guard = |id: &str, principal: &str, rest: &str| {
        format!(
            "@id(\"{id}\") @verdict(\"guard\") @message(\"m\")\n\
             forbid ({principal}, action == Action::\"connect\", resource) {rest};\n"
        )
    };
    let agents = guard("agents", "principal is Ai", "");
    let dry = agents.replace("@verdict", "@mode(\"dry-run\") @verdict");
    let everything = "@id(\"all\") @verdict(\"deny\") @message(\"m\") forbid (principal, action, resource) \
                      when { context.lane == \"observed\" && !context.past_guard };\n";
    let not_codex = "@id(\"codex\") @silences(\"agents\") permit (principal == Ai::\"codex\", \
                     action == Action::\"connect\", resource);\n";
    let orders = guard("orders", "principal", "when { resource == Server::\"orders\" }");
    let network =
        guard("far", "principal", "when { context.client_regions.contains(\"us-east-1\") }");
    let said =
        guard("said", "principal", "when { context has db_user || context has application }");
    let broken = guard("broken", "principal", "when { context.hour + 9223372036854775807 > 0 }");
    let far = {
        let origin = Origin { client_address: Some("10.9.0.1".into()), ..Origin::default() };
        Caller::new(&origin, &world())
    };
    let speaking = Caller { application: Some("psql".into()), past_guard: true, ..caller() };
    for (text, caller, expected) in [
        (String::new(), ai(), "allow"),
        (agents.clone(), ai(), "guard agents"),
        (agents.clone(), caller(), "allow"),
        (agents.clone(), Caller { lane: Lane::Guarded, ..ai() }, "guard agents"),
        (dry, ai(), "allow agents?"),
        (everything.to_owned(), ai(), "allow"),
        (format!("{agents}{not_codex}"), ai(), "allow"),
        (format!("{agents}{not_codex}"), Caller { name: "aider".into(), ..ai() }, "guard agents"),
        (orders.clone(), caller(), "guard orders"),
        (orders, Caller { server: Some("other".into()), ..caller() }, "allow"),
        (network.clone(), far, "guard far"),
        (network, caller(), "allow"),
        // Nobody has said anything yet, so it can't make a difference that somebody will.
        (said, speaking, "allow"),
    ] {
        assert_eq!(rules(&judge_connect(&load(&text), &caller)), expected, "{text}");
    }
    // What can't be evaluated is on the safe side.
    let hour = Circumstances { time: WallTime(3_600_000_000), ..Circumstances::default() };
    let (set, caller) = (load(&broken), caller());
    let case = Case { caller: &caller, subject: Subject::Connect, circumstances: hour };
    assert_eq!(rules(&set.decide(&case)), "guard broken");
    // It is no verdict on statements.
    assert_eq!(rules(&judge(&load(&agents), &ai(), "SELECT 1", 1)), "allow");

    for (text, expected) in [
        (
            "@id(\"x\") @verdict(\"guard\") @message(\"m\") forbid (principal, action, resource);",
            "verdict guard is about clients that connect\n",
        ),
        (
            "@id(\"x\") @verdict(\"guard\") @message(\"m\") forbid (principal, \
             action in [Action::\"connect\", Action::\"drop\"], resource);",
            "verdict guard is about clients that connect\n",
        ),
        (
            "@id(\"x\") @verdict(\"deny\") @message(\"m\") forbid (principal, \
             action == Action::\"connect\", resource);",
            "the only verdict about clients that connect is guard\n",
        ),
        (
            "@id(\"x\") @verdict(\"guard\") @message(\"m\") forbid (principal, \
             action == Action::\"connect\", resource) when { context.effects.contains(\"drop\") };",
            "effects",
        ),
    ] {
        let said = wrong(text);
        assert!(said.contains(expected), "{text}\n  expected {expected}\n  got {said}");
    }
}
