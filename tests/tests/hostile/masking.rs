//! The corpus of masking: each way to a hidden value leads to it directly, and through the guard to another, or nowhere.

use anyhow::{Context, Result, ensure};
use dbwarden_tests::{Guarded, await_until, need_root};
use serde_json::Value;

use super::{
    cases::{Becomes, Case},
    client::Answer,
    run::{Bench, Endpoint},
    server,
};

/// One of them is in each hidden value, and in nothing else …
const WORDS: [&[u8]; 6] = [
    b"Kd7", b"Zq4", b"Xv9", // … likewise in hexadecimal digits.
    b"4b6437", b"5a7134", b"587639",
];

/// What is hidden of the corpus.
const LABELS: &str = r#"
[[label]]
name = "pii"
on = ["*.public.customers.ssn", "*.public.customers.card"]
[[label]]
name = "mail"
on = ["*.public.customers.email", "*.public.visits.email"]
"#;

const RULES: &str = r#"
@id("hide-pii") @verdict("mask") @mask("hash") @message("numbers of people are not for you")
forbid (principal, action, resource) when { resource has labels && resource.labels.contains("pii") };
@id("hide-mail") @verdict("mask") @mask("email") @message("addresses of people are not for you")
forbid (principal, action, resource) when { resource has labels && resource.labels.contains("mail") };
"#;

struct Masking(Guarded);

impl Masking {
    /// What is on record of a text in which something was masked.
    fn row_of(&self, text: &str) -> Result<Value> {
        await_until("what was masked", || {
            let rows = self.0.agent.rows(&format!(
                "SELECT text, masked, verdict, rule FROM statements WHERE masked IS NOT NULL AND \
                 text = '{text}' LIMIT 1",
            ))?;
            Ok(rows.into_iter().next())
        })
    }

    fn start() -> Result<Self> {
        Self::start_by(RULES)
    }

    /// What flows is NULL.
    fn start_nulling() -> Result<Self> {
        Self::start_by(&RULES.replace(" @message", " @flow(\"null\") @message"))
    }

    fn start_by(rules: &str) -> Result<Self> {
        Ok(Self(Guarded::start_asking(server(), "", rules, LABELS, "")?))
    }

    fn direct(&self) -> Endpoint {
        Endpoint::new("127.0.0.1", self.0.postgres.port())
    }

    fn guard(&self) -> Result<Endpoint> {
        let port = self.0.postgres.guard_port().context("it has no port for a guard")?;
        Ok(Endpoint::new("127.0.0.1", port))
    }

    fn bench(&self) -> Result<Bench> {
        Bench::with(&self.direct(), &self.guard()?, "masking/base", "app")
    }
}

fn tells(answers: &[Answer]) -> bool {
    let has = |heard: &[u8], word: &[u8]| {
        heard.windows(word.len()).any(|window| window.eq_ignore_ascii_case(word))
    };
    answers.iter().any(|answer| WORDS.iter().any(|word| has(&answer.heard, word)))
}

/// What the answers are, for whoever reads of a case that went wrong.
fn shown(answers: &[Answer]) -> String {
    let of_one = |answer: &Answer| match &answer.failure {
        Some(failure) => failure.to_string(),
        None => format!("{:?}", answer.rows.iter().take(2).collect::<Vec<_>>()),
    };
    answers.iter().map(of_one).collect::<Vec<_>>().join("; ")
}

/// What is wrong with the answers that came through the guard.
fn wrong(case: &Case, directly: &[Answer], answers: &[Answer]) -> Option<String> {
    let code = |answer: &Answer| answer.failure.as_ref().map(|failure| failure.code.clone());
    let is_denied = |answer: &Answer| code(answer).is_some_and(|code| code == "42501");
    let last = answers.last()?;
    let is_first = case.first.and_then(|first| answers.get(first)).is_some_and(is_denied);
    match case.becomes? {
        _ if tells(answers) => Some("tells a hidden value".to_owned()),
        Becomes::Denied if !is_denied(last) && !is_first => Some("is not denied".to_owned()),
        // The guard may not have seen yet what the case has just made.
        Becomes::Masked if case.needs.iter().any(|it| it == "server") && is_denied(last) => None,
        Becomes::Masked if code(last) != code(directly.last()?) => Some("does not pass".to_owned()),
        _ => None,
    }
}

#[test]
fn masking_leaves_no_way_to_a_hidden_value() -> Result<()> {
    need_root!();
    let masking = Masking::start()?;
    let mut bench = masking.bench()?;
    let cases = Case::load("masking/escapes")?;
    ensure!(cases.len() >= 60, "only {} cases", cases.len());
    let (direct, guard) = (masking.direct(), masking.guard()?);
    let mut broken = Vec::new();
    for case in &cases {
        let directly = bench.answers(case, &direct)?;
        if case.leaks && !tells(&directly) {
            broken.push(format!("{} tells nothing directly: {}", case.id, shown(&directly)));
        }
        let answers = bench.answers(case, &guard)?;
        if let Some(what) = wrong(case, &directly, &answers) {
            broken.push(format!("{} {what}: {}", case.id, shown(&answers)));
        }
    }
    ensure!(broken.is_empty(), "{} cases:\n{}", broken.len(), broken.join("\n"));

    // Who saw what masked is on record.
    let masked = masking.row_of("SELECT ssn FROM customers")?;
    ensure!(masked["masked"][0] == "public.customers.ssn:hash", "{masked}");
    ensure!(masked["verdict"] == "mask" && masked["rule"] == "hide-pii", "{masked}");
    Ok(())
}

/// Each way that is closed by refusing it leads to NULLs, where the rules say so, or is refused all the same.
#[test]
fn what_flows_is_null_and_leaves_no_way_to_a_hidden_value() -> Result<()> {
    need_root!();
    let masking = Masking::start_nulling()?;
    let mut bench = masking.bench()?;
    let cases = Case::load("masking/escapes")?;
    let guard = masking.guard()?;
    let mut broken = Vec::new();
    let mut n_nulled = 0;
    for case in cases.iter().filter(|case| case.becomes == Some(Becomes::Denied)) {
        let answers = bench.answers(case, &guard)?;
        let failed = answers.iter().find_map(|answer| answer.failure.as_ref());
        let what = match (case.nulled, failed) {
            _ if tells(&answers) => "tells a hidden value",
            (true, None) => {
                n_nulled += 1;
                continue;
            }
            (true, Some(_)) => "does not run with NULLs",
            (false, None) => "is not refused",
            (false, Some(_)) => continue,
        };
        broken.push(format!("{} {what}: {}", case.id, shown(&answers)));
    }
    ensure!(broken.is_empty(), "{} cases:\n{}", broken.len(), broken.join("\n"));
    ensure!(n_nulled >= 60, "only {n_nulled} cases");

    // The row says what the client has said, and what was NULL in it.
    let nulled = masking.row_of("SELECT max(ssn) FROM customers")?;
    ensure!(nulled["masked"][0] == "public.customers.ssn:null-flow", "{nulled}");
    ensure!(nulled["verdict"] == "mask" && nulled["rule"] == "hide-pii", "{nulled}");
    Ok(())
}

#[test]
fn masking_changes_hidden_cells_alone() -> Result<()> {
    need_root!();
    let masking = Masking::start()?;
    let mut bench = masking.bench()?;
    let cases = Case::load("masking/everyday")?;
    ensure!(cases.len() >= 40, "only {} cases", cases.len());
    let (direct, guard) = (masking.direct(), masking.guard()?);
    let mut broken = Vec::new();
    for case in &cases {
        let expected = bench.answers(case, &direct)?;
        let got = bench.answers(case, &guard)?;
        for (n, (expected, got)) in expected.iter().zip(&got).enumerate() {
            if let Some(failure) = &got.failure {
                broken.push(format!("{}, step {n}: {failure}", case.id));
            } else if !are_alike(expected, got) {
                let both = shown(&[expected.clone(), got.clone()]);
                broken.push(format!("{}, step {n}: {both}", case.id));
            }
        }
    }
    ensure!(broken.is_empty(), "{} steps:\n{}", broken.len(), broken.join("\n"));
    Ok(())
}

/// The same, but for hidden cells, which are not what they are.
fn are_alike(expected: &Answer, got: &Answer) -> bool {
    let is_hidden = |cell: &String| {
        WORDS.iter().any(|word| cell.as_bytes().windows(word.len()).any(|part| part == *word))
    };
    let cells = |answer: &Answer| answer.rows.iter().flatten().cloned().collect::<Vec<_>>();
    let (expected, got) = (cells(expected), cells(got));
    expected.len() == got.len()
        && expected.iter().zip(&got).all(|(one, other)| (one == other) != is_hidden(one))
}
