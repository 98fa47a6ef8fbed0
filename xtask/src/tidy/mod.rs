//! The rules of ARCHITECTURE.md that the compiler can't check.

mod source;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use dbwarden_tests::place;

/// What a folder (or file) of `agent/src` may name of the others. `pipeline` is the only place that
/// wires stages; what the user types arrives through `cli`.
const MAY_NAME: &[(&str, &[&str])] = &[
    ("event", &[]),
    ("stream", &["event"]),
    ("protocol", &["event"]),
    ("statement", &["event"]),
    // A network is a network.
    ("policy", &["event", "principal", "statement"]),
    ("principal", &["event"]),
    ("pooler", &["event"]),
    // The process that parses, and what is kept of its answers.
    ("analyst", &["event", "confine", "statement"]),
    // A rule that makes no sense is a mistake in the configuration.
    ("config", &["event", "policy", "principal"]),
    ("capture", &["event", "config"]),
    // What a command line holds of statements is redacted where it is read.
    ("identity", &["event", "config", "statement"]),
    ("ledger", &["event", "config"]),
    // Which statements read labelled data, policy knows.
    ("search", &["event", "config", "ledger", "policy"]),
    // Its book is replaced as a whole, as the ledger's own files are.
    ("enforce", &["event", "ledger", "netlink"]),
    ("netlink", &[]),
    // What is asked of people is replaced on disk as a whole, as the ledger's own files are.
    ("approval", &["event", "ledger"]),
    // Likewise.
    ("inheritance", &["event", "ledger"]),
    ("control", &["event", "approval", "config", "enforce", "inheritance"]),
    // Queues, patience and HTTP, of whatever leaves the host.
    ("delivery", &["event"]),
    ("telemetry", &["event", "config", "delivery"]),
    // The names of rules are matched as those of principals are.
    ("webhook", &["event", "config", "delivery", "principal"]),
    // Reads procfs through identity's reader, which pid reuse and hostile paths can't fool.
    ("discovery", &["event", "config", "identity"]),
    ("doctor", &["event", "config", "capture", "enforce"]),
    // Judges by the same code as the observer does; whose connection it is says the pipeline's profile.
    (
        "guard",
        &[
            "event",
            "analyst",
            "approval",
            "config",
            "confine",
            "pipeline",
            "policy",
            "principal",
            "protocol",
            "statement",
        ],
    ),
    ("confine", &[]),
    // Hands the guard what it needs of the host.
    (
        "gate",
        &[
            "event",
            "approval",
            "capture",
            "config",
            "control",
            "discovery",
            "guard",
            "inheritance",
            "netlink",
            "policy",
        ],
    ),
    ("pipeline", ALL),
    ("cli", ALL),
    ("main", ALL),
    ("lib", ALL),
];
const ALL: &[&str] = &["*"];

/// Bytes and times come to these as arguments: that is what lets a fuzzer, a bench and a recorded
/// transcript drive them, and the observer and the guard share them.
const PURE: &[&str] =
    &["event", "stream", "protocol", "principal", "pooler", "statement", "policy"];

/// What a pure stage doesn't know.
const IMPURE: &[&str] = &[
    "tokio",
    "tracing",
    "nix",
    "rustix",
    "libc",
    "procfs",
    "std::env",
    "std::fs",
    "std::net::TcpStream",
    "std::os",
    "std::process",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
];

/// Crates that only one folder of `agent/src` names.
const ONLY_IN: &[(&str, &str)] = &[
    ("aya", "capture"),
    ("aya_log", "capture"),
    ("btf_rs", "capture"),
    ("cedar_policy", "policy"),
    ("datafusion", "search"),
    ("opentelemetry_proto", "telemetry"),
    ("prost_otlp", "telemetry"),
    ("reqwest", "delivery"),
    ("tonic", "telemetry"),
];

/// Names that say nothing about what is inside.
const VAGUE: &[&str] = &["util", "utils", "helper", "helpers", "manager", "misc"];

pub fn run() -> Result<()> {
    let n_files = check()?;
    println!("tidy: {n_files} files keep the rules");
    Ok(())
}

/// Checks every Rust file of the checkout; an error lists all offences.
pub fn check() -> Result<usize> {
    let root = place::workspace();
    let mut files = Vec::new();
    collect(&root, &mut files)?;
    files.sort();
    let mut offences = Vec::new();
    for file in &files {
        let text =
            fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
        let path = file.strip_prefix(&root)?.to_string_lossy().into_owned();
        offences
            .extend(offences_of(&path, &text).into_iter().map(|what| format!("{path}: {what}")));
    }
    if !offences.is_empty() {
        bail!("tidy found {}:\n{}", offences.len(), offences.join("\n"));
    }
    Ok(files.len())
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("listing {}", folder.display()))? {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name());
        let hidden = name.to_string_lossy().starts_with('.');
        // A folder that cargo marks is its output.
        if entry.file_type()?.is_dir() && !hidden && !path.join("CACHEDIR.TAG").exists() {
            if name != "target" {
                collect(&path, files)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

/// What is wrong with one file; `path` is relative to the checkout.
fn offences_of(path: &str, text: &str) -> Vec<String> {
    let mut offences = Vec::new();
    offences.extend(opening_offence(text));
    for part in path.trim_end_matches(".rs").split('/') {
        if part.split(['_', '-']).any(|word| VAGUE.contains(&word)) {
            offences.push(format!("`{part}` says nothing: name the file after what is inside"));
        }
    }
    let code = source::code(text);
    if code.contains("#[ignore") {
        offences.push("an ignored test proves nothing: make it run, or delete it".to_owned());
    }
    if let Some(inside) = path.strip_prefix("agent/src/") {
        let stage = inside.split(['/', '.']).next().unwrap_or_default();
        if !is_test_file(inside) {
            offences.extend(import_offences(stage, source::without_tests(&code)));
        }
    }
    offences.dedup();
    offences
}

/// Each file opens with one `//!` sentence; more may follow as paragraphs of their own.
fn opening_offence(text: &str) -> Option<String> {
    let paragraph: Vec<&str> = text
        .lines()
        .map_while(|line| line.strip_prefix("//! "))
        .take_while(|line| !line.trim().is_empty())
        .collect();
    let sentence = paragraph.join(" ");
    if sentence.is_empty() {
        return Some("opens without a `//!` sentence that says what lives here".to_owned());
    }
    if !sentence.ends_with(['.', '?']) || sentence.contains(". ") {
        return Some("the first `//!` paragraph is not one whole sentence".to_owned());
    }
    None
}

fn is_test_file(inside: &str) -> bool {
    inside.ends_with("/tests.rs") || inside.contains("/tests/")
}

fn import_offences(stage: &str, code: &str) -> Vec<String> {
    let mut offences = Vec::new();
    let Some((_, may_name)) = MAY_NAME.iter().find(|(name, _)| *name == stage) else {
        return vec![format!("`{stage}` is not in the table of stages (xtask/src/tidy/mod.rs)")];
    };
    for path in source::paths(code) {
        let neighbour = path.strip_prefix("crate::").or_else(|| path.strip_prefix("dbwarden::"));
        let neighbour = neighbour.and_then(|rest| rest.split("::").next());
        if let Some(neighbour) = neighbour
            && neighbour != stage
            && MAY_NAME.iter().any(|(name, _)| *name == neighbour)
            && *may_name != ALL
            && !may_name.contains(&neighbour)
        {
            offences
                .push(format!("`{path}`: {stage} doesn't know {neighbour}; pipeline wires them"));
        }
        if PURE.contains(&stage)
            && let Some(impure) = IMPURE.iter().find(|impure| begins_with(&path, impure))
        {
            offences.push(format!(
                "`{path}`: {stage} is pure and has no `{impure}`; take it as an argument"
            ));
        }
        for (name, home) in ONLY_IN {
            if begins_with(&path, name) && stage != *home {
                offences.push(format!("`{path}`: only {home} names {name}"));
            }
        }
    }
    offences
}

/// Whether `path` is `prefix` or something inside of it.
fn begins_with(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

#[cfg(test)]
mod tests {
    use super::{check, offences_of};

    #[test]
    fn this_checkout_is_tidy() {
        check().unwrap();
    }

    #[test]
    fn each_rule_finds_its_offence_and_nothing_else() {
        let cases = [
            // path, text, a part of the only offence
            ("agent/src/stream/order.rs", "use crate::event::{Chunk, Piece};", None),
            ("agent/src/stream/order.rs", "use crate::{event, stream::gap};", None),
            ("agent/src/stream/order.rs", "use crate::identity::Process;", Some("know identity")),
            (
                "agent/src/stream/a.rs",
                "use crate::{event::X, capture::{Ring}};",
                Some("know capture"),
            ),
            ("agent/src/identity/a.rs", "fn f() { crate::capture::go() }", Some("know capture")),
            ("agent/src/pipeline.rs", "use crate::{capture, stream};", None),
            ("agent/src/protocol/a.rs", "use std::{fmt, fs::File};", Some("`std::fs`")),
            ("agent/src/protocol/a.rs", "use std::time::Duration;", None),
            ("agent/src/protocol/a.rs", "use std::{time::{Duration, Instant}};", Some("Instant")),
            ("agent/src/protocol/a.rs", "fn f() { std::time::SystemTime::now(); }", Some("System")),
            ("agent/src/event/a.rs", "tracing::info!(\"x\");", Some("`tracing`")),
            ("agent/src/event/a.rs", "// tracing::info!\nconst A: &str = \"tokio::spawn\";", None),
            ("agent/src/event/a.rs", "#[cfg(test)]\nmod tests { use std::fs; }", None),
            ("agent/src/protocol/tests.rs", "use std::fs;", None),
            ("agent/src/capture/load.rs", "use aya::Ebpf;", None),
            ("agent/src/identity/a.rs", "use aya::Ebpf;", Some("only capture names aya")),
            ("agent/src/identity/a.rs", "let aya_like = 1;", None),
            ("agent/src/surprise/a.rs", "", Some("not in the table")),
            ("agent/src/identity/path_utils.rs", "", Some("path_utils")),
            ("tests/tests/a.rs", "#[ignore = \"slow\"]", Some("ignored")),
            ("tests/tests/a.rs", "let text = \"#[ignore]\";", None),
        ];
        for (path, body, expected) in cases {
            let offences = offences_of(path, &format!("//! Says what lives here.\n\n{body}\n"));
            match (expected, offences.as_slice()) {
                (None, []) => {}
                (Some(part), [one]) if one.contains(part) => {}
                _ => panic!("{path}: {body}\n  expected {expected:?}, got {offences:?}"),
            }
        }
    }

    #[test]
    fn a_file_opens_with_one_sentence() {
        let cases = [
            ("//! One sentence.\n", true),
            ("//! One sentence\n//! over two lines.\n\nuse x;", true),
            ("//! One sentence.\n//!\n//! And more. In a paragraph of its own.\n", true),
            ("//! Two sentences. Here.\n", false),
            ("//! Is a question fine?\n", true),
            ("//! No full stop\n", false),
            ("use x;\n//! Too late.\n", false),
            ("", false),
        ];
        for (text, fine) in cases {
            assert_eq!(offences_of("tests/a.rs", text).is_empty(), fine, "{text:?}");
        }
    }
}
