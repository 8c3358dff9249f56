//! Executes SQL in a database, as the application would.

use sqlx::{AssertSqlSafe, PgPool, Row, SqlitePool};

/// Executes statements.
pub async fn execute(url: &str, sql: &str) {
    let sql = AssertSqlSafe(sql.to_owned());
    if url.starts_with("sqlite") {
        let pool = SqlitePool::connect(&format!("{url}?mode=rwc")).await.unwrap();
        sqlx::raw_sql(sql).execute(&pool).await.unwrap();
        pool.close().await;
    } else {
        let pool = PgPool::connect(url).await.unwrap();
        sqlx::raw_sql(sql).execute(&pool).await.unwrap();
        pool.close().await;
    }
}

/// Reads one row of integers.
pub async fn numbers(url: &str, sql: &str) -> Vec<i64> {
    let sql = AssertSqlSafe(sql.to_owned());
    if url.starts_with("sqlite") {
        let pool = SqlitePool::connect(url).await.unwrap();
        let row = sqlx::query(sql).fetch_one(&pool).await.unwrap();
        (0..row.len()).map(|column| row.get(column)).collect()
    } else {
        let pool = PgPool::connect(url).await.unwrap();
        let row = sqlx::query(sql).fetch_one(&pool).await.unwrap();
        (0..row.len()).map(|column| row.get(column)).collect()
    }
}
