//! Changes to what is defined, and to who may use it.

use std::sync::Arc;

use pg_query::{
    Node, NodeEnum,
    protobuf::{AlterTableCmd, AlterTableType, DropStmt, GrantStmt, GrantTargetType, ObjectType},
};

use super::{
    names::{qualified, strings},
    objects,
    walk::{Walk, visit},
};
use crate::event::{Access, Analysis, Effect};

impl Walk<'_> {
    pub(super) fn alter(&mut self, command: &Node) {
        let Some(NodeEnum::AlterTableCmd(command)) = &command.node else {
            return self.findings.unknown(Analysis::UnknownSyntax);
        };
        let AlterTableCmd {
            subtype,
            name: _,
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
            _ => {}
        }
        match def.as_deref().and_then(|def| def.node.as_ref()) {
            // A new default fills the rows that are there, a new check looks at them, a type is cast to.
            Some(NodeEnum::PartitionCmd(part)) => {
                self.maybe_touch(part.name.as_ref(), Access::Define)
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

pub(super) fn grant_verb(is_grant: bool) -> &'static str {
    if is_grant { "GRANT" } else { "REVOKE" }
}
