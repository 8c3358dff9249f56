//! Migrates the tables of the service. The queue keeps its own tables and its own history beside them.

use std::fs::File;
use std::path::Path;

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::{PgPool, SqlitePool};

use crate::codes;
use afterload_core::dialect::Dialect;
use afterload_core::error::{Error, Result};

/// The default table holds the history of the queue's migrations, so ours needs another name.
const MIGRATIONS_TABLE: &str = "afterload_migrations";

/// Both databases run the same files, which use only the SQL that SQLite and PostgreSQL share.
fn migrator() -> Migrator {
    let mut migrator = sqlx::migrate!("src/migrations");
    migrator.dangerous_set_table_name(MIGRATIONS_TABLE);
    migrator
}

/// Migrates a SQLite file. Several processes may start at once, so a lock file serializes them: sqlx locks on
/// PostgreSQL only.
pub(super) async fn migrate_sqlite(pool: &SqlitePool, path: &Path) -> Result<()> {
    let _lock = acquire_file_lock(path).await?;
    migrator().run(pool).await.map_err(|error| own_migration_failed(Dialect::Sqlite, error))
}

pub(super) async fn migrate_postgres(pool: &PgPool) -> Result<()> {
    migrator().run(pool).await.map_err(|error| own_migration_failed(Dialect::Postgres, error))
}

fn own_migration_failed(dialect: Dialect, error: MigrateError) -> Error {
    match error {
        // The history in the database differs from the history of this build.
        MigrateError::VersionMissing(_) | MigrateError::VersionMismatch(_) => Error::new(
            codes::DATABASE_INCOMPATIBLE,
            "another build of afterload created the tables of this database, and this build cannot use them",
        ),
        error => migration_failed(dialect, error.into()),
    }
}

/// The error of a failed migration, ours or the queue's.
pub(crate) fn migration_failed(dialect: Dialect, error: sqlx::Error) -> Error {
    let reason = match &error {
        sqlx::Error::Migrate(inner) => match inner.as_ref() {
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
                afterload_core::error::database_error_message(error)
            }
            other => other.to_string(),
        },
        other => afterload_core::error::database_error_message(other),
    };
    let error = Error::new(codes::MIGRATION_FAILED, format!("the tables could not be brought up to date: {reason}"));
    match dialect {
        Dialect::Sqlite => error,
        Dialect::Postgres => error.with_hint(
            "the role of the service needs `GRANT CREATE ON DATABASE … TO …` (the queue has a schema of its own) and \
             `GRANT CREATE, USAGE ON SCHEMA public TO …`; an administrator can run both",
        ),
    }
}

/// Locks `PATH.lock` until the returned file is dropped.
pub(crate) async fn acquire_file_lock(path: &Path) -> Result<File> {
    let path = path.with_added_extension("lock");
    let locked = tokio::task::spawn_blocking(move || {
        let file = File::create(path)?;
        file.lock()?;
        Ok::<_, std::io::Error>(file)
    });
    Ok(locked.await.map_err(|error| Error::new(codes::IO_ERROR, error.to_string()))??)
}
