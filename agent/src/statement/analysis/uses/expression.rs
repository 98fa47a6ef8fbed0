//! Expressions: every column and every query in them goes into what they come to.

use pg_query::{
    Node, NodeEnum,
    protobuf::{ColumnRef, SubLinkType},
};

use super::{Gathering, column_ref};
use crate::{
    event::{Form, Inner, Mix},
    statement::analysis::{
        names::strings,
        parts::{Parts, Visitor, descend},
    },
};

impl Gathering {
    /// All that goes into these.
    pub(super) fn mix(&mut self, parts: &impl Parts) -> Mix {
        let mut mix = Mix::default();
        parts.visit(&mut Reader { gathering: self, mix: &mut mix });
        mix
    }

    pub(super) fn mix_of(&mut self, node: &NodeEnum) -> Mix {
        let mut mix = Mix::default();
        descend(node, &mut Reader { gathering: self, mix: &mut mix });
        mix
    }
}

struct Reader<'a> {
    gathering: &'a mut Gathering,
    mix: &'a mut Mix,
}

impl Reader<'_> {
    fn deeper(&mut self, walk: impl FnOnce(&mut Reader<'_>)) {
        let Self { gathering, mix } = self;
        gathering.deeper(|gathering| walk(&mut Reader { gathering, mix }));
    }

    fn query(&mut self, node: &NodeEnum, is_read: bool) {
        let query = self.gathering.reserve();
        self.gathering.fill(query, Some(node));
        self.mix.inner.push(Inner { query, is_read });
    }
}

impl Visitor for Reader<'_> {
    fn node(&mut self, node: &NodeEnum) {
        self.deeper(|reader| match node {
            NodeEnum::ColumnRef(reference) => {
                let reference = reader.gathering.reference(reference);
                reader.mix.of.push(reference);
            }
            NodeEnum::FuncCall(call) => {
                reader.gathering.calls(&strings(&call.funcname));
                descend(node, reader);
            }
            // `xmlforest(a)`
            NodeEnum::ResTarget(target) if target.name.is_empty() => {
                match target.val.as_deref().and_then(column_ref) {
                    Some(reference) => {
                        let reference = reader.gathering.reference(reference);
                        reader.mix.of.push(reference.in_form(Form::Result));
                    }
                    None => descend(node, reader),
                }
            }
            NodeEnum::SubLink(link) => {
                link.testexpr.visit(reader);
                let is_read = link.sub_link_type() != SubLinkType::ExistsSublink;
                match link.subselect.as_deref().and_then(|query| query.node.as_ref()) {
                    Some(query) => reader.query(query, is_read),
                    None => reader.gathering.lose(),
                }
            }
            NodeEnum::SelectStmt(_)
            | NodeEnum::InsertStmt(_)
            | NodeEnum::UpdateStmt(_)
            | NodeEnum::DeleteStmt(_)
            | NodeEnum::MergeStmt(_) => reader.query(node, true),
            NodeEnum::CommonTableExpr(_) | NodeEnum::WithClause(_) => reader.gathering.lose(),
            _ => descend(node, reader),
        });
    }

    /// No relation stands in an expression.
    fn relation(&mut self, _: &pg_query::protobuf::RangeVar) {
        self.gathering.lose();
    }

    fn stranger(&mut self) {
        self.gathering.lose();
    }
}

/// The number that an `ORDER BY` or `GROUP BY` means a result by, and where it stands.
pub(super) fn position(node: &Node) -> Option<(usize, i32)> {
    use pg_query::protobuf::a_const::Val;
    match &node.node {
        Some(NodeEnum::AConst(constant)) => match &constant.val {
            Some(Val::Ival(number)) => {
                Some((usize::try_from(number.ival).ok()?, constant.location))
            }
            _ => None,
        },
        _ => None,
    }
}

/// The column that PostgreSQL calls a result after which has no name of its own.
pub(super) fn namesake(node: &Node) -> Option<&ColumnRef> {
    let mut node = node;
    loop {
        let inner = match node.node.as_ref()? {
            NodeEnum::ColumnRef(reference) => return Some(reference),
            NodeEnum::TypeCast(cast) => cast.arg.as_deref(),
            NodeEnum::CollateClause(collate) => collate.arg.as_deref(),
            NodeEnum::CaseExpr(case) => case.defresult.as_deref(),
            // `a[1]`, but not `(a).b`.
            NodeEnum::AIndirection(it) if strings(&it.indirection).is_empty() => it.arg.as_deref(),
            _ => None,
        };
        node = inner?;
    }
}
