//! Starting a run: parameters and files in, 202 out once the run is on disk.

use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::{Request, State};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};
use tracing::Instrument;
use ulid::Ulid;

use super::app::{App, MOST_FORMS};
use super::auth::{Caller, Scope, lacks};
use super::extract::{self, Id, Query};
use super::files;
use super::form::{Form, Given};
use super::idempotency::{self, Fingerprint};
use super::pipelines::{LivePipeline, Takes, not_live};
use super::problem::Problem;
use super::runs::RunSummary;
use super::uploads::Uploads;
use super::wait::Patience;
use afterload_core::clock::{self, Millis};
use afterload_core::error::{Error, Result};
use afterload_core::secrets::Purpose;
use afterload_core::units::is_name;
use afterload_egress::parse_url;
use afterload_engine::{Inbox, NewRun, Started, run_url};
use afterload_state::RunRecord;

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
    run_at: Option<String>,
    priority: Option<Value>,
    queue: Option<String>,
    notify_url: Option<String>,
}

/// When and where the run goes, and who is told of its end: in a JSON body, or in the query beside any body.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Wishes {
    run_at: Option<String>,
    priority: Option<Value>,
    queue: Option<String>,
    notify_url: Option<String>,
}

/// What a run is to be, once its wishes have been checked.
struct Granted {
    run_at: Option<Millis>,
    priority: Option<i32>,
    queue: Option<String>,
    notify_url: Option<String>,
}

/// `POST /v1/pipelines/{name}/runs`
pub(super) async fn create(
    State(app): State<App>,
    caller: Caller,
    Id(name): Id,
    Query(wishes): Query<Wishes>,
    request: Request,
) -> Result<Response, Problem> {
    if !caller.may_write(&name) {
        return Err(lacks(&Scope::RunsWrite(Some(name))).into());
    }
    let pipeline = app.live().get(&name).ok_or_else(|| not_live(&name))?;
    let key = idempotency::key(request.headers())?;
    let order = Order { app, caller, pipeline, key, wishes, id: Ulid::generate().to_string() };
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
    key: Option<String>,
    wishes: Wishes,
    id: String,
}

/// The run that an order came to.
pub(super) struct Filled {
    pub run: RunRecord,
    /// The same request had started it before.
    pub before: bool,
}

impl Order {
    async fn fill(self, headers: &HeaderMap, body: Body) -> Result<Response> {
        let mut uploads = Uploads::new(self.app.clone(), self.id.clone());
        uploads.fingerprint = self.key.as_ref().map(|_| Fingerprint::new());
        let run = match self.new_run(headers, body, &mut uploads).await {
            Ok(new) => self.start(new, &mut uploads).await,
            Err(error) => Err(error),
        };
        match run {
            Ok(filled) => {
                if filled.before {
                    uploads.discard().await;
                }
                let patience = Patience::new(&self.app, headers, &self.pipeline);
                Ok(answer(&self.app, &self.pipeline, filled, patience).await)
            }
            Err(error) => {
                uploads.discard().await;
                Err(error)
            }
        }
    }

    async fn new_run(&self, headers: &HeaderMap, body: Body, uploads: &mut Uploads) -> Result<NewRun> {
        let limits = self.app.config();
        let mut wishes = self.wishes.clone();
        let Given { mut params, files } = match extract::media_type(headers).as_deref() {
            _ if body.is_end_stream() => Given::default(),
            Some("multipart/form-data") => self.form(headers, body, uploads).await?,
            Some(media) if media == "application/json" || media.ends_with("+json") => {
                let body: Option<NewRunBody> = extract::json_body(body, limits.max_body, EXAMPLE).await?;
                let body = body.unwrap_or_default();
                let NewRunBody { params, run_at, priority, queue, notify_url } = body;
                wishes = Wishes { run_at, priority, queue, notify_url }.or(wishes);
                Given { params, files: Map::new() }
            }
            other => return Err(media_unknown(other)),
        };
        if let Some(fingerprint) = &mut uploads.fingerprint {
            fingerprint.add_params(&params);
            fingerprint.add(format!("{wishes:?}").as_bytes());
        }
        let inbox = self.key.clone().map(|key| Inbox {
            source: idempotency::SOURCE,
            key,
            fingerprint: uploads.fingerprint.take().map(Fingerprint::finish),
        });
        let id = self.id.clone();
        // What was accepted before is not looked at again: its files may be gone by now.
        if self.is_known(inbox.as_ref()).await? {
            return Ok(NewRun { id, pipeline: self.pipeline.name.clone(), inbox, ..NewRun::default() });
        }
        let unfit = files::resolve(&self.app, &self.caller, &self.pipeline, &mut params).await?;
        params.extend(files);
        unfit.refuse(&self.pipeline, &params)?;
        let Granted { run_at, priority, queue, notify_url } = wishes.checked()?;
        let (pipeline, uploads) = (self.pipeline.name.clone(), uploads.files.clone());
        let origin = ORIGIN;
        Ok(NewRun { id, pipeline, params, origin, uploads, run_at, priority, queue, notify_url, inbox, event: None })
    }

    async fn is_known(&self, inbox: Option<&Inbox>) -> Result<bool> {
        let Some(Inbox { source, key, .. }) = inbox else { return Ok(false) };
        Ok(self.app.db().inbox(&self.pipeline.name, source, key).await?.is_some())
    }

    async fn form(&self, headers: &HeaderMap, body: Body, uploads: &mut Uploads) -> Result<Given> {
        let limits = self.app.config();
        let boundary = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).map(multer::parse_boundary);
        let Some(Ok(boundary)) = boundary else {
            return Err(Error::permanent("multipart_invalid", "the content type names no boundary"));
        };
        let length = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        let mut takes = self.pipeline.file_params().map(|(_, takes)| takes);
        let files = takes.try_fold(0_u64, |files, takes| (takes == Takes::One).then_some(files + 1));
        let most = files.map_or(u64::MAX, |files| limits.max_upload.0.saturating_mul(files));
        let most = most.saturating_add(limits.max_body.0).saturating_add(FORM_ROOM);
        if length.is_some_and(|length| length > most) {
            let message = format!("the form is larger than the files that `{}` takes", self.pipeline.name);
            return Err(Error::permanent("upload_too_large", message)
                .hint(format!("`limits.upload` in the configuration is {}", limits.max_upload)));
        }
        let mut form = Form::new(body, &boundary, limits.max_body);
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

    async fn start(&self, new: NewRun, uploads: &mut Uploads) -> Result<Filled> {
        let said = new.inbox.as_ref().and_then(|inbox| inbox.fingerprint.clone());
        match self.app.start(new).await {
            Ok(Started::New(run)) => Ok(Filled { run: *run, before: false }),
            Ok(Started::Known { fingerprint, .. }) if fingerprint != said => Err(idempotency::reused()),
            Ok(Started::Known { run_id, .. }) => {
                let run = self.app.db().run(&run_id).await?.ok_or_else(|| gone(&run_id))?;
                let before = run.id != self.id;
                Ok(Filled { run, before })
            }
            // A commit whose answer was lost may have happened; then the files belong to the run.
            Err(error) if error.is_transient() => match self.app.db().run(&self.id).await {
                Ok(Some(run)) => Ok(Filled { run, before: false }),
                Ok(None) => Err(error),
                Err(_) => {
                    uploads.keep();
                    Err(error)
                }
            },
            Err(error) => Err(error),
        }
    }
}

/// The run is on disk: from here on the answer is no refusal, whatever happens.
pub(super) async fn answer(
    app: &App,
    pipeline: &LivePipeline,
    Filled { run, before }: Filled,
    patience: Patience,
) -> Response {
    let (base_url, id) = (app.base_url(), run.id.clone());
    let view = patience.wait(app, &id, pipeline).await;
    let ended = matches!(&view, Ok(Some(view)) if view.is_final());
    let body = match view {
        Ok(Some(view)) => serde_json::to_value(view),
        _ => serde_json::to_value(RunSummary::new(run, base_url)),
    };
    let mut body = body.unwrap_or_default();
    let url = run_url(base_url, &id);
    let token = app.signer().token(Purpose::Watch, &id);
    if let Value::Object(fields) = &mut body {
        fields.insert("watch_url".into(), format!("{url}?token={token}").into());
    }
    // Only who asked to wait for the end is told of it by the status.
    let status = if ended && patience != Patience::default() { StatusCode::OK } else { StatusCode::ACCEPTED };
    let mut response = (status, axum::Json(body)).into_response();
    let headers = response.headers_mut();
    if let Ok(location) = HeaderValue::from_str(&format!("/v1/runs/{id}")) {
        headers.insert(LOCATION, location);
    }
    if let Some(wait) = patience.run {
        let applied = HeaderValue::from_str(&format!("wait={}", wait.as_secs()));
        headers.extend(applied.ok().map(|applied| (HeaderName::from_static("preference-applied"), applied)));
    }
    if before {
        headers.insert("idempotency-replayed", HeaderValue::from_static("true"));
    }
    response
}

impl Wishes {
    /// These, and the others where these say nothing.
    fn or(self, other: Self) -> Self {
        Self {
            run_at: self.run_at.or(other.run_at),
            priority: self.priority.or(other.priority),
            queue: self.queue.or(other.queue),
            notify_url: self.notify_url.or(other.notify_url),
        }
    }

    fn checked(self) -> Result<Granted> {
        let invalid = |message: String, hint: &str| Error::permanent("run_options_invalid", message).hint(hint);
        let run_at = self.run_at.map(|text| {
            clock::parse_rfc3339(&text)
                .ok_or_else(|| invalid(format!("`{text}` is not a time"), "write it as `2030-01-31T08:00:00Z`"))
        });
        let priority = self.priority.map(|value| {
            let number = value.as_i64().or_else(|| value.as_str()?.parse().ok());
            let fits = number.filter(|number| (-100..=100).contains(number)).map(|number| number as i32);
            fits.ok_or_else(|| {
                invalid(format!("{value} is not a priority"), "expected a whole number from -100 to 100")
            })
        });
        if let Some(queue) = self.queue.as_ref().filter(|queue| !is_name(queue)) {
            let hint = "start with a small letter, go on with small letters, digits, `-` and `_`";
            return Err(invalid(format!("`{queue}` is not a name for a queue"), hint));
        }
        if let Some(Err(error)) = self.notify_url.as_ref().map(|url| parse_url(url)) {
            let hint = "write an address such as `https://app.example/hooks/runs`, without a password";
            return Err(invalid(format!("`notify_url`: {}", error.message()), hint));
        }
        let (run_at, priority) = (run_at.transpose()?, priority.transpose()?);
        Ok(Granted { run_at, priority, queue: self.queue, notify_url: self.notify_url })
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
