//! Where findings are posted, as it is written and checked; what logs in has files of its own.

use std::{collections::HashSet, ops::RangeInclusive, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};
use toml::Spanned;
use url::Url;

use super::{
    Span,
    error::Complaint,
    file,
    settings::{absolute, plain_name, within},
};
use crate::event::Severity;

/// A receiver of findings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Webhook {
    pub name: String,
    #[serde(flatten)]
    pub target: WebhookTarget,
    pub format: WebhookFormat,
    /// Holds the key that messages are signed with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_file: Option<PathBuf>,
    pub min_severity: Severity,
    /// Only of these rules; `*` stands for anything.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<String>,
    /// Also what rules would have done that are only tried.
    pub dry_run: bool,
    /// Also what is asked of approvers, and what they have decided.
    pub approvals: bool,
    /// For an answer.
    pub timeout: Span,
    /// A message that isn't taken for so long is lost.
    pub give_up: Span,
    /// Who signs the receiver's certificate; by default those whom the system trusts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<PathBuf>,
}

/// Where to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WebhookTarget {
    /// Nothing in it logs in.
    Url(String),
    /// A file that holds the URL: whoever knows it may post.
    UrlFile(PathBuf),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WebhookFormat {
    /// Signed as the Standard Webhooks specification says.
    #[default]
    Json,
    /// For Slack's incoming webhooks, and what takes the same.
    Slack,
}

const TIMEOUT: Span = Span(Duration::from_secs(15));
const TIMEOUTS: RangeInclusive<Span> =
    Span(Duration::from_millis(100))..=Span(Duration::from_secs(300));
const GIVE_UP: Span = Span(Duration::from_secs(86_400));
const GIVE_UPS: RangeInclusive<Span> =
    Span(Duration::from_secs(1))..=Span(Duration::from_secs(7 * 86_400));
/// Each has a task and a queue.
const MAX_WEBHOOKS: usize = 16;

/// Their paths log in, and nothing else does.
const SECRET_PATHS: [&str; 4] =
    ["hooks.slack.com", "discord.com", "discordapp.com", "webhook.office.com"];
const URL_FILE: &str = "put it into a file that only root may read, and name that as `url_file`";

pub(super) fn webhooks(written: Vec<Spanned<file::Webhook>>) -> Result<Vec<Webhook>, Complaint> {
    let mut names = HashSet::new();
    let mut webhooks = Vec::with_capacity(written.len());
    for entry in written {
        let span = entry.span();
        let webhook = webhook(entry)?;
        if !names.insert(webhook.name.clone()) {
            let message =
                format!("two [[webhook]] are called \"{}\"; names must differ", webhook.name);
            return Err(Complaint::at(span, message));
        }
        if webhooks.len() == MAX_WEBHOOKS {
            let message = format!("[[webhook]]: there can be {MAX_WEBHOOKS}, this is one more");
            return Err(Complaint::at(span, message));
        }
        webhooks.push(webhook);
    }
    Ok(webhooks)
}

fn webhook(entry: Spanned<file::Webhook>) -> Result<Webhook, Complaint> {
    let span = entry.span();
    let file::Webhook {
        name,
        url,
        url_file,
        format,
        secret_file,
        min_severity,
        rules,
        dry_run,
        approvals,
        timeout,
        give_up,
        certificate,
    } = entry.into_inner();
    let Some(name) = name else {
        return Err(Complaint::at(span, "[[webhook]] needs a `name` to be spoken of by"));
    };
    let format = format.unwrap_or_default();
    let certificate_span = certificate.as_ref().map(Spanned::span);
    let target = match (url, url_file) {
        (Some(url), None) => WebhookTarget::Url(place(url)?),
        (None, Some(file)) => WebhookTarget::UrlFile(absolute("url_file", file)?),
        (Some(_), Some(file)) => {
            let message = "`url_file`: there is a `url` already: one of them says where to";
            return Err(Complaint::at(file.span(), message));
        }
        (None, None) => {
            let message = "[[webhook]] needs a `url` to post to, or a `url_file` that holds it";
            return Err(Complaint::at(span, message));
        }
    };
    if let (Some(span), WebhookTarget::Url(url)) = (certificate_span, &target)
        && url.starts_with("http:")
    {
        let message = format!("`certificate`: {url} is not encrypted, so it has no use: https is");
        return Err(Complaint::at(span, message));
    }
    if format == WebhookFormat::Json && secret_file.is_none() {
        let message = "[[webhook]]: format = \"json\" is signed: `secret_file` names the file that \
                       holds the key, as from `echo whsec_$(openssl rand -base64 32)`";
        return Err(Complaint::at(span, message));
    }
    let path = |key: &str, path: Option<Spanned<PathBuf>>| {
        path.map(|path| absolute(key, path)).transpose()
    };
    Ok(Webhook {
        name: plain_name("name", name)?,
        target,
        format,
        secret_file: path("secret_file", secret_file)?,
        min_severity: min_severity.unwrap_or(Severity::Low),
        rules: rules.map(patterns).transpose()?.unwrap_or_default(),
        dry_run: dry_run.unwrap_or(false),
        approvals: approvals.unwrap_or(true),
        timeout: within("timeout", timeout, &TIMEOUTS)?.unwrap_or(TIMEOUT),
        give_up: within("give_up", give_up, &GIVE_UPS)?.unwrap_or(GIVE_UP),
        certificate: path("certificate", certificate)?,
    })
}

fn place(written: Spanned<String>) -> Result<String, Complaint> {
    let span = written.span();
    let text = written.into_inner();
    let parsed = Url::parse(&text);
    // Also where it can't be read: what is behind those may be a password.
    if text.contains(['@', '?', '#']) {
        let message = format!(
            "`url`: nothing may stand in it that logs in (before an `@`, or behind a `?` or `#`): {URL_FILE}"
        );
        return Err(Complaint::of_secret(span, message));
    }
    match parsed {
        Ok(url) if url.host_str().is_some_and(holds_secret) => {
            let message = format!("`url`: whoever knows such a URL may post there: {URL_FILE}");
            Err(Complaint::of_secret(span, message))
        }
        Ok(url) if is_postable(&url) => Ok(url.to_string()),
        _ => {
            let message = format!("`url`: {text:?} is no place to post to: https://HOST/PATH is");
            Err(Complaint::at(span, message))
        }
    }
}

fn holds_secret(host: &str) -> bool {
    let is_in = |domain: &&str| {
        host.strip_suffix(*domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    SECRET_PATHS.iter().any(is_in)
}

fn is_postable(url: &Url) -> bool {
    ["http", "https"].contains(&url.scheme()) && url.has_host()
}

fn patterns(written: Spanned<Vec<String>>) -> Result<Vec<String>, Complaint> {
    let span = written.span();
    let rules = written.into_inner();
    if rules.is_empty() || rules.iter().any(String::is_empty) {
        let message =
            "`rules`: names of rules, as in [\"builtin:*\"]; without the key, all of them";
        return Err(Complaint::at(span, message));
    }
    Ok(rules)
}

#[cfg(test)]
mod tests {
    use std::{path::Path, time::Duration};

    use super::{super::tests::read, WebhookFormat, WebhookTarget};
    use crate::event::Severity;

    const SECRET: &str = "secret_file = \"/etc/dbwarden/key\"";

    #[test]
    fn every_key_arrives_and_is_shown_again() {
        let text = format!(
            "[[webhook]]\nname = \"oncall\"\nurl = \"https://alerts.example.com/dbwarden\"\n{SECRET}\n\
             min_severity = \"high\"\nrules = [\"builtin:*\"]\ndry_run = true\ntimeout = \"3s\"\n\
             give_up = \"1h\"\ncertificate = \"/etc/ca.pem\"\n\
             [[webhook]]\nname = \"chat\"\nformat = \"slack\"\nurl_file = \"/etc/dbwarden/chat\""
        );
        let settings = read(&text).unwrap();
        let [oncall, chat] = &settings.webhooks[..] else { panic!("{settings:?}") };
        assert_eq!(oncall.target, WebhookTarget::Url("https://alerts.example.com/dbwarden".into()));
        assert_eq!(oncall.secret_file.as_deref(), Some(Path::new("/etc/dbwarden/key")));
        assert_eq!((oncall.min_severity, oncall.dry_run), (Severity::High, true));
        assert_eq!((oncall.timeout.0, oncall.give_up.0.as_secs()), (Duration::from_secs(3), 3_600));
        assert_eq!(oncall.rules, ["builtin:*"]);
        assert_eq!(chat.format, WebhookFormat::Slack);
        assert_eq!(chat.target, WebhookTarget::UrlFile("/etc/dbwarden/chat".into()));
        assert_eq!(chat.give_up.0, Duration::from_secs(86_400));
        let shown = toml::to_string(&settings).unwrap();
        assert_eq!(read(&shown).unwrap(), settings, "{shown}");
    }

    #[test]
    fn mistakes_are_told_with_their_line() {
        let hidden = "c.toml:2: `url`: nothing may stand in it that logs in (before an `@`, or behind \
                      a `?` or `#`): put it into a file that only root may read, and name that as \
                      `url_file`";
        for (text, expected) in [
            (
                "url = \"https://a/\"",
                "c.toml:1: [[webhook]] needs a `name` to be spoken of by\n    1 | [[webhook]]",
            ),
            (
                "name = \"a\"",
                "c.toml:1: [[webhook]] needs a `url` to post to, or a `url_file` that holds it\n    1 | [[webhook]]",
            ),
            (
                "name = \"a\"\nurl = \"https://a/\"",
                "c.toml:1: [[webhook]]: format = \"json\" is signed: `secret_file` names the file that \
                 holds the key, as from `echo whsec_$(openssl rand -base64 32)`\n    1 | [[webhook]]",
            ),
            ("url = \"https://ana:pw@a/\"\nname = \"a\"", hidden),
            ("url = \"https://a/?token=5\"\nname = \"a\"", hidden),
            (
                "url = \"https://hooks.slack.com/services/T0/B0/hush\"\nname = \"a\"",
                "c.toml:2: `url`: whoever knows such a URL may post there: put it into a file that only \
                 root may read, and name that as `url_file`",
            ),
            (
                "name = \"a\"\nurl = \"ftp://a/\"",
                "c.toml:3: `url`: \"ftp://a/\" is no place to post to: https://HOST/PATH is\n    3 | url = \"ftp://a/\"",
            ),
            (
                "name = \"a\"\nformat = \"slack\"\nurl = \"http://a/\"\ncertificate = \"/a\"",
                "c.toml:5: `certificate`: http://a/ is not encrypted, so it has no use: https is\n    5 | certificate = \"/a\"",
            ),
            (
                "name = \"a\"\nmin_severity = \"urgent\"",
                "c.toml:3: `min_severity`: \"urgent\" is not allowed in [[webhook]] (allowed: \"low\", \
                 \"medium\", \"high\", \"critical\")\n    3 | min_severity = \"urgent\"",
            ),
            (
                "name = \"a\"\nformat = \"slack\"\nurl = \"https://a/\"\ngive_up = \"30d\"",
                "c.toml:5: `give_up`: from 1s to 7days; 30days is not\n    5 | give_up = \"30d\"",
            ),
            (
                "name = \"a\"\nformat = \"slack\"\nurl = \"https://a/\"\nrules = []",
                "c.toml:5: `rules`: names of rules, as in [\"builtin:*\"]; without the key, all of \
                 them\n    5 | rules = []",
            ),
            (
                "name = \"a\"\nformat = \"slack\"\nurl = \"https://a/\"\n[[webhook]]\nname = \"a\"\n\
                 format = \"slack\"\nurl = \"https://b/\"",
                "c.toml:5: two [[webhook]] are called \"a\"; names must differ\n    5 | [[webhook]]",
            ),
        ] {
            assert_eq!(read(&format!("[[webhook]]\n{text}")).unwrap_err(), expected, "{text}");
        }
    }

    #[test]
    fn a_key_in_the_file_is_not_repeated() {
        let error = read("[[webhook]]\nname = \"a\"\nsecret = \"whsec_hush\"").unwrap_err();
        assert!(error.contains("unknown key `secret`") && !error.contains("hush"), "{error}");
    }
}
