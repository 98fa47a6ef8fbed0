//! What a rule calls those whom it matches: a name, or one made of verified facts.

use super::{
    program::Hit,
    subject::{Subject, owner},
};
use crate::event::{Client, LoginStrength};

/// `alice`, `{login_user}`, `batch {unit}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(Box<str>),
    Fact(Fact),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fact {
    OsUser,
    LoginUser,
    Owner,
    Unit,
    Container,
    Pod,
    Program,
    ClientAddress,
    DbUser,
}

const FACTS: [(&str, Fact); 9] = [
    ("client_address", Fact::ClientAddress),
    ("container", Fact::Container),
    ("db_user", Fact::DbUser),
    ("login_user", Fact::LoginUser),
    ("os_user", Fact::OsUser),
    ("owner", Fact::Owner),
    ("pod", Fact::Pod),
    ("program", Fact::Program),
    ("unit", Fact::Unit),
];

/// Stands for a fact that isn't known.
const UNKNOWN: &str = "?";
/// Digits of a container's id, as its engine shows it.
const ID_DIGITS: usize = 12;

impl Name {
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (word, behind) = after.split_once('}').ok_or("`{` without a `}`")?;
            let fact = FACTS.iter().find(|(name, _)| *name == word).ok_or_else(|| {
                let names = FACTS.map(|(name, _)| format!("{{{name}}}")).join(", ");
                format!("no such fact as {{{word}}}: there are {names}")
            })?;
            if !before.is_empty() {
                parts.push(Part::Text(before.into()));
            }
            parts.push(Part::Fact(fact.1));
            rest = behind;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.into()));
        }
        if text.trim().is_empty() {
            return Err("it is empty".into());
        }
        Ok(Self(parts))
    }

    pub fn names_program(&self) -> bool {
        self.0.contains(&Part::Fact(Fact::Program))
    }

    /// The name of this one; `hit` is the program by which the rule knew it.
    pub fn of(&self, subject: &Subject<'_>, hit: Option<Hit<'_>>) -> String {
        let mut name = String::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => name.push_str(text),
                Part::Fact(fact) => match fact.of(subject, hit) {
                    Some(text) => name.push_str(&text),
                    None => name.push_str(UNKNOWN),
                },
            }
        }
        name
    }
}

impl Fact {
    fn of(self, subject: &Subject<'_>, hit: Option<Hit<'_>>) -> Option<String> {
        let process = subject.process();
        let user = |name: Option<&str>, uid: Option<u32>| {
            name.map(str::to_owned).or_else(|| Some(format!("uid {}", uid?)))
        };
        match self {
            Self::OsUser => process.and_then(|p| user(p.os_user.as_deref(), p.uid)),
            // A login that proves nothing names nobody.
            Self::LoginUser => process
                .filter(|p| p.login_strength == LoginStrength::Strong)
                .and_then(|p| user(p.login_user.as_deref(), p.login_uid)),
            Self::Owner => process.and_then(|p| {
                let uid = owner(p.unit.as_deref()?)?;
                let of_user = (p.uid == Some(uid)).then_some(p.os_user.as_deref()).flatten();
                let of_login = || (p.login_uid == Some(uid)).then_some(p.login_user.as_deref())?;
                user(of_user.or_else(of_login), Some(uid))
            }),
            Self::Unit => process.and_then(|p| {
                let unit = p.unit.as_deref()?;
                Some(unit.strip_suffix(".service").unwrap_or(unit).to_owned())
            }),
            Self::Container => process
                .and_then(|p| p.container.as_deref())
                .map(|id| id.chars().take(ID_DIGITS).collect()),
            Self::Pod => process.and_then(|p| p.pod.as_deref()).map(str::to_owned),
            Self::Program => hit.map(|hit| hit.name.to_owned()),
            Self::ClientAddress => match subject.client {
                Client::Remote { address, .. } => Some(address.to_canonical().to_string()),
                Client::Local(_) | Client::LocalUnknown => None,
            },
            Self::DbUser => subject.db_user.map(str::to_owned),
        }
    }
}
