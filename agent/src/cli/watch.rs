//! `dbwarden watch`: statements as they happen, for somebody who is awake at 3 am.

mod view;

use std::{
    io::{self, Write},
    time::Duration,
};

use anyhow::Result;
use clap::Args;

use super::{Answer, Common, Format, block_on, clock, terminal};
use crate::{
    control::{Client, ClientError, Filter},
    event::PrincipalKind,
};
pub(super) use view::{Line, View};

#[derive(Debug, Args)]
pub struct Watch {
    /// Only statements of this database user
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Only statements in this database
    #[arg(long, value_name = "NAME")]
    database: Option<String>,
    /// Only statements to this server
    #[arg(long, value_name = "NAME")]
    server: Option<String>,
    /// Only statements sent by somebody in whose principal, initiator, user, login, executable, unit, container, pod or
    /// address this word stands
    #[arg(long, value_name = "WORD")]
    who: Option<String>,
    /// Only statements sent by a human, service, ai or unknown
    #[arg(long, value_name = "KIND", value_parser = kind)]
    kind: Option<PrincipalKind>,
    /// Only statements that took this long: 250us, 15ms, 1.5s, 2m
    #[arg(long, value_name = "TIME", value_parser = duration)]
    min_duration: Option<Duration>,
    /// Only statements that failed
    #[arg(long)]
    errors: bool,
    /// Show values too: in texts, parameters and error messages. For root only; secrets stay hidden
    #[arg(long)]
    literals: bool,
}

pub fn watch(common: &Common, arguments: &Watch) -> Result<Answer> {
    common.no_csv()?;
    let filter = Filter {
        user: arguments.user.clone(),
        database: arguments.database.clone(),
        server: arguments.server.clone(),
        who: arguments.who.clone(),
        kind: arguments.kind,
        min_duration: arguments.min_duration,
        errors: arguments.errors,
        literals: arguments.literals,
    };
    block_on(show(common, &filter))
}

async fn show(common: &Common, filter: &Filter) -> Result<Answer> {
    let mut lines = Client::new(&common.control).watch(filter).await?;
    let view = match common.format() {
        Format::Table => {
            eprintln!("watching; Ctrl-C ends");
            Some(View::of_stdout(clock::local))
        }
        Format::Json | Format::Csv => None,
    };
    let mut out = io::stdout().lock();
    while let Some(line) = lines.next().await? {
        match &view {
            Some(view) => {
                let shown = match serde_json::from_slice::<Line>(line) {
                    Ok(line) => view.show(&line, terminal::width()),
                    Err(error) => format!("a line that this version can't read: {error}"),
                };
                writeln!(out, "{shown}")?;
            }
            None => {
                out.write_all(line)?;
                out.write_all(b"\n")?;
            }
        }
    }
    Err(ClientError::Ended { socket: common.control.clone() }.into())
}

fn kind(text: &str) -> Result<PrincipalKind, String> {
    let kind = PrincipalKind::ALL.iter().copied().find(|kind| kind.name() == text);
    kind.ok_or_else(|| "human, service, ai or unknown is wanted".to_owned())
}

fn duration(text: &str) -> Result<Duration, String> {
    let wanted = || format!("{text:?} is no time: write 250us, 15ms, 1.5s or 2m");
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic() || c == 'µ');
    let seconds = match text.get(number.len()..).unwrap_or_default() {
        "us" | "µs" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        _ => return Err(wanted()),
    };
    let number: f64 = number.parse().map_err(|_| wanted())?;
    Duration::try_from_secs_f64(number * seconds).map_err(|_| wanted())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::duration;

    #[test]
    fn times_are_read_with_their_unit() {
        for (text, expected) in [
            ("250us", Some(Duration::from_micros(250))),
            ("250µs", Some(Duration::from_micros(250))),
            ("15ms", Some(Duration::from_millis(15))),
            ("1.5s", Some(Duration::from_millis(1_500))),
            ("2m", Some(Duration::from_secs(120))),
            ("15", None),
            ("ms", None),
            ("-1s", None),
            ("1h", None),
            ("nans", None),
        ] {
            assert_eq!(duration(text).ok(), expected, "{text}");
        }
    }
}
