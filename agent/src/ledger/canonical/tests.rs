//! Golden bytes, and what the decoder refuses.

use std::sync::Arc;

use super::{
    Fields, Groups, Literals, Malformed, TextHalf, encode_facts, encode_origin, encode_row,
};
use crate::{
    event::{Entry, Episode, Record},
    ledger::{
        samples::{self, Entries},
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
        Entry::Finding(episode) => {
            if let Some(half) = TextHalf::of_finding(episode) {
                encode_facts(half, &mut groups.facts);
            }
            &episode.origin
        }
        Entry::Outbound(outbound) => &outbound.origin,
        Entry::Approval(approval) => {
            if let Some(half) = TextHalf::of_approval(approval, literals) {
                encode_facts(half, &mut groups.facts);
            }
            &approval.origin
        }
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
    let principal = statement(samples::principal_record());
    let said = groups(&Entry::Statement(samples::principal_record()), Literals::Kept);
    let judged =
        Record { judgement: Some(Arc::new(samples::judgement())), ..samples::empty_record() };
    let finding = groups(&Entry::Finding(samples::finding()), Literals::Kept);
    let pooled = Record { origin: Arc::new(samples::pooled_origin()), ..samples::empty_record() };
    let found =
        Episode { destination: Some(samples::outbound().destination), ..samples::finding() };
    let reaching = groups(&Entry::Finding(found), Literals::Kept);
    let outbound = groups(&Entry::Outbound(samples::outbound()), Literals::Kept);
    let approval = groups(&Entry::Approval(samples::approval()), Literals::Redacted);
    let approved = Record { approval: Some("apr-4f0x7k2m".into()), ..samples::empty_record() };
    let cases: [(&str, Vec<u8>); 22] = [
        ("fullest origin", full.origin.clone()),
        ("fullest facts", full.facts.clone()),
        ("fullest row", full.row.clone()),
        ("fullest facts, literals kept", kept.facts.clone()),
        ("fullest row, literals kept", kept.row.clone()),
        ("emptiest origin", empty.origin.clone()),
        ("emptiest row", empty.row.clone()),
        ("occurrence's row", occurrence.row.clone()),
        ("row bytes of the fullest", row(&full)),
        ("row bytes of the emptiest", row(&empty)),
        ("row bytes of the occurrence", row(&occurrence)),
        ("origin with a principal", principal.origin.clone()),
        ("row with claims", principal.row.clone()),
        ("row with claims, literals kept", said.row.clone()),
        ("judged row", statement(judged).row),
        ("finding's row", finding.row.clone()),
        ("row bytes of the finding", row(&finding)),
        ("origin behind a pooler", statement(pooled).origin),
        ("destination's row", outbound.row),
        ("row of a finding about a destination", reaching.row),
        ("approval's row", approval.row),
        ("row with an approval", statement(approved).row),
    ];
    let found: String =
        cases.iter().map(|(name, bytes)| format!("{name}: {}\n", hex(bytes))).collect();
    assert_eq!(found, include_str!("golden.txt"));
}

#[test]
fn the_decoder_refuses_what_the_encoder_cannot_have_written() {
    let text = |column: u8, text: &[u8]| {
        [&[column][..], &(text.len() as u32).to_le_bytes(), text].concat()
    };
    let index = |name| COLUMNS.iter().position(|column| column.name == name).unwrap() as u8;
    let [record, action, restricted] = ["record", "action", "restricted"].map(index);
    let [host, counts, facts_text] = ["host", "counts", "text"].map(index);
    let count = |name: &[u8]| [&(name.len() as u32).to_le_bytes(), name, &[0; 8]].concat();
    let cases: [(Group, Vec<u8>, Malformed); 11] = [
        (Group::Row, vec![COLUMNS.len() as u8], Malformed::UnknownColumn(COLUMNS.len() as u8)),
        (Group::Row, text(host, b"a"), Malformed::ForeignColumn(host)),
        (Group::Facts, text(host, b"a"), Malformed::ForeignColumn(host)),
        (
            Group::Row,
            [text(record, b"a"), text(record, b"a")].concat(),
            Malformed::ColumnOrder(record),
        ),
        (
            Group::Row,
            [text(action, b"a"), text(record, b"a")].concat(),
            Malformed::ColumnOrder(record),
        ),
        (Group::Facts, text(facts_text, b"\xff"), Malformed::NotUtf8),
        (Group::Facts, vec![restricted, 2], Malformed::NotBool),
        (Group::Facts, vec![restricted], Malformed::Short),
        (Group::Row, text(record, b"abc")[..7].to_vec(), Malformed::Short),
        (
            Group::Row,
            [&[counts, 2, 0, 0, 0][..], &count(b"b"), &count(b"a")].concat(),
            Malformed::KeyOrder,
        ),
        (Group::Row, vec![counts, 0xff, 0xff, 0xff, 0xff], Malformed::Short),
    ];
    for (group, bytes, expected) in cases {
        let mut fields = Fields::new(group, &bytes);
        let found = fields.find_map(Result::err);
        assert_eq!(found, Some(expected), "{}", hex(&bytes));
        assert!(fields.next().is_none(), "nothing follows an offence");
    }
}

#[test]
fn every_cut_is_refused_or_ends_between_columns() {
    for seed in 0..20 {
        let row = groups(&Entries::new(seed).entry(), Literals::Kept).row;
        let whole = Fields::new(Group::Row, &row).count();
        for end in 0..row.len() {
            let fields: Vec<_> = Fields::new(Group::Row, &row[..end]).collect();
            let n_good = fields.iter().filter(|field| field.is_ok()).count();
            assert!(n_good < whole, "{end} of {}", hex(&row));
        }
    }
}

#[test]
fn literals_stay_out_unless_they_are_kept() {
    let secret = "naïve";
    let holds = |groups: &Groups| {
        [&groups.row, &groups.facts]
            .iter()
            .any(|bytes| bytes.windows(secret.len()).any(|window| window == secret.as_bytes()))
    };
    let entry = Entry::Statement(samples::full_record());
    assert!(holds(&groups(&entry, Literals::Kept)));
    assert!(!holds(&groups(&entry, Literals::Redacted)));
    let unknown = Entry::Statement(Record { facts: None, ..samples::full_record() });
    assert!(holds(&groups(&unknown, Literals::Kept)));
    assert_eq!(groups(&unknown, Literals::Redacted).facts, b"");
}
