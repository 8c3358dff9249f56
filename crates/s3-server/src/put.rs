//! PutObject, and the code that it shares with UploadPart.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::Fuse;
use futures::{FutureExt, StreamExt};
use hyper::HeaderMap;
use hyper::http::Extensions;
use s3s::dto::{ChecksumType, PutObjectInput, PutObjectOutput, StreamingBlob, Timestamp, TimestampFormat};
use s3s::{Body, S3Error, S3ErrorCode, S3Request, S3Response, S3Result, StdError, TrailingHeaders};
use tokio::time::timeout;

use super::S3Backend;
use super::blobs::{BlobWriter, WrittenBlob};
use super::body_fault::{BodyFault, BodyFaultCell};
use super::digest::{BodyExpectation, CHECKSUM_ALGORITHMS, fill_checksums, take_checksums};
use super::error::{S3ServerError, s3_error};
use super::index::objects::{self, ObjectDetails, WriteConditions};
use super::index::{buckets, run_blocking};

/// The maximum size of one request body.
pub(super) const MAX_PUT_BYTES: u64 = 5 << 30;
/// The maximum pause between two pieces of a body.
const BODY_READ_TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes that are collected before a write, from what has arrived already.
const WRITE_BATCH_BYTES: usize = 512 << 10;
/// Batches that all bodies together may hold. A body that waits for its sender holds none.
pub(super) const MAX_PARALLEL_WRITES: usize = 16;

pub(super) const DEFAULT_CONTENT_TYPE: &str = "binary/octet-stream";

pub(super) async fn put_object(
    store: &Arc<S3Backend>,
    mut request: S3Request<PutObjectInput>,
) -> S3Result<S3Response<PutObjectOutput>> {
    let input = &mut request.input;
    let mut expected = parse_expected_body(&request.headers, input.content_length, input.content_md5.as_deref())?;
    for (algorithm, value) in take_checksums!(input) {
        value.into_iter().for_each(|value| expected.expect_checksum(algorithm, value));
    }
    let details = build_details(
        ObjectDetails {
            cache_control: input.cache_control.take(),
            content_disposition: input.content_disposition.take(),
            content_encoding: input.content_encoding.take(),
            content_language: input.content_language.take(),
            ..ObjectDetails::default()
        },
        input.expires.take(),
        input.metadata.take(),
    )?;
    let bucket = input.bucket.clone();
    store.read_index(move |sql| buckets::ensure_bucket_exists(sql, &bucket)).await?;
    let body = IncomingBody::take_from(input.body.take(), &mut request.trailing_headers, &request.extensions);
    let sealed = receive_blob(store, body, expected).await?;
    let checksums = sealed.checksums.clone();
    let PutObjectInput { bucket, key, content_type, if_match, if_none_match, .. } = request.input;
    let content_type = content_type.unwrap_or_else(|| DEFAULT_CONTENT_TYPE.to_owned());
    let conditions = WriteConditions { if_match, if_none_match };
    let put = store
        .write_index(move |tx| objects::insert_object(tx, &bucket, &key, content_type, details, &conditions, sealed));
    let mut output = PutObjectOutput { e_tag: Some(put.await?), ..Default::default() };
    if !checksums.is_empty() {
        output.checksum_type = Some(ChecksumType::from_static(ChecksumType::FULL_OBJECT));
    }
    fill_checksums!(output, checksums);
    Ok(S3Response::new(output))
}

/// Reads the expected length and digests from the headers.
pub(super) fn parse_expected_body(
    headers: &HeaderMap,
    length: Option<i64>,
    md5: Option<&str>,
) -> S3Result<BodyExpectation> {
    let mut expected = BodyExpectation::default();
    expected.length = length.and_then(|length| length.try_into().ok());
    if expected.length.is_some_and(|length| length > MAX_PUT_BYTES) {
        return Err(S3ErrorCode::EntityTooLarge.into());
    }
    expected.expect_md5(md5)?;
    let announced = headers.get_all("x-amz-trailer").iter().filter_map(|value| value.to_str().ok());
    for name in announced.flat_map(|value| value.split(',')).map(|name| name.trim().to_ascii_lowercase()) {
        let Some(algorithm) = name.strip_prefix("x-amz-checksum-") else { continue };
        let known = CHECKSUM_ALGORITHMS.into_iter().find(|known| *known == algorithm);
        expected.trailing_algorithms.push(
            known.ok_or_else(|| {
                s3_error(S3ErrorCode::InvalidRequest, "The trailing checksum has an unknown algorithm.")
            })?,
        );
    }
    Ok(expected)
}

/// Collects the headers and metadata that are stored with an object.
pub(super) fn build_details(
    mut details: ObjectDetails,
    expires: Option<Timestamp>,
    metadata: Option<std::collections::HashMap<String, String>>,
) -> S3Result<ObjectDetails> {
    details.content_encoding = details.content_encoding.and_then(|encoding| strip_aws_chunked(&encoding));
    details.expires = expires.and_then(|expires| {
        let mut text = Vec::new();
        expires.format(TimestampFormat::HttpDate, &mut text).ok()?;
        String::from_utf8(text).ok()
    });
    details.metadata = metadata.unwrap_or_default().into_iter().collect();
    if details.metadata.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() > 2048 {
        return Err(S3ErrorCode::MetadataTooLarge.into());
    }
    Ok(details)
}

/// Removes `aws-chunked`, which describes the request and not the object.
fn strip_aws_chunked(encoding: &str) -> Option<String> {
    let own: Vec<_> = encoding.split(',').map(str::trim).filter(|name| !matches!(*name, "aws-chunked" | "")).collect();
    (!own.is_empty()).then(|| own.join(","))
}

/// A body as it arrives.
#[derive(Default)]
pub(super) struct IncomingBody {
    pub(super) bytes: Option<StreamingBlob>,
    /// The headers after the body, once it has ended.
    pub(super) trailers: Option<TrailingHeaders>,
    pub(super) fault: BodyFaultCell,
}

impl IncomingBody {
    pub(super) fn take_from(
        bytes: Option<StreamingBlob>,
        trailers: &mut Option<TrailingHeaders>,
        extensions: &Extensions,
    ) -> Self {
        Self { bytes, trailers: trailers.take(), fault: BodyFaultCell::from_extensions(extensions) }
    }
}

/// Receives a body, checks it and writes it to a blob. The index does not name it yet.
pub(super) async fn receive_blob(
    store: &Arc<S3Backend>,
    IncomingBody { bytes: body, trailers, fault }: IncomingBody,
    mut expected: BodyExpectation,
) -> S3Result<WrittenBlob> {
    let digests = expected.start_digests();
    let bodies = store.blobs.clone();
    let mut incoming = run_blocking(move || Ok(bodies.create_writer(digests)?)).await?;
    let mut size = 0;
    let mut body = body.unwrap_or_else(|| StreamingBlob::from(Body::empty())).fuse();
    while let Some(first) = read_chunk(&mut body, &fault).await? {
        let _permit = store.body_writes.acquire().await.map_err(|_| S3Error::from(S3ErrorCode::ServiceUnavailable))?;
        let batch = collect_ready_chunks(first, &mut body, &fault)?;
        size += batch.iter().map(|chunk| chunk.len() as u64).sum::<u64>();
        if size > expected.length.unwrap_or(MAX_PUT_BYTES) {
            let code =
                if expected.length.is_some() { S3ErrorCode::IncompleteBody } else { S3ErrorCode::EntityTooLarge };
            return Err(code.into());
        }
        incoming = write_batch(incoming, batch).await?;
    }
    for algorithm in std::mem::take(&mut expected.trailing_algorithms) {
        let name = format!("x-amz-checksum-{algorithm}");
        let read = |headers: &HeaderMap| headers.get(&name).and_then(|value| Some(value.to_str().ok()?.to_owned()));
        let value = trailers.as_ref().and_then(|trailers| trailers.read(read)).flatten();
        let missing = || s3_error(S3ErrorCode::InvalidRequest, "The announced trailing checksum did not come.");
        expected.expect_checksum(algorithm, value.ok_or_else(missing)?);
    }
    let sealed = run_blocking(move || Ok(incoming.finish()?)).await?;
    expected.verify_body(sealed.size, &sealed.md5, &sealed.checksums)?;
    Ok(sealed)
}

async fn read_chunk(body: &mut Fuse<StreamingBlob>, fault: &BodyFaultCell) -> S3Result<Option<Bytes>> {
    match timeout(BODY_READ_TIMEOUT, body.next()).await {
        Ok(chunk) => chunk.transpose().map_err(|error| body_error(&error, fault.get())),
        Err(_) => Err(S3ErrorCode::RequestTimeout.into()),
    }
}

/// Waits for nothing, so that a slow sender holds one chunk and not a whole batch.
fn collect_ready_chunks(first: Bytes, body: &mut Fuse<StreamingBlob>, fault: &BodyFaultCell) -> S3Result<Vec<Bytes>> {
    let (mut size, mut batch) = (first.len(), vec![first]);
    while size < WRITE_BATCH_BYTES {
        let Some(Some(chunk)) = body.next().now_or_never() else { break };
        let chunk = chunk.map_err(|error| body_error(&error, fault.get()))?;
        size += chunk.len();
        batch.push(chunk);
    }
    Ok(batch)
}

async fn write_batch(mut incoming: BlobWriter, batch: Vec<Bytes>) -> Result<BlobWriter, S3ServerError> {
    run_blocking(move || {
        batch.iter().try_for_each(|chunk| incoming.write(chunk))?;
        Ok(incoming)
    })
    .await
}

/// s3s does not export the types of its own errors, so the text has to identify those.
fn body_error(error: &StdError, fault: Option<BodyFault>) -> S3Error {
    let text = error.to_string();
    match fault {
        Some(BodyFault::Slow) => return S3ErrorCode::RequestTimeout.into(),
        Some(BodyFault::ChunkTooLarge) => {
            return s3_error(S3ErrorCode::InvalidRequest, "A signed chunk of a body has at most 2 MiB.");
        }
        Some(BodyFault::Broken) | None => {}
    }
    if text.contains("SignatureMismatch") {
        S3ErrorCode::SignatureDoesNotMatch.into()
    } else if text.contains("Sha256Mismatch") {
        let mut error = s3_error(
            S3ErrorCode::Custom("XAmzContentSHA256Mismatch".into()),
            "The body does not match the x-amz-content-sha256 that came with it.",
        );
        error.set_status_code(hyper::StatusCode::BAD_REQUEST);
        error
    } else {
        tracing::debug!("an upload to the embedded object store ended early: {text}");
        S3ErrorCode::IncompleteBody.into()
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;

    fn endless_body(ready_chunks: usize) -> Fuse<StreamingBlob> {
        let chunk = || Ok::<_, std::io::Error>(Bytes::from(vec![0; 64 << 10]));
        let ready = stream::iter(std::iter::repeat_with(chunk).take(ready_chunks));
        StreamingBlob::wrap(ready.chain(stream::pending())).fuse()
    }

    #[tokio::test]
    async fn a_batch_is_what_has_arrived_up_to_a_limit() {
        let fault = BodyFaultCell::default();
        for (arrived, batched) in [(1, 1), (3, 3), (100, WRITE_BATCH_BYTES / (64 << 10))] {
            let mut body = endless_body(arrived);
            let first = read_chunk(&mut body, &fault).await.unwrap().unwrap();
            assert_eq!(collect_ready_chunks(first, &mut body, &fault).unwrap().len(), batched, "{arrived}");
        }
        let mut ended = StreamingBlob::wrap(stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(b"a"))])).fuse();
        let first = read_chunk(&mut ended, &fault).await.unwrap().unwrap();
        assert_eq!(collect_ready_chunks(first, &mut ended, &fault).unwrap().len(), 1);
        assert_eq!(read_chunk(&mut ended, &fault).await.unwrap(), None);
    }

    #[test]
    fn fault_of_a_body_decides_before_the_text_of_its_error() {
        let error: StdError = "SignatureMismatch".into();
        for (fault, code) in [
            (None, S3ErrorCode::SignatureDoesNotMatch),
            (Some(BodyFault::Broken), S3ErrorCode::SignatureDoesNotMatch),
            (Some(BodyFault::Slow), S3ErrorCode::RequestTimeout),
            (Some(BodyFault::ChunkTooLarge), S3ErrorCode::InvalidRequest),
        ] {
            assert_eq!(*body_error(&error, fault).code(), code, "{fault:?}");
        }
    }

    #[test]
    fn aws_chunked_is_not_stored() {
        assert_eq!(strip_aws_chunked("aws-chunked"), None);
        assert_eq!(strip_aws_chunked("aws-chunked, gzip"), Some("gzip".to_owned()));
        assert_eq!(strip_aws_chunked("gzip,br"), Some("gzip,br".to_owned()));
    }
}
