//! Requests as tables: who asks for what, who decides, and what that is good for.

use std::{sync::Arc, time::Duration};

use super::{
    Answer, Ask, Binding, Context, Decision, Given, Limits, Need, Outcome, Over, Registry,
    Undecided, Who, registry::State,
};
use crate::event::{
    Analysis, ConnectionId, Entry, Facts, Origin, Parent, PrincipalKind, Verdict, WallTime,
};

const SECOND: i64 = 1_000_000;
const MINUTE: i64 = 60 * SECOND;

fn limits() -> Limits {
    Limits {
        ttl: Duration::from_secs(900),
        hold: Duration::from_secs(120),
        break_glass: Some("oncall".to_owned()),
    }
}

fn registry() -> Registry {
    let mut registry = Registry::new(limits());
    registry.policies(&"v1".into(), WallTime(0));
    registry
}

fn facts(fingerprint: u64) -> Arc<Facts> {
    Arc::new(Facts {
        text: "DELETE FROM customers WHERE id = ?".into(),
        fingerprint,
        summary: "DELETE customers".into(),
        restricted: Some(true),
        ..Facts::nothing(Analysis::Complete)
    })
}

fn binding() -> Binding {
    Binding {
        server: "pg".to_owned(),
        database: "shop".to_owned(),
        text: "DELETE FROM customers WHERE id = $1".to_owned(),
        types: vec![23],
        parameters: vec![Given::Text("7".to_owned())],
        principal: Who { name: "alice".to_owned(), kind: PrincipalKind::Human, initiator: None },
        context: Context {
            session_user: "app".to_owned(),
            current_user: "app".to_owned(),
            search_path: "public".to_owned(),
            schemas: "public".to_owned(),
            settings: "ISO".to_owned(),
            objects: vec![("customers".to_owned(), Some("16401".to_owned()))],
            prepared: None,
        },
        does: "d".to_owned(),
        policy: "v1".to_owned(),
    }
}

fn need(approvers: &str, approvals: u32) -> Need {
    let approvers = approvers.split(' ').map(Into::into).collect();
    let (rule, message) = ("no-deletes".into(), "ask first".into());
    Need { rule, message, approvers, approvals, ttl: None }
}

fn ask(verdict: Verdict) -> Ask {
    Ask {
        number: 1,
        connection: ConnectionId(1),
        verdict,
        needs: vec![need("dba", 1)],
        binding: binding(),
        shown: binding().text,
        facts: facts(1),
        behind: Vec::new(),
        estimated_rows: Some(1),
        estimated_percent: None,
        application: None,
        principal_rule: None,
        waits_for: None,
    }
}

fn person(name: &str, groups: &[&str]) -> Origin {
    let number = u32::from(name.as_bytes()[0]);
    Origin {
        host: "db1".into(),
        principal: Some(name.into()),
        principal_kind: Some(PrincipalKind::Human),
        groups: groups.iter().map(|group| (*group).into()).collect(),
        pid: Some(number),
        uid: Some(number),
        login_uid: Some(number),
        session: Some(number),
        cgroup: Some(format!("/user.slice/user-{number}.slice/session-{number}.scope").into()),
        ..Origin::default()
    }
}

fn alice() -> Arc<Origin> {
    person("alice", &["dba", "oncall"]).into()
}

fn bob() -> Arc<Origin> {
    person("bob", &["dba"]).into()
}

/// What happened, as rows name it.
fn actions(outcome: &Outcome) -> Vec<&'static str> {
    let rows = outcome.rows.iter().map(|row| match row {
        Entry::Approval(row) => row.action.name(),
        Entry::Finding(_) => "finding",
        _ => "?",
    });
    rows.collect()
}

fn messages(outcome: &Outcome) -> String {
    let rows = outcome.rows.iter().filter_map(|row| match row {
        Entry::Approval(row) => Some(row.message.as_str()),
        _ => None,
    });
    rows.collect::<Vec<_>>().join("; ")
}

fn answer(outcome: &Outcome) -> &Answer {
    &outcome.answers.last().unwrap().1
}

fn asked(registry: &mut Registry, ask: Ask, at: i64) -> Arc<str> {
    let chance = 7_777 + at as u64 + ask.number;
    let outcome = registry.ask(ask, alice(), chance, WallTime(at));
    match answer(&outcome) {
        Answer::Ticket { id, .. } | Answer::Wait { id, .. } => id.clone(),
        other => panic!("{other:?}"),
    }
}

fn yes(id: &str) -> Decision {
    Decision { id: id.to_owned(), is_approval: true, ..Decision::default() }
}

fn approved(registry: &mut Registry, id: &str, at: i64) -> Outcome {
    let (outcome, decided) = registry.decide(&yes(id), &bob(), WallTime(at));
    decided.unwrap();
    outcome
}

#[test]
fn a_ticket_passes_once_when_it_was_approved() {
    let mut registry = registry();
    let id = asked(&mut registry, ask(Verdict::Ticket), 0);
    // The same again is the same request.
    let again = registry.ask(ask(Verdict::Ticket), alice(), 1, WallTime(1));
    assert!(matches!(answer(&again), Answer::Ticket { id: same, .. } if *same == id));
    assert!(actions(&again).is_empty());

    assert_eq!(actions(&approved(&mut registry, &id, 2)), ["approved"]);
    let used = registry.ask(Ask { number: 9, ..ask(Verdict::Ticket) }, alice(), 1, WallTime(3));
    assert_eq!(answer(&used), &Answer::Pass { id: id.clone() });
    assert_eq!(actions(&used), ["used"]);
    assert_eq!(messages(&used), "the statement passes, approved by bob (human)");

    let twice = registry.ask(ask(Verdict::Ticket), alice(), 99, WallTime(4));
    assert_eq!(actions(&twice), ["refused", "requested"]);
    assert!(messages(&twice).contains("it was used already"), "{}", messages(&twice));
    match answer(&twice) {
        Answer::Ticket { id: other, besides: Some(besides), .. } => {
            assert!(*other != id && besides.contains("it was used already"), "{besides}");
        }
        other => panic!("{other:?}"),
    }
}

/// Each change makes it something else.
#[test]
fn an_approval_is_good_for_nothing_else() {
    let role = |context: &mut Context| context.current_user = "admin".to_owned();
    let path = |context: &mut Context| context.search_path = "evil, public".to_owned();
    let schemas = |context: &mut Context| context.schemas = "pg_temp_3, public".to_owned();
    let settings = |context: &mut Context| context.settings = "DMY".to_owned();
    let object = |context: &mut Context| context.objects[0].1 = Some("16422".to_owned());
    let prepared = |context: &mut Context| context.prepared = Some("other".to_owned());
    let in_context = |change: fn(&mut Context)| {
        let mut changed = ask(Verdict::Ticket);
        change(&mut changed.binding.context);
        changed
    };
    let bound = |change: fn(&mut Binding)| {
        let mut changed = ask(Verdict::Ticket);
        change(&mut changed.binding);
        changed
    };
    let cases: [(&str, Ask, &str); 13] = [
        ("parameter", bound(|it| it.parameters = vec![Given::Text("8".to_owned())]), "parameters"),
        ("binary", bound(|it| it.parameters = vec![Given::Binary("37".to_owned())]), "parameters"),
        ("type", bound(|it| it.types = vec![25]), "parameters"),
        ("literal", bound(|it| it.text = "DELETE FROM customers WHERE id = 8".to_owned()), "text"),
        ("who", bound(|it| it.principal.name = "carol".to_owned()), "principal"),
        (
            "an agent of theirs",
            bound(|it| it.principal.initiator = Some("alice".to_owned())),
            "principal",
        ),
        ("database", bound(|it| it.database = "other".to_owned()), "database"),
        ("role", in_context(role), "role"),
        ("search_path", in_context(path), "search_path"),
        ("what it comes to", in_context(schemas), "search_path"),
        ("settings", in_context(settings), "settings"),
        ("another table by that name", in_context(object), "objects"),
        ("prepared", in_context(prepared), "prepared statements"),
    ];
    for (name, changed, expected) in cases {
        let mut registry = registry();
        let id = asked(&mut registry, ask(Verdict::Ticket), 0);
        approved(&mut registry, &id, 1);
        let other = registry.ask(changed, alice(), 5, WallTime(2));
        assert_eq!(actions(&other), ["refused", "requested"], "{name}");
        match answer(&other) {
            Answer::Ticket { id: new, besides: Some(besides), .. } => {
                assert!(*new != id, "{name}");
                assert_eq!(*besides, format!("{id} is not for this: {expected}"), "{name}");
            }
            other => panic!("{name}: {other:?}"),
        }
        // It is still good for what it was given for.
        let used = registry.ask(ask(Verdict::Ticket), alice(), 5, WallTime(3));
        assert_eq!(answer(&used), &Answer::Pass { id }, "{name}");
    }
}

/// The same statement, which another rule has something to say about by now.
#[test]
fn an_approval_is_as_much_as_was_asked_for() {
    let mut registry = registry();
    let id = asked(&mut registry, ask(Verdict::Ticket), 0);
    approved(&mut registry, &id, 1);
    let more = vec![need("dba", 1), Need { rule: "bulk".into(), ..need("security", 1) }];
    let other = registry.ask(Ask { needs: more, ..ask(Verdict::Ticket) }, alice(), 5, WallTime(2));
    assert_eq!(actions(&other), ["refused", "requested"]);
    assert!(messages(&other).contains("rules: bulk wants an approval"), "{}", messages(&other));
    let used = registry.ask(ask(Verdict::Ticket), alice(), 5, WallTime(3));
    assert_eq!(answer(&used), &Answer::Pass { id });
}

#[test]
fn other_policies_and_time_end_it() {
    for is_approved in [false, true] {
        let mut registry = registry();
        let id = asked(&mut registry, ask(Verdict::Ticket), 0);
        if is_approved {
            approved(&mut registry, &id, 1);
        }
        let ended = registry.policies(&"v2".into(), WallTime(2));
        assert_eq!(actions(&ended), ["denied"]);
        let (outcome, decided) = registry.decide(&yes(&id), &bob(), WallTime(3));
        assert_eq!(actions(&outcome), ["refused"]);
        assert_eq!(decided.unwrap_err(), Undecided::Over(id.to_string(), "denied"));
        let mut later = ask(Verdict::Ticket);
        later.binding.policy = "v2".to_owned();
        let later = registry.ask(later, alice(), 5, WallTime(4));
        assert_eq!(actions(&later), ["refused", "requested"]);
        assert!(messages(&later).contains("the policies have changed"), "{}", messages(&later));

        let mut registry = self::registry();
        let id = asked(&mut registry, ask(Verdict::Ticket), 0);
        let mut end = 15 * MINUTE;
        if is_approved {
            approved(&mut registry, &id, MINUTE);
            end += MINUTE;
        }
        assert!(actions(&registry.tick(WallTime(end - 1))).is_empty());
        assert_eq!(actions(&registry.tick(WallTime(end))), ["expired"]);
        let late = registry.ask(ask(Verdict::Ticket), alice(), 5, WallTime(end + 1));
        assert_eq!(actions(&late), ["refused", "requested"]);
        assert!(messages(&late).contains("it has expired"), "{}", messages(&late));
    }
}

#[test]
fn a_statement_waits_and_is_what_was_approved() {
    let mut registry = registry();
    let hold = || ask(Verdict::Hold);
    let id = asked(&mut registry, hold(), 0);
    // Another session's is its own.
    let other = asked(&mut registry, Ask { number: 2, ..hold() }, 1);
    assert!(other != id);
    let outcome = approved(&mut registry, &id, 2);
    assert_eq!(outcome.answers, [(1, Answer::Again { id: id.clone() })]);
    // Nobody else's identical statement takes it away.
    let third = registry.ask(Ask { number: 3, ..hold() }, alice(), 5, WallTime(3));
    assert!(matches!(answer(&third), Answer::Wait { .. }));
    let now = Ask { waits_for: Some(id.clone()), ..hold() };
    let passes = registry.ask(now.clone(), alice(), 5, WallTime(3));
    assert_eq!(answer(&passes), &Answer::Pass { id: id.clone() });
    let again = registry.ask(now, alice(), 5, WallTime(4));
    assert!(matches!(answer(&again), Answer::Denied { .. }), "once");

    // The table has become another one meanwhile.
    approved(&mut registry, &other, 5);
    let mut swapped = Ask { number: 2, waits_for: Some(other.clone()), ..hold() };
    swapped.binding.context.objects[0].1 = Some("16422".to_owned());
    let refused = registry.ask(swapped, alice(), 5, WallTime(6));
    assert_eq!(actions(&refused), ["refused", "denied"]);
    assert!(messages(&refused).contains("customers: 16401 → 16422"), "{}", messages(&refused));
    assert!(matches!(refused.answers.last().unwrap(), (2, Answer::Denied { .. })));
}

#[test]
fn whoever_does_not_wait_any_more_is_denied() {
    for (why, words) in [
        (Over::Left, "has left"),
        (Over::Cancelled, "has cancelled"),
        (Over::TimedOut, "statement_timeout"),
    ] {
        let mut registry = registry();
        let id = asked(&mut registry, ask(Verdict::Hold), 0);
        // A ticket doesn't hang on its session.
        let ticket = asked(&mut registry, ask(Verdict::Ticket), 1);
        let outcome = registry.over(1, why, WallTime(2));
        assert_eq!(actions(&outcome), ["denied"]);
        assert!(messages(&outcome).contains(words), "{}", messages(&outcome));
        assert!(outcome.answers.is_empty());
        let (_, decided) = registry.decide(&yes(&id), &bob(), WallTime(3));
        assert_eq!(decided.unwrap_err(), Undecided::Over(id.to_string(), "denied"));
        approved(&mut registry, &ticket, 3);
    }
    let mut registry = registry();
    asked(&mut registry, ask(Verdict::Hold), 0);
    let id = asked(&mut registry, ask(Verdict::Ticket), 1);
    approved(&mut registry, &id, 2);
    let ended = registry.end("the guard has ended", WallTime(3));
    assert_eq!(actions(&ended), ["denied", "denied"]);
    let expired = registry.tick(WallTime(i64::MAX));
    assert!(actions(&expired).is_empty(), "it is over already");
}

#[test]
fn who_may_decide() {
    let like = |change: fn(&mut Origin)| {
        let mut origin = person("bob", &["dba", "oncall"]);
        change(&mut origin);
        origin
    };
    let of_alice = |name: &str| Origin { principal: Some(name.into()), ..(*alice()).clone() };
    let parent = |pid| Parent { pid, comm: "sh".into() };
    let cases: [(&str, Origin, bool, Result<(), &str>); 15] = [
        ("bob", like(|_| {}), false, Ok(())),
        ("in an emergency", like(|_| {}), true, Ok(())),
        ("herself", (*alice()).clone(), false, Err("their own request")),
        ("herself, in an emergency", (*alice()).clone(), true, Err("their own request")),
        (
            "her second terminal",
            Origin { session: Some(99), ..of_alice("alice") },
            false,
            Err("own"),
        ),
        (
            "her login by another name",
            Origin { session: None, cgroup: None, uid: None, pid: None, ..of_alice("boss") },
            false,
            Err("their own login"),
        ),
        ("her account", like(|it| it.uid = Some(u32::from(b'a'))), false, Err("their own account")),
        ("her session", like(|it| it.session = Some(u32::from(b'a'))), false, Err("own session")),
        (
            "started by her process",
            like(|it| it.parents = [Parent { pid: 97, comm: "psql".into() }].into()),
            false,
            Err("has started the other"),
        ),
        (
            "an agent",
            like(|it| it.principal_kind = Some(PrincipalKind::Ai)),
            false,
            Err("only people"),
        ),
        (
            "a service",
            like(|it| it.principal_kind = Some(PrincipalKind::Service)),
            true,
            Err("only people"),
        ),
        ("root", like(|it| it.uid = Some(0)), false, Err("emergency only")),
        ("root in an emergency", like(|it| it.uid = Some(0)), true, Ok(())),
        ("of no such group", like(|it| it.groups = ["web".into()].into()), false, Err("dba")),
        ("not on call", like(|it| it.groups = ["dba".into()].into()), true, Err("not in oncall")),
    ];
    assert_eq!(parent(97).pid, u32::from(b'a'), "alice's process");
    for (name, approver, is_break_glass, expected) in cases {
        let mut registry = registry();
        let id = asked(&mut registry, ask(Verdict::Ticket), 0);
        let reason = Some("the shop is down".to_owned());
        let decision = Decision { is_break_glass, reason, ..yes(&id) };
        let (outcome, decided) = registry.decide(&decision, &approver.into(), WallTime(1));
        match (decided, expected) {
            (Ok(request), Ok(())) => {
                assert_eq!(request.state, State::Approved, "{name}");
                let rows: &[&str] = match is_break_glass {
                    true => &["approved", "finding"],
                    false => &["approved"],
                };
                assert_eq!(actions(&outcome), rows, "{name}");
            }
            (Err(why), Err(words)) => {
                assert!(why.to_string().contains(words), "{name}: {why}");
                assert_eq!(actions(&outcome), ["refused"], "{name}");
                assert_eq!(registry.request(&id).unwrap().state, State::Open, "{name}");
            }
            (decided, expected) => panic!("{name}: {decided:?}, expected {expected:?}"),
        }
    }
}

/// Whoever has launched an AI is the one who asks.
#[test]
fn an_agents_human_does_not_approve() {
    let mut registry = registry();
    let agent = Origin {
        principal: Some("claude-code".into()),
        principal_kind: Some(PrincipalKind::Ai),
        initiator: Some("bob".into()),
        ..Origin::default()
    };
    let outcome = registry.ask(ask(Verdict::Ticket), agent.into(), 7, WallTime(0));
    let Answer::Ticket { id, .. } = answer(&outcome).clone() else { panic!("{outcome:?}") };
    let (_, decided) = registry.decide(&yes(&id), &bob(), WallTime(1));
    let why = decided.unwrap_err().to_string();
    assert!(why.contains("the request of claude-code, whom they have launched"), "{why}");
    let carol = person("carol", &["dba"]).into();
    registry.decide(&yes(&id), &carol, WallTime(2)).1.unwrap();
}

#[test]
fn several_rules_and_several_people() {
    let mut registry = registry();
    let needs = vec![need("dba", 2), need("security dba", 1)];
    let id = asked(&mut registry, Ask { needs, ..ask(Verdict::Ticket) }, 0);
    assert_eq!(
        registry.request(&id).unwrap().whose(),
        "2 members of dba and a member of security or dba"
    );
    let decide = |registry: &mut Registry, name: &str, group: &str| {
        let person = person(name, &[group]).into();
        let (_, decided) = registry.decide(&yes(&id), &person, WallTime(1));
        decided.map(|request| (request.state.name(), request.progress()))
    };
    assert_eq!(decide(&mut registry, "bob", "dba").unwrap(), ("open", (2, 3)));
    assert_eq!(
        decide(&mut registry, "bob", "dba").unwrap_err(),
        Undecided::Twice("bob (human)".to_owned())
    );
    assert_eq!(decide(&mut registry, "eve", "security").unwrap(), ("open", (2, 3)));
    assert_eq!(decide(&mut registry, "carol", "dba").unwrap(), ("approved", (3, 3)));

    // One who denies is enough, also after it was approved.
    let no = Decision { reason: Some("not today".to_owned()), ..Decision::default() };
    let no = Decision { id: id.to_string(), ..no };
    let (outcome, decided) = registry.decide(&no, &bob(), WallTime(2));
    assert_eq!(decided.unwrap().state.name(), "denied");
    assert_eq!(
        messages(&outcome),
        "bob (human) has denied the request of alice (human): not today"
    );
    let sent = registry.ask(ask(Verdict::Ticket), alice(), 5, WallTime(3));
    assert!(matches!(answer(&sent), Answer::Ticket { id: new, .. } if *new != id));
}

#[test]
fn requests_are_bounded() {
    let mut registry = registry();
    let nth = |n: u64| {
        let mut ask = Ask { number: n, ..ask(Verdict::Ticket) };
        ask.binding.parameters = vec![Given::Text(n.to_string())];
        ask
    };
    for n in 0..50 {
        asked(&mut registry, nth(n), n as i64);
    }
    let more = registry.ask(nth(50), alice(), 5, WallTime(51));
    match answer(&more) {
        Answer::Denied { id: None, why } => assert_eq!(why, "alice (human) has 50 open requests"),
        other => panic!("{other:?}"),
    }
    // Those that are over make room.
    for round in 1..30 {
        registry.end("", WallTime(round));
        for n in 0..50 {
            asked(&mut registry, nth(n), n as i64);
        }
    }
    assert!(registry.requests().count() <= 551, "{}", registry.requests().count());
}
