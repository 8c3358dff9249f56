//! Triggers as written in the file.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use afterload_core::units::HumanDuration;

/// What starts a pipeline.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Trigger")]
pub struct TriggerAst {
    /// What kind of happening it is.
    #[serde(rename = "type")]
    pub kind: TriggerType,
    /// `s3`: the bucket whose new objects start a run.
    #[serde(default)]
    pub bucket: Option<String>,
    /// `s3`: only keys that start like this.
    #[serde(default)]
    pub prefix: Option<String>,
    /// `s3`: only keys that end like this.
    #[serde(default)]
    pub suffix: Option<String>,
    /// `s3`: also looks itself for new objects, this often; for stores that tell nobody of them.
    #[serde(default)]
    pub poll: Option<HumanDuration>,
    /// `cron`: minute, hour, day, month, weekday.
    #[serde(default)]
    pub schedule: Option<String>,
    /// `cron`: the time zone of the schedule, such as `Europe/Paris`; default `UTC`.
    #[serde(default)]
    pub timezone: Option<String>,
    /// `cron`: which of the ticks missed while nothing was running are made up for; default `last`.
    #[serde(default)]
    pub catch_up: Option<CatchUp>,
    /// `event`: the name of the event.
    #[serde(default)]
    pub name: Option<String>,
    /// The params of the run, from `event`. Without it an `s3` trigger fills the only `file` param.
    #[serde(default)]
    pub with: BTreeMap<String, serde_json::Value>,
}

/// What kind of happening starts a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TriggerType {
    /// An object has been created in a bucket.
    S3,
    /// A moment of a schedule.
    Cron,
    /// An event of the application.
    Event,
}

/// Which missed ticks are made up for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CatchUp {
    /// None of them.
    None,
    /// The last one.
    #[default]
    Last,
    /// Each of them.
    All,
}
