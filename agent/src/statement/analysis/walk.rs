//! The walk through a statement: who is where, and what each node adds to the findings.

use std::sync::Arc;

use pg_query::{
    Node, NodeEnum,
    protobuf::{AExprKind, BoolExprType, ColumnRef, RangeVar, a_const::Val},
};

use super::{
    findings::Findings,
    functions,
    names::{Column, Relation, Scopes, qualified, relation_name, strings},
    parts::{Parts, Visitor, descend},
    reach::Target,
    restrict,
    session::Session,
};
use crate::{
    event::{Access, Analysis, CONVERTS, Effect, KeyValue, Trait},
    statement::template::Template,
};

/// Deeper trees are not looked into; the parser's bound on messages comes to about the same.
const MAX_DEPTH: usize = 500;

/// What becomes of the part of a statement that is walked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// It is executed.
    Runs,
    /// It is planned and shown (`EXPLAIN`): of its functions only those run that planning may fold.
    Planned,
    /// It becomes the definition of a view: its tables can be read through that from now on.
    View,
    /// It is kept for later: a default, the body of a function, the action of a rule.
    Kept,
}

pub(super) struct Walk<'a> {
    pub(super) findings: Findings,
    pub(super) scopes: Scopes,
    pub(super) mode: Mode,
    pub(super) template: &'a Template,
    pub(super) session: &'a Session,
    /// `$1` is a parameter of the statement that is being prepared.
    pub(super) is_preparing: bool,
    /// What `name` is in each row at hand, as in `FROM pg_settings WHERE name = 'a'`.
    pub(super) named: Option<String>,
    depth: usize,
    pub(super) n_texts: usize,
}

impl<'a> Walk<'a> {
    pub(super) fn new(template: &'a Template, session: &'a Session) -> Self {
        Self {
            findings: Findings::default(),
            scopes: Scopes::default(),
            mode: Mode::Runs,
            template,
            session,
            is_preparing: false,
            named: None,
            depth: 0,
            n_texts: 0,
        }
    }

    /// With another mode for a while; a definition inside a definition stays one.
    pub(super) fn as_mode(&mut self, mode: Mode, walk: impl FnOnce(&mut Self)) {
        let before = self.mode;
        self.mode = if before == Mode::Kept { before } else { mode };
        walk(self);
        self.mode = before;
    }

    pub(super) fn effect(&mut self, effect: Effect) {
        if self.mode == Mode::Runs {
            self.findings.effects.insert(effect);
        }
    }

    /// What stands out in what is executed.
    pub(super) fn stands_out(&mut self, by: Trait) {
        if self.mode == Mode::Runs {
            self.findings.stands_out(by);
        }
    }

    /// A relation that is named as itself, not as what a `FROM` may stand for.
    pub(super) fn touch(&mut self, relation: &RangeVar, access: Access) -> Arc<str> {
        let name = relation_name(relation);
        self.touch_named(&name, access);
        name
    }

    pub(super) fn touch_named(&mut self, name: &Arc<str>, access: Access) {
        self.findings.say(name);
        self.access(name, access);
        self.findings.refer(name);
    }

    pub(super) fn access(&mut self, name: &Arc<str>, access: Access) {
        match self.mode {
            Mode::Runs => {
                // Its rule calls `set_config` for each row.
                if access == Access::Update
                    && matches!(&**name, "pg_settings" | "pg_catalog.pg_settings")
                {
                    self.findings.effects.insert(Effect::Session);
                    self.any_setting();
                } else if is_write(access) && functions::is_catalog(name) {
                    self.findings.stands_out(Trait::CatalogWrite);
                }
                self.findings.table(name, access);
            }
            Mode::View => self.findings.table(name, Access::Read),
            Mode::Planned | Mode::Kept => {}
        }
    }

    pub(super) fn column(&mut self, column: Column) {
        let name = match column {
            Column::Of(table, Some(column)) => {
                let column = qualified([column.as_str()].into_iter());
                format!("{table}.{column}").into()
            }
            Column::Of(table, None) => format!("{table}.*").into(),
            Column::Somewhere(name) => name.into(),
            Column::Derived => return,
        };
        if matches!(self.mode, Mode::Runs | Mode::View) {
            self.findings.column(name);
        }
    }

    fn column_ref(&mut self, reference: &ColumnRef) {
        let names = strings(&reference.fields);
        let is_star = names.len() < reference.fields.len();
        if let (false, [_, .., name]) = (is_star, names.as_slice()) {
            self.attribute(name);
        }
        let columns = match (is_star, names.split_last()) {
            (true, None) => self.scopes.star(),
            (true, Some(_)) => vec![self.scopes.column(&names, None)],
            (false, Some((column, qualifiers))) => {
                vec![self.scopes.column(qualifiers, Some(*column))]
            }
            (false, None) => Vec::new(),
        };
        columns.into_iter().for_each(|column| self.column(column));
    }

    /// What a condition says that every row must fulfil, as far as that is `column = value`.
    pub(super) fn keys(&mut self, condition: Option<&Node>) {
        if self.mode != Mode::Runs {
            return;
        }
        match condition.and_then(|node| node.node.as_ref()) {
            Some(NodeEnum::BoolExpr(bool)) if bool.boolop() == BoolExprType::AndExpr => {
                bool.args.iter().for_each(|arg| self.keys(Some(arg)));
            }
            Some(NodeEnum::AExpr(expression))
                if expression.kind() == AExprKind::AexprOp
                    && strings(&expression.name) == ["="] =>
            {
                let (left, right) = (expression.lexpr.as_deref(), expression.rexpr.as_deref());
                let (Some(left), Some(right)) = (left, right) else { return };
                self.key(left, right);
                self.key(right, left);
            }
            _ => {}
        }
    }

    fn key(&mut self, column: &Node, value: &Node) {
        let Some(NodeEnum::ColumnRef(reference)) = &column.node else { return };
        let names = strings(&reference.fields);
        let Some((name, qualifiers)) = names.split_last() else { return };
        let Column::Of(table, Some(column)) = self.scopes.column(qualifiers, Some(*name)) else {
            return;
        };
        if let Some(value) = self.key_value(value) {
            self.findings.key(table, column.into(), value);
        }
    }

    fn key_value(&self, value: &Node) -> Option<KeyValue> {
        match value.node.as_ref()? {
            NodeEnum::ParamRef(parameter) => {
                Some(KeyValue::Parameter(usize::try_from(parameter.number).ok()?))
            }
            NodeEnum::TypeCast(cast) => self.key_value(cast.arg.as_deref()?),
            NodeEnum::AConst(constant) => {
                // A negative number is where its sign is, which the literal comes right after.
                let at = usize::try_from(constant.location).ok()?;
                let literals = self.template.literals();
                let nth = literals.partition_point(|literal| literal.start < at);
                let is_literal = !matches!(constant.val, None | Some(Val::Boolval(_)));
                literals.get(nth).filter(|_| is_literal)?;
                Some(KeyValue::Literal(nth))
            }
            _ => None,
        }
    }

    /// An UPDATE's or DELETE's condition.
    pub(super) fn condition(&mut self, condition: Option<&Node>, target: Target<'_>) {
        let truth = condition.map(|condition| restrict::truth(condition, target));
        let (truth, looked_at_literal) = truth.unwrap_or((restrict::Truth::Always, false));
        self.findings.is_literal_sensitive |= looked_at_literal;
        if self.mode == Mode::Runs {
            let limits = matches!(truth, restrict::Truth::Depends | restrict::Truth::Never);
            self.findings.restrict(limits);
        }
    }

    /// Enters a relation of a `FROM` into the scope at hand.
    pub(super) fn read_relation(&mut self, relation: &RangeVar) {
        let alias = relation.alias.as_ref();
        let is_cte = relation.schemaname.is_empty() && self.scopes.is_cte(&relation.relname);
        let table = match is_cte {
            true => None,
            false => {
                self.effect(Effect::Read);
                Some(self.touch(relation, Access::Read))
            }
        };
        let name = alias.map_or(&relation.relname, |alias| &alias.aliasname);
        self.name(name, table, alias.is_some_and(|alias| !alias.colnames.is_empty()));
    }

    pub(super) fn name(&mut self, alias: &str, table: Option<Arc<str>>, is_renamed: bool) {
        if let Some(scope) = self.scopes.current() {
            let alias = alias.to_owned();
            scope.relations.push(Relation { alias, table, is_renamed, is_other: false });
        }
    }

    /// A name by which a clause calls a relation that is there already.
    pub(super) fn other_name(&mut self, alias: &str, table: Option<&Arc<str>>) {
        if let Some(scope) = self.scopes.current() {
            let (alias, table) = (alias.to_owned(), table.cloned());
            scope.relations.push(Relation { alias, table, is_renamed: false, is_other: true });
        }
    }
}

impl Visitor for Walk<'_> {
    fn node(&mut self, node: &NodeEnum) {
        self.deeper(|walk| walk.enter(node));
    }

    fn relation(&mut self, relation: &RangeVar) {
        self.read_relation(relation);
    }

    fn kind(&mut self) {
        self.converts();
    }

    fn stranger(&mut self) {
        self.findings.unknown(Analysis::UnknownSyntax);
    }
}

impl Walk<'_> {
    /// Values are made those of another type, or a condition of them.
    pub(super) fn converts(&mut self) {
        if self.mode != Mode::Kept {
            self.findings.name(CONVERTS.into());
        }
    }

    /// One level down, unless that is too deep.
    pub(super) fn deeper(&mut self, walk: impl FnOnce(&mut Self)) {
        if self.depth >= MAX_DEPTH {
            return self.findings.unknown(Analysis::TooDeep);
        }
        self.depth += 1;
        walk(self);
        self.depth -= 1;
    }

    fn enter(&mut self, node: &NodeEnum) {
        match node {
            NodeEnum::ColumnRef(reference) => self.column_ref(reference),
            NodeEnum::FuncCall(call) => {
                self.call(call);
                descend(node, self);
            }
            NodeEnum::AExpr(expression) => {
                // `BETWEEN` has its own name where others have an operator's.
                match strings(&expression.name).as_slice() {
                    [name] if name.contains("BETWEEN") => {
                        ["<", "<=", ">", ">="].into_iter().for_each(|name| self.implied(name));
                    }
                    _ => self.operator(&expression.name),
                }
                descend(node, self);
            }
            NodeEnum::CaseExpr(case) => {
                if case.arg.is_some() {
                    self.implied("=");
                }
                self.converts();
                descend(node, self);
            }
            // Of several values, one type is made; or a truth of one.
            NodeEnum::AArrayExpr(_)
            | NodeEnum::BoolExpr(_)
            | NodeEnum::BooleanTest(_)
            | NodeEnum::CoalesceExpr(_)
            | NodeEnum::MinMaxExpr(_) => {
                self.converts();
                descend(node, self);
            }
            // `(a, b) = (SELECT …)` has the query once for each column.
            NodeEnum::MultiAssignRef(reference) if reference.colno > 1 => {}
            NodeEnum::SortBy(sort) => {
                if !sort.use_op.is_empty() {
                    self.operator(&sort.use_op);
                }
                descend(node, self);
            }
            NodeEnum::SubLink(link) => {
                match link.oper_name.as_slice() {
                    [] if link.testexpr.is_some() => self.implied("="),
                    [] => {}
                    names => self.operator(names),
                }
                descend(node, self);
            }
            NodeEnum::AIndirection(indirection) => {
                for name in strings(&indirection.indirection) {
                    self.attribute(name);
                }
                descend(node, self);
            }
            NodeEnum::SelectStmt(select) => self.select(select),
            NodeEnum::InsertStmt(insert) => self.insert(insert),
            NodeEnum::UpdateStmt(update) => self.update(update),
            NodeEnum::DeleteStmt(delete) => self.delete(delete),
            NodeEnum::MergeStmt(merge) => self.merge(merge),
            NodeEnum::JoinExpr(join) => self.join(join),
            NodeEnum::RangeSubselect(range) => self.range_subselect(range),
            NodeEnum::RangeFunction(range) => self.range_function(range),
            NodeEnum::RangeTableFunc(range) => {
                self.derived(range.alias.as_ref());
                descend(node, self);
            }
            NodeEnum::JsonTable(range) => {
                self.derived(range.alias.as_ref());
                self.older_name(node);
                descend(node, self);
            }
            NodeEnum::RangeTableSample(sample) => {
                let method = strings(&sample.method);
                if !matches!(method.as_slice(), ["bernoulli" | "system"]) {
                    self.code(&qualified(method.into_iter()));
                }
                visit(self, &sample.relation);
                visit(self, &sample.args);
                visit(self, &sample.repeatable);
            }
            _ => {
                self.older_name(node);
                descend(node, self);
            }
        }
    }

    /// To an older server such syntax is a function's name.
    fn older_name(&mut self, node: &NodeEnum) {
        if let Some(name) = functions::name_of_syntax(node) {
            self.findings.name(name.into());
        }
    }
}

/// Whether it changes what is in a relation, or the relation.
fn is_write(access: Access) -> bool {
    !matches!(access, Access::Read | Access::Lock | Access::Grant)
}

/// The string of a literal, bare or cast.
pub(super) fn string_constant(node: &Node) -> Option<&str> {
    match &restrict::constant(node)?.val {
        Some(Val::Sval(text)) => Some(&text.sval),
        _ => None,
    }
}

/// Visits parts that a struct has directly.
pub(super) fn visit(walk: &mut Walk<'_>, parts: &impl Parts) {
    parts.visit(walk);
}
