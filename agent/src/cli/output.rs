//! Rows of the ledger's answers on standard output, in the form that was asked for.

use std::io::{self, Write};

use anyhow::{Result, bail};

use super::{
    Common, Format,
    ask::{Ledger, ask},
    csv,
};
use crate::search::{Line, Request, Trailer};

pub(super) type Out = io::BufWriter<io::Stdout>;

/// How a subcommand lays rows out for people.
pub(super) trait Layout {
    /// Whether a row is shown, in whatever form.
    fn wants(&mut self, _row: &[u8]) -> Result<bool> {
        Ok(true)
    }

    /// A row of a table. It may be kept for the end.
    fn row(&mut self, columns: &[String], row: &[u8], out: &mut Out) -> Result<()>;

    /// After the last row.
    fn end(&mut self, _columns: &[String], _end: &Trailer, _out: &mut Out) -> Result<()> {
        Ok(())
    }
}

/// Standard output, for one answer or several with the same columns.
pub(super) struct Output<'a> {
    common: &'a Common,
    ledger: &'a Ledger,
    out: Out,
    columns: Vec<String>,
}

impl<'a> Output<'a> {
    pub(super) fn new(common: &'a Common, ledger: &'a Ledger) -> Self {
        let out = io::BufWriter::with_capacity(64 << 10, io::stdout());
        Self { common, ledger, out, columns: Vec::new() }
    }

    /// Asks once, and shows the answer.
    pub(super) async fn show(
        &mut self,
        request: &Request,
        layout: &mut impl Layout,
    ) -> Result<Trailer> {
        let format = self.common.format();
        let mut answer = ask(self.common, self.ledger, request).await?;
        loop {
            match answer.next().await? {
                Line::Columns(columns) => {
                    if format == Format::Csv && self.columns.is_empty() {
                        csv::header(&mut self.out, &columns)?;
                    }
                    self.columns = columns;
                }
                Line::Row(row) => {
                    if layout.wants(row)? {
                        self.row(format, row, layout)?;
                    }
                }
                Line::End(end) => {
                    if format == Format::Table {
                        layout.end(&self.columns, &end, &mut self.out)?;
                    }
                    self.out.flush()?;
                    return Ok(end);
                }
                Line::Error(words) => bail!(words),
                Line::Part(_) => bail!("an answer in parts, which was not asked for"),
            }
        }
    }

    fn row(&mut self, format: Format, row: &[u8], layout: &mut impl Layout) -> Result<()> {
        match format {
            Format::Json => {
                self.out.write_all(row)?;
                self.out.write_all(b"\n")?;
                Ok(())
            }
            Format::Csv => {
                Ok(csv::row(&mut self.out, &self.columns, &serde_json::from_slice(row)?)?)
            }
            Format::Table => layout.row(&self.columns, row, &mut self.out),
        }
    }
}
