//! The command line: one file a subcommand, and what their results mean as exit codes.

mod analyst;
mod approvals;
mod ask;
mod clock;
mod csv;
mod doctor;
mod filters;
mod findings;
mod guard;
mod keeper;
mod keys;
mod labels;
mod output;
mod policy;
mod quarantine;
mod query_worker;
mod report;
mod run;
mod search;
mod sql;
mod status;
mod table;
mod terminal;
mod timeline;
mod unsteer;
mod verify;
mod watch;
mod webhook;
mod who;
mod whois;

use std::{io, io::IsTerminal, path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand, ValueEnum};

pub use analyst::analyst;
pub use approvals::{ApprovalsArguments, approvals};
pub use doctor::doctor;
pub use findings::{Findings, findings};
pub use guard::guard;
pub use keeper::{Keeper, keeper};
pub use keys::{KeysArguments, keys};
pub use labels::{LabelsArguments, labels};
pub use policy::{PolicyArguments, policy};
pub use quarantine::{QuarantineArguments, quarantine};
pub use query_worker::{QueryWorker, query_worker};
pub use report::{ReportArguments, report};
pub use run::{Run, run};
pub use search::{Search, search};
pub use sql::{Sql, sql};
pub use status::status;
pub use timeline::{Timeline, timeline};
pub use unsteer::{Unsteer, unsteer};
pub use verify::{Verify, verify};
pub use watch::{Watch, watch};
pub use webhook::{WebhookArguments, webhook};
pub use whois::{Whois, whois};

use crate::{
    config,
    control::{AccessError, BindError, ClientError, LockError},
    ledger::{keys::KeysError, verify::VerifyError},
    pipeline::Mistake,
};

/// Sees every statement that reaches the databases of this host, and who really sent it.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
pub struct Arguments {
    #[command(flatten)]
    pub common: Common,
    #[command(subcommand)]
    pub command: Command,
}

impl Arguments {
    /// What the grammar can't say.
    ///
    /// # Errors
    /// Only a report is HTML.
    pub fn check(&self) -> anyhow::Result<()> {
        let is_report = matches!(self.command, Command::Report(_));
        match self.common.format {
            Some(GivenFormat::Html) if !is_report => {
                Err(Usage("--format html is for report: take table or json".into()).into())
            }
            _ => Ok(()),
        }
    }
}

/// What all subcommands understand.
#[derive(Debug, Args)]
pub struct Common {
    /// The control socket of the service to ask
    #[arg(long, global = true, value_name = "PATH", default_value = config::CONTROL_SOCKET)]
    pub control: PathBuf,
    /// A table for people, lines of JSON, or CSV of the ledger's rows; by default a table on a
    /// terminal, else JSON
    #[arg(long, global = true, value_enum)]
    format: Option<GivenFormat>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum GivenFormat {
    Table,
    Json,
    /// Only where there are rows: `search`, `timeline`, `sql`, `report`.
    Csv,
    /// Only of `report`.
    Html,
}

/// How an answer is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Table,
    Json,
    Csv,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the service
    Run(Run),
    /// Show statements live
    Watch(Watch),
    /// Show health, coverage and losses of the running service
    Status,
    /// Show who a process, an address or a connection is, by which rule and on which evidence
    Whois(Whois),
    /// Check what this host and its kernel allow
    ///
    /// Loads the BPF programs, attaches those that cost nobody anything, and takes them off again; a
    /// service that runs is not disturbed.
    Doctor,
    /// Check that the ledger is whole and unchanged; prove a row of it
    ///
    /// Needs no service. Exits with 1 if anything in the ledger isn't what was signed, and names the
    /// segment, the row and the reason. What a crash tore off before it was signed is told apart.
    ///
    /// Whoever owns this host owns its keys too, and can put the whole host back to an earlier state:
    /// only a checkpoint (`log/checkpoint` in the ledger) or a public key that is kept on another
    /// machine can show that.
    Verify(Box<Verify>),
    /// Show or rotate the key that signs the ledger
    Keys(KeysArguments),
    /// Write, check and try the rules that statements are judged by
    ///
    /// Needs no service.
    Policy(PolicyArguments),
    /// Try the receivers that findings are posted to
    Webhook(WebhookArguments),
    /// Parse statements for the service, which starts this itself
    #[command(hide = true)]
    Analyst,
    /// Stand between clients and guarded servers for the service, which starts this itself
    #[command(hide = true)]
    Guard,
    /// Lead clients of a unix socket to their server when the service is gone, which starts this itself
    #[command(hide = true)]
    Keeper(Keeper),
    /// Find statements in the ledger
    Search(Box<Search>),
    /// Show what the rules have found, by episodes
    Findings(Box<Findings>),
    /// Show whose connections end, put somebody there, let somebody out
    ///
    /// A rule with @verdict("cut") ends a connection, and puts whoever it was into quarantine for the
    /// time that [enforce] says.
    Quarantine(QuarantineArguments),
    /// Show columns that have inherited labels from others, and take that back
    ///
    /// Where a rule masks labelled columns, a column that is filled from one (CREATE TABLE AS, INSERT … SELECT, UPDATE
    /// … FROM, MERGE, …) is hidden from the same clients from then on.
    Labels(LabelsArguments),
    /// Show statements that wait for people, approve them, deny them
    ///
    /// A rule with @verdict("hold") keeps a statement waiting in its session, one with @verdict("ticket") makes it
    /// fail with SQLSTATE WA001 until it was approved and is sent again. Requests end with the service and with the
    /// guard: what is open then is denied.
    Approvals(ApprovalsArguments),
    /// Let clients get to guarded servers again while the service is gone
    ///
    /// Where a [[server]] says on_guard_down = "refuse" (the default), nobody gets to it while no guard stands, also
    /// when the service is stopped. This takes that off, until the service starts again.
    Unsteer(Unsteer),
    /// Show who did what, when
    Timeline(Box<Timeline>),
    /// Ask the ledger in SQL
    Sql(Sql),
    /// Make evidence for auditors: all changes, all reads of labelled data, or those from elsewhere
    ///
    /// The complete population of a period, with what was not observed in it, reconciled with the ledger
    /// row by row. Reads the ledger's folder, and needs no service. Exits with 1 if the ledger isn't what was
    /// signed, or if the rows don't add up: the report says so on its first page.
    Report(Box<ReportArguments>),
    /// Answer one request from standard input
    #[command(hide = true)]
    QueryWorker(QueryWorker),
}

impl Common {
    fn format(&self) -> Format {
        match self.format {
            Some(GivenFormat::Json) => Format::Json,
            Some(GivenFormat::Csv) => Format::Csv,
            None if !io::stdout().is_terminal() => Format::Json,
            // HTML was refused before.
            Some(GivenFormat::Table | GivenFormat::Html) | None => Format::Table,
        }
    }

    /// For subcommands whose answers are no rows.
    fn no_csv(&self) -> Result<(), Usage> {
        match self.format {
            Some(GivenFormat::Csv) => Err(Usage(
                "--format csv is for search, findings, timeline, sql and report: take json".into(),
            )),
            _ => Ok(()),
        }
    }
}

/// What was typed can't be meant.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Usage(String);

/// What a subcommand found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Done,
    /// It was asked something, and the answer is no.
    No,
}

/// Tells what went wrong, and says it to scripts too: 0 done, 1 the answer is no, 2 usage or
/// configuration, 3 the service can't be reached.
pub fn exit(outcome: anyhow::Result<Answer>) -> ExitCode {
    match outcome {
        Ok(Answer::Done) => ExitCode::SUCCESS,
        Ok(Answer::No) => ExitCode::from(1),
        // `dbwarden watch | head` has read enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dbwarden: {}", in_one_line(&error));
            ExitCode::from(code(&error))
        }
    }
}

fn code(error: &anyhow::Error) -> u8 {
    if error.is::<config::Error>()
        || error.is::<config::UnreadablePolicies>()
        || error.is::<VerifyError>()
        || error.is::<KeysError>()
        || error.is::<Usage>()
        || error.is::<LockError>()
        || error.is::<AccessError>()
        || error.is::<BindError>()
        || error.is::<Mistake>()
    {
        2
    } else if error.is::<ClientError>() {
        3
    } else {
        1
    }
}

/// The error and its causes, without a cause that the error itself has told already.
fn in_one_line(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// One thread is enough for a client.
fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::{Arguments, code};
    use crate::{config, control::LockError};

    #[test]
    fn the_grammar_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn errors_become_the_promised_codes() {
        let missing = config::load(Some("/nonexistent".as_ref())).unwrap_err();
        for (error, expected) in [
            (anyhow::Error::from(missing), 2),
            (LockError::Held { pid: 1 }.into(), 2),
            (anyhow::anyhow!("capture failed"), 1),
        ] {
            assert_eq!(code(&error), expected, "{error}");
        }
    }
}
