//! The service's own tables, on SQLite and on PostgreSQL: one text of SQL, typed records, no logic of runs.

mod access;
mod artifacts;
mod db;
mod definitions;
mod effects;
mod group;
mod inbox;
mod items;
mod links;
mod migrate;
pub(crate) use migrate::{failed as migration_failed, lock};
mod polls;
mod retention;
mod runs;
mod schedules;
mod sleep;
mod status;
mod steps;
mod uploads;

pub use access::StoredKey;
pub use artifacts::ArtifactRecord;
pub(crate) use db::args;
pub use db::{Arg, Db, Dialect, Row, Tx};
pub use definitions::Definition;
pub use group::Verdict;
pub use inbox::InboxRecord;
pub use items::{EndedItem, NewItem, Tally};
pub use links::LinkRecord;
pub use polls::Poll;
pub use retention::Keep;
pub use runs::{RunFilter, RunRecord, RunStatus};
pub use sleep::{AwaitedEvent, EventRecord, Sleep};
pub use status::StepStatus;
pub use steps::{Claimed, Ending, StepRecord};
pub use uploads::UploadRecord;
