//! CopyObject and UploadPartCopy. The bytes are copied to a new blob, so that two objects never share one.

use std::ops::Range;
use std::sync::Arc;

use hyper::HeaderMap;
use s3s::dto::{
    CopyObjectInput, CopyObjectOutput, CopyObjectResult, CopyPartResult, CopySource, ETag, ETagCondition,
    MetadataDirective, StreamingBlob, UploadPartCopyInput, UploadPartCopyOutput,
};
use s3s::{S3Error, S3ErrorCode, S3Request, S3Response, S3Result};

use super::S3Backend;
use super::blobs::WrittenBlob;
use super::digest::BodyExpectation;
use super::error::{S3ServerError, s3_error};
use super::get::{ReadConditions, open_object, to_timestamp};
use super::index::objects::{self, IndexedObject, ObjectDetails};
use super::index::run_blocking;
use super::index::{buckets, uploads};
use super::put::{DEFAULT_CONTENT_TYPE, IncomingBody, MAX_PUT_BYTES, build_details, receive_blob};

pub(super) async fn copy_object(
    store: &Arc<S3Backend>,
    request: S3Request<CopyObjectInput>,
) -> S3Result<S3Response<CopyObjectOutput>> {
    let to = objects::WriteConditions {
        if_match: parse_etag_condition(&request.headers, "if-match")?,
        if_none_match: parse_etag_condition(&request.headers, "if-none-match")?,
    };
    let input = request.input;
    if input.checksum_algorithm.is_some() {
        return Err(s3_error(S3ErrorCode::NotImplemented, "Checksums of copies are not implemented by this store."));
    }
    let (from_bucket, from_key) = parse_copy_source(&input.copy_source)?;
    let replaced = match input.metadata_directive.as_ref().map(MetadataDirective::as_str) {
        None | Some(MetadataDirective::COPY) => false,
        Some(MetadataDirective::REPLACE) => true,
        Some(_) => return Err(s3_error(S3ErrorCode::InvalidArgument, "The metadata directive is COPY or REPLACE.")),
    };
    let (bucket, key) = (input.bucket, input.key);
    if !replaced && from_bucket == bucket && from_key == key {
        let message = "An object is copied to itself only with other metadata: use the directive REPLACE.";
        return Err(s3_error(S3ErrorCode::InvalidRequest, message));
    }
    let conditions = ReadConditions {
        if_match: input.copy_source_if_match,
        if_none_match: input.copy_source_if_none_match,
        if_modified_since: input.copy_source_if_modified_since,
        if_unmodified_since: input.copy_source_if_unmodified_since,
    };
    let target = bucket.clone();
    store.read_index(move |sql| buckets::ensure_bucket_exists(sql, &target)).await?;
    let (source, sealed) = copy_blob(store, from_bucket, from_key, conditions, None).await?;
    let (content_type, details) = match replaced {
        false => (source.content_type, source.details),
        true => {
            let given = ObjectDetails {
                cache_control: input.cache_control,
                content_disposition: input.content_disposition,
                content_encoding: input.content_encoding,
                content_language: input.content_language,
                ..ObjectDetails::default()
            };
            let content_type = input.content_type.unwrap_or_else(|| DEFAULT_CONTENT_TYPE.to_owned());
            (content_type, build_details(given, input.expires, input.metadata)?)
        }
    };
    let put =
        store.write_index(move |tx| objects::insert_object(tx, &bucket, &key, content_type, details, &to, sealed));
    let result = CopyObjectResult {
        e_tag: Some(put.await?),
        last_modified: Some(to_timestamp(store.clock.now())),
        ..Default::default()
    };
    Ok(S3Response::new(CopyObjectOutput { copy_object_result: Some(result), ..Default::default() }))
}

pub(super) async fn copy_part(
    store: &Arc<S3Backend>,
    request: S3Request<UploadPartCopyInput>,
) -> S3Result<S3Response<UploadPartCopyOutput>> {
    let input = request.input;
    super::multipart::check_part_number(input.part_number)?;
    let (from_bucket, from_key) = parse_copy_source(&input.copy_source)?;
    let range = input.copy_source_range.as_deref().map(parse_copy_range).transpose()?;
    let conditions = ReadConditions {
        if_match: input.copy_source_if_match,
        if_none_match: input.copy_source_if_none_match,
        if_modified_since: input.copy_source_if_modified_since,
        if_unmodified_since: input.copy_source_if_unmodified_since,
    };
    let (bucket, key, id) = (input.bucket.clone(), input.key.clone(), input.upload_id.clone());
    store.read_index(move |sql| uploads::require_upload(sql, &bucket, &key, &id)).await?;
    let (_, sealed) = copy_blob(store, from_bucket, from_key, conditions, range).await?;
    let etag = ETag::Strong(sealed.md5.clone());
    let UploadPartCopyInput { bucket, key, upload_id, part_number, .. } = input;
    store.write_index(move |tx| uploads::put_part(tx, &bucket, &key, &upload_id, part_number, sealed)).await?;
    let result = CopyPartResult {
        e_tag: Some(etag),
        last_modified: Some(to_timestamp(store.clock.now())),
        ..Default::default()
    };
    Ok(S3Response::new(UploadPartCopyOutput { copy_part_result: Some(result), ..Default::default() }))
}

/// Copies an object, or a range of it, to a new blob.
async fn copy_blob(
    store: &Arc<S3Backend>,
    bucket: String,
    key: String,
    conditions: ReadConditions,
    range: Option<Range<u64>>,
) -> S3Result<(IndexedObject, WrittenBlob)> {
    let worker = Arc::clone(store);
    let (object, stretch, body, _) = run_blocking(move || {
        open_object(&worker, &bucket, &key, |object| {
            // A copy has no "not modified" response, so every failed condition is `PreconditionFailed`.
            conditions.check_object(object).map_err(|_| S3Error::from(S3ErrorCode::PreconditionFailed))?;
            let range = range.clone().unwrap_or(0..object.size);
            match range.end <= object.size && range.end - range.start <= MAX_PUT_BYTES {
                true => Ok(range),
                false => {
                    Err(s3_error(S3ErrorCode::InvalidRequest, "A copy has at most 5 GiB, and ends with its source."))
                }
            }
        })
    })
    .await?;
    let mut expected = BodyExpectation::default();
    expected.length = Some(stretch.end - stretch.start);
    let body = IncomingBody { bytes: Some(StreamingBlob::new(body)), ..IncomingBody::default() };
    let sealed = receive_blob(store, body, expected).await?;
    Ok((object, sealed))
}

fn parse_copy_source(source: &CopySource) -> S3Result<(String, String)> {
    match source {
        CopySource::Bucket { version_id: Some(version), .. } if &**version != "null" => {
            Err(s3_error(S3ErrorCode::NoSuchVersion, "This store keeps no versions."))
        }
        CopySource::Bucket { bucket, key, .. } => Ok((bucket.to_string(), key.to_string())),
        _ => Err(s3_error(S3ErrorCode::NotImplemented, "Access points are not implemented by this store.")),
    }
}

/// Parses `bytes=FIRST-LAST`; both numbers are required.
fn parse_copy_range(text: &str) -> S3Result<Range<u64>> {
    let bounds = text.strip_prefix("bytes=").and_then(|bounds| bounds.split_once('-'));
    let bounds = bounds.and_then(|(first, last)| Some((first.parse().ok()?, last.parse::<u64>().ok()?)));
    match bounds {
        Some((first, last)) if first <= last && last < u64::MAX => Ok(first..last + 1),
        _ => Err(s3_error(S3ErrorCode::InvalidArgument, "The range of a copy is written as bytes=FIRST-LAST.")),
    }
}

/// Parses an ETag condition of a copy source. s3s does not parse these two headers.
fn parse_etag_condition(headers: &HeaderMap, name: &str) -> Result<Option<ETagCondition>, S3ServerError> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let condition = ETagCondition::parse_http_header(value.as_bytes());
    condition
        .map(Some)
        .map_err(|_| s3_error(S3ErrorCode::InvalidArgument, format!("The header {name} is not valid.")).into())
}
