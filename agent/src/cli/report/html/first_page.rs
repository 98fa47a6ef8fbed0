//! The first page: what the report says, what vouches for it, and what it can't say.

use std::fmt::{self, Write};

use super::{
    approvals,
    escape::escaped,
    sums::{self, number},
};
use crate::{
    cli::{
        report::{
            coverage::Gap,
            head::Head,
            labels::Labels,
            proof::{Proof, Verdict},
            totals::Sums,
        },
        terminal::duration,
        verify::shown,
    },
    event::WallTime,
};

/// Gaps of which each has a line.
const GAPS: usize = 60;

pub(super) fn write(html: &mut String, head: &Head) -> fmt::Result {
    title(html, head)?;
    verdict(html, head)?;
    figures(html, head)?;
    facts(html, head)?;
    unobserved(html, head)?;
    sums::reconciliation(html, head)?;
    sums::servers(html, head)?;
    approvals::write(html, head)?;
    sums::totals(html, head)
}

fn title(html: &mut String, head: &Head) -> fmt::Result {
    write!(
        html,
        "<header>\n<p class=\"kicker\">Evidence report &middot; dbwarden {}</p>\n<h1>{}</h1>\n\
         <p class=\"sub\">{} &middot; {}</p>\n</header>\n",
        head.dbwarden,
        head.title,
        escaped(&head.hosts.join(", ")),
        period(head),
    )
}

fn verdict(html: &mut String, head: &Head) -> fmt::Result {
    let (class, words) = match head.proof.verdict {
        Verdict::Whole => ("whole", "Verified: the ledger of this period is whole and unchanged"),
        Verdict::Broken => {
            ("broken", "The ledger isn\u{2019}t what was signed: do not rely on this report")
        }
        Verdict::NotVerified => {
            ("none", "NOT VERIFIED: nobody has held the ledger against its signatures")
        }
    };
    let class = if head.reconciliation.differences.is_empty() { class } else { "broken" };
    writeln!(html, "<section class=\"verdict {class}\">\n<h2>{words}</h2>")?;
    proof(html, &head.proof)?;
    let differences = &head.reconciliation.differences;
    if differences.is_empty() {
        writeln!(
            html,
            "<p>All rows are accounted for: the reconciliation below comes out exactly.</p>"
        )?;
    } else {
        writeln!(html, "<p><b>The rows do not add up:</b></p>")?;
        list(html, differences.iter().map(String::as_str))?;
    }
    writeln!(html, "</section>")
}

fn proof(html: &mut String, proof: &Proof) -> fmt::Result {
    if !proof.words.is_empty() {
        writeln!(html, "<p>{}</p>", escaped(&proof.words))?;
    }
    if proof.verdict == Verdict::NotVerified {
        return Ok(());
    }
    list(html, proof.findings.iter().take(20).map(String::as_str))?;
    let more = proof.findings.len().saturating_sub(20) as u64 + proof.more_findings;
    if more > 0 {
        writeln!(
            html,
            "<p>and {more} more findings: <code>dbwarden verify</code> names them.</p>"
        )?;
    }
    write!(
        html,
        "<p>{} rows of {} sealed segments and {} rows of open ones were held against the checkpoint of {}, \
         signed with {}. ",
        number(proof.verified_rows),
        number(proof.verified_segments),
        number(proof.open_rows),
        proof.checkpoint_time.map_or_else(|| "an unknown time".to_owned(), shown),
        escaped(&proof.key_is_vouched_for),
    )?;
    match proof.outside_time {
        Some(time) => {
            write!(html, "A checkpoint of {}, kept elsewhere, is part of it.", shown(time))?
        }
        None => write!(
            html,
            "It was not held against a checkpoint kept elsewhere, without which a rollback of the whole host, \
             keys included, can\u{2019}t be seen."
        )?,
    }
    if proof.unsigned_rows > 0 {
        let n = number(proof.unsigned_rows);
        write!(html, " <b>{n} rows were not signed yet</b> when the report was made.")?;
    }
    writeln!(html, "</p>")
}

fn figures(html: &mut String, head: &Head) -> fmt::Result {
    writeln!(html, "<div class=\"figures\">")?;
    let count = |sums: &Sums, names: &[&str]| -> u64 {
        let all = sums.largest().into_iter().filter(|(name, _)| names.contains(name));
        all.map(|(_, sum)| sum.statements).sum()
    };
    let mut figure = |value: String, words: &str, bad: bool| {
        let class = if bad { " class=\"bad\"" } else { "" };
        write!(html, "<div{class}><b>{value}</b><span>{words}</span></div>")
    };
    let totals = &head.totals;
    let failed = count(&totals.by_outcome, &["failed", "not run"]);
    let unwatched = head.unwatched_us();
    let ai = count(&totals.by_kind, &["ai"]);
    figure(number(totals.statements), "statements", false)?;
    figure(number(failed), "of them failed", false)?;
    figure(number(ai), "of them by AI", false)?;
    figure(number(totals.uncertain), "of them not fully analysed", false)?;
    let gap = match unwatched {
        0 => "none".to_owned(),
        us => duration(us.unsigned_abs()),
    };
    figure(gap, "of the period not watched", unwatched > 0)?;
    writeln!(html, "</div>")
}

fn facts(html: &mut String, head: &Head) -> fmt::Result {
    writeln!(html, "<dl>")?;
    let mut fact =
        |name: &str, words: &str| writeln!(html, "<dt>{name}</dt><dd>{}</dd>", escaped(words));
    fact("Population", head.population)?;
    let filters = match head.filters.is_empty() {
        true => "none: everything that belongs is here".to_owned(),
        false => format!("{} (what they leave out is counted below)", head.filters.join(" ")),
    };
    fact("Filters", &filters)?;
    fact("Period", &period_words(head))?;
    fact("Made", &format!("{} by {} on {}", shown(head.made.time), head.made.by, head.made.on))?;
    fact("Ledger", &head.ledger)?;
    if let Some(key) = &head.proof.key {
        fact("Key", key)?;
    }
    if let Some(time) = head.proof.checkpoint_time {
        fact(
            "Checkpoint",
            &format!("over {} entries, signed {}", head.proof.entries, shown(time)),
        )?;
    }
    if let Some(labels) = &head.labels {
        for label in &labels.labels {
            fact("Label", &format!("{} on {}", label.name, label.on.join(", ")))?;
        }
        fact("Labels from", &labels_words(labels))?;
    }
    writeln!(html, "</dl>")
}

fn labels_words(labels: &Labels) -> String {
    let Labels { configuration, sha256, applied, .. } = labels;
    let told = match labels.applied_throughout {
        Some(true) => "which is what the ledger says applied during the whole period".to_owned(),
        None => "the ledger doesn\u{2019}t say for the whole period which configuration applied"
            .to_owned(),
        Some(false) => {
            let applied: Vec<String> = applied
                .iter()
                .filter(|applied| applied.sha256 != *sha256)
                .map(|applied| {
                    format!(
                        "{} on {} from {} on",
                        applied.sha256,
                        applied.host,
                        shown(applied.since)
                    )
                })
                .take(6)
                .collect();
            format!(
                "WHICH IS NOT THE ONE THAT APPLIED: the ledger names {}. What its labels were, only that \
                 configuration says",
                applied.join("; ")
            )
        }
    };
    format!("{configuration} (SHA-256 of the configuration {sha256}), {told}.")
}

fn unobserved(html: &mut String, head: &Head) -> fmt::Result {
    writeln!(html, "<h2>What was not observed</h2>")?;
    let gaps = &head.unobserved;
    if gaps.is_empty() && head.notes.is_empty() {
        writeln!(html, "<p>The ledger knows of nothing in this period that was not observed.</p>")?;
    }
    list(html, head.notes.iter().map(String::as_str))?;
    if gaps.is_empty() {
        return Ok(());
    }
    writeln!(
        html,
        "<table><thead><tr><th>From</th><th>To (UTC)</th><th class=\"r\">Length</th><th>Host</th><th>What is missing</th></tr></thead><tbody>"
    )?;
    for gap in gaps.iter().take(GAPS) {
        gap_row(html, gap)?;
    }
    writeln!(html, "</tbody></table>")?;
    if gaps.len() > GAPS {
        writeln!(
            html,
            "<p class=\"more\">and {} more, which the JSON form lists.</p>",
            gaps.len() - GAPS
        )?;
    }
    Ok(())
}

fn gap_row(html: &mut String, gap: &Gap) -> fmt::Result {
    let time = |time: Option<WallTime>| time.map_or_else(|| "?".to_owned(), shown);
    let length = match (gap.from, gap.to) {
        (Some(from), Some(to)) if to > from => duration(to.0.abs_diff(from.0)),
        _ => "–".to_owned(),
    };
    writeln!(
        html,
        "<tr><td>{}</td><td>{}</td><td class=\"r\">{length}</td><td>{}</td><td>{}<small>{}</small></td></tr>",
        time(gap.from),
        time(gap.to),
        escaped(&gap.host),
        escaped(&gap.words),
        escaped(&gap.reason),
    )
}

fn list<'a>(html: &mut String, items: impl Iterator<Item = &'a str>) -> fmt::Result {
    let mut items = items.peekable();
    if items.peek().is_none() {
        return Ok(());
    }
    html.push_str("<ul>");
    for item in items {
        write!(html, "<li>{}</li>", escaped(item))?;
    }
    html.push_str("</ul>\n");
    Ok(())
}

fn period(head: &Head) -> String {
    let since = head.period.since.map_or_else(|| "beginning of the ledger".to_owned(), shown);
    format!("{since} to {}", shown(head.period.until))
}

fn period_words(head: &Head) -> String {
    let sums = &head.reconciliation;
    let rows = match (sums.first, sums.last) {
        (Some(first), Some(last)) => {
            format!(
                "the ledger\u{2019}s first row in it is of {}, its last of {}",
                shown(first),
                shown(last)
            )
        }
        _ => "the ledger has no row in it".to_owned(),
    };
    format!("{}; {rows}", period(head))
}
