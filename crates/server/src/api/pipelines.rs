//! The live pipelines, as the API shows them.

use crate::codes;
use axum::Json;
use axum::extract::State;
use serde_json::Value;

use super::ApiState;
use super::auth::Caller;
use super::extract::PathId;
use super::problem::Problem;
use super::queues::paused_pipelines;
use super::scopes::{ApiKeyScope, missing_scope};
use afterload_core::error::Error;
use afterload_engine::registry::{PipelineList, PipelineSummary};

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
    Error::new(codes::PIPELINE_NOT_FOUND, format!("there is no pipeline `{name}`"))
        .with_hint("`GET /v1/pipelines` lists those that are live, and the files that were refused")
}

fn is_visible(caller: &Caller, name: &str) -> bool {
    caller.can_read(name) || caller.can_write(name)
}

fn can_read_or_write_any(caller: &Caller) -> bool {
    caller.require_read().is_ok() || caller.can_write_any()
}
