//! Golden bytes, and what the decoder refuses.

use super::{
    Fields, Groups, Literals, Malformed, TextHalf, encode_facts, encode_origin, encode_row,
    row_bytes,
};
use crate::{
    event::{Entry, Record},
    ledger::{
        samples,
        schema::{COLUMNS, Group},
    },
};

pub fn groups(entry: &Entry, literals: Literals) -> Groups {
    let mut groups = Groups::default();
    let origin = match entry {
        Entry::Statement(record) => {
            if let Some(half) = TextHalf::of(record, literals) {
                encode_facts(half, &mut groups.facts);
            }
            &record.origin
        }
        Entry::Occurrence(occurrence) => &occurrence.origin,
    };
    encode_origin(origin, &mut groups.origin);
    encode_row(entry, literals, &mut groups.row);
    groups
}

fn statement(record: Record) -> Groups {
    groups(&Entry::Statement(record), Literals::Redacted)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Once written, bytes like these are in signed trees: they never change again.
#[test]
fn golden_bytes() {
    let full = statement(samples::full_record());
    let kept = groups(&Entry::Statement(samples::full_record()), Literals::Kept);
    let empty = statement(samples::empty_record());
    let occurrence = groups(&Entry::Occurrence(samples::occurrence()), Literals::Redacted);
    let row = |groups: &Groups| {
        let mut bytes = Vec::new();
        groups.row_bytes(&mut bytes);
        bytes
    };
    let cases: [(&str, &[u8], &str); 9] = [
        ("the fullest origin", &full.origin, ""),
        ("the fullest facts", &full.facts, ""),
        ("the fullest row", &full.row, ""),
        ("the fullest row, literals kept", &kept.row, ""),
        ("an empty origin", &empty.origin, ""),
        ("the emptiest row", &empty.row, ""),
        ("an occurrence's row", &occurrence.row, ""),
        ("what a leaf hashes", &row(&full), ""),
        ("what the emptiest leaf hashes", &row(&empty), ""),
    ];
    for (name, bytes, expected) in cases {
        assert_eq!(hex(bytes), expected, "{name}");
    }
}
