//! Multipart uploads. Completing an upload copies no bytes.

use std::collections::BTreeMap;
use std::sync::Arc;

use s3s::dto::{
    AbortMultipartUploadInput, AbortMultipartUploadOutput, CompleteMultipartUploadInput, CompleteMultipartUploadOutput,
    CompletedPart, CreateMultipartUploadInput, CreateMultipartUploadOutput, ETag, ListMultipartUploadsInput,
    ListMultipartUploadsOutput, ListPartsInput, ListPartsOutput, MultipartUpload, Part as ListedPart, StorageClass,
    UploadPartInput, UploadPartOutput,
};
use s3s::{S3Error, S3ErrorCode, S3Request, S3Response, S3Result};
use ulid::Ulid;

use super::S3Backend;
use super::digest::{fill_checksums, multipart_etag, take_checksums};
use super::error::{S3ServerError, s3_error};
use super::get::to_timestamp;
use super::index::objects::{self, ObjectDetails, WriteConditions};
use super::index::uploads::{self, UnfinishedUpload, UploadedPart};
use super::list::{KeyEncoding, parse_max_entries, store_owner};
use super::put::{DEFAULT_CONTENT_TYPE, IncomingBody, build_details, parse_expected_body, receive_blob};
use afterload_object_store::{AnyPartSize, SkipMd5};

const MAX_PARTS: i32 = 10_000;
const MIN_PART_BYTES: u64 = 5 << 20;
const MAX_OBJECT_BYTES: u64 = 5 << 40;

pub(super) async fn create_multipart_upload(
    store: &Arc<S3Backend>,
    request: S3Request<CreateMultipartUploadInput>,
) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
    let input = request.input;
    let details = build_details(
        ObjectDetails {
            cache_control: input.cache_control,
            content_disposition: input.content_disposition,
            content_encoding: input.content_encoding,
            content_language: input.content_language,
            ..ObjectDetails::default()
        },
        input.expires,
        input.metadata,
    )?;
    let (bucket, key, id) = (input.bucket.clone(), input.key.clone(), Ulid::generate().to_string());
    let upload = UnfinishedUpload {
        key: input.key,
        id: id.clone(),
        content_type: input.content_type.unwrap_or_else(|| DEFAULT_CONTENT_TYPE.to_owned()),
        details,
        created_at: store.clock.now(),
    };
    store.write_index(move |tx| uploads::insert_upload(tx, &input.bucket, &upload)).await?;
    Ok(S3Response::new(CreateMultipartUploadOutput {
        bucket: Some(bucket),
        key: Some(key),
        upload_id: Some(id),
        checksum_algorithm: input.checksum_algorithm,
        checksum_type: input.checksum_type,
        ..Default::default()
    }))
}

/// Rejects part numbers outside of the valid range.
pub(super) fn check_part_number(number: i32) -> S3Result<()> {
    match (1..=MAX_PARTS).contains(&number) {
        true => Ok(()),
        false => Err(s3_error(S3ErrorCode::InvalidArgument, "The part number is from 1 to 10,000.")),
    }
}

pub(super) async fn upload_part(
    store: &Arc<S3Backend>,
    mut request: S3Request<UploadPartInput>,
) -> S3Result<S3Response<UploadPartOutput>> {
    let input = &mut request.input;
    check_part_number(input.part_number)?;
    let mut expected = parse_expected_body(&request.headers, input.content_length, input.content_md5.as_deref())?;
    expected.skip_md5 = request.extensions.get::<SkipMd5>().is_some();
    for (algorithm, value) in take_checksums!(input) {
        value.into_iter().for_each(|value| expected.expect_checksum(algorithm, value));
    }
    let (bucket, key, id) = (input.bucket.clone(), input.key.clone(), input.upload_id.clone());
    store.read_index(move |sql| uploads::require_upload(sql, &bucket, &key, &id)).await?;
    let body = IncomingBody::take_from(input.body.take(), &mut request.trailing_headers, &request.extensions);
    let sealed = receive_blob(store, body, expected).await?;
    let (etag, checksums) = (sealed.md5.clone(), sealed.checksums.clone());
    let UploadPartInput { bucket, key, upload_id, part_number, .. } = request.input;
    store.write_index(move |tx| uploads::put_part(tx, &bucket, &key, &upload_id, part_number, sealed)).await?;
    let mut output = UploadPartOutput { e_tag: Some(ETag::Strong(etag)), ..Default::default() };
    fill_checksums!(output, checksums);
    Ok(S3Response::new(output))
}

pub(super) async fn complete_multipart_upload(
    store: &Arc<S3Backend>,
    request: S3Request<CompleteMultipartUploadInput>,
) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
    let min_part_size = if request.extensions.get::<AnyPartSize>().is_some() { 0 } else { MIN_PART_BYTES };
    let mut input = request.input;
    if take_checksums!(input).iter().any(|(_, value)| value.is_some()) {
        let message = "A checksum over all parts is not implemented by this store; give those of the parts.";
        return Err(s3_error(S3ErrorCode::NotImplemented, message));
    }
    let CompleteMultipartUploadInput { bucket, key, upload_id, multipart_upload, mpu_object_size, .. } = input;
    let listed = multipart_upload.and_then(|listed| listed.parts).unwrap_or_default();
    if listed.is_empty() {
        return Err(S3ErrorCode::MalformedXML.into());
    }
    let conditions = WriteConditions { if_match: input.if_match, if_none_match: input.if_none_match };
    let (to, name) = (bucket.clone(), key.clone());
    let done = store.write_index(move |tx| {
        let Some(upload) = uploads::find_upload(&tx.sql, &bucket, &key, &upload_id)? else {
            return completed_upload_etag(&tx.sql, &bucket, &key, &upload_id);
        };
        let there = uploads::list_parts(&tx.sql, &upload_id, 0, MAX_PARTS.unsigned_abs())?;
        let parts = select_listed_parts(there, listed, min_part_size)?;
        let size: u64 = parts.iter().map(|part| part.size).sum();
        if size > MAX_OBJECT_BYTES {
            return Err(S3ErrorCode::EntityTooLarge.into());
        }
        if mpu_object_size.is_some_and(|expected| u64::try_from(expected).ok() != Some(size)) {
            return Err(
                s3_error(S3ErrorCode::InvalidRequest, "The parts do not add up to x-amz-mp-object-size.").into()
            );
        }
        let etag = multipart_etag(parts.iter().map(|part| part.md5.as_str()));
        Ok(uploads::complete_upload(tx, &bucket, upload, &parts, etag, &conditions)?.etag)
    });
    let etag = done.await?;
    Ok(S3Response::new(CompleteMultipartUploadOutput {
        location: Some(format!("/{to}/{}", KeyEncoding::Url.encode_key(&name))),
        bucket: Some(to),
        key: Some(name),
        e_tag: Some(ETag::Strong(etag)),
        ..Default::default()
    }))
}

/// Repeats the response of a completed upload, for a client that lost it. The object must still exist.
fn completed_upload_etag(
    sql: &rusqlite::Connection,
    bucket: &str,
    key: &str,
    id: &str,
) -> Result<String, S3ServerError> {
    match objects::find_object(sql, bucket, key)? {
        Some(object) if object.id == id => Ok(object.etag),
        _ => uploads::require_upload(sql, bucket, key, id).and(Err(S3ErrorCode::NoSuchUpload.into())),
    }
}

/// Checks the listed parts and selects them.
fn select_listed_parts(
    there: Vec<UploadedPart>,
    listed: Vec<CompletedPart>,
    min_part_size: u64,
) -> Result<Vec<UploadedPart>, S3Error> {
    let mut there: BTreeMap<i32, UploadedPart> = there.into_iter().map(|part| (part.number, part)).collect();
    let (count, mut before) = (listed.len(), 0);
    let mut chosen = Vec::with_capacity(count);
    for (index, mut listed) in listed.into_iter().enumerate() {
        let number = listed.part_number.unwrap_or_default();
        if number <= before {
            return Err(S3ErrorCode::InvalidPartOrder.into());
        }
        before = number;
        let invalid = || s3_error(S3ErrorCode::InvalidPart, format!("Part {number} is missing or is another one."));
        let part = there.remove(&number).ok_or_else(invalid)?;
        if listed.e_tag.as_ref().is_none_or(|etag| etag.value() != part.md5) {
            return Err(invalid());
        }
        for (algorithm, value) in take_checksums!(listed) {
            // A checksum that was not computed for the part cannot be compared.
            let known = part.checksums.get(algorithm);
            if value.is_some() && known.is_some() && value != known {
                return Err(invalid());
            }
        }
        if part.size < min_part_size && index + 1 < count {
            return Err(S3ErrorCode::EntityTooSmall.into());
        }
        chosen.push(part);
    }
    Ok(chosen)
}

pub(super) async fn abort_multipart_upload(
    store: &Arc<S3Backend>,
    request: S3Request<AbortMultipartUploadInput>,
) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
    let AbortMultipartUploadInput { bucket, key, upload_id, if_match_initiated_time, .. } = request.input;
    if if_match_initiated_time.is_some() {
        return Err(s3_error(S3ErrorCode::NotImplemented, "Conditional aborts are not implemented by this store."));
    }
    store.write_index(move |tx| uploads::abort_upload(tx, &bucket, &key, &upload_id)).await?;
    Ok(S3Response::new(AbortMultipartUploadOutput::default()))
}

pub(super) async fn list_parts(
    store: &Arc<S3Backend>,
    request: S3Request<ListPartsInput>,
) -> S3Result<S3Response<ListPartsOutput>> {
    let ListPartsInput { bucket, key, upload_id, max_parts, part_number_marker, .. } = request.input;
    let (max, after) = (parse_max_entries(max_parts)?, part_number_marker.unwrap_or_default());
    let (of, name, id) = (bucket.clone(), key.clone(), upload_id.clone());
    let mut parts = store
        .read_index(move |sql| {
            uploads::require_upload(sql, &of, &name, &id)?;
            uploads::list_parts(sql, &id, after, max.unsigned_abs() + 1)
        })
        .await?;
    let truncated = parts.len() > max.unsigned_abs() as usize && max > 0;
    parts.truncate(max.unsigned_abs() as usize);
    let last = parts.last().map(|part| part.number);
    let listed = parts.into_iter().map(|part| {
        let mut listed = ListedPart {
            part_number: Some(part.number),
            size: Some(part.size as i64),
            e_tag: Some(ETag::Strong(part.md5)),
            last_modified: Some(to_timestamp(part.modified_at)),
            ..Default::default()
        };
        fill_checksums!(listed, part.checksums);
        listed
    });
    Ok(S3Response::new(ListPartsOutput {
        bucket: Some(bucket),
        key: Some(key),
        upload_id: Some(upload_id),
        max_parts: Some(max),
        part_number_marker: Some(after),
        next_part_number_marker: last.filter(|_| truncated),
        is_truncated: Some(truncated),
        parts: Some(listed.collect()),
        owner: Some(store_owner()),
        storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)),
        ..Default::default()
    }))
}

pub(super) async fn list_multipart_uploads(
    store: &Arc<S3Backend>,
    request: S3Request<ListMultipartUploadsInput>,
) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
    let ListMultipartUploadsInput { bucket, delimiter, encoding_type, key_marker, max_uploads, prefix, .. } =
        request.input;
    if delimiter.is_some_and(|delimiter| !delimiter.is_empty()) {
        let message = "Listing uploads with a delimiter is not implemented by this store.";
        return Err(s3_error(S3ErrorCode::NotImplemented, message));
    }
    let (names, max) = (KeyEncoding::from_encoding_type(encoding_type.as_ref())?, parse_max_entries(max_uploads)?);
    let (of, wanted) = (bucket.clone(), prefix.clone().unwrap_or_default());
    let after_key = key_marker.clone().unwrap_or_default();
    // Without an upload ID, the page starts after all uploads of the marker's key. IDs begin with a digit or a capital.
    let after_id = match (&key_marker, request.input.upload_id_marker.clone()) {
        (Some(_), Some(id)) => id,
        (Some(_), None) => "~".to_owned(),
        (None, _) => String::new(),
    };
    let mut found = store
        .read_index(move |sql| uploads::list_uploads(sql, &of, &wanted, &after_key, &after_id, max.unsigned_abs() + 1))
        .await?;
    let truncated = found.len() > max.unsigned_abs() as usize && max > 0;
    found.truncate(max.unsigned_abs() as usize);
    let last = found.last().filter(|_| truncated).map(|upload| (names.encode_key(&upload.key), upload.id.clone()));
    let (next_key_marker, next_upload_id_marker) = last.unzip();
    let uploads = found.into_iter().map(|upload| MultipartUpload {
        key: Some(names.encode_key(&upload.key)),
        upload_id: Some(upload.id),
        initiated: Some(to_timestamp(upload.created_at)),
        owner: Some(store_owner()),
        storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)),
        ..Default::default()
    });
    Ok(S3Response::new(ListMultipartUploadsOutput {
        bucket: Some(bucket),
        prefix: prefix.map(|prefix| names.encode_key(&prefix)),
        key_marker: key_marker.map(|marker| names.encode_key(&marker)),
        upload_id_marker: request.input.upload_id_marker,
        next_key_marker,
        next_upload_id_marker,
        max_uploads: Some(max),
        is_truncated: Some(truncated),
        encoding_type,
        uploads: Some(uploads.collect()),
        ..Default::default()
    }))
}
