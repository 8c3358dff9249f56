//! The fields of a pipeline file as written, before any check.

mod for_each;
mod limits;
mod output;
mod param;
mod trigger;

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer};

pub use for_each::ForEachAst;
pub use limits::{Backoff, ConcurrencyAst, OnRunConflict, RateLimitAst};
pub use output::{OutputAst, StepMode};
pub use param::{ItemAst, ParamAst, ParamTypeName};
pub use trigger::{BatchAst, CatchUp, KeySuffix, TriggerAst, TriggerType, ends_with_ignore_case};

use super::Templated;
use afterload_core::units::HumanDuration;

/// A pipeline file.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "afterload pipeline", rename = "Pipeline")]
pub struct PipelineAst {
    /// The name of the pipeline, the same as the file's name without `.yaml`.
    #[schemars(regex(pattern = r"^[a-z][a-z0-9-]{0,62}$"))]
    pub name: String,
    /// What the pipeline is for, for people.
    #[serde(default)]
    pub description: Option<String>,
    /// What starts the pipeline, besides the API which always can.
    #[serde(default)]
    pub triggers: Vec<TriggerAst>,
    /// What a run has to be given.
    #[serde(default)]
    pub params: BTreeMap<String, ParamAst>,
    /// How many runs may be under way at the same time.
    #[serde(default)]
    pub concurrency: Option<ConcurrencyAst>,
    /// How long a run may take from its acceptance, or its `run_at`, to its end, with all waits. Then it fails as
    /// `run_timed_out`: its steps are stopped, `on_failure` and `finally` still run.
    #[serde(default)]
    pub timeout: Option<HumanDuration>,
    /// How long a run may wait before its first step starts. Then it fails as `queue_timed_out`.
    #[serde(default)]
    pub queue_timeout: Option<HumanDuration>,
    /// Settings of every step that does not say otherwise.
    #[serde(default)]
    pub defaults: DefaultsAst,
    /// The steps. Each needs the one before it unless it says `needs`.
    pub steps: Vec<StepAst>,
    /// Steps that run when all steps have succeeded.
    #[serde(default)]
    pub on_success: Vec<StepAst>,
    /// Steps that run when a step has failed.
    #[serde(default)]
    pub on_failure: Vec<StepAst>,
    /// Steps that run at the end, whatever happened.
    #[serde(default)]
    pub finally: Vec<StepAst>,
    /// How long runs and their files are kept, from the end of the run on.
    #[serde(default)]
    pub retention: Option<RetentionAst>,
}

/// How long runs and their files are kept.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RetentionAst {
    /// How long a run is remembered.
    pub runs: Option<HumanDuration>,
    /// How long its files are kept.
    pub artifacts: Option<HumanDuration>,
}

/// Settings of every step that does not say otherwise.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DefaultsAst {
    /// The queue; default `default`.
    pub queue: Option<String>,
    /// How long one attempt may take; default `1h`.
    pub timeout: Option<HumanDuration>,
    /// What happens after a failure.
    pub retry: Option<RetryAst>,
    /// Steps with a higher priority are run first; default 0.
    #[schemars(range(min = -100, max = 100))]
    pub priority: Option<i32>,
}

/// What happens after a failure that another try may not meet.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RetryAst {
    /// Attempts in all; default 5, 1 is no retry.
    #[schemars(range(min = 1, max = 100))]
    pub attempts: Option<u32>,
    /// How the pause grows; default `exponential`.
    pub backoff: Option<Backoff>,
    /// The first pause; default `2s`.
    pub delay: Option<HumanDuration>,
    /// The longest pause; default `10m`.
    pub max_delay: Option<HumanDuration>,
}

/// One step.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Step")]
pub struct StepAst {
    /// The name by which other steps and expressions know it.
    #[schemars(regex(pattern = r"^[a-z][a-z0-9_]{0,62}$"))]
    pub id: String,
    /// The kind of step, such as `csv.import`.
    pub uses: String,
    /// The fields of the kind.
    #[serde(default)]
    #[schemars(with = "Option<serde_json::Map<String, serde_json::Value>>")]
    pub with: serde_json::Value,
    /// Steps that must have ended before; without it the step before, with `[]` none.
    #[serde(default)]
    pub needs: Option<NeedsAst>,
    /// An expression; the step is skipped unless it gives `true`.
    #[serde(default, rename = "if")]
    pub condition: Option<String>,
    /// Runs the step once per item, then joins: `steps.ID.items` lists the outputs in the order of the items.
    #[serde(default)]
    pub for_each: Option<ForEachAst>,
    /// Records an error and goes on.
    #[serde(default)]
    pub continue_on_error: bool,
    /// Whether the answer to the request waits for the step.
    #[serde(default)]
    pub mode: Option<StepMode>,
    /// What happens after a failure.
    #[serde(default)]
    pub retry: Option<RetryAst>,
    /// How long one attempt may take.
    #[serde(default)]
    pub timeout: Option<HumanDuration>,
    /// The queue whose workers run the step.
    #[serde(default)]
    pub queue: Option<String>,
    /// Steps with a higher priority are run first.
    #[serde(default)]
    #[schemars(range(min = -100, max = 100))]
    pub priority: Option<i32>,
    /// How often the step may start.
    #[serde(default)]
    pub rate_limit: Option<RateLimitAst>,
    /// How long the step waits after it is ready.
    #[serde(default)]
    pub delay: Option<Templated<HumanDuration>>,
    /// Where the files that the step makes are written.
    #[serde(default)]
    pub output: Option<OutputAst>,
}

/// Accepts one step id or a list of ids.
#[derive(Debug)]
pub struct NeedsAst(pub Vec<String>);

impl<'de> Deserialize<'de> for NeedsAst {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NeedsVisitor;
        impl<'de> serde::de::Visitor<'de> for NeedsVisitor {
            type Value = NeedsAst;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a list of step ids")
            }

            fn visit_str<E: serde::de::Error>(self, id: &str) -> Result<NeedsAst, E> {
                Ok(NeedsAst(vec![id.to_owned()]))
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<NeedsAst, A::Error> {
                let mut ids = Vec::new();
                while let Some(id) = seq.next_element()? {
                    ids.push(id);
                }
                Ok(NeedsAst(ids))
            }
        }
        deserializer.deserialize_any(NeedsVisitor)
    }
}

impl JsonSchema for NeedsAst {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Needs".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schemars::json_schema!({
            "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" }, "uniqueItems": true }]
        })
    }
}
