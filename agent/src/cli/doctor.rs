//! `dbwarden doctor`: what capture needs on this host, with or without a running service.

use std::io::{self, Write};

use anyhow::Result;
use unicode_width::UnicodeWidthStr;

use super::{
    Answer, Common, Format, block_on,
    terminal::{self, Paint, Style, clean, left},
};
use crate::capture;
use crate::control::{Client, GuardStatus, GuardedServer};
use crate::doctor::{self, About, Check, Host, Verdict};

pub fn doctor(common: &Common) -> Result<Answer> {
    common.no_csv()?;
    let host = Host::of_this_machine(capture::object_bytes());
    let trial = capture::trial(doctor::return_probe_danger().is_none());
    let mut checks = doctor::verdicts(&host, &trial);
    // Whether a service runs is not the question here.
    let status = block_on(async { Ok(Client::new(&common.control).status().await?) });
    let guard = status.ok().and_then(|status| status.capture.guard);
    let at = checks.iter().take_while(|check| check.about == About::Host).count();
    checks.splice(at..at, guard.iter().flat_map(guarded));
    let mut out = io::stdout().lock();
    match common.format() {
        Format::Json | Format::Csv => {
            for check in &checks {
                writeln!(out, "{}", serde_json::to_string(check)?)?;
            }
        }
        Format::Table => {
            out.write_all(render(&checks, terminal::width(), Paint::of_stdout()).as_bytes())?;
        }
    }
    let lacking = checks.iter().any(|check| check.verdict == Verdict::Lacking);
    Ok(if lacking { Answer::No } else { Answer::Done })
}

/// What the running service says of the servers that it guards.
fn guarded(guard: &GuardStatus) -> impl Iterator<Item = Check> {
    let name = "guarded server";
    let ways = guard.servers.iter().map(move |server| {
        let of = |words: &str| format!("{}: {words}", server.name);
        let socket = (&server.socket, &server.socket_problem);
        match (&server.problem, &server.network, &server.certificate, socket) {
            (Some(why), ..) => Check::notable(name, of(&format!("not guardable: {why}"))),
            (None, _, _, (Some(at), Some(why))) => {
                Check::notable(name, of(&format!("no guard at {at}: {why}")))
            }
            (None, Some(why), ..) => {
                Check::notable(name, of(&format!("clients from the network go straight: {why}")))
            }
            (None, None, Some(why), _) => {
                Check::notable(name, of(&format!("its certificate of before is shown: {why}")))
            }
            (None, None, None, (Some(at), None)) => {
                Check::fine(name, of(&format!("{}; the guard listens at {at}", server.steering)))
            }
            (None, None, None, _) => Check::fine(name, of(&server.steering)),
        }
    });
    let catalogs = guard.servers.iter().map(catalog);
    ways.chain(catalogs).chain(guard.servers.iter().flat_map(labels))
}

/// Whether a guarded server is asked for what the text of a statement doesn't tell.
fn catalog(server: &GuardedServer) -> Check {
    let name = "guard: catalog";
    let of = |words: &str| format!("{}: {words}", server.name);
    let lost = "the guard doesn't know how many rows an UPDATE or DELETE will touch, which functions stand under \
                PostgreSQL's own names, or what triggers, rules and views do";
    match &server.catalog {
        Some(Ok(words)) => Check::fine(name, of(words)),
        Some(Err(why)) => Check::notable(name, of(why)).costs(lost),
        None => Check::notable(name, of("no `catalog` is configured"))
            .costs(lost)
            .todo("give it a role that may look: `catalog` in its [[server]]"),
    }
}

/// What labels and masks don't fit, as far as the guard has looked at the databases.
fn labels(server: &GuardedServer) -> impl Iterator<Item = Check> {
    server.lacks.iter().map(|lack| {
        Check::notable("guard: labels", format!("{}: {lack}", server.name))
            .costs("whoever wrote it means something else to be hidden")
            .todo("mend the [[label]] or the rule")
    })
}

const PROGRAMS: &str = "The programs in the kernel, tried and taken off again";

fn render(checks: &[Check], width: usize, paint: Paint) -> String {
    let name_width = checks.iter().map(|check| check.name.width()).max().unwrap_or(0);
    let indent = 9 + name_width + 2;
    let room = width.saturating_sub(indent).max(20);
    let mut text = String::new();
    let mut about = About::Host;
    for check in checks {
        if check.about != about {
            about = check.about;
            text += &format!("\n{}\n", paint.paint(Style::Dim, PROGRAMS));
        }
        let (word, style) = match check.verdict {
            Verdict::Fine => ("ok", Style::Good),
            Verdict::Notable => ("note", Style::Warning),
            Verdict::Lacking => ("LACKING", Style::Bad),
            Verdict::Unknown => ("unknown", Style::Warning),
        };
        let mut lines = folded(&clean(&check.found), room).into_iter();
        text += &paint.paint(style, &left(word, 9));
        text += &paint.paint(Style::Bold, &left(check.name, name_width));
        text += &format!("  {}\n", lines.next().unwrap_or_default());
        let more = lines.map(|line| (Style::Plain, line));
        let todo = check.todo.iter().flat_map(|todo| folded(&format!("→ {}", clean(todo)), room));
        let cost = folded(&check.cost, room).into_iter().filter(|line| !line.is_empty());
        for (style, line) in
            more.chain(cost.map(|line| (Style::Dim, line))).chain(todo.map(|line| (style, line)))
        {
            text += &format!("{:indent$}{}\n", "", paint.paint(style, &line));
        }
    }
    let n_lacking = checks.iter().filter(|check| check.verdict == Verdict::Lacking).count();
    let n_unknown = checks.iter().filter(|check| check.verdict == Verdict::Unknown).count();
    let (style, mut words) = match n_lacking {
        0 => (Style::Good, "nothing that capture needs is lacking".to_owned()),
        1 => (Style::Bad, "1 thing that capture needs is lacking".to_owned()),
        n => (Style::Bad, format!("{n} things that capture needs are lacking")),
    };
    if n_unknown > 0 {
        words += &format!(" ({n_unknown} could not be looked at)");
    }
    text += &format!("\n{}\n", paint.paint(style, &words));
    text
}

/// Words in lines of at most `width` columns; a longer word has a line of its own.
fn folded(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let Some(line) = lines.last_mut() else { break };
        if line.is_empty() {
            line.push_str(word);
        } else if line.width() + 1 + word.width() <= width {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::{About, Check, Paint, Verdict, render};

    #[test]
    fn checks_as_people_see_them() {
        let check = |name, verdict, found: &str, cost: &str, todo: Option<&str>| Check {
            about: About::Host,
            name,
            verdict,
            found: found.into(),
            cost: cost.into(),
            todo: todo.map(str::to_owned),
        };
        let checks = [
            check("kernel", Verdict::Fine, "6.18.1", "", None),
            check(
                "tracefs",
                Verdict::Lacking,
                "not mounted",
                "process events need it",
                Some("mount -t tracefs tracefs /sys/kernel/tracing"),
            ),
            check("lockdown", Verdict::Unknown, "not readable", "", None),
            check("ssl_call", Verdict::Fine, "TLS: accepted", "", None).of_programs(),
        ];
        let expected = "\
ok       kernel    6.18.1
LACKING  tracefs   not mounted
                   process events need it
                   → mount -t tracefs tracefs
                   /sys/kernel/tracing
unknown  lockdown  not readable

The programs in the kernel, tried and taken off again
ok       ssl_call  TLS: accepted

1 thing that capture needs is lacking (1 could not be looked at)
";
        assert_eq!(render(&checks, 50, Paint { colour: false }), expected);
    }
}
