//! The report as one HTML file that stands alone: no script, nothing to load, made to be printed on A4.

mod appendix;
mod approvals;
mod escape;
mod first_page;
pub(super) mod rows;
mod sums;

use std::fmt::{self, Write};

use escape::escaped;

use super::head::Head;

const STYLE: &str = include_str!("report.css");

/// Everything in front of the statements.
pub(super) fn begin(head: &Head) -> String {
    let mut html = String::new();
    // Writing to a string can't fail.
    let _ = write_begin(&mut html, head);
    html
}

/// Everything behind them.
pub(super) fn end(head: &Head) -> String {
    let mut html = String::new();
    let _ = appendix::write(&mut html, head);
    html.push_str("</main>\n</body>\n</html>\n");
    html
}

fn write_begin(html: &mut String, head: &Head) -> fmt::Result {
    write!(
        html,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{}: {}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n",
        head.title,
        escaped(&head.hosts.join(", ")),
    )?;
    first_page::write(html, head)
}
