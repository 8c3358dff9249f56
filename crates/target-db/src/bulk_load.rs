//! The types of a bulk load: its plan, its conflict rule and its outcome.

use crate::batch::BatchColumnType;
use crate::checkpoint::RejectedRow;
use crate::codes;
use crate::table::{DbColumnType, TableColumn, TableInfo};
use afterload_core::error::{Error, ErrorCode};
use afterload_core::identifier::{TableName, quote_identifier, quote_identifiers};

/// The action for a row whose key is already in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyConflictAction {
    /// Overwrites the imported columns of the existing row.
    Update,
    /// Keeps the existing row.
    Skip,
    /// Keeps the existing row and refuses the new one.
    Reject,
}

/// A unique key and the action when it is already in the table.
#[derive(Clone, Debug)]
pub struct ConflictRule {
    /// The columns of a unique constraint.
    pub keys: Vec<String>,
    /// The action on a conflict.
    pub action: KeyConflictAction,
}

/// The outcome of loading a batch. The counts and the refusals add up to the number of its rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadOutcome {
    /// The number of new rows.
    pub inserted: u64,
    /// The number of rows that overwrote an existing row.
    pub updated: u64,
    /// The number of rows skipped because their key exists or because a trigger dropped them.
    pub skipped: u64,
    /// The refused rows, sorted by their index in the batch.
    pub refused: Vec<RowRefusal>,
}

/// A refused row of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowRefusal {
    /// The index of the row in the batch.
    pub row: usize,
    /// The code: `conflict` or `database_refused`.
    pub code: ErrorCode,
    /// The reason in plain text.
    pub message: String,
}

/// The checkpoint that is committed together with a batch.
#[derive(Clone, Debug, Default)]
pub struct ChunkCommit {
    /// The cursor from which the next attempt continues.
    pub cursor: String,
    /// The rejected rows to store.
    pub rejects: Vec<RejectedRow>,
    /// Whether the work is complete.
    pub finished: bool,
}

/// Makes the checkpoint of a batch from its outcome.
pub type ChunkCommitFn = Box<dyn FnOnce(&LoadOutcome) -> ChunkCommit + Send>;

/// The table, columns and conflict rule of a load.
#[derive(Debug)]
pub(crate) struct LoadPlan {
    pub(crate) table: TableInfo,
    pub(crate) columns: Vec<(TableColumn, BatchColumnType)>,
    pub(crate) conflict: Option<ConflictRule>,
}

impl LoadPlan {
    /// The indexes of the key columns among the loaded columns.
    pub(crate) fn key_indexes(&self) -> Vec<usize> {
        let keys = self.conflict.iter().flat_map(|conflict| &conflict.keys);
        keys.filter_map(|key| self.columns.iter().position(|(column, _)| column.name == *key)).collect()
    }

    pub(crate) fn column_names(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(|(column, _)| column.name.as_str())
    }

    /// The clause `ON CONFLICT (…) DO NOTHING`, or an empty text without a conflict rule.
    pub(crate) fn on_conflict_do_nothing(&self) -> String {
        let keys = |conflict: &ConflictRule| quote_identifiers(conflict.keys.iter().map(String::as_str));
        self.conflict.as_ref().map_or_else(String::new, |it| format!(" ON CONFLICT ({}) DO NOTHING", keys(it)))
    }

    /// The clause `ON CONFLICT (…) DO UPDATE SET …`. It sets key columns only if there are no other columns.
    pub(crate) fn on_conflict_do_update(&self) -> String {
        let Some(conflict) = &self.conflict else { return String::new() };
        let keys = quote_identifiers(conflict.keys.iter().map(String::as_str));
        let other = self.column_names().filter(|name| !conflict.keys.iter().any(|key| key == name)).collect::<Vec<_>>();
        let set = if other.is_empty() { self.column_names().collect() } else { other };
        let set =
            set.into_iter().map(quote_identifier).map(|name| format!("{name} = excluded.{name}")).collect::<Vec<_>>();
        format!(" ON CONFLICT ({keys}) DO UPDATE SET {}", set.join(", "))
    }

    pub(crate) fn conflict_action(&self) -> Option<KeyConflictAction> {
        self.conflict.as_ref().map(|conflict| conflict.action)
    }

    pub(crate) fn conflict_refusal(&self, row: usize) -> RowRefusal {
        let keys = self.conflict.iter().flat_map(|conflict| &conflict.keys).map(|key| format!("`{key}`"));
        let keys = keys.collect::<Vec<_>>().join(", ");
        RowRefusal { row, code: codes::CONFLICT, message: format!("a row with the same {keys} is already there") }
    }
}

/// The error for conflict keys that no unique constraint covers.
pub(crate) fn conflict_keys_error(plan: &LoadPlan) -> Error {
    let keys = plan.conflict.as_ref().map_or(&[][..], |conflict| &conflict.keys);
    keys_not_unique_error(&plan.table.name, keys)
}

/// Like `conflict_keys_error`, for any keys of a table.
pub(crate) fn keys_not_unique_error(table: &TableName, keys: &[String]) -> Error {
    let keys = keys.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ");
    Error::new(codes::CONFLICT_KEYS_NOT_UNIQUE, format!("no unique constraint of `{table}` covers just {keys}"))
}

/// Whether a column of type `kind` accepts cells of type `shape` as they are. Otherwise the database casts from text.
pub(crate) fn is_directly_loadable(kind: DbColumnType, shape: BatchColumnType) -> bool {
    match kind {
        DbColumnType::Text => true,
        DbColumnType::Bool => shape == BatchColumnType::Boolean,
        DbColumnType::Int2 | DbColumnType::Int4 | DbColumnType::Int8 => {
            matches!(shape, BatchColumnType::Integer | BatchColumnType::Boolean)
        }
        DbColumnType::Float4 | DbColumnType::Float8 | DbColumnType::Numeric => {
            matches!(shape, BatchColumnType::Integer | BatchColumnType::Decimal)
        }
        DbColumnType::Date => shape == BatchColumnType::Date,
        DbColumnType::Timestamp | DbColumnType::Timestamptz => {
            matches!(shape, BatchColumnType::Date | BatchColumnType::DateTime)
        }
        DbColumnType::Uuid => shape == BatchColumnType::Uuid,
        DbColumnType::Json | DbColumnType::Jsonb => shape == BatchColumnType::Json,
        DbColumnType::Other => false,
    }
}
