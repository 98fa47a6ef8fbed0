//! `dbwarden policy`: what rules may speak of, whether they are sound, and what they make of a statement.

mod case;
mod explain;
mod list;
mod sources;
mod trial;

use std::io::{self, Write};

use anyhow::Result;
use clap::{Args, Subcommand};

use super::{Answer, Common, Format, terminal::Paint};
use crate::policy::{Complaints, SCHEMA};
use explain::Explain;
use sources::Place;
use trial::Test;

#[derive(Debug, Args)]
pub struct PolicyArguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print the schema: everything that policies can speak of
    Schema,
    /// Check that the policies are sound
    ///
    /// Types, attributes, annotations, verdicts, groups and labels are held against the schema and the
    /// configuration, and each rule must be able to fire. Exits with 1 if anything is wrong.
    Check(Place),
    /// List the rules with what they mean and how to silence them
    List(Place),
    /// Hold the policies against a table of cases
    ///
    /// Exits with 1 if a statement doesn't get the verdict or the rule that its case expects.
    Test(Test),
    /// Show why a statement gets its verdict, and which rules came close
    Explain(Box<Explain>),
}

pub fn policy(common: &Common, arguments: &PolicyArguments) -> Result<Answer> {
    common.no_csv()?;
    match &arguments.command {
        Command::Schema => {
            io::stdout().lock().write_all(SCHEMA.as_bytes())?;
            Ok(Answer::Done)
        }
        Command::Check(place) => check(common, place),
        Command::List(place) => list::list(common, place),
        Command::Test(test) => trial::test(common, test),
        Command::Explain(explain) => explain::explain(common, explain),
    }
}

fn check(common: &Common, place: &Place) -> Result<Answer> {
    let mut out = io::stdout().lock();
    let set = match place.load()? {
        Ok(set) => set,
        Err(complaints) => return tell(common, &complaints),
    };
    let n_builtin = set.rules().values().filter(|rule| rule.is_builtin()).count();
    let n_own = set.rules().len() - n_builtin;
    match common.format() {
        Format::Json | Format::Csv => {
            let line = serde_json::json!({
                "sound": true, "rules": n_own, "builtin_rules": n_builtin,
                "files": set.sources().iter().map(|source| &source.name).collect::<Vec<_>>(),
                "version": set.version(),
            });
            writeln!(out, "{line}")?;
        }
        Format::Table => {
            let rules = super::terminal::counted(n_own as u64, "rule");
            writeln!(out, "{rules} and {n_builtin} built-in ones are sound.")?;
        }
    }
    Ok(Answer::Done)
}

/// All that is wrong, for people or line by line for programs.
fn tell(common: &Common, complaints: &Complaints) -> Result<Answer> {
    let mut out = io::stdout().lock();
    for complaint in &complaints.0 {
        match common.format() {
            Format::Json | Format::Csv => {
                let line = serde_json::json!({
                    "file": complaint.file, "line": complaint.line, "message": complaint.message,
                    "excerpt": complaint.excerpt, "help": complaint.help,
                });
                writeln!(out, "{line}")?;
            }
            Format::Table => {
                let text = complaint.to_string();
                let (first, rest) = text.split_once('\n').unwrap_or((&text, ""));
                let paint = Paint::of_stdout();
                writeln!(out, "{}\n{rest}", paint.paint(super::terminal::Style::Bold, first))?;
            }
        }
    }
    Ok(Answer::No)
}
