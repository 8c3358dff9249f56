//! Streams the rows of a query.

use super::Connection;
use crate::codes;
use crate::query::{
    QueryLimits, QueryOptions, RowVisitor, SelectQuery, SelectRequest, query_timeout_error, report_refused_error,
};
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
        let QueryOptions { values, timeout, stop } = reading;
        let request = SelectRequest { select: select.clone(), values };
        self.select_snapshot(vec![request], QueryLimits { timeout, stop }, receiver).await
    }

    /// Reads all rows of several queries, one after the other, in one read-only transaction: all of them see the same snapshot.
    ///
    /// # Errors
    /// Those of [`Self::select_rows`].
    pub async fn select_snapshot<R: RowVisitor>(
        &self,
        requests: Vec<SelectRequest>,
        limits: QueryLimits,
        receiver: R,
    ) -> Result<R> {
        for SelectRequest { select, values } in &requests {
            if select.sql.dialect() != self.dialect() {
                return Err(Error::new(codes::INTERNAL_ERROR, "the statement was read for another database"));
            }
            let verified = self.find_refusal(&select.sql, values, &limits.stop);
            match tokio::time::timeout(limits.timeout, verified).await {
                Err(_) => return Err(query_timeout_error(limits.timeout)),
                Ok(Err(error)) => return Err(error),
                Ok(Ok(Some(refusal))) => return Err(report_refused_error(refusal)),
                Ok(Ok(None)) => {}
            }
        }
        // If the caller drops this future, the guard stops the queries.
        let stop = limits.stop.child_token();
        let _guard = stop.clone().drop_guard();
        self.backend.select_rows(requests, QueryLimits { stop, ..limits }, receiver).await
    }
}
