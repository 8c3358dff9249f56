//! Reading rows of any number.

use super::Connection;
use crate::codes;
use crate::query::{QueryOptions, RowVisitor, SelectQuery};
use crate::target_database::TargetDatabase;
use afterload_core::error::{Error, Result};

impl Connection {
    /// Reads all rows in one transaction that cannot write, and gives the receiver back.
    ///
    /// # Errors
    /// `report_timeout`, `step_stopped`, `report_sql_refused` for what would write, `sql_parameter_missing`, those of the
    /// receiver, or those of the database. What the receiver has taken is then not the whole.
    pub async fn select_rows<R: RowVisitor>(
        &self,
        select: &SelectQuery,
        reading: QueryOptions,
        receiver: R,
    ) -> Result<R> {
        if select.sql.dialect() != self.dialect() {
            return Err(Error::new(codes::INTERNAL_ERROR, "the statement was read for another database"));
        }
        // Whoever gives up waiting wants nothing to go on.
        let stop = reading.stop.child_token();
        let _guard = stop.clone().drop_guard();
        let reading = QueryOptions { stop, ..reading };
        self.backend.select_rows(select, reading, receiver).await
    }
}
