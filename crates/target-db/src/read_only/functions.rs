//! Functions that do more than read, by name.

/// Functions that affect the server, its files, other sessions, the limits of this session, or other databases, or that
/// run SQL which they receive as text.
const SIDE_EFFECT_FUNCTIONS: [&str; 52] = [
    "crosstab",
    "crosstabn",
    "currtid2",
    "dblink",
    "dblink_connect",
    "dblink_connect_u",
    "dblink_exec",
    "dblink_fetch",
    "dblink_get_result",
    "dblink_open",
    "dblink_send_query",
    "edit",
    "fts3_tokenizer",
    "load_extension",
    "loread",
    "lowrite",
    "nextval",
    "pg_advisory_lock",
    "pg_advisory_lock_shared",
    "pg_advisory_unlock",
    "pg_advisory_unlock_all",
    "pg_advisory_unlock_shared",
    "pg_advisory_xact_lock",
    "pg_advisory_xact_lock_shared",
    "pg_cancel_backend",
    "pg_current_logfile",
    "pg_export_snapshot",
    "pg_hba_file_rules",
    "pg_ident_file_mappings",
    "pg_import_system_collations",
    "pg_log_backend_memory_contexts",
    "pg_notify",
    "pg_promote",
    "pg_read_binary_file",
    "pg_read_file",
    "pg_reload_conf",
    "pg_rotate_logfile",
    "pg_show_all_file_settings",
    "pg_stat_file",
    "pg_stat_reset",
    "pg_switch_wal",
    "pg_tablespace_databases",
    "pg_terminate_backend",
    "query_to_xml",
    "query_to_xml_and_xmlschema",
    "query_to_xmlschema",
    "readfile",
    "set_config",
    "setval",
    "sqlite_log",
    "ts_stat",
    "writefile",
];
/// Prefixes of the names of more such functions.
const SIDE_EFFECT_PREFIXES: [&str; 16] = [
    "binary_upgrade_",
    "cursor_to_xml",
    "database_to_xml",
    "lo_",
    "pg_backup_",
    "pg_create_",
    "pg_drop_",
    "pg_file_",
    "pg_logical_",
    "pg_ls_",
    "pg_replication_",
    "pg_stat_reset_",
    "pg_try_advisory_",
    "pg_wal_replay_",
    "schema_to_xml",
    "table_to_xml",
];

/// Whether a function of this name does more than read, whatever the catalog says about it.
pub(crate) fn has_side_effects(name: &str) -> bool {
    SIDE_EFFECT_FUNCTIONS.contains(&name) || SIDE_EFFECT_PREFIXES.iter().any(|family| name.starts_with(family))
}

/// Whether the configuration lists the function, as `name` or `schema.name`.
pub(crate) fn is_listed(listed: &[String], schema: Option<&str>, name: &str) -> bool {
    listed.iter().any(|known| match known.rsplit_once('.') {
        Some((of, known)) => known == name && schema.is_none_or(|schema| schema == of),
        None => known == name,
    })
}
