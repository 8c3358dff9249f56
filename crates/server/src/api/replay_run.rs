//! Starts a new run with the params of an earlier run.

use axum::extract::{Request, State};
use axum::response::Response;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};
use ulid::Ulid;

use super::auth::Caller;
use super::create_run::{RunOptions, RunRequest, created_response};
use super::extract::{self, PathId};
use super::file_params::{FileResolver, file_expired};
use super::idempotency::{self, RequestFingerprint};
use super::pipelines::pipeline_not_found;
use super::problem::Problem;
use super::runs::require_run_read;
use super::scopes::{ApiKeyScope, missing_scope};
use super::state::ApiState;
use super::uploads::RunUploads;
use super::visible_run::run_not_found;
use super::wait::WaitPolicy;
use crate::codes;
use afterload_core::error::{Error, Result};
use afterload_core::file::FileIdentity;
use afterload_core::file_seals::FileSeals;
use afterload_engine::{DedupKey, NewRun};
use afterload_state::RunRecord;

const REPLAY_ORIGIN: &str = "replay";
/// An example body, for error messages.
const REPLAY_BODY_EXAMPLE: &str = "{\"params\": {}}";

/// The JSON body.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ReplayBody {
    /// The params that differ from those of the earlier run. Null leaves one out.
    #[serde(default)]
    params: Map<String, Value>,
}

/// `POST /v1/runs/{id}/replay`
pub(super) async fn replay_run(
    State(app): State<ApiState>,
    caller: Caller,
    PathId(id): PathId,
    request: Request,
) -> Result<Response, Problem> {
    require_run_read(&app, &caller, &id).await?;
    let earlier = app.db().runs().find(&id).await?.ok_or_else(|| run_not_found(&id))?;
    if !caller.can_write(&earlier.pipeline) {
        return Err(missing_scope(&ApiKeyScope::RunsWrite(Some(earlier.pipeline))).into());
    }
    let pipeline =
        app.pipeline_registry().get(&earlier.pipeline).ok_or_else(|| pipeline_not_found(&earlier.pipeline))?;
    let (parts, body) = request.into_parts();
    let (key, hops) = (idempotency::idempotency_key(&parts.headers)?, extract::chain_hops(&parts.headers)?);
    let body: Option<ReplayBody> = extract::read_json_body(body, app.config().max_body, REPLAY_BODY_EXAMPLE).await?;
    let wait_policy = WaitPolicy::new(&app, &parts.headers, &pipeline);
    let id = Ulid::generate().to_string();
    let mut uploads = RunUploads::new(app.clone(), id.clone());
    let run_request = RunRequest { app, caller, pipeline, key, options: RunOptions::default(), hops, id };
    let replay = Replay { run_request: &run_request, earlier };
    let new = replay.build_new_run(body.unwrap_or_default().params).await?;
    let created = run_request.start_run(new, &mut uploads).await?;
    Ok(created_response(&run_request.app, &run_request.pipeline, created, wait_policy).await)
}

/// A request to start a run again.
struct Replay<'a> {
    run_request: &'a RunRequest,
    earlier: RunRecord,
}

impl Replay<'_> {
    async fn build_new_run(&self, mut changes: Map<String, Value>) -> Result<NewRun> {
        let RunRequest { app, caller, pipeline, hops, id, .. } = self.run_request;
        let dedup_key = self.dedup_key(&changes);
        let new =
            NewRun { id: id.clone(), pipeline: pipeline.name.clone(), hops: *hops, dedup_key, ..NewRun::default() };
        // A repeated request is not validated again: its files may be gone by now.
        if self.run_request.is_replay(new.dedup_key.as_ref()).await? {
            return Ok(new);
        }
        let mut params = self.earlier.params.as_object().cloned().unwrap_or_default();
        params.retain(|name, value| !value.is_null() && !changes.contains_key(name));
        changes.retain(|_, value| !value.is_null());
        for (name, _) in pipeline.file_params() {
            // The earlier run could not read it, so the caller must be allowed to.
            if params.get(name).is_some_and(|value| self.verify_seals(value).files().next().is_none())
                && let Some(value) = params.remove(name)
            {
                changes.insert(name.to_owned(), value);
            }
        }
        let mut files = 0;
        for (name, value) in &mut params {
            let verified = self.verify_seals(value);
            for file in verified.files() {
                self.require_file(file).await.map_err(|error| error.context(format!("`{name}`")))?;
                files += 1;
            }
            self.seal_again(&verified).write_into(value);
        }
        let mut event = self.earlier.event.clone();
        if let Some(event) = &mut event {
            self.seal_again(&self.verify_seals(event)).write_into(event);
        }
        let resolver = FileResolver { app, caller, run: id };
        let unfit = resolver.resolve_file_params(pipeline, &mut changes, files).await?;
        params.extend(changes);
        unfit.into_result(pipeline, &params).await?;
        Ok(NewRun { params, event, origin: REPLAY_ORIGIN, replay_of: Some(self.earlier.id.clone()), ..new })
    }

    fn dedup_key(&self, changes: &Map<String, Value>) -> Option<DedupKey> {
        let key = self.run_request.key.clone()?;
        let mut fingerprint = RequestFingerprint::new();
        fingerprint.add_value(self.earlier.id.as_bytes());
        fingerprint.add_params(changes);
        let fingerprint = Some(fingerprint.finish(self.run_request.caller.key_id()));
        Some(DedupKey { source: idempotency::IDEMPOTENCY_SOURCE, key, fingerprint })
    }

    /// The seals of the files in a value of the earlier run, as far as they are seals for that run.
    fn verify_seals(&self, value: &Value) -> FileSeals {
        let keyring = self.run_request.app.keyring();
        let mut verified = FileSeals::default();
        let mut sealed = self.earlier.file_seals.seal_copy(value);
        verified.take_from(&mut sealed, &|file, seal| keyring.verify_file_seal(file, &self.earlier.id, seal));
        verified
    }

    /// Seals files that the earlier run could read for the new run.
    fn seal_again(&self, verified: &FileSeals) -> FileSeals {
        let RunRequest { app, id, .. } = self.run_request;
        let mut seals = FileSeals::default();
        for file in verified.files() {
            seals.insert(file.clone(), app.keyring().create_file_seal(file, id));
        }
        seals
    }

    /// Checks that a file of the earlier run is still there, and still the same.
    ///
    /// # Errors
    /// `file_expired`, `object_changed`, and errors of the store.
    async fn require_file(&self, file: &FileIdentity) -> Result<()> {
        let app = &self.run_request.app;
        if let Some(artifact_id) = &file.artifact_id {
            let artifact = app.db().artifacts().find(artifact_id).await?;
            return match artifact.is_some_and(|artifact| artifact.expired_at.is_none()) {
                true => Ok(()),
                false => Err(file_expired().with_hint("give the param anew, such as `{\"params\": {\"file\": …}}`")),
            };
        }
        let stored = app.objects().head_version(&file.bucket, &file.key, file.version.as_deref()).await?;
        match file.etag.is_empty() || file.etag == stored.meta.etag {
            true => Ok(()),
            false => {
                let message = format!("`{}` in bucket `{}` has changed since the earlier run", file.key, file.bucket);
                Err(Error::new(codes::OBJECT_CHANGED, message))
            }
        }
    }
}
