//! What stands under each node of a parse tree: the table by which a tree is walked whole.
//!
//! Each struct of the grammar is taken apart without `..`, so that a field which a new version of
//! `pg_query` adds doesn't compile until somebody has said what it means.

use pg_query::{Node, NodeEnum, protobuf};

/// Sees each node of a tree.
pub(super) trait Visitor {
    /// Calls [`descend`] for what it has no opinion on.
    fn node(&mut self, node: &NodeEnum);

    /// A relation that stands in a struct's field instead of a node.
    fn relation(&mut self, _: &protobuf::RangeVar) {}

    /// A type that is named.
    fn kind(&mut self) {}

    /// A node that the table doesn't know.
    fn stranger(&mut self);
}

/// Has nodes under it.
pub(super) trait Parts {
    fn visit(&self, visitor: &mut dyn Visitor);
}

impl Parts for Node {
    fn visit(&self, visitor: &mut dyn Visitor) {
        // An empty node is a NULL in a list of the grammar, as for `func(*)`.
        if let Some(node) = &self.node {
            visitor.node(node);
        }
    }
}

impl Parts for protobuf::RangeVar {
    fn visit(&self, visitor: &mut dyn Visitor) {
        visitor.relation(self);
    }
}

impl Parts for protobuf::TypeName {
    fn visit(&self, visitor: &mut dyn Visitor) {
        let Self {
            names,
            typmods,
            array_bounds,
            type_oid: _,
            setof: _,
            pct_type: _,
            typemod: _,
            location: _,
        } = self;
        visitor.kind();
        names.visit(visitor);
        typmods.visit(visitor);
        array_bounds.visit(visitor);
    }
}

impl<T: Parts> Parts for Vec<T> {
    fn visit(&self, visitor: &mut dyn Visitor) {
        self.iter().for_each(|part| part.visit(visitor));
    }
}

impl<T: Parts> Parts for Option<T> {
    fn visit(&self, visitor: &mut dyn Visitor) {
        self.iter().for_each(|part| part.visit(visitor));
    }
}

impl<T: Parts> Parts for Box<T> {
    fn visit(&self, visitor: &mut dyn Visitor) {
        T::visit(self, visitor);
    }
}

/// `Name { walked: …; plain: … }`: `walked` fields hold nodes, `plain` ones say nothing of their own.
macro_rules! parts {
    ($($name:ident { $($walked:ident)*; $($plain:ident)* })+) => {$(
        impl Parts for protobuf::$name {
            fn visit(&self, visitor: &mut dyn Visitor) {
                let Self { $($walked,)* $($plain: _,)* } = self;
                let _ = &visitor;
                $($walked.visit(visitor);)*
            }
        }
    )+};
}

parts! {
    // Expressions.
    AArrayExpr { elements; list_start list_end location }
    AConst { ; isnull location val }
    AExpr { name lexpr rexpr; kind rexpr_list_start rexpr_list_end location }
    AIndices { lidx uidx; is_slice }
    AIndirection { arg indirection; }
    AStar { ; }
    BitString { ; bsval }
    BoolExpr { xpr args; boolop location }
    Boolean { ; boolval }
    BooleanTest { xpr arg; booltesttype location }
    CaseExpr { xpr arg args defresult; casetype casecollid location }
    CaseWhen { xpr expr result; location }
    CoalesceExpr { xpr args; coalescetype coalescecollid location }
    CollateClause { arg collname; location }
    ColumnRef { fields; location }
    CurrentOfExpr { xpr; cvarno cursor_name cursor_param }
    Float { ; fval }
    FuncCall {
        funcname args agg_order agg_filter over;
        agg_within_group agg_star agg_distinct func_variadic funcformat location
    }
    GroupingFunc { xpr args refs; agglevelsup location }
    GroupingSet { content; kind location }
    Integer { ; ival }
    List { items; }
    MergeSupportFunc { xpr; msftype msfcollid location }
    MinMaxExpr { xpr args; minmaxtype minmaxcollid inputcollid op location }
    MultiAssignRef { source; colno ncolumns }
    NamedArgExpr { xpr arg; name argnumber location }
    NullTest { xpr arg; nulltesttype argisrow location }
    ParamRef { ; number location }
    ResTarget { indirection val; name location }
    RowExpr { xpr args colnames; row_typeid row_format location }
    SetToDefault { xpr; type_id type_mod collation location }
    SortBy { node use_op; sortby_dir sortby_nulls location }
    SqlValueFunction { xpr; op r#type typmod location }
    String { ; sval }
    SubLink { xpr testexpr oper_name subselect; sub_link_type sub_link_id location }
    TypeCast { arg type_name; location }
    WindowDef {
        partition_clause order_clause start_offset end_offset; name refname frame_options location
    }
    XmlExpr {
        xpr named_args arg_names args; op name xmloption indent r#type typmod location
    }
    XmlSerialize { expr type_name; xmloption indent location }

    // Expressions of SQL/JSON.
    JsonAggConstructor { output agg_filter agg_order over; location }
    JsonArgument { val; name }
    JsonArrayAgg { constructor arg; absent_on_null }
    JsonArrayConstructor { exprs output; absent_on_null location }
    JsonArrayQueryConstructor { query output format; absent_on_null location }
    JsonBehavior { expr; btype coerce location }
    JsonFormat { ; format_type encoding location }
    JsonFuncExpr {
        context_item pathspec passing output on_empty on_error;
        op column_name wrapper quotes location
    }
    JsonIsPredicate { expr format; item_type unique_keys location }
    JsonKeyValue { key value; }
    JsonObjectAgg { constructor arg; absent_on_null unique }
    JsonObjectConstructor { exprs output; absent_on_null unique location }
    JsonOutput { type_name returning; }
    JsonParseExpr { expr output; unique_keys location }
    JsonReturning { format; typid typmod }
    JsonScalarExpr { expr output; location }
    JsonSerializeExpr { expr output; location }
    JsonTable { context_item pathspec passing columns on_error alias; lateral location }
    JsonTableColumn {
        type_name pathspec format columns on_empty on_error; coltype name wrapper quotes location
    }
    JsonTablePathSpec { string; name name_location location }
    JsonValueExpr { raw_expr formatted_expr format; }

    // What a query reads from, and its clauses.
    Alias { colnames; aliasname }
    CommonTableExpr {
        aliascolnames ctequery search_clause cycle_clause ctecolnames ctecoltypes ctecoltypmods
        ctecolcollations;
        ctename ctematerialized location cterecursive cterefcount
    }
    CteCycleClause {
        cycle_col_list cycle_mark_value cycle_mark_default;
        cycle_mark_column cycle_path_column location cycle_mark_type cycle_mark_typmod
        cycle_mark_collation cycle_mark_neop
    }
    CteSearchClause { search_col_list; search_breadth_first search_seq_column location }
    InferClause { index_elems where_clause; conname location }
    JoinExpr {
        larg rarg using_clause join_using_alias quals alias; jointype is_natural rtindex
    }
    LockingClause { locked_rels; strength wait_policy }
    MergeWhenClause { condition target_list values; match_kind command_type r#override }
    OnConflictClause { infer target_list where_clause; action location }
    RangeFunction { functions alias coldeflist; lateral ordinality is_rowsfrom }
    RangeSubselect { subquery alias; lateral }
    RangeTableFunc { docexpr rowexpr namespaces columns alias; lateral location }
    RangeTableFuncCol { type_name colexpr coldefexpr; colname for_ordinality is_not_null location }
    RangeTableSample { relation method args repeatable; location }
    ReturningClause { options exprs; }
    ReturningOption { ; option value location }
    WithClause { ctes; recursive location }

    // Queries, for who looks through them without judging them.
    DeleteStmt { with_clause relation using_clause where_clause returning_clause; }
    InsertStmt {
        with_clause relation cols select_stmt on_conflict_clause returning_clause; r#override
    }
    IntoClause {
        rel col_names options; view_query access_method on_commit table_space_name skip_data
    }
    MergeStmt {
        with_clause relation source_relation join_condition merge_when_clauses returning_clause;
    }
    SelectStmt {
        with_clause distinct_clause into_clause target_list from_clause where_clause group_clause
        having_clause window_clause values_lists sort_clause limit_offset limit_count
        locking_clause larg rarg;
        group_distinct limit_option op all
    }
    UpdateStmt { with_clause relation target_list from_clause where_clause returning_clause; }

    // What definitions are made of.
    AccessPriv { cols; priv_name }
    ColumnDef {
        type_name raw_default cooked_default coll_clause constraints fdwoptions identity_sequence;
        colname compression inhcount is_local is_not_null is_from_type storage storage_name identity
        generated coll_oid location
    }
    Constraint {
        raw_expr keys including exclusions options where_clause fk_attrs pk_attrs fk_del_set_cols
        old_conpfeqop;
        contype conname deferrable initdeferred is_enforced skip_validation initially_valid
        is_no_inherit cooked_expr generated_when generated_kind nulls_not_distinct without_overlaps
        indexname indexspace reset_default_tblspc access_method pktable fk_with_period pk_with_period
        fk_matchtype fk_upd_action fk_del_action old_pktable_oid location
    }
    DefElem { arg; defnamespace defname defaction location arg_location }
    FunctionParameter { arg_type defexpr; name mode location }
    IndexElem { expr collation opclass opclassopts; name indexcolname ordering nulls_ordering }
    ObjectWithArgs { objname objargs objfuncargs; args_unspecified }
    PartitionBoundSpec {
        listdatums lowerdatums upperdatums; strategy is_default modulus remainder location
    }
    PartitionElem { expr collation opclass; name location }
    PartitionRangeDatum { value; kind location }
    PartitionSpec { part_params; strategy location }
    ReturnStmt { returnval; }
    RoleSpec { ; roletype rolename location }
    StatsElem { expr; name }
    TableLikeClause { relation; options relation_oid }
    TriggerTransition { ; name is_new is_table }
    CreateOpClassItem { name order_family class_args storedtype; itemtype number }
    AtAlterConstraint {
        ;
        conname alter_enforceability is_enforced alter_deferrability deferrable initdeferred
        alter_inheritability noinherit
    }
    ReplicaIdentityStmt { ; identity_type name }
    PartitionCmd { name bound; concurrent }
    RawStmt { stmt; stmt_location stmt_len }
}

/// Visits what stands directly under `node`.
pub(super) fn descend(node: &NodeEnum, visitor: &mut dyn Visitor) {
    macro_rules! by_table {
        ($($variant:ident)+) => {
            match node {
                NodeEnum::RangeVar(relation) => visitor.relation(relation),
                $(NodeEnum::$variant(parts) => parts.visit(visitor),)+
                _ => visitor.stranger(),
            }
        };
    }
    by_table! {
        AArrayExpr AConst AExpr AIndices AIndirection AStar BitString BoolExpr Boolean BooleanTest
        CaseExpr CaseWhen CoalesceExpr CollateClause ColumnRef CurrentOfExpr Float FuncCall
        GroupingFunc GroupingSet Integer List MergeSupportFunc MinMaxExpr MultiAssignRef NamedArgExpr
        NullTest ParamRef ResTarget RowExpr SetToDefault SortBy SqlvalueFunction String SubLink TypeCast
        TypeName WindowDef XmlExpr XmlSerialize
        JsonAggConstructor JsonArgument JsonArrayAgg JsonArrayConstructor JsonArrayQueryConstructor
        JsonBehavior JsonFormat JsonFuncExpr JsonIsPredicate JsonKeyValue JsonObjectAgg
        JsonObjectConstructor JsonOutput JsonParseExpr JsonReturning JsonScalarExpr JsonSerializeExpr
        JsonTable JsonTableColumn JsonTablePathSpec JsonValueExpr
        Alias CommonTableExpr CtecycleClause CtesearchClause InferClause JoinExpr LockingClause
        MergeWhenClause OnConflictClause RangeFunction RangeSubselect RangeTableFunc RangeTableFuncCol
        RangeTableSample ReturningClause ReturningOption WithClause
        DeleteStmt InsertStmt IntoClause MergeStmt SelectStmt UpdateStmt
        AccessPriv ColumnDef Constraint DefElem FunctionParameter IndexElem ObjectWithArgs
        PartitionBoundSpec PartitionElem PartitionRangeDatum PartitionSpec ReturnStmt RoleSpec StatsElem
        TableLikeClause TriggerTransition CreateOpClassItem AtalterConstraint ReplicaIdentityStmt
        PartitionCmd RawStmt
    }
}
