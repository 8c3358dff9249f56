//! The live pipelines, and the files that were rejected.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

use afterload_core::units::{ByteSize, HumanDuration};
use afterload_pipeline::folder::RefusedDefinition;
use afterload_pipeline::params::ParamType;
use afterload_pipeline::{
    CronTrigger, EventTrigger, KeySuffix, Param, Pipeline, PlanStep, S3Trigger, Trigger, TriggerBatching, TriggerFlow,
};
use afterload_spanned_yaml as yaml;

/// The pipelines of this moment.
#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
pub struct PipelineList {
    /// Those that can be started, by name.
    pub pipelines: Vec<PipelineSummary>,
    /// The files that were refused.
    pub refused: Vec<RefusedFile>,
}

/// A pipeline that can be started.
#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
pub struct PipelineSummary {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
    /// The digest of its definition.
    pub digest: String,
    /// What starts it, beside this API: `[{type, …}]`.
    pub triggers: Vec<Value>,
    /// Its parameters as the definition declares them: `{NAME: {type, …}}`.
    pub params: Map<String, Value>,
    /// The same, to check what a run is given.
    #[serde(skip)]
    pub declared: BTreeMap<String, Param>,
    /// What starts it, and what each of its successful runs does.
    #[serde(skip)]
    pub trigger_flow: TriggerFlow,
    /// Its steps.
    pub steps: Vec<StepSummary>,
    /// Since when it is paused: its runs are accepted, and none of their steps starts.
    pub paused_at: Option<String>,
    /// The definition; shown with one pipeline, not in the list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

/// A step of a pipeline.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct StepSummary {
    /// Its id.
    pub id: String,
    /// Its kind.
    pub uses: String,
    /// `inline` if the answer to a request waits for it, `background` otherwise.
    pub mode: &'static str,
}

/// A file that was refused. What was live before under its name still is.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct RefusedFile {
    /// The file.
    pub file: String,
    /// What is wrong with it.
    pub problems: Vec<DiagnosticView>,
}

/// One fault of a file, at its place.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct DiagnosticView {
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1.
    pub col: usize,
    /// A stable code.
    pub code: &'static str,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

impl From<&RefusedDefinition> for RefusedFile {
    fn from(refused: &RefusedDefinition) -> Self {
        Self { file: refused.file.clone(), problems: refused.problems.iter().map(DiagnosticView::from).collect() }
    }
}

impl From<&yaml::Diagnostic> for DiagnosticView {
    fn from(problem: &yaml::Diagnostic) -> Self {
        let yaml::Diagnostic { code, span, message, hint, .. } = problem.clone();
        Self { line: span.line, col: span.col, code: code.name(), message, hint }
    }
}

impl From<&PlanStep> for StepSummary {
    fn from(step: &PlanStep) -> Self {
        let mode = if step.inline { "inline" } else { "background" };
        Self { id: step.id.clone(), uses: step.uses.clone(), mode }
    }
}

impl PipelineSummary {
    /// The steps that an HTTP response waits for.
    pub fn inline_steps(&self) -> impl Iterator<Item = &str> {
        self.steps.iter().filter(|step| step.mode == "inline").map(|step| step.id.as_str())
    }

    /// The summary of a pipeline and its source.
    pub fn new(pipeline: &Pipeline, source: &str) -> Self {
        let plan = &pipeline.plan;
        let steps = plan.sections.iter_steps().map(|(_, step)| StepSummary::from(step));
        let params = plan.params.iter().map(|(name, param)| (name.clone(), drop_nulls(serde_json::json!(param))));
        Self {
            name: plan.name.clone(),
            description: pipeline.description.clone(),
            digest: plan.digest.clone(),
            triggers: plan.triggers.iter().map(trigger_json).collect(),
            params: params.collect(),
            declared: plan.params.clone(),
            trigger_flow: TriggerFlow::from(pipeline),
            steps: steps.collect(),
            paused_at: None,
            source: Some(source.to_owned()),
        }
    }

    /// The parameters that take files.
    pub fn file_params(&self) -> impl Iterator<Item = (&str, FileArity)> {
        self.params.iter().filter_map(|(name, param)| Some((name.as_str(), param_file_arity(param)?)))
    }

    /// How many files the parameter takes; `None` if it takes none.
    pub fn file_arity(&self, name: &str) -> Option<FileArity> {
        self.params.get(name).and_then(param_file_arity)
    }

    /// How many files the parameter takes at most.
    pub fn max_files(&self, name: &str) -> usize {
        match self.file_arity(name) {
            None => 0,
            Some(FileArity::One) => 1,
            Some(FileArity::Many) => {
                let most = self.declared.get(name).and_then(|param| param.kind.max_items());
                most.unwrap_or(ParamType::DEFAULT_MAX_ITEMS)
            }
        }
    }

    /// The maximum file size of the parameter, if it has one.
    pub fn max_file_size(&self, name: &str) -> Option<ByteSize> {
        let param = self.params.get(name)?;
        let param = if param_file_arity(param) == Some(FileArity::Many) { param.get("items")? } else { param };
        match param.get("max_size")? {
            Value::String(text) => text.parse().ok(),
            size => size.as_u64().map(ByteSize),
        }
    }
}

/// A trigger as JSON, with the fields that the definition sets.
fn trigger_json(trigger: &Trigger) -> Value {
    match trigger {
        Trigger::S3(S3Trigger { bucket, prefix, suffix, poll_ms, batching, .. }) => {
            let given = |text: &String| (!text.is_empty()).then(|| text.clone());
            let (prefix, suffix) = (given(prefix), (*suffix != KeySuffix::default()).then_some(suffix));
            let poll = poll_ms.map(duration_text);
            let json = serde_json::json!({
                "type": "s3", "bucket": bucket, "prefix": prefix, "suffix": suffix, "poll": poll,
            });
            with_batching(json, *batching)
        }
        Trigger::Cron(CronTrigger { schedule, timezone, catch_up, .. }) => serde_json::json!({
            "type": "cron", "schedule": schedule, "timezone": timezone, "catch_up": catch_up,
        }),
        Trigger::Event(EventTrigger { name, batching, .. }) => {
            with_batching(serde_json::json!({ "type": "event", "name": name }), *batching)
        }
    }
}

/// Adds `debounce` and `max_wait`, or `batch`, and drops the fields that the definition does not set.
fn with_batching(mut trigger: Value, batching: Option<TriggerBatching>) -> Value {
    match batching {
        Some(TriggerBatching::Debounce { quiet_ms, max_wait_ms }) => {
            trigger["debounce"] = duration_text(quiet_ms).into();
            trigger["max_wait"] = duration_text(max_wait_ms).into();
        }
        Some(TriggerBatching::Batch { size, within_ms }) => {
            trigger["batch"] = serde_json::json!({ "size": size, "within": duration_text(within_ms) });
        }
        None => {}
    }
    drop_nulls(trigger)
}

fn duration_text(millis: i64) -> String {
    HumanDuration(std::time::Duration::from_millis(millis.unsigned_abs())).to_string()
}

/// Drops the fields that the definition does not set.
fn drop_nulls(mut param: Value) -> Value {
    if let Value::Object(fields) = &mut param {
        fields.retain(|_, value| !value.is_null());
    }
    param
}

/// How many files a parameter takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileArity {
    /// `type: file`
    One,
    /// `type: list` of files
    Many,
}

fn param_file_arity(param: &Value) -> Option<FileArity> {
    match (param["type"].as_str()?, param["items"]["type"].as_str()) {
        ("file", _) => Some(FileArity::One),
        ("list", Some("file")) => Some(FileArity::Many),
        _ => None,
    }
}

/// The current list of pipelines. All clones share it.
#[derive(Clone, Default)]
pub struct PipelineRegistry(Arc<RwLock<Arc<PipelineList>>>);

impl PipelineRegistry {
    /// Replaces the list; running requests keep the old one.
    pub fn replace_list(&self, mut catalogue: PipelineList) {
        catalogue.pipelines.sort_by(|a, b| a.name.cmp(&b.name));
        catalogue.refused.sort_by(|a, b| a.file.cmp(&b.file));
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(catalogue);
    }

    /// The current list.
    pub fn current_list(&self) -> Arc<PipelineList> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The live pipeline with this name.
    pub fn get(&self, name: &str) -> Option<PipelineSummary> {
        self.current_list().pipelines.iter().find(|pipeline| pipeline.name == name).cloned()
    }
}
