//! The live pipelines, and the files that were rejected.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

use super::ApiState;
use super::auth::{ApiKeyScope, Caller, missing_scope};
use super::extract::PathId;
use super::problem::Problem;
use super::queues::paused_pipelines;
use afterload_core::error::Error;
use afterload_core::units::{ByteSize, HumanDuration};
use afterload_pipeline::folder::RefusedDefinition;
use afterload_pipeline::{CronTrigger, EventTrigger, Param, Pipeline, PlanStep, S3Trigger, Trigger};
use afterload_spanned_yaml as yaml;

/// The live pipelines and the rejected files.
#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
pub struct PipelineList {
    /// The live pipelines, by name.
    pub pipelines: Vec<PipelineSummary>,
    /// The rejected files.
    pub refused: Vec<RefusedFile>,
}

/// A live pipeline.
#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
pub struct PipelineSummary {
    /// The name.
    pub name: String,
    /// The description.
    pub description: Option<String>,
    /// The digest of the definition.
    pub digest: String,
    /// The triggers that start it, besides this API: `[{type, …}]`.
    pub triggers: Vec<Value>,
    /// The parameters as the definition declares them: `{NAME: {type, …}}`.
    pub params: Map<String, Value>,
    /// The same parameters, to validate the params of a run.
    #[serde(skip)]
    pub declared: BTreeMap<String, Param>,
    /// The steps.
    pub steps: Vec<StepSummary>,
    /// When it was paused. Runs of a paused pipeline are accepted, but none of their steps starts.
    pub paused_at: Option<String>,
    /// The definition. Only included for a single pipeline, not in the list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

/// A step of a pipeline.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct StepSummary {
    /// The id.
    pub id: String,
    /// The step kind.
    pub uses: String,
    /// `inline` if the response to a request waits for it, else `background`.
    pub mode: &'static str,
}

/// A rejected file. The live definition of its name stays.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct RefusedFile {
    /// The file.
    pub file: String,
    /// The problems of the file.
    pub problems: Vec<DiagnosticView>,
}

/// A problem of a file, with its position.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct DiagnosticView {
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1.
    pub col: usize,
    /// A stable code.
    pub code: &'static str,
    /// The message.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl From<&RefusedDefinition> for RefusedFile {
    fn from(refused: &RefusedDefinition) -> Self {
        Self { file: refused.file.clone(), problems: refused.problems.iter().map(DiagnosticView::from).collect() }
    }
}

impl From<&yaml::Diagnostic> for DiagnosticView {
    fn from(problem: &yaml::Diagnostic) -> Self {
        let yaml::Diagnostic { code, span, message, hint } = problem.clone();
        Self { line: span.line, col: span.col, code, message, hint }
    }
}

impl From<&PlanStep> for StepSummary {
    fn from(step: &PlanStep) -> Self {
        let mode = if step.inline { "inline" } else { "background" };
        Self { id: step.id.clone(), uses: step.uses.clone(), mode }
    }
}

impl PipelineSummary {
    /// The steps that the response to a request waits for.
    pub(super) fn inline_steps(&self) -> impl Iterator<Item = &str> {
        self.steps.iter().filter(|step| step.mode == "inline").map(|step| step.id.as_str())
    }

    /// Describes a pipeline with its source text.
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
            steps: steps.collect(),
            paused_at: None,
            source: Some(source.to_owned()),
        }
    }

    pub(super) fn file_params(&self) -> impl Iterator<Item = (&str, FileArity)> {
        self.params.iter().filter_map(|(name, param)| Some((name.as_str(), param_file_arity(param)?)))
    }

    /// How many files the parameter accepts; `None` if it accepts none.
    pub(super) fn file_arity(&self, name: &str) -> Option<FileArity> {
        self.params.get(name).and_then(param_file_arity)
    }

    /// The maximum file size of the parameter, if it sets one.
    pub(super) fn max_file_size(&self, name: &str) -> Option<ByteSize> {
        let param = self.params.get(name)?;
        let param = if param_file_arity(param) == Some(FileArity::Many) { param.get("items")? } else { param };
        match param.get("max_size")? {
            Value::String(text) => text.parse().ok(),
            size => size.as_u64().map(ByteSize),
        }
    }
}

/// A trigger with the fields that the definition sets.
fn trigger_json(trigger: &Trigger) -> Value {
    let S3Trigger { bucket, prefix, suffix, poll_ms, .. } = match trigger {
        Trigger::S3(trigger) => trigger,
        Trigger::Cron(CronTrigger { schedule, timezone, catch_up, .. }) => {
            return serde_json::json!({
                "type": "cron", "schedule": schedule, "timezone": timezone, "catch_up": catch_up,
            });
        }
        Trigger::Event(EventTrigger { name, .. }) => return serde_json::json!({ "type": "event", "name": name }),
    };
    let poll = poll_ms.map(|millis| HumanDuration(std::time::Duration::from_millis(millis.unsigned_abs())).to_string());
    let given = |text: &String| (!text.is_empty()).then(|| text.clone());
    let (prefix, suffix) = (given(prefix), given(suffix));
    drop_nulls(serde_json::json!({ "type": "s3", "bucket": bucket, "prefix": prefix, "suffix": suffix, "poll": poll }))
}

/// Removes the fields that the definition does not set.
fn drop_nulls(mut param: Value) -> Value {
    if let Value::Object(fields) = &mut param {
        fields.retain(|_, value| !value.is_null());
    }
    param
}

/// How many files a parameter accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileArity {
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

/// The live pipelines, updated while the service runs. Cheap to clone; all clones share the list.
#[derive(Clone, Default)]
pub struct PipelineRegistry(Arc<RwLock<Arc<PipelineList>>>);

impl PipelineRegistry {
    /// Replaces the list. Requests in progress keep the old one.
    pub fn replace_list(&self, mut catalogue: PipelineList) {
        catalogue.pipelines.sort_by(|a, b| a.name.cmp(&b.name));
        catalogue.refused.sort_by(|a, b| a.file.cmp(&b.file));
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(catalogue);
    }

    /// The current list.
    pub fn current_list(&self) -> Arc<PipelineList> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The live pipeline of this name.
    pub fn get(&self, name: &str) -> Option<PipelineSummary> {
        self.current_list().pipelines.iter().find(|pipeline| pipeline.name == name).cloned()
    }
}

/// `GET /v1/pipelines`: the pipelines that the key may read or start. Rejected files are shown to keys that may read
/// every pipeline.
pub(super) async fn list_pipelines(State(app): State<ApiState>, caller: Caller) -> Result<Json<PipelineList>, Problem> {
    let all = app.pipeline_registry().current_list();
    let mut paused = paused_pipelines(&app).await?;
    let visible = all.pipelines.iter().filter(|pipeline| is_visible(&caller, &pipeline.name));
    let listed = visible.map(|pipeline| {
        let paused_at = paused.remove(&pipeline.name);
        PipelineSummary { source: None, paused_at, ..pipeline.clone() }
    });
    let pipelines: Vec<_> = listed.collect();
    if pipelines.is_empty() && !can_read_or_write_any(&caller) {
        return Err(missing_scope(&ApiKeyScope::RunsRead(None)).into());
    }
    let refused = if caller.readable_pipelines().is_none() { all.refused.clone() } else { Vec::new() };
    Ok(Json(PipelineList { pipelines, refused }))
}

/// `GET /v1/pipelines/{name}`, with its definition for keys that may read its runs.
pub(super) async fn show_pipeline(
    State(app): State<ApiState>,
    caller: Caller,
    PathId(name): PathId,
) -> Result<Json<PipelineSummary>, Problem> {
    let visible = app.pipeline_registry().get(&name).filter(|_| is_visible(&caller, &name));
    let mut pipeline = visible.ok_or_else(|| pipeline_not_found(&name))?;
    pipeline.source = pipeline.source.filter(|_| caller.can_read(&name));
    pipeline.paused_at = paused_pipelines(&app).await?.remove(&name);
    Ok(Json(pipeline))
}

/// `GET /v1/schema`: the JSON Schema of the pipeline language.
pub(super) async fn show_schema(State(app): State<ApiState>, _caller: Caller) -> Json<Value> {
    Json(app.pipeline_schema().clone())
}

/// The error for a name that is not live.
pub(super) fn pipeline_not_found(name: &str) -> Error {
    Error::permanent("pipeline_not_found", format!("there is no pipeline `{name}`"))
        .with_hint("`GET /v1/pipelines` lists those that are live, and the files that were refused")
}

fn is_visible(caller: &Caller, name: &str) -> bool {
    caller.can_read(name) || caller.can_write(name)
}

fn can_read_or_write_any(caller: &Caller) -> bool {
    caller.require_read().is_ok() || caller.can_write_any()
}
