//! The SQL in which the queue's tables differ between the two databases.

use afterload_core::dialect::Dialect;

/// The parts of statements on the queue's tables that depend on the database.
pub(super) struct QueueDialect {
    /// The table of jobs.
    pub jobs: &'static str,
    /// The table of workers.
    pub workers: &'static str,
    /// The function that converts seconds since 1970 to the format of the queue's times.
    from_seconds: &'static str,
    /// The milliseconds of a second. The queue's times are whole seconds on SQLite.
    second_ms: &'static str,
    /// The text before and after a placeholder that converts a text to bytes.
    text_to_bytes: (&'static str, &'static str),
    /// The rows of the JSON list of texts in the first argument; their column is `q.value`.
    pub json_texts: &'static str,
    /// Locks the jobs `j` of a query until the end of the transaction. It is empty on SQLite, where a transaction is
    /// the only writer.
    pub lock_jobs: &'static str,
    /// As `lock_jobs`, and leaves out jobs that another transaction has locked.
    pub skip_locked: &'static str,
}

static SQLITE: QueueDialect = QueueDialect {
    jobs: "Jobs",
    workers: "Workers",
    from_seconds: "",
    second_ms: "1000",
    text_to_bytes: ("CAST(", " AS BLOB)"),
    json_texts: "json_each($1) AS q",
    lock_jobs: "",
    skip_locked: "",
};

static POSTGRES: QueueDialect = QueueDialect {
    jobs: "apalis.jobs",
    workers: "apalis.workers",
    from_seconds: "to_timestamp",
    second_ms: "1000.0",
    text_to_bytes: ("convert_to(", ", 'UTF8')"),
    json_texts: "json_array_elements_text(CAST($1 AS JSON)) AS q(value)",
    lock_jobs: "FOR UPDATE OF j",
    skip_locked: "FOR UPDATE OF j SKIP LOCKED",
};

impl QueueDialect {
    pub fn of(dialect: Dialect) -> &'static Self {
        match dialect {
            Dialect::Sqlite => &SQLITE,
            Dialect::Postgres => &POSTGRES,
        }
    }

    /// The expression that converts the time of this placeholder, in milliseconds, to the format of the queue's times.
    pub fn time_from_millis(&self, placeholder: &str) -> String {
        format!("{}({placeholder} / {})", self.from_seconds, self.second_ms)
    }

    /// The condition that a job `j` is due at the time of this placeholder. No job has a null: so written, neither database
    /// prefers an index on the times to the one that has the order of the fetch.
    pub fn job_is_due(&self, now: &str) -> String {
        format!("(j.run_at IS NULL OR j.run_at <= {})", self.time_from_millis(now))
    }

    /// The expression that converts the text of this placeholder to bytes.
    pub fn bytes_from_text(&self, placeholder: &str) -> String {
        let (before, after) = self.text_to_bytes;
        format!("{before}{placeholder}{after}")
    }
}
