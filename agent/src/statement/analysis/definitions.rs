//! Changes to what is defined, and to who may use it.

use std::sync::Arc;

use pg_query::{
    Node, NodeEnum,
    protobuf::{
        AlterTableCmd, AlterTableType, ColumnDef, DropStmt, GrantStmt, GrantTargetType, ObjectType,
        TypeName,
    },
};

use super::{
    functions,
    names::{qualified, relation_name, strings},
    objects,
    walk::{Walk, visit},
};
use crate::event::{Access, Analysis, Effect, Trait};

impl Walk<'_> {
    pub(super) fn alter(&mut self, command: &Node) {
        let Some(NodeEnum::AlterTableCmd(command)) = &command.node else {
            return self.findings.unknown(Analysis::UnknownSyntax);
        };
        let AlterTableCmd {
            subtype,
            name,
            num: _,
            newowner: _,
            def,
            behavior: _,
            missing_ok: _,
            recurse: _,
        } = command.as_ref();
        match AlterTableType::try_from(*subtype) {
            Ok(AlterTableType::AtDropColumn | AlterTableType::AtDropConstraint) => {
                self.effect(Effect::Drop);
            }
            Ok(
                AlterTableType::AtChangeOwner
                | AlterTableType::AtEnableRowSecurity
                | AlterTableType::AtDisableRowSecurity
                | AlterTableType::AtForceRowSecurity
                | AlterTableType::AtNoForceRowSecurity,
            ) => self.effect(Effect::Grant),
            Ok(
                AlterTableType::AtDisableTrig
                | AlterTableType::AtDisableTrigAll
                | AlterTableType::AtDisableTrigUser
                | AlterTableType::AtEnableReplicaTrig
                | AlterTableType::AtDisableRule
                | AlterTableType::AtEnableReplicaRule,
            ) => self.stands_out(Trait::SafetySetting),
            Ok(AlterTableType::AtSetRelOptions | AlterTableType::AtResetRelOptions)
                if def.as_deref().is_some_and(guards_rows) =>
            {
                self.stands_out(Trait::SafetySetting);
            }
            Ok(
                AlterTableType::AtDetachPartition
                | AlterTableType::AtDropInherit
                | AlterTableType::AtSetUnLogged
                | AlterTableType::AtSetExpression,
            ) => self.stands_out(Trait::DataLoss),
            Ok(AlterTableType::AtGenericOptions | AlterTableType::AtAlterColumnGenericOptions) => {
                self.stands_out(Trait::OtherServer);
            }
            Ok(AlterTableType::AtAlterColumnType) => {
                let column = def.as_deref().and_then(|def| def.node.as_ref());
                if !matches!(column, Some(NodeEnum::ColumnDef(to)) if keeps_values(to, name)) {
                    self.stands_out(Trait::DataLoss);
                }
            }
            _ => {}
        }
        match def.as_deref().and_then(|def| def.node.as_ref()) {
            // A new default fills the rows that are there, a new check looks at them, a type is cast to.
            Some(NodeEnum::PartitionCmd(part)) => {
                self.maybe_touch(part.name.as_ref(), Access::Define);
                visit(self, &part.bound);
            }
            Some(NodeEnum::RangeVar(relation)) => drop(self.touch(relation, Access::Define)),
            Some(_) => visit(self, def),
            None => {}
        }
    }

    pub(super) fn commented(&mut self, verb: &str, kind: ObjectType, object: Option<&Node>) {
        self.does(verb, &[Effect::Define]);
        if let Some(NodeEnum::List(list)) = object.and_then(|object| object.node.as_ref()) {
            let parts = strings(&list.items);
            // The last part is the column.
            let len = if kind == ObjectType::ObjectColumn {
                parts.len().saturating_sub(1)
            } else {
                parts.len()
            };
            if objects::is_relation(kind) || kind == ObjectType::ObjectColumn {
                let name = qualified(parts.into_iter().take(len));
                self.touch_named(&name, Access::Define);
            }
        }
    }

    pub(super) fn drop_objects(&mut self, statement: &DropStmt) {
        let DropStmt { objects, remove_type, behavior: _, missing_ok: _, concurrent: _ } =
            statement;
        let kind = ObjectType::try_from(*remove_type).unwrap_or(ObjectType::Undefined);
        self.does(&format!("DROP {}", objects::title(kind)), &[Effect::Drop]);
        if kind == ObjectType::ObjectExtension {
            self.stands_out(Trait::Extension);
        }
        for object in objects {
            let Some(NodeEnum::List(list)) = &object.node else {
                // A schema, an extension, a function: no relation.
                continue;
            };
            let mut parts = strings(&list.items);
            let access = match kind {
                _ if objects::is_relation(kind) => Access::Drop,
                // What belongs to a table comes after its name.
                ObjectType::ObjectTrigger | ObjectType::ObjectRule | ObjectType::ObjectPolicy => {
                    parts.pop();
                    Access::Define
                }
                _ => continue,
            };
            let name: Arc<str> = qualified(parts.into_iter());
            self.touch_named(&name, access);
        }
    }

    pub(super) fn grant(&mut self, grant: &GrantStmt) {
        self.does(grant_verb(grant.is_grant), &[Effect::Grant]);
        let is_named = grant.targtype == GrantTargetType::AclTargetObject as i32;
        if is_named
            && matches!(grant.objtype(), ObjectType::ObjectTable | ObjectType::ObjectSequence)
        {
            self.relations(&grant.objects, Access::Grant);
        }
    }

    pub(super) fn published(&mut self, objects: &[Node]) {
        for object in objects {
            if let Some(NodeEnum::PublicationObjSpec(object)) = &object.node
                && let Some(table) = &object.pubtable
            {
                self.maybe_touch(table.relation.as_ref(), Access::Define);
            }
        }
    }
}

/// Whether a view of this is a door through which the catalog, or a setting, can be changed.
pub(super) fn opens_catalog(query: Option<&Node>) -> bool {
    let Some(NodeEnum::SelectStmt(select)) = query.and_then(|query| query.node.as_ref()) else {
        return false;
    };
    match select.from_clause.as_slice() {
        [only] => match &only.node {
            Some(NodeEnum::RangeVar(relation)) => {
                functions::is_catalog(&relation_name(relation)) || relation.relname == "pg_settings"
            }
            _ => false,
        },
        _ => false,
    }
}

/// Options of a view that keep its rows from who may not see them.
fn guards_rows(options: &Node) -> bool {
    let Some(NodeEnum::List(options)) = &options.node else { return false };
    options.items.iter().any(|option| match &option.node {
        Some(NodeEnum::DefElem(option)) => {
            option.defname.starts_with("security_") || option.defname == "check_option"
        }
        _ => false,
    })
}

/// Whether a column of another type still has all that it had, as far as the text tells: a type with room
/// for what its neighbours hold, and no other value than the column's own.
fn keeps_values(to: &ColumnDef, name: &str) -> bool {
    let Some(kind) = &to.type_name else { return false };
    let is_wide_type = is_wide(kind);
    match to.raw_default.as_deref().and_then(|using| using.node.as_ref()) {
        // What doesn't fit is an error then.
        None => is_wide_type || is_bounded_text(kind),
        Some(NodeEnum::TypeCast(cast)) => {
            let column = cast.arg.as_deref().and_then(|arg| arg.node.as_ref());
            let is_own = match column {
                Some(NodeEnum::ColumnRef(column)) => strings(&column.fields) == [name],
                _ => false,
            };
            is_own && is_wide_type && cast.type_name.as_ref().is_some_and(is_wide)
        }
        Some(_) => false,
    }
}

fn is_wide(kind: &TypeName) -> bool {
    let is_plain = kind.typmods.is_empty() && kind.array_bounds.is_empty();
    let names = strings(&kind.names);
    is_plain
        && matches!(
            names.last(),
            Some(
                &("text"
                    | "varchar"
                    | "int8"
                    | "numeric"
                    | "float8"
                    | "timestamptz"
                    | "timestamp"
                    | "jsonb"
                    | "json"
                    | "uuid"
                    | "bytea"
                    | "citext")
            )
        )
}

/// `varchar(n)`
fn is_bounded_text(kind: &TypeName) -> bool {
    kind.array_bounds.is_empty() && strings(&kind.names).last() == Some(&"varchar")
}

pub(super) fn grant_verb(is_grant: bool) -> &'static str {
    if is_grant { "GRANT" } else { "REVOKE" }
}
