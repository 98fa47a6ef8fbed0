//! Ways out of a database that no name of a column tells of: code that reads for somebody, text that is run, files,
//! statistics, other servers.

use std::sync::Arc;

use super::{Why, holds_values, last_part};
use crate::{
    event::{Access, Analysis, Effect, Facts, Trait},
    guard::{behind::Ran, catalog::Snapshot, masking::Masks},
    policy::{TableName, Touched},
};

/// Functions of PostgreSQL's own that run a text, or read what they are given the name of.
const READERS: &[&str] = &[
    "query_to_xml",
    "query_to_xmlschema",
    "query_to_xml_and_xmlschema",
    "table_to_xml",
    "table_to_xmlschema",
    "table_to_xml_and_xmlschema",
    "cursor_to_xml",
    "cursor_to_xmlschema",
    "schema_to_xml",
    "schema_to_xmlschema",
    "schema_to_xml_and_xmlschema",
    "database_to_xml",
    "database_to_xmlschema",
    "database_to_xml_and_xmlschema",
    "ts_stat",
    "ts_rewrite",
];

/// Whether somebody from whom something is hidden may run a statement. `all`: what it says, and what comes of it.
pub(super) fn check(all: &Facts, ran: &Ran, masks: &Masks, snapshot: &Snapshot) -> Result<(), Why> {
    of_facts(all)?;
    if let Some(name) = ran.unknown.first() {
        return Err(Why::UnknownCode(name.clone()));
    }
    for (facts, via) in &ran.facts {
        of_facts(facts)?;
        if facts.effects.contains(Effect::Define) {
            return Err(Why::Defines(via.clone()));
        }
        if let Some(column) = reads(facts, masks, snapshot) {
            return Err(Why::ReadBy(column, via.clone()));
        }
    }
    Ok(())
}

/// What can be told without a catalog.
pub(super) fn of_facts(facts: &Facts) -> Result<(), Why> {
    let is_read = matches!(facts.analysis, Analysis::Complete | Analysis::CallsCode);
    if facts.effects.contains(Effect::Unknown) || !is_read {
        return Err(Why::Unknown);
    }
    if facts.effects.contains(Effect::Program) {
        return Err(Why::Files);
    }
    if facts.effects.contains(Effect::Replicate) {
        return Err(Why::Replication);
    }
    if facts.traits.contains(&Trait::OtherServer) {
        return Err(Why::OtherServer);
    }
    let called = facts.functions.iter().chain(&facts.calls).map(|name| last_part(name));
    let attributes = facts.names.iter().filter_map(|name| name.strip_prefix('.'));
    let mut called = called.chain(attributes);
    if let Some(name) = called.find(|name| READERS.contains(name)) {
        return Err(Why::Reader(name.into()));
    }
    match facts.tables.iter().find(|table| holds_values(&table.name)) {
        Some(table) => Err(Why::Statistics(table.name.clone())),
        None => Ok(()),
    }
}

/// A hidden column that code reads.
fn reads(facts: &Facts, masks: &Masks, snapshot: &Snapshot) -> Option<Arc<str>> {
    for table in facts.tables.iter().filter(|table| table.access != Access::Insert) {
        let name = TableName::new(&table.name, Some(snapshot.database()));
        let touched = Touched::by(Some(facts), &table.name, &name);
        for relation in snapshot.relations(&table.name) {
            let columns = snapshot.columns(relation.oid).iter();
            let mut hidden = columns.filter_map(|column| {
                let masked = masks.columns.get(&(relation.oid, column.place))?;
                let is_touched = match &touched {
                    Touched::All => true,
                    Touched::Named(names) => names.contains(&*column.name.to_lowercase()),
                };
                is_touched.then(|| masked.column.clone())
            });
            if let Some(column) = hidden.next() {
                return Some(column);
            }
        }
    }
    None
}
