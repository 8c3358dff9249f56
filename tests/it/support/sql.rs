//! Executes SQL in a database, as the application would.

use sqlx::{AssertSqlSafe, Connection, PgConnection, Row, SqliteConnection};

/// Executes statements.
pub async fn execute(url: &str, sql: &str) {
    let sql = AssertSqlSafe(sql.to_owned());
    // One connection: a pool would cost more than most statements.
    if url.starts_with("sqlite") {
        let mut db = SqliteConnection::connect(&format!("{url}?mode=rwc")).await.unwrap();
        sqlx::raw_sql(sql).execute(&mut db).await.unwrap();
        db.close().await.unwrap();
    } else {
        let mut db = PgConnection::connect(url).await.unwrap();
        sqlx::raw_sql(sql).execute(&mut db).await.unwrap();
        db.close().await.unwrap();
    }
}

/// Reads one row of integers.
pub async fn numbers(url: &str, sql: &str) -> Vec<i64> {
    let sql = AssertSqlSafe(sql.to_owned());
    if url.starts_with("sqlite") {
        let mut db = SqliteConnection::connect(url).await.unwrap();
        let row = sqlx::query(sql).fetch_one(&mut db).await.unwrap();
        let found = (0..row.len()).map(|column| row.get(column)).collect();
        db.close().await.unwrap();
        found
    } else {
        let mut db = PgConnection::connect(url).await.unwrap();
        let row = sqlx::query(sql).fetch_one(&mut db).await.unwrap();
        let found = (0..row.len()).map(|column| row.get(column)).collect();
        db.close().await.unwrap();
        found
    }
}
