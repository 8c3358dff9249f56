//! The users' databases: one pool per connection of the configuration, and the SQL dialects they speak.
//!
//! Steps describe what they want in terms of a [`TableInfo`], a [`RowBatch`] of typed cells and a [`ConflictRule`]; a
//! [`BulkLoader`] knows how to do it fast. Each database is a back end in a folder of its own and implements the trait
//! `TargetDatabase`; what lies below is the vocabulary that they share.

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
mod postgres;
mod query;
mod recipients;
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
pub use fields::{check_bind, check_sql, default_connection, read_checkpoint};
pub use query::{CellType, QueryOptions, RowVisitor, SelectQuery};
pub use recipients::{
    DeliveryChunk, DeliveryRowSpec, DeliveryTable, KeyRange, OnExisting, Recipient, RecipientPage, RecipientQuery,
};
pub use row_source::{RowSource, Scalar};
pub use statement::{
    Checkpoint, CheckpointCommit, CheckpointFn, ParsedStatement, ResultMode, ResultRows, StatementArgs,
    StatementResult, compare_values,
};
pub use table::{DbColumnType, TableColumn, TableInfo};

use afterload_core::dialect::Dialect;
use afterload_core::error::{Error, Result};
use afterload_core::identifier::TableName;

/// All connections of the configuration, opened when first used. Cheap to clone.
#[derive(Clone)]
pub struct Connections(Arc<BTreeMap<String, LazyConnection>>);

struct LazyConnection {
    config: ConnectionConfig,
    connection: OnceCell<Connection>,
}

/// A database that pipelines work on. Cheap to clone.
#[derive(Clone)]
pub enum Connection {
    /// A SQLite file.
    Sqlite(sqlite::SqliteDatabase),
    /// A PostgreSQL database.
    Postgres(postgres::PostgresDatabase),
}

/// What the configuration says of a connection, beside its address.
#[derive(Debug)]
struct ConnectionOptions {
    name: String,
    read_only: bool,
    checkpoints: bool,
}

impl Connections {
    /// The connections of the configuration; none is opened yet.
    pub fn new(configs: &BTreeMap<String, ConnectionConfig>) -> Self {
        let slot = |config: &ConnectionConfig| LazyConnection { config: config.clone(), connection: OnceCell::new() };
        Self(Arc::new(configs.iter().map(|(name, config)| (name.clone(), slot(config))).collect()))
    }

    /// The connection of this name, opened if it was not yet.
    ///
    /// # Errors
    /// `connection_unknown`; `connection_invalid` if its address is not one; `connection_unavailable` (transient) if it
    /// does not answer.
    pub async fn get(&self, name: &str) -> Result<Connection> {
        let Some(slot) = self.0.get(name) else {
            let known = self.0.keys().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
            return Err(Error::new(codes::CONNECTION_UNKNOWN, format!("unknown connection `{name}`"))
                .with_hint(format!("the configuration knows {}", if known.is_empty() { "none" } else { &known })));
        };
        let open = || Connection::open(name, &slot.config);
        slot.connection.get_or_try_init(open).await.cloned()
    }
}

impl Connection {
    async fn open(name: &str, config: &ConnectionConfig) -> Result<Self> {
        let facts = Arc::new(ConnectionOptions {
            name: name.to_owned(),
            read_only: config.read_only,
            checkpoints: config.checkpoints == CheckpointMode::Table,
        });
        let url = config.url.expose_secret();
        match Dialect::from_url(url) {
            Some(Dialect::Sqlite) => sqlite::SqliteDatabase::open(url, facts).await.map(Self::Sqlite),
            Some(Dialect::Postgres) => {
                postgres::PostgresDatabase::open(url, config.schema.as_deref(), facts).await.map(Self::Postgres)
            }
            None => Err(invalid_url_error(name)),
        }
    }

    /// The SQL that it speaks.
    pub fn dialect(&self) -> Dialect {
        match self {
            Self::Sqlite(_) => Dialect::Sqlite,
            Self::Postgres(_) => Dialect::Postgres,
        }
    }

    /// The name in the configuration.
    pub fn name(&self) -> &str {
        &self.connection_options().name
    }

    /// Whether `afterload_checkpoints` may be kept in this database.
    pub fn keeps_checkpoints(&self) -> bool {
        self.connection_options().checkpoints
    }

    /// An error if the configuration forbids writing here.
    ///
    /// # Errors
    /// `connection_read_only`.
    pub fn ensure_writable(&self) -> Result<()> {
        match self.connection_options().read_only {
            false => Ok(()),
            true => Err(Error::new(codes::CONNECTION_READ_ONLY, format!("connection `{}` is read-only", self.name()))),
        }
    }

    /// What the database knows of a table.
    ///
    /// # Errors
    /// `table_not_found`, or those of the database.
    pub async fn describe_table(&self, name: &str) -> Result<TableInfo> {
        let name = TableName::parse(name)?;
        let found = match self {
            Self::Sqlite(sqlite) => table::describe_sqlite_table(&sqlite.pool, &name).await?,
            Self::Postgres(postgres) => table::describe_postgres_table(postgres, &name).await?,
        };
        found.ok_or_else(|| {
            Error::new(codes::TABLE_NOT_FOUND, format!("connection `{}` has no table `{name}`", self.name()))
                .with_hint("create the table first; names are case-sensitive on PostgreSQL")
        })
    }

    fn connection_options(&self) -> &ConnectionOptions {
        match self {
            Self::Sqlite(sqlite) => &sqlite.options,
            Self::Postgres(postgres) => &postgres.options,
        }
    }
}

/// The address itself is not shown: it may hold a password.
fn invalid_url_error(name: &str) -> Error {
    Error::new(codes::CONNECTION_INVALID, format!("the `url` of connection `{name}` is not a database address"))
}

fn unavailable_error(name: &str, error: &sqlx::Error) -> Error {
    Error::new(codes::CONNECTION_UNAVAILABLE, format!("connection `{name}` cannot be opened: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use afterload_core::secret::Secret;

    fn one(url: &str) -> Connections {
        let config =
            ConnectionConfig { url: Secret::new(url), schema: None, read_only: false, checkpoints: Default::default() };
        Connections::new(&BTreeMap::from([("app".to_owned(), config)]))
    }

    async fn refusal(connections: &Connections, name: &str) -> Error {
        match connections.get(name).await {
            Ok(_) => panic!("`{name}` was opened"),
            Err(error) => error,
        }
    }

    #[tokio::test]
    async fn unknown_invalid_and_unreachable_connections_are_told_apart() {
        let error = refusal(&one("sqlite://x.db"), "other").await;
        assert_eq!(
            (error.code().name(), error.hint_text()),
            ("connection_unknown", Some("the configuration knows `app`"))
        );
        let error = refusal(&one("mysql://user:hunter2@host/db"), "app").await;
        assert_eq!(error.code(), codes::CONNECTION_INVALID);
        assert!(!error.to_string().contains("hunter2"));
        let error = refusal(&one("sqlite:///no/such/folder/x.db"), "app").await;
        assert_eq!((error.code().name(), error.is_transient()), ("connection_unavailable", true));
        let error = refusal(&one("postgres://user:hunter2@127.0.0.1:1/db"), "app").await;
        assert_eq!((error.code().name(), error.is_transient()), ("connection_unavailable", true));
        assert!(!error.to_string().contains("hunter2"));
    }

    #[tokio::test]
    async fn a_sqlite_file_is_made_when_first_used() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.db");
        let connections = one(&format!("sqlite://{}", path.display()));
        assert!(!path.exists());
        let connection = connections.get("app").await.unwrap();
        assert!(path.exists());
        let error = connection.describe_table("contacts").await.unwrap_err();
        assert_eq!(error.code(), codes::TABLE_NOT_FOUND);
    }
}
