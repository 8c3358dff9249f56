//! All routes of the service with their OpenAPI descriptions. A new route is one entry here.

use std::sync::LazyLock;

use axum::Json;
use axum::extract::State;
use axum::http::Method;
use axum::middleware::from_fn;
use axum::routing::{get, post, put};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

use super::mail_routes::mail_routes;
use super::openapi::{ApiRoutes, Operation};
use super::visible_run::{RunReceipt, VisibleRun};
use super::{
    ApiState, artifacts, create_run, direct_upload, health, items, links, metrics, pipelines, publish_event, queues,
    replay_run, run_reader, run_sse, runs, s3_notifications, upload_cors,
};
use crate::codes;
use crate::triggers::{EventResult, NotificationResult, S3NotificationBody};
use afterload_engine::RunView;
use afterload_engine::registry::{PipelineList, PipelineSummary};
use afterload_metrics::OPENMETRICS_MEDIA_TYPE;

const GET: Method = Method::GET;
const POST: Method = Method::POST;

pub(super) fn all_routes() -> ApiRoutes {
    let parts: [fn(ApiRoutes) -> ApiRoutes; 10] = [
        pipeline_routes,
        queue_routes,
        run_routes,
        run_action_routes,
        item_routes,
        artifact_routes,
        link_routes,
        mail_routes,
        event_routes,
        service_routes,
    ];
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

fn run_routes(routes: ApiRoutes) -> ApiRoutes {
    routes
        .add_route(
            POST,
            "/v1/pipelines/{name}/runs",
            post(create_run::create_run),
            Operation::new("createRun", "Starts a run; file parts of a form stream into the store")
                .require_key()
                .query_params::<create_run::RunOptions>()
                .idempotency_key("the same request may be sent again under it for a day")
                .request_header("Prefer", "`wait=SECONDS`: answer when the run has ended, if that is soon enough")
                .json_body::<create_run::NewRunBody>()
                .request_body::<Map<String, Value>>("multipart/form-data")
                .json_response::<StartedRun>(202, "the run is on disk and will happen")
                .json_response::<StartedRun>(200, "the run has ended, for callers that waited")
                .with_errors(&[
                    codes::HEADER_INVALID,
                    codes::MULTIPART_INVALID,
                    codes::PIPELINE_NOT_FOUND,
                    codes::UPLOAD_TOO_LARGE,
                ])
                .with_errors(&[
                    codes::PARAMS_INVALID,
                    codes::BUCKET_FORBIDDEN,
                    codes::RUN_OPTIONS_INVALID,
                    codes::QUEUE_UNKNOWN,
                    codes::IDEMPOTENCY_KEY_REUSED,
                ])
                .with_errors(&[codes::TOO_MANY_FILES, codes::TOO_MANY_PARTS])
                .with_errors(&[
                    codes::OBJECT_NOT_FOUND,
                    codes::OBJECT_CHANGED,
                    codes::OBJECT_ACCESS_DENIED,
                    codes::BUCKET_NOT_CONFIGURED,
                ]),
        )
        .add_route(
            GET,
            "/v1/runs",
            get(runs::list_runs),
            Operation::new("listRuns", "Runs, newest first, a page at a time")
                .require_key()
                .query_params::<runs::RunPageQuery>()
                .json_response::<runs::RunPage>(200, "a page"),
        )
        .add_route(
            GET,
            "/v1/runs/{id}",
            get(runs::show_run).route_layer(from_fn(runs::allow_any_origin)),
            Operation::new("showRun", "A run with its steps, its progress and its files")
                .key_or_token()
                .query_params::<run_reader::RunTokenQuery>()
                .request_header("Accept", "`text/event-stream` for events, as browsers' `EventSource` sends")
                .json_response::<RunView>(200, "the run")
                .response_as::<run_sse::RunEvent>(200, "its events", run_sse::SSE_MEDIA_TYPE)
                .empty_response(204, "the end was seen before")
                .request_header("Last-Event-ID", "the revision that was seen last, for events")
                .with_errors(&[codes::RUN_NOT_FOUND, codes::TOO_MANY_RUN_WATCHERS, codes::TOO_MANY_WATCHERS]),
        )
        .add_route(
            GET,
            "/v1/runs/{id}/events",
            get(runs::stream_run_events).route_layer(from_fn(runs::allow_any_origin)),
            Operation::new("followRun", "A run as server-sent events: the whole run at each change, then one `end`")
                .key_or_token()
                .query_params::<run_reader::RunTokenQuery>()
                .request_header("Last-Event-ID", "the revision that was seen last")
                .response_as::<run_sse::RunEvent>(200, "events until the run has ended", run_sse::SSE_MEDIA_TYPE)
                .empty_response(204, "the end was seen before")
                .with_errors(&[codes::RUN_NOT_FOUND, codes::TOO_MANY_RUN_WATCHERS, codes::TOO_MANY_WATCHERS]),
        )
}

fn run_action_routes(routes: ApiRoutes) -> ApiRoutes {
    routes
        .add_route(
            POST,
            "/v1/runs/{id}/cancel",
            post(runs::cancel_run),
            Operation::new("cancelRun", "Stops a run; `finally` still runs")
                .require_key()
                .json_response::<VisibleRun>(202, "the run is asked to stop")
                .json_response::<VisibleRun>(200, "the run has stopped")
                .with_errors(&[codes::RUN_NOT_FOUND, codes::RUN_ENDED]),
        )
        .add_route(
            POST,
            "/v1/runs/{id}/retry",
            post(runs::retry_run),
            Operation::new("retryRun", "Goes on with a failed or cancelled run from the steps that did not succeed")
                .require_key()
                .query_params::<runs::RetryQuery>()
                .json_response::<VisibleRun>(202, "the run goes on")
                .json_response::<VisibleRun>(200, "the run has ended again")
                .with_errors(&[
                    codes::RUN_NOT_FOUND,
                    codes::RUN_NOT_ENDED,
                    codes::RUN_SUCCEEDED,
                    codes::RUN_FILES_EXPIRED,
                    codes::RUN_NEVER_BEGAN,
                    codes::DEFINITION_INVALID,
                ])
                .with_errors(&[codes::DEFINITION_MISMATCH, codes::PIPELINE_NOT_FOUND, codes::PARAMS_INVALID]),
        )
        .add_route(
            POST,
            "/v1/runs/{id}/replay",
            post(replay_run::replay_run),
            Operation::new("replayRun", "Starts a new run with the params of a run, or with some of them changed")
                .require_key()
                .idempotency_key("the same request may be sent again under it for a day")
                .request_header("Prefer", "`wait=SECONDS`: answer when the run has ended, if that is soon enough")
                .json_body::<replay_run::ReplayBody>()
                .json_response::<StartedRun>(202, "the new run is on disk and will happen")
                .json_response::<StartedRun>(200, "the new run has ended, for callers that waited")
                .with_errors(&[
                    codes::RUN_NOT_FOUND,
                    codes::PIPELINE_NOT_FOUND,
                    codes::PARAMS_INVALID,
                    codes::FILE_EXPIRED,
                    codes::BUCKET_FORBIDDEN,
                    codes::CONCURRENCY_KEY_INVALID,
                    codes::IDEMPOTENCY_KEY_REUSED,
                    codes::TOO_MANY_FILES,
                ])
                .with_errors(&[
                    codes::OBJECT_NOT_FOUND,
                    codes::OBJECT_CHANGED,
                    codes::OBJECT_ACCESS_DENIED,
                    codes::BUCKET_NOT_CONFIGURED,
                ]),
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

fn event_routes(routes: ApiRoutes) -> ApiRoutes {
    routes
        .add_route(
            POST,
            "/v1/uploads",
            post(direct_upload::begin_upload),
            Operation::new("beginUpload", "Where to send a file straight to the store")
                .require_key()
                .json_body::<direct_upload::NewUpload>()
                .needs_body()
                .json_response::<direct_upload::UploadTicket>(201, "where to PUT the bytes, and what to call then")
                .with_errors(&[
                    codes::PIPELINE_NOT_FOUND,
                    codes::PARAMS_INVALID,
                    codes::TOO_MANY_FILES,
                    codes::UPLOAD_TOO_LARGE,
                    codes::BUCKET_FORBIDDEN,
                ])
                .with_errors(&[
                    codes::OBJECT_NOT_FOUND,
                    codes::OBJECT_CHANGED,
                    codes::OBJECT_ACCESS_DENIED,
                    codes::BUCKET_NOT_CONFIGURED,
                ]),
        )
        .add_route(
            Method::PUT,
            "/v1/uploads/{token}",
            put(direct_upload::receive_upload)
                .options(upload_cors::cors_preflight)
                .route_layer(from_fn(upload_cors::allow_any_origin)),
            Operation::new(
                "sendUpload",
                "Takes in the bytes of an upload; the token in the address is the right to send",
            )
            .request_body::<FileBytes>("*/*")
            .empty_response(204, "the file is there")
            .with_errors(&[
                codes::TOKEN_INVALID,
                codes::TOO_MANY_ATTEMPTS,
                codes::UPLOAD_NOT_FOUND,
                codes::UPLOAD_EXPIRED,
                codes::UPLOAD_SIZE_DIFFERS,
            ])
            .with_errors(&[codes::UPLOAD_IN_PROGRESS, codes::TOO_MANY_UPLOADS]),
        )
        .add_route(
            POST,
            "/v1/uploads/{id}/complete",
            post(direct_upload::complete_upload)
                .options(upload_cors::cors_preflight)
                .route_layer(from_fn(upload_cors::allow_any_origin)),
            Operation::new("completeUpload", "Starts the run of an upload; the same again gives the same run")
                .key_or_token()
                .query_params::<direct_upload::UploadTokenQuery>()
                .request_header("Prefer", "`wait=SECONDS`: answer when the run has ended, if that is soon enough")
                .json_response::<StartedRun>(202, "the run is on disk and will happen")
                .json_response::<StartedRun>(200, "the run has ended, for callers that waited")
                .with_errors(&[
                    codes::UPLOAD_NOT_FOUND,
                    codes::UPLOAD_EXPIRED,
                    codes::UPLOAD_INCOMPLETE,
                    codes::UPLOAD_SIZE_DIFFERS,
                ])
                .with_errors(&[codes::PIPELINE_NOT_FOUND, codes::PARAMS_INVALID]),
        )
        .add_route(
            POST,
            "/v1/hooks/s3",
            post(s3_notifications::receive_s3_notification),
            Operation::new(
                "tellOfObjects",
                "Event notifications of S3 stores: AWS (also through SNS, SQS, EventBridge), MinIO, Ceph",
            )
            .key_or_token()
            .query_params::<s3_notifications::WebhookTokenQuery>()
            .request_body::<S3NotificationBody>("application/json")
            .json_response::<NotificationResult>(200, "every run that the notification starts is on disk")
            .with_errors(&[codes::NOTIFICATION_INVALID, codes::NOTIFICATION_UNKNOWN]),
        )
        .add_route(
            POST,
            "/v1/events/{name}",
            post(publish_event::publish_event),
            Operation::new(
                "tellOfEvent",
                "An event of the application: it starts pipelines and wakes steps that wait for it",
            )
            .key_or_signature()
            .path_pattern("^[A-Za-z0-9._-]{1,100}$")
            .idempotency_key("the event's own id: told again, it is the same event; with another body it is refused")
            .json_body::<Map<String, Value>>()
            .json_response::<EventResult>(202, "all that it starts and wakes is on disk")
            .json_response::<EventResult>(200, "the same, for a webhook")
            .with_errors(&[codes::HEADER_INVALID, codes::EVENT_INVALID, codes::IDEMPOTENCY_KEY_REUSED]),
        )
}

fn item_routes(routes: ApiRoutes) -> ApiRoutes {
    routes.add_route(
        GET,
        "/v1/runs/{id}/steps/{step}/items",
        get(items::list_items),
        Operation::new("listItems", "The items of a step with `for_each`, in their order, a page at a time")
            .require_key()
            .query_params::<items::ItemPageQuery>()
            .json_response::<items::ItemPage>(200, "a page; an empty one for a step without items")
            .with_errors(&[codes::RUN_NOT_FOUND, codes::STEP_NOT_FOUND]),
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

/// The bytes of a file, as an OpenAPI schema.
struct FileBytes;

impl JsonSchema for FileBytes {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Bytes".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({})
    }
}

/// An accepted run.
#[derive(Serialize, JsonSchema)]
struct AcceptedRun {
    #[serde(flatten)]
    run: RunView,
    /// A URL where a page can follow the run without an API key.
    watch_url: String,
}

/// A run that a request has started, or an earlier one like it.
#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "it describes what `created_response` builds")]
enum StartedRun {
    /// For its creator, and for callers that may read it.
    Accepted(Box<AcceptedRun>),
    /// For other keys.
    Receipt(RunReceipt),
}
