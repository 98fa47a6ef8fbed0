//! What an approval is bound to, and how two of them differ.

use serde::{Deserialize, Serialize};

use crate::event::PrincipalKind;

/// Everything that a statement's meaning hangs on. An approval lets pass what has all of it the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    pub server: String,
    pub database: String,
    /// As it was sent.
    pub text: String,
    /// Numbers of the types that the client gives its parameters.
    pub types: Vec<u32>,
    pub parameters: Vec<Given>,
    pub principal: Who,
    /// As the server says them in the session itself.
    pub context: Context,
    /// Everything that it does, by its text and by the code behind it: a hash.
    pub does: String,
    /// Version of the policies.
    pub policy: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Who {
    pub name: String,
    pub kind: PrincipalKind,
    /// Of an AI.
    pub initiator: Option<String>,
}

/// A parameter's value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Given {
    Null,
    Text(String),
    /// In the type's binary format, as hexadecimal digits.
    Binary(String),
}

/// What the server says of a session at the moment before the statement.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Context {
    pub session_user: String,
    pub current_user: String,
    pub search_path: String,
    /// What that comes to at this moment, with the session's own temporary schema.
    pub schemas: String,
    /// Settings that give a text another meaning.
    pub settings: String,
    /// What the statement names, and the objects' numbers and definitions, where there are any.
    pub objects: Vec<(String, Option<String>)>,
    /// What the session has prepared or declared by SQL, where the statement depends on it.
    pub prepared: Option<String>,
}

/// One thing that isn't the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    pub what: &'static str,
    /// Without anything of texts and values.
    pub words: String,
}

impl Binding {
    /// How `other` isn't what this one is.
    pub fn differences(&self, other: &Self) -> Vec<Difference> {
        let mut found = Differences(Vec::new());
        found.changed("server", &self.server, &other.server);
        found.changed("database", &self.database, &other.database);
        found.hidden("text", self.text != other.text);
        let is_other = self.parameters != other.parameters || self.types != other.types;
        found.hidden("parameters", is_other);
        found.changed("principal", &self.principal.words(), &other.principal.words());
        let (a, b) = (&self.context, &other.context);
        found.changed("role", &a.role(), &b.role());
        found.changed("search_path", &a.path(), &b.path());
        found.changed("settings", &a.settings, &b.settings);
        found.objects(&a.objects, &b.objects);
        found.hidden("prepared statements", a.prepared != b.prepared);
        found.hidden("what it does", self.does != other.does);
        found.hidden("policies", self.policy != other.policy);
        found.0
    }

    /// They are about the same thing, as people see it.
    pub fn resembles(&self, other: &Self) -> bool {
        self.server == other.server && self.text == other.text
    }
}

impl Who {
    pub fn words(&self) -> String {
        let Self { name, kind, initiator } = self;
        match initiator {
            Some(initiator) => format!("{name} ({}, launched by {initiator})", kind.name()),
            None => format!("{name} ({})", kind.name()),
        }
    }
}

impl Context {
    /// The current one, and whose session it is where that is another one.
    pub fn role(&self) -> String {
        let Self { session_user, current_user, .. } = self;
        match session_user == current_user {
            true => current_user.clone(),
            false => format!("{current_user} (session of {session_user})"),
        }
    }

    fn path(&self) -> String {
        format!("{} ({})", self.search_path, self.schemas)
    }
}

struct Differences(Vec<Difference>);

impl Differences {
    fn changed(&mut self, what: &'static str, from: &str, to: &str) {
        if from != to {
            self.0.push(Difference { what, words: format!("{what}: {from} → {to}") });
        }
    }

    fn hidden(&mut self, what: &'static str, is_other: bool) {
        if is_other {
            self.0.push(Difference { what, words: what.to_owned() });
        }
    }

    fn objects(&mut self, from: &[(String, Option<String>)], to: &[(String, Option<String>)]) {
        if from == to {
            return;
        }
        let number = |of: &[(String, Option<String>)], name: &str| {
            let found = of.iter().find(|(known, _)| known == name);
            found.and_then(|(_, number)| number.clone()).unwrap_or_else(|| "none".to_owned())
        };
        let mut names: Vec<&str> = from.iter().chain(to).map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        let changed = names.into_iter().filter(|name| number(from, name) != number(to, name));
        let words: Vec<String> = changed
            .map(|name| format!("{name}: {} → {}", number(from, name), number(to, name)))
            .collect();
        self.0
            .push(Difference { what: "objects", words: format!("objects: {}", words.join(", ")) });
    }
}
