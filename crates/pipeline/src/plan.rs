//! The plan: a compiled pipeline without spans, as the engine executes it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

pub use super::ast::Backoff;
use super::ast::{CatchUp, KeySuffix, OnRunConflict};
use super::params::{self, Param, ParamType};
use afterload_core::error::Result;

/// A compiled pipeline as the engine executes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PipelinePlan {
    /// The name of the pipeline.
    pub name: String,
    /// SHA-256 of the definition, hexadecimal; see [`definition_digest`].
    pub digest: String,
    /// The params of a run.
    pub params: BTreeMap<String, Param>,
    /// The triggers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub triggers: Vec<Trigger>,
    /// The limit on concurrent runs, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<Concurrency>,
    /// How long a run may take with all its waits, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<i64>,
    /// How long a run may wait for the start of its first step, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_timeout_ms: Option<i64>,
    /// The steps.
    pub sections: Sections,
    /// How long runs and their files are kept, if the pipeline overrides it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Retention>,
}

/// How long runs and their files are kept after the run ends. `None` uses the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    /// The retention of runs, in milliseconds.
    pub runs_ms: Option<i64>,
    /// The retention of files, in milliseconds.
    pub artifacts_ms: Option<i64>,
}

/// The limit on concurrent runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Concurrency {
    /// The template of the concurrency key; `None`: all runs of the pipeline share one key.
    pub key: Option<String>,
    /// The maximum number of concurrent runs per key.
    pub limit: u32,
    /// What happens to a run that exceeds the limit.
    pub on_conflict: OnRunConflict,
}

/// The limit on how often a step starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateLimit {
    /// The template of the rate limit key; `None`: all runs of this step share one key.
    pub key: Option<String>,
    /// The minimum time between two starts, in milliseconds.
    pub interval_ms: i64,
}

/// Starts a pipeline, in addition to the API.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Trigger {
    /// Starts a run per created object.
    S3(S3Trigger),
    /// Starts runs on a schedule.
    Cron(CronTrigger),
    /// Starts a run per event of the application.
    Event(EventTrigger),
}

impl Trigger {
    /// Returns the s3 trigger, if it is one.
    pub fn as_s3(&self) -> Option<&S3Trigger> {
        if let Self::S3(trigger) = self { Some(trigger) } else { None }
    }

    /// Returns the cron trigger, if it is one.
    pub fn as_cron(&self) -> Option<&CronTrigger> {
        if let Self::Cron(trigger) = self { Some(trigger) } else { None }
    }

    /// Returns the event trigger, if it is one.
    pub fn as_event(&self) -> Option<&EventTrigger> {
        if let Self::Event(trigger) = self { Some(trigger) } else { None }
    }
}

/// Starts runs on a schedule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CronTrigger {
    /// Minute, hour, day, month, weekday.
    pub schedule: String,
    /// The time zone of the schedule.
    pub timezone: String,
    /// Which missed ticks start a run later.
    pub catch_up: CatchUp,
    /// The params of the run, with expressions that read `event`.
    pub with: Map<String, Value>,
}

/// Starts a run per event of the application.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EventTrigger {
    /// The event's name.
    pub name: String,
    /// How several events start one run; `None`: each starts its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batching: Option<TriggerBatching>,
    /// The params of the run, with expressions that read `event`.
    pub with: Map<String, Value>,
}

/// Starts a run per new object of a bucket.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct S3Trigger {
    /// The bucket.
    pub bucket: String,
    /// Keys must start with this.
    pub prefix: String,
    /// Keys must end with one of these.
    pub suffix: KeySuffix,
    /// The poll interval in milliseconds; `None`: the bucket is not polled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub poll_ms: Option<i64>,
    /// How several objects start one run; `None`: each starts its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batching: Option<TriggerBatching>,
    /// The params of the run, with expressions that read `event`.
    pub with: Map<String, Value>,
}

/// How several events start one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TriggerBatching {
    /// One run per burst.
    Debounce {
        /// How long no event must have come, in milliseconds.
        quiet_ms: i64,
        /// How long the first event waits at most, in milliseconds.
        max_wait_ms: i64,
    },
    /// One run per number of events or time, whichever comes first.
    Batch {
        /// The number of events.
        size: u32,
        /// The time after the first event, in milliseconds.
        within_ms: i64,
    },
}

impl TriggerBatching {
    /// The most events of one run.
    pub const MAX_EVENTS: u32 = 1_000;
    /// A batch with this much JSON is full, in bytes: each attempt of each step reads it.
    pub const MAX_BYTES: i64 = 1 << 20;

    /// The number of events that starts a run at once.
    pub fn max_events(self) -> u32 {
        match self {
            Self::Debounce { .. } => Self::MAX_EVENTS,
            Self::Batch { size, .. } => size,
        }
    }

    /// How long after an event the run is due, if no other event comes, in milliseconds.
    pub fn wait_ms(self) -> i64 {
        match self {
            Self::Debounce { quiet_ms, .. } => quiet_ms,
            Self::Batch { within_ms, .. } => within_ms,
        }
    }

    /// How long after the first event the run is due at the latest, in milliseconds.
    pub fn max_wait_ms(self) -> i64 {
        match self {
            Self::Debounce { max_wait_ms, .. } => max_wait_ms,
            Self::Batch { within_ms, .. } => within_ms,
        }
    }
}

impl S3Trigger {
    /// True if a new object with this key starts a run.
    pub fn matches_object(&self, bucket: &str, key: &str) -> bool {
        let Self { prefix, suffix, .. } = self;
        bucket == self.bucket && key.starts_with(prefix) && suffix.matches_key(key)
    }
}

impl PipelinePlan {
    /// Validates the given params and fills in the defaults; see [`params::bind_params`].
    ///
    /// # Errors
    /// `params_invalid` with every error in its details.
    pub fn bind_params(&self, given: Map<String, Value>) -> Result<Map<String, Value>> {
        params::bind_params(&self.params, given)
    }
}

/// The steps of a pipeline by section.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sections {
    /// The main steps.
    pub main: Vec<PlanStep>,
    /// The steps that run after success.
    pub on_success: Vec<PlanStep>,
    /// The steps that run after a failure.
    pub on_failure: Vec<PlanStep>,
    /// The steps that always run at the end.
    pub finally: Vec<PlanStep>,
}

impl Sections {
    /// Returns the steps of one section.
    pub fn get(&self, section: Section) -> &[PlanStep] {
        match section {
            Section::Main => &self.main,
            Section::OnSuccess => &self.on_success,
            Section::OnFailure => &self.on_failure,
            Section::Finally => &self.finally,
        }
    }

    /// Iterates over all steps with their sections, in file order.
    pub fn iter_steps(&self) -> impl Iterator<Item = (Section, &PlanStep)> {
        Section::ALL.into_iter().flat_map(|section| self.get(section).iter().map(move |step| (section, step)))
    }
}

/// The part of a run to which a step belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Section {
    /// The main steps.
    Main,
    /// Runs after success.
    OnSuccess,
    /// Runs after a failure.
    OnFailure,
    /// Always runs at the end.
    Finally,
}

impl Section {
    /// All sections in execution order.
    pub const ALL: [Self; 4] = [Self::Main, Self::OnSuccess, Self::OnFailure, Self::Finally];

    /// The field of the file with the section's steps.
    pub fn field_name(self) -> &'static str {
        match self {
            Self::Main => "steps",
            Self::OnSuccess => "on_success",
            Self::OnFailure => "on_failure",
            Self::Finally => "finally",
        }
    }
}

/// A step with all defaults resolved. Only its expressions are unresolved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlanStep {
    /// The id, unique in the pipeline.
    pub id: String,
    /// The step kind.
    pub uses: String,
    /// The ids of the steps that must end first. They belong to the same section and come earlier in the list.
    pub needs: Vec<String>,
    /// The expression of `if`, without `${{ }}`.
    pub condition: Option<String>,
    /// True if the run continues after a failure of this step.
    pub continue_on_error: bool,
    /// The queue.
    pub queue: String,
    /// Higher priorities run first.
    pub priority: i32,
    /// The template of the delay between ready and start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay: Option<String>,
    /// The rate limit, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimit>,
    /// The timeout of one attempt, in milliseconds.
    pub timeout_ms: i64,
    /// The retry policy.
    pub retry: RetryPolicy,
    /// True if the step itself sets `retry`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub own_retry: bool,
    /// True if the response to the run request waits for the step.
    pub inline: bool,
    /// Runs the step once per item.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub for_each: Option<ForEach>,
    /// The target of the step's files; `None`: they become artifacts of the run.
    pub output: Option<OutputTarget>,
    /// The fields of the kind, with unresolved expressions.
    pub with: Value,
}

/// Runs a step once per item.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ForEach {
    /// The items, with unresolved expressions.
    pub items: Value,
    /// The maximum number of items that run at the same time.
    pub max_concurrency: u32,
}

impl ForEach {
    /// Limits the jobs of one step. More items should be one step that works in chunks. A list param may have as many.
    pub const MAX_ITEMS: usize = ParamType::DEFAULT_MAX_ITEMS;
    /// The only output of such a step: the outputs of its items, in item order.
    pub const OUTPUT_NAME: &str = "items";
}

/// Where the files of a step are written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputTarget {
    /// The bucket.
    pub bucket: String,
    /// The template of the object key. `file.name`, `file.stem` and `file.extension` describe the file.
    pub key: String,
    /// The `Cache-Control` header of the objects.
    pub cache_control: Option<String>,
}

impl OutputTarget {
    /// The default key. It is unique per run, step and file.
    pub const DEFAULT_KEY: &str = "${{ run.pipeline }}/${{ run.id }}/${{ file.step }}/${{ file.name }}";
}

/// How often and how fast a failed step is retried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryPolicy {
    /// The total number of attempts.
    pub attempts: u32,
    /// How the delay grows.
    pub backoff: Backoff,
    /// The delay before the first retry, in milliseconds.
    pub delay_ms: i64,
    /// The maximum delay, in milliseconds.
    pub max_delay_ms: i64,
}

/// Returns the SHA-256 of a definition's text, hexadecimal. Line endings and a byte-order mark do not change it.
pub fn definition_digest(text: &str) -> String {
    let text = text.trim_start_matches('\u{feff}').replace("\r\n", "\n");
    hex::encode(Sha256::digest(text))
}
