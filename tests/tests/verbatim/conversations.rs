//! What a client says, message by message, and which answers it waits for.

/// What a client does next.
pub enum Step {
    Say(Vec<u8>),
    /// Reads up to the so-manieth message of this type from here.
    Hear(u8, usize),
    /// Says that it says no more.
    Finish,
    /// Reads up to the end.
    End,
}
use Step::{End, Finish, Hear, Say};

pub fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let len = (body.len() as u32 + 4).to_be_bytes();
    [&[tag][..], &len, body].concat()
}

pub fn query(text: &str) -> Vec<u8> {
    message(b'Q', format!("{text}\0").as_bytes())
}

pub fn parse(name: &str, text: &str) -> Vec<u8> {
    message(b'P', format!("{name}\0{text}\0\0\0").as_bytes())
}

pub fn bind(portal: &str, name: &str) -> Vec<u8> {
    message(b'B', format!("{portal}\0{name}\0\0\0\0\0\0\0").as_bytes())
}

pub fn execute(portal: &str, rows: u32) -> Vec<u8> {
    message(b'E', &[portal.as_bytes(), b"\0", &rows.to_be_bytes()].concat())
}

pub fn describe(what: &str, name: &str) -> Vec<u8> {
    message(b'D', format!("{what}{name}\0").as_bytes())
}

pub fn sync() -> Vec<u8> {
    message(b'S', b"")
}

/// Parse, Bind, Describe and Execute of one text, without the Sync.
pub fn extended(text: &str) -> Vec<u8> {
    [parse("", text), bind("", ""), describe("P", ""), execute("", 0)].concat()
}

pub fn start(more: &str) -> Vec<u8> {
    let body = format!("\0\u{3}\0\0user\0postgres\0database\0postgres\0{more}\0");
    [&(body.len() as u32 + 4).to_be_bytes()[..], body.as_bytes()].concat()
}

/// Each with its name.
pub fn conversations() -> Vec<(&'static str, Vec<Step>)> {
    let q = |text: &str| Say(query(text));
    let begin = || [Say(start("")), Hear(b'Z', 1)];
    let conversation = |more: Vec<Step>| begin().into_iter().chain(more).collect::<Vec<_>>();
    let say = |parts: &[Vec<u8>]| Say(parts.concat());
    let many = |n: i32| (0..n).map(|n| [extended(&format!("SELECT {n}")), sync()].concat());
    vec![
        ("simple", conversation(vec![q("SELECT 1; SELECT 'zwei ü'; SELECT 1/0; SELECT 3"), Hear(b'Z', 1), q(""), Hear(b'Z', 1)])),
        ("notices", conversation(vec![q("DO $$ BEGIN RAISE NOTICE 'n'; RAISE WARNING 'w'; END $$"), Hear(b'Z', 1)])),
        ("notifications", conversation(vec![q("LISTEN ear"), Hear(b'Z', 1), q("NOTIFY ear, 'word'"), Hear(b'A', 1), Hear(b'Z', 1)])),
        ("extended", conversation(vec![say(&[extended("SELECT generate_series(1, 5)"), sync()]), Hear(b'Z', 1)])),
        (
            "described",
            conversation(vec![
                say(&[parse("s", "SELECT $1::int + $2::bigint"), describe("S", "s"), message(b'H', b"")]),
                Hear(b'T', 1),
                say(&[message(b'B', b"\0s\0\0\x01\0\x01\0\x02\0\0\0\x04\0\0\0\x07\0\0\0\x08\0\0\0\0\0\0\0\x05\0\x01\0\x01"), describe("P", ""), execute("", 0), message(b'C', b"Ss\0"), sync()]),
                Hear(b'Z', 1),
            ]),
        ),
        (
            "suspended",
            conversation(vec![
                say(&[parse("", "SELECT generate_series(1, 10)"), bind("p", ""), execute("p", 3), message(b'H', b"")]),
                Hear(b's', 1),
                say(&[execute("p", 3), execute("p", 100), execute("p", 1), message(b'C', b"Pp\0"), execute("p", 0), sync()]),
                Hear(b'Z', 1),
            ]),
        ),
        (
            "an error amidst a pipeline",
            conversation(vec![
                say(&[extended("SELECT 1"), extended("SELECT 1/0"), extended("SELECT 2"), sync(), extended("SELECT 3"), sync()]),
                Hear(b'Z', 2),
            ]),
        ),
        ("many in flight", conversation(vec![Say(many(300).flatten().collect()), Hear(b'Z', 300)])),
        ("syncs alone", conversation(vec![say(&[sync(), sync(), sync(), query("SELECT 1"), sync()]), Hear(b'Z', 5)])),
        (
            "copy",
            conversation(vec![
                q("CREATE TEMP TABLE t (n int)"),
                Hear(b'Z', 1),
                q("COPY t FROM STDIN"),
                Hear(b'G', 1),
                say(&[message(b'd', b"1\n2"), message(b'd', b"\n3\n"), message(b'c', b"")]),
                Hear(b'Z', 1),
                q("COPY t FROM STDIN"),
                say(&[message(b'd', b"x\n"), message(b'f', b"enough\0")]),
                Hear(b'Z', 1),
                // All at once, with a Sync among the data, as drivers do.
                say(&[extended("COPY t FROM STDIN"), sync(), message(b'd', b"7\n"), message(b'c', b""), sync()]),
                Hear(b'Z', 1),
                q("COPY t TO STDOUT; SELECT count(*) FROM t"),
                Hear(b'Z', 1),
                say(&[message(b'd', b"nobody wants it"), query("SELECT 4")]),
                Hear(b'Z', 1),
            ]),
        ),
        (
            "a function called by number",
            // int4pl(int4, int4) in binary; then one that doesn't exist.
            conversation(vec![
                Say(message(b'F', b"\0\0\0\xb1\0\x01\0\x01\0\x02\0\0\0\x04\0\0\0\x02\0\0\0\x04\0\0\0\x28\0\x01")),
                Hear(b'Z', 1),
                Say(message(b'F', b"\x7f\xff\xff\xff\0\0\0\0\0\0")),
                Hear(b'Z', 1),
            ]),
        ),
        ("goodbye", conversation(vec![Say(message(b'X', b"")), End])),
        ("a half-closed client gets its answer", conversation(vec![q("SELECT generate_series(1, 20000)"), Finish, End])),
        (
            "half-closed with several in flight",
            conversation(vec![Say(many(50).flatten().collect()), Finish, Hear(b'Z', 50)]),
        ),
        ("an unknown database", vec![Say(start("database\0nowhere\0")), End]),
        ("an unknown setting", vec![Say(start("options\0-c nothing=1\0")), End]),
        ("a protocol of the future", vec![
            Say([&32_u32.to_be_bytes()[..], b"\0\x03\0\x07user\0postgres\0_pq_.a\0b\0\0"].concat()),
            Hear(b'Z', 1),
        ]),
        (
            "replication",
            vec![
                Say(start("replication\0database\0")),
                Hear(b'Z', 1),
                q("SHOW work_mem"),
                Hear(b'Z', 1),
                q("START_REPLICATION SLOT \"none\" LOGICAL 0/0"),
                Hear(b'Z', 1),
                q("SELECT 1"),
                Hear(b'Z', 1),
            ],
        ),
        ("copy both ways where none is", conversation(vec![q("START_REPLICATION 0/0"), Hear(b'Z', 1)])),
        (
            "encodings",
            conversation(vec![
                q("SET client_encoding = 'LATIN1'"),
                Hear(b'Z', 1),
                Say(message(b'Q', b"SELECT '\xfc'\0")),
                Hear(b'Z', 1),
                q("SET standard_conforming_strings = off; "),
                Hear(b'Z', 1),
                q("SELECT 'a\\'' || 'b'"),
                Hear(b'Z', 1),
            ]),
        ),
    ]
}
