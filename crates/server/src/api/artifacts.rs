//! Streams the files of runs to clients.

use std::future::ready;

use axum::body::Body;
use axum::extract::State;
use axum::http::header::{
    ACCEPT_RANGES, AUTHORIZATION, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_RANGE,
    CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, IF_RANGE, RANGE,
};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use schemars::JsonSchema;
use serde::Deserialize;
use ulid::Ulid;

use super::ApiState;
use super::auth::Caller;
use super::client_address::ClientAddress;
use super::extract::{PathId, StrictQuery};
use super::problem::Problem;
use super::range::{ByteRange, parse_range};
use super::{content_disposition, file_params};
use crate::codes;
use afterload_core::error::{Error, Result};
use afterload_core::file::File;
use afterload_core::keyring::TokenPurpose;

/// The query of a download.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DownloadQuery {
    token: Option<String>,
}

/// `GET /v1/artifacts/{id}`: the whole file or one range, with an API key or the token of the file.
pub(super) async fn download_artifact(
    State(app): State<ApiState>,
    PathId(id): PathId,
    StrictQuery(query): StrictQuery<DownloadQuery>,
    method: Method,
    client: ClientAddress,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let caller = match &query.token {
        Some(token) if !headers.contains_key(AUTHORIZATION) => {
            if !app.keyring().verify_token(TokenPurpose::Artifact, &id, token) {
                return Err(Problem::new(codes::TOKEN_INVALID, "the token is not the one of this file")
                    .with_hint("use the link as it came, whole"));
            }
            None
        }
        _ => {
            let caller = Caller::from_headers(&app, client, &headers).await?;
            caller.require_read()?;
            Some(caller)
        }
    };
    let file = match Ulid::from_string(&id) {
        Ok(_) => file_params::load_artifact(&app, caller.as_ref(), &id).await?,
        Err(_) => None,
    };
    let file = file.ok_or_else(|| Problem::new(codes::ARTIFACT_NOT_FOUND, format!("there is no file `{id}`")))?;
    serve_file(&app, &file, &method, &headers).await
}

/// Responds with the whole file, a range of it, or "not modified". The caller has already been authorized.
pub(super) async fn serve_file(
    app: &ApiState,
    file: &File,
    method: &Method,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let etag = HeaderValue::from_str(&format!("\"{}\"", file.etag)).ok().filter(|_| !file.etag.is_empty());
    if let Some(etag) = etag.as_ref().filter(|etag| etag_matches(headers, etag)) {
        return Ok((StatusCode::NOT_MODIFIED, [(ETAG, etag.clone())]).into_response());
    }
    let part = match requested_range(headers, etag.as_ref(), file.size) {
        ByteRange::Unsatisfiable => {
            let message = format!("the file has {} bytes, and the range lies outside of them", file.size);
            let size = HeaderValue::from_str(&format!("bytes */{}", file.size));
            let problem = Problem::new(codes::RANGE_NOT_SATISFIABLE, message);
            return Err(size.map_or(problem.clone(), |size| problem.with_header(CONTENT_RANGE, size)));
        }
        ByteRange::Part(first, last) => Some((first, last)),
        ByteRange::All => None,
    };
    let body = match *method {
        Method::HEAD => Body::empty(),
        _ => Body::from_stream(file_stream(app, file, part).await?),
    };
    Ok(file_response(file, part, etag, body))
}

fn file_response(file: &File, part: Option<(u64, u64)>, etag: Option<HeaderValue>, body: Body) -> Response {
    let (status, length) = match part {
        Some((first, last)) => (StatusCode::PARTIAL_CONTENT, last - first + 1),
        None => (StatusCode::OK, file.size),
    };
    let mut response = (status, body).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_LENGTH, length.into());
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    // The file may be any upload. If a browser displays it in spite of the other headers, the sandbox keeps it from
    // running scripts.
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox; default-src 'none'"));
    let media = HeaderValue::from_str(&content_disposition::resolve_content_type(Some(&file.content_type), &file.name));
    let disposition = HeaderValue::from_str(&content_disposition::attachment_header(&file.name));
    let range = part.map(|(first, last)| HeaderValue::from_str(&format!("bytes {first}-{last}/{}", file.size)));
    let named = [(CONTENT_TYPE, media.ok()), (CONTENT_DISPOSITION, disposition.ok())];
    let optional = [(ETAG, etag), (CONTENT_RANGE, range.and_then(Result::ok))];
    for (name, value) in named.into_iter().chain(optional) {
        if let Some(value) = value {
            headers.insert(name, value);
        }
    }
    response
}

/// Streams the file or a part of it.
async fn file_stream(
    app: &ApiState,
    file: &File,
    part: Option<(u64, u64)>,
) -> Result<BoxStream<'static, Result<Bytes>>> {
    let from = part.map_or(0, |(first, _)| first);
    let mut left = part.map_or(file.size, |(first, last)| last - first + 1);
    let body = app.objects().open_object(file, from).await.map_err(|error| match error.code() {
        codes::OBJECT_NOT_FOUND | codes::OBJECT_CHANGED => {
            Error::new(codes::ARTIFACT_GONE, format!("the file `{}` is no longer in the store", file.name))
        }
        _ => error,
    })?;
    let stream = body.stream.map_ok(move |mut bytes| {
        bytes.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        left -= bytes.len() as u64;
        bytes
    });
    // The store may send more than the range. The body must end where `Content-Length` says.
    let stream = stream.try_take_while(|bytes| ready(Ok(!bytes.is_empty())));
    let logged = stream.inspect_err(|error| {
        tracing::warn!(error.code = error.code().name(), "a download was interrupted: {}", error.message());
    });
    Ok(logged.boxed())
}

fn requested_range(headers: &HeaderMap, etag: Option<&HeaderValue>, size: u64) -> ByteRange {
    let Some(header) = headers.get(RANGE).and_then(|header| header.to_str().ok()) else { return ByteRange::All };
    match headers.get(IF_RANGE) {
        Some(condition) if Some(condition) != etag => ByteRange::All,
        _ => parse_range(header, size),
    }
}

fn etag_matches(headers: &HeaderMap, etag: &HeaderValue) -> bool {
    let listed = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let mut tags = listed.flat_map(|value| value.split(',')).map(|tag| tag.trim().trim_start_matches("W/"));
    tags.any(|tag| tag == "*" || tag.as_bytes() == etag.as_bytes())
}

/// The bytes of a file, as an OpenAPI schema.
pub(super) struct FileBytes;

impl JsonSchema for FileBytes {
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
