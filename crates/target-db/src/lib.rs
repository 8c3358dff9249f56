//! Target databases: one pool per connection of the configuration, and their SQL dialects.
//!
//! A step describes a bulk load with a [`TableInfo`], a [`RowBatch`] of typed cells and a [`ConflictRule`]. A
//! [`BulkLoader`] runs it fast. Each database is a back end in its own folder and implements the trait
//! `TargetDatabase`. The other modules hold the types that all back ends share.

mod backends;
mod batch;
mod bind;
mod bulk_load;
mod bulk_update;
mod checkpoint;
pub mod codes;
mod config;
mod connection;
mod errors;
mod fields;
mod load_order;
mod postgres;
mod query;
mod read_only;
mod recipients;
mod refusals;
mod row_source;
mod sqlite;
mod statement;
mod table;
mod target_database;
mod tokenizer;

pub use batch::{BatchCell, BatchColumnType, DAYS_TO_1970, RowBatch};
pub use bind::{BindValues, ParameterizedSql};
pub use bulk_load::{ChunkCommit, ChunkCommitFn, ConflictRule, KeyConflictAction, LoadOutcome, RowRefusal};
pub use bulk_update::BulkUpdate;
pub use checkpoint::{Fence, RejectedRow};
pub use config::{CheckpointMode, ConnectionConfig};
pub use connection::{BulkLoader, Connection, Connections};
pub use fields::{check_bind, check_reads, check_result_column, check_sql, default_connection, read_checkpoint};
pub use query::{CellType, QueryLimits, QueryOptions, RowVisitor, SelectQuery, SelectRequest};
pub use recipients::{
    DeliveryChunk, DeliveryRowSpec, DeliveryTable, KeyRange, OnExisting, Recipient, RecipientPage, RecipientQuery,
};
pub use row_source::{RowSource, Scalar};
pub use statement::{
    Checkpoint, CheckpointCommit, CheckpointFn, ParsedStatement, ResultMode, ResultRows, StatementArgs,
    StatementResult, compare_values,
};
pub use table::{DbColumnType, SelfReference, TableColumn, TableInfo};
