//! A report as it is written: rows are put aside as they come, and follow a head that knows them all.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Read, Seek, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use super::{head::Head, html, row::Row};
use crate::cli::csv;

/// What a report is written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Html,
    Json,
    Csv,
}

/// Rows of an HTML document: no browser prints more.
pub(super) const HTML_ROWS: u64 = 100_000;

/// Rows that wait for their head, in a file that has no name.
pub(super) struct Rows {
    form: Form,
    columns: Vec<String>,
    spool: BufWriter<File>,
    hash: Sha256,
    pub n_rows: u64,
}

impl Rows {
    /// They wait where the report will be, or where temporary files are.
    pub(super) fn new(form: Form, output: Option<&Path>) -> Result<Self> {
        let folder = output.map_or_else(std::env::temp_dir, folder_of);
        let spool = unnamed(&folder)
            .with_context(|| format!("can't write a temporary file in {}", folder.display()))?;
        let spool = BufWriter::with_capacity(256 << 10, spool);
        let columns = Row::COLUMNS.iter().map(|&name| name.to_owned()).collect();
        let mut rows = Self { form, columns, spool, hash: Sha256::new(), n_rows: 0 };
        if form == Form::Csv {
            csv::header(&mut rows.spool, &rows.columns)?;
        }
        Ok(rows)
    }

    pub(super) fn push(&mut self, row: &Row) -> Result<()> {
        let line = row.canonical()?;
        self.hash.update(line.as_bytes());
        self.hash.update(b"\n");
        self.n_rows += 1;
        match self.form {
            // It will be refused, once it is known how many there are.
            Form::Html if self.n_rows > HTML_ROWS => {}
            Form::Html => self.spool.write_all(html::rows::row(self.n_rows, row).as_bytes())?,
            Form::Json => {
                let comma = if self.n_rows > 1 { ",\n" } else { "" };
                write!(self.spool, "{comma}{line}")?;
            }
            Form::Csv => csv::row(&mut self.spool, &self.columns, &row.to_map()?)?,
        }
        Ok(())
    }

    /// Hexadecimal, of all rows so far.
    pub(super) fn sha256(&self) -> String {
        hex::encode(self.hash.clone().finalize())
    }

    /// The whole document: to a file that is there as a whole or not at all, or to standard output.
    pub(super) fn write(self, head: &Head, output: Option<&Path>) -> Result<()> {
        let mut spool = self.spool.into_inner().map_err(|error| error.into_error())?;
        spool.rewind()?;
        let form = self.form;
        match output {
            None => {
                let mut out = BufWriter::with_capacity(256 << 10, io::stdout().lock());
                whole(form, head, &mut spool, &mut out)?;
                out.flush()?;
            }
            Some(path) => {
                replace(path, |out| whole(form, head, &mut spool, out))?;
                if form == Form::Csv {
                    // What vouches for the rows must not be mistaken for one.
                    let json = serde_json::to_vec_pretty(head)?;
                    replace(&beside(path), |out| Ok(out.write_all(&json)?))?;
                }
            }
        }
        Ok(())
    }
}

/// Where the head of a CSV report is.
pub(super) fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".summary.json");
    path.with_file_name(name)
}

fn whole(form: Form, head: &Head, rows: &mut impl Read, out: &mut impl Write) -> Result<()> {
    match form {
        Form::Csv => {
            io::copy(rows, out)?;
        }
        Form::Html => {
            out.write_all(html::begin(head).as_bytes())?;
            out.write_all(html::rows::BEGIN.as_bytes())?;
            if io::copy(rows, out)? == 0 {
                out.write_all(html::rows::NONE.as_bytes())?;
            }
            out.write_all(html::rows::END.as_bytes())?;
            out.write_all(html::end(head).as_bytes())?;
        }
        Form::Json => {
            let json = serde_json::to_string_pretty(head)?;
            let open = json.trim_end().strip_suffix('}').unwrap_or(&json).trim_end();
            write!(out, "{open},\n  \"rows\": [\n")?;
            io::copy(rows, out)?;
            out.write_all(b"\n  ]\n}\n")?;
        }
    }
    Ok(())
}

/// Nobody but its owner may read it: it says who did what.
fn replace(path: &Path, write: impl FnOnce(&mut BufWriter<File>) -> Result<()>) -> Result<()> {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(name);
    let written = || -> Result<()> {
        let file = private().write(true).create_new(true).open(&temporary)?;
        let mut out = BufWriter::with_capacity(256 << 10, file);
        write(&mut out)?;
        out.into_inner().map_err(|error| error.into_error())?.sync_all()?;
        Ok(fs::rename(&temporary, path)?)
    };
    written()
        .inspect_err(|_| {
            // What can't be removed is named after what it isn't.
            let _ = fs::remove_file(&temporary);
        })
        .with_context(|| format!("can't write {}", path.display()))
}

fn unnamed(folder: &Path) -> io::Result<File> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(|error| io::Error::other(error.to_string()))?;
    let path = folder.join(format!(".dbwarden-report-{}.tmp", hex::encode(random)));
    let file = private().read(true).write(true).create_new(true).open(&path)?;
    fs::remove_file(&path)?;
    Ok(file)
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600);
    options
}

fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}
