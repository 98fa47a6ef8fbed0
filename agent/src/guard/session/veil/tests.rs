//! Sessions of masked clients as tables: what either side says, and what the other one gets.

mod broken;
mod reworded;

use std::sync::Arc;

use super::super::tests::{
    FLOWS, NONCE, NULL,
    Says::{self, Client, Server},
    bind, check_before, client, denial, execute, message, nulled, parse, query, ready, server,
    sync,
};
use crate::{
    event::{Flow, RequestSum},
    guard::{
        court::{Argument, Court, Denial, Moment, Permit, Reading},
        masking::{CopyColumn, Hiding, Masked, Masks, TextPrint},
    },
    statement::analyse,
};

/// A table's number, and that of one which nobody knows.
pub(in crate::guard::session) const TABLE: u32 = 20_000;
const STRANGE: u32 = 20_001;
/// `text` and `int4`
pub(in crate::guard::session) const TEXT: u32 = 25;
const INT4: u32 = 23;

/// Masks the second column of the table, but for texts that say `open`.
#[derive(Default)]
struct Masking {
    is_open: bool,
    is_known: bool,
    told: Vec<(TextPrint, String)>,
}

pub(in crate::guard::session) fn masked(mask: &str) -> Masked {
    let column = "public.customers.ssn".into();
    let flow = Flow::Deny;
    Masked { mask: mask.parse().unwrap(), rule: "test:mask".into(), column, flow }
}

impl Court for Masking {
    fn read(&mut self, text: Option<&str>, _: Moment) -> Arc<Reading> {
        let analysed = analyse(text.unwrap_or("?"), Default::default());
        Arc::new(Reading::of(text.map(Into::into), analysed.into(), None))
    }

    fn read_again(
        &mut self,
        reading: &Arc<Reading>,
        _: Option<Vec<Argument>>,
        _: Moment,
    ) -> Arc<Reading> {
        reading.clone()
    }

    fn read_call(&mut self, _: Option<u32>, _: Vec<Argument>, moment: Moment) -> Arc<Reading> {
        self.read(None, moment)
    }

    fn judge(&mut self, reading: &Reading) -> Result<Permit, Denial> {
        let text = reading.text.as_deref().unwrap_or_default();
        if text.contains(FLOWS) {
            return Err(denial());
        }
        self.is_open = text.contains("open");
        let is_copy = text.starts_with("COPY customers");
        let column = CopyColumn { masked: masked("last4"), kind: TEXT };
        Ok(Permit::copying(is_copy.then(|| [None, Some(column)].into())))
    }

    fn instead(&mut self, reading: &Arc<Reading>, state: Moment) -> Option<Arc<Reading>> {
        let text = reading.text.as_deref()?.replace(FLOWS, NULL);
        let other = self.read(Some(&text), state);
        Some(nulled(reading, other))
    }

    fn masks(&mut self) -> Option<Arc<Masks>> {
        let columns = [((TABLE, 2), masked("last4")), ((TABLE, 3), masked("fixed:7"))];
        let masks = Masks { columns: columns.into(), relations: [TABLE].into() };
        (!self.is_open).then(|| masks.into())
    }

    fn hiding(&self) -> Arc<Hiding> {
        Arc::default()
    }

    fn veiled(&mut self) {
        assert!(!std::mem::replace(&mut self.is_known, true));
    }

    fn masked(&mut self, text: TextPrint, columns: &[Arc<str>]) {
        self.told.push((text, columns.join(" ")));
    }

    fn sent(&mut self, _: &Reading) {}
    fn prepared(&mut self, _: &str, _: &Reading) {}
    fn denied(&mut self, _: &str, denial: &Denial, _: Option<&str>) {
        assert!(denial.message.contains("COPY"), "{denial:?}");
    }
    fn authenticated(&mut self, _: &'static str) {}
    fn renamed(&mut self, _: &str) {}
    fn summed(&mut self, _: RequestSum) {}
    fn summed_so_far(&mut self, _: u64, _: RequestSum) {}
}

/// `RowDescription` of columns, each by its origin, its type and its format.
pub(in crate::guard::session) fn description(columns: &[(u32, i16, u32, i16)]) -> Vec<u8> {
    let mut body = (columns.len() as u16).to_be_bytes().to_vec();
    for (relation, place, kind, format) in columns {
        body.extend(b"name\0");
        body.extend(relation.to_be_bytes());
        body.extend(place.to_be_bytes());
        body.extend(kind.to_be_bytes());
        body.extend((-1_i16).to_be_bytes());
        body.extend((-1_i32).to_be_bytes());
        body.extend(format.to_be_bytes());
    }
    message(b'T', &body)
}

/// Id, number, and one of a table that nobody knows.
fn customers() -> Vec<u8> {
    description(&[(TABLE, 1, INT4, 0), (TABLE, 2, TEXT, 0), (STRANGE, 1, TEXT, 0)])
}

pub(in crate::guard::session) fn row(values: &[Option<&[u8]>]) -> Vec<u8> {
    let mut body = (values.len() as u16).to_be_bytes().to_vec();
    for value in values {
        match value {
            None => body.extend((-1_i32).to_be_bytes()),
            Some(value) => {
                body.extend((value.len() as u32).to_be_bytes());
                body.extend(*value);
            }
        }
    }
    message(b'D', &body)
}

fn ada() -> Vec<u8> {
    row(&[Some(b"1"), Some(b"123-45-6789"), Some(b"?")])
}

fn masked_ada() -> Vec<u8> {
    row(&[Some(b"1"), Some(b"***-**-6789"), None])
}

fn complete(tag: &str) -> Vec<u8> {
    message(b'C', format!("{tag}\0").as_bytes())
}

fn describe(portal: &str) -> Vec<u8> {
    message(b'D', format!("P{portal}\0").as_bytes())
}

fn becomes(from: &[Vec<u8>], to: &[Vec<u8>]) -> Says {
    Server(from.concat(), to.concat())
}

fn begins() -> Says {
    server(&[
        message(b'R', b"\0\0\0\0"),
        message(b'S', b"client_encoding\0UTF8\0"),
        message(b'S', b"standard_conforming_strings\0on\0"),
        ready(),
    ])
}

fn check(name: &str, steps: Vec<Says>) -> Vec<Masking> {
    let steps: Vec<Says> = std::iter::once(begins()).chain(steps).collect();
    check_before(Masking::default, name, &steps)
}

#[test]
fn rows_are_masked_by_their_origin() {
    let done = [complete("SELECT 2"), ready()].concat();
    let nulls = row(&[None, None, None]);
    let courts = check(
        "query",
        vec![
            client(&[query("SELECT * FROM customers")]),
            becomes(
                &[customers(), ada(), nulls.clone(), done.clone()],
                &[customers(), masked_ada(), nulls.clone(), done.clone()],
            ),
            // In binary, and a row in which nothing is masked.
            client(&[query("FETCH 1 FROM c; SELECT 1")]),
            becomes(
                &[
                    description(&[(TABLE, 3, INT4, 1), (0, 0, INT4, 1)]),
                    row(&[Some(b"\0\0\0\x2a"), Some(b"\0\0\0\x2a")]),
                    complete("FETCH 1"),
                    description(&[(0, 0, INT4, 0)]),
                    row(&[Some(b"1")]),
                    done.clone(),
                ],
                &[
                    description(&[(TABLE, 3, INT4, 1), (0, 0, INT4, 1)]),
                    row(&[Some(b"\0\0\0\x07"), Some(b"\0\0\0\x2a")]),
                    complete("FETCH 1"),
                    description(&[(0, 0, INT4, 0)]),
                    row(&[Some(b"1")]),
                    done.clone(),
                ],
            ),
            client(&[query("SELECT * FROM customers")]),
            becomes(&[customers(), ada(), done.clone()], &[customers(), masked_ada(), done]),
        ],
    );
    for court in courts {
        assert!(court.is_known);
        let number = "public.customers.ssn:";
        let told = [
            ("SELECT * FROM customers", format!("{number}last4 ?:null")),
            ("FETCH 1 FROM c; SELECT 1", format!("{number}fixed")),
        ];
        assert_eq!(court.told, told.map(|(text, columns)| (TextPrint::of(text), columns)));
    }
}

#[test]
fn each_execution_is_described_right_before_it() {
    let (bound, parsed) = (message(b'2', b""), message(b'1', b""));
    let sent = [parse("", "SELECT * FROM customers"), bind("", ""), execute(""), sync()];
    let [parse_it, bind_it, run, end] = sent.clone();
    check(
        "extended",
        vec![
            // Nobody asks what the rows are.
            Client(
                sent.concat(),
                [parse_it.clone(), bind_it.clone(), describe(""), run.clone(), end.clone()]
                    .concat(),
            ),
            becomes(
                &[parsed.clone(), bound.clone(), customers(), ada(), complete("SELECT 1"), ready()],
                &[parsed.clone(), bound.clone(), masked_ada(), complete("SELECT 1"), ready()],
            ),
            // The client does; and goes on with the portal.
            Client(
                [bind_it.clone(), describe(""), run.clone(), run.clone(), end.clone()].concat(),
                [
                    bind_it.clone(),
                    describe(""),
                    run.clone(),
                    describe(""),
                    run.clone(),
                    end.clone(),
                ]
                .concat(),
            ),
            becomes(
                &[
                    bound.clone(),
                    customers(),
                    ada(),
                    message(b's', b""),
                    customers(),
                    ada(),
                    complete("SELECT 1"),
                    ready(),
                ],
                &[
                    bound.clone(),
                    customers(),
                    masked_ada(),
                    message(b's', b""),
                    masked_ada(),
                    complete("SELECT 1"),
                    ready(),
                ],
            ),
            // Of another portal.
            Client(
                [bind("p", ""), describe(""), execute("p"), end.clone()].concat(),
                [bind("p", ""), describe(""), describe("p"), execute("p"), end.clone()].concat(),
            ),
            becomes(
                &[
                    bound.clone(),
                    message(b'n', b""),
                    customers(),
                    ada(),
                    complete("SELECT 1"),
                    ready(),
                ],
                &[bound.clone(), message(b'n', b""), masked_ada(), complete("SELECT 1"), ready()],
            ),
            // It has no rows, and fails the second time.
            Client(
                [
                    parse("", "DELETE FROM t WHERE id = 1"),
                    bind("", ""),
                    execute(""),
                    sync(),
                    bind("", ""),
                    execute(""),
                    sync(),
                ]
                .concat(),
                [
                    parse("", "DELETE FROM t WHERE id = 1"),
                    bind("", ""),
                    describe(""),
                    execute(""),
                    sync(),
                    bind("", ""),
                    describe(""),
                    execute(""),
                    sync(),
                ]
                .concat(),
            ),
            becomes(
                &[
                    parsed.clone(),
                    bound.clone(),
                    message(b'n', b""),
                    complete("DELETE 1"),
                    ready(),
                    message(b'E', b"SERROR\0C42501\0Mno\0\0"),
                    ready(),
                ],
                &[
                    parsed,
                    bound.clone(),
                    complete("DELETE 1"),
                    ready(),
                    message(b'E', b"SERROR\0C42501\0Mno\0\0"),
                    ready(),
                ],
            ),
            Client(
                [bind_it.clone(), run.clone(), end.clone()].concat(),
                [bind_it, describe(""), run, end].concat(),
            ),
            becomes(
                &[bound.clone(), message(b'n', b""), complete("DELETE 0"), ready()],
                &[bound, complete("DELETE 0"), ready()],
            ),
        ],
    );
}

/// What is masked changes from one statement to the next, while answers are outstanding.
#[test]
fn what_was_sent_before_is_answered_as_it_was_meant() {
    let rows = [description(&[(TABLE, 2, TEXT, 0)]), row(&[Some(b"123-45-6789")])];
    let [described, plain] = rows.clone();
    let masked = row(&[Some(b"***-**-6789")]);
    let done = [complete("SELECT 1"), ready()].concat();
    check(
        "open and closed",
        vec![
            client(&[query("SELECT open"), query("SELECT ssn FROM customers")]),
            server(&[message(b'N', b"SNOTICE\0C00000\0Mx\0\0")]),
            // Masked since the second was sent: the first may see less than it could have, never more.
            becomes(
                &[
                    described.clone(),
                    plain.clone(),
                    done.clone(),
                    described.clone(),
                    plain.clone(),
                    done.clone(),
                ],
                &[
                    described.clone(),
                    masked.clone(),
                    done.clone(),
                    described.clone(),
                    masked.clone(),
                    done.clone(),
                ],
            ),
            client(&[query("SELECT ssn FROM customers"), query("SELECT open")]),
            becomes(
                &[
                    described.clone(),
                    plain.clone(),
                    done.clone(),
                    described.clone(),
                    plain.clone(),
                    done.clone(),
                ],
                &[
                    described.clone(),
                    masked.clone(),
                    done.clone(),
                    described.clone(),
                    masked,
                    done.clone(),
                ],
            ),
            client(&[query("SELECT open")]),
            server(&[described, plain, done]),
        ],
    );
}

#[test]
fn a_copy_is_masked_by_the_places_of_its_columns() {
    let response = message(b'H', b"\0\0\x02\0\0\0\0");
    let data = |text: &str| message(b'd', text.as_bytes());
    let end = [message(b'c', b""), complete("COPY 1"), ready()].concat();
    let copy = query("COPY customers TO STDOUT");
    let csv = query("COPY customers TO STDOUT WITH (FORMAT csv, HEADER, DELIMITER ';')");
    let refused = "COPY customers TO STDOUT WITH (ENCODING 'SJIS')";
    check(
        "copy",
        vec![
            client(&[copy]),
            becomes(
                &[response.clone(), data("1\t123-45-6789\n"), end.clone()],
                &[response.clone(), data("1\t***-**-6789\n"), end.clone()],
            ),
            client(&[csv]),
            becomes(
                &[response.clone(), data("id;ssn\n"), data("1;123-45-6789\n"), end.clone()],
                &[response.clone(), data("id;ssn\n"), data("1;\"***-**-6789\"\n"), end.clone()],
            ),
            client(&[query("COPY orders TO STDOUT")]),
            server(&[response, data("1\t123-45-6789\n"), end]),
            Client(
                query(refused),
                query(&format!("dbwarden_{NONCE:016x}_1 /* denied by test:mask */")),
            ),
        ],
    );
}

#[test]
fn errors_and_notifications_say_nothing_of_values() {
    let hint = "Hdbwarden leaves out what may tell masked values; the server's own log has it.\0\0";
    let failed = b"SERROR\0VERROR\0C22P02\0Minvalid input syntax: \"123-45-6789\"\0\0";
    let long = [&b"SERROR\0VERROR\0C22P02\0M"[..], &[b'1'; 40_000], b"\0\0"].concat();
    let told = ["SERROR\0VERROR\0C22P02\0Minvalid input for its type\0", hint].concat();
    check(
        "errors",
        vec![
            client(&[query("SELECT 1")]),
            becomes(&[message(b'E', failed), ready()], &[message(b'E', told.as_bytes()), ready()]),
            client(&[query("SELECT 1")]),
            becomes(
                &[message(b'A', b"\0\0\0\x01news\x00123-45-6789\0"), message(b'E', &long), ready()],
                &[message(b'A', b"\0\0\0\x01news\0\0"), message(b'E', told.as_bytes()), ready()],
            ),
        ],
    );
}
