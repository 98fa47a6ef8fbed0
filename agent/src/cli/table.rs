//! Columns under a headline, as wide as what stands in them.

use unicode_width::UnicodeWidthStr;

use super::terminal::{Paint, Style, left, right};

/// Where a column's text stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Right,
}

/// A table under construction; cells are clean text.
pub(super) struct Table {
    columns: Vec<(String, Align)>,
    rows: Vec<Vec<(Style, String)>>,
}

impl Table {
    pub(super) fn new(columns: &[(&str, Align)]) -> Self {
        let columns = columns.iter().map(|(title, align)| ((*title).to_owned(), *align));
        Self { columns: columns.collect(), rows: Vec::new() }
    }

    pub(super) fn row(&mut self, cells: Vec<(Style, String)>) {
        self.rows.push(cells);
    }

    pub(super) fn render(&self, paint: Paint) -> String {
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|index| {
                let cells = self.rows.iter().filter_map(|row| row.get(index));
                let title = self.columns.get(index).map_or(0, |(title, _)| title.width());
                cells.map(|(_, text)| text.width()).max().unwrap_or(0).max(title)
            })
            .collect();
        let mut text = String::new();
        let titles = self.columns.iter().map(|(title, _)| (Style::Dim, title.clone())).collect();
        for row in std::iter::once(&titles).chain(&self.rows) {
            let mut line = String::new();
            for (((style, cell), (_, align)), width) in row.iter().zip(&self.columns).zip(&widths) {
                let cell = match align {
                    Align::Left => left(cell, *width),
                    Align::Right => right(cell, *width),
                };
                line += &paint.paint(*style, &cell);
                line += "  ";
            }
            text += line.trim_end();
            text.push('\n');
        }
        text
    }
}
