//! Queues, and pausing queues and pipelines. Needs an admin key.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::Serialize;

use super::ApiState;
use super::auth::Caller;
use super::extract::PathId;
use super::problem::Problem;
use super::scopes::{ApiKeyScope, missing_scope};
use afterload_core::clock;
use afterload_core::error::Result;
use afterload_engine::QueueState;
use afterload_state::PauseTarget;

/// A queue.
#[derive(Serialize, JsonSchema)]
pub(super) struct QueueView {
    /// The name.
    name: String,
    /// Steps that wait for a worker, or for their next attempt.
    waiting: i64,
    /// Steps that workers are running.
    running: i64,
    /// When the run of the oldest waiting step was accepted. RFC 3339, UTC.
    oldest_waiting_at: Option<String>,
    /// When it was paused. No step of a paused queue starts.
    paused_at: Option<String>,
}

/// All queues, by name.
#[derive(Serialize, JsonSchema)]
pub(super) struct QueueList {
    queues: Vec<QueueView>,
}

/// A pipeline after it was paused or resumed.
#[derive(Serialize, JsonSchema)]
pub(super) struct PipelineState {
    /// The name.
    name: String,
    /// When it was paused. No step of its runs starts.
    paused_at: Option<String>,
}

impl From<QueueState> for QueueView {
    fn from(state: QueueState) -> Self {
        let QueueState { name, waiting, running, oldest_waiting_at, paused_at } = state;
        Self {
            name,
            waiting,
            running,
            oldest_waiting_at: oldest_waiting_at.map(clock::format_rfc3339),
            paused_at: paused_at.map(clock::format_rfc3339),
        }
    }
}

/// `GET /v1/queues`
pub(super) async fn list_queues(State(app): State<ApiState>, caller: Caller) -> Result<Json<QueueList>, Problem> {
    require_admin(&caller)?;
    let queues = app.engine().list_queues().await?.into_iter().map(QueueView::from).collect();
    Ok(Json(QueueList { queues }))
}

/// `POST /v1/queues/{name}/pause`
pub(super) async fn pause_queue(
    app: State<ApiState>,
    caller: Caller,
    PathId(name): PathId,
) -> Result<Json<QueueView>, Problem> {
    require_admin(&caller)?;
    app.engine().pause_target(PauseTarget::Queue, &name).await?;
    queue_response(&app, name).await
}

/// `POST /v1/queues/{name}/resume`
pub(super) async fn resume_queue(
    app: State<ApiState>,
    caller: Caller,
    PathId(name): PathId,
) -> Result<Json<QueueView>, Problem> {
    require_admin(&caller)?;
    app.engine().resume_target(PauseTarget::Queue, &name).await?;
    queue_response(&app, name).await
}

/// `POST /v1/pipelines/{name}/pause`
pub(super) async fn pause_pipeline(
    State(app): State<ApiState>,
    caller: Caller,
    PathId(name): PathId,
) -> Result<Json<PipelineState>, Problem> {
    require_admin(&caller)?;
    let since = app.engine().pause_target(PauseTarget::Pipeline, &name).await?;
    Ok(Json(PipelineState { name, paused_at: Some(clock::format_rfc3339(since)) }))
}

/// `POST /v1/pipelines/{name}/resume`
pub(super) async fn resume_pipeline(
    State(app): State<ApiState>,
    caller: Caller,
    PathId(name): PathId,
) -> Result<Json<PipelineState>, Problem> {
    require_admin(&caller)?;
    app.engine().resume_target(PauseTarget::Pipeline, &name).await?;
    Ok(Json(PipelineState { name, paused_at: None }))
}

/// The paused pipelines, each with the time of its pause.
pub(super) async fn paused_pipelines(app: &ApiState) -> Result<BTreeMap<String, String>> {
    let paused = app.db().pauses().list(PauseTarget::Pipeline).await?;
    Ok(paused.into_iter().map(|(name, since)| (name, clock::format_rfc3339(since))).collect())
}

async fn queue_response(app: &ApiState, name: String) -> Result<Json<QueueView>, Problem> {
    let known = app.engine().list_queues().await?.into_iter().find(|queue| queue.name == name);
    // The queue is gone from the list if its last step has ended and it is not paused.
    let state = known.unwrap_or_else(|| QueueState::empty(name));
    Ok(Json(state.into()))
}

fn require_admin(caller: &Caller) -> Result<()> {
    if caller.is_admin() { Ok(()) } else { Err(missing_scope(&ApiKeyScope::Admin)) }
}
