//! `dbwarden policy list`: the rules, what they mean, and how to silence them.

use std::io::{self, Write};

use anyhow::Result;
use serde_json::json;

use super::{
    super::{
        Answer, Common, Format,
        table::{Align, Table},
        terminal::{Paint, Style, clean},
    },
    sources::Place,
    tell,
};
use crate::{
    event::Flow,
    policy::{Does, Rule},
};

pub(super) fn list(common: &Common, place: &Place) -> Result<Answer> {
    let set = match place.load()? {
        Ok(set) => set,
        Err(complaints) => return tell(common, &complaints),
    };
    let mut out = io::stdout().lock();
    match common.format() {
        Format::Json | Format::Csv => {
            for rule in set.rules().values() {
                let silences = match &rule.does {
                    Does::Silence(rules) => Some(rules),
                    Does::Judge { .. } => None,
                };
                let line = json!({
                    "id": rule.id, "verdict": verdict(rule), "dry_run": rule.dry_run(),
                    "severity": rule.severity.name(), "message": rule.message, "why": rule.why,
                    "silence": rule.silence, "silences": silences, "mask": rule.mask(),
                    "flow": rule.mask().map(|_| rule.flow().name()), "file": rule.file,
                    "line": rule.line,
                });
                writeln!(out, "{line}")?;
            }
        }
        Format::Table => {
            let titles =
                ["rule", "verdict", "severity", "message"].map(|title| (title, Align::Left));
            let mut table = Table::new(&titles);
            for rule in set.rules().values() {
                let severity = match rule.does {
                    Does::Judge { .. } => rule.severity.name(),
                    Does::Silence(_) => "",
                };
                table.row(vec![
                    (Style::Bold, clean(&rule.id)),
                    (Style::Plain, verdict(rule)),
                    (Style::Plain, severity.to_owned()),
                    (Style::Plain, clean(&rule.message)),
                ]);
            }
            out.write_all(table.render(Paint::of_stdout()).as_bytes())?;
        }
    }
    Ok(Answer::Done)
}

fn verdict(rule: &Rule) -> String {
    match &rule.does {
        Does::Judge { mask: Some(mask), dry_run, flow, .. } => {
            let flow = if *flow == Flow::Null { ", flow null" } else { "" };
            format!("mask ({mask}{flow}{})", if *dry_run { ", dry-run" } else { "" })
        }
        Does::Judge { verdict, dry_run: false, .. } => verdict.name().to_owned(),
        Does::Judge { verdict, dry_run: true, .. } => format!("{} (dry-run)", verdict.name()),
        Does::Silence(rules) => format!("silences {}", rules.join(", ")),
    }
}
