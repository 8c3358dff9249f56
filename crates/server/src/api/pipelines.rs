//! Which pipelines are live, and which files were refused and why.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

use super::App;
use super::auth::{Caller, Scope, lacks};
use super::extract::Id;
use super::pauses::paused_pipelines;
use super::problem::Problem;
use afterload_core::error::Error;
use afterload_core::units::{ByteSize, Duration};
use afterload_pipeline::catalogue::Refused;
use afterload_pipeline::{CronTrigger, EventTrigger, Param, Pipeline, S3Trigger, Step, Trigger};
use afterload_spanned_yaml as yaml;

/// The pipelines of this moment.
#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
pub struct Catalogue {
    /// Those that can be started, by name.
    pub pipelines: Vec<LivePipeline>,
    /// The files that were refused.
    pub refused: Vec<RefusedFile>,
}

/// A pipeline that can be started.
#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
pub struct LivePipeline {
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
    /// Its steps.
    pub steps: Vec<LiveStep>,
    /// Since when it is paused: its runs are accepted, and none of their steps starts.
    pub paused_at: Option<String>,
    /// The definition; shown with one pipeline, not in the list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

/// A step of a pipeline.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct LiveStep {
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
    pub problems: Vec<Fault>,
}

/// One fault of a file, at its place.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Fault {
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

impl From<&Refused> for RefusedFile {
    fn from(refused: &Refused) -> Self {
        Self { file: refused.file.clone(), problems: refused.problems.iter().map(Fault::from).collect() }
    }
}

impl From<&yaml::Problem> for Fault {
    fn from(problem: &yaml::Problem) -> Self {
        let yaml::Problem { code, span, message, hint } = problem.clone();
        Self { line: span.line, col: span.col, code, message, hint }
    }
}

impl From<&Step> for LiveStep {
    fn from(step: &Step) -> Self {
        let mode = if step.inline { "inline" } else { "background" };
        Self { id: step.id.clone(), uses: step.uses.clone(), mode }
    }
}

impl LivePipeline {
    /// The steps that the answer to a request waits for.
    pub(super) fn inline_steps(&self) -> impl Iterator<Item = &str> {
        self.steps.iter().filter(|step| step.mode == "inline").map(|step| step.id.as_str())
    }

    /// What people see of a pipeline and its text.
    pub fn new(pipeline: &Pipeline, source: &str) -> Self {
        let plan = &pipeline.plan;
        let steps = plan.sections.all().map(|(_, step)| LiveStep::from(step));
        let params = plan.params.iter().map(|(name, param)| (name.clone(), said(serde_json::json!(param))));
        Self {
            name: plan.name.clone(),
            description: pipeline.description.clone(),
            digest: plan.digest.clone(),
            triggers: plan.triggers.iter().map(shown).collect(),
            params: params.collect(),
            declared: plan.params.clone(),
            steps: steps.collect(),
            paused_at: None,
            source: Some(source.to_owned()),
        }
    }

    /// The parameters that take files.
    pub(super) fn file_params(&self) -> impl Iterator<Item = (&str, Takes)> {
        self.params.iter().filter_map(|(name, param)| Some((name.as_str(), takes(param)?)))
    }

    /// Whether the parameter takes files.
    pub(super) fn takes(&self, name: &str) -> Option<Takes> {
        self.params.get(name).and_then(takes)
    }

    /// The largest file that the parameter takes, if it says so.
    pub(super) fn max_size(&self, name: &str) -> Option<ByteSize> {
        let param = self.params.get(name)?;
        let param = if takes(param) == Some(Takes::Many) { param.get("items")? } else { param };
        match param.get("max_size")? {
            Value::String(text) => text.parse().ok(),
            size => size.as_u64().map(ByteSize),
        }
    }
}

/// A trigger with the fields that the definition gives it.
fn shown(trigger: &Trigger) -> Value {
    let S3Trigger { bucket, prefix, suffix, poll_ms, .. } = match trigger {
        Trigger::S3(trigger) => trigger,
        Trigger::Cron(CronTrigger { schedule, timezone, catch_up, .. }) => {
            return serde_json::json!({
                "type": "cron", "schedule": schedule, "timezone": timezone, "catch_up": catch_up,
            });
        }
        Trigger::Event(EventTrigger { name, .. }) => return serde_json::json!({ "type": "event", "name": name }),
    };
    let poll = poll_ms.map(|millis| Duration(std::time::Duration::from_millis(millis.unsigned_abs())).to_string());
    let given = |text: &String| (!text.is_empty()).then(|| text.clone());
    let (prefix, suffix) = (given(prefix), given(suffix));
    said(serde_json::json!({ "type": "s3", "bucket": bucket, "prefix": prefix, "suffix": suffix, "poll": poll }))
}

/// Without the fields that the definition leaves open.
fn said(mut param: Value) -> Value {
    if let Value::Object(fields) = &mut param {
        fields.retain(|_, value| !value.is_null());
    }
    param
}

/// How many files a parameter takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Takes {
    /// `type: file`
    One,
    /// `type: list` of files
    Many,
}

fn takes(param: &Value) -> Option<Takes> {
    match (param["type"].as_str()?, param["items"]["type"].as_str()) {
        ("file", _) => Some(Takes::One),
        ("list", Some("file")) => Some(Takes::Many),
        _ => None,
    }
}

/// The catalogue as it changes while the service runs. Cheap to clone; all clones see the same.
#[derive(Clone, Default)]
pub struct Live(Arc<RwLock<Arc<Catalogue>>>);

impl Live {
    /// Replaces the catalogue; requests under way keep the one they began with.
    pub fn publish(&self, mut catalogue: Catalogue) {
        catalogue.pipelines.sort_by(|a, b| a.name.cmp(&b.name));
        catalogue.refused.sort_by(|a, b| a.file.cmp(&b.file));
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(catalogue);
    }

    /// The catalogue of this moment.
    pub fn now(&self) -> Arc<Catalogue> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The live pipeline of this name.
    pub fn get(&self, name: &str) -> Option<LivePipeline> {
        self.now().pipelines.iter().find(|pipeline| pipeline.name == name).cloned()
    }
}

/// `GET /v1/pipelines`: what the key may read or start. Refused files are for keys that may read everything.
pub(super) async fn list(State(app): State<App>, caller: Caller) -> Result<Json<Catalogue>, Problem> {
    let all = app.live().now();
    let mut paused = paused_pipelines(&app).await?;
    let visible = all.pipelines.iter().filter(|pipeline| is_visible(&caller, &pipeline.name));
    let listed = visible.map(|pipeline| {
        let paused_at = paused.remove(&pipeline.name);
        LivePipeline { source: None, paused_at, ..pipeline.clone() }
    });
    let pipelines: Vec<_> = listed.collect();
    if pipelines.is_empty() && !may_read_or_write_any(&caller) {
        return Err(lacks(&Scope::RunsRead(None)).into());
    }
    let refused = if caller.readable().is_none() { all.refused.clone() } else { Vec::new() };
    Ok(Json(Catalogue { pipelines, refused }))
}

/// `GET /v1/pipelines/{name}`, with its definition for keys that may read its runs.
pub(super) async fn show(State(app): State<App>, caller: Caller, Id(name): Id) -> Result<Json<LivePipeline>, Problem> {
    let visible = app.live().get(&name).filter(|_| is_visible(&caller, &name));
    let mut pipeline = visible.ok_or_else(|| not_live(&name))?;
    pipeline.source = pipeline.source.filter(|_| caller.may_read(&name));
    pipeline.paused_at = paused_pipelines(&app).await?.remove(&name);
    Ok(Json(pipeline))
}

/// `GET /v1/schema`: the JSON Schema of the language.
pub(super) async fn schema(State(app): State<App>, _caller: Caller) -> Json<Value> {
    Json(app.schema().clone())
}

/// The refusal of a name that is not live.
pub(super) fn not_live(name: &str) -> Error {
    Error::permanent("pipeline_not_found", format!("there is no pipeline `{name}`"))
        .hint("`GET /v1/pipelines` lists those that are live, and the files that were refused")
}

fn is_visible(caller: &Caller, name: &str) -> bool {
    caller.may_read(name) || caller.may_write(name)
}

fn may_read_or_write_any(caller: &Caller) -> bool {
    caller.must_read().is_ok() || caller.writes_any()
}
