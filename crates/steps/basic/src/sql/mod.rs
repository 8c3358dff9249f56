//! `sql.execute` and `sql.batch`: run statements in the users' databases.

mod batch;
mod batch_sizer;
mod execute;

pub use batch::SqlBatch;
pub use execute::SqlExecute;
