//! The items of a `for_each` step. Each item is a row whose `parent` is the row of the step.

use serde_json::Value;

use super::db::Db;
use super::sql_args::{SqlArgs, args};
use super::step_status::StepStatus;
use super::steps::{STEP_COLUMNS, StepRecord, UPDATE_RESET_STEP, step_from_row};
use super::tx::{DbRow, DbTx};
use afterload_core::error::Result;
use afterload_core::file_seals::FileSeals;

/// Rows in one statement. Both databases allow many more placeholders.
const MAX_INSERT_ROWS: usize = 200;

/// An item to store.
#[derive(Clone, Debug)]
pub struct NewItem<'a> {
    /// The id of the row and of its job.
    pub id: String,
    /// The index in the list, from 0.
    pub index: i64,
    /// The value of the item.
    pub item: &'a Value,
    /// The round; it rises if another item had this index before.
    pub round: i64,
}

/// How an item ended, as the join of its step needs it.
#[derive(Clone, Debug)]
pub struct EndedItem {
    /// The index in the list.
    pub index: i64,
    /// The final status.
    pub status: StepStatus,
    /// The outputs, if the item succeeded, with the seals of their files.
    pub outputs: Option<Value>,
    /// The error, if the item failed.
    pub error: Option<Value>,
}

const OPEN_ITEM_STATUSES: &str = "('queued', 'running', 'retrying', 'suspended')";

/// Reads and writes the items of `for_each` steps.
#[derive(Clone, Copy)]
pub struct ItemStore<C>(pub(super) C);

impl ItemStore<&mut DbTx> {
    /// Stores items of a step, with the status `waiting`, and the seals of the files in them.
    pub async fn insert(self, parent: &StepRecord, items: &[NewItem<'_>], seals: &FileSeals) -> Result<()> {
        for items in items.chunks(MAX_INSERT_ROWS) {
            let mut args = SqlArgs::default();
            let [run, section, position, uses, queue, priority, parent_id] = [
                args.add(&parent.run_id),
                args.add(&parent.section),
                args.add(parent.position),
                args.add(&parent.uses),
                args.add(&parent.queue),
                args.add(parent.priority),
                args.add(&parent.id),
            ];
            let mut rows = Vec::new();
            for NewItem { id, index, item, round } in items {
                let step_id = args.add(item_id(&parent.step_id, *index));
                let [id, index, item, round] =
                    [args.add(id), args.add(*index), args.add(&seals.seal_copy(item)), args.add(*round)];
                rows.push(format!(
                    "({id}, {run}, {section}, {position}, {step_id}, {uses}, {queue}, {priority}, 'waiting', {parent_id},
                     {index}, {item}, {round})"
                ));
            }
            let sql = format!(
                "INSERT INTO step_runs (id, run_id, section, position, step_id, uses, queue, priority, status, parent,
                 item_index, item, round) VALUES {}",
                rows.join(", ")
            );
            self.0.execute(&sql, args.as_slice()).await?;
        }
        Ok(())
    }

    /// Lists the stored items of a step, in their order.
    pub async fn list(self, parent: &str) -> Result<Vec<StepRecord>> {
        let sql = format!("SELECT {STEP_COLUMNS} FROM step_runs WHERE parent = $1 ORDER BY item_index");
        self.0.fetch(&sql, &args![parent]).await?.iter().map(step_from_row).collect()
    }

    /// Deletes an item that has no job.
    pub async fn delete(self, id: &str) -> Result<()> {
        self.0.execute("DELETE FROM step_runs WHERE id = $1 AND parent IS NOT NULL", &args![id]).await.map(drop)
    }

    /// Lists the first waiting items of a step.
    pub async fn list_waiting(self, parent: &str, limit: u32) -> Result<Vec<StepRecord>> {
        let sql = format!(
            "SELECT {STEP_COLUMNS} FROM step_runs WHERE parent = $1 AND status = 'waiting' ORDER BY item_index LIMIT $2"
        );
        self.0.fetch(&sql, &args![parent, limit]).await?.iter().map(step_from_row).collect()
    }

    /// Returns true if an item of the step is active.
    pub async fn has_open(self, parent: &str) -> Result<bool> {
        let sql = format!("SELECT id FROM step_runs WHERE parent = $1 AND status IN {OPEN_ITEM_STATUSES} LIMIT 1");
        Ok(!self.0.fetch(&sql, &args![parent]).await?.is_empty())
    }

    /// Cancels the waiting items of a step. They never start.
    pub async fn cancel_waiting(self, parent: &str) -> Result<()> {
        let sql =
            "UPDATE step_runs SET status = 'cancelled', finished_at = $2 WHERE parent = $1 AND status = 'waiting'";
        self.0.execute(sql, &args![parent, self.0.now()]).await.map(drop)
    }

    /// Sets how many items a step has, and how many of them have ended already.
    pub async fn init_counts(self, id: &str, items: i64, ended: i64) -> Result<()> {
        let sql = "UPDATE step_runs SET items = $2, items_ended = $3, items_failed = 0 WHERE id = $1";
        self.0.execute(sql, &args![id, items, ended]).await.map(drop)
    }

    /// Counts an ended item in the row of its step.
    pub async fn count_ended(self, parent: &str, failed: bool) -> Result<()> {
        let sql = "UPDATE step_runs SET items_ended = items_ended + 1, items_failed = items_failed + $2 WHERE id = $1";
        self.0.execute(sql, &args![parent, failed]).await.map(drop)
    }

    /// Lists how the items of a step ended, in their order.
    pub async fn list_ended(self, parent: &str) -> Result<Vec<EndedItem>> {
        let sql = "SELECT item_index, status, outputs, error FROM step_runs WHERE parent = $1 ORDER BY item_index";
        let ended = |row: &DbRow| {
            Ok(EndedItem {
                index: row.get_int("item_index")?,
                status: StepStatus::parse(&row.get_text("status")?)?,
                outputs: row.get_json("outputs")?,
                error: row.get_json("error")?,
            })
        };
        self.0.fetch(sql, &args![parent]).await?.iter().map(ended).collect()
    }

    /// Sets the items of a step back to `waiting`. An item that had succeeded begins a new round.
    pub async fn reset(self, parent: &str) -> Result<()> {
        self.0.execute(&format!("{UPDATE_RESET_STEP} WHERE parent = $1"), &args![parent]).await.map(drop)
    }
}

impl ItemStore<&Db> {
    /// Lists a page of the items of a step, in their order: those after index `after`, optionally of one status.
    pub async fn list_after(
        self,
        parent: &str,
        status: Option<StepStatus>,
        after: i64,
        limit: u32,
    ) -> Result<Vec<StepRecord>> {
        let mut args = SqlArgs::default();
        let (parent, after, limit) = (args.add(parent), args.add(after), args.add(limit));
        let filter = status.map_or_else(String::new, |status| format!(" AND status = {}", args.add(status.as_str())));
        let sql = format!(
            "SELECT {STEP_COLUMNS} FROM step_runs
             WHERE parent = {parent} AND item_index > {after}{filter} ORDER BY item_index LIMIT {limit}"
        );
        self.0.fetch(&sql, args.as_slice()).await?.iter().map(step_from_row).collect()
    }
}

/// The id of an item within its run, such as `resize[3]`.
fn item_id(step: &str, index: i64) -> String {
    format!("{step}[{index}]")
}
