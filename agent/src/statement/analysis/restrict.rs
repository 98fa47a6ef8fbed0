//! Whether a condition limits the rows that it is asked about, or only looks as if it did.

use pg_query::{
    Node, NodeEnum,
    protobuf::{
        AConst, AExpr, AExprKind, BoolExprType, BoolTestType, NullTestType, SelectStmt, SubLink,
        SubLinkType, a_const::Val,
    },
};

use super::{
    names::strings,
    reach::{Target, alias, relations},
    sameness::{cover_all, form, has_literal},
};

/// What a condition is for the rows of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Truth {
    /// True for each row, but for one with a NULL perhaps.
    Always,
    /// It asks nothing of the row: true for all of them or for none, nobody can tell which.
    Uniform,
    Never,
    /// It depends on the row.
    Depends,
}

/// The truth of a condition, and whether it hangs on what literals say.
pub(super) fn truth(condition: &Node, target: Target<'_>) -> (Truth, bool) {
    let twins = twins(target, target.others);
    let mut judge =
        Judge { target, twins, looked_at_literal: false, in_subquery: false, is_hidden: false };
    (judge.truth(condition), judge.looked_at_literal)
}

/// Names under which the target's table stands there once more.
fn twins<'a>(target: Target<'_>, from: &'a [Node]) -> Vec<&'a str> {
    let named = relations(from).into_iter();
    let same = named.filter(|(_, relation)| {
        relation.is_some_and(|relation| relation.relname == target.relation.relname)
    });
    same.map(|(name, _)| name).collect()
}

struct Judge<'a> {
    target: Target<'a>,
    twins: Vec<&'a str>,
    looked_at_literal: bool,
    /// A plain name and a qualified one may be different columns there.
    in_subquery: bool,
    /// Something else has the target's name there.
    is_hidden: bool,
}

impl<'a> Judge<'a> {
    /// What the target's columns have no part in is true for all rows or for none.
    fn by_columns(&self, node: &Node) -> Truth {
        match self.target.is_asked(node, self.in_subquery, self.is_hidden) {
            true => Truth::Depends,
            false => Truth::Uniform,
        }
    }

    fn truth(&mut self, node: &'a Node) -> Truth {
        let Some(inner) = &node.node else { return Truth::Depends };
        match inner {
            NodeEnum::AConst(constant) => match &constant.val {
                Some(Val::Boolval(value)) if value.boolval => Truth::Always,
                Some(Val::Boolval(_)) => Truth::Never,
                // `'t'`, where a boolean is wanted.
                Some(Val::Sval(text)) => {
                    self.looked_at_literal = true;
                    match "true".starts_with(&text.sval.trim().to_ascii_lowercase())
                        || ["on", "1", "yes", "y"].contains(&text.sval.trim())
                    {
                        true => Truth::Always,
                        false => Truth::Never,
                    }
                }
                Some(Val::Ival(number)) => {
                    self.looked_at_literal = true;
                    if number.ival == 0 { Truth::Never } else { Truth::Always }
                }
                _ if constant.isnull => Truth::Never,
                _ => Truth::Always,
            },
            NodeEnum::BoolExpr(bool) => {
                let all: Vec<Truth> = bool.args.iter().map(|arg| self.truth(arg)).collect();
                match bool.boolop() {
                    BoolExprType::AndExpr => all_of(&all),
                    BoolExprType::OrExpr if self.leaves_none_out(&bool.args) => Truth::Always,
                    BoolExprType::OrExpr => any_of(&all),
                    BoolExprType::NotExpr => not(all.first().copied().unwrap_or(Truth::Depends)),
                    BoolExprType::Undefined => Truth::Depends,
                }
            }
            NodeEnum::AExpr(expression) => self.comparison(node, expression),
            NodeEnum::NullTest(test) => {
                let wants_null = test.nulltesttype() == NullTestType::IsNull;
                match test.arg.as_deref().map(constant) {
                    Some(Some(arg)) if arg.isnull == wants_null => Truth::Always,
                    Some(Some(_)) => Truth::Never,
                    _ => self.by_columns(node),
                }
            }
            NodeEnum::BooleanTest(test) => {
                let inner = test.arg.as_deref().map_or(Truth::Depends, |arg| self.truth(arg));
                match test.booltesttype() {
                    BoolTestType::IsTrue | BoolTestType::IsNotFalse => inner,
                    BoolTestType::IsFalse | BoolTestType::IsNotTrue => not(inner),
                    _ => self.by_columns(node),
                }
            }
            NodeEnum::TypeCast(cast) => {
                cast.arg.as_deref().map_or(Truth::Depends, |arg| self.truth(arg))
            }
            NodeEnum::CollateClause(collate) => {
                collate.arg.as_deref().map_or(Truth::Depends, |arg| self.truth(arg))
            }
            NodeEnum::CaseExpr(case) => {
                let when = case.args.iter().filter_map(|when| match &when.node {
                    Some(NodeEnum::CaseWhen(when)) => when.result.as_deref(),
                    _ => None,
                });
                let results: Vec<Truth> = when
                    .chain(case.defresult.as_deref())
                    .map(|result| self.truth(result))
                    .collect();
                match case.defresult.is_some() && results.iter().all(|t| *t == Truth::Always) {
                    true => Truth::Always,
                    false => self.by_columns(node),
                }
            }
            NodeEnum::CoalesceExpr(coalesce) => {
                match coalesce.args.first().map(|first| self.truth(first)) {
                    Some(Truth::Always) => Truth::Always,
                    _ => self.by_columns(node),
                }
            }
            NodeEnum::SubLink(link) => self.subquery(node, link),
            _ => self.by_columns(node),
        }
    }

    fn comparison(&mut self, node: &'a Node, expression: &'a AExpr) -> Truth {
        let AExpr { name, lexpr, rexpr, .. } = expression;
        let (left, right) = (lexpr.as_deref(), rexpr.as_deref());
        let operator = strings(name).last().copied().unwrap_or_default();
        let same = match (left, right) {
            (Some(left), Some(right)) => self.same_column(left, right),
            _ => false,
        };
        match expression.kind() {
            AExprKind::AexprOp if same => match operator {
                "=" | "<=" | ">=" | "~~" | "~~*" | "~=" => Truth::Always,
                "<>" | "<" | ">" => Truth::Never,
                _ => Truth::Depends,
            },
            AExprKind::AexprOp if operator == "=" && self.is_twin(left, right) => Truth::Always,
            AExprKind::AexprOp if matches!(operator, "~" | "~*") => {
                let pattern = right.and_then(constant).and_then(text);
                self.looked_at_literal |= pattern.is_some();
                match pattern {
                    Some(pattern) if pattern.trim_matches(['^', '$', '.', '*']).is_empty() => {
                        Truth::Always
                    }
                    _ => self.by_columns(node),
                }
            }
            AExprKind::AexprOp if self.is_never_negative(left, operator, right) => Truth::Always,
            AExprKind::AexprOpAny if operator == "=" => {
                let list = match right.and_then(|right| right.node.as_ref()) {
                    Some(NodeEnum::AArrayExpr(array)) => array.elements.as_slice(),
                    Some(NodeEnum::SubLink(link)) => match link.subselect.as_deref() {
                        Some(Node { node: Some(NodeEnum::SelectStmt(select)) })
                            if self.finds_itself(left, select) =>
                        {
                            return Truth::Always;
                        }
                        _ => &[],
                    },
                    _ => &[],
                };
                match left.is_some_and(|left| list.iter().any(|item| self.same_column(left, item)))
                {
                    true => Truth::Always,
                    false => self.by_columns(node),
                }
            }
            AExprKind::AexprLike | AExprKind::AexprIlike if same => Truth::Always,
            AExprKind::AexprNotDistinct if same => Truth::Always,
            AExprKind::AexprDistinct if same => Truth::Never,
            AExprKind::AexprLike | AExprKind::AexprIlike if !operator.starts_with('!') => {
                let pattern = right.and_then(constant).and_then(text);
                self.looked_at_literal |= pattern.is_some();
                match pattern {
                    Some(pattern) if !pattern.is_empty() && pattern.chars().all(|c| c == '%') => {
                        Truth::Always
                    }
                    _ => self.by_columns(node),
                }
            }
            AExprKind::AexprIn if operator == "=" => {
                let list = match right.and_then(|right| right.node.as_ref()) {
                    Some(NodeEnum::List(list)) => list.items.as_slice(),
                    _ => &[],
                };
                match left.is_some_and(|left| list.iter().any(|item| self.same_column(left, item)))
                {
                    true => Truth::Always,
                    false => self.by_columns(node),
                }
            }
            AExprKind::AexprBetween | AExprKind::AexprBetweenSym => {
                let bounds = match right.and_then(|right| right.node.as_ref()) {
                    Some(NodeEnum::List(list)) => list.items.as_slice(),
                    _ => &[],
                };
                match left
                    .is_some_and(|left| bounds.iter().all(|bound| self.same_column(left, bound)))
                {
                    true => Truth::Always,
                    false => self.by_columns(node),
                }
            }
            AExprKind::AexprOp => match (left.and_then(constant), right.and_then(constant)) {
                (Some(left), Some(right)) => {
                    self.looked_at_literal = true;
                    compare(left, operator, right)
                }
                _ => self.by_columns(node),
            },
            _ => self.by_columns(node),
        }
    }

    /// Whether two of these cover all rows between them.
    fn leaves_none_out(&mut self, conditions: &[Node]) -> bool {
        const MAX_CONDITIONS: usize = 16;
        let some = conditions.get(..MAX_CONDITIONS).unwrap_or(conditions);
        let mut pairs = some.iter().enumerate().flat_map(|(n, one)| {
            some.iter().skip(n + 1).filter_map(move |other| cover_all(one, other))
        });
        let covers = pairs.next();
        self.looked_at_literal |= covers.is_some();
        covers == Some(true) || pairs.any(|covers| covers)
    }

    /// Whether both are one and the same, as far as the text tells.
    fn same_column(&mut self, left: &Node, right: &Node) -> bool {
        if let (Some(left), Some(right)) = (column(left), column(right)) {
            // `id = t.id`, where `t` is all there is.
            let is_mixed = left.len().min(right.len()) == 1 && !self.in_subquery;
            return left.last() == right.last() && (left == right || is_mixed);
        }
        let (Some(l), Some(r)) = (form(left), form(right)) else { return false };
        let is_constant = |node| constant(node).is_some();
        // One that has no literal in it comes to one only if it is `id - id` or the like.
        let may_be = |node, form: &str| has_literal(node) || form.starts_with('#');
        match (is_constant(left), is_constant(right)) {
            (true, true) => return false,
            (true, false) if !may_be(right, &r) => return false,
            (false, true) if !may_be(left, &l) => return false,
            _ => {}
        }
        self.looked_at_literal |= has_literal(left) || has_literal(right);
        l == r
    }

    /// `length(x) >= 0` and the like.
    fn is_never_negative(
        &mut self,
        left: Option<&Node>,
        operator: &str,
        right: Option<&Node>,
    ) -> bool {
        let Some(NodeEnum::FuncCall(call)) = left.and_then(|left| left.node.as_ref()) else {
            return false;
        };
        let Some(bound) = right.and_then(constant).and_then(number) else { return false };
        let is_such =
            strings(&call.funcname).last().is_some_and(|name| NEVER_NEGATIVE.contains(name));
        self.looked_at_literal |= is_such;
        is_such
            && match operator {
                ">=" => bound <= 0.0,
                ">" | "<>" => bound < 0.0,
                _ => false,
            }
    }

    /// `a.id = b.id` where both are the target's table: each row finds itself.
    fn is_twin(&self, left: Option<&Node>, right: Option<&Node>) -> bool {
        let (Some(left), Some(right)) = (left.and_then(column), right.and_then(column)) else {
            return false;
        };
        let is_target = |column: &[&str]| matches!(column, [.., table, _] if *table == alias(self.target.relation));
        let is_twin = |column: &[&str]| match column {
            [.., table, _] => self.twins.contains(table),
            // Of the subquery's only table.
            [_] => self.in_subquery && !self.twins.is_empty(),
            [] => false,
        };
        left.last() == right.last()
            && (is_target(&left) && is_twin(&right) || is_twin(&left) && is_target(&right))
    }

    fn subquery(&mut self, node: &'a Node, link: &'a SubLink) -> Truth {
        let Some(NodeEnum::SelectStmt(select)) =
            link.subselect.as_deref().and_then(|select| select.node.as_ref())
        else {
            return Truth::Depends;
        };
        let before = (self.in_subquery, self.is_hidden, self.twins.len());
        self.in_subquery = true;
        let twins = twins(self.target, &select.from_clause);
        self.is_hidden |= relations(&select.from_clause)
            .iter()
            .any(|(name, _)| *name == alias(self.target.relation));
        self.twins.extend(twins);
        let truth = self.inside_subquery(node, link, select);
        (self.in_subquery, self.is_hidden) = (before.0, before.1);
        self.twins.truncate(before.2);
        truth
    }

    fn inside_subquery(
        &mut self,
        node: &'a Node,
        link: &'a SubLink,
        select: &'a SelectStmt,
    ) -> Truth {
        let SelectStmt { where_clause, from_clause, target_list, .. } = select;
        match link.sub_link_type() {
            // Whether there is any row at all is the same for each row outside.
            SubLinkType::ExistsSublink => match where_clause.as_deref() {
                None => Truth::Uniform,
                Some(condition) => match self.truth(condition) {
                    Truth::Depends => self.outside(node),
                    truth => truth,
                },
            },
            SubLinkType::ExprSublink if from_clause.is_empty() && where_clause.is_none() => {
                match target_list.first().and_then(|target| target.node.as_ref()) {
                    Some(NodeEnum::ResTarget(target)) => {
                        target.val.as_deref().map_or(Truth::Depends, |value| self.truth(value))
                    }
                    _ => Truth::Depends,
                }
            }
            SubLinkType::AnySublink
                if matches!(strings(&link.oper_name).as_slice(), [] | ["="])
                    && self.finds_itself(link.testexpr.as_deref(), select) =>
            {
                Truth::Always
            }
            _ => self.outside(node),
        }
    }

    /// `id IN (SELECT id FROM the same table)`: each row does.
    fn finds_itself(&mut self, own: Option<&'a Node>, select: &'a SelectStmt) -> bool {
        let other = select.target_list.first().and_then(|target| match &target.node {
            Some(NodeEnum::ResTarget(target)) => target.val.as_deref().and_then(column),
            _ => None,
        });
        let is_same =
            own.and_then(column).zip(other).is_some_and(|(own, other)| own.last() == other.last());
        let [Node { node: Some(NodeEnum::RangeVar(relation)) }] = select.from_clause.as_slice()
        else {
            return false;
        };
        if !is_same
            || relation.relname != self.target.relation.relname
            || select.limit_count.is_some()
            || select.having_clause.is_some()
        {
            return false;
        }
        let Some(condition) = select.where_clause.as_deref() else { return true };
        let (truth, looked_at_literal) = truth(condition, Target { relation, others: &[] });
        self.looked_at_literal |= looked_at_literal;
        matches!(truth, Truth::Always | Truth::Uniform)
    }

    /// Of a subquery as a whole, seen from where it stands.
    fn outside(&mut self, node: &Node) -> Truth {
        let before = (self.in_subquery, self.is_hidden);
        (self.in_subquery, self.is_hidden) = (false, false);
        let truth = self.by_columns(node);
        (self.in_subquery, self.is_hidden) = before;
        truth
    }
}

const NEVER_NEGATIVE: &[&str] =
    &["length", "char_length", "octet_length", "bit_length", "abs", "cardinality", "random"];

/// What is left where all must hold: the first of these that one of them is.
fn all_of(truths: &[Truth]) -> Truth {
    first_of(truths, [Truth::Never, Truth::Depends, Truth::Uniform], Truth::Always)
}

/// The same where one is enough.
fn any_of(truths: &[Truth]) -> Truth {
    first_of(truths, [Truth::Always, Truth::Uniform, Truth::Depends], Truth::Never)
}

fn first_of(truths: &[Truth], order: [Truth; 3], otherwise: Truth) -> Truth {
    order.into_iter().find(|truth| truths.contains(truth)).unwrap_or(otherwise)
}

fn not(truth: Truth) -> Truth {
    match truth {
        Truth::Always => Truth::Never,
        Truth::Never => Truth::Always,
        Truth::Uniform | Truth::Depends => truth,
    }
}

/// A literal, bare or cast.
pub(super) fn constant(node: &Node) -> Option<&AConst> {
    match node.node.as_ref()? {
        NodeEnum::AConst(constant) => Some(constant),
        NodeEnum::TypeCast(cast) => constant(cast.arg.as_deref()?),
        _ => None,
    }
}

fn text(constant: &AConst) -> Option<&str> {
    match &constant.val {
        Some(Val::Sval(text)) => Some(&text.sval),
        _ => None,
    }
}

fn number(constant: &AConst) -> Option<f64> {
    match &constant.val {
        Some(Val::Ival(number)) => Some(f64::from(number.ival)),
        Some(Val::Fval(number)) => number.fval.parse().ok(),
        // `'1' = 1` compares numbers.
        Some(Val::Sval(text)) => text.sval.trim().parse().ok(),
        _ => None,
    }
}

fn compare(left: &AConst, operator: &str, right: &AConst) -> Truth {
    if left.isnull || right.isnull {
        return Truth::Never;
    }
    let order = match (text(left), text(right)) {
        (Some(left), Some(right)) => Some(left.cmp(right)),
        _ => number(left).zip(number(right)).and_then(|(left, right)| left.partial_cmp(&right)),
    };
    // Whatever it comes to, it is the same for each row.
    let Some(order) = order else { return Truth::Uniform };
    let holds = match operator {
        "=" => order.is_eq(),
        "<>" => order.is_ne(),
        "<" => order.is_lt(),
        "<=" => order.is_le(),
        ">" => order.is_gt(),
        ">=" => order.is_ge(),
        _ => return Truth::Uniform,
    };
    if holds { Truth::Always } else { Truth::Never }
}

/// The name of a column, whatever it is cast to.
fn column(node: &Node) -> Option<Vec<&str>> {
    match node.node.as_ref()? {
        NodeEnum::ColumnRef(column) => Some(strings(&column.fields)),
        NodeEnum::TypeCast(cast) => column(cast.arg.as_deref()?),
        NodeEnum::CollateClause(collate) => column(collate.arg.as_deref()?),
        _ => None,
    }
}
