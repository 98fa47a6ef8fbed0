//! `dbwarden approvals`: statements that wait for people, shown and decided.

use std::{
    fmt::Write as _,
    io::{self, Write},
};

use anyhow::Result;
use clap::{Args, Subcommand};

use super::{
    Answer, Common, Format, block_on,
    table::{Align, Table},
    terminal::{Paint, Style, clean, count, duration, fit, left},
};
use crate::{
    approval::{Shown, Step},
    control::{ApprovalChange, Client, ClientError, Lines},
};

#[derive(Debug, Args)]
pub struct ApprovalsArguments {
    #[command(subcommand)]
    command: Command,
    /// The same as --format json
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show what waits for a decision, or to be sent once more
    List {
        /// What is over too, as far as it is remembered
        #[arg(long)]
        all: bool,
    },
    /// Show who wants what exactly, where, by which rule, and what the server expects of it
    ///
    /// The statement itself with its values is for those who may approve it, and for root; others see `?` for
    /// each value.
    Show {
        /// As in `apr-4f0x7k2m`
        id: String,
    },
    /// Let a statement pass once
    ///
    /// It must be exactly this one: the same text and parameters, sent by the same principal in the same
    /// database, role and search path, meaning the same tables, under the same policies. Look at it first
    /// (`show`).
    ///
    /// Only a person may approve who is in one of the groups that the rule names (`groups` of [[principal]]),
    /// and neither has sent it nor has launched the AI that did. root may only with --break-glass.
    Approve {
        /// As in `apr-4f0x7k2m`
        id: String,
        /// For those who ask later
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
        /// In an emergency, for members of the group that [approvals] names as `break_glass`: whoever should
        /// have been asked hears of it at once
        #[arg(long, requires = "reason")]
        break_glass: bool,
    },
    /// Refuse a statement, or take an approval back that has not been used yet
    Deny {
        /// As in `apr-4f0x7k2m`
        id: String,
        /// For whoever has sent it, and for those who ask later
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Show each request and each decision as they come
    Watch,
}

pub fn approvals(common: &Common, arguments: &ApprovalsArguments) -> Result<Answer> {
    common.no_csv()?;
    let format = if arguments.json { Format::Json } else { common.format() };
    let client = Client::new(&common.control);
    let change = match &arguments.command {
        Command::List { all } => {
            let list = block_on(async { Ok(client.approvals(*all).await?) })?;
            return self::list(format, &list);
        }
        Command::Show { id } => {
            return decided(format, block_on(async { Ok(client.approval(id).await) })?);
        }
        Command::Watch => {
            block_on(async { watch(format, client.follow_approvals().await?).await })?;
            return Ok(Answer::Done);
        }
        Command::Approve { id, reason, break_glass } => ApprovalChange {
            id: id.clone(),
            approve: true,
            reason: reason.clone(),
            break_glass: *break_glass,
        },
        Command::Deny { id, reason } => ApprovalChange {
            id: id.clone(),
            approve: false,
            reason: reason.clone(),
            break_glass: false,
        },
    };
    decided(format, block_on(async { Ok(client.decide(&change).await) })?)
}

/// Whoever may not decide is told so; that the service can't be asked is another matter.
fn decided(format: Format, outcome: Result<Shown, ClientError>) -> Result<Answer> {
    let shown = match outcome {
        Ok(shown) => shown,
        Err(ClientError::Refused { words, .. } | ClientError::Failed { words, .. }) => {
            eprintln!("dbwarden: {}", clean(&words));
            return Ok(Answer::No);
        }
        Err(error) => return Err(error.into()),
    };
    let mut out = io::stdout().lock();
    match format {
        Format::Json | Format::Csv => writeln!(out, "{}", serde_json::to_string(&shown)?)?,
        Format::Table => write!(out, "{}", page(&shown, Paint::of_stdout()))?,
    }
    Ok(Answer::Done)
}

fn list(format: Format, list: &[Shown]) -> Result<Answer> {
    let mut out = io::stdout().lock();
    match format {
        Format::Json | Format::Csv => {
            for one in list {
                writeln!(out, "{}", serde_json::to_string(one)?)?;
            }
        }
        Format::Table if list.is_empty() => eprintln!("nothing waits for an approval"),
        Format::Table => {
            let columns = [
                ("id", Align::Left),
                ("state", Align::Left),
                ("until", Align::Left),
                ("who", Align::Left),
                ("where", Align::Left),
                ("needs", Align::Left),
                ("statement", Align::Left),
            ];
            let mut table = Table::new(&columns);
            for one in list {
                table.row(vec![
                    (Style::Bold, clean(&one.id)),
                    (Style::Plain, format!("{} {}/{}", one.state, one.approvals, one.needed)),
                    (Style::Plain, one.until()),
                    (Style::Plain, clean(&who(one))),
                    (Style::Plain, clean(&format!("{}, {}", one.database, one.server))),
                    (Style::Plain, clean(&one.needs)),
                    (Style::Plain, fit(&clean(&one.text), STATEMENT_CELLS)),
                ]);
            }
            write!(out, "{}", table.render(Paint::of_stdout()))?;
        }
    }
    Ok(Answer::Done)
}

/// Of a statement in a list.
const STATEMENT_CELLS: usize = 60;

fn who(one: &Shown) -> String {
    match &one.initiator {
        Some(initiator) => format!("{} for {initiator}", one.principal),
        None => one.principal.clone(),
    }
}

/// All of a request.
fn page(one: &Shown, paint: Paint) -> String {
    let mut text = String::new();
    let mut line = |title: &str, value: &str| {
        if !value.is_empty() {
            let title = paint.paint(Style::Dim, &left(title, 11));
            // A string takes all that is written to it.
            let _ = writeln!(text, "{title} {}", clean(value));
        }
    };
    let why = one.why.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
    line("approval", &one.id);
    line("state", &format!("{}{why}", one.state));
    line("verdict", &one.verdict);
    line("until", &one.until());
    let needs = format!("{} ({} of {} have approved)", one.needs, one.approvals, one.needed);
    line("needs", &needs);
    line("rule", &format!("{}: {}", one.rules.join(", "), one.message));
    line("who", &format!("{} ({})", one.principal, one.principal_kind));
    line("launched by", one.initiator.as_deref().unwrap_or_default());
    let process = [&one.os_user, &one.login_user, &one.exe, &one.unit, &one.container];
    let process: Vec<&str> = process.into_iter().flatten().map(String::as_str).collect();
    line("process", &process.join(", "));
    line("from", one.client_address.as_deref().unwrap_or_default());
    line("claims", one.application.as_deref().unwrap_or_default());
    let environment = one.environment.as_deref().map(|it| format!(", {it}")).unwrap_or_default();
    line("where", &format!("{}, {}, {}{environment}", one.database, one.server, one.host));
    line("role", &one.role);
    line("search_path", &one.search_path);
    line("does", &one.effects.join(", "));
    let tables: Vec<String> =
        one.tables.iter().map(|table| format!("{} ({})", table.name, table.access)).collect();
    line("tables", &tables.join(", "));
    if one.analysis != "complete" {
        line("analysis", &one.analysis);
    }
    line("behind it", &one.behind.join("; "));
    if let Some(rows) = one.estimated_rows {
        let percent = one.estimated_percent.map(|it| format!(" ({it} % of the table)"));
        line("expected", &format!("{} rows{}", count(rows), percent.unwrap_or_default()));
    }
    for decision in &one.decisions {
        let glass = if decision.break_glass { " in an emergency" } else { "" };
        let reason = decision.reason.as_ref().map(|it| format!(": {it}")).unwrap_or_default();
        line(&decision.decision, &format!("{}{glass}{reason}", decision.who));
    }
    if one.state == "used" && (one.duration_us.is_some() || one.error_code.is_some()) {
        let outcome = match (&one.error_code, one.rows) {
            (Some(code), _) => format!("failed: {code}"),
            (None, Some(rows)) => format!("{} rows", count(rows)),
            (None, None) => "done".to_owned(),
        };
        let took = one.duration_us.map(|it| format!(", {}", duration(it))).unwrap_or_default();
        line("ran", &format!("{outcome}{took}"));
    }
    for (at, value) in one.parameters.iter().flatten().enumerate() {
        line(&format!("${}", at + 1), value.as_deref().unwrap_or("NULL"));
    }
    line("prepared", one.prepared.as_deref().unwrap_or_default());
    let statement = if one.exact { "statement" } else { "statement, without its values" };
    let _ = writeln!(text, "{}", paint.paint(Style::Dim, statement));
    for row in one.text.lines() {
        let _ = writeln!(text, "    {}", clean(row));
    }
    text
}

async fn watch(format: Format, mut lines: Lines) -> Result<()> {
    let paint = Paint::of_stdout();
    while let Some(line) = lines.next().await? {
        let mut out = io::stdout().lock();
        match (format, serde_json::from_slice::<Step>(line)) {
            (Format::Table, Ok(step)) => {
                let head = format!("{} {}", step.approval, step.action);
                let message = clean(&step.message);
                writeln!(out, "{} {}  {message}", step.time, paint.paint(Style::Bold, &head))?;
                if let Some(text) = step.text.filter(|_| step.action == "requested") {
                    writeln!(out, "    {}", clean(&text))?;
                }
            }
            _ => {
                out.write_all(line)?;
                out.write_all(b"\n")?;
            }
        }
        out.flush()?;
    }
    Ok(())
}
