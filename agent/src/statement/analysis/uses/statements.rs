//! Which statements have queries in them, and which change what the names in others stand for.

use std::sync::Arc;

use pg_query::{
    Node, NodeEnum,
    protobuf::{
        AlterTableType, CopyStmt, CreateTableAsStmt, IntoClause, ObjectType, OnCommitAction,
        RangeVar, RenameStmt, SelectStmt,
    },
};

use super::{Gathering, listed};
use crate::{
    event::{Change, Create, Of, Output, Query, Rows, Sink, Source, Values, Write},
    statement::analysis::{
        names::{relation_name, strings},
        parts::{Parts, Visitor, descend},
    },
};

impl Gathering {
    pub(super) fn statement(&mut self, node: &Node) {
        self.deeper(|it| match &node.node {
            Some(inner) => it.any_statement(inner, Rows::Answered),
            None => it.lose(),
        });
    }

    fn any_statement(&mut self, node: &NodeEnum, rows: Rows) {
        use NodeEnum as N;
        match node {
            N::SelectStmt(select) => {
                let into = into_of(select);
                if let Some(into) = into {
                    self.creates(into);
                }
                self.top(node, if into.is_some() { Rows::Flow(Sink::Write) } else { rows });
            }
            N::InsertStmt(_) | N::UpdateStmt(_) | N::DeleteStmt(_) | N::MergeStmt(_) => {
                self.top(node, rows);
            }
            N::CopyStmt(it) => self.copy(it),
            N::ExplainStmt(it) => {
                self.inner(it.query.as_deref());
                if !it.options.iter().any(may_run) {
                    self.uses.queries.iter_mut().for_each(|query| query.writes.clear());
                    self.uses.creates.clear();
                }
            }
            N::PrepareStmt(it) => self.inner(it.query.as_deref()),
            N::DeclareCursorStmt(it) => self.inner(it.query.as_deref()),
            N::CreateTableAsStmt(it) => self.create_table_as(it),
            N::ExecuteStmt(it) => {
                self.uses.executes.push(it.name.as_str().into());
                self.alone(Sink::Call, &it.params);
            }
            N::CallStmt(it) => match it.funccall.as_deref() {
                Some(call) => self.alone(Sink::Call, call),
                None => self.lose(),
            },
            N::DoStmt(it) => {
                self.lose();
                self.does(&it.args);
            }
            N::CreateSchemaStmt(it) => {
                it.schema_elts.iter().for_each(|element| self.statement(element));
            }
            N::CreateStmt(it) => self.makes(it.relation.as_ref()),
            // What it shows is followed when somebody reads it; what it looks at is looked at by its author.
            N::ViewStmt(it) => {
                self.makes(it.view.as_ref());
                self.inner(it.query.as_deref());
            }
            N::AlterTableStmt(it) => {
                for command in &it.cmds {
                    self.alter(it.relation.as_ref(), command);
                }
            }
            N::RenameStmt(it) => self.rename(it),
            N::AlterObjectSchemaStmt(it) => self.change(it.relation.as_ref(), None),
            N::IndexStmt(it) => {
                let mut named = Named::default();
                it.index_params.visit(&mut named);
                it.index_including_params.visit(&mut named);
                it.where_clause.visit(&mut named);
                self.change(it.relation.as_ref(), named.columns());
            }
            N::CreateStatsStmt(it) => {
                let mut named = Named::default();
                it.exprs.visit(&mut named);
                let columns = named.columns();
                for relation in &it.relations {
                    match &relation.node {
                        Some(N::RangeVar(relation)) => self.change(Some(relation), columns.clone()),
                        _ => self.lose(),
                    }
                }
            }
            // Their code sees whole rows.
            N::CreateTrigStmt(it) => self.change(it.relation.as_ref(), None),
            N::RuleStmt(it) => {
                self.change(it.relation.as_ref(), None);
                self.alone(Sink::Predicate, &it.where_clause);
                it.actions.iter().for_each(|action| self.statement(action));
            }
            N::CreatePolicyStmt(it) => {
                self.change(it.table.as_ref(), None);
                self.alone(Sink::Predicate, &it.qual);
                self.alone(Sink::Predicate, &it.with_check);
            }
            N::AlterPolicyStmt(it) => {
                self.change(it.table.as_ref(), None);
                self.alone(Sink::Predicate, &it.qual);
                self.alone(Sink::Predicate, &it.with_check);
            }
            // No query of a client's is in them; what they do, and code that they run, the facts tell.
            _ => {}
        }
    }

    fn inner(&mut self, query: Option<&Node>) {
        match query {
            Some(query) => self.statement(query),
            None => self.lose(),
        }
    }

    fn top(&mut self, node: &NodeEnum, rows: Rows) {
        let place = self.reserve();
        self.fill(place, Some(node));
        self.uses.top.push((place, rows));
    }

    /// What stands in no query.
    fn alone(&mut self, sink: Sink, parts: &impl Parts) {
        let mix = self.mix(parts);
        let place = self.reserve();
        self.put(place, Query { flows: vec![(sink, mix)], ..Query::default() });
        self.uses.top.push((place, Rows::Answered));
    }

    fn copy(&mut self, copy: &CopyStmt) {
        // What comes in is the client's own, and so is what a condition says of that.
        if copy.is_from {
            return;
        }
        match (&copy.relation, copy.query.as_deref().and_then(|query| query.node.as_ref())) {
            (Some(relation), None) => {
                self.uses.copied = Some((relation_name(relation), listed(&copy.attlist)));
            }
            (None, Some(query)) => self.any_statement(query, Rows::Copied),
            _ => self.lose(),
        }
    }

    fn create_table_as(&mut self, create: &CreateTableAsStmt) {
        match create.into.as_deref() {
            // Its definition tells what it shows.
            Some(into) if create.objtype() == ObjectType::ObjectMatview => {
                self.makes(into.rel.as_ref());
            }
            Some(into) => self.creates(into),
            None => self.lose(),
        }
        match create.query.as_deref().and_then(|query| query.node.as_ref()) {
            Some(query @ NodeEnum::SelectStmt(_)) => self.top(query, Rows::Flow(Sink::Write)),
            // EXECUTE has rows that nobody sees here.
            _ => self.lose(),
        }
    }

    /// The query of what is made is the next one.
    fn creates(&mut self, into: &IntoClause) {
        self.makes(into.rel.as_ref());
        let Some(relation) = &into.rel else { return self.lose() };
        self.uses.creates.push(Create {
            relation: relation_name(relation),
            columns: listed(&into.col_names),
            query: self.uses.queries.len(),
            is_temporary: is_temporary(relation),
            is_dropped: into.on_commit() == OnCommitAction::OncommitDrop,
        });
    }

    /// `DO`, unless it says that it is in another language.
    fn does(&mut self, arguments: &[Node]) {
        let mut language = "plpgsql";
        let mut body = None;
        for argument in arguments {
            let Some(NodeEnum::DefElem(argument)) = &argument.node else { continue };
            let value = argument.arg.as_deref().and_then(|value| value.node.as_ref());
            match (argument.defname.as_str(), value) {
                ("as", Some(NodeEnum::String(text))) => body = Some(text.sval.as_str()),
                ("language", Some(NodeEnum::String(text))) => language = &text.sval,
                _ => {}
            }
        }
        self.uses.is_literal_sensitive = true;
        self.uses.does.extend(body.filter(|_| language == "plpgsql").map(Arc::from));
    }

    fn makes(&mut self, relation: Option<&RangeVar>) {
        if let Some(relation) = relation.filter(|relation| is_temporary(relation)) {
            self.uses.temporary.push(relation.relname.as_str().into());
        }
    }

    fn change(&mut self, relation: Option<&RangeVar>, columns: Option<Vec<Arc<str>>>) {
        if let Some(relation) = relation {
            self.uses.changes.push(Change { relation: relation_name(relation), columns });
        }
    }

    /// `ALTER COLUMN column TYPE … USING …`
    fn converts(&mut self, relation: &RangeVar, column: &str, using: &Node) {
        let name = relation_name(relation);
        let (of, alias) = (Of::Relation(name.clone()), relation.relname.as_str().into());
        let from = vec![Source { of, alias, columns: Vec::new(), is_hidden: false }];
        let made = Output::Computed { name: None, of: self.mix(using) };
        let (columns, values) = (vec![column.into()], Values::Outputs(vec![made]));
        let writes = vec![Write { relation: name, columns, values }];
        let place = self.reserve();
        self.put(place, Query { from, writes, ..Query::default() });
        self.uses.aside.push(place);
    }

    fn alter(&mut self, relation: Option<&RangeVar>, command: &Node) {
        let Some(NodeEnum::AlterTableCmd(command)) = &command.node else { return self.lose() };
        if let (AlterTableType::AtAlterColumnType, Some(relation), Some(NodeEnum::ColumnDef(def))) =
            (command.subtype(), relation, command.def.as_deref().and_then(|def| def.node.as_ref()))
            && let Some(using) = def.raw_default.as_deref()
        {
            self.converts(relation, &command.name, using);
        }
        let columns = match command.subtype() {
            AlterTableType::AtDropColumn | AlterTableType::AtDropConstraint => Some(Vec::new()),
            _ => {
                let mut named = Named::default();
                named.names.push(command.name.as_str().into());
                match command.def.as_deref().and_then(|def| def.node.as_ref()) {
                    // Another relation.
                    Some(NodeEnum::PartitionCmd(_) | NodeEnum::RangeVar(_)) | None => {}
                    Some(def) => named.node(def),
                }
                named.columns()
            }
        };
        self.change(relation, columns);
    }

    fn rename(&mut self, rename: &RenameStmt) {
        match rename.rename_type() {
            ObjectType::ObjectColumn => {
                let columns = vec![rename.subname.as_str().into()];
                self.change(rename.relation.as_ref(), Some(columns));
            }
            ObjectType::ObjectTable
            | ObjectType::ObjectView
            | ObjectType::ObjectMatview
            | ObjectType::ObjectForeignTable => self.change(rename.relation.as_ref(), None),
            // Labels speak of it.
            ObjectType::ObjectSchema | ObjectType::ObjectDatabase => self.lose(),
            _ => {}
        }
    }
}

/// Whether a statement does nothing but to show what its query gives; what that does itself, its walk tells.
pub(super) fn only_reads(statement: &Node) -> bool {
    let mut statement = statement;
    loop {
        let inner = match &statement.node {
            Some(NodeEnum::SelectStmt(select)) => return select.into_clause.is_none(),
            Some(NodeEnum::ExplainStmt(it)) => it.query.as_deref(),
            Some(NodeEnum::PrepareStmt(it)) => it.query.as_deref(),
            Some(NodeEnum::DeclareCursorStmt(it)) => it.query.as_deref(),
            Some(NodeEnum::CopyStmt(it)) if !it.is_from => it.query.as_deref(),
            _ => None,
        };
        match inner {
            Some(inner) => statement = inner,
            None => return false,
        }
    }
}

fn is_temporary(relation: &RangeVar) -> bool {
    relation.relpersistence == "t" || relation.schemaname.starts_with("pg_temp")
}

/// Of several queries, the first one has it.
fn into_of(select: &SelectStmt) -> Option<&IntoClause> {
    let mut select = select;
    while let (None, Some(first)) = (&select.into_clause, &select.larg) {
        select = first;
    }
    select.into_clause.as_deref()
}

/// `ANALYZE`, unless it is surely off.
fn may_run(option: &Node) -> bool {
    let Some(NodeEnum::DefElem(option)) = &option.node else { return true };
    option.defname == "analyze"
}

/// All that may be a column's name in a definition.
#[derive(Default)]
struct Named {
    names: Vec<Arc<str>>,
    is_any: bool,
}

impl Named {
    fn columns(self) -> Option<Vec<Arc<str>>> {
        (!self.is_any).then_some(self.names)
    }
}

impl Visitor for Named {
    fn node(&mut self, node: &NodeEnum) {
        match node {
            // Names of types are none of columns.
            NodeEnum::TypeName(_) => {}
            NodeEnum::TypeCast(cast) => cast.arg.visit(self),
            NodeEnum::ColumnDef(column) => {
                column.raw_default.visit(self);
                column.constraints.visit(self);
            }
            NodeEnum::String(name) => self.names.push(name.sval.as_str().into()),
            NodeEnum::ColumnRef(reference) => {
                let names = strings(&reference.fields);
                self.is_any |= names.len() < reference.fields.len();
                self.names.extend(names.into_iter().map(Arc::from));
            }
            NodeEnum::IndexElem(element) => {
                self.names.push(element.name.as_str().into());
                descend(node, self);
            }
            NodeEnum::StatsElem(element) => {
                self.names.push(element.name.as_str().into());
                descend(node, self);
            }
            _ => descend(node, self),
        }
    }

    fn stranger(&mut self) {
        self.is_any = true;
    }
}
