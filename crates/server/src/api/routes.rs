//! Every route of the service, with what the OpenAPI document says of it. A new route is one entry here.

use axum::Json;
use axum::extract::State;
use axum::http::Method;
use axum::middleware::from_fn;
use axum::routing::{get, post, put};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

use super::openapi::{Operation, Routes, document};
use super::pipelines::{Catalogue, LivePipeline};
use super::{
    App, artifacts, create, direct, events, hooks, items, links, metrics, pauses, pipelines, probes, runs, tell,
};
use crate::triggers::{Heard, Received};
use afterload_engine::RunView;
use afterload_metrics::MEDIA_TYPE;

const GET: Method = Method::GET;
const POST: Method = Method::POST;

/// The table of all routes.
pub(super) fn table() -> Routes {
    let parts: [fn(Routes) -> Routes; 8] =
        [about_pipelines, about_pauses, about_runs, about_items, about_files, about_links, about_events, about_service];
    parts.into_iter().fold(Routes::default(), |routes, part| part(routes))
}

fn about_pipelines(routes: Routes) -> Routes {
    routes
        .add(
            GET,
            "/v1/pipelines",
            get(pipelines::list),
            Operation::new("listPipelines", "The pipelines that are live, and the files that are refused and why")
                .key()
                .answers::<Catalogue>(200, "what the key may read or start"),
        )
        .add(
            GET,
            "/v1/pipelines/{name}",
            get(pipelines::show),
            Operation::new("showPipeline", "One live pipeline, with its definition for keys that may read its runs")
                .key()
                .answers::<LivePipeline>(200, "the pipeline")
                .refuses(&["pipeline_not_found"]),
        )
        .add(
            GET,
            "/v1/schema",
            get(pipelines::schema),
            Operation::new("showSchema", "The JSON Schema of a pipeline file, for editors")
                .key()
                .answers::<Map<String, Value>>(200, "a JSON Schema"),
        )
}

fn about_pauses(routes: Routes) -> Routes {
    routes
        .add(
            GET,
            "/v1/queues",
            get(pauses::queues),
            Operation::new("listQueues", "The queues, how many steps wait in them, and which are paused")
                .key()
                .answers::<pauses::QueueList>(200, "all queues"),
        )
        .add(
            POST,
            "/v1/queues/{name}/pause",
            post(pauses::pause_queue),
            Operation::new("pauseQueue", "Starts no step of the queue in any process; what runs goes on to its end")
                .key()
                .answers::<pauses::QueueView>(200, "the queue, which is paused")
                .refuses(&["queue_not_found"]),
        )
        .add(
            POST,
            "/v1/queues/{name}/resume",
            post(pauses::resume_queue),
            Operation::new("resumeQueue", "Lets a paused queue go on")
                .key()
                .answers::<pauses::QueueView>(200, "the queue, which goes on")
                .refuses(&["queue_not_found"]),
        )
        .add(
            POST,
            "/v1/pipelines/{name}/pause",
            post(pauses::pause_pipeline),
            Operation::new("pausePipeline", "Starts no step of its runs; they are accepted and wait")
                .key()
                .answers::<pauses::PipelineState>(200, "the pipeline is paused")
                .refuses(&["pipeline_not_found"]),
        )
        .add(
            POST,
            "/v1/pipelines/{name}/resume",
            post(pauses::resume_pipeline),
            Operation::new("resumePipeline", "Lets the runs of a paused pipeline go on")
                .key()
                .answers::<pauses::PipelineState>(200, "the pipeline goes on")
                .refuses(&["pipeline_not_found"]),
        )
}

fn about_runs(routes: Routes) -> Routes {
    routes
        .add(
            POST,
            "/v1/pipelines/{name}/runs",
            post(create::create),
            Operation::new("createRun", "Starts a run; file parts of a form stream into the store")
                .key()
                .query::<create::Wishes>()
                .header("Idempotency-Key", "the same request may be sent again under it for a day")
                .header("Prefer", "`wait=SECONDS`: answer when the run has ended, if that is soon enough")
                .json::<create::NewRunBody>()
                .body::<Map<String, Value>>("multipart/form-data")
                .answers::<Accepted>(202, "the run is on disk and will happen")
                .answers::<Accepted>(200, "the run has ended, for callers that waited")
                .refuses(&["header_invalid", "multipart_invalid", "pipeline_not_found", "upload_too_large"])
                .refuses(&["params_invalid", "bucket_forbidden", "run_options_invalid", "idempotency_key_reused"])
                .refuses(&["object_not_found", "object_changed", "object_access_denied", "bucket_not_configured"]),
        )
        .add(
            GET,
            "/v1/runs",
            get(runs::list),
            Operation::new("listRuns", "Runs, newest first, a page at a time")
                .key()
                .query::<runs::ListQuery>()
                .answers::<runs::Page>(200, "a page"),
        )
        .add(
            GET,
            "/v1/runs/{id}",
            get(runs::show).route_layer(from_fn(runs::open_to_pages)),
            Operation::new("showRun", "A run with its steps, its progress and its files")
                .key_or_token()
                .query::<runs::ShowQuery>()
                .header("Accept", "`text/event-stream` for events, as browsers' `EventSource` sends")
                .answers::<RunView>(200, "the run")
                .refuses(&["run_not_found"]),
        )
        .add(
            GET,
            "/v1/runs/{id}/events",
            get(runs::events).route_layer(from_fn(runs::open_to_pages)),
            Operation::new("followRun", "A run as server-sent events: the whole run at each change, then one `end`")
                .key_or_token()
                .query::<runs::ShowQuery>()
                .header("Last-Event-ID", "the revision that was seen last")
                .gives::<String>(200, "events until the run has ended", events::MEDIA_TYPE)
                .empty(204, "the end was seen before")
                .refuses(&["run_not_found"]),
        )
        .add(
            POST,
            "/v1/runs/{id}/cancel",
            post(runs::cancel),
            Operation::new("cancelRun", "Stops a run; `finally` still runs")
                .key()
                .answers::<RunView>(202, "the run is asked to stop")
                .answers::<RunView>(200, "the run has stopped")
                .refuses(&["run_not_found", "run_ended"]),
        )
        .add(
            POST,
            "/v1/runs/{id}/retry",
            post(runs::retry),
            Operation::new("retryRun", "Goes on with a failed or cancelled run from the steps that did not succeed")
                .key()
                .answers::<RunView>(202, "the run goes on")
                .answers::<RunView>(200, "the run has ended again")
                .refuses(&[
                    "run_not_found",
                    "run_not_ended",
                    "run_succeeded",
                    "run_files_expired",
                    "run_never_began",
                    "definition_invalid",
                ]),
        )
}

fn about_files(routes: Routes) -> Routes {
    routes.add(
        GET,
        "/v1/artifacts/{id}",
        get(artifacts::download),
        Operation::new("downloadArtifact", "A file, whole or one range of it")
            .key_or_token()
            .query::<artifacts::DownloadQuery>()
            .header("Range", "one range of bytes, such as `bytes=0-1023`")
            .header("If-None-Match", "an `ETag` that the caller has already")
            .header("If-Range", "an `ETag` for which the range is meant")
            .gives::<Bytes>(200, "the whole file", "*/*")
            .gives::<Bytes>(206, "the range", "*/*")
            .empty(304, "the file is the one that the caller has")
            .refuses(&["artifact_not_found", "artifact_gone", "file_expired", "range_not_satisfiable"]),
    )
}

fn about_events(routes: Routes) -> Routes {
    routes
        .add(
            POST,
            "/v1/uploads",
            post(direct::begin),
            Operation::new("beginUpload", "Where to send a file straight to the store")
                .key()
                .json::<direct::NewUpload>()
                .answers::<direct::Ticket>(201, "where to PUT the bytes, and what to call then")
                .refuses(&["pipeline_not_found", "params_invalid", "upload_too_large", "bucket_forbidden"])
                .refuses(&["object_not_found", "object_changed", "object_access_denied", "bucket_not_configured"]),
        )
        .add(
            Method::PUT,
            "/v1/uploads/{token}",
            put(direct::receive).options(direct::preflight).route_layer(from_fn(direct::open_to_pages)),
            Operation::new(
                "sendUpload",
                "Takes in the bytes of an upload; the token in the address is the right to send",
            )
            .body::<Bytes>("*/*")
            .empty(204, "the file is there")
            .refuses(&["token_invalid", "upload_not_found", "upload_expired", "upload_size_differs"]),
        )
        .add(
            POST,
            "/v1/uploads/{id}/complete",
            post(direct::complete).options(direct::preflight).route_layer(from_fn(direct::open_to_pages)),
            Operation::new("completeUpload", "Starts the run of an upload; the same again gives the same run")
                .key_or_token()
                .query::<direct::Token>()
                .answers::<Accepted>(202, "the run is on disk and will happen")
                .refuses(&["upload_not_found", "upload_expired", "upload_incomplete", "upload_size_differs"])
                .refuses(&["pipeline_not_found", "params_invalid"]),
        )
        .add(
            POST,
            "/v1/hooks/s3",
            post(hooks::s3),
            Operation::new("tellOfObjects", "Event notifications of S3 stores: AWS (also through SNS), MinIO, Ceph")
                .key_or_token()
                .query::<hooks::Token>()
                .body::<Map<String, Value>>("application/json")
                .answers::<Received>(200, "every run that the notification starts is on disk")
                .refuses(&["notification_invalid"]),
        )
        .add(
            POST,
            "/v1/events/{name}",
            post(tell::tell),
            Operation::new(
                "tellOfEvent",
                "An event of the application: it starts pipelines and wakes steps that wait for it",
            )
            .key_or_signature()
            .header("Idempotency-Key", "the event's own id: told again, it is the same event")
            .json::<Map<String, Value>>()
            .answers::<Heard>(202, "all that it starts and wakes is on disk")
            .answers::<Heard>(200, "the same, for a webhook")
            .refuses(&["header_invalid", "event_invalid"]),
        )
}

fn about_items(routes: Routes) -> Routes {
    routes.add(
        GET,
        "/v1/runs/{id}/steps/{step}/items",
        get(items::list),
        Operation::new("listItems", "The items of a step with `for_each`, in their order, a page at a time")
            .key()
            .query::<items::ItemsQuery>()
            .answers::<items::Page>(200, "a page; an empty one for a step without items")
            .refuses(&["run_not_found", "step_not_found"]),
    )
}

fn about_links(routes: Routes) -> Routes {
    routes
        .add(
            GET,
            "/d/{token}",
            get(links::open),
            Operation::new("openLink", "The file of a link in a mail; for browsers, refusals are pages")
                .header("Range", "one range of bytes, such as `bytes=0-1023`")
                .gives::<Bytes>(200, "the whole file", "*/*")
                .gives::<Bytes>(206, "the range", "*/*")
                .empty(304, "the file is the one that the caller has")
                .refuses(&["link_not_found", "link_expired", "link_revoked", "file_expired", "artifact_gone"])
                .refuses(&["range_not_satisfiable"]),
        )
        .add(
            GET,
            "/v1/artifacts/{id}/links",
            get(links::list),
            Operation::new("listLinks", "The links to a file, and how often each was used")
                .key()
                .answers::<links::LinkList>(200, "the links")
                .refuses(&["artifact_not_found"]),
        )
        .add(
            POST,
            "/v1/links/{id}/revoke",
            post(links::revoke),
            Operation::new("revokeLink", "Takes a link back")
                .key()
                .answers::<links::LinkView>(200, "the link, which opens nothing any more")
                .refuses(&["link_not_found"]),
        )
}

fn about_service(routes: Routes) -> Routes {
    routes
        .add(
            GET,
            "/healthz",
            get(probes::alive),
            Operation::new("isAlive", "Whether the process answers").answers::<probes::State>(200, "it does"),
        )
        .add(
            GET,
            "/readyz",
            get(probes::ready),
            Operation::new("isReady", "Whether the database answers, too").answers::<probes::State>(200, "it does"),
        )
        .add(
            GET,
            "/metrics",
            get(metrics::show),
            Operation::new("showMetrics", "What this process counts, and how long the queues are")
                .key_from_afar()
                .gives::<String>(200, "the text format of OpenMetrics, as Prometheus reads it", MEDIA_TYPE),
        )
        .add(
            GET,
            "/openapi.json",
            get(openapi),
            Operation::new("showOpenApi", "This document")
                .answers::<Map<String, Value>>(200, "an OpenAPI 3.1 document"),
        )
}

/// `GET /openapi.json`
async fn openapi(State(app): State<App>) -> Json<Value> {
    let mut document = document().clone();
    document["servers"] = serde_json::json!([{ "url": app.base_url() }]);
    Json(document)
}

/// The bytes of a file.
struct Bytes;

impl JsonSchema for Bytes {
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

/// A run that has been accepted.
#[derive(Serialize, JsonSchema)]
struct Accepted {
    #[serde(flatten)]
    run: RunView,
    /// Where a page can follow the run without a key.
    watch_url: String,
}
