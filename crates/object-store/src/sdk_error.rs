//! Converts errors of the SDK to [`Error`].

use std::error::Error as StdError;
use std::time::Duration;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use crate::codes;
use afterload_core::error::{Error, ErrorCode};
use afterload_core::shortage;

/// The error of an operation on an object, such as ``reading `key` in bucket `uploads`: …``.
pub(super) fn object_error<E>(doing: &str, bucket: &str, key: &str, error: SdkError<E, HttpResponse>) -> Error
where
    E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
{
    from_sdk_error("object", error).context(format!("{doing} `{key}` in bucket `{bucket}`"))
}

/// The error of an operation on a bucket.
pub(super) fn bucket_error<E>(doing: &str, bucket: &str, error: SdkError<E, HttpResponse>) -> Error
where
    E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
{
    from_sdk_error("bucket", error).context(format!("{doing} bucket `{bucket}`"))
}

/// The responses of the embedded store to requests for which the machine lacks a resource.
const SHORTAGE_RESPONSES: [(&str, ErrorCode); 3] = [
    ("XAfterloadDiskFull", codes::DISK_FULL),
    ("XAfterloadOutOfMemory", codes::OUT_OF_MEMORY),
    ("XAfterloadTooManyOpenFiles", codes::TOO_MANY_OPEN_FILES),
];

/// The S3 error code with which the embedded store reports that the machine lacks a resource.
pub fn shortage_response_code(code: ErrorCode) -> &'static str {
    let found = SHORTAGE_RESPONSES.iter().find(|(_, known)| *known == code);
    found.map_or("ServiceUnavailable", |(name, _)| name)
}

/// The error of a broken stream.
pub(super) fn stream_error(error: &(dyn StdError + 'static)) -> Error {
    if let Some(code) = shortage::find_code(error) {
        return Error::new(code, format!("reading from the store: {}", root_cause(error)));
    }
    Error::new(codes::OBJECT_STORE_UNAVAILABLE, format!("the connection to the store broke: {}", root_cause(error)))
}

fn from_sdk_error<E>(what: &str, error: SdkError<E, HttpResponse>) -> Error
where
    E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
{
    if let (false, Some(code)) = (matches!(error, SdkError::ServiceError(_)), shortage::find_code(&error)) {
        return Error::new(code, format!("the store cannot be reached: {}", root_cause(&error)));
    }
    match &error {
        SdkError::ServiceError(answer) => {
            let response = answer.raw();
            let wait = response.headers().get("retry-after").and_then(|seconds| seconds.parse().ok());
            let error = response_error(what, response.status().as_u16(), answer.err().code(), answer.err().message());
            match wait {
                Some(seconds) if error.is_transient() => error.with_retry_after(Duration::from_secs(seconds)),
                _ => error,
            }
        }
        SdkError::ConstructionFailure(_) => {
            Error::new(codes::OBJECT_STORE_ERROR, format!("the request cannot be made: {}", root_cause(&error)))
        }
        SdkError::TimeoutError(_) => Error::new(
            codes::OBJECT_STORE_UNAVAILABLE,
            format!("the store did not answer in time: {}", root_cause(&error)),
        ),
        _ => {
            Error::new(codes::OBJECT_STORE_UNAVAILABLE, format!("the store cannot be reached: {}", root_cause(&error)))
                .with_hint("check that it runs, and its `endpoint` under `objects.stores`")
        }
    }
}

/// The status comes first, because responses to HEAD have no code.
fn response_error(what: &str, status: u16, code: Option<&str>, message: Option<&str>) -> Error {
    let text = match (message, code) {
        (Some(message), Some(code)) => format!("{} ({code})", message.trim_end_matches('.')),
        (None, Some(code)) => format!("the store answered {code}"),
        _ => format!("the store answered HTTP {status}"),
    };
    if let Some((_, shortage)) = SHORTAGE_RESPONSES.iter().find(|(name, _)| Some(*name) == code) {
        return Error::new(*shortage, text);
    }
    match (status, code.unwrap_or_default()) {
        (_, "NoSuchBucket") => bucket_not_found(),
        (404, _) if what == "bucket" => bucket_not_found(),
        (404, _) => Error::new(codes::OBJECT_NOT_FOUND, format!("there is no such {what}")),
        (412, _) => Error::new(codes::OBJECT_CHANGED, "another object is there now")
            .with_hint("upload it again, or start over with the object that is there now"),
        (403, "RequestTimeTooSkewed") => {
            Error::new(codes::OBJECT_ACCESS_DENIED, text).with_hint("set the clock of this machine")
        }
        (401 | 403, _) => Error::new(codes::OBJECT_ACCESS_DENIED, text)
            .with_hint("check the access key, the secret key and the rights that go with them"),
        (501, _) => Error::new(codes::OBJECT_STORE_ERROR, text),
        (408 | 425 | 429 | 500..=599, _)
        | (_, "RequestTimeout" | "SlowDown" | "OperationAborted" | "ConditionalRequestConflict") => {
            Error::new(codes::OBJECT_STORE_UNAVAILABLE, text)
        }
        _ => Error::new(codes::OBJECT_STORE_ERROR, text),
    }
}

fn bucket_not_found() -> Error {
    Error::new(codes::OBJECT_NOT_FOUND, "there is no such bucket").with_hint("create the bucket, or correct its name")
}

/// The innermost cause. The outer messages of the SDK are all alike (`dispatch failure`).
fn root_cause(error: &(dyn StdError + 'static)) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::response_error;

    #[test]
    fn status_and_code_choose_the_error() {
        let cases = [
            (404, None, "object_not_found", false),
            (404, Some("NoSuchUpload"), "object_not_found", false),
            (412, Some("PreconditionFailed"), "object_changed", false),
            (403, None, "object_access_denied", false),
            (403, Some("SignatureDoesNotMatch"), "object_access_denied", false),
            (400, Some("RequestTimeout"), "object_store_unavailable", true),
            (400, Some("BadDigest"), "object_store_error", false),
            (429, None, "object_store_unavailable", true),
            (501, Some("NotImplemented"), "object_store_error", false),
            (503, Some("SlowDown"), "object_store_unavailable", true),
            (503, Some("XAfterloadDiskFull"), "disk_full", true),
            (503, Some("XAfterloadTooManyOpenFiles"), "too_many_open_files", true),
        ];
        for (status, code, expected, transient) in cases {
            let error = response_error("object", status, code, None);
            assert_eq!((error.code().name(), error.is_transient()), (expected, transient), "{status} {code:?}");
        }
    }
}
