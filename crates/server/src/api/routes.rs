//! All routes of the service with their OpenAPI descriptions. A new route is one entry here, or in `run_routes.rs`.

use std::sync::LazyLock;

use axum::Json;
use axum::extract::State;
use axum::http::Method;
use axum::routing::{get, post};
use serde_json::{Map, Value};

use super::artifacts::FileBytes;
use super::mail_routes::mail_routes;
use super::openapi::{ApiRoutes, Operation};
use super::run_routes::run_routes;
use super::{ApiState, artifacts, health, links, metrics, pipelines, queues};
use crate::codes;
use afterload_engine::registry::{PipelineList, PipelineSummary};
use afterload_metrics::OPENMETRICS_MEDIA_TYPE;

const GET: Method = Method::GET;
const POST: Method = Method::POST;

pub(super) fn all_routes() -> ApiRoutes {
    let parts: [fn(ApiRoutes) -> ApiRoutes; 7] =
        [pipeline_routes, queue_routes, run_routes, artifact_routes, link_routes, mail_routes, service_routes];
    parts.into_iter().fold(ApiRoutes::default(), |routes, part| part(routes))
}

/// The OpenAPI document, without the URL of the service.
pub(super) fn openapi_document() -> &'static Value {
    static DOCUMENT: LazyLock<Value> = LazyLock::new(|| all_routes().to_openapi());
    &DOCUMENT
}

fn pipeline_routes(routes: ApiRoutes) -> ApiRoutes {
    routes
        .add_route(
            GET,
            "/v1/pipelines",
            get(pipelines::list_pipelines),
            Operation::new("listPipelines", "The pipelines that are live, and the files that are refused and why")
                .require_key()
                .json_response::<PipelineList>(200, "what the key may read or start"),
        )
        .add_route(
            GET,
            "/v1/pipelines/{name}",
            get(pipelines::show_pipeline),
            Operation::new("showPipeline", "One live pipeline, with its definition for keys that may read its runs")
                .require_key()
                .json_response::<PipelineSummary>(200, "the pipeline")
                .with_errors(&[codes::PIPELINE_NOT_FOUND]),
        )
        .add_route(
            GET,
            "/v1/schema",
            get(pipelines::show_schema),
            Operation::new("showSchema", "The JSON Schema of a pipeline file, for editors")
                .require_key()
                .json_response::<Map<String, Value>>(200, "a JSON Schema"),
        )
}

fn queue_routes(routes: ApiRoutes) -> ApiRoutes {
    routes
        .add_route(
            GET,
            "/v1/queues",
            get(queues::list_queues),
            Operation::new("listQueues", "The queues, how many steps wait in them, and which are paused")
                .require_key()
                .json_response::<queues::QueueList>(200, "all queues"),
        )
        .add_route(
            POST,
            "/v1/queues/{name}/pause",
            post(queues::pause_queue),
            Operation::new("pauseQueue", "Starts no step of the queue in any process; what runs goes on to its end")
                .require_key()
                .json_response::<queues::QueueView>(200, "the queue, which is paused")
                .with_errors(&[codes::QUEUE_NOT_FOUND]),
        )
        .add_route(
            POST,
            "/v1/queues/{name}/resume",
            post(queues::resume_queue),
            Operation::new("resumeQueue", "Lets a paused queue go on")
                .require_key()
                .json_response::<queues::QueueView>(200, "the queue, which goes on")
                .with_errors(&[codes::QUEUE_NOT_FOUND]),
        )
        .add_route(
            POST,
            "/v1/pipelines/{name}/pause",
            post(queues::pause_pipeline),
            Operation::new("pausePipeline", "Starts no step of its runs; they are accepted and wait")
                .require_key()
                .json_response::<queues::PipelineState>(200, "the pipeline is paused")
                .with_errors(&[codes::PIPELINE_NOT_FOUND]),
        )
        .add_route(
            POST,
            "/v1/pipelines/{name}/resume",
            post(queues::resume_pipeline),
            Operation::new("resumePipeline", "Lets the runs of a paused pipeline go on")
                .require_key()
                .json_response::<queues::PipelineState>(200, "the pipeline goes on")
                .with_errors(&[codes::PIPELINE_NOT_FOUND]),
        )
}

fn artifact_routes(routes: ApiRoutes) -> ApiRoutes {
    routes.add_route(
        GET,
        "/v1/artifacts/{id}",
        get(artifacts::download_artifact),
        Operation::new("downloadArtifact", "A file, whole or one range of it")
            .key_or_token()
            .query_params::<artifacts::DownloadQuery>()
            .request_header("Range", "one range of bytes, such as `bytes=0-1023`")
            .request_header("If-None-Match", "an `ETag` that the caller has already")
            .request_header("If-Range", "an `ETag` for which the range is meant")
            .response_as::<FileBytes>(200, "the whole file", "*/*")
            .response_as::<FileBytes>(206, "the range", "*/*")
            .empty_response(304, "the file is the one that the caller has")
            .with_errors(&[
                codes::ARTIFACT_NOT_FOUND,
                codes::ARTIFACT_GONE,
                codes::FILE_EXPIRED,
                codes::RANGE_NOT_SATISFIABLE,
            ]),
    )
}

fn link_routes(routes: ApiRoutes) -> ApiRoutes {
    routes
        .add_route(
            GET,
            "/d/{token}",
            get(links::open_link),
            Operation::new("openLink", "The file of a link in a mail; for browsers, refusals are pages")
                .request_header("Range", "one range of bytes, such as `bytes=0-1023`")
                .response_as::<FileBytes>(200, "the whole file", "*/*")
                .response_as::<FileBytes>(206, "the range", "*/*")
                .empty_response(304, "the file is the one that the caller has")
                .with_errors(&[
                    codes::LINK_NOT_FOUND,
                    codes::LINK_EXPIRED,
                    codes::LINK_REVOKED,
                    codes::FILE_EXPIRED,
                    codes::ARTIFACT_GONE,
                ])
                .with_errors(&[codes::RANGE_NOT_SATISFIABLE, codes::TOO_MANY_ATTEMPTS]),
        )
        .add_route(
            GET,
            "/v1/artifacts/{id}/links",
            get(links::list_links),
            Operation::new("listLinks", "The links to a file, and how often each was used")
                .require_key()
                .json_response::<links::LinkList>(200, "the links")
                .with_errors(&[codes::ARTIFACT_NOT_FOUND]),
        )
        .add_route(
            POST,
            "/v1/links/{id}/revoke",
            post(links::revoke_link),
            Operation::new("revokeLink", "Takes a link back")
                .require_key()
                .json_response::<links::RevokedLink>(200, "the link, which opens nothing any more")
                .with_errors(&[codes::LINK_NOT_FOUND]),
        )
}

fn service_routes(routes: ApiRoutes) -> ApiRoutes {
    routes
        .add_route(
            GET,
            "/healthz",
            get(health::check_liveness),
            Operation::new("isAlive", "Whether the process answers")
                .json_response::<health::ProbeStatus>(200, "it does"),
        )
        .add_route(
            GET,
            "/readyz",
            get(health::check_readiness),
            Operation::new("isReady", "Whether the database answers, too")
                .json_response::<health::ProbeStatus>(200, "it does"),
        )
        .add_route(
            GET,
            "/metrics",
            get(metrics::show_metrics),
            Operation::new("showMetrics", "What this process counts, and how long the queues are")
                .key_unless_loopback()
                .response_as::<String>(
                    200,
                    "the text format of OpenMetrics, as Prometheus reads it",
                    OPENMETRICS_MEDIA_TYPE,
                ),
        )
        .add_route(
            GET,
            "/openapi.json",
            get(show_openapi),
            Operation::new("showOpenApi", "This document")
                .json_response::<Map<String, Value>>(200, "an OpenAPI 3.1 document"),
        )
}

/// `GET /openapi.json`
async fn show_openapi(State(app): State<ApiState>) -> Json<Value> {
    let mut document = openapi_document().clone();
    document["servers"] = serde_json::json!([{ "url": app.base_url() }]);
    Json(document)
}
