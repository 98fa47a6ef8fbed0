//! `dbwarden report`: evidence for auditors, of which every row and every lack is accounted for.

mod approvals;
mod coverage;
mod document;
mod gather;
mod head;
mod html;
mod labels;
mod proof;
mod reconciliation;
mod row;
mod totals;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use serde::Serialize;
use time::UtcDateTime;

use self::{
    document::{Form, HTML_ROWS, Rows, beside},
    gather::Gathered,
    head::{FORMAT, HASHED, Head, Made, Period},
    labels::Labels,
    proof::Proof,
};
use super::{Answer, Common, GivenFormat, Usage, block_on, filters::Filters, verify};
use crate::{
    config::{self, Settings},
    event::WallTime,
    ledger::{note::PublicKey, verify::Options},
    pipeline::Configuration,
    search::{self, Place, Population, Request},
};

#[derive(Debug, Args)]
pub struct ReportArguments {
    #[command(subcommand)]
    command: ReportCommand,
}

#[derive(Debug, Subcommand)]
enum ReportCommand {
    /// Everything that may have changed something: who changed what, when, and how it ended
    ///
    /// Inserts, updates, deletes, truncations, definitions, grants, configuration, programs, calls of code,
    /// and every statement of which it can't be told; failed ones too. Only what is known to have changed
    /// nothing is left out, and counted.
    Changes(Given),
    /// All reads of data that has a label in the configuration, and all that may have read some
    Access(AccessGiven),
    /// Reads of data with a `residency:` label by clients elsewhere, and how many there were from the right region
    Residency(AccessGiven),
}

#[derive(Debug, Args)]
struct AccessGiven {
    /// Only data with this label; may be given several times
    #[arg(long, value_name = "NAME")]
    label: Vec<String>,
    #[command(flatten)]
    given: Given,
}

#[derive(Debug, Args)]
struct Given {
    #[command(flatten)]
    filters: Filters,
    /// Where the report goes, as a whole or not at all; by default to standard output
    ///
    /// Its ending says the format where --format doesn't. CSV has a second file beside it, with
    /// `.summary.json` at the end of its name: totals, coverage and what vouches for the rows, which would
    /// spoil a spreadsheet.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Read labels, regions and the places of ledger and keys from this configuration; by default
    /// /etc/dbwarden/config.toml where there is one
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Read the ledger in this folder, or the copies of many hosts' ledgers behind this URL (as in
    /// [ledger.copy]); by default the folder that the configuration names. Copies can't be verified
    #[arg(long, value_name = "PLACE")]
    ledger: Option<Place>,
    /// Where this host keeps its keys; by default where the configuration says
    #[arg(long, value_name = "DIR")]
    keys: Option<PathBuf>,
    /// Verify with a public key kept elsewhere, as `dbwarden keys show` prints it
    #[arg(long, value_name = "KEY", value_parser = verify::public_key)]
    key: Option<PublicKey>,
    /// Verify against a checkpoint kept elsewhere, which alone shows a rollback of the whole host
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,
    /// Don't hold the ledger against its signatures; the report says so
    #[arg(long, conflicts_with_all = ["key", "checkpoint"])]
    no_verify: bool,
}

/// Which statements a report is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    Changes,
    Access,
    Residency,
}

pub fn report(common: &Common, arguments: &ReportArguments) -> Result<Answer> {
    let (kind, labels, given) = match &arguments.command {
        ReportCommand::Changes(given) => (Kind::Changes, &[][..], given),
        ReportCommand::Access(access) => (Kind::Access, &access.label[..], &access.given),
        ReportCommand::Residency(access) => (Kind::Residency, &access.label[..], &access.given),
    };
    let form = form(common.format, given.output.as_deref())?;
    let settings = config::load(given.config.as_deref())?;
    let file = config::source(given.config.as_deref());
    let configuration = Configuration::new(&settings, file)
        .context("can't write the configuration as TOML")?
        .sha256();
    let file = file.map_or_else(|| "the defaults".to_owned(), |file| file.display().to_string());
    let labels = Labels::of(kind, labels, &settings, &file, configuration)?;
    Making::new(kind, labels, given, form, &settings)?.make()
}

/// Everything that a report is made by.
struct Making<'a> {
    kind: Kind,
    labels: Option<Labels>,
    given: &'a Given,
    form: Form,
    filter: search::Filter,
    made: WallTime,
    period: Period,
    ledger: Place,
    keys: PathBuf,
    host: String,
}

impl<'a> Making<'a> {
    fn new(
        kind: Kind,
        labels: Option<Labels>,
        given: &'a Given,
        form: Form,
        settings: &Settings,
    ) -> Result<Self> {
        let now = UtcDateTime::now();
        let mut filter = given.filters.filter(now)?;
        let made = WallTime::from_utc(now);
        let period = Period { since: filter.since, until: filter.until.unwrap_or(made).min(made) };
        filter.until = Some(period.until);
        if period.since.is_some_and(|since| since >= period.until) {
            return Err(
                Usage("the period has not begun yet: --since lies in the future".into()).into()
            );
        }
        let folder = || Place::Folder(settings.ledger.directory.clone());
        let ledger = given.ledger.clone().unwrap_or_else(folder);
        let keys = match (&given.keys, &given.ledger) {
            (Some(keys), _) => keys.clone(),
            // Whoever names another ledger doesn't mean this host's keys.
            (None, Some(Place::Folder(folder))) => folder.with_file_name("keys"),
            (None, _) => settings.ledger.keys.clone(),
        };
        let host = settings.host.name.clone();
        Ok(Self { kind, labels, given, form, filter, made, period, ledger, keys, host })
    }

    fn make(self) -> Result<Answer> {
        let (form, output) = (self.form, self.given.output.as_deref());
        let mut rows = Rows::new(form, output)?;
        let request = Request::Report(search::Report {
            filter: self.filter.clone(),
            population: self.population(),
        });
        let gathered = block_on(Gathered::of(&self.ledger, &request, &mut rows))?;
        if form == Form::Html && rows.n_rows > HTML_ROWS {
            return Err(Usage(format!(
                "{} statements belong to this report, and HTML has room for {HTML_ROWS}: narrow it (--since, \
                 --until, --who, …), or take --format csv or json, which have no limit",
                rows.n_rows
            ))
            .into());
        }
        let head = self.head(gathered, &rows)?;
        rows.write(&head, output)?;
        if let Some(path) = output {
            tell(&head, path, form);
        }
        Ok(if head.sound { Answer::Done } else { Answer::No })
    }

    fn population(&self) -> Population {
        let labels = |labels: &Option<Labels>| {
            labels.as_ref().map_or_else(Vec::new, |labels| labels.labels.clone())
        };
        match self.kind {
            Kind::Changes => Population::Changes,
            Kind::Access => Population::Access { labels: labels(&self.labels) },
            Kind::Residency => Population::Residency {
                labels: labels(&self.labels),
                regions: self.labels.as_ref().map_or_else(Vec::new, |known| known.regions.clone()),
            },
        }
    }

    fn proof(&self, gathered: &Gathered) -> Result<Proof> {
        let Place::Folder(folder) = &self.ledger else {
            return Ok(Proof::none(
                "These are copies of ledgers in an object store, which this report has read as they are. The \
                 appendix says how each host's is verified.",
            ));
        };
        if self.given.no_verify {
            return Ok(Proof::none("It was made with --no-verify."));
        }
        let checkpoint = self.given.checkpoint.as_deref().map(verify::checkpoint).transpose()?;
        let options = Options {
            ledger: folder,
            keys: &self.keys,
            key: self.given.key.clone(),
            checkpoint,
            since: self.period.since,
        };
        // The entries of now: what was open when it was read may have been sealed since.
        let history = proof::history(folder)?;
        Proof::of(&options, history.as_ref(), gathered.counts.open())
    }

    fn head(self, gathered: Gathered, rows: &Rows) -> Result<Head> {
        let proof = self.proof(&gathered)?;
        let hosts = gathered.counts.hosts();
        let period = self.period;
        let mut unobserved = gathered.coverage.gaps(period.since, period.until);
        unobserved.extend(gathered.removed(period));
        unobserved.sort_by(|a, b| a.from.cmp(&b.from).then_with(|| a.host.cmp(&b.host)));
        let mut labels = self.labels;
        if let Some(labels) = &mut labels {
            labels.compare(&gathered.applied, period);
        }
        let notes = gathered.notes(self.kind, period);
        let told = gathered.told.as_ref();
        let in_region = told.map(|told| told.in_region_by_label.clone()).unwrap_or_default();
        let reconciliation =
            gathered.counts.reconcile(told, rows.n_rows, gathered.history.as_ref());
        let mut head = Head {
            format: FORMAT,
            report: self.kind,
            title: self.kind.title(),
            population: self.kind.population(),
            dbwarden: env!("CARGO_PKG_VERSION"),
            made: Made { time: self.made, by: head::maker(), on: self.host },
            hosts,
            period,
            filters: self.given.filters.given(),
            ledger: self.ledger.to_string(),
            keys: self.keys.display().to_string(),
            proof,
            reconciliation,
            labels,
            unobserved,
            servers: gathered.coverage.servers(),
            approvals: gathered.approvals,
            notes,
            in_region,
            totals: gathered.totals,
            columns: row::Row::COLUMNS,
            rows_sha256: rows.sha256(),
            rows_sha256_is_over: HASHED,
            sound: false,
        };
        head.sound = head.is_sound();
        Ok(head)
    }
}

impl Kind {
    fn title(self) -> &'static str {
        match self {
            Self::Changes => "Database changes",
            Self::Access => "Access to labelled data",
            Self::Residency => "Reads of labelled data from other regions",
        }
    }

    fn population(self) -> &'static str {
        match self {
            Self::Changes => {
                "every statement that may have changed something: data, structure, rights, configuration, \
                 programs, called code, and every one of which it can\u{2019}t be told; failed ones are among them"
            }
            Self::Access => {
                "every statement that reads data with one of the labels, by the names in its text, and every one \
                 that may have read some; failed ones are among them"
            }
            Self::Residency => {
                "every statement that reads data whose label names a region, or may have, by a client that is \
                 elsewhere or of which it isn\u{2019}t known where it is; failed ones are among them"
            }
        }
    }

    /// Statements that aren't of the population.
    fn unconcerned(self) -> &'static str {
        match self {
            Self::Changes => {
                "are known to have changed nothing (fully analysed reads, sessions, locks)"
            }
            Self::Access | Self::Residency => "are known to have read no data with these labels",
        }
    }
}

fn form(format: Option<GivenFormat>, output: Option<&Path>) -> Result<Form, Usage> {
    let ending = output.and_then(Path::extension).and_then(|ending| ending.to_str());
    let form = match (format, ending) {
        (Some(GivenFormat::Html), _) | (None, Some("html" | "htm")) => Form::Html,
        (Some(GivenFormat::Json), _) | (None, Some("json")) => Form::Json,
        (Some(GivenFormat::Csv), _) | (None, Some("csv")) => Form::Csv,
        _ => return Err(Usage("a report is --format html, csv or json".into())),
    };
    if form == Form::Csv && output.is_none() {
        return Err(Usage(
            "--format csv needs --output FILE: totals, coverage and what vouches for the rows go to \
             FILE.summary.json beside it"
                .into(),
        ));
    }
    Ok(form)
}

/// In a line, on standard error.
fn tell(head: &Head, path: &Path, form: Form) {
    let n = head.reconciliation.written;
    let summary = match form {
        Form::Csv => format!(", {}", beside(path).display()),
        Form::Html | Form::Json => String::new(),
    };
    eprintln!("{n} statements in {}{summary}", path.display());
    if !head.sound {
        eprintln!("the report can't be relied on: its first page says why");
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Form, GivenFormat, form};

    #[test]
    fn the_format_is_said_by_the_option_or_by_the_name() {
        for (format, output, expected) in [
            (Some(GivenFormat::Html), None, Ok(Form::Html)),
            (Some(GivenFormat::Json), Some("a.csv"), Ok(Form::Json)),
            (None, Some("a.html"), Ok(Form::Html)),
            (None, Some("a.csv"), Ok(Form::Csv)),
            (None, Some("a.txt"), Err("html, csv or json")),
            (None, None, Err("html, csv or json")),
            (Some(GivenFormat::Table), Some("a.html"), Err("html, csv or json")),
            (Some(GivenFormat::Csv), None, Err("needs --output FILE")),
        ] {
            match (form(format, output.map(Path::new)), expected) {
                (Ok(given), Ok(expected)) => assert_eq!(given, expected),
                (Err(error), Err(words)) => assert!(error.to_string().contains(words), "{error}"),
                (given, expected) => panic!("{given:?}, not {expected:?}"),
            }
        }
    }
}
