//! Brings the tables up to date: ours, under a name of their own, and the queue's beside them.

use std::fs::File;
use std::path::Path;

use sqlx::migrate::{MigrateError, Migrator};

use super::db::Db;
use afterload_core::dialect::Dialect;
use afterload_core::error::{Error, Result};

/// Ours must not share the default table: the queue's migrations keep their history there.
const HISTORY: &str = "afterload_migrations";

fn sqlite() -> Migrator {
    let mut migrator = sqlx::migrate!("src/migrations/sqlite");
    migrator.dangerous_set_table_name(HISTORY);
    migrator
}

fn postgres() -> Migrator {
    let mut migrator = sqlx::migrate!("src/migrations/postgres");
    migrator.dangerous_set_table_name(HISTORY);
    migrator
}

/// Migrates. Several processes may start at once: SQLite's runs are serialised by a lock file (the library locks on
/// PostgreSQL only).
pub(super) async fn run(db: &Db) -> Result<()> {
    let migrated = if let (Some(pool), Some(path)) = (db.sqlite(), db.path()) {
        let _lock = lock(path).await?;
        sqlite().run(pool).await
    } else if let Some(pool) = db.postgres() {
        postgres().run(pool).await
    } else {
        Ok(())
    };
    migrated.map_err(|error| failed(db.dialect(), error.into()))
}

/// The error of migrations, ours or the queue's.
pub(crate) fn failed(dialect: Dialect, error: sqlx::Error) -> Error {
    let reason = match &error {
        sqlx::Error::Migrate(inner) => match inner.as_ref() {
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
                afterload_core::error::reason(error)
            }
            other => other.to_string(),
        },
        other => afterload_core::error::reason(other),
    };
    let error = Error::permanent("migration_failed", format!("the tables could not be brought up to date: {reason}"));
    match dialect {
        Dialect::Sqlite => error,
        Dialect::Postgres => error.hint(
            "the role of the service needs `GRANT CREATE ON DATABASE … TO …` (for the queue's schema `apalis`) and \
             `GRANT CREATE, USAGE ON SCHEMA public TO …`; an administrator can run both",
        ),
    }
}

/// Holds `PATH.lock` until dropped.
pub(crate) async fn lock(path: &Path) -> Result<File> {
    let path = path.with_added_extension("lock");
    let locked = tokio::task::spawn_blocking(move || {
        let file = File::create(path)?;
        file.lock()?;
        Ok::<_, std::io::Error>(file)
    });
    Ok(locked.await.map_err(|error| Error::transient("io_error", error.to_string()))??)
}

#[cfg(test)]
mod tests {
    #[test]
    fn both_databases_have_the_same_migrations() {
        let names = |migrator: sqlx::migrate::Migrator| -> Vec<_> {
            migrator.iter().map(|migration| (migration.version, migration.description.to_string())).collect()
        };
        assert!(!names(super::sqlite()).is_empty());
        assert_eq!(names(super::sqlite()), names(super::postgres()));
    }
}
