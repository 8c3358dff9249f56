//! Files that a caller names instead of sending: objects in buckets, and artifacts of earlier runs.

use std::net::Ipv4Addr;

use serde::Deserialize;
use serde_json::{Map, Value};
use ulid::Ulid;

use super::App;
use super::auth::Caller;
use super::names;
use super::pipelines::{LivePipeline, Takes};
use super::problem::param_invalid;
use crate::engine::artifact_url;
use crate::error::{Error, Result};
use crate::objects::File;

const EXPECTED: &str =
    "expected a part of a form, `\"s3://bucket/key\"`, `{\"bucket\": …, \"key\": …}` or `{\"artifact_id\": …}`";

const BUCKETS: &str = "expected 3 to 63 lower-case letters, digits, `-` and `.`, and no IP address";
const LONGEST_KEY: usize = 1024;

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

/// Replaces what the caller wrote for file parameters by the files that it names, pinned to their present state.
///
/// # Errors
/// `params_invalid`, `bucket_forbidden`, `object_not_found`, `object_changed`, or those of the store.
pub(super) async fn resolve(
    app: &App,
    caller: &Caller,
    pipeline: &LivePipeline,
    params: &mut Map<String, Value>,
) -> Result<()> {
    for (name, takes) in pipeline.file_params() {
        let Some(value) = params.get_mut(name).filter(|value| !value.is_null()) else { continue };
        match (takes, value) {
            (Takes::One, value) => *value = resolved(app, caller, name, value).await?,
            (Takes::Many, Value::Array(items)) => {
                for item in items {
                    *item = resolved(app, caller, name, item).await?;
                }
            }
            (Takes::Many, value) => {
                let message = format!("`{name}` is a list of files, but a {} was given", kind(value));
                return Err(param_invalid(name, message).hint(EXPECTED));
            }
        }
    }
    Ok(())
}

async fn resolved(app: &App, caller: &Caller, param: &str, value: &Value) -> Result<Value> {
    let reference = read(param, value)?;
    let file = match &reference.artifact_id {
        Some(id) => owned(app, caller, param, id, &reference).await?,
        None => foreign(app, caller, param, &reference).await?,
    };
    serde_json::to_value(file).map_err(|error| Error::permanent("internal_error", error.to_string()))
}

fn read(param: &str, value: &Value) -> Result<Reference> {
    let unlike = |message: String| param_invalid(param, message).hint(EXPECTED);
    match value {
        Value::String(text) => {
            let place = text.strip_prefix("s3://").and_then(|rest| rest.split_once('/'));
            let Some((bucket, key)) = place.filter(|(bucket, key)| !bucket.is_empty() && !key.is_empty()) else {
                return Err(unlike(format!("`{text}`, given for `{param}`, names no file")));
            };
            Ok(Reference { bucket: Some(bucket.into()), key: Some(key.into()), ..Reference::default() })
        }
        Value::Object(_) => {
            Reference::deserialize(value).map_err(|error| unlike(format!("`{param}` is not a file: {error}")))
        }
        _ => Err(unlike(format!("`{param}` is a file, but a {} was given", kind(value)))),
    }
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
async fn owned(app: &App, caller: &Caller, param: &str, id: &str, reference: &Reference) -> Result<File> {
    let file = match Ulid::from_string(id) {
        Ok(_) => artifact(app, Some(caller), id).await?,
        Err(_) => None,
    };
    let file = file.ok_or_else(|| {
        Error::permanent("object_not_found", format!("`{param}` names the artifact `{id}`, which is not there"))
            .hint("the key must also have `runs:read` for the pipeline of its run")
    })?;
    let same = |given: &Option<String>, known: &str| given.as_ref().is_none_or(|given| given == known);
    if same(&reference.bucket, &file.bucket) && same(&reference.key, &file.key) && same(&reference.etag, &file.etag) {
        Ok(file)
    } else {
        Err(param_invalid(param, format!("`{param}` names the artifact `{id}` and the place of another file")))
    }
}

/// A file that belongs to the user.
async fn foreign(app: &App, caller: &Caller, param: &str, reference: &Reference) -> Result<File> {
    let (Some(bucket), Some(key)) = (&reference.bucket, &reference.key) else {
        let message = format!("`{param}` names neither an artifact nor a bucket with a key");
        return Err(param_invalid(param, message).hint(EXPECTED));
    };
    place(app, bucket, key).map_err(|message| param_invalid(param, message))?;
    if !caller.may_name(bucket) {
        let message = format!("the API key may not name files of bucket `{bucket}`");
        let hint = format!("make a key with `afterload key new --bucket {bucket}`");
        return Err(Error::permanent("bucket_forbidden", message).hint(hint));
    }
    let stored = app.objects().head(bucket, key).await.map_err(|error| error.context(format!("`{param}`")))?;
    let other_etag = reference.etag.as_deref().is_some_and(|etag| !etag.is_empty() && etag != stored.etag);
    let other_version = reference.version.is_some() && reference.version != stored.version;
    if other_etag || other_version {
        let message = format!("`{param}` names another state of `{key}` in bucket `{bucket}` than is there now");
        return Err(Error::permanent("object_changed", message));
    }
    let name = names::clean(reference.name.as_deref().unwrap_or(key), param);
    let mut file = stored.into_file(None, name, None);
    file.content_type = names::content_type(Some(&file.content_type), &file.name);
    Ok(file)
}

/// What no store could have, told before a store is asked. A bucket that the configuration names is called as it is.
fn place(app: &App, bucket: &str, key: &str) -> Result<(), String> {
    if !is_bucket(bucket) && !app.config().objects.buckets.contains_key(bucket) {
        return Err(format!("`{}` is not the name of a bucket; {BUCKETS}", shown(bucket)));
    }
    match key.len() {
        1..=LONGEST_KEY => Ok(()),
        length => Err(format!("the key has {length} bytes; expected 1 to {LONGEST_KEY}")),
    }
}

/// The rules of S3.
fn is_bucket(name: &str) -> bool {
    let label = |label: &str| !label.is_empty() && !label.starts_with('-') && !label.ends_with('-');
    (3..=63).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte))
        && name.split('.').all(label)
        && name.parse::<Ipv4Addr>().is_err()
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
/// Those of the database.
pub(super) async fn artifact(app: &App, caller: Option<&Caller>, id: &str) -> Result<Option<File>> {
    let Some(artifact) = app.db().artifact(id).await? else { return Ok(None) };
    if let Some(caller) = caller {
        let Some(run) = app.db().run(&artifact.run_id).await? else { return Ok(None) };
        if !caller.may_read(&run.pipeline) {
            return Ok(None);
        }
    }
    let file: File = serde_json::from_value(artifact.file)
        .map_err(|error| Error::permanent("internal_error", format!("artifact `{id}` holds no file: {error}")))?;
    let url = Some(artifact_url(app.base_url(), id));
    Ok(Some(File { artifact_id: Some(id.to_owned()), url, ..file }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn files_are_named_in_three_ways() {
        let place = |value: Value| read("file", &value).map(|file| (file.bucket, file.key, file.artifact_id));
        let uploads = || Some("uploads".to_owned());
        assert_eq!(place(json!("s3://uploads/a//b %2B")).unwrap(), (uploads(), Some("a//b %2B".into()), None));
        assert_eq!(place(json!({"bucket": "uploads", "key": "a"})).unwrap(), (uploads(), Some("a".into()), None));
        assert_eq!(place(json!({"artifact_id": "x", "size": 3})).unwrap(), (None, None, Some("x".into())));
        for wrong in
            [json!("a.csv"), json!("s3://uploads"), json!("s3:///a"), json!("s3://uploads/"), json!(3), json!([])]
        {
            assert_eq!(read("file", &wrong).unwrap_err().code(), "params_invalid", "{wrong}");
        }
        assert_eq!(read("file", &json!({"bucket": "uploads", "path": "a"})).unwrap_err().code(), "params_invalid");
    }
}
