//! Whether the process lives, and whether it can work.

use std::time::Duration;

use axum::Json;
use axum::extract;
use schemars::JsonSchema;
use serde::Serialize;

use super::App;
use super::problem::Problem;
use afterload_core::error::Error;

const PATIENCE: Duration = Duration::from_secs(2);

/// What a probe says.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Probe")]
pub(super) struct State {
    status: &'static str,
}

/// `GET /healthz`: the process answers. Touches nothing.
pub(super) async fn alive() -> Json<State> {
    Json(State { status: "ok" })
}

/// `GET /readyz`: the database answers, too.
pub(super) async fn ready(extract::State(app): extract::State<App>) -> Result<Json<State>, Problem> {
    let asked = tokio::time::timeout(PATIENCE, app.db().fetch("SELECT 1", &[])).await;
    let answered = asked.unwrap_or_else(|_| Err(Error::transient("not_ready", "it did not answer in time")));
    match answered {
        Ok(_) => Ok(Json(State { status: "ready" })),
        Err(error) => Err(Error::transient("not_ready", format!("asking the database: {}", error.message())).into()),
    }
}
