//! `dbwarden verify`: the ledger held against its signatures, and proofs of single rows.

use std::{
    fs,
    io::{self, IsTerminal, Write},
    panic,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow};
use clap::Args;
use time::UtcDateTime;

use super::{
    Answer, Common, Format, Usage, clock,
    terminal::{Paint, Style, bytes, clean, count, counted},
};
use crate::{
    config,
    event::WallTime,
    ledger::{
        note::{Note, PublicKey},
        prove::{self, ProveError},
        verify::{self, Anchor, Finding, Options, Progress, Report},
    },
    search::{Edge, WhenError, moment},
};

#[derive(Debug, Args)]
pub struct Verify {
    /// Where the ledger is
    #[arg(long, value_name = "DIR", default_value = config::LEDGER_DIRECTORY)]
    ledger: PathBuf,
    /// Where this host keeps its keys
    #[arg(long, value_name = "DIR", default_value = config::KEY_DIRECTORY)]
    keys: PathBuf,
    /// A public key kept elsewhere, as `dbwarden keys show` prints it; instead of this host's
    #[arg(long, value_name = "KEY", value_parser = public_key)]
    key: Option<PublicKey>,
    /// A checkpoint kept elsewhere; only such a one can show that the whole host was rolled back
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,
    /// Read only segments with rows since then, given as for `search`: 2h or 3d (ago), yesterday,
    /// 2026-11-23, 2026-11-23T14:00:00+01:00; of older ones check that they are there
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<WallTime>,
    /// Instead of verifying all, prove one row to somebody who has neither the ledger nor dbwarden
    ///
    /// `dbwarden search --places` finds a row and its SEGMENT:ROW; rows count from 0. Only rows of
    /// sealed segments can be proven: one that is still open gets its number when its segment is
    /// sealed, which is when that is full or old enough (`seal_bytes` and `seal_after` in [ledger]).
    /// PROOFS.md says how a proof is checked.
    #[arg(long, value_name = "SEGMENT:ROW", value_parser = place, conflicts_with_all = ["since", "checkpoint"])]
    prove: Option<(u64, u64)>,
    /// Where the proof goes, instead of to standard output
    #[arg(long, value_name = "FILE", requires = "prove")]
    out: Option<PathBuf>,
}

pub fn verify(common: &Common, arguments: &Verify) -> Result<Answer> {
    let checkpoint = arguments.checkpoint.as_deref().map(checkpoint).transpose()?;
    let options = Options {
        ledger: &arguments.ledger,
        keys: &arguments.keys,
        key: arguments.key.clone(),
        checkpoint,
        since: arguments.since,
    };
    if let Some((segment, row)) = arguments.prove {
        return write_proof(&options, segment, row, arguments.out.as_deref());
    }
    silence_readers_of_damaged_files();
    let mut meter = Meter { is_shown: io::stderr().is_terminal(), per_mille: None };
    let report = verify::verify(&options, &mut |progress| meter.show(progress))?;
    meter.end();
    let mut out = io::stdout().lock();
    match common.format() {
        Format::Json | Format::Csv => writeln!(out, "{}", json(&report)?)?,
        Format::Table => out.write_all(render(&report, Paint::of_stdout()).as_bytes())?,
    }
    Ok(if report.is_sound() { Answer::Done } else { Answer::No })
}

/// A checkpoint that was kept elsewhere.
pub(super) fn checkpoint(path: &Path) -> Result<Note> {
    let text = fs::read_to_string(path)
        .with_context(|| format!("can't read the checkpoint {}", path.display()))?;
    let note = text
        .parse()
        .map_err(|error| Usage(format!("{} is no checkpoint: {error}", path.display())))?;
    Ok(note)
}

fn write_proof(
    options: &Options<'_>,
    segment: u64,
    row: u64,
    out: Option<&Path>,
) -> Result<Answer> {
    let proof = prove::prove(options, segment, row).map_err(|error| {
        let is_open = matches!(error, ProveError::NotSealed(_));
        let error = anyhow::Error::from(error);
        match is_open {
            true => error.context(
                "nothing can be proven of an open segment: wait until it is sealed (see seal_after in \
                 [ledger]), and search for the row again, since only then it has its number",
            ),
            false => error,
        }
    })?;
    let proof = format!("{}\n", proof.to_json());
    match out {
        Some(path) => {
            fs::write(path, proof).with_context(|| format!("writing {}", path.display()))?
        }
        None => io::stdout().lock().write_all(proof.as_bytes())?,
    }
    Ok(Answer::Done)
}

fn json(report: &Report) -> Result<String> {
    let mut value = serde_json::to_value(report)?;
    let object = value.as_object_mut().ok_or_else(|| anyhow!("a report is an object"))?;
    object.insert("sound".into(), report.is_sound().into());
    Ok(value.to_string())
}

fn render(report: &Report, paint: Paint) -> String {
    let mut text = String::new();
    let mut fact = |name: &str, style: Style, words: &str| {
        let name = paint.paint(Style::Dim, &format!("{name:<10}"));
        text += &format!("{name}  {}\n", paint.paint(style, &clean(words)));
    };
    if let Some(origin) = &report.origin {
        fact("ledger", Style::Bold, origin);
    }
    if let Some(key) = &report.key {
        let (style, why) = match report.anchor {
            Anchor::Given => (Style::Plain, "vouched for by the key that was given"),
            Anchor::Host => (Style::Plain, "this host's key"),
            Anchor::Ledger => (
                Style::Warning,
                "only the ledger itself says so: compare it with a copy kept elsewhere",
            ),
        };
        fact("key", style, &format!("{key} ({why})"));
    }
    if let Some(time) = report.checkpoint_time {
        fact("signed", Style::Plain, &format!("{}, by this host's clock", shown(time)));
    }
    let mut sealed = format!(
        "{} in {}, {}",
        counted(report.rows, "row"),
        counted(report.segments, "segment"),
        bytes(report.bytes)
    );
    if report.segments_passed_over > 0 {
        sealed +=
            &format!("; {} older ones were only looked for", count(report.segments_passed_over));
    }
    if report.segments_removed > 0 {
        sealed += &format!("; {} removed on purpose, as signed", count(report.segments_removed));
    }
    fact("sealed", Style::Plain, &sealed);
    fact("open", Style::Plain, &format!("{} signed", counted(report.open_rows, "row")));
    if report.unsigned_rows > 0 {
        let words = format!("{} after the last checkpoint", counted(report.unsigned_rows, "row"));
        fact("unsigned", Style::Warning, &words);
    }
    if report.unsealed_loss_bytes > 0 {
        let words = format!(
            "{} of a write that was never finished, after the last checkpoint: unsealed loss",
            bytes(report.unsealed_loss_bytes)
        );
        fact("torn", Style::Warning, &words);
    }
    let elsewhere = match report.outside_time {
        Some(time) => format!("a checkpoint of {}, kept elsewhere, is part of it", shown(time)),
        None => {
            "not compared with a checkpoint kept elsewhere: a rollback of the whole host, keys \
                 included, can't be seen without one (--checkpoint)"
                .to_owned()
        }
    };
    let is_rolled_back = |finding: &Finding| finding.reason.is_about_outside();
    if !report.findings.iter().any(is_rolled_back) {
        fact("rollback", Style::Plain, &elsewhere);
    }
    text.push('\n');
    for finding in &report.findings {
        text += &format!("{}  {}\n", paint.paint(Style::Bad, "NO"), clean(&sentence(finding)));
    }
    if report.more_findings > 0 {
        text += &format!("{}  and {} more\n", paint.paint(Style::Bad, "NO"), report.more_findings);
    }
    let n = report.findings.len() as u64 + report.more_findings;
    let (style, words) = match n {
        0 => (Style::Good, "the ledger is whole and unchanged".to_owned()),
        _ => (Style::Bad, format!("the ledger isn't what was signed: {}", counted(n, "finding"))),
    };
    text += &format!("{}\n", paint.paint(style, &words));
    text
}

/// `segment 7, row 12 (segments/…): the row is missing`
pub(super) fn sentence(finding: &Finding) -> String {
    let mut places = Vec::new();
    places.extend(finding.segment.map(|segment| format!("segment {segment}")));
    places.extend(finding.row.map(|row| format!("row {row}")));
    let place = match (places.is_empty(), &finding.file) {
        (true, Some(file)) => file.clone(),
        (false, Some(file)) => format!("{} ({file})", places.join(", ")),
        (_, None) => places.join(", "),
    };
    format!("{place}: {}", finding.reason)
}

/// `2026-11-23 14:00:00 UTC`
pub(super) fn shown(time: WallTime) -> String {
    let format =
        time::macros::format_description!("[year]-[month]-[day] [hour]:[minute]:[second] UTC");
    time.to_utc().format(format).unwrap_or_default()
}

/// One line on a terminal, written over itself.
struct Meter {
    is_shown: bool,
    per_mille: Option<u64>,
}

impl Meter {
    fn show(&mut self, progress: Progress) {
        let Progress { bytes: done, total_bytes, segment } = progress;
        let per_mille = done.saturating_mul(1_000) / total_bytes.max(1);
        if self.is_shown && self.per_mille != Some(per_mille) {
            self.per_mille = Some(per_mille);
            let cells = usize::try_from(per_mille / 50).unwrap_or(0).min(20);
            eprint!(
                "\r[{}{}] {:>3} %  {} of {}, segment {segment}\x1b[K",
                "█".repeat(cells),
                "·".repeat(20 - cells),
                per_mille / 10,
                bytes(done),
                bytes(total_bytes),
            );
        }
    }

    fn end(&self) {
        if self.is_shown && self.per_mille.is_some() {
            eprint!("\r\x1b[K");
        }
    }
}

/// Verification reads files that it knows to be damaged in order to name the row. The library panics
/// on some of them; that is caught and becomes a finding, and needs no words on standard error.
pub(super) fn silence_readers_of_damaged_files() {
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        let file = panic.location().map_or("", |location| location.file());
        if !["parquet-", "arrow-", "zstd", "thrift"].iter().any(|crate_| file.contains(crate_)) {
            usual(panic);
        }
    }));
}

pub(super) fn public_key(text: &str) -> Result<PublicKey, String> {
    text.trim().parse().map_err(|error| format!("{error}, which `dbwarden keys show` prints"))
}

fn place(text: &str) -> Result<(u64, u64), String> {
    let numbers = text
        .split_once(':')
        .and_then(|(segment, row)| Some((segment.parse().ok()?, row.parse().ok()?)));
    numbers.ok_or_else(|| {
        "a segment's number, a colon and a row's number, as in 12:0 (`dbwarden search --places` \
         shows them; a row without a number isn't sealed yet)"
            .to_owned()
    })
}

fn since(text: &str) -> Result<WallTime, WhenError> {
    moment(text, Edge::Since, UtcDateTime::now(), clock::local)
}

#[cfg(test)]
mod tests {
    use super::{Paint, Report, place, render, since};
    use crate::{
        event::WallTime,
        ledger::verify::{Anchor, Finding, Reason},
    };

    fn report() -> Report {
        Report {
            origin: Some("dbwarden/db1".into()),
            key: Some("dbwarden/db1+c74f20a3+ARpc".into()),
            anchor: Anchor::Host,
            entries: 3,
            checkpoint_time: Some(WallTime(1_795_000_000_000_000)),
            segments: 2,
            rows: 1_204_221,
            bytes: 30 << 20,
            open_rows: 12,
            ..Report::default()
        }
    }

    #[test]
    fn a_sound_ledger() {
        let expected = "\
ledger      dbwarden/db1
key         dbwarden/db1+c74f20a3+ARpc (this host's key)
signed      2026-11-18 11:06:40 UTC, by this host's clock
sealed      1.2M rows in 2 segments, 30 MiB
open        12 rows signed
rollback    not compared with a checkpoint kept elsewhere: a rollback of the whole host, keys included, can't be seen without one (--checkpoint)

the ledger is whole and unchanged
";
        assert_eq!(render(&report(), Paint { colour: false }), expected);
    }

    #[test]
    fn an_unsound_ledger() {
        let finding = |segment, row, file: &str, reason: Reason| Finding {
            segment,
            row,
            file: Some(file.into()),
            code: reason.code(),
            reason,
        };
        let report = Report {
            anchor: Anchor::Ledger,
            segments_passed_over: 3,
            segments_removed: 1,
            unsigned_rows: 1,
            unsealed_loss_bytes: 70,
            findings: vec![
                finding(Some(7), Some(12), "segments/7.parquet", Reason::RowMissing),
                finding(None, None, "log/x\x1b[2J", Reason::UnknownFile),
                finding(None, None, "log/entries.jsonl", Reason::RolledBack { kept: 9, found: 3 }),
            ],
            more_findings: 2,
            ..report()
        };
        let expected = "\
ledger      dbwarden/db1
key         dbwarden/db1+c74f20a3+ARpc (only the ledger itself says so: compare it with a copy kept elsewhere)
signed      2026-11-18 11:06:40 UTC, by this host's clock
sealed      1.2M rows in 2 segments, 30 MiB; 3 older ones were only looked for; 1 removed on purpose, as signed
open        12 rows signed
unsigned    1 row after the last checkpoint
torn        70 B of a write that was never finished, after the last checkpoint: unsealed loss

NO  segment 7, row 12 (segments/7.parquet): the row that was sealed here is missing
NO  log/x\u{fffd}[2J: the file doesn't belong here
NO  log/entries.jsonl: the ledger was rolled back: the checkpoint kept elsewhere is over 9 entries, and there are 3
NO  and 2 more
the ledger isn't what was signed: 5 findings
";
        assert_eq!(render(&report, Paint { colour: false }), expected);
    }

    #[test]
    fn what_is_typed_is_understood() {
        assert_eq!(place("12:0"), Ok((12, 0)));
        for bad in ["", "12", ":", "12:", "a:b", "1:-1"] {
            assert!(place(bad).is_err(), "{bad}");
        }
        assert_eq!(since("1970-01-01T01:00:00+01:00"), Ok(WallTime(0)));
        assert!(since("2h").unwrap() > since("yesterday").unwrap());
        assert!(since("soon").is_err());
    }
}
