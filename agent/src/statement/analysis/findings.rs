//! What a walk through a statement finds, before it is put in order as facts.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use crate::event::{
    Access, Analysis, CopyForm, Effect, Effects, Facts, KeyPredicate, KeyValue, TableAccess, Trait,
};

/// OpenTelemetry's bound for a summary, in bytes.
const SUMMARY_BYTES: usize = 255;

/// Lists of names end here: a statement that names more says enough without them.
const MAX_NAMES: usize = 1000;

#[derive(Debug)]
pub(super) struct Findings {
    pub(super) effects: Effects,
    tables: BTreeSet<TableAccess>,
    columns: BTreeSet<Arc<str>>,
    functions: BTreeSet<Arc<str>>,
    calls: BTreeSet<Arc<str>>,
    names: BTreeSet<Arc<str>>,
    traits: BTreeSet<Trait>,
    settings: BTreeSet<Arc<str>>,
    keys: Vec<KeyPredicate>,
    /// How often each table is named: a condition on one of two says nothing of the other.
    references: HashMap<Arc<str>, usize>,
    pub(super) restricted: Option<bool>,
    pub(super) copy: Option<Box<CopyForm>>,
    pub(super) analysis: Analysis,
    summary: String,
    /// Something here hangs on the value of a literal.
    pub(super) is_literal_sensitive: bool,
    /// On that of a parameter.
    pub(super) is_parameter_sensitive: bool,
    /// On what the session has said before.
    pub(super) is_session_sensitive: bool,
}

impl Default for Findings {
    fn default() -> Self {
        Self {
            effects: Effects::default(),
            tables: BTreeSet::new(),
            columns: BTreeSet::new(),
            functions: BTreeSet::new(),
            calls: BTreeSet::new(),
            names: BTreeSet::new(),
            traits: BTreeSet::new(),
            settings: BTreeSet::new(),
            keys: Vec::new(),
            references: HashMap::new(),
            restricted: None,
            copy: None,
            analysis: Analysis::Complete,
            summary: String::new(),
            is_literal_sensitive: false,
            is_parameter_sensitive: false,
            is_session_sensitive: false,
        }
    }
}

impl Findings {
    pub(super) fn table(&mut self, name: &Arc<str>, access: Access) {
        if self.tables.len() < MAX_NAMES {
            self.tables.insert(TableAccess { name: name.clone(), access });
        } else {
            self.worsen(Analysis::TooLong);
        }
    }

    pub(super) fn refer(&mut self, name: &Arc<str>) {
        *self.references.entry(name.clone()).or_default() += 1;
    }

    pub(super) fn column(&mut self, name: Arc<str>) {
        if self.columns.len() < MAX_NAMES {
            self.columns.insert(name);
        }
    }

    pub(super) fn function(&mut self, name: Arc<str>) {
        if self.functions.len() < MAX_NAMES {
            self.functions.insert(name);
        } else {
            self.worsen(Analysis::TooLong);
        }
    }

    /// Code by this name runs now or later, and only its definition tells what it does.
    pub(super) fn call(&mut self, name: &str) {
        if self.calls.len() < MAX_NAMES {
            self.calls.insert(name.into());
        } else {
            self.worsen(Analysis::TooLong);
        }
    }

    /// A name that runs code where a database has some by it.
    pub(super) fn name(&mut self, name: Arc<str>) {
        if self.names.len() < MAX_NAMES {
            self.names.insert(name);
        } else {
            self.unknown(Analysis::TooLong);
        }
    }

    pub(super) fn stands_out(&mut self, by: Trait) {
        self.traits.insert(by);
    }

    pub(super) fn setting(&mut self, name: &str) {
        if self.settings.len() < MAX_NAMES {
            self.settings.insert(name.to_lowercase().into());
        }
    }

    pub(super) fn key(&mut self, table: Arc<str>, column: Arc<str>, value: KeyValue) {
        if self.keys.len() < MAX_NAMES {
            self.keys.push(KeyPredicate { table, column, value });
        }
    }

    pub(super) fn worsen(&mut self, reason: Analysis) {
        self.analysis = self.analysis.max(reason);
    }

    /// It can't be told what this does.
    pub(super) fn unknown(&mut self, reason: Analysis) {
        self.effects.insert(Effect::Unknown);
        self.worsen(reason);
    }

    pub(super) fn restrict(&mut self, is_restricted: bool) {
        self.restricted = Some(self.restricted.unwrap_or(true) && is_restricted);
    }

    /// Another word of the summary, as long as there is room for it whole.
    pub(super) fn say(&mut self, word: &str) {
        let parting = usize::from(!self.summary.is_empty());
        if !word.is_empty() && self.summary.len() + parting + word.len() <= SUMMARY_BYTES {
            if parting == 1 {
                self.summary.push(' ');
            }
            self.summary.push_str(word);
        }
    }

    /// What SQL in a string of this statement does, this statement does.
    pub(super) fn absorb(&mut self, inner: Findings) {
        self.effects = self.effects.union(inner.effects);
        self.worsen(inner.analysis);
        if let Some(is_restricted) = inner.restricted {
            self.restrict(is_restricted);
        }
        for table in inner.tables {
            // What it is compared with there stands in no literal of this text.
            *self.references.entry(table.name.clone()).or_default() += 2;
            self.table(&table.name, table.access);
        }
        inner.columns.into_iter().for_each(|column| self.column(column));
        inner.functions.into_iter().for_each(|function| self.function(function));
        inner.settings.iter().for_each(|setting| self.setting(setting));
        self.calls.extend(inner.calls);
        self.names.extend(inner.names);
        self.traits.extend(inner.traits);
        self.is_parameter_sensitive |= inner.is_parameter_sensitive;
        self.is_session_sensitive |= inner.is_session_sensitive;
    }

    /// The same for what was prepared before and is executed now.
    pub(super) fn repeat(&mut self, facts: &Facts) {
        self.effects = self.effects.union(facts.effects);
        self.worsen(facts.analysis);
        if let Some(is_restricted) = facts.restricted {
            self.restrict(is_restricted);
        }
        let mut named = BTreeSet::new();
        for table in &facts.tables {
            self.table(&table.name, table.access);
            named.insert(&table.name);
        }
        named.into_iter().for_each(|name| self.refer(name));
        facts.columns.iter().for_each(|column| self.column(column.clone()));
        facts.functions.iter().for_each(|function| self.function(function.clone()));
        facts.calls.iter().for_each(|call| self.call(call));
        facts.names.iter().for_each(|name| self.name(name.clone()));
        self.traits.extend(&facts.traits);
        facts.settings.iter().for_each(|setting| self.setting(setting));
    }

    pub(super) fn into_facts(self, text: String, fingerprint: u64) -> Facts {
        let references = self.references;
        let is_only = |key: &KeyPredicate| references.get(&key.table).is_none_or(|n| *n < 2);
        Facts {
            text: text.into(),
            fingerprint,
            summary: self.summary.into(),
            effects: self.effects,
            tables: self.tables.into_iter().collect(),
            columns: self.columns.into_iter().collect(),
            functions: self.functions.into_iter().collect(),
            calls: self.calls.into_iter().collect(),
            names: self.names.into_iter().collect(),
            traits: self.traits.into_iter().collect(),
            settings: self.settings.into_iter().collect(),
            keys: self.keys.into_iter().filter(is_only).collect(),
            restricted: self.restricted,
            copy: self.copy,
            analysis: self.analysis,
        }
    }
}

/// The facts of a text of several statements: all that they do, the worst of what isn't known.
pub(super) fn merge(statements: &[Arc<Facts>], text: String, fingerprint: u64) -> Facts {
    let mut whole = Findings::default();
    let mut summary = String::new();
    for facts in statements {
        whole.repeat(facts);
        for key in &facts.keys {
            whole.key(key.table.clone(), key.column.clone(), key.value.clone());
        }
        if summary.len() + facts.summary.len() + 2 <= SUMMARY_BYTES {
            if !summary.is_empty() {
                summary.push_str("; ");
            }
            summary.push_str(&facts.summary);
        }
    }
    whole.summary = summary;
    whole.into_facts(text, fingerprint)
}
