//! The population as a table: a statement is one block, facts above its text.

use std::fmt::Write;

use super::escape::{escaped, escaped_start};
use crate::cli::report::row::{Outcome, Row};

/// Of a text; JSON and CSV have all of it.
const TEXT_CHARS: usize = 6_000;

pub(in crate::cli::report) const BEGIN: &str = "<section class=\"rows\">\n<h2>Statements</h2>\n<table class=\"population\">\n\
<thead><tr><th class=\"r\">No.</th><th>Time (UTC)</th><th>Principal</th><th>Database, as user</th>\
<th>Effects, tables</th><th class=\"r\">Rows</th><th>Outcome</th><th>Verdict, rule</th><th>Approval</th>\
<th>Proof</th></tr></thead>\n";
pub(in crate::cli::report) const END: &str = "</table>\n</section>\n";
pub(in crate::cli::report) const NONE: &str = "<tbody><tr><td></td><td colspan=\"9\">No statement of the period belongs to this report.</td></tr></tbody>\n";

/// A number from 1, and the statement.
pub(in crate::cli::report) fn row(number: u64, row: &Row) -> String {
    let mut html = String::with_capacity(1_024);
    // Writing to a string can't fail.
    let _ = block(&mut html, number, row);
    html
}

fn block(html: &mut String, number: u64, row: &Row) -> std::fmt::Result {
    let (day, clock) = row.time.split_once('T').unwrap_or((&row.time, ""));
    let clock = clock.trim_end_matches('Z');
    write!(html, "<tbody><tr><td class=\"r\">{number}</td>")?;
    write!(html, "<td class=\"t\">{}<br>{}</td>", escaped(day), escaped(clock))?;
    write!(html, "<td>{}{}</td>", escaped(row.who()), small(&sender(row)))?;
    write!(html, "<td>{}{}</td>", named(&row.database), small(&place(row)))?;
    write!(html, "<td>{}{}</td>", escaped(&effects(row)), small(&tables(row)))?;
    let n_rows = row.rows.map_or_else(|| "–".to_owned(), |n| n.to_string());
    write!(html, "<td class=\"r\">{n_rows}</td>")?;
    match row.outcome {
        Outcome::Done => write!(html, "<td>done</td>")?,
        other => {
            let code = row.error_code.as_deref().unwrap_or_default();
            write!(html, "<td><b>{}</b>{}</td>", other.name(), small(code))?;
        }
    }
    let rule = row.rule.as_deref().unwrap_or_default();
    write!(html, "<td>{}{}</td>", named(&row.verdict), small(rule))?;
    write!(html, "<td>{}</td>", named(&row.approval))?;
    match (&row.place, row.segment) {
        (Some(place), _) => {
            let checkpoint = row.checkpoint.map(|entries| format!("checkpoint {entries}"));
            let checkpoint = checkpoint.unwrap_or_else(|| "no signed entry".to_owned());
            write!(html, "<td class=\"m\">{}{}</td>", escaped(place), small(&checkpoint))?;
        }
        (None, Some(segment)) => {
            write!(html, "<td class=\"m\">{segment}:–{}</td>", small("not sealed yet"))?
        }
        (None, None) => write!(html, "<td>–</td>")?,
    }
    write!(html, "</tr>\n<tr><td></td><td colspan=\"9\">")?;
    match &row.text {
        Some(text) => {
            let (text, more) = escaped_start(text, TEXT_CHARS);
            write!(html, "<pre>{text}")?;
            if more > 0 {
                write!(html, "<i> … {more} more characters, which JSON and CSV have</i>")?;
            }
            write!(html, "</pre>")?;
        }
        None => write!(html, "<pre class=\"unseen\">the text was not seen</pre>")?,
    }
    if let Some(message) = &row.error_message {
        write!(html, "<p class=\"e\">{}</p>", escaped_start(message, 600).0)?;
    }
    let marks: Vec<&String> = row.marks.iter().filter(|mark| !is_shown_above(mark)).collect();
    let labels = labels(row);
    if !marks.is_empty() || !labels.is_empty() {
        write!(html, "<p class=\"k\">{}", escaped(&labels))?;
        for mark in marks {
            write!(html, "<span>{}</span>", escaped(mark))?;
        }
        write!(html, "</p>")?;
    }
    writeln!(html, "</td></tr></tbody>")
}

/// The columns say so themselves.
fn is_shown_above(mark: &str) -> bool {
    ["failed", "not run", "end not seen", "not sealed yet", "no signed entry", "text not seen"]
        .contains(&mark)
}

fn sender(row: &Row) -> String {
    let mut words = row.principal_kind.clone().unwrap_or_else(|| "unknown".to_owned());
    if let Some(initiator) = &row.initiator {
        words += &format!(", launched by {initiator}");
    }
    if let Some(exe) = row.exe.as_deref().and_then(|exe| exe.rsplit('/').next()) {
        words += &format!(", {exe}");
    }
    if let Some(address) = &row.client_address {
        words += &format!(", from {address}");
    }
    words
}

fn place(row: &Row) -> String {
    let part = |part: &Option<String>| part.clone().unwrap_or_else(|| "?".to_owned());
    format!("{} on {}", part(&row.db_user), part(&row.server))
}

fn effects(row: &Row) -> String {
    match &row.effects {
        Some(effects) if !effects.is_empty() => effects.join(", "),
        _ => "unknown".to_owned(),
    }
}

fn tables(row: &Row) -> String {
    let mut names: Vec<&str> =
        row.tables.iter().flatten().map(|table| table.name.as_str()).collect();
    names.dedup();
    names.join(", ")
}

fn labels(row: &Row) -> String {
    let mut words = Vec::new();
    if !row.labels.is_empty() {
        words.push(format!("reads {}", row.labels.join(", ")));
    }
    if !row.possible_labels.is_empty() {
        words.push(format!("may have read {}", row.possible_labels.join(", ")));
    }
    if let Some(region) = &row.client_region {
        words.push(format!("from region {region}"));
    }
    words.join("; ")
}

fn named(text: &Option<String>) -> String {
    text.as_deref().map_or_else(|| "–".to_owned(), escaped)
}

fn small(text: &str) -> String {
    match text.is_empty() {
        true => String::new(),
        false => format!("<small>{}</small>", escaped(text)),
    }
}

#[cfg(test)]
mod tests {
    use super::row;
    use crate::cli::report::row::{Row, Table};

    #[test]
    fn no_field_of_a_row_can_break_out_of_its_cell() {
        let hostile = || Some("<img src=x onerror=alert(1)>\"'\u{202e}".to_owned());
        let table = Table { name: hostile().unwrap(), access: "read".into() };
        let mut hostile_row = Row {
            time: hostile().unwrap(),
            server: hostile(),
            database: hostile(),
            db_user: hostile(),
            client_address: hostile(),
            principal: hostile(),
            principal_kind: hostile(),
            initiator: hostile(),
            exe: hostile(),
            text: hostile(),
            effects: Some(vec![hostile().unwrap()]),
            tables: Some(vec![table]),
            analysis: hostile(),
            error_code: hostile(),
            error_message: hostile(),
            verdict: hostile(),
            rule: hostile(),
            approval: hostile(),
            labels: vec![hostile().unwrap()],
            possible_labels: vec![hostile().unwrap()],
            client_region: hostile(),
            segment: Some(1),
            ..Row::default()
        };
        hostile_row.judge(|_| None);
        let html = row(1, &hostile_row);
        assert!(
            !html.contains("<img") && !html.contains('\u{202e}') && !html.contains("\"'"),
            "{html}"
        );
        assert_eq!(html.matches("&lt;img").count(), 21, "{html}");
        for tag in ["tbody", "tr", "td", "p", "pre", "small", "b", "span"] {
            let (opened, closed) = (format!("<{tag}"), format!("</{tag}>"));
            let opened = html.matches(&format!("{opened}>")).count()
                + html.matches(&format!("{opened} ")).count();
            assert_eq!(opened, html.matches(&closed).count(), "{tag}: {html}");
        }
    }
}
