//! Expressions that come to the same, however they are written: `id + 0` and `id`.

use pg_query::{
    Node, NodeEnum,
    protobuf::{AExprKind, BoolExprType, NullTestType, a_const::Val},
};

use super::{
    names::strings,
    parts::{Parts, Visitor, descend},
};

/// An expression in a form that is the same for all that always come to the same, as far as is looked;
/// casts are left out. `None` for what isn't looked into.
pub(super) fn form(node: &Node) -> Option<String> {
    Some(match node.node.as_ref()? {
        NodeEnum::ColumnRef(column) => strings(&column.fields).join("."),
        NodeEnum::ParamRef(parameter) => format!("${}", parameter.number),
        NodeEnum::AConst(constant) => match &constant.val {
            Some(Val::Ival(number)) => format!("#{}", number.ival),
            Some(Val::Fval(number)) => format!("#{}", number.fval),
            Some(Val::Sval(text)) => format!("#{}", text.sval),
            Some(Val::Boolval(value)) => format!("#{}", value.boolval),
            _ => "#".to_owned(),
        },
        NodeEnum::TypeCast(cast) => form(cast.arg.as_deref()?)?,
        NodeEnum::CollateClause(collate) => form(collate.arg.as_deref()?)?,
        NodeEnum::CoalesceExpr(coalesce) => {
            let forms: Option<Vec<String>> = coalesce.args.iter().map(form).collect();
            let forms = forms?;
            let first = forms.first()?;
            match forms.iter().all(|one| one == first) {
                true => first.clone(),
                false => format!("coalesce({})", forms.join(",")),
            }
        }
        NodeEnum::RowExpr(row) => {
            let parts: Option<Vec<String>> = row.args.iter().map(form).collect();
            format!("({})", parts?.join(","))
        }
        NodeEnum::FuncCall(call) => {
            let arguments: Option<Vec<String>> = call.args.iter().map(form).collect();
            format!("{}({})", strings(&call.funcname).join("."), arguments?.join(","))
        }
        NodeEnum::AExpr(expression) if expression.kind() == AExprKind::AexprOp => {
            let right = form(expression.rexpr.as_deref()?)?;
            let names = strings(&expression.name);
            let operator = *names.last()?;
            let Some(left) = expression.lexpr.as_deref() else {
                return Some(if operator == "+" { right } else { format!("({operator}{right})") });
            };
            operation(form(left)?, operator, right)
        }
        NodeEnum::NullTest(test) => {
            let wants_null = test.nulltesttype() == NullTestType::IsNull;
            format!("({} is null {wants_null})", form(test.arg.as_deref()?)?)
        }
        NodeEnum::BoolExpr(bool) => {
            let arguments: Option<Vec<String>> = bool.args.iter().map(form).collect();
            match (bool.boolop(), arguments?.as_slice()) {
                (BoolExprType::NotExpr, [one]) => format!("(not {one})"),
                (kind, all) => format!("({} {})", kind.as_str_name(), all.join(" ")),
            }
        }
        _ => return None,
    })
}

/// Whether what an expression comes to may hang on a literal in it.
pub(super) fn has_literal(node: &Node) -> bool {
    struct Search(bool);
    impl Visitor for Search {
        fn node(&mut self, node: &NodeEnum) {
            match node {
                NodeEnum::AConst(_) => self.0 = true,
                _ if self.0 => {}
                _ => descend(node, self),
            }
        }

        fn stranger(&mut self) {
            self.0 = true;
        }
    }
    let mut search = Search(false);
    node.visit(&mut search);
    search.0
}

fn operation(left: String, operator: &str, right: String) -> String {
    match (left.as_str(), operator, right.as_str()) {
        (_, "+" | "-", "#0") | (_, "*" | "/", "#1") | (_, "||", "#") => left,
        ("#0", "+", _) | ("#1", "*", _) | ("#", "||", _) => right,
        ("#0", "*", _) | (_, "*", "#0") => "#0".to_owned(),
        (_, "-", _) if left == right => "#0".to_owned(),
        (_, "/", _) if left == right => "#1".to_owned(),
        _ => format!("({left} {operator} {right})"),
    }
}

/// Whether one of two conditions holds whenever the other doesn't, but for NULL; `None` where that doesn't
/// hang on what they say of literals.
pub(super) fn cover_all(one: &Node, other: &Node) -> Option<bool> {
    let (a, b) = (form(one)?, form(other)?);
    if let (Some((left, this, right)), Some((l, that, r))) = (compared(one), compared(other)) {
        let is_opposite = matches!(
            (this, that),
            ("=", "<>")
                | ("<>", "=")
                | ("<", ">=")
                | ("<=", ">" | ">=")
                | (">", "<=")
                | (">=", "<" | "<=")
        );
        return is_opposite.then(|| (left, right) == (l, r));
    }
    let is_not = |form: &str| form.starts_with("(not ");
    let is_null_test = |form: &str| form.contains(" is null ");
    (is_not(&a) || is_not(&b) || is_null_test(&a) && is_null_test(&b))
        .then(|| a == format!("(not {b})") || b == format!("(not {a})") || null_and_not(&a, &b))
}

fn null_and_not(a: &str, b: &str) -> bool {
    let (is, is_not) = (" is null true)", " is null false)");
    match (a.strip_suffix(is), b.strip_suffix(is_not), a.strip_suffix(is_not), b.strip_suffix(is)) {
        (Some(one), Some(other), ..) | (.., Some(one), Some(other)) => one == other,
        _ => false,
    }
}

fn compared(node: &Node) -> Option<(String, &str, String)> {
    let NodeEnum::AExpr(expression) = node.node.as_ref()? else { return None };
    let (left, right) = (expression.lexpr.as_deref()?, expression.rexpr.as_deref()?);
    Some((form(left)?, strings(&expression.name).last().copied()?, form(right)?))
}
