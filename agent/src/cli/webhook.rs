//! `dbwarden webhook`: whether the receivers of findings take what is posted to them.

use std::{
    io::{self, Write},
    path::PathBuf,
    time::Instant,
};

use anyhow::Result;
use clap::{Args, Subcommand};
use serde_json::json;

use super::{
    Answer, Common, Format, Usage, block_on,
    terminal::{Paint, Style, clean},
};
use crate::{
    config, pipeline,
    webhook::{Message, Receiver, shown},
};

#[derive(Debug, Args)]
pub struct WebhookArguments {
    #[command(subcommand)]
    command: WebhookCommand,
}

#[derive(Debug, Subcommand)]
enum WebhookCommand {
    /// Post a test message, once, and say what the receiver answers
    ///
    /// Needs no service. Exits with 1 if it isn't taken.
    Test(Test),
}

#[derive(Debug, Args)]
struct Test {
    /// The `name` of a [[webhook]]
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    name: Option<String>,
    /// To each of them
    #[arg(long)]
    all: bool,
    /// Read this configuration; by default /etc/dbwarden/config.toml
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub fn webhook(common: &Common, arguments: &WebhookArguments) -> Result<Answer> {
    let WebhookCommand::Test(arguments) = &arguments.command;
    common.no_csv()?;
    let settings = config::load(arguments.config.as_deref())?;
    let is_meant = |webhook: &&config::Webhook| {
        arguments.name.as_ref().is_none_or(|name| *name == webhook.name)
    };
    let webhooks: Vec<&config::Webhook> = settings.webhooks.iter().filter(is_meant).collect();
    if webhooks.is_empty() {
        let names: Vec<&str> = settings.webhooks.iter().map(|webhook| &*webhook.name).collect();
        let there = match names.is_empty() {
            true => "the configuration has no [[webhook]]".to_owned(),
            false => format!("there are {}", names.join(", ")),
        };
        let name = arguments.name.as_deref().unwrap_or("to test");
        return Err(Usage(format!("no webhook {name}: {there}")).into());
    }
    let mut answer = Answer::Done;
    for webhook in webhooks {
        if !test(common, webhook, &settings.host.name)? {
            answer = Answer::No;
        }
    }
    Ok(answer)
}

/// Whether it was taken.
fn test(common: &Common, webhook: &config::Webhook, host: &str) -> Result<bool> {
    let (now, start) = (pipeline::wall_time(), Instant::now());
    let message = Message::test(host, now, start);
    let outcome = block_on(async { Ok(Receiver::new(webhook).post(&message, now).await) })?;
    let took_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
    let (is_taken, words) = match &outcome {
        Ok(answer) => (true, answer.words()),
        Err(failure) => (false, failure.why.clone()),
    };
    let target = shown(&webhook.target);
    let mut out = io::stdout().lock();
    match common.format() {
        Format::Table => {
            let paint = Paint::of_stdout();
            let (style, verdict) =
                if is_taken { (Style::Good, "taken") } else { (Style::Bad, "not taken") };
            let line = format!("to {target}, after {took_ms} ms: {words}");
            let (name, verdict) =
                (paint.paint(Style::Bold, &webhook.name), paint.paint(style, verdict));
            writeln!(out, "{name}  {verdict}  {}", clean(&line))?;
        }
        Format::Json | Format::Csv => {
            let line = json!({
                "webhook": webhook.name,
                "target": target,
                "id": &*message.id,
                "taken": is_taken,
                "status": outcome.ok().map(|answer| answer.status.as_u16()),
                "answer": words,
                "duration_ms": took_ms,
            });
            writeln!(out, "{line}")?;
        }
    }
    Ok(is_taken)
}
