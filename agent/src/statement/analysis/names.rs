//! Names as a parse tree has them, and whose columns are meant where a statement names some.

use std::sync::Arc;

use pg_query::{Node, NodeEnum, protobuf::RangeVar};

/// A relation's name as written, qualified where the text does so.
pub(super) fn relation_name(relation: &RangeVar) -> Arc<str> {
    let parts = [&relation.catalogname, &relation.schemaname, &relation.relname];
    qualified(parts.into_iter().map(String::as_str).filter(|part| !part.is_empty()))
}

/// Parts joined by dots; one that has a dot itself, or that no eye could tell apart, is quoted.
pub fn qualified<'a>(parts: impl Iterator<Item = &'a str>) -> Arc<str> {
    let mut name = String::new();
    for part in parts {
        if !name.is_empty() {
            name.push('.');
        }
        let is_plain = |c: char| c != '.' && c != '"' && !c.is_whitespace() && !c.is_control();
        match !part.is_empty() && part.chars().all(is_plain) {
            true => name.push_str(part),
            false => {
                name.push('"');
                name.push_str(&part.replace('"', "\"\""));
                name.push('"');
            }
        }
    }
    name.into()
}

/// The strings of a list of the grammar, as a qualified name is one; other nodes are left out.
pub(super) fn strings(nodes: &[Node]) -> Vec<&str> {
    fn each(node: &Node) -> Option<&str> {
        match &node.node {
            Some(NodeEnum::String(string)) => Some(string.sval.as_str()),
            _ => None,
        }
    }
    nodes.iter().filter_map(each).collect()
}

/// What a name in `FROM` stands for.
#[derive(Clone, Debug)]
pub(super) struct Relation {
    pub(super) alias: String,
    /// `None` for a subquery, a function or a common table expression.
    pub(super) table: Option<Arc<str>>,
    /// Its columns have other names here.
    pub(super) is_renamed: bool,
    /// Another name of a relation that is there already, as `excluded` is: it must be written out.
    pub(super) is_other: bool,
}

/// What the names of one query stand for.
#[derive(Debug, Default)]
pub(super) struct Scope {
    pub(super) relations: Vec<Relation>,
    pub(super) ctes: Vec<String>,
    /// Names that the query gives to its results, which `ORDER BY` and `GROUP BY` may use.
    pub(super) outputs: Vec<String>,
}

/// The query at hand and those around it, outermost first.
#[derive(Debug, Default)]
pub(super) struct Scopes(pub(super) Vec<Scope>);

/// What a reference to a column turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Column {
    /// A column of this table, or all of them (`None`).
    Of(Arc<str>, Option<String>),
    /// A column of a subquery or the like, which was seen where it came from.
    Derived,
    /// Nobody can tell without the catalog.
    Somewhere(String),
}

impl Scopes {
    pub(super) fn current(&mut self) -> Option<&mut Scope> {
        self.0.last_mut()
    }

    pub(super) fn is_cte(&self, name: &str) -> bool {
        self.0.iter().any(|scope| scope.ctes.iter().any(|cte| cte == name))
    }

    fn find(&self, alias: &str) -> Option<&Relation> {
        let relations = self.0.iter().rev().flat_map(|scope| &scope.relations);
        relations.into_iter().find(|relation| relation.alias == alias)
    }

    /// All that `*` stands for.
    pub(super) fn star(&self) -> Vec<Column> {
        let relations = self.0.last().map(|scope| scope.relations.as_slice()).unwrap_or_default();
        let named = relations.iter().filter(|relation| !relation.is_other);
        named.map(|relation| relation.column(None)).collect()
    }

    /// `fields` as in `schema.table.column`, `column` being `None` for `*`.
    pub(super) fn column(&self, qualifiers: &[&str], column: Option<&str>) -> Column {
        let as_written = || {
            let parts = qualifiers.iter().copied().chain(column);
            Column::Somewhere(qualified(parts).to_string())
        };
        match (qualifiers, column) {
            ([], Some(name)) => self.unqualified(name),
            ([alias], column) => match self.find(alias) {
                Some(relation) => relation.column(column),
                None => as_written(),
            },
            (parts, column) => {
                let name = qualified(parts.iter().copied());
                let known = self.0.iter().flat_map(|scope| &scope.relations);
                match known.into_iter().find(|r| r.table.as_deref() == Some(&*name)) {
                    Some(relation) => relation.column(column),
                    None => as_written(),
                }
            }
        }
    }

    fn unqualified(&self, name: &str) -> Column {
        // The whole row, as in `SELECT t FROM t`.
        if let Some(relation) = self.find(name) {
            return relation.column(None);
        }
        let all = self.0.iter().flat_map(|scope| &scope.relations);
        let mut all = all.filter(|relation| !relation.is_other);
        match (all.next(), all.next()) {
            (Some(only), None) => only.column(Some(name)),
            // All of them are derived: so is the column.
            (Some(first), Some(second)) => {
                let is_derived = |relation: &Relation| relation.table.is_none();
                match is_derived(first) && is_derived(second) && all.all(is_derived) {
                    true => Column::Derived,
                    false => Column::Somewhere(qualified([name].into_iter()).to_string()),
                }
            }
            (None, _) => Column::Somewhere(qualified([name].into_iter()).to_string()),
        }
    }
}

impl Relation {
    fn column(&self, name: Option<&str>) -> Column {
        match &self.table {
            None => Column::Derived,
            Some(table) if self.is_renamed => Column::Of(table.clone(), None),
            Some(table) => Column::Of(table.clone(), name.map(str::to_owned)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Column, Relation, Scope, Scopes, qualified};

    #[test]
    fn names_are_quoted_where_they_would_mislead() {
        let check = |parts: &[&str], expected: &str| {
            assert_eq!(&*qualified(parts.iter().copied()), expected);
        };
        check(&["public", "User"], "public.User");
        check(&["public.customers"], "\"public.customers\"");
        check(&["a\"b"], "\"a\"\"b\"");
        check(&["a b", "c"], "\"a b\".c");
    }

    #[test]
    fn columns_find_their_tables() {
        let relation = |alias: &str, table: Option<&str>| Relation {
            alias: alias.to_owned(),
            table: table.map(Into::into),
            is_renamed: false,
            is_other: false,
        };
        let scope = |relations: Vec<Relation>| Scope { relations, ..Scope::default() };
        let of = |table: &str, column: &str| Column::Of(table.into(), Some(column.to_owned()));
        let one = Scopes(vec![scope(vec![relation("c", Some("s.customers"))])]);
        assert_eq!(one.column(&[], Some("email")), of("s.customers", "email"));
        assert_eq!(one.column(&["c"], Some("email")), of("s.customers", "email"));
        assert_eq!(one.column(&["s", "customers"], Some("email")), of("s.customers", "email"));
        assert_eq!(one.column(&["x"], Some("email")), Column::Somewhere("x.email".to_owned()));
        assert_eq!(one.column(&[], Some("c")), Column::Of("s.customers".into(), None));
        let two = Scopes(vec![scope(vec![relation("a", Some("a")), relation("d", None)])]);
        assert_eq!(two.column(&[], Some("x")), Column::Somewhere("x".to_owned()));
        assert_eq!(two.column(&["d"], Some("x")), Column::Derived);
    }
}
