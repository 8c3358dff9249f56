//! Loading many rows at once, the fastest way that each database has.

use std::sync::Arc;

use super::{Batch, Column, Connection, Fence, Kind, Reject, Shape, Table, checkpoints, postgres, sqlite};
use afterload_core::error::{Error, Result};
use afterload_core::table_name::{TableName, identifier, list};

/// What to do with a row whose key is already there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Overwrite the imported columns.
    Update,
    /// Keep what is there.
    Skip,
    /// Keep what is there, and refuse the row.
    Reject,
}

/// A key, and what to do when it is already there.
#[derive(Clone, Debug)]
pub struct Conflict {
    /// The columns of a unique constraint.
    pub keys: Vec<String>,
    /// What to do.
    pub action: Action,
}

/// What became of the rows of a batch: the counts and the refusals add up to its rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// New rows.
    pub inserted: u64,
    /// Rows that overwrote others.
    pub updated: u64,
    /// Rows that were left out because their key was there, or because a trigger dropped them.
    pub skipped: u64,
    /// Rows that were refused, by their index in the batch, ascending.
    pub refused: Vec<Refusal>,
}

/// A row that was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The index in the batch.
    pub row: usize,
    /// `conflict` or `database_refused`.
    pub code: &'static str,
    /// Why, for people.
    pub message: String,
}

/// What is committed with a batch.
#[derive(Clone, Debug, Default)]
pub struct Sealed {
    /// Where the next attempt goes on.
    pub cursor: String,
    /// Rows to be kept as rejected.
    pub rejects: Vec<Reject>,
    /// Whether nothing is left to do.
    pub finished: bool,
}

/// Says, once the outcome of a batch is known, what is to be committed with it.
pub type Seal = Box<dyn FnOnce(&Outcome) -> Sealed + Send>;

/// A table made ready for loading.
pub enum Loader {
    /// Into SQLite.
    Sqlite(sqlite::Loader),
    /// Into PostgreSQL.
    Postgres(Box<postgres::Loader>),
}

/// What both loaders need to know.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) table: Table,
    pub(super) columns: Vec<(Column, Shape)>,
    pub(super) conflict: Option<Conflict>,
}

impl Plan {
    /// The places of the key columns among the loaded ones.
    pub(super) fn keys(&self) -> Vec<usize> {
        let keys = self.conflict.iter().flat_map(|conflict| &conflict.keys);
        keys.filter_map(|key| self.columns.iter().position(|(column, _)| column.name == *key)).collect()
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(|(column, _)| column.name.as_str())
    }

    /// `ON CONFLICT (…) DO NOTHING`, or nothing.
    pub(super) fn do_nothing(&self) -> String {
        let keys = |conflict: &Conflict| list(conflict.keys.iter().map(String::as_str));
        self.conflict.as_ref().map_or_else(String::new, |it| format!(" ON CONFLICT ({}) DO NOTHING", keys(it)))
    }

    /// `ON CONFLICT (…) DO UPDATE SET …`; the keys themselves only where there is nothing else.
    pub(super) fn do_update(&self) -> String {
        let Some(conflict) = &self.conflict else { return String::new() };
        let keys = list(conflict.keys.iter().map(String::as_str));
        let other = self.names().filter(|name| !conflict.keys.iter().any(|key| key == name)).collect::<Vec<_>>();
        let set = if other.is_empty() { self.names().collect() } else { other };
        let set = set.into_iter().map(identifier).map(|name| format!("{name} = excluded.{name}")).collect::<Vec<_>>();
        format!(" ON CONFLICT ({keys}) DO UPDATE SET {}", set.join(", "))
    }

    pub(super) fn action(&self) -> Option<Action> {
        self.conflict.as_ref().map(|conflict| conflict.action)
    }

    pub(super) fn conflict_refusal(&self, row: usize) -> Refusal {
        let keys = self.conflict.iter().flat_map(|conflict| &conflict.keys).map(|key| format!("`{key}`"));
        let keys = keys.collect::<Vec<_>>().join(", ");
        Refusal { row, code: "conflict", message: format!("a row with the same {keys} is already there") }
    }
}

impl Connection {
    /// Makes a table ready to receive these columns. The names in `columns` and `conflict` must be those of `table`.
    ///
    /// # Errors
    /// `column_not_found`, `conflict_keys_not_unique`, `table_reserved`, `connection_read_only`, or those of the database.
    pub async fn loader(
        &self,
        table: &Table,
        columns: &[(String, Shape)],
        conflict: Option<Conflict>,
    ) -> Result<Loader> {
        self.writable()?;
        checkpoints::refuse_ours(&table.name)?;
        let resolve = |(name, shape): &(String, Shape)| Ok((table.column(name)?.clone(), *shape));
        let columns = columns.iter().map(resolve).collect::<Result<Vec<_>>>()?;
        let conflict = match conflict {
            Some(Conflict { keys, action }) => {
                let keys = keys.iter().map(|key| Ok(table.column(key)?.name.clone())).collect::<Result<Vec<_>>>()?;
                Some(Conflict { keys, action })
            }
            None => None,
        };
        let plan = Plan { table: table.clone(), columns, conflict };
        match self {
            Self::Sqlite(sqlite) => sqlite::Loader::new(sqlite.clone(), plan).await.map(Loader::Sqlite),
            Self::Postgres(postgres) => {
                postgres::Loader::new(postgres, plan).await.map(|loader| Loader::Postgres(Box::new(loader)))
            }
        }
    }
}

impl Loader {
    /// Loads a batch in one transaction, with what `seal` makes of its outcome. With a fence, the cursor and the rejects
    /// are committed too; without one they are only handed back.
    ///
    /// A row that the database refuses is left out and told in the outcome; all others are committed.
    ///
    /// # Errors
    /// `lease_lost` if a later attempt has taken over, or those of the database; then nothing was committed.
    pub async fn load<T: AsRef<Batch> + Send + Sync + 'static>(
        &mut self,
        rows: Arc<T>,
        fence: Option<&Fence>,
        seal: Seal,
    ) -> Result<(Outcome, Sealed)> {
        match self {
            Self::Sqlite(loader) => loader.load(rows, fence.cloned(), seal).await,
            Self::Postgres(loader) => loader.load((*rows).as_ref(), fence, seal).await,
        }
    }
}

/// The error for keys that no unique constraint covers.
pub(super) fn not_unique(plan: &Plan) -> Error {
    let keys = plan.conflict.as_ref().map_or(&[][..], |conflict| &conflict.keys);
    keys_not_unique(&plan.table.name, keys)
}

/// The same for the keys of a table.
pub(super) fn keys_not_unique(table: &TableName, keys: &[String]) -> Error {
    let keys = keys.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ");
    Error::permanent("conflict_keys_not_unique", format!("no unique constraint of `{table}` covers just {keys}"))
        .hint("`keys` must name the columns of a primary key or of a unique index")
}

/// Whether cells of a shape can be sent to a column of a kind as they are; otherwise the database casts them from text.
pub(super) fn fits(kind: Kind, shape: Shape) -> bool {
    match kind {
        Kind::Text => true,
        Kind::Bool => shape == Shape::Boolean,
        Kind::Int2 | Kind::Int4 | Kind::Int8 => matches!(shape, Shape::Integer | Shape::Boolean),
        Kind::Float4 | Kind::Float8 | Kind::Numeric => matches!(shape, Shape::Integer | Shape::Decimal),
        Kind::Date => shape == Shape::Date,
        Kind::Timestamp | Kind::Timestamptz => matches!(shape, Shape::Date | Shape::DateTime),
        Kind::Uuid => shape == Shape::Uuid,
        Kind::Json | Kind::Jsonb => shape == Shape::Json,
        Kind::Other => false,
    }
}
