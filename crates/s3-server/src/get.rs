//! GetObject and HeadObject.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use hyper::header::{ETAG, HeaderName, HeaderValue, LAST_MODIFIED};
use hyper::{HeaderMap, StatusCode};
use s3s::dto::{
    ChecksumMode, ChecksumType, ETag, ETagCondition, GetObjectInput, GetObjectOutput, GetObjectTaggingInput,
    GetObjectTaggingOutput, HeadObjectInput, HeadObjectOutput, Range as RangeHeader, StreamingBlob, Timestamp,
    TimestampFormat,
};
use s3s::{S3Error, S3ErrorCode, S3Request, S3Response, S3Result};

use super::S3Backend;
use super::blobs::BlobStream;
use super::digest::{BlobChecksums, fill_checksums};
use super::error::S3ServerError;
use super::index::objects::{self, IndexedObject};
use super::index::run_blocking;
use afterload_core::clock::UnixMillis;
use afterload_object_store::OBJECT_ID_HEADER;

/// How often a read starts again because the object was replaced meanwhile.
const MAX_OPEN_ATTEMPTS: usize = 10;

/// Sets the response headers that GetObject and HeadObject share.
macro_rules! fill_object_headers {
    ($output:expr, $object:expr, $stretch:expr) => {{
        $output.accept_ranges = Some("bytes".to_owned());
        $output.content_length = Some(($stretch.end - $stretch.start) as i64);
        $output.e_tag = Some(ETag::Strong($object.etag));
        $output.last_modified = Some(to_timestamp($object.modified_at));
        $output.content_type = Some($object.content_type);
        let details = $object.details;
        $output.cache_control = details.cache_control;
        $output.content_disposition = details.content_disposition;
        $output.content_encoding = details.content_encoding;
        $output.content_language = details.content_language;
        $output.expires = details.expires.and_then(|date| Timestamp::parse(TimestampFormat::HttpDate, &date).ok());
        $output.metadata = Some(details.metadata.into_iter().collect());
    }};
}

/// The `If-…` conditions of a read.
pub(super) struct ReadConditions {
    pub(super) if_match: Option<ETagCondition>,
    pub(super) if_none_match: Option<ETagCondition>,
    pub(super) if_modified_since: Option<Timestamp>,
    pub(super) if_unmodified_since: Option<Timestamp>,
}

impl ReadConditions {
    /// Checks the conditions in the order of RFC 9110, section 13.2.2.
    pub(super) fn check_object(&self, object: &IndexedObject) -> S3Result<()> {
        // HTTP dates have no fractions.
        let modified = to_timestamp(object.modified_at - object.modified_at.rem_euclid(1000));
        let meets = |condition: &ETagCondition| match condition {
            ETagCondition::Any => true,
            ETagCondition::ETag(etag) => etag.value() == object.etag,
        };
        let precondition = match (&self.if_match, &self.if_unmodified_since) {
            (Some(condition), _) => meets(condition),
            (None, Some(date)) => modified <= *date,
            (None, None) => true,
        };
        if !precondition {
            return Err(S3ErrorCode::PreconditionFailed.into());
        }
        let fresh = match (&self.if_none_match, &self.if_modified_since) {
            (Some(condition), _) => meets(condition),
            (None, Some(date)) => modified <= *date,
            (None, None) => false,
        };
        if fresh { Err(not_modified_error(object)) } else { Ok(()) }
    }
}

fn not_modified_error(object: &IndexedObject) -> S3Error {
    let mut headers = HeaderMap::new();
    headers.extend(format!("\"{}\"", object.etag).parse().ok().map(|etag| (ETAG, etag)));
    let mut date = Vec::new();
    if to_timestamp(object.modified_at).format(TimestampFormat::HttpDate, &mut date).is_ok() {
        headers.extend(date.as_slice().try_into().ok().map(|date| (LAST_MODIFIED, date)));
    }
    let mut error = S3Error::new(S3ErrorCode::NotModified);
    error.set_headers(headers);
    error
}

/// Converts a stored time to the type of s3s.
pub(super) fn to_timestamp(millis: UnixMillis) -> Timestamp {
    Timestamp::from(UNIX_EPOCH + Duration::from_millis(millis.unsigned_abs()))
}

fn resolve_range(range: Option<RangeHeader>, object: &IndexedObject) -> S3Result<Range<u64>> {
    match range {
        // A suffix range of an empty object is empty, but S3 rejects it too.
        Some(_) if object.size == 0 => Err(S3ErrorCode::InvalidRange.into()),
        Some(range) => range.check(object.size).map_err(|_| S3ErrorCode::InvalidRange.into()),
        None => Ok(0..object.size),
    }
}

pub(super) async fn get_object(
    store: &Arc<S3Backend>,
    request: S3Request<GetObjectInput>,
) -> S3Result<S3Response<GetObjectOutput>> {
    let GetObjectInput { bucket, key, range, checksum_mode, .. } = request.input;
    let conditions = ReadConditions {
        if_match: request.input.if_match,
        if_none_match: request.input.if_none_match,
        if_modified_since: request.input.if_modified_since,
        if_unmodified_since: request.input.if_unmodified_since,
    };
    let worker = Arc::clone(store);
    let (object, stretch, body, checksums) = run_blocking(move || {
        open_object(&worker, &bucket, &key, |object| {
            conditions.check_object(object)?;
            resolve_range(range, object)
        })
    })
    .await?;
    let mut output = GetObjectOutput {
        body: Some(StreamingBlob::new(body)),
        content_range: range.is_some().then(|| format_content_range(&stretch, &object)),
        ..Default::default()
    };
    fill_object_headers!(output, object, stretch);
    if range.is_none() && wants_checksums(checksum_mode.as_ref()) && !checksums.is_empty() {
        fill_checksums!(output, checksums);
        output.checksum_type = Some(ChecksumType::from_static(ChecksumType::FULL_OBJECT));
    }
    Ok(partial_response(output, range))
}

pub(super) async fn head_object(
    store: &Arc<S3Backend>,
    request: S3Request<HeadObjectInput>,
) -> S3Result<S3Response<HeadObjectOutput>> {
    let HeadObjectInput { bucket, key, range, checksum_mode, .. } = request.input;
    let (object, checksums) = store
        .read_index(move |sql| {
            let object = objects::require_object(sql, &bucket, &key)?;
            let checksums = objects::object_checksums(sql, &object)?;
            Ok((object, checksums))
        })
        .await?;
    let conditions = ReadConditions {
        if_match: request.input.if_match,
        if_none_match: request.input.if_none_match,
        if_modified_since: request.input.if_modified_since,
        if_unmodified_since: request.input.if_unmodified_since,
    };
    conditions.check_object(&object)?;
    let stretch = resolve_range(range, &object)?;
    let content_range = range.is_some().then(|| format_content_range(&stretch, &object));
    let mut output = HeadObjectOutput { content_range, ..Default::default() };
    let object_id = HeaderValue::try_from(object.id.as_str()).ok();
    fill_object_headers!(output, object, stretch);
    if range.is_none() && wants_checksums(checksum_mode.as_ref()) && !checksums.is_empty() {
        fill_checksums!(output, checksums);
        output.checksum_type = Some(ChecksumType::from_static(ChecksumType::FULL_OBJECT));
    }
    let mut response = partial_response(output, range);
    // Our triggers tell the writes of a key apart by it.
    response.headers.extend(object_id.map(|id| (HeaderName::from_static(OBJECT_ID_HEADER), id)));
    Ok(response)
}

/// Objects have no tags. Clients that copy request them anyway.
pub(super) async fn get_object_tags(
    store: &Arc<S3Backend>,
    request: S3Request<GetObjectTaggingInput>,
) -> S3Result<S3Response<GetObjectTaggingOutput>> {
    let GetObjectTaggingInput { bucket, key, .. } = request.input;
    store.read_index(move |sql| objects::require_object(sql, &bucket, &key)).await?;
    Ok(S3Response::new(GetObjectTaggingOutput { tag_set: Vec::new(), version_id: None }))
}

fn wants_checksums(mode: Option<&ChecksumMode>) -> bool {
    mode.is_some_and(|mode| mode.as_str() == ChecksumMode::ENABLED)
}

fn format_content_range(stretch: &Range<u64>, object: &IndexedObject) -> String {
    format!("bytes {}-{}/{}", stretch.start, stretch.end - 1, object.size)
}

fn partial_response<T>(output: T, range: Option<RangeHeader>) -> S3Response<T> {
    match range {
        Some(_) => S3Response::with_status(output, StatusCode::PARTIAL_CONTENT),
        None => S3Response::new(output),
    }
}

/// Finds the object, guards its blobs and finds it again. If it has not changed, its blobs stay until the read ends.
/// Other processes do not see the guard. If one of them removes a blob, the connection of the reader breaks, and
/// `If-Match` explains the reason on its next request.
pub(super) fn open_object(
    store: &S3Backend,
    bucket: &str,
    key: &str,
    mut choose: impl FnMut(&IndexedObject) -> S3Result<Range<u64>>,
) -> Result<(IndexedObject, Range<u64>, BlobStream, BlobChecksums), S3ServerError> {
    for _ in 0..MAX_OPEN_ATTEMPTS {
        let object = store.read_index_blocking(|sql| objects::require_object(sql, bucket, key))?;
        let stretch = choose(&object)?;
        let hold = store.blobs.guard_reads(&object.id);
        let found = store.read_index_blocking(|sql| {
            let again = objects::require_object(sql, bucket, key)?;
            let stretches = objects::find_part_ranges(sql, &again.id, stretch.start, stretch.end)?;
            Ok((again.id == object.id).then_some((stretches, objects::object_checksums(sql, &object)?)))
        })?;
        let Some((stretches, checksums)) = found else { continue };
        match BlobStream::open(&store.blobs, hold, stretches, stretch.start, stretch.end) {
            Ok(body) => return Ok((object, stretch, body, checksums)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(S3ServerError::Other(format!("an object in bucket `{bucket}` has lost its body")))
}
