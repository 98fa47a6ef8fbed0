//! Sorts of objects and statements, as a summary calls them.

use pg_query::{
    NodeEnum,
    protobuf::{ObjectType, TransactionStmtKind},
};

use crate::event::Trait;

/// As in `TABLE` of `DROP TABLE`.
pub(super) fn title(kind: ObjectType) -> &'static str {
    use ObjectType as O;
    match kind {
        O::ObjectAccessMethod => "ACCESS METHOD",
        O::ObjectAggregate => "AGGREGATE",
        O::ObjectAttribute | O::ObjectType => "TYPE",
        O::ObjectCast => "CAST",
        O::ObjectColumn | O::ObjectTabconstraint | O::ObjectTable => "TABLE",
        O::ObjectCollation => "COLLATION",
        O::ObjectConversion => "CONVERSION",
        O::ObjectDatabase => "DATABASE",
        O::ObjectDomain | O::ObjectDomconstraint => "DOMAIN",
        O::ObjectEventTrigger => "EVENT TRIGGER",
        O::ObjectExtension => "EXTENSION",
        O::ObjectFdw => "FOREIGN DATA WRAPPER",
        O::ObjectForeignServer => "SERVER",
        O::ObjectForeignTable => "FOREIGN TABLE",
        O::ObjectFunction => "FUNCTION",
        O::ObjectIndex => "INDEX",
        O::ObjectLanguage => "LANGUAGE",
        O::ObjectLargeobject => "LARGE OBJECT",
        O::ObjectMatview => "MATERIALIZED VIEW",
        O::ObjectOpclass => "OPERATOR CLASS",
        O::ObjectOperator => "OPERATOR",
        O::ObjectOpfamily => "OPERATOR FAMILY",
        O::ObjectPolicy => "POLICY",
        O::ObjectProcedure => "PROCEDURE",
        O::ObjectPublication => "PUBLICATION",
        O::ObjectRole => "ROLE",
        O::ObjectRoutine => "ROUTINE",
        O::ObjectRule => "RULE",
        O::ObjectSchema => "SCHEMA",
        O::ObjectSequence => "SEQUENCE",
        O::ObjectStatisticExt => "STATISTICS",
        O::ObjectSubscription => "SUBSCRIPTION",
        O::ObjectTablespace => "TABLESPACE",
        O::ObjectTransform => "TRANSFORM",
        O::ObjectTrigger => "TRIGGER",
        O::ObjectTsconfiguration => "TEXT SEARCH CONFIGURATION",
        O::ObjectTsdictionary => "TEXT SEARCH DICTIONARY",
        O::ObjectTsparser => "TEXT SEARCH PARSER",
        O::ObjectTstemplate => "TEXT SEARCH TEMPLATE",
        O::ObjectUserMapping => "USER MAPPING",
        O::ObjectView => "VIEW",
        _ => "OBJECT",
    }
}

/// Whether objects of this sort share the names of tables.
pub(super) fn is_relation(kind: ObjectType) -> bool {
    matches!(
        kind,
        ObjectType::ObjectTable
            | ObjectType::ObjectView
            | ObjectType::ObjectMatview
            | ObjectType::ObjectForeignTable
            | ObjectType::ObjectSequence
            | ObjectType::ObjectIndex
    )
}

/// Whether objects of this sort run something.
pub(super) fn is_code(kind: ObjectType) -> bool {
    matches!(
        kind,
        ObjectType::ObjectAccessMethod
            | ObjectType::ObjectAggregate
            | ObjectType::ObjectCast
            | ObjectType::ObjectConversion
            | ObjectType::ObjectEventTrigger
            | ObjectType::ObjectFdw
            | ObjectType::ObjectFunction
            | ObjectType::ObjectLanguage
            | ObjectType::ObjectOpclass
            | ObjectType::ObjectOperator
            | ObjectType::ObjectOpfamily
            | ObjectType::ObjectProcedure
            | ObjectType::ObjectRoutine
            | ObjectType::ObjectTransform
            | ObjectType::ObjectTsparser
            | ObjectType::ObjectTstemplate
    )
}

pub(super) fn transaction_title(kind: TransactionStmtKind) -> &'static str {
    use TransactionStmtKind as T;
    match kind {
        T::TransStmtBegin | T::TransStmtStart => "BEGIN",
        T::TransStmtCommit => "COMMIT",
        T::TransStmtRollback => "ROLLBACK",
        T::TransStmtSavepoint => "SAVEPOINT",
        T::TransStmtRelease => "RELEASE",
        T::TransStmtRollbackTo => "ROLLBACK TO",
        T::TransStmtPrepare => "PREPARE TRANSACTION",
        T::TransStmtCommitPrepared => "COMMIT PREPARED",
        T::TransStmtRollbackPrepared => "ROLLBACK PREPARED",
        T::Undefined => "TRANSACTION",
    }
}

/// What stands out in such a statement: whether it binds functions to what calls them unseen.
pub(super) fn definition_traits(statement: &NodeEnum) -> &'static [Trait] {
    use NodeEnum as N;
    match statement {
        N::DefineStmt(it) => match it.kind() {
            // A shell type has no functions yet.
            ObjectType::ObjectType if it.definition.is_empty() => &[],
            ObjectType::ObjectCollation
            | ObjectType::ObjectTsconfiguration
            | ObjectType::ObjectTsdictionary => &[],
            _ => &[Trait::Code],
        },
        // Its bounds are made the same, or their distance computed, by functions.
        N::CreateRangeStmt(it) => {
            let binds = it.params.iter().any(|param| match &param.node {
                Some(NodeEnum::DefElem(param)) => {
                    matches!(param.defname.as_str(), "canonical" | "subtype_diff")
                }
                _ => true,
            });
            if binds { &[Trait::Code] } else { &[] }
        }
        N::CreatePlangStmt(_) => &[Trait::Native],
        N::CreateFdwStmt(_) | N::AlterFdwStmt(_) => &[Trait::Code, Trait::OtherServer],
        N::AlterTypeStmt(_)
        | N::CreateAmStmt(_)
        | N::CreateEventTrigStmt(_)
        | N::AlterEventTrigStmt(_)
        | N::CreateOpClassStmt(_)
        | N::CreateOpFamilyStmt(_)
        | N::AlterOpFamilyStmt(_)
        | N::AlterOperatorStmt(_)
        | N::CreateConversionStmt(_)
        | N::CreateCastStmt(_)
        | N::CreateTransformStmt(_) => &[Trait::Code],
        _ => &[],
    }
}

/// Statements that define something which no table, role or server is, and no more.
pub(super) fn definition_title(statement: &NodeEnum) -> Option<&'static str> {
    use NodeEnum as N;
    Some(match statement {
        N::DefineStmt(it) => match it.kind() {
            ObjectType::ObjectAggregate => "CREATE AGGREGATE",
            ObjectType::ObjectOperator => "CREATE OPERATOR",
            ObjectType::ObjectType => "CREATE TYPE",
            ObjectType::ObjectCollation => "CREATE COLLATION",
            _ => "CREATE TEXT SEARCH",
        },
        N::CreateEnumStmt(_) | N::CreateRangeStmt(_) => "CREATE TYPE",
        N::AlterEnumStmt(_) | N::AlterTypeStmt(_) => "ALTER TYPE",
        N::CreateFdwStmt(_) => "CREATE FOREIGN DATA WRAPPER",
        N::AlterFdwStmt(_) => "ALTER FOREIGN DATA WRAPPER",
        N::CreateAmStmt(_) => "CREATE ACCESS METHOD",
        N::CreateEventTrigStmt(_) => "CREATE EVENT TRIGGER",
        N::AlterEventTrigStmt(_) => "ALTER EVENT TRIGGER",
        N::CreatePlangStmt(_) => "CREATE LANGUAGE",
        N::CreateOpClassStmt(_) => "CREATE OPERATOR CLASS",
        N::CreateOpFamilyStmt(_) => "CREATE OPERATOR FAMILY",
        N::AlterOpFamilyStmt(_) => "ALTER OPERATOR FAMILY",
        N::AlterOperatorStmt(_) => "ALTER OPERATOR",
        N::AlterCollationStmt(_) => "ALTER COLLATION",
        N::AlterStatsStmt(_) => "ALTER STATISTICS",
        N::CreateConversionStmt(_) => "CREATE CONVERSION",
        N::CreateCastStmt(_) => "CREATE CAST",
        N::CreateTransformStmt(_) => "CREATE TRANSFORM",
        N::AlterTsdictionaryStmt(_) | N::AlterTsconfigurationStmt(_) => "ALTER TEXT SEARCH",
        _ => return None,
    })
}
