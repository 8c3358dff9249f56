//! The steps of runs: their state, and the statements by which it changes.

use serde_json::Value;

use super::db::{Arg, Db, Row, Tx, args};
use super::items::Tally;
use super::runs::{self, RunRecord};
use super::sleep::Sleep;
use super::status::StepStatus;
use crate::clock::{self, Millis};
use crate::error::Result;

/// A step of a run, as stored.
#[derive(Clone, Debug)]
pub struct StepRecord {
    /// The id, also of its job in the queue.
    pub id: String,
    /// The run.
    pub run_id: String,
    /// `steps`, `on_success`, `on_failure` or `finally`.
    pub section: String,
    /// Its place over all sections.
    pub position: i64,
    /// Its id in the pipeline.
    pub step_id: String,
    /// Its kind.
    pub uses: String,
    /// The queue that its job goes to.
    pub queue: String,
    /// The priority of its job; higher goes first.
    pub priority: i64,
    /// Where it is.
    pub status: StepStatus,
    /// How often it has been claimed; an attempt writes under the number of its own claim.
    pub claims: i64,
    /// Failed attempts.
    pub failures: u32,
    /// Crashes since its progress last moved.
    pub crashes: u32,
    /// How often it has slept.
    pub sleeps: i64,
    /// When it wakes, or woke, at the latest.
    pub sleep_until: Option<Millis>,
    /// The event that woke it.
    pub woken: Option<Value>,
    /// How often it has run anew after it had succeeded.
    pub round: i64,
    /// Of an item of a step with `for_each`: the row of that step.
    pub parent: Option<String>,
    /// Of an item: its place in the list, from 0.
    pub item_index: Option<i64>,
    /// Of an item: what it is.
    pub item: Option<Value>,
    /// Of a step with `for_each` that has begun: how its items stand.
    pub items: Option<Tally>,
    /// Its progress as last committed.
    pub progress: Option<Value>,
    /// Its outputs, once it succeeded.
    pub outputs: Option<Value>,
    /// Its last error: `{code, message}`.
    pub error: Option<Value>,
    /// When its retry is due.
    pub due_at: Option<Millis>,
    /// When its first attempt started.
    pub started_at: Option<Millis>,
    /// When it ended.
    pub finished_at: Option<Millis>,
}

impl StepRecord {
    /// The id in the definition: of an item, that of its step.
    pub fn defined_as(&self) -> &str {
        self.step_id.split_once('[').map_or(&self.step_id, |(step, _)| step)
    }

    /// Its name within the run, another one for each round: what it does outside of the database goes by it.
    pub fn key(&self) -> String {
        match self.round {
            0 => self.step_id.clone(),
            round => format!("{}.{round}", self.step_id),
        }
    }
}

/// What a claim gives to the attempt that holds it.
#[derive(Clone, Debug)]
pub struct Claimed {
    /// The step; its `claims` is the number of this claim.
    pub step: StepRecord,
}

/// How an attempt leaves its step.
#[derive(Clone, Debug)]
pub enum Ending {
    /// For good.
    Final {
        /// A final status.
        status: StepStatus,
        /// What later steps can use.
        outputs: Option<Value>,
        /// Why it failed.
        error: Option<Value>,
    },
    /// Failed, to be tried again.
    Retry {
        /// Why it failed.
        error: Value,
        /// When to try again.
        due_at: Millis,
    },
    /// Not done yet: it waits for something without a worker.
    Sleep(Sleep),
    /// Not done yet: its items are written in the same transaction, and nobody works on it until they have ended.
    FanOut,
    /// Given back untouched: its process goes down, or cannot work on it now.
    Park {
        /// When it may be claimed again.
        due_at: Millis,
    },
}

/// Named one by one: a later version's new column must not change what an older process reads.
pub(super) const COLUMNS: &str = "id, run_id, section, position, step_id, uses, queue, priority, status, claims, failures, crashes, \
     sleeps, sleep_until, woken, round, parent, item_index, item, items, items_ended, items_failed, \
     progress, outputs, error, due_at, started_at, finished_at";

pub(super) fn step(row: &Row) -> Result<StepRecord> {
    Ok(StepRecord {
        id: row.text("id")?,
        run_id: row.text("run_id")?,
        section: row.text("section")?,
        position: row.int("position")?,
        step_id: row.text("step_id")?,
        uses: row.text("uses")?,
        queue: row.text("queue")?,
        priority: row.int("priority")?,
        status: StepStatus::parse(&row.text("status")?)?,
        claims: row.int("claims")?,
        failures: row.count("failures")?,
        crashes: row.count("crashes")?,
        sleeps: row.int("sleeps")?,
        sleep_until: row.opt_int("sleep_until")?,
        woken: row.json("woken")?,
        round: row.int("round")?,
        parent: row.opt_text("parent")?,
        item_index: row.opt_int("item_index")?,
        item: row.json("item")?,
        items: match row.opt_int("items")? {
            Some(items) => Some(Tally { items, ended: row.int("items_ended")?, failed: row.int("items_failed")? }),
            None => None,
        },
        progress: row.json("progress")?,
        outputs: row.json("outputs")?,
        error: row.json("error")?,
        due_at: row.opt_int("due_at")?,
        started_at: row.opt_int("started_at")?,
        finished_at: row.opt_int("finished_at")?,
    })
}

/// Holds for a step `s` that has not ended; the condition of an index that only a look at all runs uses.
pub(super) const IS_OPEN: &str = "(s.status || '') IN ('waiting', 'queued', 'running', 'retrying', 'sleeping')";

/// Holds for a step `s` that should have a job once it is due; the condition of such an index, too.
pub(crate) const IS_TO_PUSH: &str = "(s.status || '') IN ('queued', 'retrying', 'sleeping')";

/// Claims the step `s` of the id `$1` at the time `$2`, if it has one of these statuses and a condition holds.
fn claim(statuses: &str, condition: &str) -> String {
    // A step found running was left by a crash. The count starts anew when its progress had moved since its claim.
    format!(
        "UPDATE step_runs AS s SET
            crashes = CASE WHEN status <> 'running' THEN crashes WHEN moves > moves_at_claim THEN 1 ELSE crashes + 1 END,
            status = 'running', claims = claims + 1, moves_at_claim = moves, due_at = NULL,
            started_at = COALESCE(started_at, $2)
        WHERE id = $1 AND status IN ({statuses}) AND {condition} RETURNING {COLUMNS}"
    )
}

/// Holds for the step `$1` while the claim `$2` does.
const HELD: &str = "WHERE id = $1 AND claims = $2 AND status = 'running'";

/// Ends a step for good.
const FINAL: &str = "UPDATE step_runs SET status = $4, outputs = $5, error = $6, finished_at = $7, crashes = 0,
                     progress = COALESCE($3, progress)";

fn final_args(
    id: &str,
    claim: i64,
    progress: Option<String>,
    (status, outputs, error): (StepStatus, Option<&Value>, Option<&Value>),
) -> [Arg; 7] {
    let (outputs, error) = (outputs.map(Value::to_string), error.map(Value::to_string));
    args![id, claim, progress, status.as_str(), outputs, error, clock::now()]
}

fn claim_args(id: &str, values: &[Arg]) -> Vec<Arg> {
    args![id, clock::now()].into_iter().chain(values.iter().cloned()).collect()
}

/// Back to where a step waited; one that had succeeded begins a new round.
const RESET: &str = "UPDATE step_runs SET round = CASE WHEN status = 'succeeded' THEN round + 1 ELSE round END,
                   progress = CASE WHEN status = 'succeeded' THEN NULL ELSE progress END, status = 'waiting',
                   failures = 0, crashes = 0, outputs = NULL, error = NULL, due_at = NULL, started_at = NULL,
                   finished_at = NULL, sleeps = 0, sleep_until = NULL, sleep_event = NULL, sleep_fields = NULL,
                   sleep_match = NULL, woken = NULL, items = NULL, items_ended = 0, items_failed = 0,
                   slot_at = NULL, slots = 0";

impl Tx {
    /// Stores a new step.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn insert_step(&mut self, step: &StepRecord) -> Result<()> {
        let sql =
            "INSERT INTO step_runs (id, run_id, section, position, step_id, uses, queue, priority, status, finished_at)
                   VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";
        let StepRecord { id, run_id, section, position, step_id, uses, queue, priority, status, finished_at, .. } =
            step;
        let args =
            args![id, run_id, section, *position, step_id, uses, queue, *priority, status.as_str(), *finished_at];
        self.execute(sql, &args).await.map(drop)
    }

    /// Claims a step for an attempt whose lease the caller has checked in this transaction. `None`: the step has ended
    /// or was not ready, the wake-up is stale.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn claim_step(&mut self, id: &str) -> Result<Option<Claimed>> {
        self.claim_step_if(id, "1 = 1", &[]).await
    }

    /// The same if a condition holds, whose values are `$3` and so on; the step is `s`, its id `$1`.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn claim_step_if(&mut self, id: &str, condition: &str, values: &[Arg]) -> Result<Option<Claimed>> {
        let sql = claim("'queued', 'retrying', 'running', 'sleeping'", condition);
        let rows = self.fetch(&sql, &claim_args(id, values)).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        Ok(Some(Claimed { step: step(row)? }))
    }

    /// Stores progress; `moved` says that it is more than the attempts before had. False: the claim is lost.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn move_step(&mut self, id: &str, claim: i64, progress: &Value, moved: bool) -> Result<bool> {
        let sql = "UPDATE step_runs SET progress = $3, moves = moves + $4
                   WHERE id = $1 AND claims = $2 AND status = 'running'";
        Ok(self.execute(sql, &args![id, claim, progress, moved]).await? == 1)
    }

    /// Ends an attempt. False: the claim is lost, and nothing of the attempt may be written.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn end_step(&mut self, id: &str, claim: i64, progress: Option<&Value>, ending: &Ending) -> Result<bool> {
        let progress = progress.map(Value::to_string);
        let touched = match ending {
            Ending::Final { status, outputs, error } => {
                let args = final_args(id, claim, progress, (*status, outputs.as_ref(), error.as_ref()));
                self.execute(&format!("{FINAL} {HELD}"), &args).await?
            }
            Ending::Retry { error, due_at } => {
                let sql = format!(
                    "UPDATE step_runs SET status = 'retrying', failures = failures + 1, error = $4, due_at = $5, crashes = 0,
                     progress = COALESCE($3, progress) {HELD}"
                );
                self.execute(&sql, &args![id, claim, progress, error, *due_at]).await?
            }
            Ending::Sleep(sleep) => return self.put_to_sleep(id, claim, sleep).await,
            Ending::FanOut => {
                self.execute(&format!("UPDATE step_runs SET crashes = 0 {HELD}"), &args![id, claim]).await?
            }
            Ending::Park { due_at } => {
                let sql = format!(
                    "UPDATE step_runs SET status = 'queued', due_at = $4, progress = COALESCE($3, progress) {HELD}"
                );
                self.execute(&sql, &args![id, claim, progress, *due_at]).await?
            }
        };
        Ok(touched == 1)
    }

    /// On PostgreSQL: ends a step for good and raises the revision of its run, as [`Tx::end_step`] and [`Tx::touch_run`] do, in
    /// one round trip with a statement that gives up the step's job. That one gives a row if the job was held; its values are
    /// `$8` and so on. `None`: the job or the claim is lost, and nothing may be kept.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn end_step_with(
        &mut self,
        (id, claim): (&str, i64),
        progress: Option<&Value>,
        last: (StepStatus, Option<&Value>, Option<&Value>),
        (give_up, values): (&str, &[Arg]),
    ) -> Result<Option<RunRecord>> {
        let touch = runs::touch("(SELECT run_id FROM ended)");
        let sql = format!(
            "WITH given_up AS ({give_up}),
             ended AS ({FINAL} {HELD} AND EXISTS (SELECT 1 FROM given_up) RETURNING run_id)
             {touch}"
        );
        let args = final_args(id, claim, progress.map(Value::to_string), last);
        let args: Vec<_> = args.into_iter().chain(values.iter().cloned()).collect();
        self.fetch(&sql, &args).await?.first().map(runs::run).transpose()
    }

    /// Moves a step that waits to the queue, or ends it without an attempt.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn release_step(
        &mut self,
        id: &str,
        status: StepStatus,
        error: Option<&Value>,
        due_at: Option<Millis>,
    ) -> Result<()> {
        let finished = status.is_final().then(clock::now);
        let sql = "UPDATE step_runs SET status = $2, error = $3, finished_at = $4, due_at = $5
                   WHERE id = $1 AND status = 'waiting'";
        let args = args![id, status.as_str(), error.map(Value::to_string), finished, due_at];
        self.execute(sql, &args).await.map(drop)
    }

    /// Ends a step whose attempt has not begun. False: it has begun, or has ended.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn cancel_step(&mut self, id: &str) -> Result<bool> {
        let sql = "UPDATE step_runs SET status = 'cancelled', due_at = NULL, finished_at = $2
                   WHERE id = $1 AND status IN ('queued', 'retrying', 'sleeping')";
        Ok(self.execute(sql, &args![id, clock::now()]).await? == 1)
    }

    /// Sets a step that has ended back to where it waited. One that had succeeded begins a new round.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn reset_step(&mut self, id: &str) -> Result<()> {
        self.execute(&format!("{RESET} WHERE id = $1"), &args![id]).await.map(drop)
    }

    /// Sets the items of a step that had succeeded back to where they waited.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn reset_items(&mut self, parent: &str) -> Result<()> {
        self.execute(&format!("{RESET} WHERE parent = $1"), &args![parent]).await.map(drop)
    }

    /// A step whose job is to be pushed, locked until the end of the transaction. `None`: it no longer is.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn lock_due_step(&mut self, id: &str) -> Result<Option<StepRecord>> {
        let sql = format!(
            "UPDATE step_runs SET due_at = due_at WHERE id = $1 AND status IN ('queued', 'retrying', 'sleeping') RETURNING {COLUMNS}"
        );
        self.fetch(&sql, &args![id]).await?.first().map(step).transpose()
    }

    /// The steps of a run, in their order, without the items of steps.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn steps(&mut self, run: &str) -> Result<Vec<StepRecord>> {
        let rows = self
            .fetch(
                &format!("SELECT {COLUMNS} FROM step_runs WHERE run_id = $1 AND parent IS NULL ORDER BY position"),
                &args![run],
            )
            .await?;
        rows.iter().map(step).collect()
    }
}

impl Db {
    /// On PostgreSQL: as [`Tx::claim_step_if`] and then [`Tx::start_run`] in a transaction of their own, but in one round trip.
    /// `None`: nothing was done; the step was perhaps left by a crash, and has to be taken with the care that suspects need.
    ///
    /// # Errors
    /// Those of the database; the outcome may then be unknown, and shows as a claim that a crash left.
    pub async fn claim_alone(&self, id: &str, condition: &str, values: &[Arg]) -> Result<Option<(Claimed, RunRecord)>> {
        const RUN: &str = "run__";
        let claim = claim("'queued', 'retrying', 'sleeping'", &format!("s.crashes = 0 AND {condition}"));
        let start = runs::start("(SELECT run_id FROM claimed)", "(SELECT section FROM claimed) = 'finally'");
        let named =
            runs::columns().split(", ").map(|name| format!("{name} AS {RUN}{name}")).collect::<Vec<_>>().join(", ");
        let sql =
            format!("WITH claimed AS ({claim}), started AS ({start} RETURNING {named}) SELECT * FROM claimed, started");
        let Some(row) = self.fetch_one(&sql, &claim_args(id, values)).await? else { return Ok(None) };
        let claimed = Claimed { step: step(&row)? };
        Ok(Some((claimed, runs::run(&row.part(RUN))?)))
    }

    /// The steps of a run, in their order, without the items of steps.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn steps(&self, run: &str) -> Result<Vec<StepRecord>> {
        let rows = self
            .fetch(
                &format!("SELECT {COLUMNS} FROM step_runs WHERE run_id = $1 AND parent IS NULL ORDER BY position"),
                &args![run],
            )
            .await?;
        rows.iter().map(step).collect()
    }

    /// The queues of all steps that have not ended.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn open_queues(&self) -> Result<Vec<String>> {
        self.fetch(&format!("SELECT DISTINCT queue FROM step_runs s WHERE {IS_OPEN}"), &[])
            .await?
            .iter()
            .map(|row| row.text("queue"))
            .collect()
    }

    /// One step.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn step(&self, id: &str) -> Result<Option<StepRecord>> {
        self.fetch_one(&format!("SELECT {COLUMNS} FROM step_runs WHERE id = $1"), &args![id])
            .await?
            .as_ref()
            .map(step)
            .transpose()
    }
}
