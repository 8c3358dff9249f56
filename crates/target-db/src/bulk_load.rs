//! The types of a bulk load: its plan, its conflict rule and its outcome.

use crate::batch::BatchColumnType;
use crate::checkpoint::RejectedRow;
use crate::codes;
use crate::table::{DbColumnType, TableColumn, TableInfo, mentions_column};
use afterload_core::error::{Error, ErrorCode};
use afterload_core::identifier::{TableName, quote_identifier, quote_identifiers};

/// The action for a row whose key is already in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyConflictAction {
    /// Overwrites columns of the existing row.
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
    /// The columns that an update overwrites; `None` for all but the keys.
    pub update: Option<Vec<String>>,
    /// The columns among them that a null leaves as they are.
    pub keep_on_null: Vec<String>,
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

impl LoadOutcome {
    /// The outcome of a batch of `count` rows. What was neither written nor refused was skipped.
    pub(crate) fn from_refusals(count: usize, inserted: u64, updated: u64, refused: Vec<RowRefusal>) -> Self {
        let known = inserted + updated + refused.len() as u64;
        Self { inserted, updated, skipped: (count as u64).saturating_sub(known), refused }
    }
}

/// A refused row of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowRefusal {
    /// The index of the row in the batch.
    pub row: usize,
    /// The code: `conflict`, `reference_missing` or `database_refused`.
    pub code: ErrorCode,
    /// The column at fault; empty if no single column is.
    pub column: String,
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
    /// The unique index of the conflict keys, if the keys alone do not name it: it is partial, or indexes expressions.
    pub(crate) index: Option<KeyIndex>,
}

/// A partial unique index, or one of expressions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyIndex {
    /// The columns and expressions of the index, as SQL.
    pub(crate) parts: Vec<String>,
    /// Which rows the index covers, as SQL.
    pub(crate) predicate: Option<String>,
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

    /// What `ON CONFLICT` names: the keys in brackets, or the parts and the predicate of their index.
    fn conflict_target(&self, conflict: &ConflictRule) -> String {
        match &self.index {
            None => format!("({})", quote_identifiers(conflict.keys.iter().map(String::as_str))),
            Some(KeyIndex { parts, predicate: None }) => format!("({})", parts.join(", ")),
            Some(KeyIndex { parts, predicate: Some(predicate) }) => {
                format!("({}) WHERE {predicate}", parts.join(", "))
            }
        }
    }

    /// The clause `ON CONFLICT (…) DO NOTHING`, or an empty text without a conflict rule.
    pub(crate) fn on_conflict_do_nothing(&self) -> String {
        let clause = |conflict| format!(" ON CONFLICT {} DO NOTHING", self.conflict_target(conflict));
        self.conflict.as_ref().map_or_else(String::new, clause)
    }

    /// The clause `ON CONFLICT (…) DO UPDATE SET …`. It sets key columns only if there are no other columns.
    pub(crate) fn on_conflict_do_update(&self) -> String {
        let Some(conflict) = &self.conflict else { return String::new() };
        let target = self.conflict_target(conflict);
        let is_updated = |name: &&str| match &conflict.update {
            Some(columns) => columns.iter().any(|column| column == name),
            None => !conflict.keys.iter().any(|key| key == name),
        };
        let other = self.column_names().filter(is_updated).collect::<Vec<_>>();
        let keys_only = self.column_names().filter(|name| conflict.keys.iter().any(|key| key == name));
        let set = if other.is_empty() { keys_only.collect() } else { other };
        // Without its schema, the name of the table means the row that is there, in both databases.
        let table = quote_identifier(&self.table.name.table);
        let assign = |column: &str| {
            let name = quote_identifier(column);
            match conflict.keep_on_null.iter().any(|kept| kept == column) {
                true => format!("{name} = coalesce(excluded.{name}, {table}.{name})"),
                false => format!("{name} = excluded.{name}"),
            }
        };
        let set = set.into_iter().map(assign).collect::<Vec<_>>();
        format!(" ON CONFLICT {target} DO UPDATE SET {}", set.join(", "))
    }

    /// Chooses the index that the conflict keys mean: the only one whose parts are just these columns, or expressions of
    /// them. `None` if there is none, or more than one.
    pub(crate) fn choose_key_index(&self, indexes: impl Iterator<Item = KeyIndex>) -> Option<KeyIndex> {
        let keys = self.conflict.as_ref().map(|conflict| conflict.keys.as_slice()).unwrap_or_default();
        let others = self.table.columns.iter().map(|column| &column.name).filter(|name| !keys.contains(name));
        let others = others.collect::<Vec<_>>();
        let is_for = |part: &str, key: &str| {
            part == key
                || part == quote_identifier(key)
                || mentions_column(part, key) && !others.iter().any(|other| mentions_column(part, other))
        };
        let mut fitting = indexes.filter(|index| {
            index.parts.len() == keys.len()
                && keys.iter().all(|key| index.parts.iter().any(|part| is_for(part, key)))
                && index.parts.iter().all(|part| keys.iter().any(|key| is_for(part, key)))
        });
        let chosen = fitting.next()?;
        fitting.next().is_none().then_some(chosen)
    }

    pub(crate) fn conflict_action(&self) -> Option<KeyConflictAction> {
        self.conflict.as_ref().map(|conflict| conflict.action)
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

#[cfg(test)]
impl LoadPlan {
    /// A plan for the tests: all columns of the table are texts, and loaded.
    pub(crate) fn of_texts(table: &str, names: &[&str]) -> Self {
        let column = |name: &&str| TableColumn {
            name: (*name).to_owned(),
            column_type: DbColumnType::Text,
            type_name: "text".into(),
            not_null: false,
            max_length: None,
        };
        let columns = names.iter().map(column).collect::<Vec<_>>();
        let table = TableInfo {
            name: TableName { schema: None, table: table.to_owned() },
            columns: columns.clone(),
            has_triggers: false,
            partitioned: false,
            is_view: false,
            row_security: false,
            identity_columns: Vec::new(),
            required_columns: Vec::new(),
            self_references: Vec::new(),
        };
        let columns = columns.into_iter().map(|column| (column, BatchColumnType::Text)).collect();
        Self { table, columns, conflict: None, index: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conflict_keys_mean_one_index_of_just_these_columns() {
        let mut plan = LoadPlan::of_texts("t", &["a", "b", "c"]);
        let index = |parts: &[&str], predicate: Option<&str>| KeyIndex {
            parts: parts.iter().map(|part| (*part).to_owned()).collect(),
            predicate: predicate.map(str::to_owned),
        };
        let mut chosen = |keys: &[&str], indexes: &[KeyIndex]| {
            let keys = keys.iter().map(|key| (*key).to_owned()).collect();
            plan.conflict =
                Some(ConflictRule { keys, action: KeyConflictAction::Skip, update: None, keep_on_null: Vec::new() });
            plan.index = plan.choose_key_index(indexes.iter().cloned());
            plan.index.is_some().then(|| plan.on_conflict_do_nothing())
        };
        let partial = index(&["a"], Some("c IS NULL"));
        let lower = index(&["\"b\"", "lower(a)"], None);
        let found = chosen(&["a"], &[partial.clone(), lower.clone()]);
        assert_eq!(found.as_deref(), Some(" ON CONFLICT (a) WHERE c IS NULL DO NOTHING"));
        let found = chosen(&["a", "b"], &[partial.clone(), lower]);
        assert_eq!(found.as_deref(), Some(" ON CONFLICT (\"b\", lower(a)) DO NOTHING"));
        assert_eq!(chosen(&["a"], &[partial.clone(), index(&["a"], Some("c = '1'"))]), None, "two of them");
        assert_eq!(chosen(&["c"], &[partial]), None, "the predicate is no part of the key");
        assert_eq!(chosen(&["a"], &[index(&["(a || b)"], None)]), None, "another column takes part");
    }
}
