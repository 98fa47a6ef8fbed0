//! The approvals of the period: each step with who took it.

use std::fmt::{self, Write};

use super::{escape::escaped, sums::number};
use crate::cli::{report::head::Head, verify::shown};

/// Nothing where nobody was asked.
pub(super) fn write(html: &mut String, head: &Head) -> fmt::Result {
    if head.approvals.is_empty() {
        return Ok(());
    }
    writeln!(
        html,
        "<h2>Approvals</h2>\n<p>Who was asked for which statement, who has decided, and what became of it. The \
         statements that were denied or let pass have the same id in their column Approval.</p>\n\
         <table><thead><tr><th>Time</th><th class=\"name\">Approval</th><th>Step</th><th>By</th>\
         <th>Rule</th><th>In words</th></tr></thead><tbody>"
    )?;
    let known = |text: &Option<String>| text.as_deref().map(|text| escaped(text).to_string());
    for step in &head.approvals.steps {
        writeln!(
            html,
            "<tr><td class=\"t\">{}</td><td>{}<small>{}</small></td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            shown(step.time),
            escaped(&step.approval),
            escaped(step.server.as_deref().unwrap_or(&step.host)),
            escaped(&step.action),
            known(&step.principal).unwrap_or_default(),
            known(&step.rule).unwrap_or_default(),
            known(&step.message).unwrap_or_default(),
        )?;
    }
    writeln!(html, "</tbody></table>")?;
    if head.approvals.more > 0 {
        writeln!(html, "<p>{} more steps are in the ledger.</p>", number(head.approvals.more))?;
    }
    Ok(())
}
