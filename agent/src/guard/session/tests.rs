//! Sessions as tables: what either side says, and what the other one gets.

mod approvals;

use std::{borrow::Cow, slice::from_ref, sync::Arc};

use super::{Broken, Output};
use crate::{
    event::RequestSum,
    guard::{
        court::{Argument, Court, Denial, Moment, Nulled, Permit, Reading},
        masking::Hiding,
        report::Severity,
        session,
    },
    statement::{Lexing, Session, analyse_in},
};

/// Denies whatever is said to `DROP`, and calls by number.
#[derive(Default)]
struct Stern {
    told: Vec<(String, Option<String>)>,
    values: Vec<Argument>,
    method: Option<&'static str>,
}

pub(super) fn denial() -> Denial {
    Denial {
        code: Cow::Borrowed("42501"),
        rule: "test:drop".into(),
        message: "no DROP".into(),
        detail: "rule test:drop".into(),
        hint: Cow::Borrowed("Don't."),
        approval: None,
        needs: None,
    }
}

impl Court for Stern {
    fn read(&mut self, text: Option<&str>, state: Moment) -> Arc<Reading> {
        let standard_conforming_strings = state.conforming_strings.unwrap_or(true);
        let session = Session {
            lexing: Lexing { standard_conforming_strings },
            in_transaction: state.in_transaction,
            ..Session::default()
        };
        let analysed = Arc::new(analyse_in(text.unwrap_or("?"), &session));
        Arc::new(Reading::of(text.map(Into::into), analysed, None))
    }

    fn read_again(
        &mut self,
        reading: &Arc<Reading>,
        values: Option<Vec<Argument>>,
        state: Moment,
    ) -> Arc<Reading> {
        self.values.extend(values.into_iter().flatten());
        self.read(reading.text.as_deref(), state)
    }

    fn sent(&mut self, _reading: &Reading) {}

    fn prepared(&mut self, _name: &str, _reading: &Reading) {}

    fn judge(&mut self, reading: &Reading) -> Result<Permit, Denial> {
        match reading.text.as_deref() {
            Some(text) if !text.to_ascii_uppercase().contains("DROP") => Ok(Permit::given()),
            _ => Err(denial()),
        }
    }

    fn read_call(&mut self, _: Option<u32>, _: Vec<Argument>, moment: Moment) -> Arc<Reading> {
        self.read(None, moment)
    }

    fn denied(&mut self, token: &str, _denial: &Denial, text: Option<&str>) {
        self.told.push((token.to_owned(), text.map(str::to_owned)));
    }

    fn authenticated(&mut self, method: &'static str) {
        self.method = Some(method);
    }

    fn renamed(&mut self, _application: &str) {}

    fn hiding(&self) -> Arc<Hiding> {
        Arc::default()
    }

    fn summed(&mut self, _sum: RequestSum) {}

    fn summed_so_far(&mut self, _bytes: u64, _sum: RequestSum) {}
}

/// What flows may be NULL instead.
pub(super) fn nulled(said: &Arc<Reading>, other: Arc<Reading>) -> Arc<Reading> {
    let nulled =
        Nulled { said: said.clone(), columns: ["public.customers.ssn:null-flow".into()].into() };
    Arc::new(Reading { nulled: Some(Arc::new(nulled)), ..Reading::clone(&other) })
}

/// The same text with what flows, or without.
pub(super) const FLOWS: &str = "ssn > 'a'";
pub(super) const NULL: &str = "(NULL::pg_catalog.text) > 'a'";

pub(super) fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag];
    bytes.extend((body.len() as u32 + 4).to_be_bytes());
    bytes.extend(body);
    bytes
}

pub(super) fn query(text: &str) -> Vec<u8> {
    message(b'Q', format!("{text}\0").as_bytes())
}

pub(super) fn parse(name: &str, text: &str) -> Vec<u8> {
    message(b'P', format!("{name}\0{text}\0\0\0").as_bytes())
}

pub(super) fn bind(portal: &str, name: &str) -> Vec<u8> {
    message(b'B', format!("{portal}\0{name}\0\0\0\0\0\0\0").as_bytes())
}

pub(super) fn execute(portal: &str) -> Vec<u8> {
    message(b'E', format!("{portal}\0\0\0\0\0").as_bytes())
}

pub(super) fn sync() -> Vec<u8> {
    message(b'S', b"")
}

pub(super) fn ready() -> Vec<u8> {
    message(b'Z', b"I")
}

pub(super) const NONCE: u64 = 0xabc;

/// The text that stands for the nth denial.
fn poison(n: u64) -> String {
    format!("dbwarden_{NONCE:016x}_{n} /* denied by test:drop */")
}

fn server_error(n: u64) -> Vec<u8> {
    let text = format!("syntax error at or near \"dbwarden_{NONCE:016x}_{n}\"");
    message(b'E', format!("SERROR\0VERROR\0C42601\0M{text}\0P1\0\0").as_bytes())
}

pub(super) enum Says {
    Client(Vec<u8>, Vec<u8>),
    Server(Vec<u8>, Vec<u8>),
}
use Says::{Client, Server};

/// Each step's bytes in, and what goes to the other side; in one piece and byte by byte.
fn check(name: &str, steps: &[Says]) {
    check_before(Stern::default, name, steps);
}

/// Likewise, before any court; gives those that heard the steps.
pub(super) fn check_before<C: Court>(court: impl Fn() -> C, name: &str, steps: &[Says]) -> Vec<C> {
    let check = |piece: usize| {
        let mut court = court();
        let mut session = session::Session::new(NONCE);
        for step in steps {
            let mut out = Output::default();
            let (bytes, expected) = match step {
                Client(bytes, expected) | Server(bytes, expected) => (bytes, expected),
            };
            for part in bytes.chunks(piece.min(bytes.len().max(1))) {
                match step {
                    Client(..) => session.client_bytes(part, &mut court, &mut out).unwrap(),
                    Server(..) => session.server_bytes(part, &mut court, &mut out).unwrap(),
                }
            }
            let got = if matches!(step, Client(..)) { &out.to_server } else { &out.to_client };
            let show = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            assert_eq!(show(got), show(expected), "{name}, in pieces of {piece}");
        }
        court
    };
    [usize::MAX, 1, 3].map(check).into()
}

fn same(bytes: Vec<u8>) -> (Vec<u8>, Vec<u8>) {
    (bytes.clone(), bytes)
}

pub(super) fn client(parts: &[Vec<u8>]) -> Says {
    let (bytes, expected) = same(parts.concat());
    Client(bytes, expected)
}

pub(super) fn server(parts: &[Vec<u8>]) -> Says {
    let (bytes, expected) = same(parts.concat());
    Server(bytes, expected)
}

#[test]
fn what_is_allowed_passes_byte_for_byte() {
    let row = message(b'D', &[0; 300]);
    check(
        "allowed",
        &[
            client(&[message(b'p', b"SCRAM\0secret")]),
            server(&[
                message(b'R', b"\0\0\0\0"),
                message(b'S', b"client_encoding\0UTF8\0"),
                ready(),
            ]),
            client(&[query("SELECT 1")]),
            server(&[message(b'T', b"\0\0"), row.clone(), message(b'C', b"SELECT 1\0"), ready()]),
            client(&[
                parse("s", "SELECT 2"),
                bind("", "s"),
                message(b'D', b"P\0"),
                execute(""),
                sync(),
            ]),
            server(&[message(b'1', b""), message(b'2', b""), row, ready()]),
            client(&[message(b'd', &[7; 70_000]), message(b'c', b""), message(b'X', b"")]),
        ],
    );
}

#[test]
fn a_denied_query_fails_at_the_server_and_in_our_words_at_the_client() {
    check(
        "query",
        &[
            Client(query("DROP TABLE t"), query(&poison(1))),
            Server(
                [server_error(1), ready()].concat(),
                [denial().encode(Severity::Error), ready()].concat(),
            ),
            // An error of the server's own passes.
            client(&[query("SELECT x")]),
            server(&[message(b'E', b"SERROR\0C42703\0Mno x\0\0"), ready()]),
        ],
    );
}

#[test]
fn a_pipeline_with_one_denied_statement_is_sent_on_with_what_fails_in_its_place() {
    let sent = [parse("", "SELECT 1"), bind("", ""), execute(""), parse("", "DROP TABLE t")];
    let rest = [bind("", ""), execute(""), sync()].concat();
    let expected = [parse("", "SELECT 1"), bind("", ""), execute(""), parse("", &poison(1))];
    let answer = [message(b'1', b""), message(b'2', b""), message(b'C', b"SELECT 1\0")].concat();
    check(
        "pipeline",
        &[
            Client([sent.concat(), rest.clone()].concat(), [expected.concat(), rest].concat()),
            Server(
                [answer.clone(), server_error(1), ready()].concat(),
                [answer, denial().encode(Severity::Error), ready()].concat(),
            ),
        ],
    );
}

#[test]
fn a_name_is_judged_by_all_that_it_may_mean() {
    let mut court = Stern::default();
    let mut session = session::Session::new(NONCE);
    let mut out = Output::default();
    let mut say = |bytes: &[u8], out: &mut Output| {
        session.client_bytes(bytes, &mut court, out).unwrap();
        std::mem::take(&mut out.to_server)
    };
    // Nobody can use a denied statement by its name.
    say(&[parse("s", "DROP TABLE t"), sync()].concat(), &mut out);
    let sent = say(&[bind("", "s"), execute(""), sync()].concat(), &mut out);
    assert_eq!(sent, [bind("", "s"), execute(""), sync()].concat(), "the server knows none of it");
    // A call by number shows nothing of what it does.
    assert_eq!(say(&message(b'F', b"\0\0\0\x01\0\0\0\0\0\0"), &mut out), query(&poison(2)));
}

#[test]
fn a_text_that_is_too_long_is_denied_before_it_has_come() {
    let mut court = Stern::default();
    let mut session = session::Session::new(NONCE);
    let text = format!("SELECT '{}'", "x".repeat(1 << 20));
    let mut out = Output::default();
    let bytes = [query(&text), query("SELECT 1")].concat();
    for part in bytes.chunks(10_000) {
        session.client_bytes(part, &mut court, &mut out).unwrap();
        assert!(session.requests.waiting.len() <= 300_000);
    }
    assert_eq!(out.to_server, [query(&poison(1)), query("SELECT 1")].concat());
    assert_eq!(court.told, [(format!("dbwarden_{NONCE:016x}_1"), None)]);
}

#[test]
fn a_large_bind_is_judged_by_its_beginning_and_streamed() {
    let mut court = Stern::default();
    let mut session = session::Session::new(NONCE);
    let mut body = b"\0\0\0\0\0\x01".to_vec();
    body.extend((2_u32 << 20).to_be_bytes());
    body.extend(vec![b'x'; 2 << 20]);
    body.extend(b"\0\0");
    let bytes = [parse("", "SELECT $1"), message(b'B', &body), sync()].concat();
    let mut out = Output::default();
    for part in bytes.chunks(10_000) {
        session.client_bytes(part, &mut court, &mut out).unwrap();
        assert!(session.requests.waiting.len() <= 100_000);
    }
    assert_eq!(out.to_server, bytes);
}

#[test]
fn what_is_none_of_the_protocol_ends_the_session() {
    for (bytes, expected) in [
        (&b"\0\0\0\0\0"[..], Broken::UnknownMessage(0)),
        (b"GET / HTTP/1.0\r\n", Broken::UnknownMessage(b'G')),
        (b"Q\0\0\0\x03", Broken::BadLength(3)),
        (b"Q\xff\xff\xff\xff", Broken::BadLength(u32::MAX)),
        // Two texts in one message: which would be judged?
        (b"Q\0\0\0\x0aSEL\0X\0", Broken::Malformed(b'Q')),
        (b"Q\0\0\0\x06AB", Broken::Malformed(b'Q')),
        (b"P\0\0\0\x06AB", Broken::Malformed(b'P')),
        (b"B\0\0\0\x05\0", Broken::Malformed(b'B')),
        (b"E\0\0\0\x05\0", Broken::Malformed(b'E')),
        (b"C\0\0\0\x06Xa", Broken::Malformed(b'C')),
    ] {
        let outcome = session::Session::new(1).client_bytes(
            bytes,
            &mut Stern::default(),
            &mut Output::default(),
        );
        assert_eq!(outcome, Err(expected), "{bytes:?}");
    }
    let outcome = session::Session::new(1).server_bytes(
        b"HTTP/1.0",
        &mut Stern::default(),
        &mut Output::default(),
    );
    assert_eq!(outcome, Err(Broken::Server));
}

/// Else nobody could tell which answer belongs to which request, and a name might be taken for another statement.
#[test]
fn where_it_can_not_be_told_what_the_server_skips_the_session_ends() {
    let (copies_in, select) = (message(b'G', b"\0\0\0"), query("SELECT 1"));
    let (begun, data) = (parse("", "SELECT 1"), message(b'd', b"x"));
    let done = message(b'1', b"");
    let call = message(b'F', b"\0\0\0\x01\0\0\0\0\0\0");
    let copy = [query("COPY t FROM STDIN"), data.clone(), sync()].concat();
    let close = message(b'C', b"Ss\0");
    let cases: [(&str, &[Says], bool); 7] = [
        ("behind a close", &[client(&[close, select.clone()])], true),
        ("amid parts", &[client(&[begun.clone(), select.clone()])], false),
        ("a call amid parts", &[client(&[begun.clone(), call])], false),
        (
            "behind parts that are done",
            &[client(from_ref(&begun)), server(&[done]), client(&[select])],
            true,
        ),
        (
            "sync amid data",
            &[
                client(&[copy[..copy.len() - 5].to_vec()]),
                server(from_ref(&copies_in)),
                client(&[sync()]),
            ],
            false,
        ),
        ("sync behind data", &[client(&[copy]), server(from_ref(&copies_in))], false),
        (
            "sync before data",
            &[client(&[begun, sync()]), server(&[copies_in]), client(&[data])],
            true,
        ),
    ];
    for (name, steps, is_fine) in cases {
        let (mut court, mut out) = (Stern::default(), Output::default());
        let mut session = session::Session::new(NONCE);
        let outcome = steps.iter().try_for_each(|step| match step {
            Client(bytes, _) => session.client_bytes(bytes, &mut court, &mut out),
            Server(bytes, _) => session.server_bytes(bytes, &mut court, &mut out),
        });
        assert_eq!(outcome, if is_fine { Ok(()) } else { Err(Broken::Astray) }, "{name}");
    }
}

/// As the session's settings say; where they may be about to change, nothing but plain texts is let pass.
#[test]
fn a_text_is_read_as_the_server_will_read_it() {
    let mut court = Stern::default();
    let mut session = session::Session::new(NONCE);
    let mut out = Output::default();
    let set = query("SET client_encoding = 'SJIS'");
    let umlaut = query("SELECT 'ä'");
    let status = [
        message(b'S', b"standard_conforming_strings\0on\0"),
        message(b'S', b"client_encoding\0UTF8\0"),
        ready(),
    ];
    session.server_bytes(&status.concat(), &mut court, &mut out).unwrap();
    session.client_bytes(&umlaut, &mut court, &mut out).unwrap();
    session.client_bytes(&set, &mut court, &mut out).unwrap();
    assert_eq!(out.to_server, [umlaut.clone(), set.clone()].concat());
    out.to_server.clear();
    session.client_bytes(&umlaut, &mut court, &mut out).unwrap();
    assert_eq!(out.to_server, query(&poison(1)), "sent before the server has answered");
}

/// A parameter can be what makes a statement dangerous, and the moment too.
#[test]
fn what_depends_on_its_parameters_is_read_again_with_them() {
    let mut court = Stern::default();
    let mut session = session::Session::new(NONCE);
    let mut out = Output::default();
    let set = parse("s", "SELECT set_config($1, $2, false)");
    let mut body = b"\0s\0\0\0\0\x02".to_vec();
    for value in [b"role", &b"root"[..]] {
        body.extend((value.len() as u32).to_be_bytes());
        body.extend(value);
    }
    body.extend(b"\0\0");
    session.client_bytes(&[set, message(b'B', &body)].concat(), &mut court, &mut out).unwrap();
    let texts: Vec<_> = court.values.iter().map(|value| format!("{value:?}")).collect();
    assert_eq!(texts, [r#"Text("role")"#, r#"Text("root")"#]);
}
