//! `dbwarden policy explain`: why a statement or a connection gets its verdict, and what came close.

use std::{
    io::{self, Write},
    path::PathBuf,
};

use anyhow::Result;
use clap::Args;
use serde_json::json;
use time::UtcDateTime;

use super::{
    super::{
        Answer, Common, Format, Usage,
        terminal::{Paint, Style, clean},
    },
    case::{Asked, ConnectOut, Made, What, Written},
    sources::Site,
    tell,
};
use crate::{
    analyst::{Analyst, Bounds},
    event::{Judgement, TableAccess, WallTime},
    policy::{Near, Outcome, Set},
};

#[derive(Debug, Args)]
pub(super) struct Explain {
    /// The statement
    statement: Option<String>,
    /// Instead of a statement: they connect to the server, whose lane policy decides
    #[arg(long)]
    connect: bool,
    #[command(flatten)]
    connection: ConnectOut,
    #[command(flatten)]
    by: Written,
    /// Files of policies, or directories of `*.cedar`; by default what the configuration names
    #[arg(long = "policies", value_name = "PATH")]
    policies: Vec<PathBuf>,
    #[command(flatten)]
    site: Site,
}

/// Rules that came close and are shown.
const NEAR: usize = 5;

pub(super) fn explain(common: &Common, arguments: &Explain) -> Result<Answer> {
    let settings = arguments.site.settings()?;
    let set = match arguments.site.load(&arguments.policies)? {
        Ok(set) => set,
        Err(complaints) => return tell(common, &complaints),
    };
    let mut analyst = Analyst::new(Bounds::default());
    let now = UtcDateTime::now().unix_timestamp_nanos() / 1_000;
    let now = WallTime(i64::try_from(now).unwrap_or(i64::MAX));
    let Explain { statement, connection, connect, .. } = arguments;
    let asked = Asked::new(statement.as_deref(), Some(connection), *connect).map_err(Usage)?;
    let made =
        arguments.by.make(asked, &settings, set.world(), &mut analyst, now).map_err(Usage)?;
    let case = made.case();
    let (judgement, outcome) = (set.decide(&case), set.outcome(&case)?);
    let near: Vec<Near> = set.nearly(&case)?.into_iter().take(NEAR).collect();
    let mut out = io::stdout().lock();
    match common.format() {
        Format::Json | Format::Csv => {
            writeln!(out, "{}", line(&made, &judgement, &outcome, &near))?;
        }
        Format::Table => tell_people(&mut out, &set, &made, &judgement, &outcome, &near)?,
    }
    Ok(Answer::Done)
}

fn line(made: &Made, judgement: &Judgement, outcome: &Outcome, near: &[Near]) -> serde_json::Value {
    let silenced: Vec<_> = outcome
        .fired
        .iter()
        .filter_map(|(rule, by)| Some(json!({ "rule": rule, "by": by.as_ref()? })))
        .collect();
    let near: Vec<_> = near
        .iter()
        .map(|near| {
            let parts = near.parts.iter().map(|part| json!({ "text": part.text, "met": part.met }));
            json!({
                "rule": near.rule, "action": near.action, "resource": near.resource,
                "conditions": parts.collect::<Vec<_>>(),
            })
        })
        .collect();
    let mut line = json!({
        "principal": { "kind": made.caller().kind, "name": made.caller().name },
        "verdict": judgement.verdict, "rule": judgement.rule,
        "findings": judgement.findings, "silenced": silenced, "near": near,
    });
    let what = match made.what() {
        What::Statement(facts) => json!({
            "text": facts.text, "effects": facts.effects, "tables": facts.tables,
            "analysis": facts.analysis,
        }),
        What::Outbound(to) => json!({
            "destination_address": to.address(), "destination_port": to.port(),
            "destination_region": to.region, "destination_server": to.server,
            "destination_program": to.program, "destination_by_server": to.by_server,
        }),
        What::Connect => json!({ "connects_to": made.caller().server }),
    };
    if let (Some(line), serde_json::Value::Object(what)) = (line.as_object_mut(), what) {
        line.extend(what);
    }
    line
}

fn tell_people(
    out: &mut impl Write,
    set: &Set,
    made: &Made,
    judgement: &Judgement,
    outcome: &Outcome,
    near: &[Near],
) -> io::Result<()> {
    let paint = Paint::of_stdout();
    let caller = made.caller();
    let field = |name: &str| paint.paint(Style::Dim, &format!("{name:<10}"));
    writeln!(out, "{}{} {}", field("who"), caller.kind.name(), clean(&caller.name))?;
    match made.what() {
        What::Statement(facts) => {
            let effects: Vec<&str> = facts.effects.iter().map(|effect| effect.name()).collect();
            let table =
                |table: &TableAccess| format!("{} ({})", clean(&table.name), table.access.name());
            let tables: Vec<String> = facts.tables.iter().map(table).collect();
            writeln!(out, "{}{}", field("statement"), clean(&facts.text))?;
            writeln!(out, "{}{}", field("effects"), effects.join(", "))?;
            if !tables.is_empty() {
                writeln!(out, "{}{}", field("tables"), tables.join(", "))?;
            }
            if !facts.analysis.is_complete() {
                writeln!(out, "{}{}", field("analysis"), facts.analysis.name())?;
            }
        }
        What::Outbound(destination) => {
            let by = destination.program.as_deref().unwrap_or("the server's own process");
            writeln!(out, "{}{}", field("connects"), clean(&destination.to_string()))?;
            writeln!(out, "{}{}", field("program"), clean(by))?;
        }
        What::Connect => {
            let server = caller.server.as_deref().unwrap_or("?");
            writeln!(out, "{}{}", field("connects"), clean(server))?;
        }
    }
    let verdict = match &judgement.rule {
        None if matches!(made.what(), What::Connect) => "observe".to_owned(),
        Some(rule) => format!("{} by {rule}", judgement.verdict.name()),
        None => judgement.verdict.name().to_owned(),
    };
    let style = if judgement.rule.is_some() { Style::Warning } else { Style::Bold };
    writeln!(out, "{}{}", field("verdict"), paint.paint(style, &verdict))?;

    for finding in &judgement.findings {
        let mode = if finding.dry_run { ", dry-run" } else { "" };
        let words = format!(
            "{} ({}, {}{mode})",
            finding.rule,
            finding.verdict.name(),
            finding.severity.name()
        );
        writeln!(out, "\n{}", paint.paint(Style::Bold, &words))?;
        writeln!(out, "  {}", clean(&finding.message))?;
        if let Some(rule) = set.rule(&finding.rule) {
            if let Some(mask) = rule.mask() {
                writeln!(
                    out,
                    "  mask: {}, flow: {}",
                    clean(&mask.to_string()),
                    rule.flow().name()
                )?;
            }
            let more = [("why", &rule.why), ("silence", &rule.silence)];
            for (name, text) in more.iter().filter_map(|(name, text)| Some((name, text.as_ref()?)))
            {
                writeln!(out, "  {name}: {}", clean(text))?;
            }
            writeln!(
                out,
                "  {}",
                paint.paint(Style::Dim, &format!("{}:{}", rule.file, rule.line))
            )?;
        }
    }
    for (rule, by) in outcome.fired.iter().filter_map(|(rule, by)| Some((rule, by.as_ref()?))) {
        writeln!(out, "\n{rule} would apply, but {by} silences it")?;
    }
    if !near.is_empty() {
        writeln!(out, "\n{}", paint.paint(Style::Dim, "came close"))?;
    }
    for near in near {
        let words = format!("{} ({} {})", near.rule, near.action, clean(&near.resource));
        writeln!(out, "{}", paint.paint(Style::Bold, &words))?;
        for part in &near.parts {
            let (mark, style) = if part.met { ("✓", Style::Dim) } else { ("✗", Style::Plain) };
            writeln!(out, "{}", paint.paint(style, &format!("  {mark} {}", clean(&part.text))))?;
        }
    }
    Ok(())
}
