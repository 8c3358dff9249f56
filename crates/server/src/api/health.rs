//! Liveness and readiness probes.

use std::time::Duration;

use axum::Json;
use axum::extract;
use schemars::JsonSchema;
use serde::Serialize;

use super::ApiState;
use super::problem::Problem;
use crate::codes;
use afterload_core::error::Error;

const READINESS_TIMEOUT: Duration = Duration::from_secs(2);

/// The result of a probe.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Probe")]
pub(super) struct ProbeStatus {
    status: &'static str,
}

/// `GET /healthz`: the process responds. Uses no other system.
pub(super) async fn check_liveness() -> Json<ProbeStatus> {
    Json(ProbeStatus { status: "ok" })
}

/// `GET /readyz`: the database responds, too.
pub(super) async fn check_readiness(
    extract::State(app): extract::State<ApiState>,
) -> Result<Json<ProbeStatus>, Problem> {
    let asked = tokio::time::timeout(READINESS_TIMEOUT, app.db().ping()).await;
    let answered = asked.unwrap_or_else(|_| Err(Error::new(codes::NOT_READY, "it did not answer in time")));
    match answered {
        Ok(()) => Ok(Json(ProbeStatus { status: "ready" })),
        Err(error) => Err(Error::new(codes::NOT_READY, format!("asking the database: {}", error.message())).into()),
    }
}
