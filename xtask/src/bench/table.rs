//! Tables for a terminal or for a page.

/// Where a table is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    Plain,
    Markdown,
}

impl Style {
    /// A command that can be repeated.
    pub fn code(self, command: &str) -> String {
        match self {
            Style::Plain => format!("To repeat: {command}"),
            Style::Markdown => format!("To repeat: `{command}`"),
        }
    }
}

/// A table with its title; all columns but the first stand to the right.
pub fn table(style: Style, title: &str, head: &[&str], rows: Vec<Vec<String>>) -> String {
    let head = head.iter().map(|cell| (*cell).to_owned()).collect();
    let mut lines = vec![head];
    lines.extend(rows);
    let mut widths: Vec<usize> = Vec::new();
    for line in &lines {
        widths.resize(widths.len().max(line.len()), 0);
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut shown: Vec<String> = lines.iter().map(|line| row(style, line, &widths)).collect();
    match style {
        Style::Plain => format!("{title}\n{}\n", shown.join("\n")),
        Style::Markdown => {
            let rules = widths.iter().enumerate().map(|(i, width)| match i {
                0 => "-".repeat(*width),
                _ => format!("{}:", "-".repeat(width.saturating_sub(1).max(1))),
            });
            shown.insert(1, row(style, &rules.collect::<Vec<_>>(), &widths));
            format!("**{title}**\n\n{}\n", shown.join("\n"))
        }
    }
}

fn row(style: Style, cells: &[String], widths: &[usize]) -> String {
    let cells = cells.iter().zip(widths).enumerate().map(|(i, (cell, width))| match i {
        0 => format!("{cell:<width$}"),
        _ => format!("{cell:>width$}"),
    });
    let cells: Vec<String> = cells.collect();
    match style {
        Style::Plain => format!("  {}", cells.join("   ")),
        Style::Markdown => format!("| {} |", cells.join(" | ")),
    }
}

#[cfg(test)]
mod tests {
    use super::{Style, table};

    #[test]
    fn both_styles() {
        let rows = || vec![vec!["bare".to_owned(), "7".to_owned()]];
        let check = |style, expected: &str| {
            assert_eq!(table(style, "T", &["what", "µs"], rows()), expected);
        };
        check(Style::Plain, "T\n  what   µs\n  bare    7\n");
        check(Style::Markdown, "**T**\n\n| what | µs |\n| ---- | -: |\n| bare |  7 |\n");
    }
}
