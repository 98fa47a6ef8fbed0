//! What everything adds up to: the reconciliation, each server's coverage, totals.

use std::fmt::{self, Write};

use super::escape::escaped;
use crate::{
    cli::{
        report::{
            Kind,
            head::Head,
            reconciliation::Reconciliation,
            totals::{Sum, Sums},
        },
        terminal::bytes,
        verify::shown,
    },
    event::WallTime,
};

/// Lines of a table of totals; the JSON form has all.
const NAMES: usize = 20;
pub(super) fn reconciliation(html: &mut String, head: &Head) -> fmt::Result {
    let sums: &Reconciliation = &head.reconciliation;
    writeln!(
        html,
        "<section class=\"keep\">\n<h2>Reconciliation with the ledger</h2>\n<table><tbody>"
    )?;
    let signed = match sums.signed_rows {
        Some(signed) => format!("{} as their signed entries say", number(signed)),
        None => "their signed entries were not looked at".to_owned(),
    };
    let mut line = |class: &str, words: &str, n: u64| {
        writeln!(
            html,
            "<tr class=\"{class}\"><td>{}</td><td class=\"r\">{}</td></tr>",
            escaped(words),
            number(n)
        )
    };
    let rows = format!(
        "Rows in the segments that may have rows of the period (sealed: {} with {} rows, {signed}; open: {})",
        number(sums.sealed_segments),
        number(sums.sealed_rows),
        number(sums.open_segments),
    );
    line("", &rows, sums.rows)?;
    line("minus", "less rows of other times", sums.outside_period)?;
    line(
        "minus",
        "less records that are no statements (connections, coverage, findings, …)",
        sums.other_records,
    )?;
    line("sum", "Statements in the period", sums.statements)?;
    line(
        "minus",
        &format!("less statements that {}", head.report.unconcerned()),
        sums.unconcerned,
    )?;
    if sums.outside_filter > 0 || !head.filters.is_empty() {
        line("minus", "less statements that the filters leave out", sums.outside_filter)?;
    }
    for (label, (statements, rows)) in &head.in_region {
        let words = format!("of the next line, {label}: {} rows read", number(*rows));
        line("minus", &words, *statements)?;
    }
    if sums.in_region > 0 || head.report == Kind::Residency {
        line("minus", "less reads from within the region of their label", sums.in_region)?;
    }
    line("sum", "Statements in this report", sums.reported)?;
    let same = if sums.written == sums.reported { "=" } else { "\u{2260}" };
    line("", &format!("{same} rows that this document was made of"), sums.written)?;
    writeln!(html, "</tbody></table>\n</section>")
}

pub(super) fn servers(html: &mut String, head: &Head) -> fmt::Result {
    writeln!(html, "<h2>Coverage by database server</h2>")?;
    if head.servers.is_empty() {
        return writeln!(
            html,
            "<p>In this period the ledger has no coverage of any server: nothing was seen.</p>"
        );
    }
    writeln!(
        html,
        "<table><thead><tr><th class=\"name\">Server</th><th>First and last minute told</th><th class=\"r\">Minutes</th>\
         <th class=\"r\">Statements</th><th class=\"r\">Seen</th><th class=\"r\">Decoded</th>\
         <th class=\"r\">Truncated</th><th class=\"r\">Lost</th><th class=\"r\">Skipped</th>\
         <th class=\"r\">Blind</th><th class=\"r\">Blind connections</th></tr></thead><tbody>"
    )?;
    let time = |time: Option<WallTime>| time.map_or_else(|| "–".to_owned(), shown);
    let lack = |n: u64, words: String| match n {
        0 => "<td class=\"r\">0</td>".to_owned(),
        _ => format!("<td class=\"r bad\">{words}</td>"),
    };
    for server in &head.servers {
        write!(
            html,
            "<tr><td>{}<small>{}</small></td><td class=\"t\">{}<br>{}</td><td class=\"r\">{}</td><td class=\"r\">{}</td>\
             <td class=\"r\">{}</td><td class=\"r\">{}</td>",
            escaped(&server.server),
            escaped(&server.host),
            time(server.first),
            time(server.last),
            number(server.minutes),
            number(server.statements),
            bytes(server.bytes),
            bytes(server.decoded_bytes),
        )?;
        for n in
            [server.truncated_bytes, server.lost_bytes, server.skipped_bytes, server.blind_bytes]
        {
            html.push_str(&lack(n, bytes(n)));
        }
        let blind = server.blind_connections;
        writeln!(html, "{}</tr>", lack(blind, number(blind)))?;
    }
    writeln!(html, "</tbody></table>")
}

pub(super) fn totals(html: &mut String, head: &Head) -> fmt::Result {
    let totals = &head.totals;
    if totals.statements == 0 {
        return Ok(());
    }
    writeln!(html, "<h2>Totals</h2>\n<div class=\"totals\">")?;
    for (title, sums) in [
        ("Kind of principal", &totals.by_kind),
        ("Principal", &totals.by_principal),
        ("Launched AI", &totals.by_initiator),
        ("Database", &totals.by_database),
        ("Table", &totals.by_table),
        ("Effect", &totals.by_effect),
        ("Label", &totals.by_label),
        ("Region of the client", &totals.by_client_region),
        ("Outcome", &totals.by_outcome),
        ("Verdict", &totals.by_verdict),
        ("Marks", &totals.by_mark),
    ] {
        if !sums.is_empty() {
            one_total(html, title, sums)?;
        }
    }
    writeln!(html, "</div>")
}

fn one_total(html: &mut String, title: &str, sums: &Sums) -> fmt::Result {
    let all = sums.largest();
    write!(
        html,
        "<div><table><thead><tr><th>{title}</th><th class=\"r\">Statements</th><th class=\"r\">Rows</th></tr></thead><tbody>"
    )?;
    for (name, Sum { statements, rows }) in all.iter().take(NAMES) {
        write!(
            html,
            "<tr><td>{}</td><td class=\"r\">{}</td><td class=\"r\">{}</td></tr>",
            escaped(name),
            number(*statements),
            number(*rows)
        )?;
    }
    if let Some(more) = all.get(NAMES..).filter(|more| !more.is_empty()) {
        let n: u64 = more.iter().map(|(_, sum)| sum.statements).sum();
        let rows: u64 = more.iter().map(|(_, sum)| sum.rows).sum();
        write!(
            html,
            "<tr><td>{} more</td><td class=\"r\">{}</td><td class=\"r\">{}</td></tr>",
            more.len(),
            number(n),
            number(rows)
        )?;
    }
    writeln!(html, "</tbody></table></div>")
}

/// All digits, in groups: `1 204 221`, with a space that doesn't break.
pub(super) fn number(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn numbers_have_all_their_digits() {
        for (n, expected) in [(0, "0"), (999, "999"), (1_000, "1 000"), (1_204_221, "1 204 221")] {
            assert_eq!(number(n).replace('\u{202f}', " "), expected);
        }
    }
}
