//! What calling a function or an operator does, as far as PostgreSQL itself brings it.

use std::{collections::HashSet, sync::LazyLock};

use pg_query::NodeEnum;

use crate::event::{Effect, Trait};

/// Functions that only compute, or read what the catalog and the statistics show anyway.
///
/// From `pg_proc` of PostgreSQL 15: what a client can call (no `internal`, `cstring` or trigger type) and
/// none of whose overloads is volatile; without `*_to_xml*`, which read tables by name. Then the volatile
/// ones that do no harm, and what 16 to 18 brought.
static HARMLESS: LazyLock<HashSet<&str>> =
    LazyLock::new(|| include_str!("harmless_functions.txt").split_whitespace().collect());

/// `oprname` of `pg_operator`, PostgreSQL 15, and what 16 to 18 brought.
static OPERATORS: LazyLock<HashSet<&str>> =
    LazyLock::new(|| include_str!("operators.txt").split_whitespace().collect());

/// What is known of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    Harmless,
    /// Has effects of its own, which its name tells.
    Does(&'static [Effect]),
    /// Changes the sequence that its first argument names.
    Sequence,
    /// Runs the SQL that is its nth argument, from 0.
    RunsText(usize),
    /// Reads the table that its first argument names.
    ReadsTable,
    /// Does what only its definition tells, or its arguments.
    Opaque,
    /// The worst: it runs SQL on another server, or code of another language.
    Unknown,
}

/// Whether a function of PostgreSQL's own, as facts name it, only computes.
pub fn only_computes(written: &str) -> bool {
    let (schema, name) = match written.rsplit_once('.') {
        Some((schema, name)) => (Some(schema), name),
        None => (None, written),
    };
    known(schema, name) == Known::Harmless
}

/// `schema` is `None` for a name without one, and `pg_catalog` for what the grammar itself calls.
///
/// `pg_catalog` is searched first unless a session says otherwise, so a name without a schema is taken
/// for the built-in one.
pub(super) fn known(schema: Option<&str>, name: &str) -> Known {
    if name.starts_with("dblink") {
        return Known::Unknown;
    }
    // They only compute, and nobody but a superuser can change them.
    if schema == Some("information_schema") && name.starts_with("_pg_") {
        return Known::Harmless;
    }
    if schema.is_some_and(|schema| schema != "pg_catalog") {
        return Known::Opaque;
    }
    if HARMLESS.contains(name) {
        return Known::Harmless;
    }
    use Effect::{Call, Configure, Define, Delete, Insert, Program, Read, Session, Update};
    match name {
        "nextval" | "setval" => Known::Sequence,
        "query_to_xml" | "query_to_xmlschema" | "query_to_xml_and_xmlschema" | "ts_stat" => {
            Known::RunsText(0)
        }
        // With two arguments; with three it computes, and its second argument is no text of SQL.
        "ts_rewrite" => Known::RunsText(1),
        "table_to_xml" | "table_to_xmlschema" | "table_to_xml_and_xmlschema" => Known::ReadsTable,
        "cursor_to_xml" | "cursor_to_xmlschema" => Known::Does(&[Read]),
        "schema_to_xml"
        | "schema_to_xmlschema"
        | "schema_to_xml_and_xmlschema"
        | "database_to_xml"
        | "database_to_xmlschema"
        | "database_to_xml_and_xmlschema" => Known::Does(&[Read, Call]),
        "set_config"
        | "pg_notify"
        | "pg_export_snapshot"
        | "setseed"
        | "pg_stat_clear_snapshot"
        | "pg_replication_origin_session_setup"
        | "pg_replication_origin_session_reset"
        | "pg_replication_origin_xact_setup"
        | "pg_replication_origin_xact_reset" => Known::Does(&[Session]),
        "lo_get" | "loread" | "lo_open" | "lo_close" | "lo_lseek" | "lo_lseek64" | "lo_tell"
        | "lo_tell64" | "currtid2" => Known::Does(&[Read]),
        "lo_creat" | "lo_create" | "lo_from_bytea" => Known::Does(&[Insert]),
        "lo_put" | "lowrite" | "lo_truncate" | "lo_truncate64" => Known::Does(&[Update]),
        "lo_unlink" => Known::Does(&[Delete]),
        "lo_import" => Known::Does(&[Program, Insert]),
        "lo_export" => Known::Does(&[Program, Read]),
        "pg_stat_file"
        | "pg_file_settings"
        | "pg_hba_file_rules"
        | "pg_ident_file_mappings"
        | "pg_show_all_file_settings"
        | "pg_current_logfile" => Known::Does(&[Program, Read]),
        "pg_import_system_collations" | "pg_extension_config_dump" => Known::Does(&[Define]),
        "pg_create_restore_point"
        | "pg_logical_emit_message"
        | "gin_clean_pending_list"
        | "pg_cancel_backend"
        | "pg_terminate_backend"
        | "pg_reload_conf"
        | "pg_rotate_logfile"
        | "pg_rotate_logfile_old"
        | "pg_promote"
        | "pg_switch_wal"
        | "pg_wal_replay_pause"
        | "pg_wal_replay_resume"
        | "pg_backup_start"
        | "pg_backup_stop"
        | "pg_start_backup"
        | "pg_stop_backup"
        | "pg_log_backend_memory_contexts"
        | "pg_nextoid"
        | "pg_stop_making_pinned_objects"
        | "pg_stat_force_next_flush"
        | "pg_clear_relation_stats"
        | "pg_restore_relation_stats"
        | "pg_clear_attribute_stats"
        | "pg_restore_attribute_stats" => Known::Does(&[Configure]),
        _ => by_prefix(name),
    }
}

/// Families of functions that do one sort of thing.
fn by_prefix(name: &str) -> Known {
    use Effect::{Configure, Lock, Program, Read, Replicate};
    const FAMILIES: &[(&str, &[Effect])] = &[
        ("pg_read_", &[Program, Read]),
        ("pg_ls_", &[Program, Read]),
        ("pg_file_", &[Program]),
        ("pg_advisory_", &[Lock]),
        ("pg_try_advisory_", &[Lock]),
        ("pg_stat_reset", &[Configure]),
        ("brin_", &[Configure]),
        ("pg_logical_slot_", &[Replicate, Read]),
        ("pg_create_logical_replication_slot", &[Replicate]),
        ("pg_create_physical_replication_slot", &[Replicate]),
        ("pg_copy_logical_replication_slot", &[Replicate]),
        ("pg_copy_physical_replication_slot", &[Replicate]),
        ("pg_drop_replication_slot", &[Replicate]),
        ("pg_replication_", &[Replicate]),
        ("pg_sync_replication_slots", &[Replicate]),
    ];
    let family = FAMILIES.iter().find(|(prefix, _)| name.starts_with(prefix));
    family.map_or(Known::Opaque, |(_, effects)| Known::Does(effects))
}

/// What stands out in a function of PostgreSQL's own.
pub(super) fn stands_out(name: &str) -> Option<Trait> {
    Some(match name {
        "pg_terminate_backend" | "pg_cancel_backend" => Trait::SessionKill,
        "lo_import" | "lo_export" => Trait::LargeObjectFile,
        "lo_unlink" => Trait::LargeObjectDrop,
        "pg_reload_conf" => Trait::LastingSetting,
        "pg_stat_file" => Trait::ServerFile,
        _ if ["pg_read_", "pg_ls_", "pg_file_"].iter().any(|family| name.starts_with(family))
            && name != "pg_file_settings" =>
        {
            Trait::ServerFile
        }
        "pg_create_restore_point"
        | "pg_logical_emit_message"
        | "pg_rotate_logfile"
        | "pg_rotate_logfile_old"
        | "pg_promote"
        | "pg_switch_wal"
        | "pg_wal_replay_pause"
        | "pg_wal_replay_resume"
        | "pg_backup_start"
        | "pg_backup_stop"
        | "pg_start_backup"
        | "pg_stop_backup"
        | "pg_log_backend_memory_contexts"
        | "pg_nextoid"
        | "pg_stop_making_pinned_objects"
        | "pg_import_system_collations"
        | "pg_extension_config_dump"
        | "pg_clear_relation_stats"
        | "pg_restore_relation_stats"
        | "pg_clear_attribute_stats"
        | "pg_restore_attribute_stats" => Trait::ServerControl,
        _ if name.starts_with("pg_stat_reset") || name.starts_with("pg_replication_origin_") => {
            Trait::ServerControl
        }
        _ => return None,
    })
}

/// What is a keyword with an argument list in this grammar, and a function's name in older ones.
pub(super) fn name_of_syntax(node: &NodeEnum) -> Option<&'static str> {
    use NodeEnum as N;
    Some(match node {
        N::JsonArrayConstructor(_) | N::JsonArrayQueryConstructor(_) => "json_array",
        N::JsonObjectConstructor(_) => "json_object",
        N::JsonArrayAgg(_) => "json_arrayagg",
        N::JsonObjectAgg(_) => "json_objectagg",
        N::JsonScalarExpr(_) => "json_scalar",
        N::JsonSerializeExpr(_) => "json_serialize",
        N::JsonParseExpr(_) => "json",
        N::JsonFuncExpr(it) => match it.op() {
            pg_query::protobuf::JsonExprOp::JsonExistsOp => "json_exists",
            pg_query::protobuf::JsonExprOp::JsonQueryOp => "json_query",
            _ => "json_value",
        },
        N::JsonTable(_) => "json_table",
        N::MergeSupportFunc(_) => "merge_action",
        _ => return None,
    })
}

/// Relations of `pg_catalog` that somebody could change by hand, and that are no views.
const CATALOG: &[&str] = &[
    "pg_aggregate",
    "pg_am",
    "pg_amop",
    "pg_amproc",
    "pg_attrdef",
    "pg_attribute",
    "pg_auth_members",
    "pg_authid",
    "pg_cast",
    "pg_class",
    "pg_collation",
    "pg_constraint",
    "pg_conversion",
    "pg_database",
    "pg_db_role_setting",
    "pg_default_acl",
    "pg_depend",
    "pg_description",
    "pg_enum",
    "pg_event_trigger",
    "pg_extension",
    "pg_foreign_data_wrapper",
    "pg_foreign_server",
    "pg_foreign_table",
    "pg_index",
    "pg_inherits",
    "pg_init_privs",
    "pg_language",
    "pg_largeobject",
    "pg_largeobject_metadata",
    "pg_namespace",
    "pg_opclass",
    "pg_operator",
    "pg_opfamily",
    "pg_parameter_acl",
    "pg_partitioned_table",
    "pg_policy",
    "pg_proc",
    "pg_publication",
    "pg_publication_namespace",
    "pg_publication_rel",
    "pg_range",
    "pg_replication_origin",
    "pg_rewrite",
    "pg_seclabel",
    "pg_sequence",
    "pg_shdepend",
    "pg_shdescription",
    "pg_shseclabel",
    "pg_statistic",
    "pg_statistic_ext",
    "pg_statistic_ext_data",
    "pg_subscription",
    "pg_subscription_rel",
    "pg_tablespace",
    "pg_transform",
    "pg_trigger",
    "pg_ts_config",
    "pg_ts_config_map",
    "pg_ts_dict",
    "pg_ts_parser",
    "pg_ts_template",
    "pg_type",
    "pg_user_mapping",
];

/// Whether a relation is PostgreSQL's own, by its name as written.
pub(super) fn is_catalog(name: &str) -> bool {
    let mut parts = name.rsplit('.');
    match (parts.next(), parts.next()) {
        (Some(_), Some(schema)) => {
            ["pg_catalog", "information_schema", "pg_toast"].contains(&schema)
        }
        (Some(name), None) => CATALOG.contains(&name),
        _ => false,
    }
}

/// Whether PostgreSQL brings this operator; others run somebody's function.
pub(super) fn is_known_operator(schema: Option<&str>, name: &str) -> bool {
    schema.is_none_or(|schema| schema == "pg_catalog") && OPERATORS.contains(name)
}
