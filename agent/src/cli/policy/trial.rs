//! `dbwarden policy test`: the rules held against a table of cases.

use std::{
    fs,
    io::{self, Write},
    path::PathBuf,
};

use anyhow::{Context, Result};
use clap::Args;
use serde::Deserialize;
use serde_json::json;

use super::{
    super::{
        Answer, Common, Format, Usage,
        terminal::{Paint, Style, counted},
    },
    case::{Asked, ConnectOut, Written},
    sources::Site,
    tell,
};
use crate::{
    analyst::{Analyst, Bounds},
    event::{Judgement, Verdict, WallTime},
};

#[derive(Debug, Args)]
pub(super) struct Test {
    /// Tables of cases: TOML with [[case]]
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Files of policies, or directories of `*.cedar`; by default what the configuration names
    #[arg(long = "policies", value_name = "PATH")]
    policies: Vec<PathBuf>,
    #[command(flatten)]
    site: Site,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cases {
    case: Vec<Expected>,
}

/// One case and what is expected of it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    statement: Option<String>,
    /// Instead of a statement: where a process of the database connects to.
    #[serde(rename = "connect-out")]
    connect_out: Option<ConnectOut>,
    /// Instead of a statement: they connect to the server.
    #[serde(default)]
    connect: bool,
    /// Who and where; by default somebody unknown on this host.
    #[serde(default)]
    by: Written,
    /// Of the observed lane, or what the deciding rule wants: `deny` where it flags for now.
    verdict: String,
    /// The rule that decides; others may have findings too.
    rule: Option<String>,
}

pub(super) fn test(common: &Common, arguments: &Test) -> Result<Answer> {
    let settings = arguments.site.settings()?;
    let set = match arguments.site.load(&arguments.policies)? {
        Ok(set) => set,
        Err(complaints) => return tell(common, &complaints),
    };
    let mut analyst = Analyst::new(Bounds::default());
    let mut out = io::stdout().lock();
    let paint = Paint::of_stdout();
    let (mut n_cases, mut n_failed) = (0, 0);
    for path in &arguments.files {
        let text = fs::read_to_string(path)
            .with_context(|| format!("can't read the cases in {}", path.display()))?;
        let wrong = |words: String| Usage(format!("{}: {words}", path.display()));
        let cases: Cases = toml::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        for (n, expected) in cases.case.iter().enumerate() {
            if !Verdict::ALL.iter().any(|verdict| verdict.name() == expected.verdict) {
                let names: Vec<&str> = Verdict::ALL.iter().map(|verdict| verdict.name()).collect();
                let words = format!(
                    "case {}: {:?} is no verdict: there are {}",
                    n + 1,
                    expected.verdict,
                    names.join(", ")
                );
                return Err(wrong(words).into());
            }
            let of_case = |words| wrong(format!("case {}: {words}", n + 1));
            let Expected { statement, connect_out, connect, .. } = expected;
            let asked = Asked::new(statement.as_deref(), connect_out.as_ref(), *connect)
                .map_err(of_case)?;
            let made = expected
                .by
                .make(asked, &settings, set.world(), &mut analyst, WallTime(0))
                .map_err(of_case)?;
            let judgement = set.decide(&made.case());
            let passes = expected.is_met(&judgement);
            n_cases += 1;
            n_failed += u64::from(!passes);
            match common.format() {
                Format::Json | Format::Csv => {
                    let line = json!({
                        "file": path, "case": n + 1, "statement": asked.shown(), "passes": passes,
                        "expected": { "verdict": expected.verdict, "rule": expected.rule },
                        "got": { "verdict": judgement.verdict, "rule": judgement.rule,
                                 "findings": judgement.findings },
                    });
                    writeln!(out, "{line}")?;
                }
                Format::Table if !passes => {
                    let place = format!(
                        "{}: case {}: {}",
                        path.display(),
                        n + 1,
                        super::super::terminal::clean(&asked.shown())
                    );
                    writeln!(out, "{}", paint.paint(Style::Bad, &place))?;
                    writeln!(
                        out,
                        "  expected {}",
                        named(&expected.verdict, expected.rule.as_deref())
                    )?;
                    writeln!(
                        out,
                        "  got      {}",
                        named(judgement.verdict.name(), judgement.rule.as_deref())
                    )?;
                    for finding in &judgement.findings {
                        writeln!(
                            out,
                            "           {}: {} ({})",
                            finding.rule,
                            finding.message,
                            wants(finding)
                        )?;
                    }
                }
                Format::Table => {}
            }
        }
    }
    if common.format() == Format::Table {
        match n_failed {
            0 => writeln!(out, "{} as expected", counted(n_cases, "case"))?,
            _ => writeln!(out, "{n_failed} of {} not as expected", counted(n_cases, "case"))?,
        }
    }
    Ok(if n_failed == 0 { Answer::Done } else { Answer::No })
}

impl Expected {
    fn is_met(&self, judgement: &Judgement) -> bool {
        let wanted = judgement.findings.first().filter(|finding| !finding.dry_run);
        let verdict = judgement.verdict.name() == self.verdict
            || wanted.is_some_and(|finding| finding.verdict.name() == self.verdict);
        verdict && self.rule.as_deref().is_none_or(|rule| Some(rule) == judgement.rule.as_deref())
    }
}

fn named(verdict: &str, rule: Option<&str>) -> String {
    match rule {
        Some(rule) => format!("{verdict} by {rule}"),
        None => verdict.to_owned(),
    }
}

fn wants(finding: &crate::event::Finding) -> String {
    let dry_run = if finding.dry_run { ", dry-run" } else { "" };
    format!("{}, {}{dry_run}", finding.verdict.name(), finding.severity.name())
}
