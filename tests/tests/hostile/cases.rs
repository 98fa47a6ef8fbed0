//! The corpus as data: `tests/corpus/*.toml`.

use std::fs;

use anyhow::{Context, Result};
use dbwarden_tests::place;
use serde::Deserialize;

/// What a case without a probe of its own is asked.
const CONTENTS: &str =
    "SELECT count(*), md5(string_agg(v::text, ',' ORDER BY v::text)) FROM public.victims v";

#[derive(Deserialize)]
struct Corpus {
    case: Vec<Case>,
}

/// One way past a guard, or something that must be let through.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    pub id: String,
    /// Run as the superuser before, directly.
    #[serde(default)]
    pub setup: Vec<String>,
    /// The superuser where it says nothing.
    #[serde(rename = "as")]
    pub user: Option<String>,
    pub steps: Vec<Step>,
    /// Whose answer tells damage; asked directly.
    #[serde(default = "contents")]
    pub probe: String,
    /// The same, but asked in the session that ran the steps.
    pub inside: Option<String>,
    /// What text alone can't tell.
    #[serde(default)]
    #[allow(dead_code, reason = "who judges by text alone reads it")]
    pub needs: Vec<String>,
    /// What outlives the case's database and must not.
    #[serde(default)]
    pub cleanup: Vec<String>,
    /// What becomes of hidden values.
    pub becomes: Option<Becomes>,
    /// Where the rules say so, it passes with NULLs, and isn't refused.
    #[serde(default)]
    pub nulled: bool,
    /// Directly, they are told.
    #[serde(default = "leaks")]
    pub leaks: bool,
    /// The step that may be refused in the place of the last.
    pub first: Option<usize>,
}

/// Of values that are hidden from a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Becomes {
    /// Others stand in their place.
    Masked,
    /// The statement is refused.
    Denied,
}

/// What a client sends and waits for.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Step {
    Text(String),
    Pipeline {
        pipeline: Vec<String>,
    },
    Function {
        function: String,
        arguments: Vec<toml::Value>,
    },
    /// Without a text: what was prepared by the name before.
    Prepared {
        name: Option<String>,
        text: Option<String>,
        values: Vec<String>,
    },
}

fn leaks() -> bool {
    true
}

fn contents() -> String {
    CONTENTS.to_owned()
}

impl Case {
    pub fn load(name: &str) -> Result<Vec<Case>> {
        let path = place::workspace().join(format!("tests/corpus/{name}.toml"));
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let corpus: Corpus = toml::from_str(&text).with_context(|| path.display().to_string())?;
        Ok(corpus.case)
    }
}

/// What the database of each case is made from.
pub fn base(name: &str) -> Result<String> {
    Ok(fs::read_to_string(place::workspace().join(format!("tests/corpus/{name}.sql")))?)
}
