//! One line of the watch stream as one line of a terminal.

use serde::Deserialize;
use unicode_width::UnicodeWidthStr;

use crate::{
    cli::{
        clock,
        terminal::{Paint, Style, bytes, clean, counted, duration, fit, left, right},
    },
    search::Zone,
};

/// What the view shows of a line of `/v1/watch`, or of a row of the ledger; the names are the record's.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::cli) struct Line {
    missed: Option<u64>,
    notice: Option<String>,
    message: Option<String>,

    time: Option<String>,
    duration_us: Option<u64>,
    server: Option<String>,
    database: Option<String>,
    db_user: Option<String>,
    client_address: Option<String>,
    client_port: Option<u16>,
    principal: Option<String>,
    principal_kind: Option<String>,
    principal_rule: Option<String>,
    initiator: Option<String>,
    pid: Option<u32>,
    exe: Option<String>,
    command: Option<String>,
    uid: Option<u32>,
    os_user: Option<String>,
    login_user: Option<String>,
    login_strength: Option<String>,
    unit: Option<String>,
    container: Option<String>,
    pooler: Option<String>,
    client_certainty: Option<String>,
    text: Option<String>,
    text_known: Option<bool>,
    parameters: Option<Vec<Option<String>>>,
    rows: Option<u64>,
    error_code: Option<String>,
    error_message: Option<String>,
    transaction: Option<String>,
    truncated_bytes: Option<u64>,
    lost_bytes: Option<u64>,
    rule: Option<String>,
    masked: Option<Vec<String>>,
}

/// From these on a duration stands out.
const SLOW_US: u64 = 100_000;
const VERY_SLOW_US: u64 = 1_000_000;
/// Below this many columns only time, who, duration and statement are shown.
const NARROW: usize = 90;
const TIME: usize = 12;
const ROWS: usize = 9;
const DURATION: usize = 8;

/// How lines are shown, apart from what they say.
pub(in crate::cli) struct View {
    paint: Paint,
    zone: Zone,
}

impl View {
    pub(in crate::cli) fn of_stdout(zone: Zone) -> Self {
        Self { paint: Paint::of_stdout(), zone }
    }

    /// Stands between lines, about those that follow.
    pub(in crate::cli) fn headline(&self, words: &str, width: usize) -> String {
        self.paint.paint(Style::Dim, &fit(&format!("── {} ──", clean(words)), width))
    }

    /// At most `width` columns, nothing that a terminal would obey except our own colours.
    pub(in crate::cli) fn show(&self, line: &Line, width: usize) -> String {
        match (line.missed, &line.notice) {
            (Some(missed), _) => self.interruption(
                line,
                &format!("{} not shown: read too slowly", counted(missed, "line")),
                width,
            ),
            (None, Some(notice)) => {
                let message = line.message.as_deref().unwrap_or(notice);
                let server = line.server.as_deref().map(|server| format!("{server}: "));
                self.interruption(line, &(server.unwrap_or_default() + message), width)
            }
            (None, None) => self.statement(line, width),
        }
    }

    fn interruption(&self, line: &Line, words: &str, width: usize) -> String {
        let time = line.time.as_deref().map(|time| self.clock(time) + "  ").unwrap_or_default();
        let words = format!("{time}── {} ──", clean(words));
        self.paint.paint(Style::Warning, &fit(&words, width))
    }

    fn statement(&self, line: &Line, width: usize) -> String {
        let mut cells = vec![
            (Style::Dim, left(&self.clock(line.time.as_deref().unwrap_or_default()), TIME)),
            (Style::Bold, left(&who(line), (width / 5).clamp(12, 32))),
        ];
        if width >= NARROW {
            cells.push((Style::Plain, left(&session(line), (width / 8).clamp(11, 24))));
            let rows = line.rows.map(|rows| counted(rows, "row"));
            cells.push((Style::Dim, right(&rows.unwrap_or_default(), ROWS)));
        }
        let took = line.duration_us.map(duration).unwrap_or_default();
        let style = match line.duration_us {
            Some(VERY_SLOW_US..) => Style::Bad,
            Some(SLOW_US..) => Style::Warning,
            _ => Style::Plain,
        };
        cells.push((style, right(&took, DURATION)));
        cells.push(match line.transaction.as_deref() {
            Some("failed") => (Style::Bad, "!".into()),
            Some("in_transaction") => (Style::Dim, "┆".into()),
            _ => (Style::Plain, " ".into()),
        });
        let gap = |cell| [cell, (Style::Plain, "  ".to_owned())];
        let mut parts: Vec<_> = cells.into_iter().flat_map(gap).collect();
        // One space after the transaction's mark is enough.
        if let Some((_, last)) = parts.last_mut() {
            last.pop();
        }
        parts.extend(what(line));
        self.fitted(&parts, width)
    }

    /// One after the other, until the line is full.
    fn fitted(&self, parts: &[(Style, String)], width: usize) -> String {
        let mut room = width;
        let mut shown = String::new();
        for (style, text) in parts {
            let part = fit(text, room);
            shown += &self.paint.paint(*style, &part);
            if part != *text {
                break;
            }
            room = room.saturating_sub(part.width());
        }
        shown
    }

    fn clock(&self, time: &str) -> String {
        clock::parse(time).map_or_else(|| "?".into(), |time| clock::millisecond(time, self.zone))
    }
}

/// The best name for the sender: `alice→postgres psql`, `www-data shop/php-fpm`, `10.0.0.7:41234`; of an
/// AI who launched it, too: `ai alice→claude-code psql`.
fn who(line: &Line) -> String {
    if let Some(principal) = &line.principal {
        // What dbwarden itself calls people and services says less than what follows below.
        let is_configured =
            line.principal_rule.as_ref().is_some_and(|rule| !rule.starts_with("builtin:"));
        let program = program(line);
        if line.principal_kind.as_deref() == Some("ai") {
            let initiator = line.initiator.as_ref().map(|name| format!("{name}→"));
            return clean(&format!("ai {}{principal} {program}", initiator.unwrap_or_default()));
        }
        if is_configured {
            return clean(&format!("{principal} {program}"));
        }
    }
    if let (Some("shared"), Some(principal)) = (line.client_certainty.as_deref(), &line.principal) {
        return clean(&format!("one of {principal}"));
    }
    if line.pid.is_none() {
        return match (&line.client_address, line.client_port) {
            (Some(address), Some(port)) => clean(&format!("{address}:{port}")),
            (Some(address), None) => clean(address),
            _ => "a local process, gone".into(),
        };
    }
    let user = match (&line.os_user, line.uid) {
        (Some(name), _) => name.clone(),
        (None, Some(uid)) => format!("uid {uid}"),
        (None, None) => "?".into(),
    };
    // Who logged in stands before whom they became; a login that proves little gets a question mark.
    let login = line.login_user.as_ref().filter(|login| **login != user).map(|login| {
        match line.login_strength.as_deref() {
            Some("strong") => format!("{login}→"),
            _ => format!("{login}?→"),
        }
    });
    let program = program(line);
    let home = match (&line.container, &line.unit) {
        (Some(container), _) => container.chars().take(12).collect(),
        (None, Some(unit)) => unit.strip_suffix(".service").unwrap_or_default().to_owned(),
        (None, None) => String::new(),
    };
    // `php8.2-fpm` runs `php-fpm8.2`: once is enough.
    let letters = |name: &str| name.replace(|c: char| !c.is_alphabetic(), "");
    let place = if home.is_empty() {
        program
    } else if letters(&home) == letters(&program) {
        home
    } else {
        format!("{home}/{program}")
    };
    clean(&format!("{}{user} {place}", login.unwrap_or_default()))
}

/// The executable's name; for an interpreter, with the script that it runs.
fn program(line: &Line) -> String {
    let base = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
    let exe = line.exe.as_deref().map(base).unwrap_or_default();
    const INTERPRETERS: [&str; 9] =
        ["bash", "dash", "java", "node", "perl", "php", "python", "ruby", "sh"];
    let name = exe.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
    let interprets = INTERPRETERS.contains(&name);
    let script = line
        .command
        .as_deref()
        .filter(|_| interprets)
        .and_then(|command| command.split(' ').skip(1).find(|word| !word.starts_with('-')));
    match script {
        Some(script) => format!("{name} {}", base(script)),
        None => exe,
    }
}

fn session(line: &Line) -> String {
    let part = |part: &Option<String>| part.clone().unwrap_or_else(|| "?".into());
    clean(&format!("{}@{}", part(&line.db_user), part(&line.database)))
}

/// The error, the text, its parameters and what is missing of it.
fn what(line: &Line) -> Vec<(Style, String)> {
    let mut parts = Vec::new();
    if let Some(lost) = line.lost_bytes.filter(|&lost| lost > 0) {
        parts.push((Style::Warning, format!("[{} lost] ", bytes(lost))));
    }
    if let Some(rule) = &line.rule {
        parts.push((Style::Warning, format!("⚑ {} ", clean(rule))));
    }
    if line.client_certainty.as_deref() == Some("unknown") {
        parts.push((Style::Warning, "[client unknown] ".into()));
    }
    if let Some(code) = &line.error_code {
        let message = line.error_message.as_deref().unwrap_or_default();
        parts.push((Style::Bad, clean(&format!("{code} {message}"))));
        parts.push((Style::Dim, " ← ".into()));
    }
    match &line.text {
        Some(text) => parts.push((Style::Plain, clean(text))),
        None if line.text_known == Some(false) => {
            parts.push((Style::Dim, "(text unknown: prepared before dbwarden watched)".into()));
        }
        None => parts.push((Style::Dim, "(no text)".into())),
    }
    if let Some(truncated) = line.truncated_bytes.filter(|&truncated| truncated > 0) {
        let missing = format!(" [{} more not captured]", bytes(truncated));
        parts.push((Style::Warning, missing));
    }
    if let Some(parameters) = line.parameters.as_deref().filter(|values| !values.is_empty()) {
        let values: Vec<String> = parameters
            .iter()
            .map(|value| value.as_deref().map_or_else(|| "null".into(), clean))
            .collect();
        parts.push((Style::Dim, format!("  ({})", values.join(", "))));
    }
    if let Some(masked) = line.masked.as_deref().filter(|columns| !columns.is_empty()) {
        parts.push((Style::Warning, format!("  masked {}", clean(&masked.join(", ")))));
    }
    if let Some(pooler) = &line.pooler {
        parts.push((Style::Dim, format!("  via {}", clean(pooler))));
    }
    parts
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use time::UtcOffset;
    use unicode_width::UnicodeWidthStr;

    use super::{Line, View};
    use crate::cli::terminal::Paint;

    fn view(colour: bool) -> View {
        View { paint: Paint { colour }, zone: |_| UtcOffset::UTC }
    }

    /// `psql` of alice with `changes` over it.
    fn line(changes: serde_json::Value) -> Line {
        let mut line = json!({
            "time": "2026-11-23T03:04:05.123456Z", "duration_us": 1_240, "server": "main",
            "database": "orders", "db_user": "shop", "pid": 100, "exe": "/usr/bin/psql",
            "command": "psql orders", "uid": 1000, "os_user": "alice", "unit": "session-3.scope",
            "text": "select *\n  from items", "text_known": true, "rows": 12,
        });
        line.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        serde_json::from_value(line).unwrap()
    }

    #[test]
    fn lines_as_people_see_them() {
        for (changes, expected) in [
            (
                json!({}),
                "03:04:05.123  alice psql             shop@orders      12 rows   1.24 ms    select * from items",
            ),
            (
                json!({"login_user": "bob", "login_strength": "strong", "os_user": "postgres"}),
                "03:04:05.123  bob→postgres psql      shop@orders      12 rows   1.24 ms    select * from items",
            ),
            (
                json!({"login_user": "bob", "login_strength": "weak"}),
                "03:04:05.123  bob?→alice psql        shop@orders      12 rows   1.24 ms    select * from items",
            ),
            (
                json!({"os_user": "www-data", "unit": "shop.service", "exe": "/usr/sbin/php-fpm8.2", "rows": 1}),
                "03:04:05.123  www-data shop/php-fp…  shop@orders        1 row   1.24 ms    select * from items",
            ),
            (
                json!({"unit": "php8.2-fpm.service", "exe": "/usr/sbin/php-fpm8.2"}),
                "03:04:05.123  alice php8.2-fpm       shop@orders      12 rows   1.24 ms    select * from items",
            ),
            (
                json!({"exe": "/usr/bin/python3.11", "command": "python3 -u /srv/report.py --all"}),
                "03:04:05.123  alice python report.…  shop@orders      12 rows   1.24 ms    select * from items",
            ),
            (
                json!({"os_user": null, "container": "0123456789abcdef0123", "exe": "/app/api"}),
                "03:04:05.123  uid 1000 0123456789a…  shop@orders      12 rows   1.24 ms    select * from items",
            ),
            (
                json!({"pooler": "pgbouncer-6432", "client_certainty": "exact"}),
                "03:04:05.123  alice psql             shop@orders      12 rows   1.24 ms    select * from items  via pgbo…",
            ),
            (
                json!({"pooler": "b", "client_certainty": "unknown", "exe": "/usr/sbin/pgbouncer"}),
                "03:04:05.123  alice pgbouncer        shop@orders      12 rows   1.24 ms    [client unknown] select * fro…",
            ),
            (
                json!({"pooler": "b", "client_certainty": "shared", "pid": null, "principal": "shop"}),
                "03:04:05.123  one of shop            shop@orders      12 rows   1.24 ms    select * from items  via b",
            ),
            (
                json!({"pid": null, "client_address": "10.0.0.7", "client_port": 41234, "transaction": "in_transaction"}),
                "03:04:05.123  10.0.0.7:41234         shop@orders      12 rows   1.24 ms  ┆ select * from items",
            ),
            (
                json!({"pid": null, "rows": null, "duration_us": null, "database": null, "text": null, "text_known": false}),
                "03:04:05.123  a local process, gone  shop@?                                (text unknown: prepared befor…",
            ),
            (
                json!({"error_code": "42P01", "error_message": "no table", "rows": null, "transaction": "failed"}),
                "03:04:05.123  alice psql             shop@orders                1.24 ms  ! 42P01 no table ← select * fro…",
            ),
            (
                json!({"parameters": ["7", null], "text": "select $1, $2", "lost_bytes": 0}),
                "03:04:05.123  alice psql             shop@orders      12 rows   1.24 ms    select $1, $2  (7, null)",
            ),
            (
                json!({"text": "select 1", "lost_bytes": 2_048, "truncated_bytes": 10}),
                "03:04:05.123  alice psql             shop@orders      12 rows   1.24 ms    [2 KiB lost] select 1 [10 B m…",
            ),
            (
                json!({"principal": "claude-code", "principal_kind": "ai", "initiator": "ana",
                    "principal_rule": "builtin:claude-code"}),
                "03:04:05.123  ai ana→claude-code p…  shop@orders      12 rows   1.24 ms    select * from items",
            ),
            (
                json!({"principal": "backup", "principal_kind": "service", "principal_rule": "nightly"}),
                "03:04:05.123  backup psql            shop@orders      12 rows   1.24 ms    select * from items",
            ),
            (
                json!({"principal": "ana", "principal_kind": "human", "principal_rule": "builtin:login-session"}),
                "03:04:05.123  alice psql             shop@orders      12 rows   1.24 ms    select * from items",
            ),
            (json!({"missed": 412}), "03:04:05.123  ── 412 lines not shown: read too slowly ──"),
            (
                json!({"notice": "lost", "message": "3 records were lost: ring full"}),
                "03:04:05.123  ── main: 3 records were lost: ring full ──",
            ),
        ] {
            let shown = view(false).show(&line(changes.clone()), 105);
            assert_eq!(shown, expected, "{changes}");
            let _ = expected;
        }
    }

    #[test]
    fn colour_stands_where_it_helps() {
        for (changes, expected) in [
            (json!({"duration_us": 150_000}), "\x1b[33m  150 ms\x1b[0m"),
            (json!({"duration_us": 2_000_000}), "\x1b[31m  2.00 s\x1b[0m"),
            (json!({"error_code": "42P01", "error_message": "x"}), "\x1b[31m42P01 x\x1b[0m"),
            (json!({"missed": 1}), "\x1b[33m03:04:05.123  ── 1 line not shown"),
        ] {
            let shown = view(true).show(&line(changes), 120);
            assert!(shown.contains(expected), "{shown:?}");
        }
    }

    /// Whatever a client calls itself or asks, the terminal gets one line that fits and no escape.
    #[test]
    fn hostile_text_is_only_text() {
        for hostile in [
            "\x1b[2J\x1b[1;1H\x1b]0;owned\x07",
            "\u{9b}31m",
            "a\r\nb\u{85}c\u{2028}d",
            "東京".repeat(200).as_str(),
            "\u{202e}gnp.exe",
            "e\u{301}\u{301}\u{301}".repeat(500).as_str(),
        ] {
            let line = line(json!({
                "text": hostile, "db_user": hostile, "database": hostile, "os_user": hostile,
                "exe": hostile, "command": hostile, "login_user": hostile, "unit": hostile,
                "container": hostile, "error_code": hostile, "error_message": hostile,
                "parameters": [hostile], "transaction": hostile,
            }));
            let notice = super::Line {
                notice: Some(hostile.into()),
                time: Some(hostile.into()),
                server: Some(hostile.into()),
                ..Line::default()
            };
            for shown in (0..200).flat_map(|width| {
                [(width, view(false).show(&line, width)), (width, view(false).show(&notice, width))]
            }) {
                let (width, shown) = shown;
                assert!(!shown.chars().any(char::is_control), "{shown:?}");
                assert!(shown.width() <= width, "{width}: {shown:?}");
            }
        }
    }
}
