//! One rule: as somebody writes it, and as it is applied once it was found to be sound.

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{
    anchor::Anchor,
    condition::{Condition, Context, Topic},
    name::Name,
    pattern::Pattern,
    program::Programs,
    subject::Subject,
};
use crate::event::{Evidence, PrincipalKind};

/// A `[[principal]]` of the configuration or of `builtin.toml`. All conditions that are given must hold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Written {
    /// What rows call the rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    pub kind: PrincipalKind,
    pub name: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,

    #[serde(skip_serializing_if = "Option::is_none")]
    pub os_user: Option<Words>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<Numbers>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub login_user: Option<Words>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub login_uid: Option<Numbers>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<Words>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<Words>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<Words>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exe: Option<Words>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<Words>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub program: Option<Words>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parents: Option<Words>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_address: Option<Words>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub db_user: Option<Words>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub application: Option<Words>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<Words>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claims: Option<BTreeMap<String, Words>>,
}

/// One word or a list of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Words(pub Vec<String>);

/// One number or a list of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Numbers(pub Vec<u32>);

/// Why a rule can't be applied.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    #[error("the rule has no condition, so it would be about everybody")]
    NoCondition,
    #[error("`{key}`: an empty list or word matches nobody")]
    Empty { key: &'static str },
    #[error("`{key}`: {why}")]
    Invalid { key: &'static str, why: String },
    #[error("`name`: {why}")]
    Name { why: String },
    #[error(
        "the rule would call anybody {what} who {conditions}: a client chooses that itself. Add what \
         it can't choose (os_user, uid, login_user, login_uid, unit, container, pod, client_address, \
         db_user or certificate, and not all of them by `*`), or let the rule say kind = \"ai\" or \
         \"unknown\" without groups"
    )]
    Unproven { what: String, conditions: String },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    id: Arc<str>,
    kind: PrincipalKind,
    name: Name,
    groups: Arc<[Arc<str>]>,
    conditions: Vec<Condition>,
    context: Context,
}

impl Rule {
    /// `default_id` is for one that has none.
    ///
    /// # Errors
    /// The rule makes no sense, or it would trust a client's own word.
    pub fn new(written: &Written, default_id: &str) -> Result<Self, RuleError> {
        let conditions = conditions(written)?;
        if conditions.is_empty() {
            return Err(RuleError::NoCondition);
        }
        if written.groups.iter().any(|group| group.trim().is_empty()) {
            return Err(RuleError::Empty { key: "groups" });
        }
        let name = Name::parse(&written.name).map_err(|why| RuleError::Name { why })?;
        check_proof(written, &conditions)?;
        let trusts = matches!(written.kind, PrincipalKind::Human | PrincipalKind::Service);
        let context = Context {
            raises: trusts || !written.groups.is_empty(),
            names_place: conditions.iter().any(Condition::names_place),
        };
        let finds_program =
            |one: &Condition| matches!(one, Condition::Program(_) | Condition::Parents(_));
        if name.names_program() && (context.raises || !conditions.iter().any(finds_program)) {
            let why = "{program} is for rules with `program` or `parents` that say kind = \"ai\" or \
                       \"unknown\" without groups: a program's name is chosen by who runs it";
            return Err(RuleError::Name { why: why.to_owned() });
        }
        Ok(Self {
            id: written.id.as_deref().unwrap_or(default_id).into(),
            kind: written.kind,
            name,
            groups: written.groups.iter().map(|group| group.as_str().into()).collect(),
            conditions,
            context,
        })
    }

    pub fn id(&self) -> Arc<str> {
        self.id.clone()
    }

    pub fn kind(&self) -> PrincipalKind {
        self.kind
    }

    pub fn groups(&self) -> Arc<[Arc<str>]> {
        self.groups.clone()
    }

    pub fn matches(&self, subject: &Subject<'_>) -> bool {
        self.conditions.iter().all(|one| one.find(subject, self.context).is_some())
    }

    /// Both match, and speak of the same thing.
    pub fn shares_topic(&self, other: &Rule, subject: &Subject<'_>) -> bool {
        let topics = |rule: &Rule| -> Vec<Topic> {
            rule.conditions.iter().map(|one| one.topic(subject)).collect()
        };
        let others = topics(other);
        topics(self).iter().any(|topic| others.contains(topic))
    }

    /// The tags that it asks about.
    pub fn tags(&self) -> impl Iterator<Item = &str> {
        self.conditions.iter().filter_map(|one| match one {
            Condition::Claim(name, _) => Some(&**name),
            _ => None,
        })
    }

    /// What it calls this one.
    pub fn name_of(&self, subject: &Subject<'_>) -> String {
        self.name.of(subject, self.conditions.iter().find_map(|one| one.hit(subject)))
    }

    /// Each condition with what meets it.
    pub fn evidence(&self, subject: &Subject<'_>) -> Vec<Evidence> {
        let evidence = |one: &Condition| {
            let found = one.find(subject, self.context)?;
            let value = found.value.into_owned();
            Some(Evidence { fact: one.fact(), value, strength: found.strength })
        };
        self.conditions.iter().filter_map(evidence).collect()
    }
}

fn conditions(written: &Written) -> Result<Vec<Condition>, RuleError> {
    let mut conditions = Vec::new();
    let path = |words: &[String]| words.iter().map(|word| Pattern::path(word)).collect();
    let text = |words: &[String]| words.iter().map(|word| Pattern::text(word)).collect();
    type Make<'a> = &'a dyn Fn(&[String]) -> Condition;
    let makes: [(&'static str, &Option<Words>, Make<'_>); 12] = [
        ("os_user", &written.os_user, &|words| Condition::OsUser(text(words))),
        ("login_user", &written.login_user, &|words| Condition::LoginUser(text(words))),
        ("unit", &written.unit, &|words| Condition::Unit(path(words))),
        ("container", &written.container, &|words| Condition::Container(path(words))),
        ("pod", &written.pod, &|words| Condition::Pod(path(words))),
        ("db_user", &written.db_user, &|words| Condition::DbUser(text(words))),
        ("certificate", &written.certificate, &|words| Condition::Certificate(text(words))),
        ("exe", &written.exe, &|words| Condition::Exe(path(words))),
        ("program", &written.program, &|words| Condition::Program(Programs::new(words))),
        ("parents", &written.parents, &|words| Condition::Parents(Programs::new(words))),
        ("command", &written.command, &|words| Condition::Command(text(words))),
        ("application", &written.application, &|words| Condition::Application(text(words))),
    ];
    for (key, words, make) in makes {
        if let Some(Words(words)) = words {
            check_words(key, words)?;
            conditions.push(make(words));
        }
    }
    for (key, numbers, make) in [
        ("uid", &written.uid, Condition::Uid as fn(Vec<u32>) -> Condition),
        ("login_uid", &written.login_uid, Condition::LoginUid),
    ] {
        if let Some(Numbers(numbers)) = numbers {
            if numbers.is_empty() {
                return Err(RuleError::Empty { key });
            }
            conditions.push(make(numbers.clone()));
        }
    }
    if let Some(Words(words)) = &written.client_address {
        check_words("client_address", words)?;
        let networks = words.iter().map(|word| word.parse()).collect::<Result<_, String>>();
        let invalid = |why| RuleError::Invalid { key: "client_address", why };
        conditions.push(Condition::ClientAddress(networks.map_err(invalid)?));
    }
    for (name, Words(words)) in written.claims.iter().flatten() {
        check_words("claims", words)?;
        conditions.push(Condition::Claim(name.as_str().into(), text(words)));
    }
    if written.claims.as_ref().is_some_and(BTreeMap::is_empty) {
        return Err(RuleError::Empty { key: "claims" });
    }
    Ok(conditions)
}

fn check_words(key: &'static str, words: &[String]) -> Result<(), RuleError> {
    match words.is_empty() || words.iter().any(String::is_empty) {
        true => Err(RuleError::Empty { key }),
        false => Ok(()),
    }
}

/// Trust needs a condition that nobody else can meet.
fn check_proof(written: &Written, conditions: &[Condition]) -> Result<(), RuleError> {
    let proof = conditions.iter().map(Anchor::of).max().unwrap_or(Anchor::Nothing);
    let trusts = matches!(written.kind, PrincipalKind::Human | PrincipalKind::Service);
    let what = match written.groups.as_slice() {
        [group, ..] if proof < Anchor::Identity => format!("a member of {group:?}"),
        _ if trusts && proof == Anchor::Nothing => format!("a {}", written.kind.name()),
        _ => return Ok(()),
    };
    let conditions: Vec<&str> = conditions.iter().map(Condition::fact).collect();
    let conditions = format!("meets `{}`", conditions.join("` and `"));
    Err(RuleError::Unproven { what, conditions })
}

impl<'de> Deserialize<'de> for Words {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Words;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a word or a list of words")
            }

            fn visit_str<E: de::Error>(self, word: &str) -> Result<Words, E> {
                Ok(Words(vec![word.to_owned()]))
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut words: A) -> Result<Words, A::Error> {
                let mut all = Vec::new();
                while let Some(word) = words.next_element()? {
                    all.push(word);
                }
                Ok(Words(all))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl<'de> Deserialize<'de> for Numbers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Numbers;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number or a list of numbers")
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Numbers, E> {
                let invalid = || E::invalid_value(de::Unexpected::Signed(number), &self);
                Ok(Numbers(vec![u32::try_from(number).map_err(|_| invalid())?]))
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut numbers: A) -> Result<Numbers, A::Error> {
                let mut all = Vec::new();
                while let Some(number) = numbers.next_element()? {
                    all.push(number);
                }
                Ok(Numbers(all))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl Serialize for Words {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl Serialize for Numbers {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}
