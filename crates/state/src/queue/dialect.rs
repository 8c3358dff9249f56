//! The SQL in which the queue's tables differ between the two databases.

use afterload_core::dialect::Dialect;

/// The parts of statements on the queue's tables that depend on the database.
pub(super) struct QueueDialect {
    /// The table of jobs.
    pub jobs: &'static str,
    /// The table of workers.
    pub workers: &'static str,
    /// The current time of the database, in the format of the queue.
    pub now: &'static str,
    /// The time an hour ago, in the same format.
    pub hour_ago: &'static str,
    /// The function that converts seconds since 1970 to this format.
    pub from_seconds: &'static str,
    /// The rows of the JSON list of texts in the first argument; their column is `q.value`.
    pub json_texts: &'static str,
    /// Locks the jobs `j` of a query until the end of the transaction. It is empty on SQLite, where a transaction is
    /// the only writer.
    pub lock_jobs: &'static str,
}

static SQLITE: QueueDialect = QueueDialect {
    jobs: "Jobs",
    workers: "Workers",
    now: "unixepoch()",
    hour_ago: "unixepoch() - 3600",
    from_seconds: "",
    json_texts: "json_each($1) AS q",
    lock_jobs: "",
};

static POSTGRES: QueueDialect = QueueDialect {
    jobs: "apalis.jobs",
    workers: "apalis.workers",
    now: "now()",
    hour_ago: "now() - interval '1 hour'",
    from_seconds: "to_timestamp",
    json_texts: "json_array_elements_text(CAST($1 AS JSON)) AS q(value)",
    lock_jobs: "FOR UPDATE OF j",
};

impl QueueDialect {
    pub fn of(dialect: Dialect) -> &'static Self {
        match dialect {
            Dialect::Sqlite => &SQLITE,
            Dialect::Postgres => &POSTGRES,
        }
    }
}
