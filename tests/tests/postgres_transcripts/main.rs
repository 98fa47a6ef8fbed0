//! Recorded PostgreSQL conversations, whole and under any chunking, cut, gap and late joining.

mod allocations;
mod drive;
mod transcript;

use std::{collections::BTreeMap, env, fs};

use self::{
    drive::{Said, Step},
    transcript::Transcript,
};
use anyhow::Result;
use dbwarden::event::{Direction, Outcome, Statement};

fn transcripts() -> Result<Vec<Transcript>> {
    let transcripts = transcript::all("postgresql-")?;
    assert!(transcripts.len() >= 10, "the transcripts are there");
    Ok(transcripts)
}

fn steps(transcript: &Transcript) -> impl Iterator<Item = Step<'_>> {
    transcript.calls.iter().map(|call| Step::Bytes(call.direction, &call.bytes))
}

fn lines(said: &[Said]) -> Vec<String> {
    said.iter().map(|said| drive::line(said, true)).collect()
}

/// The expected events stand beside each transcript; `UPDATE_EXPECT=1` writes them anew.
#[test]
fn whole() -> Result<()> {
    for transcript in transcripts()? {
        let said = lines(&drive::run(steps(&transcript))).join("\n") + "\n";
        let path = transcript.path.with_extension("events");
        if env::var_os("UPDATE_EXPECT").is_some() {
            fs::write(&path, &said)?;
        }
        assert_eq!(said, fs::read_to_string(&path)?, "{}", transcript.name);
        assert!(!said.contains("throwaway"), "a password in {}", transcript.name);
    }
    Ok(())
}

#[test]
fn any_chunking() -> Result<()> {
    for transcript in transcripts()? {
        let expected = lines(&drive::run(steps(&transcript)));
        for size in [1, 2, 3, 5, 7, 11, 13, 61, 509, 1 << 20] {
            let chunked = transcript.calls.iter().flat_map(|call| {
                call.bytes.chunks(size).map(|bytes| Step::Bytes(call.direction, bytes))
            });
            let said = lines(&drive::run(chunked));
            assert_eq!(said, expected, "{} in chunks of {size}", transcript.name);
        }
    }
    Ok(())
}

/// A connection whose bytes end anywhere says the same up to there.
#[test]
fn any_cut() -> Result<()> {
    for transcript in transcripts()? {
        let expected = drive::run(steps(&transcript));
        for cut in places(&transcript) {
            let said = drive::run(cut_at(&transcript, cut));
            never_wrong(&expected, &said, &format!("{} cut at {cut}", transcript.name));
        }
    }
    Ok(())
}

/// The connection's first `cut` bytes, of both directions together.
fn cut_at(transcript: &Transcript, cut: usize) -> Vec<Step<'_>> {
    let mut left = cut;
    let mut kept = Vec::new();
    for call in &transcript.calls {
        let bytes = call.bytes.get(..left).unwrap_or(&call.bytes);
        kept.push(Step::Bytes(call.direction, bytes));
        left -= bytes.len();
        if left == 0 {
            break;
        }
    }
    kept
}

/// Bytes missing anywhere, of one direction: nothing that is said is wrong.
#[test]
fn any_gap() -> Result<()> {
    for transcript in transcripts()? {
        let expected = drive::run(steps(&transcript));
        for direction in [Direction::Request, Direction::Response] {
            for len in [1, 6, 29, 200, 5000] {
                for from in places(&transcript) {
                    let said = drive::run(with_gap(&transcript, direction, from, len));
                    let case = format!("{} {direction:?} {from}+{len}", transcript.name);
                    never_wrong(&expected, &said, &case);
                }
            }
        }
    }
    Ok(())
}

/// `transcript` without the bytes `from..from + len` of one direction.
fn with_gap(
    transcript: &Transcript,
    direction: Direction,
    from: usize,
    len: usize,
) -> Vec<Step<'_>> {
    let mut steps = Vec::new();
    let mut position = 0;
    for call in &transcript.calls {
        if call.direction != direction {
            steps.push(Step::Bytes(call.direction, &call.bytes));
            continue;
        }
        let end = position + call.bytes.len();
        let hole =
            from.clamp(position, end) - position..(from + len).clamp(position, end) - position;
        steps.push(Step::Bytes(direction, &call.bytes[..hole.start]));
        if !hole.is_empty() {
            steps.push(Step::Gap(direction, hole.len() as u64));
        }
        steps.push(Step::Bytes(direction, &call.bytes[hole.end..]));
        position = end;
    }
    steps
}

/// Watching begins anywhere.
#[test]
fn joined_anywhere() -> Result<()> {
    for transcript in transcripts()? {
        let expected = drive::run(steps(&transcript));
        for from in places(&transcript).filter(|from| *from > 0) {
            let mut before = BTreeMap::from([(false, 0), (true, 0)]);
            let mut left = from;
            let mut joined = Vec::new();
            for call in &transcript.calls {
                let unseen = left.min(call.bytes.len());
                left -= unseen;
                *before.entry(call.direction == Direction::Response).or_default() += unseen;
                if unseen < call.bytes.len() {
                    joined.push(Step::Bytes(call.direction, &call.bytes[unseen..]));
                }
            }
            let mut all = Vec::new();
            for step in joined {
                if let Step::Bytes(direction, _) = step
                    && let Some(gap) = before.remove(&(direction == Direction::Response))
                    && gap > 0
                {
                    all.push(Step::Gap(direction, gap as u64));
                }
                all.push(step);
            }
            let said = drive::run(all);
            never_wrong(&expected, &said, &format!("{} joined at {from}", transcript.name));
        }
    }
    Ok(())
}

/// Every place in a small transcript, and enough of a large one.
fn places(transcript: &Transcript) -> impl Iterator<Item = usize> + use<> {
    let total: usize = transcript.calls.iter().map(|call| call.bytes.len()).sum();
    (0..=total).step_by((total / 1000).max(1))
}

/// Each statement that was said is one of the expected ones, in their order, or has unknown parts.
fn never_wrong(expected: &[Said], said: &[Said], case: &str) {
    // By when they were asked for: they are told by when they ended.
    let statements = |said: &[Said]| -> Vec<Statement> {
        let statements = said.iter().filter_map(|said| match said {
            Said::Statement(statement) => Some((**statement).clone()),
            Said::Event(_) => None,
        });
        let mut statements: Vec<Statement> = statements.collect();
        statements.sort_by_key(|statement| statement.sequence);
        statements
    };
    let expected = statements(expected);
    let mut rest = expected.iter();
    for statement in statements(said) {
        assert!(
            rest.clone().any(|expected| agrees(&statement, expected)),
            "{case}: nothing such was executed: {}",
            drive::line(&Said::Statement(Box::new(statement)), true)
        );
        // What is known for certain stands in order.
        if statement.text.is_some() && statement.outcome != Outcome::Unknown {
            rest.find(|expected| agrees(&statement, expected));
        }
    }
}

fn agrees(statement: &Statement, expected: &Statement) -> bool {
    let incomplete = statement.truncated_bytes + statement.lost_bytes > 0;
    let text = match (&statement.text, &expected.text) {
        (Some(text), Some(expected)) if incomplete => expected.starts_with(&**text),
        (Some(text), Some(expected)) => text == expected,
        (text, _) => text.is_none(),
    };
    let outcome = match (&statement.outcome, &expected.outcome) {
        (Outcome::Unknown, _) | (Outcome::Suspended { rows: None }, _) => true,
        (Outcome::Failed { code, .. }, Outcome::Failed { .. }) if code.is_empty() => true,
        (Outcome::Done { tag, rows: None }, Outcome::Done { tag: expected, .. }) => tag == expected,
        (Outcome::Failed { code, .. }, Outcome::Failed { code: expected, .. }) => code == expected,
        // Left earlier than it was.
        (
            Outcome::Suspended { rows },
            Outcome::Done { rows: all, .. } | Outcome::Suspended { rows: all },
        ) => rows <= all,
        (outcome, expected) => outcome == expected,
    };
    let parameters =
        statement.parameters.iter().zip(&expected.parameters).all(|(parameter, expected)| {
            matches!(
                parameter,
                dbwarden::event::Parameter::Unknown | dbwarden::event::Parameter::Binary { .. }
            ) || parameter == expected
        });
    text && outcome && parameters
}

/// The fuzz target's function, over every beginning of real conversations.
#[test]
fn scripts_for_the_fuzzer() -> Result<()> {
    for transcript in transcripts()? {
        let script = drive::script(steps(&transcript));
        for end in (0..script.len()).step_by((script.len() / 200).max(1)) {
            drive::fuzz_postgres(&script[..end]);
            drive::fuzz_stream(&script[..end]);
        }
    }
    Ok(())
}
