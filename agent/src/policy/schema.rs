//! The vocabulary of policies, and its names as Cedar wants them.

use std::str::FromStr;

use cedar_policy::{Entities, EntityId, EntityTypeName, EntityUid, Schema};

use super::Action;

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
    /// By [`Action::index`].
    actions: Vec<EntityUid>,
    /// For one without a name, which there is none of.
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
            actions: Action::all().map(|action| uid(action.name())).collect(),
            other: uid("unknown"),
        })
    }

    pub(super) fn action(&self, action: Action) -> &EntityUid {
        self.actions.get(action.index()).unwrap_or(&self.other)
    }
}

/// The schema as Cedar reads it.
pub(super) fn schema() -> Result<Schema, String> {
    match Schema::from_cedarschema_str(SCHEMA) {
        Ok((schema, _)) => Ok(schema),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{Action, Names, schema};

    /// Which rules an action is held against is decided without asking Cedar: both must say the same.
    #[test]
    fn actions_are_in_the_groups_that_the_schema_has_them_in() {
        let names = Names::new(&schema().unwrap()).unwrap();
        for action in Action::all() {
            let ancestors = names.hierarchy.ancestors(names.action(action)).unwrap();
            let found: BTreeSet<&str> = ancestors.map(|group| group.id().unescaped()).collect();
            assert_eq!(found, action.groups().iter().copied().collect(), "{}", action.name());
        }
    }
}
