//! The SQL that loads PostgreSQL tables at once, directly or through a staging table.

use crate::bulk_load::{KeyConflictAction, LoadPlan, is_directly_loadable};
use afterload_core::identifier::{quote_identifier, quote_identifiers};

/// The temporary table that holds rows before the merge.
const STAGING_TABLE: &str = "pg_temp.afterload_stage";

/// The SQL of a loader.
pub(super) struct LoadSql {
    /// Plans an insert. It fails if no row can be inserted, whatever it holds.
    pub(super) probe: String,
    /// Copies rows directly into the table. `None` if rows may update others, if the database has to cast, and for tables
    /// that `COPY` does not take.
    pub(super) copy_direct: Option<String>,
    /// Creates the staging table.
    pub(super) create_staging: String,
    /// Empties the staging table.
    pub(super) clear_staging: String,
    /// Copies rows into the staging table.
    pub(super) copy_staging: String,
    /// Inserts the staged rows into the table. Binds the range of rows.
    pub(super) merge: String,
}

/// Where a merge takes its rows from.
pub(super) struct MergeSource<'a> {
    /// The table that holds the rows, and its alias.
    pub(super) table: &'a str,
    pub(super) alias: &'a str,
    /// The column that orders the rows, and the range of it, as SQL.
    pub(super) place: &'a str,
    pub(super) from: &'a str,
    pub(super) to: &'a str,
    /// The clause that takes the counts, if any.
    pub(super) into: &'a str,
}

impl LoadSql {
    /// Builds the SQL for a load plan.
    pub(super) fn new(plan: &LoadPlan) -> Self {
        let (table, names) = (plan.table.name.to_quoted_sql(), quote_identifiers(plan.column_names()));
        let (mut columns, mut values, mut fits_all) = (Vec::new(), Vec::new(), true);
        for (index, (column, shape)) in plan.columns.iter().enumerate() {
            let fits = is_directly_loadable(column.column_type, *shape);
            fits_all &= fits;
            columns.push(format!("c{index} {}", if fits { &column.type_name } else { "text" }));
            values.push(if fits { format!("s.c{index}") } else { format!("s.c{index}::{}", column.type_name) });
        }
        let keeps_rows = matches!(plan.conflict_action(), None | Some(KeyConflictAction::Reject));
        let direct = keeps_rows && fits_all && !plan.table.is_view && !plan.table.row_security;
        let source = MergeSource { table: STAGING_TABLE, alias: "s", place: "ord", from: "$1", to: "$2", into: "" };
        let nulls = vec!["NULL"; plan.columns.len()].join(", ");
        let tail = match plan.conflict_action() {
            Some(KeyConflictAction::Update) => plan.on_conflict_do_update(),
            _ => plan.on_conflict_do_nothing(),
        };
        Self {
            probe: format!(
                "EXPLAIN INSERT INTO {table} ({names}){} VALUES ({nulls}){tail}",
                Self::overriding_clause(plan)
            ),
            copy_direct: direct.then(|| format!("COPY {table} ({names}) FROM STDIN (FORMAT binary)")),
            create_staging: format!(
                "CREATE TEMPORARY TABLE IF NOT EXISTS afterload_stage (ord int4 NOT NULL, {}) ON COMMIT DELETE ROWS",
                columns.join(", ")
            ),
            clear_staging: format!("TRUNCATE {STAGING_TABLE}"),
            copy_staging: format!("COPY {STAGING_TABLE} FROM STDIN (FORMAT binary)"),
            merge: Self::merge_sql(plan, &source, &values),
        }
    }

    /// Inserts rows of another table. Returns the number of new rows, and of rows that were inserted or updated.
    pub(super) fn merge_sql(plan: &LoadPlan, source: &MergeSource<'_>, values: &[String]) -> String {
        let (table, names) = (plan.table.name.to_quoted_sql(), quote_identifiers(plan.column_names()));
        let MergeSource { table: from_table, alias, place, from, to, into } = source;
        let range = format!("{alias}.{place} >= {from} AND {alias}.{place} < {to}");
        // A rejected row is one that a plain insert refuses.
        let tail = match plan.conflict_action() {
            Some(KeyConflictAction::Update) => plan.on_conflict_do_update(),
            Some(KeyConflictAction::Skip) => plan.on_conflict_do_nothing(),
            Some(KeyConflictAction::Reject) | None => String::new(),
        };
        // `xmax` is 0 in a new row and not in an updated one.
        let (returning, fresh) = match (plan.conflict_action(), Self::shows_new_rows(plan)) {
            (Some(KeyConflictAction::Update), true) => ("xmax = 0", "count(*) FILTER (WHERE fresh)".to_owned()),
            (Some(KeyConflictAction::Update), false) => {
                let existing = Self::existing_row(plan, values);
                let there = format!("SELECT count(*) FROM {from_table} {alias} WHERE {range} AND EXISTS ({existing})");
                ("true", format!("count(*) - ({there})"))
            }
            _ => ("true", "count(*)".to_owned()),
        };
        format!(
            "WITH merged AS (INSERT INTO {table} ({names}){} SELECT {} FROM {from_table} {alias} WHERE {range} \
             ORDER BY {alias}.{place}{tail} RETURNING {returning} AS fresh) SELECT {fresh}, count(*){into} FROM merged",
            Self::overriding_clause(plan),
            values.join(", ")
        )
    }

    /// Whether inserted rows tell that they are new. Partitioned tables and views do not return `xmax`, so the keys that
    /// exist before are counted.
    pub(super) fn shows_new_rows(plan: &LoadPlan) -> bool {
        !plan.table.partitioned && !plan.table.is_view
    }

    /// Selects the row of the table that has the keys of the loaded row.
    pub(super) fn existing_row(plan: &LoadPlan, values: &[String]) -> String {
        let table = plan.table.name.to_quoted_sql();
        let covered = match plan.index.as_ref().and_then(|index| index.predicate.as_ref()) {
            // The predicate names columns without their table, so they must be the only ones there.
            Some(predicate) => format!("(SELECT * FROM {table} WHERE {predicate})"),
            None => table,
        };
        let same = plan.key_indexes().into_iter();
        let same = same.map(|key| format!("t.{} = {}", quote_identifier(&plan.columns[key].0.name), values[key]));
        format!("SELECT 1 FROM {covered} t WHERE {}", same.collect::<Vec<_>>().join(" AND "))
    }

    /// Lets a file bring the keys of an identity column, as `COPY` does.
    pub(super) fn overriding_clause(plan: &LoadPlan) -> &'static str {
        let is_identity = |name: &str| plan.table.identity_columns.iter().any(|identity| identity == name);
        if plan.column_names().any(is_identity) { " OVERRIDING SYSTEM VALUE" } else { "" }
    }
}
