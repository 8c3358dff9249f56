//! One SQL statement of a user's, with named parameters, run so that it can be stopped and takes effect once.
//!
//! A [`ParsedStatement`] is checked text. A connection runs it in a transaction of its own, together with its checkpoint.

mod parsed;
mod row_collector;

use crate::codes;
use std::time::Duration;

use serde_json::Value;
use tokio_util::sync::CancellationToken;

pub use parsed::ParsedStatement;
pub(crate) use row_collector::RowCollector;
pub use row_collector::{ResultMode, ResultRows, compare_values};

use crate::bind::BindValues;
use crate::checkpoint::Fence;
use crate::row_source::RowSource;
use afterload_core::error::{Error, Result};

/// What a statement is run with.
#[derive(Clone, Debug)]
pub struct StatementArgs {
    /// The values of its parameters; others are passed over.
    pub values: BindValues,
    /// What is kept of the rows that it gives.
    pub result_mode: ResultMode,
    /// Ends when it should stop.
    pub stop: CancellationToken,
}

/// What a statement did.
#[derive(Clone, Debug, Default)]
pub struct StatementResult {
    /// Rows that it inserted, updated or deleted; for a `SELECT` those that it gave.
    pub affected: u64,
    /// The rows that it gave, if they were to be kept.
    pub rows: ResultRows,
    /// The greatest value of the first column of the rows that it gave, if that was to be kept.
    pub max_value: Option<Value>,
    /// How long its transaction has held its locks.
    pub lock_duration: Duration,
}

/// What is saved together with a statement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// Where the next attempt goes on.
    pub cursor: String,
    /// Whether nothing is left to do.
    pub finished: bool,
}
/// Says, once the effect of a statement is known, what is to be committed with it.
pub type CheckpointFn = Box<dyn FnOnce(&StatementResult) -> Result<Checkpoint> + Send>;

/// The checkpoint of a statement, and whose it is. With a fence it is committed with the statement; without one it is only
/// handed back.
pub struct CheckpointCommit<'a> {
    /// Who may write.
    pub fence: Option<&'a Fence>,
    /// Makes the checkpoint.
    pub checkpoint_fn: CheckpointFn,
}

/// What a back end needs for one run of a statement.
pub(crate) struct StatementRun {
    pub(crate) statement: ParsedStatement,
    pub(crate) args: StatementArgs,
    /// On SQLite: rows of values in the order of the statement's parameters, with each of which it is run; none: it is run once,
    /// with those of the call.
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

/// The error of a statement that was stopped; nothing of it has taken effect.
pub(crate) fn stopped_error() -> Error {
    Error::new(codes::STEP_STOPPED, "the statement was stopped")
}

/// The error of a statement that would write where it may not.
pub(crate) fn may_write_error() -> Error {
    Error::new(codes::SQL_REFUSED, "the statement may write where only reading is allowed")
        .with_hint("write a `SELECT`")
}
