//! Texts with NULL where they mean a column, and those in which it can't stand.

use std::sync::{Arc, LazyLock};

use super::{
    Client, Copied, Corpus, Here, Kind, RULES, Relation, Rows, Sample, Set, Why, database,
    on_large_stack, set,
};
use crate::{
    event::{Flow, Uses},
    guard::{
        catalog::Column,
        lineage::{Place, only_shows},
        masking::NULLED,
    },
    policy::Judge,
    statement::{Lexing, analyse_in, uses},
};

static NULLING: LazyLock<Arc<Set>> =
    LazyLock::new(|| set(&RULES.replace(" @severity", " @flow(\"null\") @severity")));

/// Another table by the name of one, and one with columns of many types.
fn tables() -> Rows {
    let mut rows = database();
    let mut table = |oid, schema: &str, name: &str, columns: &[(&str, u32)]| {
        rows.relations.push(Relation {
            oid,
            schema: schema.to_owned(),
            name: name.to_owned(),
            kind: Kind::Table,
            rows: None,
            definition: None,
        });
        let columns = (1..).zip(columns).map(|(place, (name, kind))| Column {
            relation: oid,
            place,
            name: (*name).into(),
            kind: *kind,
            made_by: None,
        });
        rows.columns.get_or_insert_default().extend(columns);
    };
    table(30_020, "old", "visits", &[("email", 25), ("page", 25)]);
    table(30_021, "public", "cards", &[("id", 23), ("card", 1_015)]);
    table(30_022, "public", "own", &[("id", 23), ("card", 20_100)]);
    rows
}

fn client() -> Client {
    Client::judged_by(Judge::new(NULLING.clone()), tables())
}

impl Client {
    /// What is sent for a text: itself, or one in which something is NULL.
    fn send(&mut self, text: &str) -> Result<(String, Copied), Why> {
        let mut other = text.to_owned();
        let mut first = None;
        loop {
            let why = match self.say(&other) {
                Ok(copied) => return Ok((other, copied)),
                Err(why) => why,
            };
            let next = match &why {
                Why::Flows { place, flow: Flow::Null, .. } => self.without(*place, &other),
                _ => None,
            };
            let why = first.get_or_insert(why).clone();
            other = next.ok_or(why)?;
        }
    }

    fn without(&mut self, place: Place, text: &str) -> Option<String> {
        let all = uses(text, Lexing::default());
        let analysed = analyse_in(text, &self.session);
        let mut reading: Vec<&Uses> = Vec::new();
        for (uses, said) in all.iter().zip(&analysed.statements) {
            let all = self.behind.reveal(said, &mut Here).facts;
            let ran = self.behind.runs(said, &mut Here);
            reading.extend(only_shows(uses, &all, &ran).then_some(uses));
        }
        self.labelled.without(place, text, Lexing::default(), &reading, &self.masks)
    }
}

/// The text that is sent; `-` where none is.
fn sent(text: &str) -> String {
    let sent = client().send(text).map_or_else(|_| "-".to_owned(), |(text, _)| text);
    sent.replace("(NULL::pg_catalog.text)", "~").replace(NULLED, "! ")
}

#[test]
fn what_flows_is_null_in_the_text_that_is_sent() {
    on_large_stack(|| {
        let mut wrong = String::new();
        let lines = include_str!("nulling.txt").lines();
        let mut lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
        while let (Some(text), Some(expected)) = (lines.next(), lines.next()) {
            let found = sent(text);
            if found != expected.trim_start() {
                wrong.push_str(&format!("{text}\n    {found}\n"));
            }
        }
        assert!(wrong.is_empty(), "\n{wrong}");
    });
}

/// Each way to a hidden value that is closed by refusing it is closed, or open to NULLs.
#[test]
fn ways_out_are_null_or_refused() {
    on_large_stack(|| {
        let corpus = include_str!("../../../../../tests/corpus/masking/escapes.toml");
        let corpus: Corpus = toml::from_str(corpus).unwrap();
        let mut wrong = String::new();
        let mut n_nulled = 0;
        for Sample { id, steps, becomes, needs, nulled, .. } in corpus.case {
            if needs.contains("server") || becomes.as_deref() != Some("denied") {
                continue;
            }
            let mut client = client();
            let texts: Vec<String> = steps.iter().flat_map(|step| step.texts()).collect();
            let is_nulled = texts.iter().all(|text| client.send(text).is_ok());
            n_nulled += usize::from(is_nulled);
            if is_nulled != nulled {
                wrong.push_str(&format!("{id}: {:?}\n", sent(texts.last().unwrap())));
            }
        }
        assert!(wrong.is_empty(), "\n{wrong}");
        assert!(n_nulled >= 60, "{n_nulled}");
    });
}

#[test]
fn the_strictest_flow_counts() {
    on_large_stack(|| {
        let other = RULES.replace("hide-secret", "hide-more").replace("last4", "null");
        let rules = RULES.replace(" @severity", " @flow(\"null\") @severity");
        let both = rules + &other.replace("hide-pii", "hide-all").replace("null", "noise");
        let mut client = Client::judged_by(Judge::new(set(&both)), tables());
        let why = client.send("SELECT upper(email) FROM customers").unwrap_err();
        let Why::Flows { rule, flow, .. } = why else { panic!("{why}") };
        // The mask of one, and the flow of the other.
        assert_eq!((&*rule, flow), ("hide-pii", Flow::Deny));
    });
}
