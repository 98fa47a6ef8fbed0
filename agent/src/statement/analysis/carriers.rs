//! Statements that carry a query or code in them, which runs or doesn't.

use pg_query::{
    Node, NodeEnum,
    protobuf::{
        CallStmt, CopyStmt, CreateFunctionStmt, CreateTableAsStmt, DefElem, ExplainStmt,
        ObjectType, a_const::Val,
    },
};

use super::{
    copy_form::copy_form,
    names::{Column, qualified, strings},
    restrict,
    walk::{Mode, Walk, visit},
};
use crate::event::{Access, Effect, Trait};

impl Walk<'_> {
    pub(super) fn copy(&mut self, copy: &CopyStmt) {
        let CopyStmt {
            relation,
            query,
            attlist,
            is_from,
            is_program,
            filename,
            options,
            where_clause,
        } = copy;
        // They say how its rows are written.
        self.findings.is_literal_sensitive |= !options.is_empty();
        if !is_from && filename.is_empty() && !is_program {
            self.findings.copy = copy_form(copy).map(Box::new);
        }
        self.does("COPY", &[]);
        if *is_program || !filename.is_empty() {
            self.effect(Effect::Program);
            let by = if *is_program { Trait::ServerProgram } else { Trait::ServerFile };
            self.stands_out(by);
        }
        let (way, effect, access) = match is_from {
            true => (Effect::CopyIn, Effect::Insert, Access::Insert),
            false => (Effect::CopyOut, Effect::Read, Access::Read),
        };
        self.effect(way);
        if let Some(relation) = relation {
            self.effect(effect);
            let table = self.touch(relation, access);
            if attlist.is_empty() && !is_from {
                self.column(Column::Of(table.clone(), None));
            }
            for column in strings(attlist) {
                self.column(Column::Of(table.clone(), Some(column.to_owned())));
            }
        }
        if let Some(query) = query {
            self.statement(query);
        }
        visit(self, where_clause);
    }

    pub(super) fn explain(&mut self, explain: &ExplainStmt) {
        let ExplainStmt { query, options } = explain;
        self.does("EXPLAIN", &[Effect::Read]);
        // The last one counts, as PostgreSQL has it.
        let analyze = options.iter().rev().find_map(|option| match &option.node {
            Some(NodeEnum::DefElem(option)) if option.defname == "analyze" => Some(is_on(option)),
            _ => None,
        });
        match analyze.unwrap_or(false) {
            true => self.inner(query.as_deref()),
            false => self.as_mode(Mode::Planned, |walk| walk.inner(query.as_deref())),
        }
    }

    pub(super) fn create_table_as(&mut self, create: &CreateTableAsStmt) {
        let CreateTableAsStmt { query, into, objtype, is_select_into: _, if_not_exists: _ } =
            create;
        let is_view = *objtype == ObjectType::ObjectMatview as i32;
        self.does(if is_view { "CREATE MATERIALIZED VIEW" } else { "CREATE TABLE" }, &[]);
        if let Some(into) = into {
            self.makes_table(into);
        }
        // `WITH NO DATA` keeps the query of a view and forgets that of a table.
        match into.as_ref().is_some_and(|into| into.skip_data) {
            false => self.inner(query.as_deref()),
            true if is_view => self.as_mode(Mode::View, |walk| walk.inner(query.as_deref())),
            true => self.as_mode(Mode::Planned, |walk| walk.inner(query.as_deref())),
        }
    }

    pub(super) fn call_procedure(&mut self, call: &CallStmt) {
        let CallStmt { funccall, funcexpr: _, outargs: _ } = call;
        self.does("CALL", &[Effect::Call]);
        if let Some(function) = funccall {
            let name = qualified(strings(&function.funcname).into_iter());
            self.findings.say(&name);
            self.findings.function(name.clone());
            self.findings.call(&name);
            visit(self, &function.args);
        }
        self.opaque();
    }

    pub(super) fn create_function(&mut self, create: &CreateFunctionStmt) {
        let CreateFunctionStmt {
            is_procedure,
            replace: _,
            funcname,
            parameters,
            return_type: _,
            options,
            sql_body,
        } = create;
        self.does(
            if *is_procedure { "CREATE PROCEDURE" } else { "CREATE FUNCTION" },
            &[Effect::Define],
        );
        if options.iter().any(is_native) {
            // It loads a library into the server.
            self.effect(Effect::Program);
            self.stands_out(Trait::Native);
        }
        self.stands_out(Trait::Code);
        self.findings.say(&qualified(strings(funcname).into_iter()));
        self.sets_when_called(options);
        self.as_mode(Mode::Kept, |walk| {
            visit(walk, parameters);
            if let Some(body) = sql_body {
                walk.body(body);
            }
        });
    }

    /// `BEGIN ATOMIC …`: a list of lists of statements.
    pub(super) fn body(&mut self, body: &Node) {
        match &body.node {
            Some(NodeEnum::List(list)) => {
                self.deeper(|walk| list.items.iter().for_each(|item| walk.body(item)));
            }
            _ => self.statement(body),
        }
    }
}

/// `LANGUAGE c`.
fn is_native(option: &Node) -> bool {
    let Some(NodeEnum::DefElem(option)) = &option.node else { return false };
    match option.arg.as_deref().and_then(|arg| arg.node.as_ref()) {
        Some(NodeEnum::String(language)) => {
            option.defname == "language" && language.sval.eq_ignore_ascii_case("c")
        }
        _ => false,
    }
}

/// An option that is on unless it says otherwise, as `defGetBoolean` reads it; what that refuses counts
/// as on.
pub(super) fn is_on(option: &DefElem) -> bool {
    let Some(argument) = option.arg.as_deref() else { return true };
    let word = match &argument.node {
        Some(NodeEnum::Integer(number)) => return number.ival != 0,
        Some(NodeEnum::Boolean(value)) => return value.boolval,
        Some(NodeEnum::String(text)) => text.sval.as_str(),
        _ => match restrict::constant(argument).and_then(|constant| constant.val.as_ref()) {
            Some(Val::Ival(number)) => return number.ival != 0,
            Some(Val::Boolval(value)) => return value.boolval,
            Some(Val::Sval(text)) => text.sval.as_str(),
            _ => return true,
        },
    };
    !["false", "off"].iter().any(|off| word.eq_ignore_ascii_case(off))
}
