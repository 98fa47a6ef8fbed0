//! Statements that are no queries: definitions, privileges, settings, transactions, and those that carry a
//! query in them.

use pg_query::{
    Node, NodeEnum,
    protobuf::{ObjectType, RangeVar, VariableSetKind, VariableSetStmt},
};

use super::{
    definitions::{grant_verb, opens_catalog},
    names::relation_name,
    objects, settings,
    walk::{Mode, Walk, visit},
};
use crate::event::{Access, Analysis, COMPUTES, Effect, Trait};

impl Walk<'_> {
    /// A statement, at the top of a text or inside of another.
    pub(super) fn statement(&mut self, node: &Node) {
        self.deeper(|walk| match &node.node {
            Some(inner) => walk.any_statement(node, inner),
            None => walk.findings.unknown(Analysis::UnknownSyntax),
        });
    }

    fn any_statement(&mut self, node: &Node, inner: &NodeEnum) {
        if !matches!(
            inner,
            NodeEnum::SelectStmt(_)
                | NodeEnum::InsertStmt(_)
                | NodeEnum::UpdateStmt(_)
                | NodeEnum::DeleteStmt(_)
                | NodeEnum::MergeStmt(_)
        ) {
            // Options, names and bodies come as literals: what such a statement means hangs on them.
            self.findings.is_literal_sensitive |= !self.template.literals().is_empty();
            return self.utility(inner);
        }
        visit(self, node);
    }

    fn utility(&mut self, statement: &NodeEnum) {
        use NodeEnum as N;
        match statement {
            // With a query in them.
            N::CopyStmt(it) => self.copy(it),
            N::ExplainStmt(it) => self.explain(it),
            N::CreateTableAsStmt(it) => self.create_table_as(it),
            N::PrepareStmt(it) => {
                // Judged here, where its text is known: EXECUTE shows none.
                self.does("PREPARE", &[Effect::Session]);
                visit(self, &it.argtypes);
                let before = std::mem::replace(&mut self.is_preparing, true);
                self.inner(it.query.as_deref());
                self.is_preparing = before;
            }
            N::ExecuteStmt(it) => {
                self.does("EXECUTE", &[Effect::Call]);
                visit(self, &it.params);
                self.findings.is_session_sensitive = true;
                match self.session.prepared.run(&it.name) {
                    Some(known) if self.mode == Mode::Runs => {
                        known.iter().for_each(|facts| self.findings.repeat(facts));
                    }
                    _ => {
                        self.opaque();
                        if self.mode == Mode::Runs {
                            self.findings.unknown(Analysis::CallsCode);
                        }
                    }
                }
            }
            N::DeclareCursorStmt(it) => {
                self.does("DECLARE", &[Effect::Session]);
                self.inner(it.query.as_deref());
            }
            N::ViewStmt(it) => {
                self.defines("CREATE VIEW", it.view.as_ref());
                if opens_catalog(it.query.as_deref()) {
                    self.stands_out(Trait::CatalogWrite);
                }
                self.as_mode(Mode::View, |walk| walk.inner(it.query.as_deref()));
            }
            N::RuleStmt(it) => {
                self.defines("CREATE RULE", it.relation.as_ref());
                self.stands_out(Trait::Code);
                self.as_mode(Mode::Kept, |walk| {
                    visit(walk, &it.where_clause);
                    it.actions.iter().for_each(|action| walk.statement(action));
                });
            }

            // Code.
            N::DoStmt(_) => {
                self.does("DO", &[]);
                self.code("?");
                self.findings.unknown(Analysis::CallsCode);
            }
            N::CallStmt(it) => self.call_procedure(it),
            N::CreateFunctionStmt(it) => self.create_function(it),
            N::ReturnStmt(it) => visit(self, &it.returnval),
            N::CreateTrigStmt(it) => {
                self.defines("CREATE TRIGGER", it.relation.as_ref());
                self.stands_out(Trait::Code);
                self.as_mode(Mode::Kept, |walk| visit(walk, &it.when_clause));
            }
            N::LoadStmt(_) => {
                self.does("LOAD", &[Effect::Program]);
                self.stands_out(Trait::Native);
                self.code("?");
                self.findings.unknown(Analysis::CallsCode);
            }

            // Tables and what belongs to them.
            N::CreateStmt(it) => {
                self.defines("CREATE TABLE", it.relation.as_ref());
                self.as_mode(Mode::Kept, |walk| {
                    visit(walk, &it.table_elts);
                    visit(walk, &it.constraints);
                    visit(walk, &it.partspec);
                    visit(walk, &it.partbound);
                    visit(walk, &it.of_typename);
                });
            }
            N::CreateForeignTableStmt(it) => {
                let table = it.base_stmt.as_ref();
                self.stands_out(Trait::OtherServer);
                self.defines(
                    "CREATE FOREIGN TABLE",
                    table.and_then(|table| table.relation.as_ref()),
                );
                self.as_mode(Mode::Kept, |walk| {
                    if let Some(table) = table {
                        visit(walk, &table.table_elts);
                    }
                });
            }
            N::AlterTableStmt(it) => {
                let verb = format!("ALTER {}", objects::title(it.objtype()));
                self.defines(&verb, it.relation.as_ref());
                self.findings.name(COMPUTES.into());
                it.cmds.iter().for_each(|command| self.alter(command));
            }
            N::IndexStmt(it) => {
                self.defines("CREATE INDEX", it.relation.as_ref());
                // Its expressions are computed for each row that is there.
                visit(self, &it.index_params);
                visit(self, &it.where_clause);
            }
            N::CreateStatsStmt(it) => {
                self.does("CREATE STATISTICS", &[Effect::Define]);
                self.relations(&it.relations, Access::Define);
                self.as_mode(Mode::Kept, |walk| visit(walk, &it.exprs));
            }
            N::CreateSeqStmt(it) => self.defines("CREATE SEQUENCE", it.sequence.as_ref()),
            N::AlterSeqStmt(it) => self.defines("ALTER SEQUENCE", it.sequence.as_ref()),
            N::CompositeTypeStmt(it) => {
                self.does("CREATE TYPE", &[Effect::Define]);
                self.as_mode(Mode::Kept, |walk| visit(walk, &it.coldeflist));
            }
            N::CreateDomainStmt(it) => {
                self.does("CREATE DOMAIN", &[Effect::Define]);
                self.as_mode(Mode::Kept, |walk| visit(walk, &it.constraints));
            }
            N::AlterDomainStmt(it) => {
                self.does("ALTER DOMAIN", &[Effect::Define]);
                // A new check is held against the rows that are there.
                visit(self, &it.def);
            }
            N::RenameStmt(it) => {
                let kind = match it.rename_type() {
                    ObjectType::ObjectColumn | ObjectType::ObjectAttribute => it.relation_type(),
                    kind => kind,
                };
                let verb = format!("ALTER {}", objects::title(kind));
                self.defines(&verb, it.relation.as_ref());
                if let Some(relation) = &it.relation
                    && objects::is_relation(it.rename_type())
                {
                    let renamed = RangeVar { relname: it.newname.clone(), ..relation.clone() };
                    self.access(&relation_name(&renamed), Access::Define);
                }
                self.renames_code(kind);
                match kind {
                    ObjectType::ObjectRole => self.effect(Effect::Grant),
                    ObjectType::ObjectDatabase | ObjectType::ObjectTablespace => {
                        self.stands_out(Trait::LastingSetting);
                    }
                    _ => {}
                }
            }
            N::AlterObjectSchemaStmt(it) => {
                self.renames_code(it.object_type());
                let verb = format!("ALTER {}", objects::title(it.object_type()));
                self.defines(&verb, it.relation.as_ref());
            }
            N::AlterObjectDependsStmt(it) => {
                let verb = format!("ALTER {}", objects::title(it.object_type()));
                self.defines(&verb, it.relation.as_ref());
            }
            N::AlterOwnerStmt(it) => {
                let verb = format!("ALTER {}", objects::title(it.object_type()));
                self.does(&verb, &[Effect::Define, Effect::Grant]);
                if let Some(relation) = &it.relation {
                    self.touch(relation, Access::Grant);
                }
            }
            N::CommentStmt(it) => self.commented("COMMENT", it.objtype(), it.object.as_deref()),
            N::SecLabelStmt(it) => {
                self.commented("SECURITY LABEL", it.objtype(), it.object.as_deref());
                self.effect(Effect::Grant);
            }
            N::DropStmt(it) => self.drop_objects(it),
            N::TruncateStmt(it) => {
                self.does("TRUNCATE", &[Effect::Truncate]);
                self.relations(&it.relations, Access::Truncate);
            }
            N::LockStmt(it) => {
                self.does("LOCK", &[Effect::Lock]);
                self.relations(&it.relations, Access::Lock);
            }
            N::RefreshMatViewStmt(it) => {
                self.does("REFRESH MATERIALIZED VIEW", &[Effect::Update]);
                self.findings.name(COMPUTES.into());
                self.maybe_touch(it.relation.as_ref(), Access::Update);
            }

            // Privileges.
            N::GrantStmt(it) => self.grant(it),
            N::GrantRoleStmt(it) => self.does(grant_verb(it.is_grant), &[Effect::Grant]),
            N::AlterDefaultPrivilegesStmt(_) => {
                self.does("ALTER DEFAULT PRIVILEGES", &[Effect::Grant]);
            }
            N::CreateRoleStmt(_) => self.does("CREATE ROLE", &[Effect::Define, Effect::Grant]),
            N::AlterRoleStmt(_) => self.does("ALTER ROLE", &[Effect::Grant]),
            N::DropRoleStmt(_) => self.does("DROP ROLE", &[Effect::Drop, Effect::Grant]),
            N::ReassignOwnedStmt(_) => self.does("REASSIGN OWNED", &[Effect::Grant]),
            N::DropOwnedStmt(_) => self.does("DROP OWNED", &[Effect::Drop, Effect::Grant]),
            N::CreatePolicyStmt(it) => {
                self.defines("CREATE POLICY", it.table.as_ref());
                self.effect(Effect::Grant);
                self.as_mode(Mode::Kept, |walk| {
                    visit(walk, &it.qual);
                    visit(walk, &it.with_check);
                });
            }
            N::AlterPolicyStmt(it) => {
                self.defines("ALTER POLICY", it.table.as_ref());
                self.effect(Effect::Grant);
                self.as_mode(Mode::Kept, |walk| {
                    visit(walk, &it.qual);
                    visit(walk, &it.with_check);
                });
            }

            // The session.
            N::TransactionStmt(it) => {
                let verb = objects::transaction_title(it.kind());
                self.does(verb, &[Effect::Session]);
                if settings::opens_for_writing(&it.options) {
                    self.findings.is_session_sensitive = true;
                    if self.session.in_transaction {
                        self.stands_out(Trait::ReadWrite);
                    }
                }
            }
            N::VariableSetStmt(it) => {
                let is_reset =
                    matches!(it.kind(), VariableSetKind::VarReset | VariableSetKind::VarResetAll);
                self.set(if is_reset { "RESET" } else { "SET" }, Effect::Session, it);
            }
            N::VariableShowStmt(it) => {
                self.does("SHOW", &[Effect::Read]);
                self.findings.say(&it.name);
            }
            N::DiscardStmt(_) => self.does("DISCARD", &[Effect::Session]),
            N::DeallocateStmt(_) => self.does("DEALLOCATE", &[Effect::Session]),
            N::ClosePortalStmt(_) => self.does("CLOSE", &[Effect::Session]),
            N::FetchStmt(it) if it.ismove => self.does("MOVE", &[Effect::Session]),
            // What the cursor does was judged where it was declared.
            N::FetchStmt(_) => self.does("FETCH", &[Effect::Read]),
            N::ListenStmt(_) => self.does("LISTEN", &[Effect::Session]),
            N::UnlistenStmt(_) => self.does("UNLISTEN", &[Effect::Session]),
            N::NotifyStmt(_) => self.does("NOTIFY", &[Effect::Session]),
            N::ConstraintsSetStmt(_) => self.does("SET CONSTRAINTS", &[Effect::Session]),

            // The server and its upkeep.
            N::AlterSystemStmt(it) => self.set_in("ALTER SYSTEM", it.setstmt.as_ref()),
            N::AlterDatabaseSetStmt(it) => self.set_in("ALTER DATABASE", it.setstmt.as_ref()),
            N::AlterRoleSetStmt(it) => self.set_in("ALTER ROLE", it.setstmt.as_ref()),
            N::AlterDatabaseStmt(_) => {
                self.does("ALTER DATABASE", &[Effect::Configure]);
                self.stands_out(Trait::LastingSetting);
            }
            N::AlterDatabaseRefreshCollStmt(_) => {
                self.does("ALTER DATABASE", &[Effect::Configure]);
            }
            N::VacuumStmt(it) => {
                let verb = if it.is_vacuumcmd { "VACUUM" } else { "ANALYZE" };
                self.does(verb, &[Effect::Configure]);
                self.findings.name(COMPUTES.into());
                for relation in &it.rels {
                    if let Some(NodeEnum::VacuumRelation(relation)) = &relation.node {
                        self.maybe_touch(relation.relation.as_ref(), Access::Lock);
                    }
                }
            }
            N::ClusterStmt(it) => {
                self.does("CLUSTER", &[Effect::Configure, Effect::Lock]);
                self.findings.name(COMPUTES.into());
                self.maybe_touch(it.relation.as_ref(), Access::Lock);
            }
            N::ReindexStmt(it) => {
                self.does("REINDEX", &[Effect::Configure, Effect::Lock]);
                self.findings.name(COMPUTES.into());
                self.maybe_touch(it.relation.as_ref(), Access::Lock);
            }
            N::CheckPointStmt(_) => self.does("CHECKPOINT", &[Effect::Configure]),
            N::CreateTableSpaceStmt(_) => {
                self.does("CREATE TABLESPACE", &[Effect::Define, Effect::Program]);
                self.stands_out(Trait::ServerFile);
            }
            N::DropTableSpaceStmt(_) => {
                self.does("DROP TABLESPACE", &[Effect::Drop, Effect::Program]);
            }
            N::AlterTableSpaceOptionsStmt(_) => {
                self.does("ALTER TABLESPACE", &[Effect::Configure]);
                self.stands_out(Trait::LastingSetting);
            }
            N::AlterTableMoveAllStmt(_) => self.does("ALTER TABLE", &[Effect::Define]),
            N::CreatedbStmt(_) => self.does("CREATE DATABASE", &[Effect::Define]),
            N::DropdbStmt(_) => self.does("DROP DATABASE", &[Effect::Drop]),

            // Extensions run a script of theirs, with more rights than their caller has.
            N::CreateExtensionStmt(_) => self.runs_script("CREATE EXTENSION"),
            N::AlterExtensionStmt(_) => self.runs_script("ALTER EXTENSION"),
            N::AlterExtensionContentsStmt(_) => {
                self.does("ALTER EXTENSION", &[Effect::Define]);
                self.stands_out(Trait::Extension);
            }

            // Other servers.
            N::CreateForeignServerStmt(_) => {
                self.does("CREATE SERVER", &[Effect::Define, Effect::Configure]);
                self.stands_out(Trait::OtherServer);
            }
            N::AlterForeignServerStmt(_) => {
                self.does("ALTER SERVER", &[Effect::Define, Effect::Configure]);
                self.stands_out(Trait::OtherServer);
            }
            N::CreateUserMappingStmt(_) => {
                self.does("CREATE USER MAPPING", &[Effect::Define, Effect::Grant]);
            }
            N::AlterUserMappingStmt(_) => {
                self.does("ALTER USER MAPPING", &[Effect::Define, Effect::Grant]);
            }
            N::DropUserMappingStmt(_) => {
                self.does("DROP USER MAPPING", &[Effect::Drop, Effect::Grant]);
            }
            N::ImportForeignSchemaStmt(_) => {
                self.does("IMPORT FOREIGN SCHEMA", &[Effect::Define]);
                self.stands_out(Trait::OtherServer);
            }
            N::CreatePublicationStmt(it) => {
                self.does("CREATE PUBLICATION", &[Effect::Define, Effect::Replicate]);
                self.published(&it.pubobjects);
            }
            N::AlterPublicationStmt(it) => {
                self.does("ALTER PUBLICATION", &[Effect::Define, Effect::Replicate]);
                self.published(&it.pubobjects);
            }
            N::CreateSubscriptionStmt(_) => {
                self.does("CREATE SUBSCRIPTION", &[Effect::Define, Effect::Replicate]);
            }
            N::AlterSubscriptionStmt(_) => {
                self.does("ALTER SUBSCRIPTION", &[Effect::Define, Effect::Replicate]);
            }
            N::DropSubscriptionStmt(_) => {
                self.does("DROP SUBSCRIPTION", &[Effect::Drop, Effect::Replicate]);
            }

            N::CreateSchemaStmt(it) => {
                self.does("CREATE SCHEMA", &[Effect::Define]);
                it.schema_elts.iter().for_each(|element| self.statement(element));
            }
            N::AlterFunctionStmt(it) => {
                self.does("ALTER FUNCTION", &[Effect::Define]);
                self.stands_out(Trait::Code);
                self.sets_when_called(&it.actions);
            }
            other => match objects::definition_title(other) {
                Some(verb) => {
                    self.does(verb, &[Effect::Define]);
                    objects::definition_traits(other).iter().for_each(|by| self.stands_out(*by));
                }
                None => self.findings.unknown(Analysis::UnknownSyntax),
            },
        }
    }

    pub(super) fn does(&mut self, verb: &str, effects: &[Effect]) {
        self.findings.say(verb);
        effects.iter().for_each(|effect| self.effect(*effect));
    }

    fn defines(&mut self, verb: &str, relation: Option<&RangeVar>) {
        self.does(verb, &[Effect::Define]);
        self.maybe_touch(relation, Access::Define);
    }

    pub(super) fn maybe_touch(&mut self, relation: Option<&RangeVar>, access: Access) {
        if let Some(relation) = relation {
            self.touch(relation, access);
        }
    }

    pub(super) fn relations(&mut self, relations: &[Node], access: Access) {
        for relation in relations {
            match &relation.node {
                Some(NodeEnum::RangeVar(relation)) => drop(self.touch(relation, access)),
                _ => self.findings.unknown(Analysis::UnknownSyntax),
            }
        }
    }

    pub(super) fn inner(&mut self, query: Option<&Node>) {
        match query {
            Some(query) => self.statement(query),
            None => self.findings.unknown(Analysis::UnknownSyntax),
        }
    }

    fn set(&mut self, verb: &str, effect: Effect, set: &VariableSetStmt) {
        self.does(verb, &[effect]);
        self.findings.say(&set.name);
        self.sets(set);
    }

    fn sets(&mut self, set: &VariableSetStmt) {
        let is_all = set.kind() == VariableSetKind::VarResetAll;
        self.findings.setting(if is_all { "all" } else { &set.name });
        match set.kind() {
            VariableSetKind::VarResetAll => {}
            // `SET TRANSACTION …` and `SET SESSION CHARACTERISTICS AS …`
            VariableSetKind::VarSetMulti => {
                if settings::opens_for_writing(&set.args) {
                    self.stands_out(Trait::ReadWrite);
                }
            }
            _ => {
                if let Some(by) = settings::stands_out(&set.name, &settings::to(set)) {
                    self.stands_out(by);
                }
            }
        }
    }

    /// `SET name = …` among a function's options: it holds whenever the function runs.
    pub(super) fn sets_when_called(&mut self, options: &[Node]) {
        for option in options {
            if let Some(NodeEnum::DefElem(option)) = &option.node
                && let Some(NodeEnum::VariableSetStmt(set)) =
                    option.arg.as_deref().and_then(|arg| arg.node.as_ref())
            {
                self.sets(set);
            }
        }
    }

    fn set_in(&mut self, verb: &str, set: Option<&VariableSetStmt>) {
        self.stands_out(Trait::LastingSetting);
        match set {
            Some(set) => self.set(verb, Effect::Configure, set),
            None => self.does(verb, &[Effect::Configure]),
        }
    }

    fn runs_script(&mut self, verb: &str) {
        self.does(verb, &[Effect::Define]);
        self.stands_out(Trait::Extension);
        self.opaque();
    }

    /// Under another name code may be found where other code was meant.
    fn renames_code(&mut self, kind: ObjectType) {
        if objects::is_code(kind) {
            self.stands_out(Trait::Code);
        }
    }
}
