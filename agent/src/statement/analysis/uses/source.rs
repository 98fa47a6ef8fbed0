//! What a `FROM` names, leaf by leaf, and what its joins compare.

use std::sync::Arc;

use pg_query::{
    Node, NodeEnum,
    protobuf::{Alias, JoinExpr, RangeVar},
};

use super::{Gathering, listed};
use crate::{
    event::{Merge, Of, Query, Sink, Source},
    statement::analysis::names::relation_name,
};

impl Gathering {
    /// Adds what a node of a `FROM` stands for; gives the places of its leaves.
    pub(super) fn source(&mut self, query: &mut Query, node: &Node) -> Vec<usize> {
        let mut places = Vec::new();
        self.deeper(|it| places = it.any_source(query, node));
        places
    }

    fn any_source(&mut self, query: &mut Query, node: &Node) -> Vec<usize> {
        use NodeEnum as N;
        let Some(inner) = &node.node else {
            self.lose();
            return Vec::new();
        };
        match inner {
            N::RangeVar(relation) => vec![add(query, self.named(relation))],
            N::RangeSubselect(range) => {
                let place = self.reserve();
                self.fill(place, range.subquery.as_deref().and_then(|query| query.node.as_ref()));
                let of = if range.lateral { Of::Lateral(place) } else { Of::Query(place) };
                vec![add(query, source(of, range.alias.as_ref()))]
            }
            N::RangeFunction(range) => {
                let mix = self.mix(&range.functions);
                let mut own = source(Of::Computed(mix), range.alias.as_ref());
                own.columns.extend(range.coldeflist.iter().filter_map(defined));
                vec![add(query, own)]
            }
            N::RangeTableFunc(range) => {
                let mix = self.mix_of(inner);
                vec![add(query, source(Of::Computed(mix), range.alias.as_ref()))]
            }
            N::JsonTable(range) => {
                let mix = self.mix_of(inner);
                vec![add(query, source(Of::Computed(mix), range.alias.as_ref()))]
            }
            N::RangeTableSample(sample) => {
                self.flow(query, Sink::Predicate, &sample.args);
                self.flow(query, Sink::Predicate, &sample.repeatable);
                match sample.relation.as_deref() {
                    Some(relation) => self.source(query, relation),
                    None => Vec::new(),
                }
            }
            N::JoinExpr(join) => self.join(query, join),
            _ => {
                self.lose();
                Vec::new()
            }
        }
    }

    fn join(&mut self, query: &mut Query, join: &JoinExpr) -> Vec<usize> {
        let JoinExpr {
            jointype: _,
            is_natural,
            larg,
            rarg,
            using_clause,
            join_using_alias,
            quals,
            alias,
            rtindex: _,
        } = join;
        let mut side = |node: &Option<Box<Node>>| match node.as_deref() {
            Some(node) => self.source(query, node),
            None => Vec::new(),
        };
        let (left, right) = (side(larg), side(rarg));
        self.flow(query, Sink::Join, quals);
        if *is_natural || !using_clause.is_empty() {
            let names = (!is_natural).then(|| listed(using_clause));
            query.merges.push(Merge { names, left: left.clone(), right: right.clone() });
        }
        let mut all = left;
        all.extend(right);
        if let Some(alias) = join_using_alias {
            let joined = source(Of::Joined(all.clone()), Some(alias));
            add(query, Source { is_hidden: true, ..joined });
        }
        if let Some(alias) = alias {
            for place in &all {
                if let Some(covered) = query.from.get_mut(*place) {
                    covered.is_hidden = true;
                }
            }
            return vec![add(query, source(Of::Joined(all), Some(alias)))];
        }
        all
    }

    /// A relation, or what `WITH` calls so.
    pub(super) fn named(&mut self, relation: &RangeVar) -> Source {
        let cte = self.ctes.iter().rev().find(|(name, _)| *name == relation.relname);
        let of = match cte.filter(|_| relation.schemaname.is_empty()) {
            Some((_, query)) => Of::Query(*query),
            None => Of::Relation(relation_name(relation)),
        };
        let own = source(of, relation.alias.as_ref());
        match own.alias.is_empty() {
            true => Source { alias: relation.relname.as_str().into(), ..own },
            false => own,
        }
    }

    /// The table that a statement changes, whatever `WITH` calls so.
    pub(super) fn target(&mut self, query: &mut Query, relation: Option<&RangeVar>) {
        let Some(relation) = relation else { return self.lose() };
        let of = Of::Relation(relation_name(relation));
        let own = source(of, relation.alias.as_ref());
        let alias = match own.alias.is_empty() {
            true => relation.relname.as_str().into(),
            false => own.alias.clone(),
        };
        add(query, Source { alias, ..own });
    }
}

fn source(of: Of, alias: Option<&Alias>) -> Source {
    let name: Arc<str> = alias.map_or("", |alias| alias.aliasname.as_str()).into();
    let columns = alias.map(|alias| listed(&alias.colnames)).unwrap_or_default();
    Source { of, alias: name, columns, is_hidden: false }
}

/// The name in `AS t(name type, …)`.
fn defined(column: &Node) -> Option<Arc<str>> {
    match &column.node {
        Some(NodeEnum::ColumnDef(column)) => Some(column.colname.as_str().into()),
        _ => None,
    }
}

pub(super) fn add(query: &mut Query, source: Source) -> usize {
    query.from.push(source);
    query.from.len() - 1
}
