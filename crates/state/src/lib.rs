//! The state database: the tables of the service, on SQLite and PostgreSQL.
//!
//! Both databases use the same SQL. The crate returns typed records and has no logic of runs.

mod api_keys;
mod artifacts;
mod claims;
mod clock_offset;
pub mod codes;
mod concurrency;
mod concurrency_slot;
mod correct_clock;
mod db;
mod deadlines;
mod dedup;
mod definitions;
mod delivery_log;
mod download_links;
mod effect_log;
mod event_batches;
mod events;
mod geo_cache;
mod group_commit;
mod items;
mod mail_suppressions;
mod migrate;
mod notifications;
mod pauses;
mod polls;
mod postgres;
pub mod queue;
mod rate_limits;
mod retention;
mod run_stop;
mod runs;
mod schedules;
mod sql_args;
mod step_status;
mod steps;
mod stores;
mod suspensions;
mod tx;
mod uploads;

pub use api_keys::{ApiKeyRecord, ApiKeyStore};
pub use artifacts::{ArtifactRecord, ArtifactStore};
pub use claims::{AttemptEnd, ClaimStore, StepClaim};
pub use concurrency::ConcurrencyStore;
pub use concurrency_slot::ConcurrencySlot;
pub use db::Db;
pub use deadlines::DeadlineStore;
pub use dedup::{DedupRecord, DedupStore};
pub use definitions::{DefinitionRecord, DefinitionStore};
pub use delivery_log::DeliveryLogStore;
pub use download_links::{DownloadLinkRecord, DownloadLinkStore};
pub use effect_log::EffectLogStore;
pub use event_batches::{EventBatchRecord, EventBatchStore, JoinedBatch, NewEventBatch};
pub use events::{EventRecord, EventStore};
pub use geo_cache::GeoCacheStore;
pub use group_commit::TxOutcome;
pub use items::{EndedItem, ItemStore, NewItem};
pub use mail_suppressions::{
    MailSuppressionStore, SuppressionFilter, SuppressionReason, SuppressionRecord, UnsubscribeLinkRecord,
};
pub use notifications::{NotificationRecord, NotificationStatus, NotificationStore};
pub use pauses::{PauseStore, PauseTarget};
pub use polls::{PollClaim, PollStore};
pub use postgres::fetch_pool_options;
pub use rate_limits::{RateLimitStore, StartRequest};
pub use retention::{RetentionOverride, RetentionStore};
pub use run_stop::{RunDeadlines, RunStop};
pub use runs::{RunFilter, RunRecord, RunStatus, RunStore};
pub use schedules::ScheduleStore;
pub use sql_args::SqlArg;
pub use step_status::StepStatus;
pub use steps::{ItemCounts, QueueStepCounts, StepRecord, StepStore};
pub use suspensions::{AwaitedEvent, SuspensionStore, WakeCondition};
pub use tx::{DbRow, DbTx};
pub use uploads::{UploadRecord, UploadStore};
