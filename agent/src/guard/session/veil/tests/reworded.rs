//! Statements that go to the server in other words than the client's.

use super::{
    FLOWS, NULL,
    Says::{Client, Server},
    ada, bind, check, complete, customers, describe, execute, masked_ada, message, parse, query,
    ready, sync,
};

fn texts() -> [String; 2] {
    [FLOWS, NULL].map(|condition| format!("SELECT id, ssn, x FROM customers WHERE {condition}"))
}

/// With where the trouble is, or without.
fn error(position: &str) -> Vec<u8> {
    let fields = format!(
        "SERROR|VERROR|C42883|Moperator does not exist|Hadd casts|{position}Fparse_oper.c||"
    );
    message(b'E', fields.replace('|', "\0").as_bytes())
}

#[test]
fn the_server_gets_other_words_and_the_client_its_own_answers() {
    let [said, sent] = texts();
    let rows = |row: Vec<u8>| [customers(), row, complete("SELECT 1"), ready()].concat();
    check(
        "query",
        vec![
            Client(query(&said), query(&sent)),
            Server(rows(ada()), rows(masked_ada())),
            // Where in other words the trouble is, would mislead.
            Client(query(&said), query(&sent)),
            Server([error("P52|"), ready()].concat(), [error(""), ready()].concat()),
            Client(query("SELECT x"), query("SELECT x")),
            Server([error("P8|"), ready()].concat(), [error("P8|"), ready()].concat()),
        ],
    );
}

#[test]
fn what_is_prepared_in_other_words_runs_by_its_name() {
    let [said, sent] = texts();
    // Types of parameters stay as they are.
    let typed = |text: &str| message(b'P', format!("s\0{text}\0\0\x01\0\0\0\x19").as_bytes());
    let parsed = [message(b'1', b""), ready()].concat();
    let run = [bind("", "s"), describe(""), execute(""), sync()].concat();
    let rows = |row: Vec<u8>| {
        [message(b'2', b""), customers(), row, complete("SELECT 1"), ready()].concat()
    };
    let unnamed =
        |text: &str| [parse("", text), bind("", ""), describe(""), execute(""), sync()].concat();
    check(
        "extended",
        vec![
            Client([typed(&said), sync()].concat(), [typed(&sent), sync()].concat()),
            Server(parsed.clone(), parsed),
            Client(run.clone(), run.clone()),
            Server(rows(ada()), rows(masked_ada())),
            Client(run.clone(), run),
            Server([error("P52|"), ready()].concat(), [error(""), ready()].concat()),
            Client(
                [unnamed("SELECT 1"), unnamed(&said)].concat(),
                [unnamed("SELECT 1"), unnamed(&sent)].concat(),
            ),
        ],
    );
}
