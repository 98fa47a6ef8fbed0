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
    parts::{Parts, Visitor, descend},
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
pub(super) fn truth(condition: &Node) -> (Truth, bool) {
    let mut judge = Judge { looked_at_literal: false, in_subquery: false };
    (judge.truth(condition), judge.looked_at_literal)
}

struct Judge {
    looked_at_literal: bool,
    /// A plain name and a qualified one may be different columns there.
    in_subquery: bool,
}

impl Judge {
    fn truth(&mut self, node: &Node) -> Truth {
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
                    _ => by_columns(node),
                }
            }
            NodeEnum::BooleanTest(test) => {
                let inner = test.arg.as_deref().map_or(Truth::Depends, |arg| self.truth(arg));
                match test.booltesttype() {
                    BoolTestType::IsTrue | BoolTestType::IsNotFalse => inner,
                    BoolTestType::IsFalse | BoolTestType::IsNotTrue => not(inner),
                    _ => by_columns(node),
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
                    false => by_columns(node),
                }
            }
            NodeEnum::CoalesceExpr(coalesce) => {
                match coalesce.args.first().map(|first| self.truth(first)) {
                    Some(Truth::Always) => Truth::Always,
                    _ => by_columns(node),
                }
            }
            NodeEnum::SubLink(link) => self.subquery(node, link),
            _ => by_columns(node),
        }
    }

    fn comparison(&mut self, node: &Node, expression: &AExpr) -> Truth {
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
                    _ => by_columns(node),
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
                    false => by_columns(node),
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
                    false => by_columns(node),
                }
            }
            AExprKind::AexprOp => match (left.and_then(constant), right.and_then(constant)) {
                (Some(left), Some(right)) => {
                    self.looked_at_literal = true;
                    compare(left, operator, right)
                }
                _ => by_columns(node),
            },
            _ => by_columns(node),
        }
    }

    /// Whether both are one and the same column, as far as the text tells.
    fn same_column(&self, left: &Node, right: &Node) -> bool {
        let (Some(left), Some(right)) = (bare_column(left), bare_column(right)) else {
            return false;
        };
        // `id = t.id`, where `t` is all there is.
        let is_mixed = left.len().min(right.len()) == 1 && !self.in_subquery;
        left.last() == right.last() && (left == right || is_mixed)
    }

    fn subquery(&mut self, node: &Node, link: &SubLink) -> Truth {
        let outside = std::mem::replace(&mut self.in_subquery, true);
        let truth = self.inside_subquery(node, link);
        self.in_subquery = outside;
        truth
    }

    fn inside_subquery(&mut self, node: &Node, link: &SubLink) -> Truth {
        let Some(NodeEnum::SelectStmt(select)) =
            link.subselect.as_deref().and_then(|select| select.node.as_ref())
        else {
            return Truth::Depends;
        };
        let SelectStmt { where_clause, from_clause, target_list, .. } = select.as_ref();
        match link.sub_link_type() {
            // Whether there is any row at all is the same for each row outside.
            SubLinkType::ExistsSublink => match where_clause.as_deref() {
                None => Truth::Uniform,
                Some(condition) => match self.truth(condition) {
                    Truth::Depends => by_columns(node),
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
            _ => by_columns(node),
        }
    }
}

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

/// What no column has part in is true for all rows or for none.
fn by_columns(node: &Node) -> Truth {
    #[derive(Default)]
    struct Search {
        found: bool,
    }
    impl Visitor for Search {
        fn node(&mut self, node: &NodeEnum) {
            match node {
                NodeEnum::ColumnRef(_) | NodeEnum::CurrentOfExpr(_) => self.found = true,
                _ if self.found => {}
                _ => descend(node, self),
            }
        }

        fn stranger(&mut self) {
            self.found = true;
        }
    }
    let mut search = Search::default();
    node.visit(&mut search);
    if search.found { Truth::Depends } else { Truth::Uniform }
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
fn bare_column(node: &Node) -> Option<Vec<&str>> {
    match node.node.as_ref()? {
        NodeEnum::ColumnRef(column) => Some(strings(&column.fields)),
        NodeEnum::TypeCast(cast) => bare_column(cast.arg.as_deref()?),
        NodeEnum::CollateClause(collate) => bare_column(collate.arg.as_deref()?),
        _ => None,
    }
}
