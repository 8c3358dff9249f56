//! Creates runs: reads parameters and files, responds with 202 once the run is committed.

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

use super::auth::Caller;
use super::extract::{self, PathId, StrictQuery};
use super::file_params;
use super::form::{FormData, FormLimits, MultipartForm};
use super::idempotency::{self, RepeatedRequest, RequestFingerprint};
use super::pipelines::pipeline_not_found;
use super::problem::Problem;
use super::runs::RunSummary;
use super::scopes::{ApiKeyScope, missing_scope};
use super::state::ApiState;
use super::uploads::RunUploads;
use super::visible_run::{RunAccess, RunReceipt};
use super::wait::WaitPolicy;
use crate::codes;
use crate::whole_number;
use afterload_core::clock::{self, UnixMillis};
use afterload_core::error::{Error, Result};
use afterload_core::keyring::TokenPurpose;
use afterload_core::units::is_queue_name;
use afterload_egress::parse_url;
use afterload_engine::registry::PipelineSummary;
use afterload_engine::{DedupKey, NewRun, StartOutcome, run_url};
use afterload_state::RunRecord;

const API_ORIGIN: &str = "api";
/// An example body, for error messages.
const RUN_BODY_EXAMPLE: &str = "{\"params\": {}}";
/// How large a form may be in addition to its files.
const FORM_OVERHEAD_BYTES: u64 = 4 << 20;

/// The JSON body.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewRunBody {
    /// The params of the pipeline.
    #[serde(default)]
    params: Map<String, Value>,
    /// The time of its start. RFC 3339.
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    run_at: Option<String>,
    /// From -100 to 100; higher ones start first.
    #[schemars(with = "Option<RunPriority>")]
    priority: Option<Value>,
    /// The queue of all steps: one that the configuration, a live pipeline or an open step names.
    #[schemars(regex(pattern = r"^[a-z][a-z0-9_-]{0,62}$"))]
    queue: Option<String>,
    /// The URL to notify of its end.
    #[schemars(with = "Option<String>", extend("format" = "uri"))]
    notify_url: Option<String>,
}

/// A priority, also as text.
struct RunPriority;

impl JsonSchema for RunPriority {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "RunPriority".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": ["integer", "string"], "minimum": -100, "maximum": 100, "pattern": "^[+-]?[0-9]+$" })
    }
}

/// When and where the run starts, and the URL to notify of its end: in a JSON body, or in the query with any body.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RunOptions {
    /// The time of its start. RFC 3339.
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    run_at: Option<String>,
    /// From -100 to 100; higher ones start first.
    #[schemars(with = "Option<i32>", range(min = -100, max = 100))]
    priority: Option<Value>,
    /// The queue of all steps: one that the configuration, a live pipeline or an open step names.
    #[schemars(regex(pattern = r"^[a-z][a-z0-9_-]{0,62}$"))]
    queue: Option<String>,
    /// The URL to notify of its end.
    #[schemars(with = "Option<String>", extend("format" = "uri"))]
    notify_url: Option<String>,
}

struct ValidRunOptions {
    run_at: Option<UnixMillis>,
    priority: Option<i32>,
    queue: Option<String>,
    notify_url: Option<String>,
}

/// `POST /v1/pipelines/{name}/runs`
pub(super) async fn create_run(
    State(app): State<ApiState>,
    caller: Caller,
    PathId(name): PathId,
    StrictQuery(options): StrictQuery<RunOptions>,
    request: Request,
) -> Result<Response, Problem> {
    if !caller.can_write(&name) {
        return Err(missing_scope(&ApiKeyScope::RunsWrite(Some(name))).into());
    }
    let pipeline = app.pipeline_registry().get(&name).ok_or_else(|| pipeline_not_found(&name))?;
    let key = idempotency::idempotency_key(request.headers())?;
    let (hops, id) = (extract::chain_hops(request.headers())?, Ulid::generate().to_string());
    let run_request = RunRequest { app, caller, pipeline, key, options, hops, id };
    let (parts, body) = request.into_parts();
    // A separate task: a client that disconnects must not cancel it between the object store and the database. Its body
    // then ends with an error, and the stored files are deleted.
    #[expect(clippy::disallowed_methods, reason = "it is waited for below, unless the client goes away")]
    let task =
        tokio::spawn(async move { run_request.create_and_respond(&parts.headers, body).await }.in_current_span());
    match task.await {
        Ok(answer) => Ok(answer?),
        Err(ended) => match ended.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(Error::new(codes::SHUTTING_DOWN, "the service is going down").into()),
        },
    }
}

pub(super) struct RunRequest {
    pub app: ApiState,
    pub caller: Caller,
    pub pipeline: PipelineSummary,
    pub key: Option<String>,
    pub options: RunOptions,
    pub hops: u32,
    pub id: String,
}

pub(super) struct CreatedRun {
    pub run: RunRecord,
    /// True if an earlier request with the same key created it.
    pub replayed: bool,
    /// What permits the caller to see it.
    pub access: RunAccess,
}

impl RunRequest {
    async fn create_and_respond(self, headers: &HeaderMap, body: Body) -> Result<Response> {
        let mut uploads = RunUploads::new(self.app.clone(), self.id.clone());
        uploads.fingerprint = self.key.as_ref().map(|_| RequestFingerprint::new());
        let run = match self.build_new_run(headers, body, &mut uploads).await {
            Ok(new) => self.start_run(new, &mut uploads).await,
            Err(error) => Err(error),
        };
        match run {
            Ok(created) => {
                // The run of the earlier request has its own files, so the ones of this request are not needed.
                if created.replayed {
                    uploads.delete_files().await;
                }
                let wait_policy = WaitPolicy::new(&self.app, headers, &self.pipeline);
                Ok(created_response(&self.app, &self.pipeline, created, wait_policy).await)
            }
            Err(error) => {
                uploads.delete_files().await;
                Err(error)
            }
        }
    }

    async fn build_new_run(&self, headers: &HeaderMap, body: Body, uploads: &mut RunUploads) -> Result<NewRun> {
        let limits = self.app.config();
        let mut options = self.options.clone();
        let FormData { mut params, files } = match extract::media_type(headers).as_deref() {
            _ if body.is_end_stream() => FormData::default(),
            Some("multipart/form-data") => self.read_form(headers, body, uploads).await?,
            Some(media) if media == "application/json" || media.ends_with("+json") => {
                let body: Option<NewRunBody> = extract::read_json_body(body, limits.max_body, RUN_BODY_EXAMPLE).await?;
                let body = body.unwrap_or_default();
                let NewRunBody { params, run_at, priority, queue, notify_url } = body;
                // The body has precedence, but what is wrong in the query is rejected too.
                options.clone().validate()?;
                options = RunOptions { run_at, priority, queue, notify_url }.merged_with(options);
                FormData { params, files: Map::new() }
            }
            other => return Err(unsupported_media_type(other)),
        };
        if let Some(fingerprint) = &mut uploads.fingerprint {
            fingerprint.add_params(&params);
            fingerprint.add_value(format!("{options:?}").as_bytes());
        }
        let dedup_key = self.key.clone().map(|key| DedupKey {
            source: idempotency::IDEMPOTENCY_SOURCE,
            key,
            fingerprint: uploads.fingerprint.take().map(|fingerprint| fingerprint.finish(self.caller.key_id())),
        });
        let id = self.id.clone();
        // A replayed request is not validated again: its files may be gone by now.
        if self.is_replay(dedup_key.as_ref()).await? {
            return Ok(NewRun { id, pipeline: self.pipeline.name.clone(), dedup_key, ..NewRun::default() });
        }
        let resolver = file_params::FileResolver { app: &self.app, caller: &self.caller, run: &id };
        let unfit = resolver.resolve_file_params(&self.pipeline, &mut params, uploads.files.len()).await?;
        params.extend(files);
        unfit.into_result(&self.pipeline, &params).await?;
        let ValidRunOptions { run_at, priority, queue, notify_url } = options.validate()?;
        let (pipeline, uploads) = (self.pipeline.name.clone(), uploads.files.clone());
        Ok(NewRun {
            id,
            pipeline,
            params,
            origin: API_ORIGIN,
            uploads,
            run_at,
            priority,
            queue,
            notify_url,
            hops: self.hops,
            dedup_key,
            ..NewRun::default()
        })
    }

    pub(super) async fn is_replay(&self, dedup_key: Option<&DedupKey>) -> Result<bool> {
        let Some(DedupKey { source, key, .. }) = dedup_key else { return Ok(false) };
        Ok(self.app.db().dedup_keys().find(&self.pipeline.name, source, key).await?.is_some())
    }

    async fn read_form(&self, headers: &HeaderMap, body: Body, uploads: &mut RunUploads) -> Result<FormData> {
        let boundary = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).map(multer::parse_boundary);
        let Some(Ok(boundary)) = boundary else {
            return Err(Error::new(codes::MULTIPART_INVALID, "the content type names no boundary"));
        };
        let length = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        let form_limits = self.form_limits();
        if length.is_some_and(|length| length > form_limits.total) {
            return Err(form_limits.too_large);
        }
        let mut form = MultipartForm::new(body, &boundary, form_limits);
        let _slot = match self.app.upload_slots().take_key_slot() {
            Ok(slot) => slot,
            Err(error) => {
                form.drain_body().await;
                return Err(error);
            }
        };
        match form.read(&self.pipeline, uploads).await {
            Ok(given) => Ok(given),
            Err(error) => {
                form.drain_body().await;
                Err(error)
            }
        }
    }

    fn form_limits(&self) -> FormLimits {
        let limits = self.app.config();
        let files = self.pipeline.file_params().map(|(name, _)| self.pipeline.max_files(name));
        let files = files.fold(0_usize, usize::saturating_add).min(limits.max_files) as u64;
        let total = limits.max_upload.0.saturating_mul(files);
        let message = format!("the form is larger than the files that `{}` takes", self.pipeline.name);
        FormLimits {
            total: total.saturating_add(limits.max_body.0).saturating_add(FORM_OVERHEAD_BYTES),
            too_large: Error::new(codes::UPLOAD_TOO_LARGE, message)
                .with_hint(format!("`limits.upload` in the configuration is {}", limits.max_upload)),
            text: limits.max_body,
            parts: limits.max_form_parts,
            files: limits.max_files,
        }
    }

    pub(super) async fn start_run(&self, new: NewRun, uploads: &mut RunUploads) -> Result<CreatedRun> {
        let own_fingerprint = new.dedup_key.as_ref().and_then(|dedup_key| dedup_key.fingerprint.clone());
        match self.app.start_run(new).await {
            Ok(StartOutcome::Created(run)) => Ok(CreatedRun { run: *run, replayed: false, access: RunAccess::Creator }),
            Ok(StartOutcome::Duplicate { run_id, fingerprint }) => {
                let (stored, own) = (fingerprint.as_deref(), own_fingerprint.as_deref());
                let access = match RepeatedRequest::from_fingerprints(stored, own) {
                    RepeatedRequest::Same => RunAccess::Creator,
                    RepeatedRequest::OfOtherKey => RunAccess::Key(self.caller.clone()),
                    RepeatedRequest::Different => return Err(idempotency::idempotency_key_reused()),
                };
                let run = self.app.db().runs().find(&run_id).await?.ok_or_else(|| run_deleted(&run_id))?;
                let before = run.id != self.id;
                Ok(CreatedRun { run, replayed: before, access })
            }
            // The commit may have happened although its reply was lost. Then the files belong to the run.
            Err(error) if error.is_transient() => match self.app.db().runs().find(&self.id).await {
                Ok(Some(run)) => Ok(CreatedRun { run, replayed: false, access: RunAccess::Creator }),
                Ok(None) => Err(error),
                Err(_) => {
                    uploads.keep_files();
                    Err(error)
                }
            },
            Err(error) => Err(error),
        }
    }
}

/// Builds the response for a committed run. From here on no error may reach the client, because the run exists.
pub(super) async fn created_response(
    app: &ApiState,
    pipeline: &PipelineSummary,
    CreatedRun { run, replayed: before, access }: CreatedRun,
    wait_policy: WaitPolicy,
) -> Response {
    let (base_url, id) = (app.base_url(), run.id.clone());
    let view = wait_policy.wait(app, &id, pipeline).await;
    let ended = matches!(&view, Ok(Some(view)) if view.is_final());
    let can_read = access.can_read(&run.pipeline);
    let body = match view {
        Ok(Some(view)) => serde_json::to_value(access.show_run(app, view)),
        _ if can_read => serde_json::to_value(RunSummary::new(run, base_url)),
        _ => serde_json::to_value(RunReceipt::from(&run)),
    };
    let mut body = body.unwrap_or_default();
    let url = run_url(base_url, &id);
    let token = app.keyring().create_token(TokenPurpose::Watch, &id);
    if let Value::Object(fields) = &mut body
        && can_read
    {
        fields.insert("watch_url".into(), format!("{url}?token={token}").into());
    }
    // The status shows the end of the run only to clients that asked to wait for it.
    let status = if ended && wait_policy != WaitPolicy::default() { StatusCode::OK } else { StatusCode::ACCEPTED };
    let mut response = (status, axum::Json(body)).into_response();
    let headers = response.headers_mut();
    if let Ok(location) = HeaderValue::from_str(&format!("/v1/runs/{id}")) {
        headers.insert(LOCATION, location);
    }
    if let Some(wait) = wait_policy.run {
        let applied = HeaderValue::from_str(&format!("wait={}", wait.as_secs()));
        headers.extend(applied.ok().map(|applied| (HeaderName::from_static("preference-applied"), applied)));
    }
    if before {
        headers.insert("idempotency-replayed", HeaderValue::from_static("true"));
    }
    response
}

impl RunOptions {
    /// Takes missing options from `other`.
    fn merged_with(self, other: Self) -> Self {
        Self {
            run_at: self.run_at.or(other.run_at),
            priority: self.priority.or(other.priority),
            queue: self.queue.or(other.queue),
            notify_url: self.notify_url.or(other.notify_url),
        }
    }

    fn validate(self) -> Result<ValidRunOptions> {
        let invalid = |message: String, hint: &str| Error::new(codes::RUN_OPTIONS_INVALID, message).with_hint(hint);
        let run_at = self.run_at.map(|text| {
            clock::parse_rfc3339(&text)
                .ok_or_else(|| invalid(format!("`{text}` is not a time"), "write it as `2030-01-31T08:00:00Z`"))
        });
        let priority = self.priority.map(|value| {
            let number = match &value {
                Value::Number(number) => whole_number::to_i64(number),
                value => value.as_str().and_then(|text| text.parse().ok()),
            };
            let fits = number.filter(|number| (-100..=100).contains(number)).map(|number| number as i32);
            fits.ok_or_else(|| {
                invalid(format!("{value} is not a priority"), "expected a whole number from -100 to 100")
            })
        });
        if let Some(queue) = self.queue.as_ref().filter(|queue| !is_queue_name(queue)) {
            let hint = "start with a small letter, go on with small letters, digits, `-` and `_`";
            return Err(invalid(format!("`{queue}` is not a name for a queue"), hint));
        }
        if let Some(Err(error)) = self.notify_url.as_ref().map(|url| parse_url(url)) {
            let hint = "write an address such as `https://app.example/hooks/runs`, without a password";
            return Err(invalid(format!("`notify_url`: {}", error.message()), hint));
        }
        let (run_at, priority) = (run_at.transpose()?, priority.transpose()?);
        Ok(ValidRunOptions { run_at, priority, queue: self.queue, notify_url: self.notify_url })
    }
}

fn run_deleted(id: &str) -> Error {
    Error::new(codes::RUN_NOT_FOUND, format!("the run `{id}` has been deleted"))
}

fn unsupported_media_type(media: Option<&str>) -> Error {
    let message = match media {
        Some(media) => format!("a body of type `{media}` is not understood"),
        None => "the body has no `Content-Type`".to_owned(),
    };
    Error::new(codes::UNSUPPORTED_MEDIA_TYPE, message)
}
