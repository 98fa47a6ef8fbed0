//! `dbwarden quarantine`: whose connections end, who is put there and who is let out.

use std::io::{self, Write};

use anyhow::Result;
use clap::{Args, Subcommand, builder::NonEmptyStringValueParser};
use serde_json::Value;

use super::{
    Answer, Common, Format, Usage, block_on,
    table::{Align, Table},
    terminal::{Paint, Style, clean},
};
use crate::{
    config::Span,
    control::{Client, QuarantineChange},
    enforce::{Detainee, Who},
    event::PrincipalKind,
};

#[derive(Debug, Args)]
pub struct QuarantineArguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show who is in quarantine, until when and why
    List,
    /// End the connections of somebody from now on: those that begin, and those that are open once
    /// they say something
    ///
    /// All that is given must fit. Only root may.
    Add(Box<Add>),
    /// Let somebody connect again
    ///
    /// Only root may.
    Release {
        /// As `list` numbers them
        number: u64,
    },
}

#[derive(Debug, Args)]
struct Add {
    /// A principal by its name, as `dbwarden whois` says it
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    principal: Option<String>,
    /// What the principal is: human, service, ai or unknown
    #[arg(long, value_parser = kind, requires = "principal")]
    kind: Option<PrincipalKind>,
    /// Of an AI, who launched it
    #[arg(long, value_name = "NAME", requires = "principal")]
    initiator: Option<String>,
    /// An address that clients come from
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    address: Option<String>,
    /// The database user, beside one of the others
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// How long
    #[arg(long = "for", value_name = "TIME", default_value = "1h")]
    span: Span,
    /// For those who ask later
    #[arg(long, value_name = "TEXT", default_value = "by hand")]
    reason: String,
}

fn kind(name: &str) -> Result<PrincipalKind, String> {
    let known = PrincipalKind::ALL.iter().find(|kind| kind.name() == name);
    known.copied().ok_or_else(|| "one of human, service, ai, unknown".to_owned())
}

/// As rows write it.
fn address(text: &str) -> Result<String, std::net::AddrParseError> {
    text.parse::<std::net::IpAddr>().map(|address| address.to_canonical().to_string())
}

pub fn quarantine(common: &Common, arguments: &QuarantineArguments) -> Result<Answer> {
    common.no_csv()?;
    let client = Client::new(&common.control);
    let change = match &arguments.command {
        Command::List => {
            let detained = block_on(async { Ok(client.quarantine().await?) })?;
            list(common.format(), &detained)?;
            return Ok(Answer::Done);
        }
        Command::Add(add) => QuarantineChange::Add {
            who: add.who()?,
            seconds: add.span.0.as_secs(),
            reason: add.reason.clone(),
        },
        Command::Release { number } => QuarantineChange::Release { number: *number },
    };
    let changed = block_on(async { Ok(client.change_quarantine(&change).await?) })?;
    let mut out = io::stdout().lock();
    match (common.format(), &change) {
        (Format::Json | Format::Csv, _) => writeln!(out, "{}", serde_json::to_value(&changed)?)?,
        (Format::Table, QuarantineChange::Add { .. }) => {
            let who = clean(&changed.who.to_string());
            writeln!(out, "{}: {who} is in quarantine until {}", changed.number, changed.until)?;
        }
        (Format::Table, QuarantineChange::Release { .. }) => {
            writeln!(out, "{} may connect again", clean(&changed.who.to_string()))?;
        }
    }
    Ok(Answer::Done)
}

impl Add {
    fn who(&self) -> Result<Who, Usage> {
        let Self { principal, kind, initiator, address, user, .. } = self;
        if principal.is_none() && address.is_none() {
            return Err(Usage(
                "say who: --principal NAME or --address ADDRESS, with --user where only that database \
                 user is meant"
                    .into(),
            ));
        }
        Ok(Who {
            principal: principal.clone(),
            principal_kind: *kind,
            initiator: initiator.clone(),
            client_address: address.clone(),
            db_user: user.clone(),
            ..Who::default()
        })
    }
}

fn list(format: Format, detained: &[Detainee]) -> Result<()> {
    let mut out = io::stdout().lock();
    match format {
        Format::Json | Format::Csv => {
            for one in detained {
                let one: Value = serde_json::to_value(one)?;
                writeln!(out, "{one}")?;
            }
        }
        Format::Table if detained.is_empty() => eprintln!("nobody is in quarantine"),
        Format::Table => {
            let columns = [
                ("number", Align::Right),
                ("who", Align::Left),
                ("since", Align::Left),
                ("until", Align::Left),
                ("why", Align::Left),
            ];
            let mut table = Table::new(&columns);
            for Detainee { number, who, since, until, reason } in detained {
                table.row(vec![
                    (Style::Plain, number.to_string()),
                    (Style::Bold, clean(&who.to_string())),
                    (Style::Plain, since.to_string()),
                    (Style::Plain, until.to_string()),
                    (Style::Plain, clean(reason)),
                ]);
            }
            write!(out, "{}", table.render(Paint::of_stdout()))?;
        }
    }
    Ok(())
}
