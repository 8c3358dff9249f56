//! Loads the rows of a batch one by one, so that each refused row is known.
//!
//! The rows are sent once. Rules that hold for all rows at once are checked first, in one query (`set_rules`). If they do
//! not explain everything, a function on the server tries each of them and returns the refused ones: one round trip for
//! the batch. Where functions in PL/pgSQL are not allowed, ranges of rows are tried from here, which takes several round
//! trips per refused row.

use std::collections::BTreeMap;

use sqlx::postgres::PgDatabaseError;
use sqlx::{AssertSqlSafe, Executor as _, PgConnection};

use super::copy_in::{LoadError, classify_load_error, send_rows};
use super::error_class::{is_doubtful, may_concern_statement};
use super::load_sql::LoadSql;
use super::refusals::{Diagnosis, RefusalReader};
use super::row_load_sql::{RowLoadSql, SentAs};
use super::set_rules::SetRules;
use crate::batch::RowBatch;
use crate::bulk_load::{LoadOutcome, LoadPlan};
use crate::load_order::LoadOrder;
use crate::refusals::RefusedRow;
use crate::table::DbColumnType;
use afterload_core::error::Result;

/// Loads rows one by one.
pub(super) struct RowLoader {
    sql: RowLoadSql,
    method: Option<Method>,
    /// The rules that are checked for all rows at once, as long as they explain all refusals.
    rules: Option<SetRules>,
    refusals: RefusalReader,
}

/// How rows are tried.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Method {
    /// A function on the server tries them.
    Function,
    /// Statements for ranges of rows try them.
    Ranges,
}

/// What became of the rows. Rows are named by their place in the load order.
#[derive(Default)]
struct RowResults {
    inserted: u64,
    updated: u64,
    refused: Vec<(usize, Diagnosis)>,
}

/// A row that the function returns: the place of a refused row with its diagnosis, or the counts.
type FunctionRow = (Option<i32>, Option<i32>, Option<i32>, Option<Vec<String>>);

impl RowLoader {
    pub(super) fn new(plan: &LoadPlan) -> Self {
        Self { sql: RowLoadSql::new(plan), method: None, rules: None, refusals: RefusalReader::default() }
    }

    /// Loads a batch in the open transaction.
    pub(super) async fn load(
        &mut self,
        connection: &mut PgConnection,
        plan: &LoadPlan,
        load_sql: &LoadSql,
        rows: &RowBatch,
        buffer: &mut Vec<u8>,
    ) -> Result<LoadOutcome> {
        let method = self.prepare_session(connection, plan, load_sql).await?;
        let order = LoadOrder::new(plan, rows);
        let places = order.singles.iter().chain(order.circles.iter().flatten()).copied().collect::<Vec<_>>();
        self.send_batch(connection, plan, rows, &places, buffer).await?;
        if let Some(rules) = self.rules.take()
            && let Some((inserted, broken)) = self.load_by_rules(connection, &rules, rows.row_count()).await?
        {
            let refuse = |(row, rule)| rules.explain_refusal(RefusedRow { plan, rows, row }, rule);
            let refused = broken.into_iter().map(refuse).collect::<Vec<_>>();
            self.rules = Some(rules);
            return Ok(LoadOutcome::from_refusals(rows.row_count(), inserted, 0, refused));
        }
        let mut end = order.singles.len();
        let circles = order.circles.iter().map(|circle| {
            end += circle.len();
            end as i32
        });
        let circles = circles.collect::<Vec<_>>();
        let results = match method {
            Method::Function => self.call_function(connection, order.singles.len(), circles).await?,
            Method::Ranges => self.try_ranges(connection, order.singles.len(), circles).await?,
        };
        if results.refused.iter().any(|(_, diagnosis)| may_concern_statement(&diagnosis.state)) {
            // The table or a right may be gone by now; then no row was at fault.
            connection.execute(AssertSqlSafe(load_sql.probe.as_str())).await?;
        }
        let mut refused = Vec::with_capacity(results.refused.len());
        for (place, diagnosis) in results.refused {
            let row = RefusedRow { plan, rows, row: places[place] };
            refused.push(match place < order.singles.len() {
                true => self.refusals.explain_refusal(connection, row, diagnosis).await?,
                false => row.broken_circle(&diagnosis.message),
            });
        }
        refused.sort_by_key(|refusal| refusal.row);
        Ok(LoadOutcome::from_refusals(rows.row_count(), results.inserted, results.updated, refused))
    }

    /// Makes the table for the rows and the function, once per connection, or empties the table.
    async fn prepare_session(
        &mut self,
        connection: &mut PgConnection,
        plan: &LoadPlan,
        load_sql: &LoadSql,
    ) -> Result<Method> {
        if let Some(method) = self.method {
            connection.execute(AssertSqlSafe(self.sql.clear_rows.as_str())).await?;
            return Ok(method);
        }
        // If the table is gone, or a right, no row needs to be tried.
        connection.execute(AssertSqlSafe(load_sql.probe.as_str())).await?;
        connection.execute(AssertSqlSafe(self.sql.create_rows_table.as_str())).await?;
        connection.execute("SAVEPOINT afterload_function").await?;
        let method = match connection.execute(AssertSqlSafe(self.sql.create_function.as_str())).await {
            Ok(_) => Method::Function,
            Err(error) => match classify_load_error(error) {
                LoadError::Other(error) => return Err(error),
                LoadError::MaybeRow(error) => {
                    tracing::debug!(%error, "PL/pgSQL cannot be used; refused rows take longer");
                    connection.execute("ROLLBACK TO SAVEPOINT afterload_function").await?;
                    Method::Ranges
                }
            },
        };
        connection.execute("RELEASE SAVEPOINT afterload_function").await?;
        self.method = Some(method);
        self.rules = SetRules::read(connection, plan, &self.sql.values).await?;
        Ok(method)
    }

    async fn send_batch(
        &self,
        connection: &mut PgConnection,
        plan: &LoadPlan,
        rows: &RowBatch,
        places: &[usize],
        buffer: &mut Vec<u8>,
    ) -> Result<()> {
        let kinds = plan.columns.iter().zip(&self.sql.sent_as).map(|((column, _), sent)| match sent {
            SentAs::Native => column.column_type,
            SentAs::Bytes => DbColumnType::Text,
        });
        let kinds = kinds.collect::<Vec<_>>();
        let numbered = (0..places.len()).map(|place| (Some(place as i32), places[place]));
        let sent = send_rows(connection, &self.sql.copy_rows, rows, numbered, &kinds, buffer).await;
        sent.map(drop).map_err(LoadError::into_error)
    }

    /// Finds the rows that break a rule, and loads the others as one statement. Returns the number of new rows, and the
    /// rule that each refused row breaks. `None` if something else is wrong, too; nothing is loaded then.
    async fn load_by_rules(
        &self,
        connection: &mut PgConnection,
        rules: &SetRules,
        count: usize,
    ) -> Result<Option<(u64, BTreeMap<usize, usize>)>> {
        connection.execute("SAVEPOINT afterload_rules").await?;
        let found = self.find_and_load(connection, rules, count).await;
        match found {
            Ok(Some(done)) => {
                connection.execute("RELEASE SAVEPOINT afterload_rules").await?;
                Ok(Some(done))
            }
            Ok(None) | Err(LoadError::MaybeRow(_)) => {
                let undo = "ROLLBACK TO SAVEPOINT afterload_rules; RELEASE SAVEPOINT afterload_rules";
                connection.execute(undo).await?;
                Ok(None)
            }
            Err(LoadError::Other(error)) => Err(error),
        }
    }

    async fn find_and_load(
        &self,
        connection: &mut PgConnection,
        rules: &SetRules,
        count: usize,
    ) -> Result<Option<(u64, BTreeMap<usize, usize>)>, LoadError> {
        // The server knows nothing about the new rows, and would compile a query that runs for milliseconds.
        connection.execute("SET LOCAL jit = off").await.map_err(classify_load_error)?;
        let find = sqlx::query_as(AssertSqlSafe(rules.find_refused.as_str()));
        let found: Vec<(i32, i32)> = find.fetch_all(&mut *connection).await.map_err(classify_load_error)?;
        let Some(broken) = rules.choose_rules(found) else { return Ok(None) };
        if broken.len() == count {
            return Ok(Some((0, broken)));
        }
        if !broken.is_empty() {
            let places = broken.keys().map(|place| *place as i32).collect::<Vec<_>>();
            let delete = sqlx::query(AssertSqlSafe(self.sql.delete_rows.as_str())).bind(places);
            delete.execute(&mut *connection).await.map_err(classify_load_error)?;
        }
        let load = sqlx::query_as(AssertSqlSafe(self.sql.load_range.as_str())).bind(0_i32).bind(count as i32);
        let (inserted, _): (i64, i64) = load.fetch_one(&mut *connection).await.map_err(classify_load_error)?;
        connection.execute("SET CONSTRAINTS ALL IMMEDIATE").await.map_err(classify_load_error)?;
        Ok(Some((inserted as u64, broken)))
    }

    async fn call_function(
        &self,
        connection: &mut PgConnection,
        singles: usize,
        circles: Vec<i32>,
    ) -> Result<RowResults> {
        let call = sqlx::query_as(AssertSqlSafe(self.sql.call_function.as_str())).bind(singles as i32).bind(circles);
        let returned: Vec<FunctionRow> = call.fetch_all(&mut *connection).await?;
        let mut results = RowResults::default();
        for (place, inserted, updated, diagnosis) in returned {
            match (place, diagnosis) {
                (Some(place), Some(fields)) => results.refused.push((place as usize, Diagnosis::from_fields(fields))),
                _ => {
                    results.inserted = u64::from(inserted.unwrap_or_default().unsigned_abs());
                    results.updated = u64::from(updated.unwrap_or_default().unsigned_abs());
                }
            }
        }
        Ok(results)
    }

    /// Tries ranges that shrink where a row fails and grow where none does.
    async fn try_ranges(&self, connection: &mut PgConnection, singles: usize, circles: Vec<i32>) -> Result<RowResults> {
        let mut results = RowResults::default();
        let (mut from, mut size) = (0, singles);
        while from < singles {
            let to = (from + size).min(singles);
            match self.try_range(connection, from, to, &mut results).await? {
                None => (from, size) = (to, size * 2),
                Some(diagnosis) if to - from == 1 => {
                    results.refused.push((from, diagnosis));
                    from = to;
                }
                Some(_) => size = (to - from).div_ceil(8),
            }
        }
        for to in circles {
            let to = to as usize;
            if let Some(diagnosis) = self.try_range(connection, from, to, &mut results).await? {
                results.refused.extend((from..to).map(|place| (place, diagnosis.clone())));
            }
            from = to;
        }
        Ok(results)
    }

    /// Loads a range of rows as one statement. Returns the diagnosis if one of them is at fault; nothing is loaded then.
    async fn try_range(
        &self,
        connection: &mut PgConnection,
        from: usize,
        to: usize,
        results: &mut RowResults,
    ) -> Result<Option<Diagnosis>> {
        connection.execute("SAVEPOINT afterload_range").await?;
        let load = sqlx::query_as(AssertSqlSafe(self.sql.load_range.as_str())).bind(from as i32).bind(to as i32);
        let loaded: sqlx::Result<(i64, i64)> = load.fetch_one(&mut *connection).await;
        let settled = match loaded {
            Ok(counts) => {
                let settle = "SET CONSTRAINTS ALL IMMEDIATE; RELEASE SAVEPOINT afterload_range";
                connection.execute(settle).await.map(|_| counts)
            }
            Err(error) => Err(error),
        };
        match settled {
            Ok((fresh, touched)) => {
                results.inserted += fresh as u64;
                results.updated += (touched - fresh) as u64;
                Ok(None)
            }
            Err(error) => {
                let diagnosis = diagnose(&error);
                match (classify_load_error(error), diagnosis) {
                    (LoadError::MaybeRow(_), Some(diagnosis)) if !is_doubtful(&diagnosis.state) => {
                        let undo = "ROLLBACK TO SAVEPOINT afterload_range; RELEASE SAVEPOINT afterload_range";
                        connection.execute(undo).await?;
                        Ok(Some(diagnosis))
                    }
                    (error, _) => Err(error.into_error()),
                }
            }
        }
    }
}

fn diagnose(error: &sqlx::Error) -> Option<Diagnosis> {
    let error = error.as_database_error()?.try_downcast_ref::<PgDatabaseError>()?;
    let text = |field: Option<&str>| field.unwrap_or_default().to_owned();
    Some(Diagnosis {
        state: error.code().to_owned(),
        schema: text(error.schema()),
        table: text(error.table()),
        constraint: text(error.constraint()),
        column: text(error.column()),
        message: error.message().to_owned(),
    })
}
