//! Direct uploads: a client announces a file, sends it straight to the object store, and completes it, which starts a
//! run. The announcement needs an API key. The other calls need only the token in the URL, so a web page can make them.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{AUTHORIZATION, CONTENT_LENGTH};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use futures::StreamExt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use ulid::Ulid;

use super::auth::Caller;
use super::client_address::ClientAddress;
use super::create_run::{CreatedRun, created_response};
use super::extract::{self, PathId, StrictQuery, body_error, request_timeout};
use super::pipelines::pipeline_not_found;
use super::problem::Problem;
use super::scopes::{ApiKeyScope, missing_scope};
use super::visible_run::RunAccess;
use super::wait::WaitPolicy;
use super::{ApiState, content_disposition, file_params};
use crate::codes;
use crate::triggers::{UPLOAD_GRACE, UPLOAD_SOURCE};
use afterload_core::clock::{self, UnixMillis};
use afterload_core::error::{Error, Result};
use afterload_core::file::File;
use afterload_core::keyring::TokenPurpose;
use afterload_core::units::ByteSize;
use afterload_engine::registry::{FileArity, PipelineSummary};
use afterload_engine::{DedupKey, NewRun, StartOutcome, artifact_url};
use afterload_pipeline::params::{InvalidParam, param_invalid};
use afterload_state::UploadRecord;

const UPLOAD_BODY_EXAMPLE: &str = "{\"pipeline\": \"avatar\", \"filename\": \"photo.jpg\", \"size\": 12345}";
/// How long a client may take to start the upload and to complete it.
const UPLOAD_LIFETIME: Duration = Duration::from_secs(3600);
/// The maximum size that S3 accepts in one request.
const MAX_DIRECT_UPLOAD_SIZE: ByteSize = ByteSize(5 << 30);
/// How long a sender may pause.
const UPLOAD_IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// The announcement of a file.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewUpload {
    /// The pipeline to start with the file.
    pipeline: String,
    /// The param of the file; default: the only `file` param.
    #[serde(default)]
    param: Option<String>,
    /// All other params.
    #[serde(default)]
    params: Map<String, Value>,
    /// The file name.
    filename: String,
    /// The media type; default: by the file name.
    #[serde(default)]
    content_type: Option<String>,
    /// The size in bytes.
    #[serde(deserialize_with = "crate::whole_number::deserialize_u64")]
    size: u64,
}

/// Where to send the file.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct UploadTicket {
    /// The id of the upload, which becomes the id of the run.
    id: String,
    /// `PUT`
    method: &'static str,
    /// The URL that receives the bytes.
    url: String,
    /// Headers to send with the bytes.
    headers: BTreeMap<&'static str, String>,
    /// The URL to call (`POST`) after the upload; it needs no API key.
    complete_url: String,
    /// When the upload expires. RFC 3339, UTC.
    expires_at: String,
}

/// The query of a completion.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct UploadTokenQuery {
    /// The token of the `complete_url`, instead of an API key.
    token: Option<String>,
}

/// `POST /v1/uploads`
pub(super) async fn begin_upload(
    State(app): State<ApiState>,
    caller: Caller,
    body: Body,
) -> Result<(StatusCode, Json<UploadTicket>), Problem> {
    let new: Option<NewUpload> = extract::read_json_body(body, app.config().max_body, UPLOAD_BODY_EXAMPLE).await?;
    let new = new.ok_or_else(|| {
        Error::new(
            codes::JSON_INVALID,
            format!("the body is empty; expected an object such as `{UPLOAD_BODY_EXAMPLE}`"),
        )
    })?;
    if !caller.can_write(&new.pipeline) {
        return Err(missing_scope(&ApiKeyScope::RunsWrite(Some(new.pipeline))).into());
    }
    let pipeline = app.pipeline_registry().get(&new.pipeline).ok_or_else(|| pipeline_not_found(&new.pipeline))?;
    let upload = prepare_upload(&app, &caller, &pipeline, new).await?;
    app.db().uploads().insert(&upload).await?;
    Ok((StatusCode::CREATED, Json(create_ticket(&app, &upload).await?)))
}

/// Validates everything that does not need the file's bytes.
async fn prepare_upload(
    app: &ApiState,
    caller: &Caller,
    pipeline: &PipelineSummary,
    new: NewUpload,
) -> Result<UploadRecord> {
    let param = resolve_file_param(pipeline, new.param)?;
    let name = content_disposition::sanitize_file_name(&new.filename, &param);
    let own = pipeline.max_file_size(&param).unwrap_or(MAX_DIRECT_UPLOAD_SIZE);
    let limit = own.min(app.config().max_upload).min(MAX_DIRECT_UPLOAD_SIZE);
    if new.size > limit.0 {
        return Err(Error::new(codes::UPLOAD_TOO_LARGE, format!("`{name}` is larger than {limit}"))
            .with_hint(format!("`limits.upload` in the configuration and `max_size` of `{param}` limit it")));
    }
    let id = Ulid::generate().to_string();
    let file = File {
        bucket: app.config().artifacts.clone(),
        key: String::new(),
        version: None,
        etag: String::new(),
        content_type: content_disposition::resolve_content_type(new.content_type.as_deref(), &name),
        size: new.size,
        url: None,
        artifact_id: None,
        name,
    };
    let file = assign_artifact(app, &id, file);
    let mut params = new.params;
    if params.contains_key(&param) {
        return Err(param_invalid(&param, InvalidParam::new(codes::PARAM_REPEATED, "it is given twice")));
    }
    let resolver = file_params::FileResolver { app, caller, run: &id };
    let unfit = resolver.resolve_file_params(pipeline, &mut params, 1).await?;
    let mut all = params.clone();
    all.insert(param.clone(), json!(file));
    unfit.into_result(pipeline, &all).await?;
    let faults = file_params::find_invalid_params(pipeline, all).await?;
    if !faults.is_empty() {
        return Err(faults.to_error());
    }
    let expires_at = app.db().now() + UPLOAD_LIFETIME.as_millis() as i64;
    let (pipeline, file) = (pipeline.name.clone(), json!(file));
    Ok(UploadRecord { id, pipeline, param, params: Value::Object(params), file, expires_at })
}

fn resolve_file_param(pipeline: &PipelineSummary, given: Option<String>) -> Result<String> {
    let mut single = pipeline.file_params().filter(|(_, takes)| *takes == FileArity::One).map(|(name, _)| name);
    match given {
        Some(name) if pipeline.file_arity(&name) == Some(FileArity::One) => Ok(name),
        Some(name) => {
            let fault =
                InvalidParam::new(codes::PARAM_TAKES_NO_FILE, format!("it is not a file param of `{}`", pipeline.name));
            Err(param_invalid(&name, fault))
        }
        None => match (single.next(), single.next()) {
            (Some(name), None) => Ok(name.to_owned()),
            _ => {
                let message = format!("`{}` has not exactly one file param", pipeline.name);
                Err(Error::new(codes::PARAMS_INVALID, message).with_hint("say which one with `param`"))
            }
        },
    }
}

async fn create_ticket(app: &ApiState, upload: &UploadRecord) -> Result<UploadTicket> {
    let file = announced_file(upload)?;
    let token = app.keyring().create_token(TokenPurpose::Upload, &upload.id);
    let base = app.base_url();
    let url = match app.objects().is_embedded(&file.bucket) {
        true => format!("{base}/v1/uploads/{}.{token}", upload.id),
        false => {
            app.objects().presign_put(&file.bucket, &file.key, &file.content_type, file.size, UPLOAD_LIFETIME).await?
        }
    };
    let mut headers = BTreeMap::from([("Content-Type", file.content_type)]);
    if !app.objects().is_embedded(&file.bucket) {
        // The URL is valid after the completion, too.
        headers.insert("If-None-Match", "*".to_owned());
    }
    Ok(UploadTicket {
        id: upload.id.clone(),
        method: "PUT",
        url,
        headers,
        complete_url: format!("{base}/v1/uploads/{}/complete?token={token}", upload.id),
        expires_at: clock::format_rfc3339(upload.expires_at),
    })
}

fn announced_file(upload: &UploadRecord) -> Result<File> {
    serde_json::from_value(upload.file.clone())
        .map_err(|error| Error::new(codes::INTERNAL_ERROR, format!("upload `{}` holds no file: {error}", upload.id)))
}

/// Makes the file an artifact of its own, with its key.
fn assign_artifact(app: &ApiState, upload: &str, file: File) -> File {
    let artifact = Ulid::generate().to_string();
    File {
        key: format!("uploads/{upload}/{artifact}"),
        url: Some(artifact_url(app.base_url(), &artifact)),
        artifact_id: Some(artifact),
        ..file
    }
}

/// Finds an upload that has not expired, or that expired no longer than `late` ago.
async fn find_open_upload(app: &ApiState, id: &str, late: UnixMillis) -> Result<UploadRecord> {
    let known = if Ulid::from_string(id).is_ok() { app.db().uploads().find(id).await? } else { None };
    let upload = known.ok_or_else(upload_not_found)?;
    match upload.expires_at.saturating_add(late) > app.db().now() {
        true => Ok(upload),
        false => Err(Error::new(codes::UPLOAD_EXPIRED, "the upload has expired")),
    }
}

fn upload_not_found() -> Error {
    Error::new(codes::UPLOAD_NOT_FOUND, "there is no such upload, or it has been completed")
}

fn upload_token_invalid() -> Error {
    Error::new(codes::TOKEN_INVALID, "the token is not the one of this upload")
        .with_hint("use the addresses that `POST /v1/uploads` has given")
}

fn size_mismatch(found: impl std::fmt::Display, expected: u64) -> Error {
    Error::new(codes::UPLOAD_SIZE_DIFFERS, format!("the file has {found} bytes, and {expected} were announced"))
}

/// `PUT /v1/uploads/{token}`: receives the bytes for the embedded store.
pub(super) async fn receive_upload(
    State(app): State<ApiState>,
    PathId(token): PathId,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode, Problem> {
    let (id, token) = token.split_once('.').ok_or_else(upload_token_invalid)?;
    if !app.keyring().verify_token(TokenPurpose::Upload, id, token) {
        return Err(upload_token_invalid().into());
    }
    let upload = find_open_upload(&app, id, 0).await?;
    // A write that ends late must not replace the file of an accepted run, so each has a key of its own.
    let file = assign_artifact(&app, id, announced_file(&upload)?);
    let length = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if let Some(length) = length.filter(|length| *length != file.size) {
        return Err(size_mismatch(length, file.size).into());
    }
    let _slot = app.upload_slots().take_token_slot(id)?;
    let mut sink = app.objects().start_upload(&file.bucket, &file.key, &*file.content_type).await?;
    let mut body = body.into_data_stream();
    let mut size = 0;
    while let Some(chunk) =
        tokio::time::timeout(UPLOAD_IDLE_TIMEOUT, body.next()).await.map_err(|_| request_timeout())?
    {
        let chunk = chunk.map_err(|error| body_error("the body", &error))?;
        size += chunk.len() as u64;
        if size > file.size {
            return Err(size_mismatch(format!("more than {}", file.size), file.size).into());
        }
        sink.write(chunk).await?;
    }
    if size != file.size {
        return Err(size_mismatch(size, file.size).into());
    }
    sink.finish().await?;
    // The upload was completed or swept while its bytes arrived. Nothing refers to the object now.
    if !app.db().uploads().replace_file(id, &json!(file)).await? {
        app.objects().delete_object(&file.bucket, &file.key).await?;
        return Err(upload_not_found().into());
    }
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /v1/uploads/{id}/complete`: starts the run. Another call returns the same run.
pub(super) async fn complete_upload(
    State(app): State<ApiState>,
    PathId(id): PathId,
    StrictQuery(query): StrictQuery<UploadTokenQuery>,
    client: ClientAddress,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let access = match &query.token {
        Some(token) if !headers.contains_key(AUTHORIZATION) => {
            match app.keyring().verify_token(TokenPurpose::Upload, &id, token) {
                true => RunAccess::Creator,
                false => return Err(upload_token_invalid().into()),
            }
        }
        _ => RunAccess::Key(Caller::from_headers(&app, client, &headers).await?),
    };
    if Ulid::from_string(&id).is_err() {
        return Err(upload_not_found().into());
    }
    let mut done = app.db().runs().find(&id).await?.filter(|run| run.origin == UPLOAD_SOURCE);
    let mut upload = None;
    if done.is_none() {
        match find_open_upload(&app, &id, UPLOAD_GRACE).await {
            Ok(found) => upload = Some(found),
            Err(error) => {
                // Another call may have completed the upload after the first lookup.
                done = app.db().runs().find(&id).await?.filter(|run| run.origin == UPLOAD_SOURCE);
                if done.is_none() {
                    return Err(error.into());
                }
            }
        }
    }
    let name = done.as_ref().map(|run| &run.pipeline).or(upload.as_ref().map(|upload| &upload.pipeline));
    let name = name.cloned().unwrap_or_default();
    require_completion(&access, &name)?;
    let created = match (done, upload) {
        (Some(run), _) => CreatedRun { run, replayed: true, access },
        (None, Some(upload)) => start_upload_run(&app, upload, access, extract::chain_hops(&headers)?).await?,
        (None, None) => return Err(upload_not_found().into()),
    };
    // The pipeline may have been removed since; the run still exists.
    let pipeline = app.pipeline_registry().get(&name).unwrap_or_default();
    let wait_policy = WaitPolicy::new(&app, &headers, &pipeline);
    Ok(created_response(&app, &pipeline, created, wait_policy).await)
}

/// Checks that a key may start runs of the pipeline. For keys that may not read it either, the upload does not exist.
fn require_completion(access: &RunAccess, pipeline: &str) -> Result<()> {
    match access {
        RunAccess::Key(caller) if !caller.can_write(pipeline) => match caller.can_read(pipeline) {
            true => Err(missing_scope(&ApiKeyScope::RunsWrite(Some(pipeline.to_owned())))),
            false => Err(upload_not_found()),
        },
        _ => Ok(()),
    }
}

async fn start_upload_run(app: &ApiState, upload: UploadRecord, access: RunAccess, hops: u32) -> Result<CreatedRun> {
    let mut file = announced_file(&upload)?;
    let stored = match app.objects().head_object(&file.bucket, &file.key).await {
        Ok(stored) => stored,
        Err(error) if error.code() == codes::OBJECT_NOT_FOUND => {
            return Err(Error::new(codes::UPLOAD_INCOMPLETE, "the file has not arrived"));
        }
        Err(error) => return Err(error),
    };
    if stored.size != file.size {
        return Err(size_mismatch(stored.size, file.size));
    }
    (file.etag, file.version) = (stored.etag, stored.version);
    let mut params = upload.params.as_object().cloned().unwrap_or_default();
    let sealed = app.engine().seal_file(&upload.id, &file).seal_copy(&json!(file));
    params.insert(upload.param, sealed);
    let new = NewRun {
        id: upload.id.clone(),
        pipeline: upload.pipeline,
        params,
        origin: UPLOAD_SOURCE,
        uploads: vec![file],
        hops,
        dedup_key: Some(DedupKey { source: UPLOAD_SOURCE, key: upload.id.clone(), fingerprint: None }),
        ..NewRun::default()
    };
    match app.start_run(new).await? {
        StartOutcome::Created(run) => {
            // The sweep deletes the record if this fails.
            if let Err(error) = app.db().uploads().delete(&upload.id).await {
                tracing::warn!(
                    error.code = error.code().name(),
                    "a completed upload could not be deleted yet: {error}"
                );
            }
            Ok(CreatedRun { run: *run, replayed: false, access })
        }
        StartOutcome::Duplicate { run_id, .. } => {
            let run = app.db().runs().find(&run_id).await?.ok_or_else(upload_not_found)?;
            Ok(CreatedRun { run, replayed: true, access })
        }
    }
}
