//! The statements that load PostgreSQL tables: straight, or by way of a temporary table.

use super::bulk::{Action, Plan, fits};
use afterload_core::table_name::{identifier, list};

/// The temporary table.
pub const STAGE: &str = "pg_temp.afterload_stage";

/// The statements of a loader.
pub struct Sql {
    /// The straight road into the table; absent where keys may collide or the database has to cast.
    pub copy: Option<String>,
    /// Makes the temporary table.
    pub create: String,
    /// Into the temporary table.
    pub stage: String,
    /// Rows of the temporary table whose key is taken.
    pub taken: Option<String>,
    /// From the temporary table into the real one.
    pub merge: String,
}

impl Sql {
    /// The statements for a plan.
    pub fn new(plan: &Plan) -> Self {
        let (table, names) = (plan.table.name.quoted(), list(plan.names()));
        let (mut columns, mut selected, mut straight) = (Vec::new(), Vec::new(), plan.conflict.is_none());
        for (index, (column, shape)) in plan.columns.iter().enumerate() {
            let fits = fits(column.kind, *shape);
            straight &= fits;
            columns.push(format!("c{index} {}", if fits { &column.type_name } else { "text" }));
            selected.push(if fits { format!("s.c{index}") } else { format!("s.c{index}::{}", column.type_name) });
        }
        let tail = match plan.action() {
            Some(Action::Update) => plan.do_update(),
            _ => plan.do_nothing(),
        };
        let same = plan.keys().into_iter();
        let same = same.map(|key| format!("t.{} = {}", identifier(&plan.columns[key].0.name), selected[key]));
        let same = same.collect::<Vec<_>>().join(" AND ");
        let range = "ord >= $1 AND ord < $2";
        let there = format!("{range} AND EXISTS (SELECT 1 FROM {table} t WHERE {same})");
        // A row version that nobody has deleted or locked yet has no `xmax`: that tells new rows from updated ones. Partitioned
        // tables do not show it; there, the keys that the statement finds are counted.
        let (returning, fresh) = match (plan.action(), plan.table.partitioned) {
            (Some(Action::Update), false) => ("xmax = 0", "count(*) FILTER (WHERE fresh)".to_owned()),
            (Some(Action::Update), true) => {
                ("true", format!("count(*) - (SELECT count(*) FROM {STAGE} s WHERE {there})"))
            }
            _ => ("true", "count(*)".to_owned()),
        };
        let reject = plan.action() == Some(Action::Reject);
        Self {
            copy: straight.then(|| format!("COPY {table} ({names}) FROM STDIN (FORMAT binary)")),
            create: format!(
                "CREATE TEMPORARY TABLE IF NOT EXISTS afterload_stage (ord int4 NOT NULL, {}) ON COMMIT DELETE ROWS",
                columns.join(", ")
            ),
            stage: format!("COPY {STAGE} FROM STDIN (FORMAT binary)"),
            taken: reject.then(|| format!("DELETE FROM {STAGE} s WHERE {there} RETURNING ord")),
            merge: format!(
                "WITH merged AS (INSERT INTO {table} ({names}) SELECT {} FROM {STAGE} s WHERE {range} ORDER BY ord{tail} \
                 RETURNING {returning} AS fresh) SELECT {fresh}, count(*) FROM merged",
                selected.join(", ")
            ),
        }
    }
}
