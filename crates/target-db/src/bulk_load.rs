//! What is to be loaded in bulk, and what became of it.

use crate::batch::BatchColumnType;
use crate::checkpoint::RejectedRow;
use crate::codes;
use crate::table::{DbColumnType, TableColumn, TableInfo};
use afterload_core::error::{Error, ErrorCode};
use afterload_core::identifier::{TableName, quote_identifier, quote_identifiers};

/// What to do with a row whose key is already there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyConflictAction {
    /// Overwrite the imported columns.
    Update,
    /// Keep what is there.
    Skip,
    /// Keep what is there, and refuse the row.
    Reject,
}

/// A key, and what to do when it is already there.
#[derive(Clone, Debug)]
pub struct ConflictRule {
    /// The columns of a unique constraint.
    pub keys: Vec<String>,
    /// What to do.
    pub action: KeyConflictAction,
}

/// What became of the rows of a batch: the counts and the refusals add up to its rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadOutcome {
    /// New rows.
    pub inserted: u64,
    /// Rows that overwrote others.
    pub updated: u64,
    /// Rows that were left out because their key was there, or because a trigger dropped them.
    pub skipped: u64,
    /// Rows that were refused, by their index in the batch, ascending.
    pub refused: Vec<RowRefusal>,
}

/// A row that was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowRefusal {
    /// The index in the batch.
    pub row: usize,
    /// `conflict` or `database_refused`.
    pub code: ErrorCode,
    /// Why, for people.
    pub message: String,
}

/// What is committed with a batch.
#[derive(Clone, Debug, Default)]
pub struct ChunkCommit {
    /// Where the next attempt goes on.
    pub cursor: String,
    /// Rows to be kept as rejected.
    pub rejects: Vec<RejectedRow>,
    /// Whether nothing is left to do.
    pub finished: bool,
}

/// Says, once the outcome of a batch is known, what is to be committed with it.
pub type ChunkCommitFn = Box<dyn FnOnce(&LoadOutcome) -> ChunkCommit + Send>;

/// What each loader needs to know.
#[derive(Debug)]
pub(crate) struct LoadPlan {
    pub(crate) table: TableInfo,
    pub(crate) columns: Vec<(TableColumn, BatchColumnType)>,
    pub(crate) conflict: Option<ConflictRule>,
}

impl LoadPlan {
    /// The places of the key columns among the loaded ones.
    pub(crate) fn key_indexes(&self) -> Vec<usize> {
        let keys = self.conflict.iter().flat_map(|conflict| &conflict.keys);
        keys.filter_map(|key| self.columns.iter().position(|(column, _)| column.name == *key)).collect()
    }

    pub(crate) fn column_names(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(|(column, _)| column.name.as_str())
    }

    /// `ON CONFLICT (…) DO NOTHING`, or nothing.
    pub(crate) fn on_conflict_do_nothing(&self) -> String {
        let keys = |conflict: &ConflictRule| quote_identifiers(conflict.keys.iter().map(String::as_str));
        self.conflict.as_ref().map_or_else(String::new, |it| format!(" ON CONFLICT ({}) DO NOTHING", keys(it)))
    }

    /// `ON CONFLICT (…) DO UPDATE SET …`; the keys themselves only where there is nothing else.
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

/// The error for keys that no unique constraint covers.
pub(crate) fn conflict_keys_error(plan: &LoadPlan) -> Error {
    let keys = plan.conflict.as_ref().map_or(&[][..], |conflict| &conflict.keys);
    keys_not_unique_error(&plan.table.name, keys)
}

/// The same for the keys of a table.
pub(crate) fn keys_not_unique_error(table: &TableName, keys: &[String]) -> Error {
    let keys = keys.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ");
    Error::new(codes::CONFLICT_KEYS_NOT_UNIQUE, format!("no unique constraint of `{table}` covers just {keys}"))
}

/// Whether cells of a shape can be sent to a column of a kind as they are; otherwise the database casts them from text.
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
