//! The SQL that loads rows one by one within the server: a table for the rows, and a function that tries each of them.
//!
//! The function takes one call for a whole batch, however many rows are refused. It inserts rows in small groups, each in
//! a subtransaction. If a group fails, the row at fault is known: the rows before it are inserted once more without it.

use super::error_class::{DOUBTFUL, NEVER_OF_A_ROW};
use super::load_sql::{LoadSql, MergeSource};
use crate::batch::BatchColumnType;
use crate::bulk_load::{KeyConflictAction, LoadPlan, is_directly_loadable};
use crate::table::{DbColumnType, TableColumn};
use afterload_core::identifier::{quote_identifier, quote_identifiers};

/// The temporary table that holds the rows.
const ROWS_TABLE: &str = "pg_temp.afterload_rows";
/// The most rows of a group. Larger groups save little, and more of their work is lost when a row fails.
const MAX_GROUP_ROWS: u32 = 64;

/// How a cell travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SentAs {
    /// In the type of its column. The server can always read it.
    Native,
    /// As the bytes of a text, which the server converts row by row.
    Bytes,
}

/// The SQL of loading rows one by one.
pub(super) struct RowLoadSql {
    /// How the cells of each column travel.
    pub(super) sent_as: Vec<SentAs>,
    /// The cells of a row `r` as values, in SQL.
    pub(super) values: Vec<String>,
    pub(super) create_rows_table: String,
    pub(super) clear_rows: String,
    pub(super) copy_rows: String,
    pub(super) create_function: String,
    /// Loads all rows. Binds the number of rows that are loaded alone, and the ends of the groups behind them.
    pub(super) call_function: String,
    /// Loads the rows of a range as one statement. Binds the range.
    pub(super) load_range: String,
    /// Leaves rows out. Binds their places.
    pub(super) delete_rows: String,
}

impl RowLoadSql {
    pub(super) fn new(plan: &LoadPlan) -> Self {
        let sent_as =
            plan.columns.iter().map(|(column, shape)| sent_as(column.column_type, *shape)).collect::<Vec<_>>();
        let declared = plan.columns.iter().zip(&sent_as).enumerate().map(|(index, ((column, _), sent))| match sent {
            SentAs::Native => format!("c{index} {}", column.type_name),
            SentAs::Bytes => format!("c{index} bytea"),
        });
        let declared = declared.collect::<Vec<_>>().join(", ");
        let values = plan.columns.iter().zip(&sent_as).enumerate();
        let values = values.map(|(index, ((column, _), sent))| cell_sql(index, column, *sent)).collect::<Vec<_>>();
        let range = |from: &str, to: &str, into: &str| {
            let source = MergeSource { table: ROWS_TABLE, alias: "r", place: "pos", from, to, into };
            LoadSql::merge_sql(plan, &source, &values)
        };
        let load_circle = range("al_from", "al_to", " INTO al_new, al_touched");
        let function = function_body(plan, &values, &load_circle);
        let load_range = range("$1", "$2", "");
        Self {
            sent_as,
            values,
            create_rows_table: format!(
                "CREATE TEMPORARY TABLE IF NOT EXISTS afterload_rows (pos int4 PRIMARY KEY, {declared}) \
                 ON COMMIT DELETE ROWS"
            ),
            clear_rows: format!("TRUNCATE {ROWS_TABLE}"),
            copy_rows: format!("COPY {ROWS_TABLE} FROM STDIN (FORMAT binary)"),
            create_function: format!(
                "CREATE OR REPLACE FUNCTION pg_temp.afterload_load(al_total int4, al_circles int4[]) \
                 RETURNS TABLE (al_row int4, al_inserted int4, al_updated int4, al_diagnosis text[]) \
                 LANGUAGE plpgsql AS {}",
                text_literal(&function)
            ),
            call_function: "SELECT * FROM pg_temp.afterload_load($1, $2)".to_owned(),
            load_range,
            delete_rows: format!("DELETE FROM {ROWS_TABLE} WHERE pos = ANY ($1)"),
        }
    }
}

/// Text may lack a character in the encoding of the database, and its type may refuse it. The server must see both row
/// by row. Everything else arrives in a form that it cannot refuse.
fn sent_as(kind: DbColumnType, shape: BatchColumnType) -> SentAs {
    let is_text = matches!(kind, DbColumnType::Text | DbColumnType::Json | DbColumnType::Jsonb | DbColumnType::Other);
    if is_text || !is_directly_loadable(kind, shape) { SentAs::Bytes } else { SentAs::Native }
}

/// A cell as a value of its column's type, in SQL. Texts are cast on assignment, which keeps the limits of their column.
fn cell_sql(index: usize, column: &TableColumn, sent: SentAs) -> String {
    match (sent, column.column_type) {
        (SentAs::Native, _) => format!("r.c{index}"),
        (SentAs::Bytes, DbColumnType::Text) => format!("convert_from(r.c{index}, 'UTF8')"),
        (SentAs::Bytes, _) => format!("CAST(convert_from(r.c{index}, 'UTF8') AS {})", column.type_name),
    }
}

/// The body of the function. It returns one row per refused row, and then one row with the counts.
fn function_body(plan: &LoadPlan, values: &[String], load_circle: &str) -> String {
    let diagnose = "GET STACKED DIAGNOSTICS al_state = RETURNED_SQLSTATE, al_schema = SCHEMA_NAME, \
        al_table = TABLE_NAME, al_constraint = CONSTRAINT_NAME, al_column = COLUMN_NAME, \
        al_message = MESSAGE_TEXT;";
    let reraise =
        format!("IF left(al_state, 2) = ANY ('{{{}}}'::text[]) THEN RAISE; END IF;", NEVER_OF_A_ROW.join(","));
    let reraise_doubtful = format!(
        "IF al_column = '' AND left(al_state, 2) = ANY ('{{{}}}'::text[]) THEN RAISE; END IF;",
        DOUBTFUL.join(",")
    );
    let report = "al_diagnosis := ARRAY[al_state, al_schema, al_table, al_constraint, al_column, al_message]; \
        RETURN NEXT;";
    let (insert, probe) = (insert_row(plan, values), probe_columns(plan, values));
    format!(
        "
#variable_conflict use_column
DECLARE
  r record;
  al_from int4 := 0; al_to int4; al_size int4 := {MAX_GROUP_ROWS}; al_at int4 := 0;
  al_new int8; al_touched int8; al_fresh bool; al_all_new int4 := 0; al_all_touched int4 := 0;
  al_state text; al_schema text; al_table text; al_constraint text; al_column text; al_message text;
BEGIN
  SET CONSTRAINTS ALL IMMEDIATE;
  WHILE al_from < al_total LOOP
    al_to := least(al_from + al_size, al_total); al_new := 0; al_touched := 0;
    BEGIN
      FOR r IN SELECT * FROM {ROWS_TABLE} s WHERE s.pos >= al_from AND s.pos < al_to ORDER BY s.pos LOOP
        al_at := r.pos;
        {insert}
      END LOOP;
      al_all_new := al_all_new + al_new; al_all_touched := al_all_touched + al_touched;
      al_from := al_to; al_size := least(al_size * 2, {MAX_GROUP_ROWS});
    EXCEPTION WHEN OTHERS OR ASSERT_FAILURE THEN
      {diagnose}
      {reraise}
      IF al_at > al_from THEN
        al_size := al_at - al_from;
      ELSE
        IF al_column = '' AND al_table = '' THEN
          {probe}
        END IF;
        {reraise_doubtful}
        al_row := al_from;
        {report}
        al_from := al_from + 1; al_size := 1;
      END IF;
    END;
  END LOOP;
  FOREACH al_to IN ARRAY al_circles LOOP
    BEGIN
      {load_circle};
      al_all_new := al_all_new + al_new; al_all_touched := al_all_touched + al_touched - al_new;
    EXCEPTION WHEN OTHERS OR ASSERT_FAILURE THEN
      {diagnose}
      {reraise}
      {reraise_doubtful}
      al_row := al_from;
      WHILE al_row < al_to LOOP
        {report}
        al_row := al_row + 1;
      END LOOP;
    END;
    al_from := al_to;
  END LOOP;
  al_row := NULL; al_inserted := al_all_new; al_updated := al_all_touched; al_diagnosis := NULL;
  RETURN NEXT;
END "
    )
}

/// Inserts the row `r` and counts what became of it.
fn insert_row(plan: &LoadPlan, values: &[String]) -> String {
    let table = plan.table.name.to_quoted_sql();
    let insert = format!(
        "INSERT INTO {table} ({}){} VALUES ({})",
        quote_identifiers(plan.column_names()),
        LoadSql::overriding_clause(plan),
        values.join(", ")
    );
    let (count_new, count_touched) = ("al_new := al_new + 1;", "al_touched := al_touched + 1;");
    match (plan.conflict_action(), LoadSql::shows_new_rows(plan)) {
        (Some(KeyConflictAction::Update), true) => format!(
            "{insert}{} RETURNING xmax = 0 INTO al_fresh; \
             IF FOUND AND al_fresh THEN {count_new} ELSIF FOUND THEN {count_touched} END IF;",
            plan.on_conflict_do_update()
        ),
        (Some(KeyConflictAction::Update), false) => format!(
            "al_fresh := NOT EXISTS ({}); {insert}{}; \
             IF FOUND AND al_fresh THEN {count_new} ELSIF FOUND THEN {count_touched} END IF;",
            LoadSql::existing_row(plan, values),
            plan.on_conflict_do_update()
        ),
        (Some(KeyConflictAction::Skip), _) => {
            format!("{insert}{}; IF FOUND THEN {count_new} END IF;", plan.on_conflict_do_nothing())
        }
        (None | Some(KeyConflictAction::Reject), _) => format!("{insert}; IF FOUND THEN {count_new} END IF;"),
    }
}

/// Finds the column whose cell alone cannot be converted, and leaves its name in `al_column`.
fn probe_columns(plan: &LoadPlan, values: &[String]) -> String {
    let table = plan.table.name.to_quoted_sql();
    let probes = plan.columns.iter().zip(values).map(|((column, _), value)| {
        // A variable that has the type of the column keeps its limits, too, which a cast would cut to.
        format!(
            "al_column := {}; DECLARE al_cell {table}.{}%TYPE := {value}; BEGIN NULL; END;",
            text_literal(&column.name),
            quote_identifier(&column.name)
        )
    });
    let probes = probes.collect::<Vec<_>>().join(" ");
    format!("BEGIN {probes} al_column := ''; EXCEPTION WHEN OTHERS OR ASSERT_FAILURE THEN NULL; END;")
}

/// A text in single quotes. The session keeps to standard strings, so only quotes are special.
fn text_literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bulk_load::ConflictRule;

    #[test]
    fn names_cannot_break_out_of_the_function() {
        let plan = LoadPlan::of_texts("o'brien\"s", &["it's", "$afterload$"]);
        let sql = RowLoadSql::new(&plan).create_function;
        let (head, body) = sql.split_once(" AS '").unwrap();
        assert!(head.ends_with("LANGUAGE plpgsql"), "{head}");
        let body = body.strip_suffix('\'').unwrap();
        assert!(!body.replace("''", "").contains('\''), "every quote is doubled: {body}");
        assert!(body.contains(r#"INSERT INTO "o''brien""s" ("it''s", "$afterload$") VALUES"#), "{body}");
        assert!(body.contains("al_column := ''it''''s''; DECLARE"), "{body}");
    }

    #[test]
    fn conflict_action_decides_how_a_row_is_counted() {
        let mut plan = LoadPlan::of_texts("t", &["a", "b"]);
        plan.table.identity_columns.push("a".to_owned());
        let mut insert = |action: KeyConflictAction, partitioned: bool| {
            let keys = vec!["a".to_owned()];
            plan.conflict = Some(ConflictRule { keys, action, update: None, keep_on_null: Vec::new() });
            plan.table.partitioned = partitioned;
            insert_row(&plan, &["r.c0".to_owned(), "r.c1".to_owned()])
        };
        let start = r#"INSERT INTO "t" ("a", "b") OVERRIDING SYSTEM VALUE VALUES (r.c0, r.c1)"#;
        let update = insert(KeyConflictAction::Update, false);
        assert!(update.starts_with(start) && update.contains("RETURNING xmax = 0 INTO al_fresh;"), "{update}");
        let counted = insert(KeyConflictAction::Update, true);
        assert!(
            counted.starts_with(r#"al_fresh := NOT EXISTS (SELECT 1 FROM "t" t WHERE t."a" = r.c0);"#),
            "{counted}"
        );
        assert!(insert(KeyConflictAction::Skip, false).contains(r#"ON CONFLICT ("a") DO NOTHING; IF FOUND"#));
        assert!(!insert(KeyConflictAction::Reject, false).contains("CONFLICT"));
    }
}
