//! `dbwarden labels`: columns that have inherited labels from others, and what is taken back of that.

use std::io::{self, Write};

use anyhow::Result;
use clap::{Args, Subcommand};

use super::{
    Answer, Common, Format, block_on,
    table::{Align, Table},
    terminal::{Paint, Style, clean},
};
use crate::{
    control::{Client, LabelChange},
    inheritance::Inherited,
};

#[derive(Debug, Args)]
pub struct LabelsArguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show columns that have inherited labels: from which columns, since when, by whose statement
    ///
    /// `statement` is its fingerprint: `dbwarden search --fingerprint` finds where it ran. What is derived (computed
    /// from a labelled column, or not followed exactly) is shown as NULL to those from whom that is hidden.
    List,
    /// Let columns be shown as they are, though they were filled from labelled ones
    ///
    /// Once what is in them is harmless, or was found to be. A statement that writes labelled data there again makes
    /// them inherit again; a relation that is dropped loses its labels by itself. Only root may; the ledger says who.
    Forget {
        /// As `list` numbers them
        #[arg(required = true, value_name = "NUMBER")]
        numbers: Vec<u64>,
    },
}

pub fn labels(common: &Common, arguments: &LabelsArguments) -> Result<Answer> {
    common.no_csv()?;
    let client = Client::new(&common.control);
    match &arguments.command {
        Command::List => {
            let inherited = block_on(async { Ok(client.labels().await?) })?;
            list(common.format(), &inherited)?;
        }
        Command::Forget { numbers } => {
            let mut out = io::stdout().lock();
            for number in numbers {
                let change = LabelChange::Forget { number: *number };
                let column = block_on(async { Ok(client.change_label(&change).await?) })?;
                match common.format() {
                    Format::Json | Format::Csv => {
                        writeln!(out, "{}", serde_json::to_value(&column)?)?;
                    }
                    Format::Table => {
                        let (name, from) = (clean(&column.column), clean(&column.origins()));
                        writeln!(out, "{name} has no label from {from} any more")?;
                    }
                }
            }
        }
    }
    Ok(Answer::Done)
}

fn list(format: Format, inherited: &[Inherited]) -> Result<()> {
    let mut out = io::stdout().lock();
    match format {
        Format::Json | Format::Csv => {
            for one in inherited {
                writeln!(out, "{}", serde_json::to_value(one)?)?;
            }
        }
        Format::Table if inherited.is_empty() => eprintln!("no column has inherited a label"),
        Format::Table => {
            let columns = [
                ("number", Align::Right),
                ("server", Align::Left),
                ("database", Align::Left),
                ("column", Align::Left),
                ("from", Align::Left),
                ("since", Align::Left),
                ("by", Align::Left),
                ("statement", Align::Left),
            ];
            let mut table = Table::new(&columns);
            for one in inherited {
                table.row(vec![
                    (Style::Plain, one.number.to_string()),
                    (Style::Plain, clean(&one.server).to_string()),
                    (Style::Plain, clean(&one.database).to_string()),
                    (Style::Bold, clean(&one.column).to_string()),
                    (Style::Plain, clean(&one.origins()).to_string()),
                    (Style::Plain, one.since.to_string()),
                    (Style::Plain, clean(one.by.as_deref().unwrap_or("?")).to_string()),
                    (Style::Plain, clean(&one.statement).to_string()),
                ]);
            }
            write!(out, "{}", table.render(Paint::of_stdout()))?;
        }
    }
    Ok(())
}
