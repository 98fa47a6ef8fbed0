//! Reads transcripts: one line a call, `>` from the client or `<` from the server, escaped bytes.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, bail};
use dbwarden::event::Direction;

/// What one call moved.
#[derive(Clone, Debug)]
pub struct Call {
    pub direction: Direction,
    pub bytes: Vec<u8>,
}

/// A recorded connection.
#[derive(Clone, Debug)]
pub struct Transcript {
    pub name: String,
    pub path: PathBuf,
    pub calls: Vec<Call>,
}

/// All transcripts of the folder whose names begin with `prefix`, in the order of their names.
pub fn all(prefix: &str) -> Result<Vec<Transcript>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("transcripts");
    let mut transcripts = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry?.path();
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if path.extension().is_some_and(|extension| extension == "transcript")
            && name.starts_with(prefix)
        {
            let text = fs::read_to_string(&path)?;
            let calls = parse(&text).with_context(|| format!("in {}", path.display()))?;
            transcripts.push(Transcript { name, path, calls });
        }
    }
    transcripts.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(transcripts)
}

fn parse(text: &str) -> Result<Vec<Call>> {
    let mut calls = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (direction, rest) = match line.split_at_checked(2) {
            Some(("> ", rest)) => (Direction::Request, rest),
            Some(("< ", rest)) => (Direction::Response, rest),
            _ => bail!("a line begins with neither '> ' nor '< ': {line}"),
        };
        let escaped = rest.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
        let escaped = escaped.with_context(|| format!("no quotes around the bytes: {line}"))?;
        calls.push(Call { direction, bytes: unescape(escaped)? });
    }
    Ok(calls)
}

fn unescape(text: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        bytes.push(match rest.next() {
            Some(b'0') => 0,
            Some(b't') => b'\t',
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b'"') => b'"',
            Some(b'\\') => b'\\',
            Some(b'x') => {
                let digits = [rest.next().unwrap_or(0), rest.next().unwrap_or(0)];
                u8::from_str_radix(std::str::from_utf8(&digits)?, 16)?
            }
            other => bail!("no such escape: {other:?}"),
        });
    }
    Ok(bytes)
}
