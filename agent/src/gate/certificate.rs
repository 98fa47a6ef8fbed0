//! The certificate and key that a server answers TLS with, from its own settings.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::{Gate, Target};
use crate::{config::Server, discovery::open_as, guard::wire::Certificate};

/// Of a file that is read: certificates with their chain, a server's settings.
const MAX_BYTES: u64 = 1 << 20;

/// What was read, and how its files looked then.
#[derive(Default)]
pub(super) struct Certificates {
    looks: Vec<Option<Look>>,
}

type Look = [(PathBuf, Option<SystemTime>); 2];

/// Where they are.
struct Place {
    pid: u32,
    certificate: PathBuf,
    key: PathBuf,
}

impl Certificates {
    /// By the servers' places in the settings. What can't be read is told, and is none.
    pub(super) fn read(&mut self, gate: &Gate) -> Vec<Option<Certificate>> {
        self.looks.clear();
        let places = places(gate);
        let mut read = Vec::with_capacity(places.len());
        for place in places {
            self.looks.push(place.as_ref().map(look));
            read.push(place.and_then(|place| match certificate(&place) {
                Ok(certificate) => Some(certificate),
                Err(error) => {
                    let path = place.key.display();
                    tracing::error!(%error, "no TLS to the guard: can't read {path} or its certificate");
                    None
                }
            }));
        }
        read
    }

    pub(super) fn have_changed(&self, gate: &Gate) -> bool {
        let now: Vec<_> = places(gate).iter().map(|place| place.as_ref().map(look)).collect();
        !self.looks.is_empty() && now != self.looks
    }
}

fn places(gate: &Gate) -> Vec<Option<Place>> {
    let targets = gate.state().targets.clone();
    let servers = gate.servers.iter().zip(&targets);
    servers.map(|(server, target)| place(server, target.as_ref().ok()?)).collect()
}

fn place(server: &Server, target: &Target) -> Option<Place> {
    let pid = target.pid;
    if let (Some(certificate), Some(key)) = (&server.tls_certificate, &server.tls_key) {
        // Whoever wrote the configuration means the service's own files.
        let pid = std::process::id();
        return Some(Place { pid, certificate: certificate.clone(), key: key.clone() });
    }
    let data = &target.data_directory;
    let settings = settings(target);
    let is_on =
        |value: &String| matches!(value.to_ascii_lowercase().as_str(), "on" | "true" | "yes" | "1");
    if !settings.get("ssl").is_some_and(is_on) {
        return None;
    }
    let path =
        |name: &str, default: &str| data.join(settings.get(name).map_or(default, String::as_str));
    Some(Place {
        pid,
        certificate: path("ssl_cert_file", "server.crt"),
        key: path("ssl_key_file", "server.key"),
    })
}

/// What its files say, the later over the earlier.
pub(super) fn settings(target: &Target) -> HashMap<String, String> {
    let data = &target.data_directory;
    let main = config_file(target.pid).unwrap_or_else(|| data.join("postgresql.conf"));
    let mut settings = HashMap::new();
    for file in [main, data.join("postgresql.auto.conf")] {
        if let Ok(text) = read(target.pid, &file) {
            settings.extend(parse(&text));
        }
    }
    settings
}

/// As distributions start a server whose settings aren't with its data: `-c config_file=…`.
fn config_file(pid: u32) -> Option<PathBuf> {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let mut words = line.split(|byte| *byte == 0).filter_map(|word| str::from_utf8(word).ok());
    let path = words.find_map(|word| {
        let word = word.strip_prefix("--").or(word.strip_prefix("-c")).unwrap_or(word);
        word.strip_prefix("config_file=").or(word.strip_prefix("config-file="))
    });
    path.map(PathBuf::from)
}

fn look(place: &Place) -> Look {
    let changed =
        |path: &Path| open_as(place.pid, path).and_then(|f| f.metadata()?.modified()).ok();
    [&place.certificate, &place.key].map(|path| (path.clone(), changed(path)))
}

fn certificate(place: &Place) -> io::Result<Certificate> {
    let (chain, key) = (read(place.pid, &place.certificate)?, read(place.pid, &place.key)?);
    Ok(Certificate { chain, key })
}

pub(super) fn read(pid: u32, path: &Path) -> io::Result<String> {
    let file: File = open_as(pid, path)?;
    let mut text = String::new();
    file.take(MAX_BYTES).read_to_string(&mut text)?;
    Ok(text)
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
    use super::parse;

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
}
