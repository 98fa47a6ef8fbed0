//! Answers that can't be masked, and hostile ones.

use super::{
    super::super::{
        Broken, Output, Session,
        tests::{NONCE, message, query, ready},
    },
    INT4, Masking, STRANGE, TABLE, TEXT, ada, complete, customers, description, row,
};

/// What doesn't fit ends the session, and nothing of it has been told.
#[test]
fn what_can_not_be_masked_ends_the_session() {
    let long = |n: u32| [&b"D"[..], &(n + 4).to_be_bytes(), b"\0\x03"].concat();
    let both = message(b'W', b"\0\0\0");
    for (steps, expected) in [
        (vec![customers(), long(64 << 20)], Broken::LongRow),
        (vec![customers(), row(&[None])], Broken::Server),
        (vec![customers(), message(b'D', b"\0\x03\0\0\0\xff")], Broken::Server),
        (vec![message(b'T', b"\0\x01name")], Broken::Server),
        // Nobody has described them.
        (vec![ada()], Broken::Server),
        (vec![customers(), complete("SELECT 0"), ada()], Broken::Server),
        (vec![both], Broken::Copy),
        (vec![message(b'H', b"\0\0\x01\0\0")], Broken::Copy),
    ] {
        let (mut court, mut session) = (Masking::default(), Session::new(NONCE));
        let mut out = Output::default();
        session.server_bytes(&ready(), &mut court, &mut out).unwrap();
        session.client_bytes(&query("SELECT * FROM customers"), &mut court, &mut out).unwrap();
        let mut outcome = session.server_bytes(&steps.concat(), &mut court, &mut out);
        let mut n_sent = 0;
        while outcome.is_ok() && n_sent < 20 << 20 {
            n_sent += 1 << 20;
            outcome = session.server_bytes(&[b'x'; 1 << 20], &mut court, &mut out);
        }
        assert_eq!(outcome, Err(expected), "{steps:?}");
        assert!(session.is_between_answers() || expected != Broken::LongRow);
        assert!(out.to_client.len() < 1_000);
    }
}

/// Whatever a server says, and wherever it breaks off.
#[test]
fn hostile_answers_end_the_session_or_pass() {
    let answers = [
        description(&[(TABLE, 1, INT4, 1), (TABLE, 2, TEXT, 0), (STRANGE, 1, TEXT, 1)]),
        ada(),
        ada(),
        message(b'N', b"SNOTICE\0C00000\0Mx\0WPL\0\0"),
        complete("SELECT 2"),
        message(b'H', b"\0\0\x02\0\0\0\0"),
        message(b'd', b"1\t123-45-6789\n"),
        message(b'c', b""),
        message(b'A', b"\0\0\0\x01news\0x\0"),
        ready(),
    ]
    .concat();
    let mut random = 0x5eed_u64;
    let mut next = |below: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (random >> 33) as usize % below
    };
    for _ in 0..4_000 {
        let mut bytes = answers.clone();
        for _ in 0..next(4) {
            let at = next(bytes.len());
            bytes[at] = next(256) as u8;
        }
        bytes.truncate(next(bytes.len()) + 1);
        let (mut court, mut session) = (Masking::default(), Session::new(NONCE));
        let mut out = Output::default();
        session.server_bytes(&ready(), &mut court, &mut out).unwrap();
        let asked = query("SELECT * FROM customers; COPY customers TO STDOUT");
        session.client_bytes(&asked, &mut court, &mut out).ok();
        for part in bytes.chunks(next(40) + 1) {
            if session.server_bytes(part, &mut court, &mut out).is_err() {
                break;
            }
        }
    }
}
