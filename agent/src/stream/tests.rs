//! The cases of the assembler.

use super::{Assembler, Limits};
use crate::event::{BootTime, Chunk, Direction, Extent, Layer, Piece, Reach};

/// A chunk of the request direction: position, bytes, call length, offset in the call, dropped.
type Row = (u64, &'static [u8], u32, u32, u64);

fn chunk((position, bytes, call_len, call_offset, dropped_total): Row) -> Chunk<'static> {
    Chunk {
        time: BootTime(position),
        direction: Direction::Request,
        layer: Layer::Socket,
        position,
        bytes,
        call_len,
        call_offset,
        dropped_total,
    }
}

fn show(pieces: &mut String, piece: Piece<'_>) {
    match piece {
        Piece::Bytes(bytes) => pieces.push_str(&String::from_utf8_lossy(bytes)),
        Piece::Gap { len, lost } => pieces.push_str(&format!("<{len},{lost}>")),
    }
}

fn check(name: &str, rows: &[Row], at_once: &str, after_flush: &str) {
    let limits = Limits { held_bytes: 8, held_chunks: 3, hold_ns: 100 };
    let mut assembler = Assembler::new(limits);
    let mut pieces = String::new();
    for row in rows {
        assembler.push(chunk(*row), &mut |_, _, _, piece| show(&mut pieces, piece));
    }
    assert_eq!(pieces, at_once, "{name}");
    assembler.flush(BootTime(0), &mut |_, _, _, piece| show(&mut pieces, piece));
    assert_eq!(pieces, after_flush, "{name}, flushed");
}

#[test]
fn order_and_gaps() {
    let cases: &[(&str, &[Row], &str, &str)] = &[
        ("in order", &[(0, b"ab", 2, 0, 0), (2, b"cd", 2, 0, 0)], "abcd", "abcd"),
        (
            "neighbours swapped",
            &[(0, b"ab", 2, 0, 0), (4, b"ef", 2, 0, 0), (2, b"cd", 2, 0, 0)],
            "abcdef",
            "abcdef",
        ),
        (
            "two holes",
            &[(0, b"a", 1, 0, 0), (4, b"e", 1, 0, 0), (2, b"c", 1, 0, 0), (1, b"b", 1, 0, 0)],
            "abc",
            "abc<1,0>e",
        ),
        ("a hole that stays", &[(0, b"ab", 2, 0, 0), (4, b"ef", 2, 0, 0)], "ab", "ab<2,0>ef"),
        ("dropped", &[(0, b"ab", 2, 0, 0), (4, b"ef", 2, 0, 2)], "ab<2,2>ef", "ab<2,2>ef"),
        ("dropped in part", &[(0, b"ab", 2, 0, 0), (4, b"ef", 2, 0, 1)], "ab", "ab<2,1>ef"),
        ("inside one call", &[(0, b"ab", 6, 0, 0), (4, b"ef", 6, 4, 0)], "ab<2,0>ef", "ab<2,0>ef"),
        (
            "the end of a call",
            &[(0, b"ab", 4, 0, 0), (4, b"ef", 2, 0, 0)],
            "ab<2,0>ef",
            "ab<2,0>ef",
        ),
        ("the end of the last call", &[(0, b"ab", 4, 0, 0)], "ab", "ab<2,0>"),
        (
            "the beginning of a call",
            &[(0, b"ab", 2, 0, 0), (4, b"ef", 4, 2, 0)],
            "ab<2,0>ef",
            "ab<2,0>ef",
        ),
        ("unreadable", &[(0, b"", 5, 0, 5), (5, b"f", 1, 0, 5)], "<5,5>f", "<5,5>f"),
        ("joined", &[(100, b"ab", 2, 0, 0)], "<100,0>ab", "<100,0>ab"),
        ("twice", &[(0, b"ab", 2, 0, 0), (0, b"ab", 2, 0, 0)], "ab", "ab"),
        ("overlapping", &[(0, b"abc", 3, 0, 0), (2, b"cd", 2, 0, 0)], "abcd", "abcd"),
        (
            "more than may wait",
            &[(0, b"a", 1, 0, 0), (2, b"cdef", 4, 0, 0), (7, b"hijkl", 5, 0, 0)],
            "a<1,0>cdef",
            "a<1,0>cdef<1,0>hijkl",
        ),
        (
            "larger than all that may wait",
            &[(0, b"a", 1, 0, 0), (2, b"cdefghijkl", 10, 0, 0)],
            "a<1,0>cdefghijkl",
            "a<1,0>cdefghijkl",
        ),
        (
            "more chunks than may wait",
            &[
                (0, b"a", 1, 0, 0),
                (2, b"c", 1, 0, 0),
                (4, b"e", 1, 0, 0),
                (6, b"g", 1, 0, 0),
                (8, b"i", 1, 0, 0),
            ],
            "a<1,0>c",
            "a<1,0>c<1,0>e<1,0>g<1,0>i",
        ),
    ];
    for (name, rows, at_once, after_flush) in cases {
        check(name, rows, at_once, after_flush);
    }
}

#[test]
fn a_hole_is_given_up_in_time() {
    let mut assembler = Assembler::new(Limits { hold_ns: 100, ..Limits::default() });
    let mut pieces = String::new();
    for row in [(0, &b"ab"[..], 2, 0, 0), (4, b"ef", 2, 0, 0)] {
        assembler.push(chunk(row), &mut |_, _, _, piece| show(&mut pieces, piece));
    }
    assert_eq!(assembler.deadline(), Some(BootTime(104)));
    assembler.poll(BootTime(103), &mut |_, _, _, piece| show(&mut pieces, piece));
    assert_eq!(pieces, "ab");
    assembler.poll(BootTime(104), &mut |_, _, _, piece| show(&mut pieces, piece));
    assert_eq!(pieces, "ab<2,0>ef");
    assert_eq!((assembler.deadline(), assembler.stats().expired), (None, 1));
}

#[test]
fn ciphertext_below_plaintext_is_ignored() {
    let mut assembler = Assembler::default();
    let mut pieces = String::new();
    let mut push = |layer, row| {
        let chunk = Chunk { layer, ..chunk(row) };
        assembler.push(chunk, &mut |_, _, _, piece| show(&mut pieces, piece));
    };
    push(Layer::Socket, (0, b"start", 5, 0, 0));
    push(Layer::Tls, (0, b"plain", 5, 0, 0));
    push(Layer::Socket, (5, b"cipher", 6, 0, 0));
    assert_eq!(pieces, "startplain");
    assert_eq!(assembler.stats().ciphertext_bytes, 6);
}

#[test]
fn what_was_lost_after_the_last_chunk_is_a_gap() {
    let check = |rows: &[Row], position: u64, dropped: u64, expected: &str, lost_bytes: u64| {
        let mut assembler = Assembler::default();
        let mut pieces = String::new();
        for row in rows {
            assembler.push(chunk(*row), &mut |_, _, _, piece| show(&mut pieces, piece));
        }
        let mut extent = Extent::default();
        extent[0][0] = Reach { position, dropped };
        assembler.end(BootTime(0), &extent, &mut |_, _, _, piece| show(&mut pieces, piece));
        assert_eq!(pieces, expected, "{rows:?} up to {position}");
        assert_eq!(assembler.stats().lost_bytes, lost_bytes, "{rows:?} up to {position}");
        // All of it has been told.
        assembler.flush(BootTime(0), &mut |_, _, _, piece| panic!("{piece:?}"));
    };
    check(&[(0, b"ab", 2, 0, 0)], 2, 0, "ab", 0);
    check(&[(0, b"ab", 2, 0, 0)], 7, 5, "ab<5,5>", 5);
    // The end of the last call was lost, or left out by budget.
    check(&[(0, b"ab", 6, 0, 0)], 6, 4, "ab<4,4>", 4);
    check(&[(0, b"ab", 6, 0, 0)], 6, 0, "ab<4,0>", 0);
    check(&[(0, b"ab", 6, 0, 0)], 9, 3, "ab<4,3><3,0>", 3);
    // Nothing was delivered at all, or nothing was said.
    check(&[], 9, 9, "<9,9>", 9);
    check(&[], 0, 0, "", 0);
    // What waited for its turn still comes first.
    check(&[(0, b"ab", 2, 0, 0), (4, b"ef", 2, 0, 0)], 8, 4, "ab<2,2>ef<2,2>", 4);
}

#[test]
fn ciphertext_below_tls_is_not_lost_at_the_end() {
    let mut assembler = Assembler::default();
    let mut pieces = String::new();
    let mut plain = chunk((0, b"ab", 2, 0, 0));
    plain.layer = Layer::Tls;
    assembler.push(plain, &mut |_, _, _, piece| show(&mut pieces, piece));
    let end = |position| Reach { position, dropped: 0 };
    let extent = [[end(500), end(2)], Default::default()];
    assembler.end(BootTime(0), &extent, &mut |_, _, _, piece| show(&mut pieces, piece));
    assert_eq!(pieces, "ab");
}
