//! Files that a caller names instead of uploading: objects in buckets, and artifacts of earlier runs.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::{Map, Value, json};
use ulid::Ulid;

use super::ApiState;
use super::auth::Caller;
use super::form::too_many_files;
use crate::codes;
use afterload_core::blocking::run_sized;
use afterload_core::error::{Error, ErrorCode, Result};
use afterload_core::file::File;
use afterload_core::object_names;
use afterload_core::object_names::is_valid_bucket_name;
use afterload_core::text::shorten_text;
use afterload_engine::artifact_url;
use afterload_engine::registry::{FileArity, PipelineSummary};
use afterload_pipeline::params::{self, InvalidParam, InvalidParams};

const FILE_FORMS_HINT: &str =
    "expected a part of a form, `\"s3://bucket/key\"`, `{\"bucket\": …, \"key\": …}` or `{\"artifact_id\": …}`";

const BUCKET_NAME_HINT: &str = "expected 3 to 63 lower-case letters, digits, `-` and `.`, and no IP address";
const MAX_FILE_KEY_BYTES: usize = 1024;

/// A reference to a file: any part of the representation that the API returns.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileReference {
    artifact_id: Option<String>,
    bucket: Option<String>,
    key: Option<String>,
    version: Option<String>,
    etag: Option<String>,
    name: Option<String>,
    // Accepted so that a file from a response can be sent back; the store's values are used.
    #[serde(rename = "size")]
    _size: Option<u64>,
    #[serde(rename = "content_type")]
    _content_type: Option<String>,
    #[serde(rename = "url")]
    _url: Option<String>,
}

/// The errors of the files that a caller names.
#[derive(Debug, Default)]
pub(super) struct FileParamErrors {
    faults: InvalidParams,
    /// The first error of the store.
    error: Option<Error>,
    /// Whether some faults are not the store's.
    has_invalid: bool,
}

/// Errors of the store that concern one file and that the caller can fix.
const FILE_ERROR_CODES: [ErrorCode; 4] =
    [codes::OBJECT_NOT_FOUND, codes::OBJECT_CHANGED, codes::OBJECT_ACCESS_DENIED, codes::BUCKET_NOT_CONFIGURED];

/// Why a file is not accepted.
enum FileRefusal {
    Invalid(InvalidParam),
    Error(Error),
}

impl From<InvalidParam> for FileRefusal {
    fn from(fault: InvalidParam) -> Self {
        Self::Invalid(fault)
    }
}

impl From<Error> for FileRefusal {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl FileParamErrors {
    fn add_refusal(&mut self, param: &str, refusal: FileRefusal) -> Result<()> {
        let fault = match refusal {
            FileRefusal::Invalid(fault) => {
                self.has_invalid = true;
                fault
            }
            FileRefusal::Error(error) if FILE_ERROR_CODES.contains(&error.code()) => {
                let fault = InvalidParam::new(error.code(), error.message());
                self.error.get_or_insert_with(|| error.context(format!("`{param}`")));
                fault
            }
            FileRefusal::Error(error) => return Err(error),
        };
        self.faults.add(param, || fault);
        Ok(())
    }

    /// Reports the file errors together with the other invalid params. If the only errors are files that the store does
    /// not have, returns the store's error.
    ///
    /// # Errors
    /// `params_invalid`, `object_not_found`, `object_changed`, and other errors of the store.
    pub(super) async fn into_result(mut self, pipeline: &PipelineSummary, params: &Map<String, Value>) -> Result<()> {
        if self.faults.is_empty() {
            return Ok(());
        }
        let mut others = find_invalid_params(pipeline, params.clone()).await?;
        others.retain(|param| self.faults.listed_params().all(|name| name != param));
        let is_stored = others.is_empty() && !self.has_invalid;
        self.faults.extend(others);
        match self.error {
            Some(error) if is_stored => Err(error.with_details(self.faults.to_details())),
            _ => Err(self.faults.to_error()),
        }
    }
}

/// Finds the params that do not fit the pipeline. Many or long ones are checked on a thread of their own.
pub(super) async fn find_invalid_params(
    pipeline: &PipelineSummary,
    params: Map<String, Value>,
) -> Result<InvalidParams> {
    let declared = pipeline.declared.clone();
    let size = params::estimate_params_size(&params);
    run_sized(size, move || params::find_invalid_params(&declared, params)).await
}

/// The number of files that the params name.
fn count_files(pipeline: &PipelineSummary, params: &Map<String, Value>) -> usize {
    let files = pipeline.file_params().filter_map(|(name, _)| params.get(name)).map(|value| match value {
        Value::Null => 0,
        Value::Array(items) => items.len(),
        _ => 1,
    });
    files.sum()
}

impl FileRefusal {
    fn in_item(self, number: usize) -> Self {
        match self {
            Self::Invalid(fault) => {
                Self::Invalid(InvalidParam::new(fault.code, format!("item {number}: {}", fault.message)))
            }
            Self::Error(error) => Self::Error(error.context(format!("item {number}"))),
        }
    }
}

/// Resolves the files that a caller names for one run.
pub(super) struct FileResolver<'a> {
    pub app: &'a ApiState,
    pub caller: &'a Caller,
    pub run: &'a str,
}

impl FileResolver<'_> {
    /// Replaces file references in parameters with the files they name, pinned to their current version and sealed for the
    /// run. Invalid references stay as they are and are returned as errors.
    ///
    /// # Errors
    /// `too_many_files` if they and the `uploaded` ones are too many, `bucket_forbidden`, and errors of the store and the
    /// database that do not concern one file.
    pub(super) async fn resolve_file_params(
        &self,
        pipeline: &PipelineSummary,
        params: &mut Map<String, Value>,
        uploaded: usize,
    ) -> Result<FileParamErrors> {
        // The store is asked for each file, so they are counted first.
        let most = self.app.config().max_files;
        if uploaded + count_files(pipeline, params) > most {
            return Err(too_many_files(most));
        }
        let mut unfit = FileParamErrors::default();
        for (name, takes) in pipeline.file_params() {
            let Some(value) = params.get_mut(name).filter(|value| !value.is_null()) else { continue };
            match (takes, value) {
                (FileArity::One, value) => match self.resolve_file(name, value).await {
                    Ok(file) => *value = file,
                    Err(refusal) => unfit.add_refusal(name, refusal)?,
                },
                (FileArity::Many, Value::Array(items)) => {
                    for (index, item) in items.iter_mut().enumerate() {
                        match self.resolve_file(name, item).await {
                            Ok(file) => *item = file,
                            Err(refusal) => unfit.add_refusal(name, refusal.in_item(index + 1))?,
                        }
                    }
                }
                (FileArity::Many, value) => {
                    let message = format!("expected a list of files, found a {}", json_type_name(value));
                    unfit.add_refusal(name, InvalidParam::new(codes::PARAM_WRONG_TYPE, message).into())?;
                }
            }
        }
        Ok(unfit)
    }

    async fn resolve_file(&self, param: &str, value: &Value) -> Result<Value, FileRefusal> {
        let Self { app, caller, run } = self;
        let reference = parse_reference(value)?;
        let file = match &reference.artifact_id {
            Some(id) => find_artifact_file(app, caller, id, &reference).await?,
            None => find_bucket_file(app, caller, param, &reference).await?,
        };
        Ok(app.engine().seal_file(run, &file).seal_copy(&json!(file)))
    }
}

fn parse_reference(value: &Value) -> Result<FileReference, InvalidParam> {
    match value {
        Value::String(text) => {
            let place = text.strip_prefix("s3://").and_then(|rest| rest.split_once('/'));
            let Some((bucket, key)) = place.filter(|(bucket, key)| !bucket.is_empty() && !key.is_empty()) else {
                return Err(not_a_file(format!("`{}` names no file", truncate_text(text))));
            };
            Ok(FileReference { bucket: Some(bucket.into()), key: Some(key.into()), ..FileReference::default() })
        }
        Value::Object(_) => {
            FileReference::deserialize(value).map_err(|error| not_a_file(format!("it is not a file: {error}")))
        }
        _ => Err(not_a_file(format!("a {} is not a file", json_type_name(value)))),
    }
}

fn not_a_file(message: String) -> InvalidParam {
    InvalidParam::new(codes::PARAM_WRONG_TYPE, format!("{message}; {FILE_FORMS_HINT}"))
}

fn json_type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "list",
        Value::Object(_) => "object",
    }
}

/// Finds a file of an earlier run.
async fn find_artifact_file(
    app: &ApiState,
    caller: &Caller,
    id: &str,
    reference: &FileReference,
) -> Result<File, FileRefusal> {
    let file = match Ulid::from_string(id) {
        Ok(_) => match load_artifact(app, Some(caller), id).await {
            Err(error) if error.code() == codes::FILE_EXPIRED => None,
            found => found?,
        },
        Err(_) => None,
    };
    let file = file.ok_or_else(|| {
        Error::new(codes::OBJECT_NOT_FOUND, format!("there is no artifact `{}`", truncate_text(id)))
            .with_hint("the key must also have `runs:read` for the pipeline of its run")
    })?;
    let same = |given: &Option<String>, known: &str| given.as_ref().is_none_or(|given| given == known);
    if same(&reference.bucket, &file.bucket) && same(&reference.key, &file.key) && same(&reference.etag, &file.etag) {
        Ok(file)
    } else {
        let message = format!("it names the artifact `{id}` and the place of another file");
        Err(InvalidParam::new(codes::PARAM_FILE_AMBIGUOUS, message).into())
    }
}

/// Finds a file in one of the user's buckets.
async fn find_bucket_file(
    app: &ApiState,
    caller: &Caller,
    param: &str,
    reference: &FileReference,
) -> Result<File, FileRefusal> {
    let (Some(bucket), Some(key)) = (&reference.bucket, &reference.key) else {
        return Err(not_a_file("it names neither an artifact nor a bucket with a key".into()).into());
    };
    check_object_name(app, bucket, key)?;
    if !caller.can_access_bucket(bucket) {
        let message = format!("the API key may not name files of bucket `{bucket}`");
        let hint = format!("make a key with `afterload key new --bucket {bucket}`");
        return Err(Error::new(codes::BUCKET_FORBIDDEN, message).with_hint(hint).into());
    }
    let stored = app.objects().head_object(bucket, key).await?;
    let other_etag = reference.etag.as_deref().is_some_and(|etag| !etag.is_empty() && etag != stored.etag);
    let other_version = reference.version.is_some() && reference.version != stored.version;
    if other_etag || other_version {
        let message = format!("it names another state of `{key}` in bucket `{bucket}` than is there now");
        return Err(Error::new(codes::OBJECT_CHANGED, message).into());
    }
    let name = object_names::sanitize_file_name(reference.name.as_deref().unwrap_or(key), param);
    let mut file = stored.into_file(None, name, None);
    file.content_type = object_names::resolve_content_type(Some(&file.content_type), &file.name);
    Ok(file)
}

/// Rejects a name that no store can have before asking a store. A bucket of the configuration may have any name.
fn check_object_name(app: &ApiState, bucket: &str, key: &str) -> Result<(), InvalidParam> {
    if !is_valid_bucket_name(bucket) && !app.config().buckets.contains(bucket) {
        let message = format!("`{}` is not the name of a bucket; {BUCKET_NAME_HINT}", truncate_text(bucket));
        return Err(InvalidParam::new(codes::PARAM_BUCKET_INVALID, message));
    }
    match key.len() {
        1..=MAX_FILE_KEY_BYTES => Ok(()),
        length => {
            let message = format!("the key has {length} bytes; expected 1 to {MAX_FILE_KEY_BYTES}");
            Err(InvalidParam::new(codes::PARAM_KEY_INVALID, message))
        }
    }
}

/// Cuts a text to 80 characters, for messages.
fn truncate_text(text: &str) -> Cow<'_, str> {
    shorten_text(text, 80)
}

/// The file of an artifact; `None` if the caller may read none with this id. Without a caller, a link has authorized
/// the request.
///
/// # Errors
/// `file_expired`
pub(super) async fn load_artifact(app: &ApiState, caller: Option<&Caller>, id: &str) -> Result<Option<File>> {
    let Some(artifact) = app.db().artifacts().find(id).await? else { return Ok(None) };
    if let Some(caller) = caller {
        let Some(run) = app.db().runs().find(&artifact.run_id).await? else { return Ok(None) };
        if !caller.can_read(&run.pipeline) {
            return Ok(None);
        }
    }
    if artifact.expired_at.is_some() {
        return Err(file_expired());
    }
    let file: File = serde_json::from_value(artifact.file)
        .map_err(|error| Error::new(codes::INTERNAL_ERROR, format!("artifact `{id}` holds no file: {error}")))?;
    let url = Some(artifact_url(app.base_url(), id));
    Ok(Some(File { artifact_id: Some(id.to_owned()), url, ..file }))
}

/// The error for a file whose retention has ended.
pub(super) fn file_expired() -> Error {
    Error::new(codes::FILE_EXPIRED, "the file has expired and is no longer kept")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_named_as_uri_object_or_artifact() {
        let place = |value: Value| parse_reference(&value).map(|file| (file.bucket, file.key, file.artifact_id));
        let uploads = || Some("uploads".to_owned());
        assert_eq!(place(json!("s3://uploads/a//b %2B")).unwrap(), (uploads(), Some("a//b %2B".into()), None));
        assert_eq!(place(json!({"bucket": "uploads", "key": "a"})).unwrap(), (uploads(), Some("a".into()), None));
        assert_eq!(place(json!({"artifact_id": "x", "size": 3})).unwrap(), (None, None, Some("x".into())));
        for wrong in
            [json!("a.csv"), json!("s3://uploads"), json!("s3:///a"), json!("s3://uploads/"), json!(3), json!([])]
        {
            assert_eq!(parse_reference(&wrong).unwrap_err().code.name(), "param_wrong_type", "{wrong}");
        }
        assert_eq!(
            parse_reference(&json!({"bucket": "uploads", "path": "a"})).unwrap_err().code.name(),
            "param_wrong_type"
        );
    }
}
