//! Queries, and statements that write: their clauses, each with what it makes of the columns that it names.

use std::sync::Arc;

use pg_query::{
    Node, NodeEnum,
    protobuf::{
        DeleteStmt, InsertStmt, MergeStmt, MergeWhenClause, OnConflictClause, RangeVar,
        ReturningClause, SelectStmt, UpdateStmt, WithClause,
    },
};

use super::{
    Gathering, column_ref,
    expression::{namesake, position},
    listed,
    source::add,
};
use crate::{
    event::{
        By, ByOutput, Cte, Form, Inner, Mix, Of, Output, Query, Reference, Sink, Source, Values,
        Write,
    },
    statement::analysis::{
        names::{relation_name, strings},
        parts::Parts,
    },
};

impl Gathering {
    /// Gathers a query in the place that was reserved for it.
    pub(super) fn fill(&mut self, place: usize, node: Option<&NodeEnum>) {
        let mark = self.ctes.len();
        let mut query = Query::default();
        self.deeper(|it| match node {
            Some(NodeEnum::SelectStmt(select)) => it.select(&mut query, select),
            Some(inner) if !matches!(inner, NodeEnum::SelectStmt(_)) => {
                it.writes = true;
                it.writing(&mut query, inner);
            }
            _ => it.lose(),
        });
        self.ctes.truncate(mark);
        self.put(place, query);
    }

    fn writing(&mut self, query: &mut Query, node: &NodeEnum) {
        match node {
            NodeEnum::InsertStmt(insert) => self.insert(query, insert),
            NodeEnum::UpdateStmt(update) => self.update(query, update),
            NodeEnum::DeleteStmt(delete) => self.delete(query, delete),
            NodeEnum::MergeStmt(merge) => self.merge(query, merge),
            _ => self.lose(),
        }
    }

    fn select(&mut self, query: &mut Query, select: &SelectStmt) {
        let SelectStmt {
            distinct_clause,
            // Whoever has the statement says what becomes of its rows.
            into_clause: _,
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
            // Names of what the FROM has.
            locking_clause,
            with_clause,
            op: _,
            all: _,
            larg,
            rarg,
        } = select;
        self.writes |= !locking_clause.is_empty();
        self.with(query, with_clause.as_ref());
        for side in [larg, rarg].into_iter().flatten() {
            let place = self.reserve();
            let mark = self.ctes.len();
            let mut own = Query::default();
            self.deeper(|it| it.select(&mut own, side));
            self.ctes.truncate(mark);
            self.put(place, own);
            query.sides.push(place);
        }
        for node in from_clause {
            self.source(query, node);
        }
        self.outputs(query, target_list, !distinct_clause.is_empty());
        self.values(query, values_lists);
        self.flow(query, Sink::Predicate, where_clause);
        self.flow(query, Sink::Predicate, having_clause);
        self.flow(query, Sink::Window, window_clause);
        self.flow(query, Sink::Limit, limit_offset);
        self.flow(query, Sink::Limit, limit_count);
        for part in group_clause {
            self.by_output(query, Sink::Grouping, part);
        }
        for part in sort_clause {
            self.by_output(query, Sink::Ordering, part);
        }
        for part in distinct_clause {
            match part.node {
                // DISTINCT without ON has an empty node in its list.
                None => query.is_distinct = true,
                Some(_) => self.by_output(query, Sink::Distinct, part),
            }
        }
    }

    pub(super) fn flow(&mut self, query: &mut Query, sink: Sink, parts: &impl Parts) {
        let mix = self.mix(parts);
        if !mix.is_empty() {
            query.flows.push((sink, mix));
        }
    }

    fn outputs(&mut self, query: &mut Query, targets: &[Node], is_distinct: bool) {
        for target in targets {
            let Some(NodeEnum::ResTarget(target)) = &target.node else {
                self.lose();
                continue;
            };
            let name = (!target.name.is_empty()).then(|| Arc::from(target.name.as_str()));
            let output = self.one_output(name, target.val.as_deref(), is_distinct);
            query.outputs.push(output);
        }
    }

    fn one_output(
        &mut self,
        name: Option<Arc<str>>,
        value: Option<&Node>,
        is_distinct: bool,
    ) -> Output {
        let reference = value.and_then(column_ref);
        match reference.map(|reference| self.reference(reference)) {
            Some(reference) => match &reference.column {
                None => Output::Star(reference.of),
                Some(column) => {
                    let column = column.clone();
                    match name {
                        Some(name) => Output::Plain { name, of: reference },
                        None => Output::Plain { name: column, of: reference.in_form(Form::Result) },
                    }
                }
            },
            None => {
                let mut of = value.map(|it| self.mix(it)).unwrap_or_default();
                // What stands in its place must be equal to what is ordered by.
                if name.is_none() && !is_distinct {
                    self.names(&mut of, value);
                }
                Output::Computed { name, of }
            }
        }
    }

    /// Marks the reference that a result is called after.
    fn names(&self, mix: &mut Mix, result: Option<&Node>) {
        let Some(reference) = result.and_then(namesake) else { return };
        let named = self.spot(reference.location, reference.fields.len(), Form::Value);
        for spot in mix.of.iter_mut().filter_map(|reference| reference.spot.as_mut()) {
            if Some(*spot) == named {
                spot.form = Form::Namesake;
            }
        }
    }

    /// Row by row into columns.
    fn values(&mut self, query: &mut Query, lists: &[Node]) {
        let mut columns: Vec<Mix> = Vec::new();
        for list in lists {
            let Some(NodeEnum::List(list)) = &list.node else {
                self.lose();
                continue;
            };
            for (place, value) in list.items.iter().enumerate() {
                let Mix { of, inner } = self.mix(value);
                match columns.get_mut(place) {
                    Some(column) => {
                        column.of.extend(of);
                        column.inner.extend(inner);
                    }
                    None => columns.push(Mix { of, inner }),
                }
            }
        }
        for (place, of) in columns.into_iter().enumerate() {
            let name = Some(format!("column{}", place + 1).into());
            query.outputs.push(Output::Computed { name, of });
        }
    }

    /// A part of `ORDER BY`, `GROUP BY` or `DISTINCT ON`, which may be a result by place or name.
    fn by_output(&mut self, query: &mut Query, sink: Sink, part: &Node) {
        let named = match &part.node {
            Some(NodeEnum::SortBy(sort)) => sort.node.as_deref(),
            _ => Some(part),
        };
        if let Some(NodeEnum::GroupingSet(set)) = named.and_then(|node| node.node.as_ref()) {
            return self.deeper(|it| {
                set.content.iter().for_each(|inner| it.by_output(query, sink, inner));
            });
        }
        // In grouping sets, a list of several.
        if let Some(NodeEnum::RowExpr(row)) = named.and_then(|node| node.node.as_ref())
            && sink == Sink::Grouping
        {
            return self.deeper(|it| {
                row.args.iter().for_each(|inner| it.by_output(query, sink, inner));
            });
        }
        if let Some((place, location)) = named.and_then(position) {
            self.uses.is_literal_sensitive = true;
            let spot = self.spot(location, 1, Form::Place);
            return query.by_output.push(ByOutput { sink, by: By::Place(place), spot });
        }
        let reference = named.and_then(column_ref);
        match reference.map(|reference| strings(&reference.fields)).as_deref() {
            Some([name]) if reference.is_some_and(|it| it.fields.len() == 1) => {
                let spot = reference.and_then(|it| self.spot(it.location, 1, Form::Value));
                query.by_output.push(ByOutput { sink, by: By::Name(Arc::from(*name)), spot });
            }
            _ => self.flow(query, sink, part),
        }
    }

    fn with(&mut self, query: &mut Query, with: Option<&WithClause>) {
        let Some(WithClause { ctes, recursive, location: _ }) = with else { return };
        let mut found = Vec::new();
        for cte in ctes {
            match &cte.node {
                Some(NodeEnum::CommonTableExpr(cte)) => found.push(cte),
                _ => self.lose(),
            }
        }
        let places: Vec<usize> = found.iter().map(|_| self.reserve()).collect();
        let names = found.iter().zip(&places).map(|(cte, place)| (cte.ctename.clone(), *place));
        if *recursive {
            // Each sees all of them, itself too.
            self.ctes.extend(names.clone());
        }
        for ((cte, place), name) in found.iter().zip(&places).zip(names) {
            self.fill(*place, cte.ctequery.as_deref().and_then(|query| query.node.as_ref()));
            let mut extra: Vec<&String> = Vec::new();
            extra.extend(cte.search_clause.iter().map(|search| &search.search_seq_column));
            extra.extend(cte.cycle_clause.iter().map(|cycle| &cycle.cycle_mark_column));
            extra.extend(cte.cycle_clause.iter().map(|cycle| &cycle.cycle_path_column));
            query.with.push(Cte {
                query: *place,
                columns: listed(&cte.aliascolnames),
                extra: extra.into_iter().map(|name| Arc::from(name.as_str())).collect(),
            });
            if !recursive {
                // `WITH t AS (SELECT … FROM t)` reads the table.
                self.ctes.push(name);
            }
        }
    }

    fn returning(&mut self, query: &mut Query, returning: Option<&ReturningClause>) {
        let Some(ReturningClause { options, exprs }) = returning else { return };
        let target = query.from.first().map(|target| target.of.clone());
        let mut names = vec!["old".to_owned(), "new".to_owned()];
        for option in options {
            match &option.node {
                Some(NodeEnum::ReturningOption(option)) => names.push(option.value.clone()),
                _ => self.lose(),
            }
        }
        for name in names {
            if let Some(of) = target.clone() {
                let alias = name.as_str().into();
                add(query, Source { of, alias, columns: Vec::new(), is_hidden: true });
            }
        }
        self.outputs(query, exprs, false);
    }

    /// Columns of a relation that are set, and what they are set to.
    fn assignments(&mut self, query: &mut Query, relation: Option<&RangeVar>, targets: &[Node]) {
        let (mut columns, mut outputs) = (Vec::new(), Vec::new());
        for target in targets {
            match &target.node {
                Some(NodeEnum::ResTarget(target)) => {
                    self.flow(query, Sink::Write, &target.indirection);
                    columns.push(target.name.as_str().into());
                    outputs.push(self.written(query, target.val.as_deref()));
                }
                _ => self.lose(),
            }
        }
        write(query, relation, columns, Values::Outputs(outputs));
    }

    fn written(&mut self, query: &mut Query, value: Option<&Node>) -> Output {
        let output = self.one_output(None, value, false);
        let mix = match &output {
            Output::Computed { of, .. } => of.clone(),
            Output::Plain { of, .. } => Mix { of: vec![of.clone()], inner: Vec::new() },
            Output::Star(of) => {
                let of = Reference { of: of.clone(), column: None, spot: None };
                Mix { of: vec![of], inner: Vec::new() }
            }
        };
        if !mix.is_empty() {
            query.flows.push((Sink::Write, mix));
        }
        output
    }

    /// The columns that an `INSERT` names.
    fn named_targets(&mut self, query: &mut Query, targets: &[Node]) -> Vec<Arc<str>> {
        let mut columns = Vec::new();
        for target in targets {
            match &target.node {
                Some(NodeEnum::ResTarget(target)) => {
                    self.flow(query, Sink::Write, &target.indirection);
                    columns.push(target.name.as_str().into());
                }
                _ => self.lose(),
            }
        }
        columns
    }

    fn insert(&mut self, query: &mut Query, insert: &InsertStmt) {
        let InsertStmt {
            relation,
            cols,
            select_stmt,
            on_conflict_clause,
            returning_clause,
            with_clause,
            r#override: _,
        } = insert;
        self.with(query, with_clause.as_ref());
        self.target(query, relation.as_ref());
        let rows = select_stmt.as_deref().map(|rows| {
            let place = self.reserve();
            self.fill(place, rows.node.as_ref());
            let inner = vec![Inner { query: place, is_read: true }];
            query.flows.push((Sink::Write, Mix { of: Vec::new(), inner }));
            place
        });
        let columns = self.named_targets(query, cols);
        if let Some(rows) = rows {
            write(query, relation.as_ref(), columns.clone(), Values::Rows(rows));
        }
        if let Some(conflict) = on_conflict_clause {
            // What the client has given itself.
            let of = match (rows, relation) {
                (Some(rows), Some(it)) => Of::Given { rows, relation: relation_name(it), columns },
                _ => Of::Computed(Mix::default()),
            };
            self.on_conflict(query, relation.as_ref(), of, conflict);
        }
        self.returning(query, returning_clause.as_ref());
    }

    fn on_conflict(
        &mut self,
        query: &mut Query,
        relation: Option<&RangeVar>,
        of: Of,
        conflict: &OnConflictClause,
    ) {
        let OnConflictClause { action: _, infer, target_list, where_clause, location: _ } =
            conflict;
        add(query, Source { of, alias: "excluded".into(), columns: Vec::new(), is_hidden: true });
        if let Some(infer) = infer {
            self.flow(query, Sink::Predicate, &infer.index_elems);
            self.flow(query, Sink::Predicate, &infer.where_clause);
        }
        self.assignments(query, relation, target_list);
        self.flow(query, Sink::Predicate, where_clause);
    }

    fn update(&mut self, query: &mut Query, update: &UpdateStmt) {
        let UpdateStmt {
            relation,
            target_list,
            where_clause,
            from_clause,
            returning_clause,
            with_clause,
        } = update;
        self.with(query, with_clause.as_ref());
        self.target(query, relation.as_ref());
        for node in from_clause {
            self.source(query, node);
        }
        self.assignments(query, relation.as_ref(), target_list);
        self.flow(query, Sink::Predicate, where_clause);
        self.returning(query, returning_clause.as_ref());
    }

    fn delete(&mut self, query: &mut Query, delete: &DeleteStmt) {
        let DeleteStmt { relation, using_clause, where_clause, returning_clause, with_clause } =
            delete;
        self.with(query, with_clause.as_ref());
        self.target(query, relation.as_ref());
        for node in using_clause {
            self.source(query, node);
        }
        self.flow(query, Sink::Predicate, where_clause);
        self.returning(query, returning_clause.as_ref());
    }

    fn merge(&mut self, query: &mut Query, merge: &MergeStmt) {
        let MergeStmt {
            relation,
            source_relation,
            join_condition,
            merge_when_clauses,
            returning_clause,
            with_clause,
        } = merge;
        self.with(query, with_clause.as_ref());
        self.target(query, relation.as_ref());
        match source_relation.as_deref() {
            Some(source) => drop(self.source(query, source)),
            None => self.lose(),
        }
        self.flow(query, Sink::Join, join_condition);
        for clause in merge_when_clauses {
            let Some(NodeEnum::MergeWhenClause(arm)) = &clause.node else {
                self.lose();
                continue;
            };
            let MergeWhenClause {
                match_kind: _,
                command_type: _,
                r#override: _,
                condition,
                target_list,
                values,
            } = arm.as_ref();
            self.flow(query, Sink::Predicate, condition);
            if values.is_empty() {
                self.assignments(query, relation.as_ref(), target_list);
                continue;
            }
            let columns = self.named_targets(query, target_list);
            let outputs = values.iter().map(|value| self.written(query, Some(value))).collect();
            write(query, relation.as_ref(), columns, Values::Outputs(outputs));
        }
        self.returning(query, returning_clause.as_ref());
    }
}

fn write(query: &mut Query, relation: Option<&RangeVar>, columns: Vec<Arc<str>>, values: Values) {
    if let Some(relation) = relation {
        query.writes.push(Write { relation: relation_name(relation), columns, values });
    }
}
