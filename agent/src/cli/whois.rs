//! `dbwarden whois`: who a process, an address or a connection is, by which rule, on which evidence.

use std::io::{self, Write};

use anyhow::Result;
use clap::Args;
use serde::Deserialize;
use serde_json::Value;

use super::{
    Answer, Common, Format, Usage, block_on,
    terminal::{Paint, Style, clean, counted, left},
};
use crate::control::{Client, Question};

#[derive(Debug, Args)]
pub struct Whois {
    /// A pid, an address (10.0.0.7, 10.0.0.7:41234) or the id of a connection
    #[arg(value_name = "PID|ADDRESS|CONNECTION")]
    who: String,
}

pub fn whois(common: &Common, arguments: &Whois) -> Result<Answer> {
    common.no_csv()?;
    arguments.who.parse::<Question>().map_err(Usage)?;
    let whois = block_on(async { Ok(Client::new(&common.control).whois(&arguments.who).await?) })?;
    let found = whois.get("found").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let more = whois.get("more").and_then(Value::as_u64).unwrap_or(0);
    let mut out = io::stdout().lock();
    for (at, one) in found.iter().enumerate() {
        match common.format() {
            Format::Json | Format::Csv => writeln!(out, "{one}")?,
            Format::Table => {
                let gap = if at > 0 { "\n" } else { "" };
                let found = Found::deserialize(one)?;
                write!(out, "{gap}{}", found.render(Paint::of_stdout()))?;
            }
        }
    }
    if more > 0 {
        eprintln!("… and {} more: name one of them by its port or id", counted(more, "connection"));
    }
    if found.is_empty() {
        eprintln!("dbwarden: no process and no open connection is {}", clean(&arguments.who));
        return Ok(Answer::No);
    }
    Ok(Answer::Done)
}

/// One who was found, by the names of the answer.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Found {
    principal: Option<String>,
    principal_kind: Option<String>,
    principal_rule: Option<String>,
    groups: Vec<String>,
    evidence: Vec<Evidence>,
    launched_by: Option<Launcher>,

    connection: Option<String>,
    server: Option<String>,
    database: Option<String>,
    db_user: Option<String>,
    application: Option<String>,
    client_address: Option<String>,
    client_port: Option<u16>,

    pid: Option<u32>,
    exe: Option<String>,
    command: Option<String>,
    uid: Option<u32>,
    os_user: Option<String>,
    tty: Option<String>,
    parents: Vec<Parent>,
    cgroup: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Evidence {
    fact: String,
    value: String,
    strength: String,
}

#[derive(Debug, Deserialize)]
struct Launcher {
    name: String,
    kind: String,
    rule: String,
    evidence: Vec<Evidence>,
}

#[derive(Debug, Deserialize)]
struct Parent {
    pid: u32,
    comm: String,
}

/// Of what stands before a fact.
const LABEL: usize = 11;
/// Of a piece of evidence before its value.
const FACT: usize = 14;

impl Found {
    fn render(&self, paint: Paint) -> String {
        let mut page = Page { text: String::new(), paint };
        let unknown = || "?".to_owned();
        let name = self.principal.clone().unwrap_or_else(unknown);
        let kind = self.principal_kind.clone().unwrap_or_else(unknown);
        let rule = self.principal_rule.clone().unwrap_or_else(unknown);
        page.line("principal", Style::Bold, &format!("{name} ({kind}), by rule {rule}"));
        if !self.groups.is_empty() {
            page.line("groups", Style::Plain, &self.groups.join(", "));
        }
        page.evidence(&self.evidence);
        if let Some(Launcher { name, kind, rule, evidence }) = &self.launched_by {
            page.line("launched by", Style::Bold, &format!("{name} ({kind}), by rule {rule}"));
            page.evidence(evidence);
        }
        if let Some(pid) = self.pid {
            let exe = self.exe.as_deref().unwrap_or("?");
            let user = match (&self.os_user, self.uid) {
                (Some(name), _) => format!(" of {name}"),
                (None, Some(uid)) => format!(" of uid {uid}"),
                (None, None) => String::new(),
            };
            let tty = self.tty.as_ref().map(|tty| format!(" on {tty}")).unwrap_or_default();
            page.line("process", Style::Plain, &format!("{pid} {exe}{user}{tty}"));
            page.line("command", Style::Plain, self.command.as_deref().unwrap_or("?"));
            let parents = self.parents.iter().map(|Parent { pid, comm }| format!("{comm} {pid}"));
            page.line("parents", Style::Plain, &parents.collect::<Vec<_>>().join(" ← "));
            page.line("cgroup", Style::Plain, self.cgroup.as_deref().unwrap_or("?"));
        }
        if let Some(connection) = &self.connection {
            let part = |part: &Option<String>| part.clone().unwrap_or_else(unknown);
            let from = match (&self.client_address, self.client_port) {
                (Some(address), Some(port)) => format!(" from {address} port {port}"),
                (Some(address), None) => format!(" from {address}"),
                (None, _) => String::new(),
            };
            let place = format!("{}@{}", part(&self.db_user), part(&self.database));
            let words = format!("{connection} to {} as {place}{from}", part(&self.server));
            page.line("connection", Style::Plain, &words);
            if let Some(application) = &self.application {
                page.line("claims", Style::Dim, &format!("application {application}"));
            }
        }
        page.text
    }
}

struct Page {
    text: String,
    paint: Paint,
}

impl Page {
    fn line(&mut self, label: &str, style: Style, words: &str) {
        let label = self.paint.paint(Style::Dim, &left(label, LABEL));
        self.text += &format!("{label}  {}\n", self.paint.paint(style, &clean(words)));
    }

    fn evidence(&mut self, evidence: &[Evidence]) {
        for Evidence { fact, value, strength } in evidence {
            let style = match strength.as_str() {
                "strong" => Style::Good,
                "weak" => Style::Warning,
                _ => Style::Dim,
            };
            let strength = self.paint.paint(style, &left(&clean(strength), 6));
            let fact = left(&clean(fact), FACT);
            self.text += &format!("{:LABEL$}  {strength}  {fact}  {}\n", "", clean(value));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::Found;
    use crate::cli::terminal::Paint;

    #[test]
    fn a_principal_as_people_see_it() {
        let found = json!({
            "principal": "claude-code", "principal_kind": "ai",
            "principal_rule": "builtin:claude-code", "initiator": "ana",
            "evidence": [{"fact": "program", "value": "/usr/bin/claude (pid 90)", "strength": "weak"}],
            "launched_by": {
                "name": "ana", "kind": "human", "rule": "builtin:login-session", "groups": [],
                "evidence": [{"fact": "login_user", "value": "ana", "strength": "strong"}],
                "initiator": null,
            },
            "connection": "67ab000000000001", "server": "main", "db_user": "shop",
            "client_address": "127.0.0.1", "client_port": 4711, "application": "psql\u{1b}[2J",
            "pid": 100, "exe": "/usr/bin/psql", "command": "psql shop", "os_user": "ana",
            "parents": [{"pid": 90, "comm": "claude"}, {"pid": 1, "comm": "init"}],
            "cgroup": "/user.slice/user-1000.slice/session-3.scope",
        });
        let shown = Found::deserialize(&found).unwrap().render(Paint { colour: false });
        let expected = "\
principal    claude-code (ai), by rule builtin:claude-code
             weak    program         /usr/bin/claude (pid 90)
launched by  ana (human), by rule builtin:login-session
             strong  login_user      ana
process      100 /usr/bin/psql of ana
command      psql shop
parents      claude 90 ← init 1
cgroup       /user.slice/user-1000.slice/session-3.scope
connection   67ab000000000001 to main as shop@? from 127.0.0.1 port 4711
claims       application psql\u{fffd}[2J
";
        assert_eq!(shown, expected);
    }
}
