//! Files that a caller names instead of sending: objects in buckets, and artifacts of earlier runs.

use serde::Deserialize;
use serde_json::{Map, Value};
use ulid::Ulid;

use super::App;
use super::auth::Caller;
use super::pipelines::{LivePipeline, Takes};
use afterload_core::error::{Error, Result};
use afterload_core::file::File;
use afterload_core::object_names as names;
use afterload_core::object_names::is_bucket;
use afterload_engine::artifact_url;
use afterload_pipeline::params::{self, Invalid};

const EXPECTED: &str =
    "expected a part of a form, `\"s3://bucket/key\"`, `{\"bucket\": …, \"key\": …}` or `{\"artifact_id\": …}`";

const BUCKETS: &str = "expected 3 to 63 lower-case letters, digits, `-` and `.`, and no IP address";
const LONGEST_KEY: usize = 1024;
const EXPIRED: &str = "file_expired";

/// A file as a caller may write it: any part of the shape that the API shows.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Reference {
    artifact_id: Option<String>,
    bucket: Option<String>,
    key: Option<String>,
    version: Option<String>,
    etag: Option<String>,
    name: Option<String>,
    // Read so that a file from an answer can be sent back as it is; the store knows better.
    #[serde(rename = "size")]
    _size: Option<u64>,
    #[serde(rename = "content_type")]
    _content_type: Option<String>,
    #[serde(rename = "url")]
    _url: Option<String>,
}

/// What is wrong with the files that a caller names.
#[derive(Debug, Default)]
pub(super) struct Unfit {
    faults: Vec<(String, Invalid)>,
    /// The first error that the store had.
    error: Option<Error>,
}

/// Errors of the store that are about one file, and that the caller can mend.
const OF_A_FILE: &[&str] = &["object_not_found", "object_changed", "object_access_denied", "bucket_not_configured"];

/// Why a file is not taken.
enum Refusal {
    Fault(Invalid),
    Error(Error),
}

impl From<Invalid> for Refusal {
    fn from(fault: Invalid) -> Self {
        Self::Fault(fault)
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl Unfit {
    fn add(&mut self, param: &str, refusal: Refusal) -> Result<()> {
        let fault = match refusal {
            Refusal::Fault(fault) => fault,
            Refusal::Error(error) if OF_A_FILE.contains(&error.code()) => {
                let fault = Invalid::new(error.code(), error.message());
                self.error.get_or_insert_with(|| error.context(format!("`{param}`")));
                fault
            }
            Refusal::Error(error) => return Err(error),
        };
        self.faults.push((param.to_owned(), fault));
        Ok(())
    }

    /// Refuses the files together with whatever else is wrong with the params. Where all that is wrong is that the
    /// store does not have the files, its error stands.
    ///
    /// # Errors
    /// `params_invalid`, `object_not_found`, `object_changed`, or those of the store.
    pub(super) fn refuse(mut self, pipeline: &LivePipeline, params: &Map<String, Value>) -> Result<()> {
        if self.faults.is_empty() {
            return Ok(());
        }
        let mut others = params::faults(&pipeline.declared, params.clone());
        others.retain(|(param, _)| self.faults.iter().all(|(known, _)| known != param));
        let stored = others.is_empty() && self.faults.iter().all(|(_, fault)| OF_A_FILE.contains(&fault.code));
        self.faults.extend(others);
        match self.error {
            Some(error) if stored => Err(error.details(params::details(&self.faults))),
            _ => Err(params::refusal(&self.faults)),
        }
    }
}

/// Replaces what the caller wrote for file parameters by the files that it names, pinned to their present state. What
/// does not fit stays as it is and is returned.
///
/// # Errors
/// `bucket_forbidden`, or those of the store and of the database that are not about the file.
pub(super) async fn resolve(
    app: &App,
    caller: &Caller,
    pipeline: &LivePipeline,
    params: &mut Map<String, Value>,
) -> Result<Unfit> {
    let mut unfit = Unfit::default();
    for (name, takes) in pipeline.file_params() {
        let Some(value) = params.get_mut(name).filter(|value| !value.is_null()) else { continue };
        match (takes, value) {
            (Takes::One, value) => match resolved(app, caller, name, value).await {
                Ok(file) => *value = file,
                Err(refusal) => unfit.add(name, refusal)?,
            },
            (Takes::Many, Value::Array(items)) => {
                for (index, item) in items.iter_mut().enumerate() {
                    match resolved(app, caller, name, item).await {
                        Ok(file) => *item = file,
                        Err(refusal) => unfit.add(name, refusal.of_item(index + 1))?,
                    }
                }
            }
            (Takes::Many, value) => {
                let message = format!("expected a list of files, found a {}", kind(value));
                unfit.add(name, Invalid::new("param_wrong_type", message).into())?;
            }
        }
    }
    Ok(unfit)
}

impl Refusal {
    fn of_item(self, number: usize) -> Self {
        match self {
            Self::Fault(fault) => Self::Fault(Invalid::new(fault.code, format!("item {number}: {}", fault.message))),
            Self::Error(error) => Self::Error(error.context(format!("item {number}"))),
        }
    }
}

async fn resolved(app: &App, caller: &Caller, param: &str, value: &Value) -> Result<Value, Refusal> {
    let reference = read(value)?;
    let file = match &reference.artifact_id {
        Some(id) => owned(app, caller, id, &reference).await?,
        None => foreign(app, caller, param, &reference).await?,
    };
    serde_json::to_value(file).map_err(|error| Error::permanent("internal_error", error.to_string()).into())
}

fn read(value: &Value) -> Result<Reference, Invalid> {
    match value {
        Value::String(text) => {
            let place = text.strip_prefix("s3://").and_then(|rest| rest.split_once('/'));
            let Some((bucket, key)) = place.filter(|(bucket, key)| !bucket.is_empty() && !key.is_empty()) else {
                return Err(unlike(format!("`{}` names no file", shown(text))));
            };
            Ok(Reference { bucket: Some(bucket.into()), key: Some(key.into()), ..Reference::default() })
        }
        Value::Object(_) => Reference::deserialize(value).map_err(|error| unlike(format!("it is not a file: {error}"))),
        _ => Err(unlike(format!("a {} is not a file", kind(value)))),
    }
}

fn unlike(message: String) -> Invalid {
    Invalid::new("param_wrong_type", format!("{message}; {EXPECTED}"))
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "list",
        Value::Object(_) => "object",
    }
}

/// A file of an earlier run.
async fn owned(app: &App, caller: &Caller, id: &str, reference: &Reference) -> Result<File, Refusal> {
    let file = match Ulid::from_string(id) {
        Ok(_) => match artifact(app, Some(caller), id).await {
            Err(error) if error.code() == EXPIRED => None,
            found => found?,
        },
        Err(_) => None,
    };
    let file = file.ok_or_else(|| {
        Error::permanent("object_not_found", format!("there is no artifact `{}`", shown(id)))
            .hint("the key must also have `runs:read` for the pipeline of its run")
    })?;
    let same = |given: &Option<String>, known: &str| given.as_ref().is_none_or(|given| given == known);
    if same(&reference.bucket, &file.bucket) && same(&reference.key, &file.key) && same(&reference.etag, &file.etag) {
        Ok(file)
    } else {
        let message = format!("it names the artifact `{id}` and the place of another file");
        Err(Invalid::new("param_file_ambiguous", message).into())
    }
}

/// A file that belongs to the user.
async fn foreign(app: &App, caller: &Caller, param: &str, reference: &Reference) -> Result<File, Refusal> {
    let (Some(bucket), Some(key)) = (&reference.bucket, &reference.key) else {
        return Err(unlike("it names neither an artifact nor a bucket with a key".into()).into());
    };
    place(app, bucket, key)?;
    if !caller.may_name(bucket) {
        let message = format!("the API key may not name files of bucket `{bucket}`");
        let hint = format!("make a key with `afterload key new --bucket {bucket}`");
        return Err(Error::permanent("bucket_forbidden", message).hint(hint).into());
    }
    let stored = app.objects().head(bucket, key).await?;
    let other_etag = reference.etag.as_deref().is_some_and(|etag| !etag.is_empty() && etag != stored.etag);
    let other_version = reference.version.is_some() && reference.version != stored.version;
    if other_etag || other_version {
        let message = format!("it names another state of `{key}` in bucket `{bucket}` than is there now");
        return Err(Error::permanent("object_changed", message).into());
    }
    let name = names::clean(reference.name.as_deref().unwrap_or(key), param);
    let mut file = stored.into_file(None, name, None);
    file.content_type = names::content_type(Some(&file.content_type), &file.name);
    Ok(file)
}

/// What no store could have, told before a store is asked. A bucket that the configuration names is called as it is.
fn place(app: &App, bucket: &str, key: &str) -> Result<(), Invalid> {
    if !is_bucket(bucket) && !app.config().buckets.contains(bucket) {
        let message = format!("`{}` is not the name of a bucket; {BUCKETS}", shown(bucket));
        return Err(Invalid::new("param_bucket_invalid", message));
    }
    match key.len() {
        1..=LONGEST_KEY => Ok(()),
        length => {
            let message = format!("the key has {length} bytes; expected 1 to {LONGEST_KEY}");
            Err(Invalid::new("param_key_invalid", message))
        }
    }
}

/// At most 80 characters, for messages.
fn shown(text: &str) -> String {
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// The file of an artifact; `None` if there is none that the caller may read. No caller: the link was its own proof.
///
/// # Errors
/// `file_expired`, or those of the database.
pub(super) async fn artifact(app: &App, caller: Option<&Caller>, id: &str) -> Result<Option<File>> {
    let Some(artifact) = app.db().artifact(id).await? else { return Ok(None) };
    if let Some(caller) = caller {
        let Some(run) = app.db().run(&artifact.run_id).await? else { return Ok(None) };
        if !caller.may_read(&run.pipeline) {
            return Ok(None);
        }
    }
    if artifact.expired_at.is_some() {
        return Err(expired());
    }
    let file: File = serde_json::from_value(artifact.file)
        .map_err(|error| Error::permanent("internal_error", format!("artifact `{id}` holds no file: {error}")))?;
    let url = Some(artifact_url(app.base_url(), id));
    Ok(Some(File { artifact_id: Some(id.to_owned()), url, ..file }))
}

/// The refusal of a file that nobody needed any more.
pub(super) fn expired() -> Error {
    Error::permanent(EXPIRED, "the file has expired and is no longer kept")
        .hint("`retention` of the pipeline or of the configuration says how long files are kept")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn files_are_named_in_three_ways() {
        let place = |value: Value| read(&value).map(|file| (file.bucket, file.key, file.artifact_id));
        let uploads = || Some("uploads".to_owned());
        assert_eq!(place(json!("s3://uploads/a//b %2B")).unwrap(), (uploads(), Some("a//b %2B".into()), None));
        assert_eq!(place(json!({"bucket": "uploads", "key": "a"})).unwrap(), (uploads(), Some("a".into()), None));
        assert_eq!(place(json!({"artifact_id": "x", "size": 3})).unwrap(), (None, None, Some("x".into())));
        for wrong in
            [json!("a.csv"), json!("s3://uploads"), json!("s3:///a"), json!("s3://uploads/"), json!(3), json!([])]
        {
            assert_eq!(read(&wrong).unwrap_err().code, "param_wrong_type", "{wrong}");
        }
        assert_eq!(read(&json!({"bucket": "uploads", "path": "a"})).unwrap_err().code, "param_wrong_type");
    }
}
