//! Why PostgreSQL refused a row: the fields of its error, and what the catalog says about the rule that was broken.

use std::collections::HashMap;

use sqlx::PgConnection;

use crate::bulk_load::RowRefusal;
use crate::refusals::{RefusedRow, mentioned_columns};
use afterload_core::error::Result;

/// The fields of an error.
#[derive(Clone, Debug, Default)]
pub(super) struct Diagnosis {
    /// The SQLSTATE.
    pub(super) state: String,
    pub(super) schema: String,
    pub(super) table: String,
    pub(super) constraint: String,
    pub(super) column: String,
    pub(super) message: String,
}

/// Explains refusals. It asks the catalog once for each broken rule.
#[derive(Default)]
pub(super) struct RefusalReader {
    rules: HashMap<(String, String, String), TableRule>,
}

/// A constraint or a unique index.
#[derive(Clone, Debug, Default)]
struct TableRule {
    /// Whether it belongs to the loaded table, or to a partition.
    own: bool,
    columns: Vec<String>,
    /// The table that a foreign key refers to, and its columns.
    parent: String,
    referenced: Vec<String>,
    /// The expressions of an index.
    expressions: String,
}

/// A row of `READ_RULE`.
type RuleRow = (bool, Vec<String>, String, Vec<String>, String);

/// Reads a rule. Binds its schema, its table, its own name, and the loaded table.
const READ_RULE: &str = "SELECT \
    r.oid = to_regclass($4) OR EXISTS (SELECT 1 FROM pg_inherits h WHERE h.inhrelid = r.oid) AS own, \
    ARRAY(SELECT a.attname::text FROM unnest(coalesce(k.conkey, x.indkey::int2[])) WITH ORDINALITY AS u (number, place) \
        JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum = u.number ORDER BY u.place) AS columns, \
    coalesce((SELECT f.relname::text FROM pg_class f WHERE f.oid = k.confrelid), '') AS parent, \
    ARRAY(SELECT a.attname::text FROM unnest(k.confkey) WITH ORDINALITY AS u (number, place) \
        JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.number ORDER BY u.place) AS referenced, \
    coalesce(pg_get_expr(x.indexprs, x.indrelid), '') AS expressions \
    FROM pg_class r JOIN pg_namespace n ON n.oid = r.relnamespace \
    LEFT JOIN pg_constraint k ON k.conrelid = r.oid AND k.conname = $3 \
    LEFT JOIN pg_class i ON i.relname = $3 AND i.relnamespace = r.relnamespace \
    LEFT JOIN pg_index x ON x.indexrelid = i.oid AND x.indrelid = r.oid \
    WHERE n.nspname = $1 AND r.relname = $2";

impl Diagnosis {
    /// Reads the fields in the order in which the function returns them.
    pub(super) fn from_fields(fields: Vec<String>) -> Self {
        let mut fields = fields.into_iter();
        let mut next = || fields.next().unwrap_or_default();
        Self { state: next(), schema: next(), table: next(), constraint: next(), column: next(), message: next() }
    }
}

impl RefusalReader {
    /// Explains a refusal in plain words, or else in those of the database.
    pub(super) async fn explain_refusal(
        &mut self,
        connection: &mut PgConnection,
        row: RefusedRow<'_>,
        diagnosis: Diagnosis,
    ) -> Result<RowRefusal> {
        let of_a_rule = matches!(diagnosis.state.as_str(), "23503" | "23505" | "23514" | "23P01");
        let rule = match of_a_rule && !diagnosis.constraint.is_empty() && !diagnosis.table.is_empty() {
            true => self.find_rule(connection, row, &diagnosis).await?,
            false => TableRule::default(),
        };
        let Diagnosis { state, table, constraint, column, message, .. } = &diagnosis;
        let own_column: &str =
            if rule.own || *table == row.plan.table.name.table || table.is_empty() { column } else { "" };
        Ok(match state.as_str() {
            "23505" if rule.own => row.duplicate(&rule.columns),
            "23P01" if rule.own => row.excluded(&rule.columns, constraint),
            "23503" if rule.own => row.missing_reference(&rule.columns, &rule.parent, &rule.referenced),
            "23514" if rule.own => row.broken_check(&rule.columns, constraint),
            // The rule of a domain. The column is known from trying its cell alone.
            "23514" if table.is_empty() && !own_column.is_empty() => {
                row.broken_check(std::slice::from_ref(column), constraint)
            }
            "23502" if !own_column.is_empty() => row.missing_value(own_column),
            _ => row.other_reason(own_column, message),
        })
    }

    async fn find_rule(
        &mut self,
        connection: &mut PgConnection,
        row: RefusedRow<'_>,
        diagnosis: &Diagnosis,
    ) -> Result<TableRule> {
        let Diagnosis { schema, table, constraint, .. } = diagnosis;
        let key = (schema.clone(), table.clone(), constraint.clone());
        if let Some(rule) = self.rules.get(&key) {
            return Ok(rule.clone());
        }
        let query = sqlx::query_as(READ_RULE).bind(schema).bind(table).bind(constraint);
        let query = query.bind(row.plan.table.name.to_quoted_sql());
        let found: Option<RuleRow> = query.fetch_optional(&mut *connection).await?;
        let (own, columns, parent, referenced, expressions) = found.unwrap_or_default();
        let mut rule = TableRule { own, columns, parent, referenced, expressions };
        if !rule.expressions.is_empty() {
            rule.columns.extend(mentioned_columns(row.plan, &rule.expressions));
        }
        self.rules.insert(key, rule.clone());
        Ok(rule)
    }
}
