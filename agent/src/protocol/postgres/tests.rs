//! Conversations in literal bytes.

use crate::{
    event::{BootTime, Direction, Engine, Outcome, SessionEvent},
    protocol::{Limits, Session, Sink},
};

use Direction::{Request as C, Response as S};

/// What went over the wire: bytes, or a gap.
enum Wire {
    Bytes(Direction, &'static [u8]),
    /// Left out by budget.
    Gap(Direction, u64),
    Lost(Direction, u64),
}

/// One line an event.
fn run(wire: &[Wire]) -> Vec<String> {
    let mut lines = Vec::new();
    drive(wire, &mut |event| lines.push(line(event)));
    lines
}

fn drive(wire: &[Wire], sink: &mut Sink<'_>) {
    let mut session = Session::new(Engine::Postgresql, Limits::default());
    let mut at = BootTime(0);
    for piece in wire {
        at.0 += 1_000;
        match *piece {
            Wire::Bytes(direction, bytes) => session.bytes(direction, at, bytes, sink),
            Wire::Gap(direction, len) => session.gap(direction, at, len, 0, sink),
            Wire::Lost(direction, len) => session.gap(direction, at, len, len, sink),
        }
    }
    session.close(at, sink);
}

fn line(event: SessionEvent<'_>) -> String {
    let SessionEvent::Statement(s) = event else { return format!("{event:?}") };
    let outcome = match &s.outcome {
        Outcome::Done { tag, rows: Some(rows) } => format!("{tag} {rows}"),
        Outcome::Done { tag, rows: None } => tag.to_string(),
        Outcome::Failed { code, .. } => format!("failed {code}"),
        other => format!("{other:?}"),
    };
    let text = s.text.as_deref().unwrap_or("?");
    format!("{} {text}: {outcome}", s.sequence)
}

const START: &[u8] = b"\0\0\0\x12\0\x03\0\0user\0ann\0\0";
const WELCOME: &[u8] = b"R\0\0\0\x08\0\0\0\0K\0\0\0\x0c\0\0\0\x07SECRZ\0\0\0\x05I";
const Q1: &[u8] = b"Q\0\0\0\x0dselect 1\0";
const DONE: &[u8] = b"C\0\0\0\x0dSELECT 1\0Z\0\0\0\x05I";
const ERROR: &[u8] = b"E\0\0\0\x17SERROR\0C42601\0Mno\0\0";

fn check(name: &str, wire: &[Wire], expected: &[&str]) {
    let mut all = vec![Wire::Bytes(C, START), Wire::Bytes(S, WELCOME)];
    all.extend(wire.iter().map(|piece| match *piece {
        Wire::Bytes(direction, bytes) => Wire::Bytes(direction, bytes),
        Wire::Gap(direction, len) => Wire::Gap(direction, len),
        Wire::Lost(direction, len) => Wire::Lost(direction, len),
    }));
    let lines = run(&all);
    let lines: Vec<&str> = lines.iter().map(String::as_str).skip(2).collect();
    assert_eq!(lines, expected, "{name}");
}

#[test]
fn conversations() {
    use Wire::{Bytes, Gap, Lost};
    check("simple", &[Bytes(C, Q1), Bytes(S, DONE)], &["1 select 1: SELECT 1"]);
    check(
        "one statement for all completions of a Query",
        &[Bytes(C, Q1), Bytes(S, b"C\0\0\0\x0dSELECT 1\0"), Bytes(S, DONE)],
        &["1 select 1: SELECT 2"],
    );
    check("an error", &[Bytes(C, Q1), Bytes(S, ERROR)], &["1 select 1: failed 42601"]);
    check(
        "a portal run in parts is one statement",
        &[
            Bytes(C, b"P\0\0\0\x0b\0abc\0\0\0B\0\0\0\x0c\0\0\0\0\0\0\0\0E\0\0\0\x09\0\0\0\0\x02H\0\0\0\x04"),
            Bytes(S, b"1\0\0\0\x042\0\0\0\x04s\0\0\0\x04"),
            Bytes(C, b"E\0\0\0\x09\0\0\0\0\x02S\0\0\0\x04"),
            Bytes(S, DONE),
        ],
        &["1 abc: SELECT 3"],
    );
    check(
        "an error skips up to Sync; the Execute of what failed has the error",
        &[
            Bytes(C, b"P\0\0\0\x0b\0abc\0\0\0B\0\0\0\x0c\0\0\0\0\0\0\0\0E\0\0\0\x09\0\0\0\0\0"),
            Bytes(C, b"P\0\0\0\x0b\0def\0\0\0B\0\0\0\x0c\0\0\0\0\0\0\0\0E\0\0\0\x09\0\0\0\0\0S\0\0\0\x04"),
            Bytes(S, ERROR),
            Bytes(S, b"Z\0\0\0\x05I"),
        ],
        &["1 abc: failed 42601", "2 def: Skipped"],
    );
    check(
        "what comes after the error was told is skipped with its own text",
        &[
            Bytes(C, b"P\0\0\0\x0b\0abc\0\0\0B\0\0\0\x0c\0\0\0\0\0\0\0\0E\0\0\0\x09\0\0\0\0\0"),
            Bytes(S, b"1\0\0\0\x042\0\0\0\x04"),
            Bytes(S, ERROR),
            Bytes(C, b"P\0\0\0\x0b\0def\0\0\0B\0\0\0\x0c\0\0\0\0\0\0\0\0E\0\0\0\x09\0\0\0\0\0S\0\0\0\x04"),
            Bytes(S, b"Z\0\0\0\x05I"),
        ],
        &["1 abc: failed 42601", "2 def: Skipped"],
    );
    check(
        "the Execute of a Parse that failed comes after the error was told",
        &[
            Bytes(C, b"P\0\0\0\x0b\0abc\0\0\0"),
            Bytes(S, ERROR),
            Bytes(C, b"B\0\0\0\x0c\0\0\0\0\0\0\0\0E\0\0\0\x09\0\0\0\0\0S\0\0\0\x04"),
            Bytes(S, b"Z\0\0\0\x05I"),
        ],
        &["1 abc: failed 42601"],
    );
    check(
        "a Parse that failed alone was tried",
        &[
            Bytes(C, b"P\0\0\0\x0ba\0bc\0\0\0S\0\0\0\x04"),
            Bytes(S, ERROR),
            Bytes(S, b"Z\0\0\0\x05I"),
        ],
        &["1 bc: failed 42601"],
    );
    check(
        "a gap inside a body keeps the boundaries",
        &[Bytes(C, b"Q\0\0\x04\x0dselect 1"), Gap(C, 1024), Bytes(C, b"\0"), Bytes(S, DONE)],
        &["1 select 1: SELECT 1"],
    );
    check(
        "a gap across the boundaries of the answer to one statement",
        &[Bytes(C, Q1), Bytes(S, b"D\0\0\0\x0b\0\x01"), Gap(S, 1000), Bytes(S, DONE)],
        &[
            "SyncLost { direction: Response, why: Gap }",
            "SyncFound { direction: Response, skipped: 0 }",
            "1 select 1: SELECT 1",
        ],
    );
    check(
        "an answer that may be another's is nobody's",
        &[Bytes(C, Q1), Bytes(C, Q1), Gap(S, 20), Bytes(S, DONE), Bytes(C, Q1), Bytes(S, DONE)],
        &[
            "SyncLost { direction: Response, why: Gap }",
            "SyncFound { direction: Response, skipped: 0 }",
            "1 select 1: Unknown",
            "2 select 1: Unknown",
            "3 select 1: SELECT 1",
        ],
    );
    check(
        "where answers were lost, a request may have been lost, too",
        &[
            Bytes(C, Q1),
            // Its answer, another request, and the beginning of the other's answer.
            Lost(S, 1000),
            Bytes(S, b"C\0\0\0\x0dSELECT 7\0Z\0\0\0\x05I"),
            Lost(C, 14),
            Bytes(C, Q1),
            Bytes(S, DONE),
            Bytes(C, Q1),
            Bytes(S, DONE),
        ],
        &[
            "SyncLost { direction: Response, why: Gap }",
            "SyncFound { direction: Response, skipped: 0 }",
            "SyncLost { direction: Request, why: Gap }",
            "SyncFound { direction: Request, skipped: 0 }",
            "1 select 1: Unknown",
            "2 select 1: Unknown",
            "3 select 1: SELECT 1",
        ],
    );
    check(
        "a request that was lost gets nobody else's answer",
        &[Gap(C, 14), Bytes(S, DONE), Bytes(C, Q1), Bytes(S, DONE), Bytes(C, Q1), Bytes(S, DONE)],
        &[
            "SyncLost { direction: Request, why: Gap }",
            "SyncFound { direction: Request, skipped: 0 }",
            "1 select 1: SELECT 1",
            "2 select 1: SELECT 1",
        ],
    );
    check("copy ends what ignores Sync", COPY_IN, &["1 abc: COPY 1"]);
    check("good-bye", &[Bytes(C, b"X\0\0\0\x04")], &["Terminated"]);
}

/// Each text with the setting under which the server has read it.
#[test]
fn texts_are_read_as_the_session_has_said() {
    use Wire::{Bytes, Gap};
    const OFF: &[u8] = b"S\0\0\0\x24standard_conforming_strings\0off\0";
    const ON: &[u8] = b"S\0\0\0\x23standard_conforming_strings\0on\0";
    const READY: &[u8] = b"Z\0\0\0\x05I";
    const RUN: &[u8] = b"B\0\0\0\x0c\0\0\0\0\0\0\0\0E\0\0\0\x09\0\0\0\0\0";
    const PARSE: &[u8] = b"P\0\0\0\x0b\0abc\0\0\0";
    const SYNC: &[u8] = b"S\0\0\0\x04";
    const ANSWER: &[u8] = b"1\0\0\0\x042\0\0\0\x04C\0\0\0\x0dSELECT 1\0";
    const RAN: &[u8] = b"2\0\0\0\x04C\0\0\0\x0dSELECT 1\0Z\0\0\0\x05I";
    let login = |setting| [Bytes(C, START), Bytes(S, setting), Bytes(S, WELCOME)];
    let check = |name: &str, wire: Vec<Wire>, expected: &[Option<bool>]| {
        let mut found = Vec::new();
        drive(&wire, &mut |event| {
            if let SessionEvent::Statement(statement) = event {
                found.push(statement.standard_conforming_strings);
            }
        });
        assert_eq!(found, expected, "{name}");
    };
    let after = |setting, wire: Vec<Wire>| login(setting).into_iter().chain(wire).collect();
    let query = || vec![Bytes(C, Q1), Bytes(S, DONE)];
    check("as said at the log-in", after(ON, query()), &[Some(true)]);
    check("off from the start", after(OFF, query()), &[Some(false)]);
    check("joined midstream", [query(), query()].into_iter().flatten().collect(), &[None, None]);
    check(
        "a statement that changes it is read before",
        after(
            ON,
            vec![
                Bytes(C, Q1),
                Bytes(S, b"C\0\0\0\x0dSELECT 1\0"),
                Bytes(S, OFF),
                Bytes(S, READY),
                Bytes(C, Q1),
                Bytes(S, DONE),
            ],
        ),
        &[Some(true), Some(false)],
    );
    check(
        "behind one that isn't answered nobody knows",
        after(ON, vec![Bytes(C, Q1), Bytes(C, Q1), Bytes(S, DONE), Bytes(S, DONE)]),
        &[Some(true), None],
    );
    check(
        "nor behind one of the same pipeline",
        after(
            ON,
            vec![
                Bytes(C, PARSE),
                Bytes(C, RUN),
                Bytes(C, PARSE),
                Bytes(C, RUN),
                Bytes(C, SYNC),
                Bytes(S, ANSWER),
                Bytes(S, ANSWER),
                Bytes(S, READY),
            ],
        ),
        &[Some(true), None],
    );
    check(
        "what is prepared stays as it was read",
        after(
            ON,
            vec![
                Bytes(C, PARSE),
                Bytes(C, SYNC),
                Bytes(S, b"1\0\0\0\x04"),
                Bytes(S, OFF),
                Bytes(S, READY),
                Bytes(C, RUN),
                Bytes(C, SYNC),
                Bytes(S, RAN),
            ],
        ),
        &[Some(true)],
    );
    check(
        "a report may have been missed",
        after(
            ON,
            vec![
                Bytes(C, Q1),
                Bytes(S, b"D\0\0\0\x0b\0\x01"),
                Gap(S, 1000),
                Bytes(S, DONE),
                Bytes(C, Q1),
                Bytes(S, DONE),
            ],
        ),
        &[Some(true), None],
    );
}

const COPY_IN: &[Wire] = &[
    Wire::Bytes(
        C,
        b"P\0\0\0\x0b\0abc\0\0\0B\0\0\0\x0c\0\0\0\0\0\0\0\0E\0\0\0\x09\0\0\0\0\0S\0\0\0\x04",
    ),
    Wire::Bytes(S, b"1\0\0\0\x042\0\0\0\x04G\0\0\0\x07\0\0\0"),
    Wire::Bytes(C, b"d\0\0\0\x06a\nc\0\0\0\x04S\0\0\0\x04"),
    Wire::Bytes(S, b"C\0\0\0\x0bCOPY 1\0Z\0\0\0\x05I"),
];

#[test]
fn starts() {
    use Wire::Bytes;
    let cases: &[(&str, &[Wire], &[&str])] = &[
        (
            "refused TLS, then the start-up, then refused",
            &[
                Bytes(C, b"\0\0\0\x08\x04\xd2\x16\x2f"),
                Bytes(S, b"N"),
                Bytes(C, START),
                Bytes(S, b"R\0\0\0\x0c\0\0\0\x05salt"),
                Bytes(C, b"p\0\0\0\x0asecret"),
                Bytes(S, b"E\0\0\0\x17SFATAL\0C28P01\0Mno\0\0"),
            ],
            &[
                "Startup { user: \"ann\", database: \"ann\", application: \"\", protocol: \"3.0\", replication: false }",
                "Refused { code: \"28P01\", message: \"no\" }",
            ],
        ),
        (
            "accepted TLS: ciphertext is passed over",
            &[
                Bytes(C, b"\0\0\0\x08\x04\xd2\x16\x2f"),
                Bytes(S, b"S"),
                Bytes(C, b"\x16\x03\x01"),
                Bytes(S, b"\x16\x03\x01"),
            ],
            &["EncryptionStarted { method: \"tls\" }"],
        ),
        (
            "TLS without asking",
            &[Bytes(C, b"\x16\x03\x01\0")],
            &["EncryptionStarted { method: \"tls\" }"],
        ),
        (
            "GSSAPI encryption",
            &[Bytes(C, b"\0\0\0\x08\x04\xd2\x16\x30"), Bytes(S, b"G")],
            &["EncryptionStarted { method: \"gssapi\" }"],
        ),
        (
            "a cancel request with the longer key of protocol 3.2",
            &[Bytes(C, b"\0\0\0\x14\x04\xd2\x16\x2e\0\0\x10\x01SECRETKEY")],
            &["Cancel { backend_pid: 4097 }"],
        ),
        (
            "joined at its first byte",
            &[Bytes(C, Q1), Bytes(S, DONE), Bytes(C, Q1), Bytes(S, DONE)],
            &[
                "SyncLost { direction: Request, why: JoinedMidstream }",
                "SyncLost { direction: Response, why: JoinedMidstream }",
                "SyncFound { direction: Request, skipped: 0 }",
                "SyncFound { direction: Response, skipped: 0 }",
                "1 select 1: Unknown",
                "2 select 1: SELECT 1",
            ],
        ),
    ];
    for (name, wire, expected) in cases {
        assert_eq!(&run(wire), expected, "{name}");
    }
}

/// What a session tells of requests that was told to.
fn asked(wire: &[Wire]) -> Vec<String> {
    let mut session = Session::new(Engine::Postgresql, Limits::default());
    session.tell_requests();
    let mut told = Vec::new();
    let at = BootTime(1);
    for piece in [Wire::Bytes(C, START), Wire::Bytes(S, WELCOME)].iter().chain(wire) {
        let Wire::Bytes(direction, bytes) = *piece else { continue };
        session.bytes(direction, at, bytes, &mut |event| match event {
            SessionEvent::Asked { .. } | SessionEvent::Ready { .. } => told.push(line(event)),
            _ => {}
        });
    }
    told
}

#[test]
fn a_request_is_the_same_under_another_name() {
    use Wire::Bytes;
    const EXECUTE: &[u8] = b"E\0\0\0\x09\0\0\0\0\0S\0\0\0\x04";
    const EXECUTED: &[u8] = b"1\0\0\0\x042\0\0\0\x04C\0\0\0\x0dSELECT 1\0Z\0\0\0\x05T";
    let client = asked(&[
        Bytes(C, b"P\0\0\0\x0ds1\0abc\0\0\0B\0\0\0\x13\0s1\0\0\0\0\x01\0\0\0\x01x\0\0"),
        Bytes(C, EXECUTE),
        Bytes(S, EXECUTED),
    ]);
    let pooler = asked(&[
        Bytes(C, b"P\0\0\0\x16PGBOUNCER_7\0abc\0\0\0"),
        Bytes(C, b"B\0\0\0\x1c\0PGBOUNCER_7\0\0\0\0\x01\0\0\0\x01x\0\0"),
        Bytes(C, EXECUTE),
        Bytes(S, EXECUTED),
    ]);
    let other = asked(&[
        Bytes(C, b"P\0\0\0\x0ds1\0abc\0\0\0B\0\0\0\x13\0s1\0\0\0\0\x01\0\0\0\x01y\0\0"),
        Bytes(C, EXECUTE),
        Bytes(S, EXECUTED),
    ]);
    let ready = "Ready { status: Some(InTransaction), unanswered: 2 }";
    let [logged_in, asked_for, answered] = client.as_slice() else { panic!("{client:?}") };
    assert_eq!(logged_in, "Ready { status: Some(Idle), unanswered: 1 }");
    assert!(asked_for.starts_with("Asked { sequence: 1, request: Known("), "{client:?}");
    assert_eq!(answered, ready);
    assert_eq!(client, pooler);
    assert_ne!(client, other);
    // Prepared before anybody watched.
    let unknown =
        asked(&[Bytes(C, b"B\0\0\0\x13\0s1\0\0\0\0\x01\0\0\0\x01x\0\0"), Bytes(C, EXECUTE)]);
    assert_eq!(unknown.last().unwrap(), "Asked { sequence: 1, request: Unknown }");
}
