//! Places of runs whose pipeline says how many may be under way: who has one, who waits for one, who is next.
//!
//! What is counted is the runs themselves, so that nothing can be counted wrong for longer than a transaction. Whoever
//! decides about places holds the lock of the key.

use super::db::{Arg, Db, Row, Tx, args};
use super::runs::{self, RunRecord};
use afterload_core::clock::{self, Millis};
use afterload_core::dialect::Dialect;
use afterload_core::error::Result;

/// The place of a run among those that it counts together with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Which runs count together.
    pub key: String,
    /// How many of them may be under way.
    pub limit: u32,
    /// Those before it have to make room.
    pub supersedes: bool,
    /// Who came first; `None`: its time has not come yet.
    pub turn: Option<i64>,
    /// Since when it waits for room; `None`: it is under way.
    pub held_at: Option<Millis>,
}

/// What [`place`] reads.
pub(super) const COLUMNS: &str = "concurrency_key, concurrency_limit, supersedes, turn, held_at";

pub(super) fn place(row: &Row) -> Result<Option<Place>> {
    let Some(key) = row.opt_text("concurrency_key")? else { return Ok(None) };
    Ok(Some(Place {
        key,
        limit: row.count("concurrency_limit")?,
        supersedes: row.int("supersedes")? == 1,
        turn: row.opt_int("turn")?,
        held_at: row.opt_int("held_at")?,
    }))
}

/// Runs that wait for room and still want it.
const WAITS: &str = "held_at IS NOT NULL AND finished_at IS NULL AND cancel_requested_at IS NULL";

impl Tx {
    /// Holds a key until the end of the transaction: those who decide about its places follow one another. The caller
    /// may hold rows of runs that have ended or are under way, and waits for no other run from here on.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn lock_places(&mut self, key: &str) -> Result<()> {
        // SQLite's transaction is the only writer already.
        if self.dialect() == Dialect::Postgres {
            let sql = "SELECT 1 AS held FROM (SELECT pg_advisory_xact_lock(hashtext('afterload places'), hashtext($1))) AS lock";
            self.fetch(sql, &args![key]).await?;
        }
        Ok(())
    }

    /// Lets a run wait for room: from now on in line, or until its time has come.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn hold_run(&mut self, id: &str, place: &Place, in_line: bool) -> Result<()> {
        let Place { key, limit, supersedes, .. } = place;
        let turn = match in_line {
            true => "(SELECT COALESCE(MAX(turn), 0) + 1 FROM runs WHERE concurrency_key = $2 AND finished_at IS NULL)",
            false => "NULL",
        };
        let sql = format!(
            "UPDATE runs SET concurrency_key = $2, concurrency_limit = $3, supersedes = $4, turn = {turn},
             held_at = COALESCE(held_at, $5) WHERE id = $1"
        );
        self.execute(&sql, &args![id, key, *limit, *supersedes, clock::now()]).await.map(drop)
    }

    /// Gives a free place of a key to the first run that waits for one, and gives that run. The key is locked. A run
    /// whose row somebody holds is being cancelled and is passed over.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn release_next(&mut self, key: &str) -> Result<Option<RunRecord>> {
        let lock = if self.dialect() == Dialect::Postgres { "FOR UPDATE SKIP LOCKED" } else { "" };
        let sql = format!(
            "UPDATE runs SET held_at = NULL, revision = revision + 1 WHERE id = (
                SELECT id FROM runs WHERE concurrency_key = $1 AND turn IS NOT NULL AND {WAITS} AND concurrency_limit >
                    (SELECT COUNT(*) FROM runs WHERE concurrency_key = $1 AND finished_at IS NULL AND held_at IS NULL)
                ORDER BY turn LIMIT 1 {lock})
             RETURNING {}",
            runs::columns()
        );
        self.fetch(&sql, &args![key]).await?.first().map(runs::run).transpose()
    }

    /// The first of the runs of a key that are under way.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn first_under_way(&mut self, key: &str) -> Result<Option<String>> {
        let sql = "SELECT id FROM runs WHERE concurrency_key = $1 AND finished_at IS NULL AND held_at IS NULL
                   ORDER BY turn LIMIT 1";
        self.fetch(sql, &args![key]).await?.first().map(|row| row.text("id")).transpose()
    }

    /// Ends a run that waits for room: nothing of it has begun, and nothing will. True: somebody has to be told of its end.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn end_held(&mut self, id: &str) -> Result<bool> {
        let now = clock::now();
        let sql =
            "UPDATE step_runs SET status = 'cancelled', finished_at = $2 WHERE run_id = $1 AND status = 'waiting'";
        self.execute(sql, &args![id, now]).await?;
        let sql = "UPDATE runs SET status = 'cancelled', finished_at = $2, held_at = NULL WHERE id = $1";
        self.end_run(id, sql, &args![id, now]).await
    }
}

impl Db {
    /// True if any run waits for room, or for its time.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn any_held(&self) -> Result<bool> {
        let sql = "SELECT id FROM runs WHERE held_at IS NOT NULL AND finished_at IS NULL LIMIT 1";
        Ok(self.fetch_one(sql, &[]).await?.is_some())
    }

    /// Runs that are not in line yet and whose time has come.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn held_and_due(&self, limit: u32) -> Result<Vec<String>> {
        let sql =
            format!("SELECT id FROM runs WHERE {WAITS} AND turn IS NULL AND run_at <= $1 ORDER BY run_at LIMIT $2");
        self.ids(&sql, &args![clock::now(), limit]).await
    }

    /// Keys with room and somebody who waits for it.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn keys_with_room(&self, limit: u32) -> Result<Vec<String>> {
        let sql = format!(
            "SELECT waiting.id FROM (SELECT concurrency_key AS id, MAX(concurrency_limit) AS most FROM runs
                WHERE {WAITS} AND turn IS NOT NULL GROUP BY concurrency_key) AS waiting
             WHERE waiting.most > (SELECT COUNT(*) FROM runs
                WHERE concurrency_key = waiting.id AND finished_at IS NULL AND held_at IS NULL)
             LIMIT $1"
        );
        self.ids(&sql, &args![limit]).await
    }

    /// Runs that wait for room and were asked to stop.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn held_and_cancelled(&self, limit: u32) -> Result<Vec<String>> {
        let sql = "SELECT id FROM runs WHERE held_at IS NOT NULL AND finished_at IS NULL
                   AND cancel_requested_at IS NOT NULL LIMIT $1";
        self.ids(sql, &args![limit]).await
    }

    /// Runs that have to make room for a later one that waits: all but the last so many of its key.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn superseded(&self, limit: u32) -> Result<Vec<String>> {
        let sql = format!(
            "SELECT DISTINCT old.id FROM (SELECT concurrency_key, concurrency_limit, turn FROM runs
                WHERE {WAITS} AND supersedes = 1 AND turn IS NOT NULL) AS new
             JOIN runs old ON old.concurrency_key = new.concurrency_key AND old.turn < new.turn
                AND old.finished_at IS NULL AND old.cancel_requested_at IS NULL
             WHERE (SELECT COUNT(*) FROM runs n WHERE n.concurrency_key = new.concurrency_key AND n.turn > old.turn
                AND n.turn <= new.turn AND n.finished_at IS NULL AND n.cancel_requested_at IS NULL)
                >= new.concurrency_limit
             LIMIT $1"
        );
        self.ids(&sql, &args![limit]).await
    }

    async fn ids(&self, sql: &str, args: &[Arg]) -> Result<Vec<String>> {
        self.fetch(sql, args).await?.iter().map(|row| row.text("id")).collect()
    }
}
