//! The rules of a table that one query checks for all rows of a batch: check constraints, foreign keys, unique keys.
//!
//! Most refused rows break one of them. They are found without an error each, and the other rows are loaded as one
//! statement. If that does not work out, the rows are tried one by one, so no rule has to be understood here.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::PgConnection;

use crate::bulk_load::{KeyConflictAction, LoadPlan, RowRefusal};
use crate::refusals::RefusedRow;
use afterload_core::error::Result;
use afterload_core::identifier::quote_identifier;

/// The rules of a table, and the query that finds the rows that break one.
pub(super) struct SetRules {
    rules: Vec<SetRule>,
    /// Returns the place of each row that breaks a rule, and the index of the rule.
    pub(super) find_refused: String,
}

/// What a rule demands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RuleKind {
    Check,
    Reference,
    Unique,
}

struct SetRule {
    kind: RuleKind,
    name: String,
    columns: Vec<String>,
    /// The expression of a check.
    expression: String,
    /// The table that a reference means: as SQL, and by name.
    parent_sql: String,
    parent: String,
    referenced: Vec<String>,
}

/// A row of `LIST_RULES`.
type RuleRow = (String, String, Vec<String>, String, String, String, Vec<String>);

/// Lists the rules of a table. Foreign keys to tables whose rows a policy may hide are left out. Binds the table.
const LIST_RULES: &str = "SELECT k.contype::text, k.conname::text, \
    ARRAY(SELECT a.attname::text FROM unnest(k.conkey) WITH ORDINALITY AS u (number, place) \
        JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.number ORDER BY u.place), \
    coalesce(pg_get_expr(k.conbin, k.conrelid), ''), \
    coalesce(CASE p.relkind WHEN 'r' THEN 'ONLY ' ELSE '' END || quote_ident(n.nspname) || '.' || quote_ident(p.relname), ''), \
    coalesce(p.relname::text, ''), \
    ARRAY(SELECT a.attname::text FROM unnest(k.confkey) WITH ORDINALITY AS u (number, place) \
        JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.number ORDER BY u.place) \
    FROM pg_constraint k LEFT JOIN pg_class p ON p.oid = k.confrelid LEFT JOIN pg_namespace n ON n.oid = p.relnamespace \
    WHERE k.conrelid = to_regclass($1) \
    AND (k.contype = 'c' OR k.contype = 'f' AND k.confmatchtype = 's' AND NOT row_security_active(k.confrelid)) \
    UNION ALL SELECT 'u', i.relname::text, \
    ARRAY(SELECT a.attname::text FROM generate_series(0, x.indnkeyatts - 1) AS s (place) \
        JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = x.indkey[s.place] ORDER BY s.place), \
    '', '', '', '{}'::text[] FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid \
    WHERE x.indrelid = to_regclass($1) AND x.indisunique AND x.indisvalid AND x.indimmediate \
    AND x.indpred IS NULL AND x.indexprs IS NULL";
/// Lists the columns of a table with their types and the limits of these. Binds the table.
const LIST_TYPES: &str = "SELECT a.attname::text, format_type(a.atttypid, a.atttypmod) FROM pg_attribute a \
    WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped";

impl SetRules {
    /// Reads the rules of the table. `None` if there are none, or if the rows are not inserted as they are: a trigger may
    /// change them, an update does not write all of them, and references to the same table depend on the other rows.
    pub(super) async fn read(
        connection: &mut PgConnection,
        plan: &LoadPlan,
        values: &[String],
    ) -> Result<Option<Self>> {
        let table = &plan.table;
        let keeps_rows = matches!(plan.conflict_action(), None | Some(KeyConflictAction::Reject));
        let changed = table.has_triggers || table.is_view || table.row_security || !table.self_references.is_empty();
        if !keeps_rows || changed {
            return Ok(None);
        }
        let name = table.name.to_quoted_sql();
        let types: Vec<(String, String)> = sqlx::query_as(LIST_TYPES).bind(&name).fetch_all(&mut *connection).await?;
        let types = types.into_iter().collect::<BTreeMap<_, _>>();
        let found: Vec<RuleRow> = sqlx::query_as(LIST_RULES).bind(&name).fetch_all(&mut *connection).await?;
        let is_loaded = |name: &String| plan.column_names().any(|loaded| loaded == name);
        let rules = found.into_iter().filter_map(SetRule::from_row);
        let rules = rules.filter(|rule| !rule.columns.is_empty() && rule.columns.iter().all(is_loaded));
        let rules = rules.collect::<Vec<_>>();
        if rules.is_empty() {
            return Ok(None);
        }
        let find_refused = find_refused_sql(plan, values, &types, &rules);
        Ok(Some(Self { rules, find_refused }))
    }

    /// Takes the first broken rule of each row. `None` if rows repeat several unique keys: then it depends on their order
    /// which of them are refused.
    pub(super) fn choose_rules(&self, found: Vec<(i32, i32)>) -> Option<BTreeMap<usize, usize>> {
        let mut broken = BTreeMap::new();
        for (place, rule) in found {
            broken.entry(place as usize).or_insert(rule as usize);
        }
        let unique = |rule: &&usize| self.rules.get(**rule).is_some_and(|rule| rule.kind == RuleKind::Unique);
        let keys = broken.values().filter(unique).collect::<BTreeSet<_>>().len();
        (keys <= 1).then_some(broken)
    }

    /// Explains the refusal of a row that breaks a rule.
    pub(super) fn explain_refusal(&self, row: RefusedRow<'_>, rule: usize) -> RowRefusal {
        let rule = &self.rules[rule];
        match rule.kind {
            RuleKind::Check => row.broken_check(&rule.columns, &rule.name),
            RuleKind::Reference => row.missing_reference(&rule.columns, &rule.parent, &rule.referenced),
            RuleKind::Unique => row.duplicate(&rule.columns),
        }
    }
}

impl SetRule {
    fn from_row((kind, name, columns, expression, parent_sql, parent, referenced): RuleRow) -> Option<Self> {
        let kind = match kind.as_str() {
            "c" => RuleKind::Check,
            "f" => RuleKind::Reference,
            "u" => RuleKind::Unique,
            _ => return None,
        };
        Some(Self { kind, name, columns, expression, parent_sql, parent, referenced })
    }
}

/// Checks and references are looked at first, so that a row that breaks one does not count as the first of its key.
fn find_refused_sql(plan: &LoadPlan, values: &[String], types: &BTreeMap<String, String>, rules: &[SetRule]) -> String {
    let cells = plan.columns.iter().zip(values).map(|((column, _), value)| {
        let full = types.get(&column.name).unwrap_or(&column.type_name);
        format!("CAST({value} AS {full}) AS {}", quote_identifier(&column.name))
    });
    let cells = cells.collect::<Vec<_>>().join(", ");
    let is_not_null = |rule: &SetRule, alias: &str| {
        let tests = rule.columns.iter().map(|name| format!("{alias}.{} IS NOT NULL", quote_identifier(name)));
        tests.collect::<Vec<_>>().join(" AND ")
    };
    let same = |rule: &SetRule, other: &[String], alias: &str| {
        let pairs = rule.columns.iter().zip(other);
        let pairs =
            pairs.map(|(name, other)| format!("o.{} = {alias}.{}", quote_identifier(other), quote_identifier(name)));
        pairs.collect::<Vec<_>>().join(" AND ")
    };
    let (mut alone, mut keys) = (vec!["SELECT 0 AS al_pos, 0 AS al_rule WHERE false".to_owned()], Vec::new());
    for (index, rule) in rules.iter().enumerate() {
        match rule.kind {
            RuleKind::Check => {
                alone.push(format!("SELECT al_pos, {index} FROM cells WHERE NOT ({})", rule.expression));
            }
            RuleKind::Reference => alone.push(format!(
                "SELECT c.al_pos, {index} FROM cells c WHERE {} AND NOT EXISTS (SELECT 1 FROM {} o WHERE {})",
                is_not_null(rule, "c"),
                rule.parent_sql,
                same(rule, &rule.referenced, "c")
            )),
            RuleKind::Unique => {
                let there = format!(
                    "SELECT g.al_pos, {index} FROM good g WHERE EXISTS (SELECT 1 FROM {} o WHERE {})",
                    plan.table.name.to_quoted_sql(),
                    same(rule, &rule.columns, "g")
                );
                let names = rule.columns.iter().map(|name| format!("g.{}", quote_identifier(name)));
                let repeated = format!(
                    "SELECT d.al_pos, {index} FROM (SELECT g.al_pos, \
                     row_number() OVER (PARTITION BY {} ORDER BY g.al_pos) AS al_number \
                     FROM good g WHERE {}) d WHERE d.al_number > 1",
                    names.collect::<Vec<_>>().join(", "),
                    is_not_null(rule, "g")
                );
                keys.extend([there, repeated]);
            }
        }
    }
    let keys = keys.iter().map(|key| format!(" UNION ALL {key}")).collect::<String>();
    format!(
        "WITH cells AS MATERIALIZED (SELECT r.pos AS al_pos, {cells} FROM pg_temp.afterload_rows r), \
         bad AS MATERIALIZED (SELECT al_pos, min(al_rule) AS al_rule FROM ({}) b GROUP BY al_pos), \
         good AS MATERIALIZED (SELECT * FROM cells c WHERE NOT EXISTS (SELECT 1 FROM bad b WHERE b.al_pos = c.al_pos)) \
         SELECT al_pos, al_rule FROM bad{keys}",
        alone.join(" UNION ALL ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(kind: RuleKind, columns: &[&str]) -> SetRule {
        SetRule {
            kind,
            name: "rule".into(),
            columns: columns.iter().map(|name| (*name).to_owned()).collect(),
            expression: "age > 0".into(),
            parent_sql: "ONLY public.people".into(),
            parent: "people".into(),
            referenced: vec!["id".to_owned()],
        }
    }

    #[test]
    fn rows_that_repeat_several_keys_are_tried_one_by_one() {
        let kinds = [RuleKind::Check, RuleKind::Unique, RuleKind::Unique];
        let rules = kinds.into_iter().map(|kind| rule(kind, &["a"])).collect();
        let rules = SetRules { rules, find_refused: String::new() };
        assert_eq!(rules.choose_rules(Vec::new()), Some(BTreeMap::new()));
        let one_key = rules.choose_rules(vec![(4, 1), (2, 0), (4, 1)]).unwrap();
        assert_eq!(one_key.into_iter().collect::<Vec<_>>(), [(2, 0), (4, 1)]);
        assert_eq!(rules.choose_rules(vec![(1, 1), (2, 2)]), None);
    }

    #[test]
    fn rules_become_one_query() {
        let plan = LoadPlan::of_texts("t", &["age", "boss"]);
        let rules = [
            rule(RuleKind::Check, &["age"]),
            rule(RuleKind::Reference, &["boss"]),
            rule(RuleKind::Unique, &["age", "boss"]),
        ];
        let sql = find_refused_sql(&plan, &["r.c0".to_owned(), "r.c1".to_owned()], &BTreeMap::new(), &rules);
        for part in [
            r#"r.pos AS al_pos, CAST(r.c0 AS text) AS "age", CAST(r.c1 AS text) AS "boss" FROM"#,
            "SELECT al_pos, 0 FROM cells WHERE NOT (age > 0)",
            r#"c."boss" IS NOT NULL AND NOT EXISTS (SELECT 1 FROM ONLY public.people o WHERE o."id" = c."boss")"#,
            r#"EXISTS (SELECT 1 FROM "t" o WHERE o."age" = g."age" AND o."boss" = g."boss")"#,
            r#"PARTITION BY g."age", g."boss" ORDER BY g.al_pos"#,
        ] {
            assert!(sql.contains(part), "{part}\n{sql}");
        }
    }
}
