//! What a server is configured with: its files, and what it was started with over them.

use std::{collections::HashMap, path::PathBuf};

use super::{Target, files::Reader};

/// By names in lower case.
pub(super) type Settings = HashMap<String, String>;

/// # Errors
/// Which of its files can't be read.
pub(super) fn read(reader: &mut Reader, target: &Target) -> Result<Settings, String> {
    let line = std::fs::read(format!("/proc/{}/cmdline", target.pid)).unwrap_or_default();
    let given: Settings = given(&line).collect();
    let data = &target.data_directory;
    let main = given.get("config_file").map(PathBuf::from);
    let main = data.join(main.unwrap_or_else(|| "postgresql.conf".into()));
    let mut settings: Settings = parse(&reader.read(target.pid, &main)?).collect();
    if let Some(text) = reader.read_if_any(target.pid, &data.join("postgresql.auto.conf"))? {
        settings.extend(parse(&text));
    }
    settings.extend(given);
    Ok(settings)
}

/// Settings on a command line: `-c name=value`, `-cname=value`, `--name=value`.
fn given(line: &[u8]) -> impl Iterator<Item = (String, String)> {
    let words = line.split(|byte| *byte == 0).filter_map(|word| str::from_utf8(word).ok());
    let mut is_setting = false;
    words.filter_map(move |word| {
        let is_next = std::mem::replace(&mut is_setting, word == "-c");
        let word = match is_next {
            true => word,
            false => word.strip_prefix("--").or(word.strip_prefix("-c"))?,
        };
        let (name, value) = word.split_once('=')?;
        Some((name.replace('-', "_").to_ascii_lowercase(), value.to_owned()))
    })
}

/// Whether a setting is on.
pub(super) fn is_on(settings: &Settings, name: &str) -> bool {
    let is_on =
        |value: &String| matches!(value.to_ascii_lowercase().as_str(), "on" | "true" | "yes" | "1");
    settings.get(name).is_some_and(is_on)
}

/// Names and values of `postgresql.conf`: the last one of a name counts. Files that it includes aren't followed.
fn parse(text: &str) -> impl Iterator<Item = (String, String)> {
    text.lines().filter_map(|line| {
        let line = line.trim();
        let end = line.find(|c: char| c == '=' || c.is_whitespace())?;
        let (name, rest) = line.split_at(end);
        let rest = rest.trim_start().strip_prefix('=').unwrap_or(rest).trim_start();
        let value = match rest.strip_prefix('\'') {
            Some(quoted) => unquote(quoted),
            None => rest.split(['#', ' ', '\t']).next()?.to_owned(),
        };
        (!name.starts_with('#')).then(|| (name.to_ascii_lowercase(), value))
    })
}

/// Up to the closing quote; two quotes are one.
fn unquote(quoted: &str) -> String {
    let mut value = String::new();
    let mut rest = quoted.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\'' if rest.next_if_eq(&'\'').is_none() => break,
            '\\' => value.extend(rest.next()),
            c => value.push(c),
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::{given, parse};

    #[test]
    fn settings_are_read_as_the_server_reads_them() {
        let text = "# ssl = off\nssl = on   # yes\nssl_cert_file='/etc/it''s.crt' # here\n\
                    SSL_Key_File 'key.pem'\n  port=5433\nbroken\nssl_ca_file = ''\n";
        let read: Vec<_> = parse(text).collect();
        let expected = [
            ("ssl", "on"),
            ("ssl_cert_file", "/etc/it's.crt"),
            ("ssl_key_file", "key.pem"),
            ("port", "5433"),
            ("ssl_ca_file", ""),
        ];
        let expected: Vec<_> = expected
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        assert_eq!(read, expected);
    }

    #[test]
    fn what_a_server_was_started_with_counts_too() {
        let line = b"/usr/bin/postgres\0-D\0/data\0-c\0config_file=/etc/pg.conf\0-cssl=on\0--hba-file=/x\0\
            -p\0port=1\0";
        let read: Vec<_> = given(line).collect();
        let expected = [("config_file", "/etc/pg.conf"), ("ssl", "on"), ("hba_file", "/x")];
        let expected: Vec<_> = expected
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        assert_eq!(read, expected);
    }
}
