//! Single SQL statements of users, with named parameters. They can be stopped and take effect once.
//!
//! A [`ParsedStatement`] is checked text. A connection runs it in its own transaction together with its checkpoint.

mod parsed;
mod row_collector;

use crate::codes;
use std::time::Duration;

use serde_json::Value;
use tokio_util::sync::CancellationToken;

pub use parsed::ParsedStatement;
pub(crate) use parsed::{missing_column_error, read_refused_error};
pub(crate) use row_collector::RowCollector;
pub use row_collector::{ResultMode, ResultRows, compare_values};

use crate::bind::BindValues;
use crate::checkpoint::Fence;
use crate::row_source::RowSource;
use afterload_core::error::{Error, Result};

/// The arguments of one run of a statement.
#[derive(Clone, Debug)]
pub struct StatementArgs {
    /// The values of the parameters. Values for unknown parameters are ignored.
    pub values: BindValues,
    /// How to collect the rows of the result.
    pub result_mode: ResultMode,
    /// Stops the statement when it is cancelled.
    pub stop: CancellationToken,
}

/// The result of a statement.
#[derive(Clone, Debug, Default)]
pub struct StatementResult {
    /// The number of rows inserted, updated or deleted. For a `SELECT`, the number of rows returned.
    pub affected: u64,
    /// The returned rows, if the mode is [`ResultMode::All`].
    pub rows: ResultRows,
    /// The greatest value of the first column, if the mode is [`ResultMode::MaxOfFirstColumn`].
    pub max_value: Option<Value>,
    /// How long the transaction held its locks.
    pub lock_duration: Duration,
}

/// The progress that is committed together with a statement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// The cursor from which the next attempt continues.
    pub cursor: String,
    /// Whether the work is complete.
    pub finished: bool,
}
/// Makes the checkpoint of a statement from its result.
pub type CheckpointFn = Box<dyn FnOnce(&StatementResult) -> Result<Checkpoint> + Send>;

/// The checkpoint of a statement. With a fence it is committed with the statement. Without one it is only returned.
pub struct CheckpointCommit<'a> {
    /// The fence of the attempt.
    pub fence: Option<&'a Fence>,
    /// Makes the checkpoint from the result.
    pub checkpoint_fn: CheckpointFn,
}

/// One run of a statement, as a back end receives it.
pub(crate) struct StatementRun {
    pub(crate) statement: ParsedStatement,
    pub(crate) args: StatementArgs,
    /// On SQLite: the statement runs once per row, with values in the order of its parameters. `None` runs it once with
    /// `args`.
    pub(crate) row_source: Option<Box<dyn RowSource>>,
    pub(crate) writes: bool,
    pub(crate) fence: Option<Fence>,
    pub(crate) checkpoint_fn: CheckpointFn,
}

impl StatementRun {
    pub(crate) fn check_stopped(&self) -> Result<()> {
        if self.args.stop.is_cancelled() { Err(stopped_error()) } else { Ok(()) }
    }
}

/// The error of a stopped statement. None of its changes remain.
pub(crate) fn stopped_error() -> Error {
    Error::new(codes::STEP_STOPPED, "the statement was stopped")
}

/// The error of a statement that may write although only reading is allowed.
pub(crate) fn may_write_error() -> Error {
    Error::new(codes::SQL_REFUSED, "the statement may write where only reading is allowed")
        .with_hint("write a `SELECT`")
}
