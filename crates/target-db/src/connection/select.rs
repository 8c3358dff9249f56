//! Streams the rows of a query.

use super::Connection;
use crate::codes;
use crate::query::{QueryOptions, RowVisitor, SelectQuery, query_timeout_error, report_refused_error};
use crate::target_database::TargetDatabase;
use afterload_core::error::{Error, Result};

impl Connection {
    /// Reads all rows in one read-only transaction and returns the receiver.
    ///
    /// # Errors
    /// `report_timeout`, `step_stopped`, `report_sql_refused` for a query that writes, `sql_parameter_missing`, those
    /// of the receiver, or those of the database. The receiver may have visited some of the rows by then.
    pub async fn select_rows<R: RowVisitor>(
        &self,
        select: &SelectQuery,
        reading: QueryOptions,
        receiver: R,
    ) -> Result<R> {
        if select.sql.dialect() != self.dialect() {
            return Err(Error::new(codes::INTERNAL_ERROR, "the statement was read for another database"));
        }
        let verified = self.find_refusal(&select.sql, &reading.values, &reading.stop);
        match tokio::time::timeout(reading.timeout, verified).await {
            Err(_) => return Err(query_timeout_error(reading.timeout)),
            Ok(Err(error)) => return Err(error),
            Ok(Ok(Some(refusal))) => return Err(report_refused_error(refusal)),
            Ok(Ok(None)) => {}
        }
        // If the caller drops this future, the guard stops the query.
        let stop = reading.stop.child_token();
        let _guard = stop.clone().drop_guard();
        let reading = QueryOptions { stop, ..reading };
        self.backend.select_rows(select, reading, receiver).await
    }
}
