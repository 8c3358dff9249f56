//! The routes that start runs, follow them and change them: calls, uploads, events and notifications.

use axum::http::Method;
use axum::middleware::from_fn;
use axum::routing::{get, post, put};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

use super::artifacts::FileBytes;
use super::openapi::{ApiRoutes, Operation};
use super::visible_run::{RunReceipt, VisibleRun};
use super::{
    create_run, direct_upload, items, publish_event, replay_run, run_reader, run_sse, runs, s3_notifications,
    upload_cors,
};
use crate::codes;
use crate::triggers::{EventResult, NotificationResult, S3NotificationBody};
use afterload_engine::RunView;

const GET: Method = Method::GET;
const POST: Method = Method::POST;

/// Adds all of them.
pub(super) fn run_routes(routes: ApiRoutes) -> ApiRoutes {
    let parts: [fn(ApiRoutes) -> ApiRoutes; 5] =
        [run_view_routes, run_action_routes, item_routes, upload_routes, event_routes];
    parts.into_iter().fold(routes, |routes, part| part(routes))
}

fn run_view_routes(routes: ApiRoutes) -> ApiRoutes {
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
                .hops_header()
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
                .hops_header()
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

fn upload_routes(routes: ApiRoutes) -> ApiRoutes {
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
                .hops_header()
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
}

fn event_routes(routes: ApiRoutes) -> ApiRoutes {
    routes
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
            .hops_header()
            .json_body::<Map<String, Value>>()
            .json_response::<EventResult>(202, "all that it starts and wakes is on disk")
            .json_response::<EventResult>(200, "the same, for a webhook")
            .with_errors(&[codes::HEADER_INVALID, codes::EVENT_INVALID, codes::IDEMPOTENCY_KEY_REUSED]),
        )
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
