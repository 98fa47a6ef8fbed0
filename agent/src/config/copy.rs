//! Where the ledger is copied to, as it is written and checked; credentials have no place here.

use std::{
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Serialize;
use toml::Spanned;
use url::Url;

use super::{Span, error::Complaint, file, settings::within};

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LedgerCopy {
    /// Without a password, a token or anything else that is secret.
    pub url: String,
    /// Between two looks at what there is to copy.
    pub interval: Span,
}

const INTERVAL: Span = Span(Duration::from_secs(10));
const INTERVALS: RangeInclusive<Span> =
    Span(Duration::from_secs(1))..=Span(Duration::from_secs(86_400));

const FORMS: &str = "s3://BUCKET/PATH, gs://BUCKET/PATH, az://CONTAINER/PATH, abfs://CONTAINER@ACCOUNT.…/PATH or \
     file:///PATH";
const CREDENTIALS: &str = "credentials are taken from the environment (AWS_…, AZURE_…, GOOGLE_…), or are those that the \
     cloud gives its machines";

/// `ledger` is the folder that is copied.
pub(super) fn copy(
    written: Spanned<file::LedgerCopy>,
    ledger: &Path,
) -> Result<LedgerCopy, Complaint> {
    let span = written.span();
    let file::LedgerCopy { url, interval } = written.into_inner();
    let Some(url) = url else {
        let message = format!("[ledger.copy] needs a `url` to copy to: {FORMS}");
        return Err(Complaint::at(span, message));
    };
    Ok(LedgerCopy {
        interval: within("interval", interval, &INTERVALS)?.unwrap_or(INTERVAL),
        url: place(url, ledger)?,
    })
}

fn place(written: Spanned<String>, ledger: &Path) -> Result<String, Complaint> {
    let span = written.span();
    let text = written.into_inner();
    let parsed = Url::parse(&text);
    let holds_secret = match &parsed {
        // There it is the container that stands before the `@`.
        Ok(url) if ["abfs", "abfss"].contains(&url.scheme()) => {
            url.password().is_some() || url.query().is_some() || url.fragment().is_some()
        }
        _ => text.contains(['@', '?', '#']),
    };
    if holds_secret {
        let message = format!(
            "`url`: nothing may stand in it that logs in (before an `@`, or behind a `?` or `#`): \
             {CREDENTIALS}"
        );
        return Err(Complaint::of_secret(span, message));
    }
    let known = ["s3", "s3a", "gs", "az", "azure", "abfs", "abfss"];
    match parsed {
        Ok(url) if url.scheme() == "file" => match folder(&url) {
            Some(folder) if folder.starts_with(ledger) => {
                let message = format!("`url`: {text:?} is in the ledger itself: copy it elsewhere");
                Err(Complaint::at(span, message))
            }
            Some(_) => Ok(text),
            None => {
                let message = format!("`url`: {text:?} is no folder of this host: file:///PATH is");
                Err(Complaint::at(span, message))
            }
        },
        Ok(url) if known.contains(&url.scheme()) && url.has_host() => Ok(text),
        _ => Err(Complaint::at(span, format!("`url`: {text:?} is no place for copies: {FORMS}"))),
    }
}

fn folder(url: &Url) -> Option<PathBuf> {
    let path = url.to_file_path().ok()?;
    (!url.has_host() || url.host_str() == Some(""))
        .then_some(path)
        .filter(|path| path.parent().is_some())
}
