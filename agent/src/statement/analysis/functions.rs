//! What calling a function or an operator does, as far as PostgreSQL itself brings it.

use std::{collections::HashSet, sync::LazyLock};

use crate::event::Effect;

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

/// `schema` is `None` for a name without one, and `pg_catalog` for what the grammar itself calls.
///
/// `pg_catalog` is searched first unless a session says otherwise, so a name without a schema is taken
/// for the built-in one.
pub(super) fn known(schema: Option<&str>, name: &str) -> Known {
    if name.starts_with("dblink") {
        return Known::Unknown;
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

/// Whether PostgreSQL brings this operator; others run somebody's function.
pub(super) fn is_known_operator(schema: Option<&str>, name: &str) -> bool {
    schema.is_none_or(|schema| schema == "pg_catalog") && OPERATORS.contains(name)
}
