//! The vocabulary of policies, and its names as Cedar wants them.

use std::str::FromStr;

use cedar_policy::{Entities, EntityId, EntityTypeName, EntityUid, Schema};

use crate::event::Effect;

/// What `dbwarden policy schema` prints.
pub const SCHEMA: &str = include_str!("dbwarden.cedarschema");

/// The types of entities and the actions.
#[derive(Debug)]
pub(super) struct Names {
    pub human: EntityTypeName,
    pub service: EntityTypeName,
    pub ai: EntityTypeName,
    pub unknown: EntityTypeName,
    pub group: EntityTypeName,
    pub label: EntityTypeName,
    pub server: EntityTypeName,
    pub database: EntityTypeName,
    pub table: EntityTypeName,
    pub claims: EntityTypeName,
    /// The actions with the groups that they are in.
    pub hierarchy: Entities,
    /// In the order of [`Effect::ALL`].
    actions: Vec<EntityUid>,
    /// For an effect without an action, which there is none of.
    other: EntityUid,
}

impl Names {
    pub(super) fn new(schema: &Schema) -> Result<Self, String> {
        let kind = |name: &str| EntityTypeName::from_str(name).map_err(|error| error.to_string());
        let action = kind("Action")?;
        let uid =
            |name: &str| EntityUid::from_type_name_and_id(action.clone(), EntityId::new(name));
        Ok(Self {
            human: kind("Human")?,
            service: kind("Service")?,
            ai: kind("Ai")?,
            unknown: kind("Unknown")?,
            group: kind("Group")?,
            label: kind("Label")?,
            server: kind("Server")?,
            database: kind("Database")?,
            table: kind("Table")?,
            claims: kind("Claims")?,
            hierarchy: schema.action_entities().map_err(|error| error.to_string())?,
            actions: Effect::ALL.iter().map(|effect| uid(effect.name())).collect(),
            other: uid(Effect::Unknown.name()),
        })
    }

    pub(super) fn action(&self, effect: Effect) -> &EntityUid {
        self.actions.get(effect as usize).unwrap_or(&self.other)
    }
}

/// The schema as Cedar reads it.
pub(super) fn schema() -> Result<Schema, String> {
    match Schema::from_cedarschema_str(SCHEMA) {
        Ok((schema, _)) => Ok(schema),
        Err(error) => Err(error.to_string()),
    }
}

/// Actions that an effect is one of.
pub(super) fn groups(effect: Effect) -> &'static [&'static str] {
    match effect {
        Effect::Insert | Effect::Update | Effect::Delete | Effect::Truncate | Effect::CopyIn => {
            &["write"]
        }
        Effect::Define | Effect::Drop | Effect::Grant | Effect::Configure => &["administer"],
        _ => &[],
    }
}
