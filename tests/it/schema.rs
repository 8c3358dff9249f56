//! The tables of the service: the same in both databases, and refused when another build made them.

use std::collections::BTreeSet;

use afterload_core::clock::Clock;
use afterload_state::Db;

use crate::support::{Database, Server, both};

both!(a_database_of_an_older_build_is_refused, a_database_with_changed_migrations_is_refused);

struct Opened {
    db: Db,
    url: String,
    _dir: tempfile::TempDir,
    _server: Option<Server>,
}

async fn open(database: Database) -> Opened {
    let dir = tempfile::tempdir().unwrap();
    let server = match database {
        Database::Sqlite => None,
        Database::Postgres => Some(Server::start().await),
    };
    let url = server.as_ref().map_or_else(|| format!("sqlite://{}", dir.path().join("s.db").display()), Server::url);
    Opened { db: Db::open(&url, Clock::system()).await.unwrap(), url, _dir: dir, _server: server }
}

impl Opened {
    /// Changes the history of the migrations, and opens the database once more.
    async fn assert_refused_after(self, change: &str) {
        self.db.execute(change, &[]).await.unwrap();
        self.db.close().await;
        let error = Db::open(&self.url, Clock::system()).await.err().expect("the database to be refused");
        assert_eq!(error.code().name(), "database_incompatible");
        assert_eq!(
            error.to_string(),
            "another build of afterload created the tables of this database, and this build cannot use them\n\
             hint: use a new database or an empty data folder, or run the build that created this one"
        );
    }
}

async fn a_database_of_an_older_build_is_refused(database: Database) {
    let change = "INSERT INTO afterload_migrations (version, description, success, checksum, execution_time)
                  SELECT 2, 'inbox', success, checksum, execution_time FROM afterload_migrations WHERE version = 1";
    open(database).await.assert_refused_after(change).await;
}

async fn a_database_with_changed_migrations_is_refused(database: Database) {
    let change = match database {
        Database::Sqlite => "UPDATE afterload_migrations SET checksum = CAST('older' AS BLOB)",
        Database::Postgres => "UPDATE afterload_migrations SET checksum = CAST('older' AS BYTEA)",
    };
    open(database).await.assert_refused_after(change).await;
}

const SQLITE_COLUMNS: &str =
    "SELECT m.name || ' ' || c.name || ' ' || c.type || CASE WHEN c.\"notnull\" THEN ' NOT NULL' ELSE '' END AS line
    FROM sqlite_master m JOIN pragma_table_info(m.name) c
    WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%' AND m.name <> 'afterload_migrations'";

const POSTGRES_COLUMNS: &str = "SELECT CAST(table_name || ' ' || column_name || ' ' || UPPER(data_type)
        || CASE WHEN is_nullable = 'NO' THEN ' NOT NULL' ELSE '' END AS TEXT) AS line
    FROM information_schema.columns WHERE table_schema = 'public' AND table_name <> 'afterload_migrations'";

/// A line for each column of an index. Those behind primary keys and constraints have no name of ours.
const SQLITE_INDEXES: &str =
    "SELECT m.name || ' ' || CASE l.origin WHEN 'c' THEN l.name WHEN 'pk' THEN '(primary)' ELSE '(constraint)' END
        || ' ' || l.\"unique\" || ' ' || i.seqno || ' ' || COALESCE(i.name, '(expression)') AS line
    FROM sqlite_master m JOIN pragma_index_list(m.name) l JOIN pragma_index_info(l.name) i
    WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%' AND m.name <> 'afterload_migrations'";

const POSTGRES_INDEXES: &str =
    "SELECT CAST(t.relname || ' ' || CASE k.contype WHEN 'p' THEN '(primary)' WHEN 'u' THEN '(constraint)' ELSE x.relname END
        || ' ' || CAST(i.indisunique AS INT) || ' ' || (c.place - 1) || ' ' || COALESCE(a.attname, '(expression)') AS TEXT) AS line
    FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_class t ON t.oid = i.indrelid
    JOIN pg_namespace s ON s.oid = t.relnamespace
    CROSS JOIN LATERAL unnest(CAST(i.indkey AS INT2[])) WITH ORDINALITY AS c (attnum, place)
    LEFT JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = c.attnum
    LEFT JOIN pg_constraint k ON k.conindid = x.oid AND k.contype IN ('p', 'u')
    WHERE s.nspname = 'public' AND t.relname <> 'afterload_migrations'";

async fn lines(db: &Db, sql: &str) -> BTreeSet<String> {
    let rows = db.fetch(sql, &[]).await.unwrap();
    rows.iter().map(|row| row.get_text("line").unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_databases_have_the_same_tables_columns_and_indexes() {
    let (sqlite, postgres) = (open(Database::Sqlite).await, open(Database::Postgres).await);
    for (name, of_sqlite, of_postgres) in [
        ("runs revision BIGINT NOT NULL", SQLITE_COLUMNS, POSTGRES_COLUMNS),
        ("runs runs_by_status 0 1 id", SQLITE_INDEXES, POSTGRES_INDEXES),
    ] {
        let (of_sqlite, of_postgres) = (lines(&sqlite.db, of_sqlite).await, lines(&postgres.db, of_postgres).await);
        assert!(of_sqlite.contains(name), "{of_sqlite:#?}");
        assert_eq!(of_sqlite, of_postgres);
    }
}
