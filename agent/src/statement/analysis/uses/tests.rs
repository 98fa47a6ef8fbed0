//! Uses as one line each, by a table of texts.

use std::{fmt::Write as _, thread};

use super::uses;
use crate::{
    event::{By, Mix, Of, Output, Query, Reference, Uses, Values},
    statement::{Lexing, STACK_BYTES},
};

/// A query in brackets, and all that is in it.
fn shown(uses: &Uses, place: usize) -> String {
    let Some(query) = uses.queries.get(place) else { return "?".to_owned() };
    let Query { with, from, outputs, flows, by_output, merges, sides, is_distinct, writes } = query;
    let mut line = String::new();
    for cte in with {
        let _ = write!(line, "with({}){} ", cte.columns.join(","), shown(uses, cte.query));
    }
    for source in from {
        let of = match &source.of {
            Of::Relation(name) => name.to_string(),
            // A common table expression would be shown twice.
            Of::Query(place) if with.iter().any(|cte| cte.query == *place) => "cte".to_owned(),
            Of::Query(place) => shown(uses, *place),
            Of::Lateral(place) => format!("lateral {}", shown(uses, *place)),
            Of::Computed(mix) => format!("f({})", mixed(uses, mix)),
            Of::Joined(places) => format!("joined{places:?}"),
            Of::Given { columns, .. } => format!("given({})", columns.join(",")),
        };
        let hidden = if source.is_hidden { "!" } else { "" };
        let _ = write!(line, "{hidden}{of} {}({}) ", source.alias, source.columns.join(","));
    }
    for output in outputs {
        let _ = match output {
            Output::Star(of) => {
                write!(line, "> {} ", of.as_deref().unwrap_or_default().to_owned() + ".*")
            }
            Output::Plain { name, of } => write!(line, "> {name}={} ", named(of)),
            Output::Computed { name, of } => {
                write!(line, "> {}:({}) ", name.as_deref().unwrap_or_default(), mixed(uses, of))
            }
        };
    }
    for (sink, mix) in flows {
        let _ = write!(line, "| {}: {} ", sink.name(), mixed(uses, mix));
    }
    for by in by_output {
        let which = match &by.by {
            By::Place(place) => place.to_string(),
            By::Name(name) => name.to_string(),
        };
        let _ = write!(line, "| {} by {which} ", by.sink.name());
    }
    for merge in merges {
        let names = merge.names.as_ref().map_or("all".to_owned(), |names| names.join(","));
        let _ = write!(line, "| {:?}={:?} {names} ", merge.left, merge.right);
    }
    for side in sides {
        let _ = write!(line, "side{} ", shown(uses, *side));
    }
    if *is_distinct {
        line.push_str("distinct ");
    }
    for write in writes {
        let columns = write.columns.join(",");
        let _ = match &write.values {
            Values::Rows(_) => write!(line, "into {}({columns}) ", write.relation),
            Values::Outputs(all) => write!(line, "set {}({columns}){} ", write.relation, all.len()),
        };
    }
    format!("[{}]", line.trim_end())
}

fn named(reference: &Reference) -> String {
    let column = reference.column.as_deref().unwrap_or("*");
    match &reference.of {
        Some(of) => format!("{of}.{column}"),
        None => column.to_owned(),
    }
}

fn mixed(uses: &Uses, mix: &Mix) -> String {
    let mut parts: Vec<String> = mix.of.iter().map(named).collect();
    for inner in &mix.inner {
        let exists = if inner.is_read { "" } else { "exists" };
        parts.push(format!("{exists}{}", shown(uses, inner.query)));
    }
    parts.join(" ")
}

fn line(text: &str) -> String {
    let text = text.to_owned();
    let thread = thread::Builder::new().stack_size(STACK_BYTES);
    let all = thread.spawn(move || uses(&text, Lexing::default())).unwrap().join().unwrap();
    let each = all.iter().map(|uses| {
        let mut line = String::new();
        for (place, rows) in &uses.top {
            let _ = write!(line, "{rows:?}{} ", shown(uses, *place));
        }
        if let Some((relation, columns)) = &uses.copied {
            let _ = write!(line, "copied {relation}({}) ", columns.join(","));
        }
        for change in &uses.changes {
            let columns = change.columns.as_ref().map_or("all".to_owned(), |names| names.join(","));
            let _ = write!(line, "changes {} {columns} ", change.relation);
        }
        for name in &uses.temporary {
            let _ = write!(line, "temporary {name} ");
        }
        for place in &uses.aside {
            let _ = write!(line, "aside{} ", shown(uses, *place));
        }
        for create in &uses.creates {
            let _ = write!(line, "creates {}({}) ", create.relation, create.columns.join(","));
        }
        for name in &uses.executes {
            let _ = write!(line, "executes {name} ");
        }
        if !uses.is_whole {
            line.push('?');
        }
        line.trim_end().to_owned()
    });
    each.collect::<Vec<_>>().join(" ; ")
}

#[test]
fn columns_go_where_the_text_says() {
    let mut wrong = String::new();
    let lines = include_str!("tests.txt").lines();
    let mut lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    while let (Some(text), Some(expected)) = (lines.next(), lines.next()) {
        let found = line(text);
        if found.trim() != expected.trim() {
            wrong.push_str(&format!("{text}\n    {found}\n"));
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn what_is_too_much_is_not_whole() {
    let nested = format!("SELECT {}1{}", "(SELECT ".repeat(200), ")".repeat(200));
    for text in ["SELECT FROM WHERE", "DO 'BEGIN END'", &nested, "ALTER SCHEMA a RENAME TO b"] {
        assert!(line(text).ends_with('?'), "{text}");
    }
}
