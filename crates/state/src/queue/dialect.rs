//! The words in which the queue's tables differ between the two databases.

use afterload_core::dialect::Dialect;

/// What statements over the queue's tables take from the database at hand. Everything else in them is the same text.
pub(super) struct QueueDialect {
    /// The table of jobs.
    pub jobs: &'static str,
    /// The table of workers.
    pub workers: &'static str,
    /// The time of the database, as the queue stores it.
    pub now: &'static str,
    /// The same, an hour earlier.
    pub hour_ago: &'static str,
    /// The function that makes such a time from seconds since 1970.
    pub from_seconds: &'static str,
    /// Locks the jobs `j` of a query until the end of the transaction. On SQLite the transaction is the only writer.
    pub lock_jobs: &'static str,
}

static SQLITE: QueueDialect = QueueDialect {
    jobs: "Jobs",
    workers: "Workers",
    now: "unixepoch()",
    hour_ago: "unixepoch() - 3600",
    from_seconds: "",
    lock_jobs: "",
};

static POSTGRES: QueueDialect = QueueDialect {
    jobs: "apalis.jobs",
    workers: "apalis.workers",
    now: "now()",
    hour_ago: "now() - interval '1 hour'",
    from_seconds: "to_timestamp",
    lock_jobs: "FOR UPDATE OF j",
};

impl QueueDialect {
    /// The words of a database.
    pub fn of(dialect: Dialect) -> &'static Self {
        match dialect {
            Dialect::Sqlite => &SQLITE,
            Dialect::Postgres => &POSTGRES,
        }
    }
}
