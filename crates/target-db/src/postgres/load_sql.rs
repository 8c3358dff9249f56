//! The SQL that loads PostgreSQL tables, directly or through a staging table.

use crate::bulk_load::{KeyConflictAction, LoadPlan, is_directly_loadable};
use afterload_core::identifier::{quote_identifier, quote_identifiers};

/// The temporary table that holds rows before the merge.
pub const STAGING_TABLE: &str = "pg_temp.afterload_stage";

/// The SQL of a loader.
pub struct LoadSql {
    /// Copies rows directly into the table. `None` if keys may conflict or the database has to cast.
    pub copy_direct: Option<String>,
    /// Creates the staging table.
    pub create_staging: String,
    /// Copies rows into the staging table.
    pub copy_staging: String,
    /// Deletes staged rows whose key is already in the table.
    pub delete_conflicts: Option<String>,
    /// Inserts the staged rows into the table.
    pub merge: String,
}

impl LoadSql {
    /// Builds the SQL for a load plan.
    pub fn new(plan: &LoadPlan) -> Self {
        let (table, names) = (plan.table.name.to_quoted_sql(), quote_identifiers(plan.column_names()));
        let (mut columns, mut selected, mut straight) = (Vec::new(), Vec::new(), plan.conflict.is_none());
        for (index, (column, shape)) in plan.columns.iter().enumerate() {
            let fits = is_directly_loadable(column.column_type, *shape);
            straight &= fits;
            columns.push(format!("c{index} {}", if fits { &column.type_name } else { "text" }));
            selected.push(if fits { format!("s.c{index}") } else { format!("s.c{index}::{}", column.type_name) });
        }
        let tail = match plan.conflict_action() {
            Some(KeyConflictAction::Update) => plan.on_conflict_do_update(),
            _ => plan.on_conflict_do_nothing(),
        };
        let same = plan.key_indexes().into_iter();
        let same = same.map(|key| format!("t.{} = {}", quote_identifier(&plan.columns[key].0.name), selected[key]));
        let same = same.collect::<Vec<_>>().join(" AND ");
        let range = "ord >= $1 AND ord < $2";
        let there = format!("{range} AND EXISTS (SELECT 1 FROM {table} t WHERE {same})");
        // `xmax` is 0 in a new row and not in an updated one. Partitioned tables do not return `xmax`, so the statement
        // counts the keys that already exist.
        let (returning, fresh) = match (plan.conflict_action(), plan.table.partitioned) {
            (Some(KeyConflictAction::Update), false) => ("xmax = 0", "count(*) FILTER (WHERE fresh)".to_owned()),
            (Some(KeyConflictAction::Update), true) => {
                ("true", format!("count(*) - (SELECT count(*) FROM {STAGING_TABLE} s WHERE {there})"))
            }
            _ => ("true", "count(*)".to_owned()),
        };
        let reject = plan.conflict_action() == Some(KeyConflictAction::Reject);
        Self {
            copy_direct: straight.then(|| format!("COPY {table} ({names}) FROM STDIN (FORMAT binary)")),
            create_staging: format!(
                "CREATE TEMPORARY TABLE IF NOT EXISTS afterload_stage (ord int4 NOT NULL, {}) ON COMMIT DELETE ROWS",
                columns.join(", ")
            ),
            copy_staging: format!("COPY {STAGING_TABLE} FROM STDIN (FORMAT binary)"),
            delete_conflicts: reject.then(|| format!("DELETE FROM {STAGING_TABLE} s WHERE {there} RETURNING ord")),
            merge: format!(
                "WITH merged AS (INSERT INTO {table} ({names}) SELECT {} FROM {STAGING_TABLE} s WHERE {range} ORDER BY ord{tail} \
                 RETURNING {returning} AS fresh) SELECT {fresh}, count(*) FROM merged",
                selected.join(", ")
            ),
        }
    }
}
