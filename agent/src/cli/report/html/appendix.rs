//! The last pages: how everything can be checked, and what each column means.

use std::fmt::{self, Write};

use super::escape::escaped;
use crate::cli::report::head::Head;

/// What stands in the table, and in JSON and CSV besides.
const COLUMNS: &[(&str, &str)] = &[
    ("Time", "when the server was sent the statement, by the host\u{2019}s clock, UTC"),
    (
        "Principal",
        "who sent it, as the host\u{2019}s kernel and configuration tell (verified): human, service, ai or \
         unknown; for AI also who launched it. What a client says of itself is in no column but the application\u{2019}s name",
    ),
    ("Database, as user", "the database, the database user, and the server as dbwarden calls it"),
    (
        "Effects, tables",
        "what the text does by the database\u{2019}s own grammar, and the tables that it names. Views, functions, \
         triggers and foreign keys are not followed: what they change or read besides is not named",
    ),
    ("Rows", "rows read or changed, as the server told; \u{2013} where it tells none"),
    (
        "Outcome",
        "done, failed (with the server\u{2019}s SQLSTATE), not run (skipped after an earlier error), or end not \
         seen. A statement that is done inside a transaction (marked) took effect only if that was committed: \
         dbwarden search --connection shows how it went on",
    ),
    ("Verdict, rule", "what policy made of it when it was seen, and the rule that decided"),
    (
        "Approval",
        "the approval that it has needed: one that was denied then, or has passed with it. Who was asked and who has \
         decided stands under Approvals",
    ),
    (
        "Proof",
        "SEGMENT:ROW in the ledger, and the first checkpoint that covers it (by its number of entries). A row \
         that is not sealed yet has no place yet: it has one when its segment is sealed",
    ),
    (
        "Statement",
        "the text as it is kept: with ? for each literal unless the configuration keeps them, secrets never. \
         Characters that are invisible or reorder text stand there as U+ and their number",
    ),
    (
        "Marks",
        "effect unknown or analysis incomplete: it may have done more than is said. may have read more: it calls \
         code or can\u{2019}t be analysed, and is in a database with labelled data. captured in part, bytes lost, \
         connection joined midway: not all of it was seen",
    ),
];

pub(super) fn write(html: &mut String, head: &Head) -> fmt::Result {
    writeln!(html, "<section class=\"appendix\">\n<h2>Appendix: how to check this report</h2>")?;
    commands(html, head)?;
    fingerprint(html, head)?;
    writeln!(html, "<h2>Definitions</h2>\n<table><tbody>")?;
    for (name, words) in COLUMNS {
        writeln!(html, "<tr><td style=\"width:30mm\">{name}</td><td>{words}</td></tr>")?;
    }
    writeln!(html, "</tbody></table>")?;
    if let Some(checkpoint) = &head.proof.checkpoint {
        writeln!(
            html,
            "<h2>The checkpoint</h2>\n<p>The newest one when the report was made: a signed note \
             (c2sp.org/tlog-checkpoint). Kept on another machine, it shows later whether the ledger was put \
             back.</p>\n<pre class=\"block\">{}</pre>",
            escaped(checkpoint)
        )?;
    }
    writeln!(html, "</section>")
}

fn commands(html: &mut String, head: &Head) -> fmt::Result {
    let (ledger, keys) = (escaped(&quoted(&head.ledger)), escaped(&quoted(&head.keys)));
    if head.ledger.contains("://") {
        return writeln!(
            html,
            "<p>The rows were read from copies in an object store. Copy one host\u{2019}s folder of it to a disk, \
             and <code>dbwarden verify --ledger DIR --key KEY</code> holds it against the public key that \
             <code>dbwarden keys show</code> prints on that host.</p>"
        );
    }
    let place = "SEGMENT:ROW";
    writeln!(
        html,
        "<p>That the ledger is whole and unchanged, on its host or on a copy of its folder; with a key or a \
         checkpoint that was kept elsewhere, add <code>--key</code> or <code>--checkpoint</code>:</p>\n\
         <pre class=\"block\">dbwarden verify --ledger {ledger} --keys {keys}</pre>\n\
         <p>That one row was recorded as it stands here; the place is in its column Proof. The proof is checked \
         with a few lines of Python that PROOFS.md has, without dbwarden and without the ledger:</p>\n\
         <pre class=\"block\">dbwarden verify --ledger {ledger} --keys {keys} --prove {place} --out proof.json</pre>\n\
         <p>The population, in SQL over the same ledger:</p>\n\
         <pre class=\"block\">dbwarden sql --ledger {ledger} {}</pre>",
        escaped(&quoted(&count_query(head))),
    )
}

/// Counts the statements of the period, whatever became of them.
fn count_query(head: &Head) -> String {
    let since = head.period.since.map(|since| format!("time >= TIMESTAMP '{since}' AND "));
    format!(
        "SELECT effects, analysis, count(*) FROM statements WHERE {}time < TIMESTAMP '{}' GROUP BY 1, 2",
        since.unwrap_or_default(),
        head.period.until
    )
}

fn fingerprint(html: &mut String, head: &Head) -> fmt::Result {
    writeln!(
        html,
        "<p>That these are the rows that were reported, to refer to them by one number:</p>\n\
         <pre class=\"block\">SHA-256 {}\nover {} rows</pre>\n<p>It is over {}. The JSON form \
         (<code>--format json</code>) has the rows as these lines.</p>",
        head.rows_sha256,
        head.reconciliation.written,
        escaped(head.rows_sha256_is_over),
    )
}

/// For a shell, where it needs that.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-:=".contains(c);
    match word.chars().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}
