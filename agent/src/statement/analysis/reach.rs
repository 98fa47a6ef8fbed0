//! Whether a condition asks something of the rows that a statement changes, or only of others.

use pg_query::{Node, NodeEnum, protobuf::RangeVar};

use super::{
    names::strings,
    parts::{Parts, Visitor, descend},
};

/// The table whose rows are changed, and what stands beside it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target<'a> {
    pub(super) relation: &'a RangeVar,
    /// `FROM`, `USING`, or the source of a MERGE.
    pub(super) others: &'a [Node],
}

/// The name of a relation in the query that reads it.
pub(super) fn alias(relation: &RangeVar) -> &str {
    relation.alias.as_ref().map_or(&relation.relname, |alias| &alias.aliasname)
}

impl Target<'_> {
    /// Whether a column of the target has part in `node`, as far as the text tells. A plain name in a
    /// subquery counts as one of the subquery's, and beside other tables only if it is compared with another.
    pub(super) fn is_asked(&self, node: &Node, in_subquery: bool, is_hidden: bool) -> bool {
        let mut search = Search {
            alias: alias(self.relation),
            has_others: !self.others.is_empty(),
            in_subquery,
            is_hidden,
            is_found: false,
            plain: Vec::new(),
        };
        node.visit(&mut search);
        search.plain.sort_unstable();
        search.plain.dedup();
        search.is_found || search.plain.len() > 1
    }
}

struct Search<'a> {
    alias: &'a str,
    has_others: bool,
    in_subquery: bool,
    /// Another relation of a subquery has the target's name.
    is_hidden: bool,
    is_found: bool,
    /// Names that may be the target's or that of what stands beside it.
    plain: Vec<String>,
}

impl Visitor for Search<'_> {
    fn node(&mut self, node: &NodeEnum) {
        match node {
            _ if self.is_found => {}
            NodeEnum::CurrentOfExpr(_) => self.is_found = true,
            NodeEnum::ColumnRef(column) => match strings(&column.fields).as_slice() {
                // The same in each row, but for those of partitions.
                [.., "tableoid"] => {}
                [.., table, _] => self.is_found = *table == self.alias && !self.is_hidden,
                [table] if column.fields.len() > 1 => {
                    self.is_found = *table == self.alias && !self.is_hidden;
                }
                _ if self.in_subquery => {}
                [name] if self.has_others => self.plain.push((*name).to_owned()),
                _ => self.is_found = true,
            },
            NodeEnum::SelectStmt(select) => {
                let before = (self.in_subquery, self.is_hidden);
                self.in_subquery |= !select.from_clause.is_empty();
                self.is_hidden |=
                    relations(&select.from_clause).iter().any(|(name, _)| *name == self.alias);
                descend(node, self);
                (self.in_subquery, self.is_hidden) = before;
            }
            _ => descend(node, self),
        }
    }

    fn stranger(&mut self) {
        self.is_found = true;
    }
}

/// What is named in a `FROM`, and which relation that is.
pub(super) fn relations(from: &[Node]) -> Vec<(&str, Option<&RangeVar>)> {
    let mut found = Vec::new();
    let mut left: Vec<&Node> = from.iter().collect();
    while let Some(node) = left.pop() {
        match &node.node {
            Some(NodeEnum::RangeVar(relation)) => found.push((alias(relation), Some(relation))),
            Some(NodeEnum::JoinExpr(join)) => {
                left.extend(join.larg.as_deref());
                left.extend(join.rarg.as_deref());
            }
            Some(NodeEnum::RangeSubselect(range)) => {
                found.extend(range.alias.as_ref().map(|alias| (alias.aliasname.as_str(), None)));
            }
            Some(NodeEnum::RangeFunction(range)) => {
                found.extend(range.alias.as_ref().map(|alias| (alias.aliasname.as_str(), None)));
            }
            _ => {}
        }
    }
    found
}
