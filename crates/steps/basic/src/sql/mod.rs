//! `sql.execute` and `sql.batch`: statements in the users' databases.

mod batch;
mod execute;
mod pace;

pub use batch::SqlBatch;
pub use execute::SqlExecute;
