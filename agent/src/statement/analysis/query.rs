//! Queries: SELECT, INSERT, UPDATE, DELETE, MERGE and what they are made of.

use std::sync::Arc;

use pg_query::{
    Node, NodeEnum,
    protobuf::{
        AExprKind, Alias, CmdType, DeleteStmt, InsertStmt, IntoClause, JoinExpr, JoinType,
        MergeMatchKind, MergeStmt, MergeWhenClause, OnConflictAction, OnConflictClause,
        RangeFunction, RangeSubselect, RangeVar, ReturningClause, SelectStmt, UpdateStmt,
        WithClause,
    },
};

use super::{
    names::{Column, Scope, strings},
    reach::{self, Target},
    restrict,
    walk::{Walk, string_constant, visit},
};
use crate::event::{Access, Analysis, Effect};

impl Walk<'_> {
    /// With a scope of its own; the names around it stay visible.
    fn scoped(&mut self, walk: impl FnOnce(&mut Self)) {
        self.scopes.0.push(Scope::default());
        walk(self);
        self.scopes.0.pop();
    }

    pub(super) fn select(&mut self, select: &SelectStmt) {
        let SelectStmt {
            distinct_clause,
            into_clause,
            target_list,
            from_clause,
            where_clause,
            group_clause,
            group_distinct: _,
            having_clause,
            window_clause,
            values_lists,
            sort_clause,
            limit_offset,
            limit_count,
            limit_option: _,
            locking_clause,
            with_clause,
            op: _,
            all: _,
            larg,
            rarg,
        } = select;
        self.scoped(|walk| {
            walk.with(with_clause.as_ref());
            if larg.is_none() && values_lists.is_empty() {
                walk.findings.say("SELECT");
            } else if !values_lists.is_empty() && walk.scopes.0.len() == 1 {
                walk.findings.say("VALUES");
            }
            // The rows of an INSERT are read from nowhere.
            if values_lists.is_empty() || walk.scopes.0.len() == 1 {
                walk.effect(Effect::Read);
            }
            let is_simple = larg.is_none() && values_lists.len() < 2;
            if !is_simple || where_clause.is_some() || having_clause.is_some() {
                walk.converts();
            }
            for side in [larg, rarg].into_iter().flatten() {
                walk.deeper(|walk| walk.select(side));
            }
            // Names first: the targets are written before what they refer to.
            visit(walk, from_clause);
            if let Some(scope) = walk.scopes.current() {
                scope.outputs = target_list
                    .iter()
                    .filter_map(|target| match &target.node {
                        Some(NodeEnum::ResTarget(target)) if !target.name.is_empty() => {
                            Some(target.name.clone())
                        }
                        _ => None,
                    })
                    .collect();
            }
            let named = std::mem::replace(&mut walk.named, fixed_name(where_clause.as_deref()));
            visit(walk, target_list);
            walk.named = named;
            visit(walk, distinct_clause);
            visit(walk, where_clause);
            walk.keys(where_clause.as_deref());
            for part in group_clause.iter().chain(sort_clause) {
                if !walk.is_output(part) {
                    visit(walk, part);
                }
            }
            visit(walk, having_clause);
            visit(walk, window_clause);
            visit(walk, values_lists);
            visit(walk, limit_offset);
            visit(walk, limit_count);
            for locking in locking_clause {
                walk.locking(locking);
            }
            if let Some(into) = into_clause {
                walk.makes_table(into);
            }
        });
    }

    /// Whether a part of `ORDER BY` or `GROUP BY` is the name of a result.
    fn is_output(&self, part: &Node) -> bool {
        let named = match &part.node {
            Some(NodeEnum::SortBy(sort)) => sort.node.as_deref(),
            _ => Some(part),
        };
        let Some(NodeEnum::ColumnRef(reference)) = named.and_then(|node| node.node.as_ref()) else {
            return false;
        };
        let outputs = self.scopes.0.last().map(|scope| scope.outputs.as_slice());
        match strings(&reference.fields).as_slice() {
            [name] => outputs.unwrap_or_default().iter().any(|output| output == name),
            _ => false,
        }
    }

    fn with(&mut self, with: Option<&WithClause>) {
        let Some(WithClause { ctes, recursive, location: _ }) = with else { return };
        let names = ctes.iter().filter_map(|cte| match &cte.node {
            Some(NodeEnum::CommonTableExpr(cte)) => Some(cte.ctename.clone()),
            _ => None,
        });
        if *recursive {
            // Each sees all of them, itself too.
            let names: Vec<String> = names.collect();
            if let Some(scope) = self.scopes.current() {
                scope.ctes = names;
            }
            return visit(self, ctes);
        }
        for (cte, name) in ctes.iter().zip(names) {
            // `WITH t AS (SELECT … FROM t)` reads the table.
            visit(self, cte);
            if let Some(scope) = self.scopes.current() {
                scope.ctes.push(name);
            }
        }
    }

    fn locking(&mut self, locking: &Node) {
        let Some(NodeEnum::LockingClause(locking)) = &locking.node else {
            return self.findings.unknown(Analysis::UnknownSyntax);
        };
        self.effect(Effect::Lock);
        let all = self.scopes.0.last().map(|scope| scope.relations.clone()).unwrap_or_default();
        let named: Vec<&str> = locking
            .locked_rels
            .iter()
            .filter_map(|node| match &node.node {
                Some(NodeEnum::RangeVar(relation)) => Some(relation.relname.as_str()),
                _ => None,
            })
            .collect();
        for relation in all {
            if let Some(table) = relation.table
                && (named.is_empty() || named.contains(&relation.alias.as_str()))
            {
                self.access(&table, Access::Lock);
            }
        }
    }

    /// The table that `SELECT INTO` and `CREATE TABLE AS` make.
    pub(super) fn makes_table(&mut self, into: &IntoClause) {
        let IntoClause {
            rel,
            col_names: _,
            access_method: _,
            options: _,
            on_commit: _,
            table_space_name: _,
            view_query: _,
            skip_data,
        } = into;
        self.effect(Effect::Define);
        if let Some(relation) = rel {
            let name = self.touch(relation, Access::Define);
            if !skip_data {
                self.effect(Effect::Insert);
                self.access(&name, Access::Insert);
            }
        }
    }

    /// The table that a statement changes; it is always a table, whatever `WITH` names.
    fn target(&mut self, relation: Option<&RangeVar>, access: Access) -> Option<Arc<str>> {
        let Some(relation) = relation else {
            self.findings.unknown(Analysis::UnknownSyntax);
            return None;
        };
        Some(self.touch(relation, access))
    }

    fn name_target(&mut self, relation: Option<&RangeVar>, table: Option<&Arc<str>>) {
        if let (Some(relation), Some(table)) = (relation, table) {
            let alias = relation.alias.as_ref().map_or(&relation.relname, |alias| &alias.aliasname);
            self.name(alias, Some(table.clone()), false);
        }
    }

    /// Columns that are set, and what they are set to.
    fn assignments(&mut self, targets: &[Node], table: Option<&Arc<str>>) {
        for target in targets {
            if let (Some(NodeEnum::ResTarget(target)), Some(table)) = (&target.node, table)
                && !target.name.is_empty()
            {
                self.column(Column::Of(table.clone(), Some(target.name.clone())));
            }
            visit(self, target);
        }
    }

    /// What is given back is read, as PostgreSQL's own privileges see it.
    fn returning(&mut self, returning: Option<&ReturningClause>, table: Option<&Arc<str>>) {
        let Some(ReturningClause { options, exprs }) = returning else { return };
        for option in options {
            if let Some(NodeEnum::ReturningOption(option)) = &option.node {
                self.name(&option.value, table.cloned(), false);
            }
        }
        self.other_name("old", table);
        self.other_name("new", table);
        self.effect(Effect::Read);
        if let Some(table) = table {
            self.access(table, Access::Read);
        }
        visit(self, exprs);
    }

    pub(super) fn insert(&mut self, insert: &InsertStmt) {
        let InsertStmt {
            relation,
            cols,
            select_stmt,
            on_conflict_clause,
            returning_clause,
            with_clause,
            r#override: _,
        } = insert;
        self.scoped(|walk| {
            walk.with(with_clause.as_ref());
            walk.findings.say("INSERT");
            walk.effect(Effect::Insert);
            let table = walk.target(relation.as_ref(), Access::Insert);
            visit(walk, select_stmt);
            walk.assignments(cols, table.as_ref());
            walk.name_target(relation.as_ref(), table.as_ref());
            if let Some(conflict) = on_conflict_clause {
                walk.on_conflict(conflict, table.as_ref());
                if conflict.action == OnConflictAction::OnconflictUpdate as i32 {
                    walk.limit_to_source(relation.as_ref(), select_stmt.as_deref());
                }
            }
            walk.returning(returning_clause.as_ref(), table.as_ref());
        });
    }

    /// An INSERT of the table's own rows that updates where they are there already updates those.
    fn limit_to_source(&mut self, relation: Option<&RangeVar>, source: Option<&Node>) {
        let Some(NodeEnum::SelectStmt(select)) = source.and_then(|source| source.node.as_ref())
        else {
            return;
        };
        let own = reach::relations(&select.from_clause).into_iter().find_map(|(_, read)| {
            read.filter(|read| relation.is_some_and(|to| to.relname == read.relname))
        });
        if let Some(relation) = own
            && select.limit_count.is_none()
        {
            self.condition(select.where_clause.as_deref(), Target { relation, others: &[] });
        }
    }

    fn on_conflict(&mut self, conflict: &OnConflictClause, table: Option<&Arc<str>>) {
        let OnConflictClause { action, infer, target_list, where_clause, location: _ } = conflict;
        visit(self, infer);
        if *action == OnConflictAction::OnconflictUpdate as i32 {
            self.effect(Effect::Update);
            if let Some(table) = table {
                self.access(table, Access::Update);
            }
        }
        self.other_name("excluded", table);
        self.assignments(target_list, table);
        visit(self, where_clause);
    }

    pub(super) fn update(&mut self, update: &UpdateStmt) {
        let UpdateStmt {
            relation,
            target_list,
            where_clause,
            from_clause,
            returning_clause,
            with_clause,
        } = update;
        self.scoped(|walk| {
            walk.with(with_clause.as_ref());
            walk.findings.say("UPDATE");
            walk.effect(Effect::Update);
            let table = walk.target(relation.as_ref(), Access::Update);
            walk.name_target(relation.as_ref(), table.as_ref());
            visit(walk, from_clause);
            walk.assignments(target_list, table.as_ref());
            visit(walk, where_clause);
            walk.limit(where_clause.as_deref(), relation.as_ref(), from_clause);
            walk.keys(where_clause.as_deref());
            walk.returning(returning_clause.as_ref(), table.as_ref());
        });
    }

    pub(super) fn delete(&mut self, delete: &DeleteStmt) {
        let DeleteStmt { relation, using_clause, where_clause, returning_clause, with_clause } =
            delete;
        self.scoped(|walk| {
            walk.with(with_clause.as_ref());
            walk.findings.say("DELETE");
            walk.effect(Effect::Delete);
            let table = walk.target(relation.as_ref(), Access::Delete);
            walk.name_target(relation.as_ref(), table.as_ref());
            visit(walk, using_clause);
            visit(walk, where_clause);
            walk.limit(where_clause.as_deref(), relation.as_ref(), using_clause);
            walk.keys(where_clause.as_deref());
            walk.returning(returning_clause.as_ref(), table.as_ref());
        });
    }

    /// What a condition leaves of the target's rows; one without a target is unknown anyway.
    fn limit(&mut self, condition: Option<&Node>, relation: Option<&RangeVar>, others: &[Node]) {
        if let Some(relation) = relation {
            self.condition(condition, Target { relation, others });
        }
    }

    pub(super) fn merge(&mut self, merge: &MergeStmt) {
        let MergeStmt {
            relation,
            source_relation,
            join_condition,
            merge_when_clauses,
            returning_clause,
            with_clause,
        } = merge;
        self.scoped(|walk| {
            walk.with(with_clause.as_ref());
            walk.findings.say("MERGE");
            walk.effect(Effect::Read);
            let table = walk.target(relation.as_ref(), Access::Read);
            walk.name_target(relation.as_ref(), table.as_ref());
            visit(walk, source_relation);
            visit(walk, join_condition);
            for clause in merge_when_clauses {
                match &clause.node {
                    Some(NodeEnum::MergeWhenClause(arm)) => {
                        let Some(relation) = relation.as_ref() else { continue };
                        let others =
                            source_relation.as_deref().map_or(&[][..], std::slice::from_ref);
                        let target = Target { relation, others };
                        walk.merge_arm(arm, join_condition.as_deref(), table.as_ref(), target);
                    }
                    _ => walk.findings.unknown(Analysis::UnknownSyntax),
                }
            }
            walk.returning(returning_clause.as_ref(), table.as_ref());
        });
    }

    fn merge_arm(
        &mut self,
        arm: &MergeWhenClause,
        on: Option<&Node>,
        table: Option<&Arc<str>>,
        target: Target<'_>,
    ) {
        let MergeWhenClause {
            match_kind,
            command_type,
            r#override: _,
            condition,
            target_list,
            values,
        } = arm;
        visit(self, condition);
        self.assignments(target_list, table);
        visit(self, values);
        let (effect, access) = match CmdType::try_from(*command_type) {
            Ok(CmdType::CmdInsert) => (Effect::Insert, Access::Insert),
            Ok(CmdType::CmdUpdate) => (Effect::Update, Access::Update),
            Ok(CmdType::CmdDelete) => (Effect::Delete, Access::Delete),
            Ok(CmdType::CmdNothing) => return,
            _ => return self.findings.unknown(Analysis::UnknownSyntax),
        };
        self.effect(effect);
        if let Some(table) = table {
            self.access(table, access);
        }
        if effect == Effect::Insert {
            return;
        }
        // A matched row fulfils both conditions; one without a match only the arm's own.
        let is_matched = *match_kind == MergeMatchKind::MergeWhenMatched as i32;
        match condition.as_deref() {
            None => self.condition(on.filter(|_| is_matched), target),
            Some(own) if is_matched && !self.limits(own, target) => self.condition(on, target),
            own => self.condition(own, target),
        }
    }

    fn limits(&mut self, condition: &Node, target: Target<'_>) -> bool {
        let (truth, looked_at_literal) = restrict::truth(condition, target);
        self.findings.is_literal_sensitive |= looked_at_literal;
        matches!(truth, restrict::Truth::Depends | restrict::Truth::Never)
    }

    pub(super) fn join(&mut self, join: &JoinExpr) {
        let JoinExpr {
            jointype,
            is_natural,
            larg,
            rarg,
            using_clause,
            join_using_alias,
            quals,
            alias,
            rtindex: _,
        } = join;
        visit(self, larg);
        visit(self, rarg);
        visit(self, quals);
        if quals.is_some() {
            self.converts();
        }
        if *is_natural || !using_clause.is_empty() {
            self.implied("=");
        }
        if *jointype == JoinType::JoinInner as i32 {
            self.keys(quals.as_deref());
        }
        for alias in [join_using_alias, alias].into_iter().flatten() {
            self.name(&alias.aliasname, None, false);
        }
    }

    pub(super) fn range_subselect(&mut self, range: &RangeSubselect) {
        let RangeSubselect { lateral, subquery, alias } = range;
        // What stands beside it in FROM is visible to a lateral one only.
        let beside = match self.scopes.current() {
            Some(scope) if !lateral => std::mem::take(&mut scope.relations),
            _ => Vec::new(),
        };
        visit(self, subquery);
        if let Some(scope) = self.scopes.current() {
            scope.relations.splice(0..0, beside);
        }
        self.derived(alias.as_ref());
    }

    pub(super) fn range_function(&mut self, range: &RangeFunction) {
        let RangeFunction {
            lateral: _,
            ordinality: _,
            is_rowsfrom: _,
            functions,
            alias,
            coldeflist,
        } = range;
        visit(self, functions);
        visit(self, coldeflist);
        self.derived(alias.as_ref());
    }

    /// A name in FROM that stands for no table.
    pub(super) fn derived(&mut self, alias: Option<&Alias>) {
        self.name(alias.map_or("", |alias| &alias.aliasname), None, false);
    }
}

/// What `name = '…'` as the whole condition makes of the column `name`.
fn fixed_name(condition: Option<&Node>) -> Option<String> {
    let Some(NodeEnum::AExpr(expression)) = &condition?.node else { return None };
    let Some(NodeEnum::ColumnRef(column)) = &expression.lexpr.as_deref()?.node else { return None };
    let is_name = strings(&column.fields).last() == Some(&"name");
    let is_equal = expression.kind() == AExprKind::AexprOp && strings(&expression.name) == ["="];
    let text = expression.rexpr.as_deref().and_then(string_constant)?;
    (is_name && is_equal).then(|| text.to_owned())
}
