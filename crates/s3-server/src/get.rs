//! Objects going out: GetObject and HeadObject.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use hyper::header::{ETAG, LAST_MODIFIED};
use hyper::{HeaderMap, StatusCode};
use s3s::dto::{
    ChecksumMode, ChecksumType, ETag, ETagCondition, GetObjectInput, GetObjectOutput, GetObjectTaggingInput,
    GetObjectTaggingOutput, HeadObjectInput, HeadObjectOutput, Range as RangeHeader, StreamingBlob, Timestamp,
    TimestampFormat,
};
use s3s::{S3Error, S3ErrorCode, S3Request, S3Response, S3Result};

use super::Store;
use super::bodies::Outgoing;
use super::digest::{Checksums, fill_checksums};
use super::fault::Fault;
use super::index::blocking;
use super::index::objects::{self, Object};
use afterload_core::clock::Millis;

/// How often a reader looks again because the object was replaced under its hands.
const LOOKS: usize = 10;

/// Fills what GetObject and HeadObject have in common.
macro_rules! describe {
    ($output:expr, $object:expr, $stretch:expr) => {{
        $output.accept_ranges = Some("bytes".to_owned());
        $output.content_length = Some(($stretch.end - $stretch.start) as i64);
        $output.e_tag = Some(ETag::Strong($object.etag));
        $output.last_modified = Some(time($object.modified_at));
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

/// Conditions on what is read.
pub(super) struct Conditions {
    pub(super) matches: Option<ETagCondition>,
    pub(super) none_matches: Option<ETagCondition>,
    pub(super) modified_since: Option<Timestamp>,
    pub(super) unmodified_since: Option<Timestamp>,
}

impl Conditions {
    /// In the order of RFC 9110, 13.2.2.
    pub(super) fn check(&self, object: &Object) -> S3Result<()> {
        // HTTP dates have no fractions.
        let modified = time(object.modified_at - object.modified_at.rem_euclid(1000));
        let meets = |condition: &ETagCondition| match condition {
            ETagCondition::Any => true,
            ETagCondition::ETag(etag) => etag.value() == object.etag,
        };
        let precondition = match (&self.matches, &self.unmodified_since) {
            (Some(condition), _) => meets(condition),
            (None, Some(date)) => modified <= *date,
            (None, None) => true,
        };
        if !precondition {
            return Err(S3ErrorCode::PreconditionFailed.into());
        }
        let fresh = match (&self.none_matches, &self.modified_since) {
            (Some(condition), _) => meets(condition),
            (None, Some(date)) => modified <= *date,
            (None, None) => false,
        };
        if fresh { Err(not_modified(object)) } else { Ok(()) }
    }
}

fn not_modified(object: &Object) -> S3Error {
    let mut headers = HeaderMap::new();
    headers.extend(format!("\"{}\"", object.etag).parse().ok().map(|etag| (ETAG, etag)));
    let mut date = Vec::new();
    if time(object.modified_at).format(TimestampFormat::HttpDate, &mut date).is_ok() {
        headers.extend(date.as_slice().try_into().ok().map(|date| (LAST_MODIFIED, date)));
    }
    let mut error = S3Error::new(S3ErrorCode::NotModified);
    error.set_headers(headers);
    error
}

/// A stored time as s3s wants it.
pub(super) fn time(millis: Millis) -> Timestamp {
    Timestamp::from(UNIX_EPOCH + Duration::from_millis(millis.unsigned_abs()))
}

fn wanted(range: Option<RangeHeader>, object: &Object) -> S3Result<Range<u64>> {
    match range {
        // The last bytes of nothing are nothing, but S3 refuses that, too.
        Some(_) if object.size == 0 => Err(S3ErrorCode::InvalidRange.into()),
        Some(range) => range.check(object.size).map_err(|_| S3ErrorCode::InvalidRange.into()),
        None => Ok(0..object.size),
    }
}

pub(super) async fn object(
    store: &Arc<Store>,
    request: S3Request<GetObjectInput>,
) -> S3Result<S3Response<GetObjectOutput>> {
    let GetObjectInput { bucket, key, range, checksum_mode, .. } = request.input;
    let conditions = Conditions {
        matches: request.input.if_match,
        none_matches: request.input.if_none_match,
        modified_since: request.input.if_modified_since,
        unmodified_since: request.input.if_unmodified_since,
    };
    let worker = Arc::clone(store);
    let (object, stretch, body, checksums) = blocking(move || {
        open(&worker, &bucket, &key, |object| {
            conditions.check(object)?;
            wanted(range, object)
        })
    })
    .await?;
    let mut output = GetObjectOutput {
        body: Some(StreamingBlob::new(body)),
        content_range: range.is_some().then(|| content_range(&stretch, &object)),
        ..Default::default()
    };
    describe!(output, object, stretch);
    if range.is_none() && wants_checksums(checksum_mode.as_ref()) && !checksums.is_empty() {
        fill_checksums!(output, checksums);
        output.checksum_type = Some(ChecksumType::from_static(ChecksumType::FULL_OBJECT));
    }
    Ok(partial(output, range))
}

pub(super) async fn head(
    store: &Arc<Store>,
    request: S3Request<HeadObjectInput>,
) -> S3Result<S3Response<HeadObjectOutput>> {
    let HeadObjectInput { bucket, key, range, checksum_mode, .. } = request.input;
    let (object, checksums) = store
        .read(move |sql| {
            let object = objects::get(sql, &bucket, &key)?;
            let checksums = objects::checksums(sql, &object)?;
            Ok((object, checksums))
        })
        .await?;
    let conditions = Conditions {
        matches: request.input.if_match,
        none_matches: request.input.if_none_match,
        modified_since: request.input.if_modified_since,
        unmodified_since: request.input.if_unmodified_since,
    };
    conditions.check(&object)?;
    let stretch = wanted(range, &object)?;
    let content_range = range.is_some().then(|| content_range(&stretch, &object));
    let mut output = HeadObjectOutput { content_range, ..Default::default() };
    describe!(output, object, stretch);
    if range.is_none() && wants_checksums(checksum_mode.as_ref()) && !checksums.is_empty() {
        fill_checksums!(output, checksums);
        output.checksum_type = Some(ChecksumType::from_static(ChecksumType::FULL_OBJECT));
    }
    Ok(partial(output, range))
}

/// No object has tags; clients that copy ask for them all the same.
pub(super) async fn tags(
    store: &Arc<Store>,
    request: S3Request<GetObjectTaggingInput>,
) -> S3Result<S3Response<GetObjectTaggingOutput>> {
    let GetObjectTaggingInput { bucket, key, .. } = request.input;
    store.read(move |sql| objects::get(sql, &bucket, &key)).await?;
    Ok(S3Response::new(GetObjectTaggingOutput { tag_set: Vec::new(), version_id: None }))
}

fn wants_checksums(mode: Option<&ChecksumMode>) -> bool {
    mode.is_some_and(|mode| mode.as_str() == ChecksumMode::ENABLED)
}

fn content_range(stretch: &Range<u64>, object: &Object) -> String {
    format!("bytes {}-{}/{}", stretch.start, stretch.end - 1, object.size)
}

fn partial<T>(output: T, range: Option<RangeHeader>) -> S3Response<T> {
    match range {
        Some(_) => S3Response::with_status(output, StatusCode::PARTIAL_CONTENT),
        None => S3Response::new(output),
    }
}

/// Finds the object, takes hold of its bodies and looks again: what is still there then stays there while it is read.
/// (Another process cannot see the hold. Whoever loses a body to one gets a broken connection, and `If-Match` tells
/// them why when they come back.)
pub(super) fn open(
    store: &Store,
    bucket: &str,
    key: &str,
    mut choose: impl FnMut(&Object) -> S3Result<Range<u64>>,
) -> Result<(Object, Range<u64>, Outgoing, Checksums), Fault> {
    for _ in 0..LOOKS {
        let object = store.read_now(|sql| objects::get(sql, bucket, key))?;
        let stretch = choose(&object)?;
        let hold = store.bodies.hold(&object.id);
        let found = store.read_now(|sql| {
            let again = objects::get(sql, bucket, key)?;
            let stretches = objects::stretches(sql, &again.id, stretch.start, stretch.end)?;
            Ok((again.id == object.id).then_some((stretches, objects::checksums(sql, &object)?)))
        })?;
        let Some((stretches, checksums)) = found else { continue };
        match Outgoing::open(&store.bodies, hold, stretches, stretch.start, stretch.end) {
            Ok(body) => return Ok((object, stretch, body, checksums)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Fault::Other(format!("an object in bucket `{bucket}` has lost its body")))
}
