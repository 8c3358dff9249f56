//! What the engine executes: a checked pipeline without its places.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

pub use super::ast::Backoff;
use super::ast::{CatchUp, OnRunConflict};
use super::params::{self, Param};
use afterload_core::error::Result;

/// A checked pipeline as the engine executes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PipelinePlan {
    /// The pipeline's name.
    pub name: String,
    /// SHA-256 of the definition, hexadecimal; see [`digest`].
    pub digest: String,
    /// What a run has to be given.
    pub params: BTreeMap<String, Param>,
    /// What starts it, beside the API.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub triggers: Vec<Trigger>,
    /// How many of its runs may be under way at the same time, if it says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<Concurrency>,
    /// The steps.
    pub sections: Sections,
    /// How long its runs and their files are kept, if it says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Retention>,
}

/// How long runs and their files are kept, from the end of the run on; `None`: as the configuration says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    /// The runs, in milliseconds.
    pub runs_ms: Option<i64>,
    /// Their files, in milliseconds.
    pub artifacts_ms: Option<i64>,
}

/// How many runs may be under way at the same time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Concurrency {
    /// Which runs count together, with its expressions; `None`: all of the pipeline.
    pub key: Option<String>,
    /// How many.
    pub limit: u32,
    /// What happens to one too many.
    pub on_conflict: OnRunConflict,
}

/// How often a step may start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateLimit {
    /// Which steps count together, with its expressions; `None`: the runs of this step.
    pub key: Option<String>,
    /// What lies between two starts at least, in milliseconds.
    pub interval_ms: i64,
}

/// What starts a pipeline, beside the API.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Trigger {
    /// An object has been created.
    S3(S3Trigger),
    /// A moment of a schedule has come.
    Cron(CronTrigger),
    /// The application tells of something.
    Event(EventTrigger),
}

impl Trigger {
    /// The trigger, if it is one for objects.
    pub fn as_s3(&self) -> Option<&S3Trigger> {
        if let Self::S3(trigger) = self { Some(trigger) } else { None }
    }

    /// The trigger, if it is a schedule.
    pub fn as_cron(&self) -> Option<&CronTrigger> {
        if let Self::Cron(trigger) = self { Some(trigger) } else { None }
    }

    /// The trigger, if it is one for events of the application.
    pub fn as_event(&self) -> Option<&EventTrigger> {
        if let Self::Event(trigger) = self { Some(trigger) } else { None }
    }
}

/// The moments of a schedule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CronTrigger {
    /// Minute, hour, day, month, weekday.
    pub schedule: String,
    /// The time zone of the schedule.
    pub timezone: String,
    /// Which missed moments are made up for.
    pub catch_up: CatchUp,
    /// The params of the run, with expressions over `event`.
    pub with: Map<String, Value>,
}

/// Events of the application.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EventTrigger {
    /// The event's name.
    pub name: String,
    /// The params of the run, with expressions over `event`.
    pub with: Map<String, Value>,
}

/// New objects of a bucket.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct S3Trigger {
    /// The bucket.
    pub bucket: String,
    /// How keys start.
    pub prefix: String,
    /// How keys end.
    pub suffix: String,
    /// How often to look for new objects, in milliseconds; never without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub poll_ms: Option<i64>,
    /// The params of the run, with expressions over `event`.
    pub with: Map<String, Value>,
}

impl S3Trigger {
    /// Whether a new object of this name starts a run.
    pub fn matches_object(&self, bucket: &str, key: &str) -> bool {
        let Self { prefix, suffix, .. } = self;
        bucket == self.bucket && key.starts_with(prefix) && key.ends_with(suffix)
    }
}

impl PipelinePlan {
    /// Checks what a run was given and fills in the defaults; see [`params::bind`].
    ///
    /// # Errors
    /// `params_invalid` with every fault in its details.
    pub fn bind_params(&self, given: Map<String, Value>) -> Result<Map<String, Value>> {
        params::bind_params(&self.params, given)
    }

    /// The step with this id, in any section.
    pub fn find_step(&self, id: &str) -> Option<&PlanStep> {
        self.sections.iter_steps().find(|(_, step)| step.id == id).map(|(_, step)| step)
    }
}

/// The steps of a pipeline by when they run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sections {
    /// The steps proper.
    pub main: Vec<PlanStep>,
    /// Those after success.
    pub on_success: Vec<PlanStep>,
    /// Those after failure.
    pub on_failure: Vec<PlanStep>,
    /// Those at the end in any case.
    pub finally: Vec<PlanStep>,
}

impl Sections {
    /// The steps of one section.
    pub fn get(&self, section: Section) -> &[PlanStep] {
        match section {
            Section::Main => &self.main,
            Section::OnSuccess => &self.on_success,
            Section::OnFailure => &self.on_failure,
            Section::Finally => &self.finally,
        }
    }

    /// Every step with its section, in the order of the file.
    pub fn iter_steps(&self) -> impl Iterator<Item = (Section, &PlanStep)> {
        Section::ALL.into_iter().flat_map(|section| self.get(section).iter().map(move |step| (section, step)))
    }
}

/// When steps run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Section {
    /// The steps proper.
    Main,
    /// After success.
    OnSuccess,
    /// After failure.
    OnFailure,
    /// At the end in any case.
    Finally,
}

impl Section {
    /// All sections in the order in which they run.
    pub const ALL: [Self; 4] = [Self::Main, Self::OnSuccess, Self::OnFailure, Self::Finally];

    /// The field of the file that holds the section.
    pub fn field_name(self) -> &'static str {
        match self {
            Self::Main => "steps",
            Self::OnSuccess => "on_success",
            Self::OnFailure => "on_failure",
            Self::Finally => "finally",
        }
    }
}

/// A step with everything settled but its expressions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlanStep {
    /// The id, unique in the pipeline.
    pub id: String,
    /// The kind.
    pub uses: String,
    /// Ids of steps of the same section that must have ended before; earlier in the list than this step.
    pub needs: Vec<String>,
    /// The expression of `if`, without `${{ }}`.
    pub condition: Option<String>,
    /// Whether the run goes on after a failure.
    pub continue_on_error: bool,
    /// The queue.
    pub queue: String,
    /// Higher ones first.
    pub priority: i32,
    /// How long it waits once it is ready, with its expressions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay: Option<String>,
    /// How often it may start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimit>,
    /// How long one attempt may take, in milliseconds.
    pub timeout_ms: i64,
    /// What happens after a failure.
    pub retry: RetryPolicy,
    /// Whether the answer to the request that starts a run waits for the step.
    pub inline: bool,
    /// Runs it once per item.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub for_each: Option<ForEach>,
    /// Where the files that it makes are written; `None`: to the run's own files.
    pub output: Option<OutputTarget>,
    /// The fields of the kind, with their expressions.
    pub with: Value,
}

/// Runs a step once per item.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ForEach {
    /// The items, with their expressions.
    pub items: Value,
    /// How many are worked on at the same time.
    pub max_concurrency: u32,
}

impl ForEach {
    /// More than this is one step that works in chunks, not a job per item.
    pub const MAX_ITEMS: usize = 10_000;
    /// The one output of such a step: the outputs of its items, in their order.
    pub const OUTPUT_NAME: &str = "items";
}

/// Where the files of a step are written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputTarget {
    /// The bucket.
    pub bucket: String,
    /// The key of each file, with its expressions; `file.name`, `file.stem` and `file.extension` are the file's.
    pub key: String,
    /// The `Cache-Control` header of the objects.
    pub cache_control: Option<String>,
}

impl OutputTarget {
    /// The key where a step names none: no two runs, steps or files share it.
    pub const DEFAULT_KEY: &str = "${{ run.pipeline }}/${{ run.id }}/${{ file.step }}/${{ file.name }}";
}

/// What happens after a failure that another try may not meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryPolicy {
    /// Attempts in all.
    pub attempts: u32,
    /// How the pause grows.
    pub backoff: Backoff,
    /// The first pause in milliseconds.
    pub delay_ms: i64,
    /// The longest pause in milliseconds.
    pub max_delay_ms: i64,
}

/// SHA-256 of a definition's text, hexadecimal. Line ends and a byte-order mark make no difference.
pub fn definition_digest(text: &str) -> String {
    let text = text.trim_start_matches('\u{feff}').replace("\r\n", "\n");
    hex::encode(Sha256::digest(text))
}
