//! Starting a run: parameters and files in, 202 out once the run is on disk.

use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::{Request, State};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};
use tracing::Instrument;
use ulid::Ulid;

use super::app::{App, MOST_FORMS};
use super::auth::{Caller, Scope, lacks};
use super::extract::{self, Id};
use super::files;
use super::form::{Form, Given};
use super::pipelines::{LivePipeline, Takes, not_live};
use super::problem::Problem;
use super::runs::RunSummary;
use super::uploads::Uploads;
use crate::engine::{NewRun, RunView, Started, run_url};
use crate::error::{Error, Result};
use crate::secrets::Purpose;
use crate::store::RunRecord;

const ORIGIN: &str = "api";
/// A body, for those who send another one.
const EXAMPLE: &str = "{\"params\": {}}";
/// When a client should try again that came when too many were sending.
const RETRY: Duration = Duration::from_secs(5);
/// What a form may weigh beside its files.
const FORM_ROOM: u64 = 4 << 20;

/// The JSON body.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewRunBody {
    #[serde(default)]
    params: Map<String, Value>,
    run_at: Option<Value>,
    priority: Option<Value>,
    queue: Option<Value>,
}

/// `POST /v1/pipelines/{name}/runs`
pub(super) async fn create(
    State(app): State<App>,
    caller: Caller,
    Id(name): Id,
    request: Request,
) -> Result<Response, Problem> {
    if !caller.may_write(&name) {
        return Err(lacks(&Scope::RunsWrite(Some(name))).into());
    }
    let pipeline = app.live().get(&name).ok_or_else(|| not_live(&name))?;
    if request.headers().contains_key("idempotency-key") {
        return Err(Problem::new("not_supported_yet", "the header `Idempotency-Key` is not supported yet")
            .hint("leave it out; every request then starts a run"));
    }
    let order = Order { app, caller, pipeline, id: Ulid::generate().to_string() };
    let (parts, body) = request.into_parts();
    // A task of its own, so that a client that goes away cannot stop it between the store and the database: the body
    // then breaks off, and what was stored is deleted.
    #[expect(clippy::disallowed_methods, reason = "it is waited for below, unless the client goes away")]
    let task = tokio::spawn(async move { order.fill(&parts.headers, body).await }.in_current_span());
    match task.await {
        Ok(answer) => Ok(answer?),
        Err(ended) => match ended.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(Error::stopped("shutting_down", "the service is going down").into()),
        },
    }
}

/// A run that somebody asked for.
struct Order {
    app: App,
    caller: Caller,
    pipeline: LivePipeline,
    id: String,
}

impl Order {
    async fn fill(self, headers: &HeaderMap, body: Body) -> Result<Response> {
        let mut uploads = Uploads::new(self.app.clone(), self.id.clone());
        let run = match self.params(headers, body, &mut uploads).await {
            Ok(params) => self.start(params, &mut uploads).await,
            Err(error) => Err(error),
        };
        match run {
            Ok(run) => Ok(self.answer(run).await),
            Err(error) => {
                uploads.discard().await;
                Err(error)
            }
        }
    }

    async fn params(&self, headers: &HeaderMap, body: Body, uploads: &mut Uploads) -> Result<Map<String, Value>> {
        let limits = &self.app.config().limits;
        let Given { mut params, files } = match extract::media_type(headers).as_deref() {
            _ if body.is_end_stream() => Given::default(),
            Some("multipart/form-data") => self.form(headers, body, uploads).await?,
            Some(media) if media == "application/json" || media.ends_with("+json") => {
                let body: Option<NewRunBody> = extract::json_body(body, limits.body, EXAMPLE).await?;
                Given { params: body.unwrap_or_default().checked()?, files: Map::new() }
            }
            other => return Err(media_unknown(other)),
        };
        let unfit = files::resolve(&self.app, &self.caller, &self.pipeline, &mut params).await?;
        params.extend(files);
        unfit.refuse(&self.pipeline, &params)?;
        Ok(params)
    }

    async fn form(&self, headers: &HeaderMap, body: Body, uploads: &mut Uploads) -> Result<Given> {
        let limits = &self.app.config().limits;
        let boundary = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).map(multer::parse_boundary);
        let Some(Ok(boundary)) = boundary else {
            return Err(Error::permanent("multipart_invalid", "the content type names no boundary"));
        };
        let length = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        let mut takes = self.pipeline.file_params().map(|(_, takes)| takes);
        let files = takes.try_fold(0_u64, |files, takes| (takes == Takes::One).then_some(files + 1));
        let most = files.map_or(u64::MAX, |files| limits.upload.0.saturating_mul(files));
        let most = most.saturating_add(limits.body.0).saturating_add(FORM_ROOM);
        if length.is_some_and(|length| length > most) {
            let message = format!("the form is larger than the files that `{}` takes", self.pipeline.name);
            return Err(Error::permanent("upload_too_large", message)
                .hint(format!("`limits.upload` in the configuration is {}", limits.upload)));
        }
        let mut form = Form::new(body, &boundary, limits.body);
        let Some(_room) = self.app.room() else {
            form.leave().await;
            let message = format!("{MOST_FORMS} uploads are under way");
            return Err(Error::transient("too_many_uploads", message).retry_after(RETRY));
        };
        match form.read(&self.pipeline, uploads).await {
            Ok(given) => Ok(given),
            Err(error) => {
                form.leave().await;
                Err(error)
            }
        }
    }

    async fn start(&self, params: Map<String, Value>, uploads: &mut Uploads) -> Result<RunRecord> {
        let files = std::mem::take(&mut uploads.files);
        let (id, pipeline) = (self.id.clone(), self.pipeline.name.clone());
        let new = NewRun { id, pipeline, params, origin: ORIGIN, uploads: files, event: None, inbox: None };
        match self.app.start(new).await {
            Ok(Started::New(run)) => Ok(*run),
            Ok(Started::Known { run_id, .. }) => self.app.db().run(&run_id).await?.ok_or_else(|| gone(&run_id)),
            // A commit whose answer was lost may have happened; then the files belong to the run.
            Err(error) if error.is_transient() => match self.app.db().run(&self.id).await {
                Ok(Some(run)) => Ok(run),
                Ok(None) => Err(error),
                Err(_) => {
                    uploads.keep();
                    Err(error)
                }
            },
            Err(error) => Err(error),
        }
    }

    /// The run is on disk: from here on the answer is 202, whatever happens.
    async fn answer(&self, run: RunRecord) -> Response {
        let base_url = self.app.base_url();
        let view = RunView::read(self.app.db(), &run.id, base_url).await;
        let body = match view {
            Ok(Some(view)) => serde_json::to_value(view),
            _ => serde_json::to_value(RunSummary::new(run, base_url)),
        };
        let mut body = body.unwrap_or_default();
        let url = run_url(base_url, &self.id);
        let token = self.app.signer().token(Purpose::Watch, &self.id);
        if let Value::Object(fields) = &mut body {
            fields.insert("watch_url".into(), format!("{url}?token={token}").into());
        }
        let mut response = (StatusCode::ACCEPTED, axum::Json(body)).into_response();
        if let Ok(location) = HeaderValue::from_str(&format!("/v1/runs/{}", self.id)) {
            response.headers_mut().insert(LOCATION, location);
        }
        response
    }
}

impl NewRunBody {
    fn checked(self) -> Result<Map<String, Value>> {
        let later = [("run_at", &self.run_at), ("priority", &self.priority), ("queue", &self.queue)];
        match later.iter().find(|(_, value)| value.is_some()) {
            Some((name, _)) => Err(Error::permanent("not_supported_yet", format!("`{name}` is not supported yet"))),
            None => Ok(self.params),
        }
    }
}

fn gone(id: &str) -> Error {
    Error::permanent("run_not_found", format!("the run `{id}` has been deleted"))
}

fn media_unknown(media: Option<&str>) -> Error {
    let message = match media {
        Some(media) => format!("a body of type `{media}` is not understood"),
        None => "the body has no `Content-Type`".to_owned(),
    };
    Error::permanent("unsupported_media_type", message).hint("send `application/json` or `multipart/form-data`")
}
