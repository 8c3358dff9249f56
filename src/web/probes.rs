//! Whether the process lives, and whether it can work.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::App;
use super::problem::Problem;
use crate::error::Error;

const PATIENCE: Duration = Duration::from_secs(2);

/// `GET /healthz`: the process answers. Touches nothing.
pub(super) async fn alive() -> Json<Value> {
    Json(json!({ "status": "ok" }))
}

/// `GET /readyz`: the database answers, too.
pub(super) async fn ready(State(app): State<App>) -> Result<Json<Value>, Problem> {
    let asked = tokio::time::timeout(PATIENCE, app.db().fetch("SELECT 1", &[])).await;
    let answered = asked.unwrap_or_else(|_| Err(Error::transient("not_ready", "it did not answer in time")));
    match answered {
        Ok(_) => Ok(Json(json!({ "status": "ready" }))),
        Err(error) => Err(Error::transient("not_ready", format!("asking the database: {}", error.message())).into()),
    }
}
