//! The connections of the configuration, and the operations that steps run on them.

mod bulk_load;
mod bulk_update;
mod checkpoint;
mod guard;
mod select;
mod statement;

use crate::codes;
use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::OnceCell;

pub use bulk_load::BulkLoader;
use guard::VerifiedTexts;

use crate::backends::Backend;
use crate::config::{CheckpointMode, ConnectionConfig, ConnectionOptions};
use crate::table::TableInfo;
use crate::target_database::TargetDatabase;
use afterload_core::clock::Clock;
use afterload_core::dialect::Dialect;
use afterload_core::error::{Error, Result};
use afterload_core::identifier::TableName;

/// All connections of the configuration. Each one opens on its first use. Cheap to clone.
#[derive(Clone)]
pub struct Connections(Arc<BTreeMap<String, LazyConnection>>);

struct LazyConnection {
    config: ConnectionConfig,
    clock: Clock,
    connection: OnceCell<Connection>,
}

/// An open target database. Cheap to clone.
#[derive(Clone)]
pub struct Connection {
    backend: Backend,
    verified: Arc<VerifiedTexts>,
}

impl Connections {
    /// Creates the connections of the configuration without opening any.
    pub fn new(configs: &BTreeMap<String, ConnectionConfig>, clock: &Clock) -> Self {
        let slot = |config: &ConnectionConfig| LazyConnection {
            config: config.clone(),
            clock: clock.clone(),
            connection: OnceCell::new(),
        };
        Self(Arc::new(configs.iter().map(|(name, config)| (name.clone(), slot(config))).collect()))
    }

    /// Returns the connection with this name and opens it on its first use.
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
        let open = || Connection::open(name, &slot.config, &slot.clock);
        slot.connection.get_or_try_init(open).await.cloned()
    }
}

impl Connection {
    async fn open(name: &str, config: &ConnectionConfig, clock: &Clock) -> Result<Self> {
        let options = ConnectionOptions {
            name: name.to_owned(),
            clock: clock.clone(),
            read_only: config.read_only,
            checkpoints: config.checkpoints == CheckpointMode::Table,
            functions: config.functions.clone(),
        };
        Ok(Self { backend: Backend::open(config, options).await?, verified: Arc::default() })
    }

    /// The SQL dialect of the database.
    pub fn dialect(&self) -> Dialect {
        self.backend.dialect()
    }

    /// The name of the connection in the configuration.
    pub fn name(&self) -> &str {
        &self.backend.options().name
    }

    /// Whether this database may hold the table `afterload_checkpoints`.
    pub fn keeps_checkpoints(&self) -> bool {
        self.backend.options().checkpoints
    }

    /// Checks that the configuration allows writes.
    ///
    /// # Errors
    /// `connection_read_only`.
    pub fn ensure_writable(&self) -> Result<()> {
        match self.backend.options().read_only {
            false => Ok(()),
            true => Err(Error::new(codes::CONNECTION_READ_ONLY, format!("connection `{}` is read-only", self.name()))
                .with_hint("use a connection that may be written, or remove `read_only` from its configuration")),
        }
    }

    /// How many of `wanted` writers can write at once.
    pub fn max_writers(&self, wanted: usize) -> usize {
        self.backend.max_writers(wanted)
    }

    /// True if it is certain that no unique constraint covers just these columns.
    pub(crate) async fn lacks_unique_keys(&self, table: &TableName, keys: &[String]) -> bool {
        matches!(self.backend.has_unique_keys(table, keys).await, Ok(false))
    }

    pub(crate) fn key_as_text(&self, key: &str) -> String {
        self.backend.key_as_text(key)
    }

    pub(crate) fn key_bound_as_text(&self, key: &str) -> String {
        self.backend.key_bound_as_text(key)
    }

    pub(crate) fn typed_parameter(&self, name: &str, type_name: &str) -> String {
        self.backend.typed_parameter(name, type_name)
    }

    pub(crate) fn prefers_plain_insert(&self) -> bool {
        self.backend.prefers_plain_insert()
    }

    /// Describes a table: its columns, types and triggers.
    ///
    /// # Errors
    /// `table_not_found`, or those of the database.
    pub async fn describe_table(&self, name: &str) -> Result<TableInfo> {
        let name = TableName::parse(name)?;
        let found = self.backend.describe_table(&name).await?;
        found.ok_or_else(|| {
            Error::new(codes::TABLE_NOT_FOUND, format!("connection `{}` has no table `{name}`", self.name()))
                .with_hint("create the table first; names are case-sensitive on PostgreSQL")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use afterload_core::secret::Secret;

    fn one(url: &str) -> Connections {
        let config = ConnectionConfig {
            url: Secret::new(url),
            schema: None,
            read_only: false,
            checkpoints: Default::default(),
            functions: Vec::new(),
        };
        Connections::new(&BTreeMap::from([("app".to_owned(), config)]), &Clock::system())
    }

    async fn refusal(connections: &Connections, name: &str) -> Error {
        match connections.get(name).await {
            Ok(_) => panic!("`{name}` was opened"),
            Err(error) => error,
        }
    }

    #[tokio::test]
    async fn unknown_invalid_and_unreachable_connections_have_their_own_codes() {
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
    async fn sqlite_file_is_created_on_first_use() {
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
