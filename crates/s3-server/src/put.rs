//! Bodies coming in: PutObject, and what it shares with UploadPart.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use hyper::HeaderMap;
use s3s::dto::{ChecksumType, PutObjectInput, PutObjectOutput, StreamingBlob, Timestamp, TimestampFormat};
use s3s::{S3Error, S3ErrorCode, S3Request, S3Response, S3Result, StdError, TrailingHeaders};
use tokio::time::timeout;

use super::Store;
use super::bodies::{Incoming, Sealed};
use super::digest::{ALGORITHMS, Expected, fill_checksums, given_checksums};
use super::fault::{Fault, answer};
use super::index::objects::{self, Conditions, Details};
use super::index::{blocking, buckets};

/// The most that one request may bring.
pub(super) const LARGEST: u64 = 5 << 30;
/// How long a client may pause.
const PAUSE: Duration = Duration::from_secs(60);
/// Bytes gathered before they are written.
const BATCH: usize = 512 << 10;

pub(super) const DEFAULT_CONTENT_TYPE: &str = "binary/octet-stream";

pub(super) async fn object(
    store: &Arc<Store>,
    mut request: S3Request<PutObjectInput>,
) -> S3Result<S3Response<PutObjectOutput>> {
    let input = &mut request.input;
    let mut expected = expected(&request.headers, input.content_length, input.content_md5.as_deref())?;
    for (algorithm, value) in given_checksums!(input) {
        value.into_iter().for_each(|value| expected.checksum(algorithm, value));
    }
    let details = details(
        Details {
            cache_control: input.cache_control.take(),
            content_disposition: input.content_disposition.take(),
            content_encoding: input.content_encoding.take(),
            content_language: input.content_language.take(),
            ..Details::default()
        },
        input.expires.take(),
        input.metadata.take(),
    )?;
    let bucket = input.bucket.clone();
    store.read(move |sql| buckets::check(sql, &bucket)).await?;
    let sealed = receive(store, input.body.take(), expected, request.trailing_headers.take()).await?;
    let checksums = sealed.checksums.clone();
    let PutObjectInput { bucket, key, content_type, if_match, if_none_match, .. } = request.input;
    let content_type = content_type.unwrap_or_else(|| DEFAULT_CONTENT_TYPE.to_owned());
    let conditions = Conditions { if_match, if_none_match };
    let put = store.write(move |tx| objects::put(tx, &bucket, &key, content_type, details, &conditions, sealed));
    let mut output = PutObjectOutput { e_tag: Some(put.await?), ..Default::default() };
    if !checksums.is_empty() {
        output.checksum_type = Some(ChecksumType::from_static(ChecksumType::FULL_OBJECT));
    }
    fill_checksums!(output, checksums);
    Ok(S3Response::new(output))
}

/// What the headers say of the body.
pub(super) fn expected(headers: &HeaderMap, length: Option<i64>, md5: Option<&str>) -> S3Result<Expected> {
    let mut expected = Expected::default();
    expected.length = length.and_then(|length| length.try_into().ok());
    if expected.length.is_some_and(|length| length > LARGEST) {
        return Err(S3ErrorCode::EntityTooLarge.into());
    }
    expected.md5(md5)?;
    let announced = headers.get_all("x-amz-trailer").iter().filter_map(|value| value.to_str().ok());
    for name in announced.flat_map(|value| value.split(',')).map(|name| name.trim().to_ascii_lowercase()) {
        let Some(algorithm) = name.strip_prefix("x-amz-checksum-") else { continue };
        let known = ALGORITHMS.into_iter().find(|known| *known == algorithm);
        expected.trailing.push(
            known.ok_or_else(|| {
                answer(S3ErrorCode::InvalidRequest, "The trailing checksum has an unknown algorithm.")
            })?,
        );
    }
    Ok(expected)
}

/// Headers and metadata as they are kept.
pub(super) fn details(
    mut details: Details,
    expires: Option<Timestamp>,
    metadata: Option<std::collections::HashMap<String, String>>,
) -> S3Result<Details> {
    details.content_encoding = details.content_encoding.and_then(|encoding| own_encoding(&encoding));
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

/// Without `aws-chunked`, which belongs to the request and not to the object.
fn own_encoding(encoding: &str) -> Option<String> {
    let own: Vec<_> = encoding.split(',').map(str::trim).filter(|name| !matches!(*name, "aws-chunked" | "")).collect();
    (!own.is_empty()).then(|| own.join(","))
}

/// Takes a body in and checks it. It is on disk afterwards, but nothing names it.
pub(super) async fn receive(
    store: &Arc<Store>,
    body: Option<StreamingBlob>,
    mut expected: Expected,
    trailers: Option<TrailingHeaders>,
) -> S3Result<Sealed> {
    let digests = expected.digests();
    let bodies = store.bodies.clone();
    let mut incoming = blocking(move || Ok(bodies.incoming(digests)?)).await?;
    let mut size = 0;
    if let Some(mut body) = body {
        loop {
            let (batch, ended) = batch(&mut body).await?;
            size += batch.iter().map(|chunk| chunk.len() as u64).sum::<u64>();
            if size > expected.length.unwrap_or(LARGEST) {
                let code =
                    if expected.length.is_some() { S3ErrorCode::IncompleteBody } else { S3ErrorCode::EntityTooLarge };
                return Err(code.into());
            }
            incoming = written(incoming, batch).await?;
            if ended {
                break;
            }
        }
    }
    for algorithm in std::mem::take(&mut expected.trailing) {
        let name = format!("x-amz-checksum-{algorithm}");
        let read = |headers: &HeaderMap| headers.get(&name).and_then(|value| Some(value.to_str().ok()?.to_owned()));
        let value = trailers.as_ref().and_then(|trailers| trailers.read(read)).flatten();
        let missing = || answer(S3ErrorCode::InvalidRequest, "The announced trailing checksum did not come.");
        expected.checksum(algorithm, value.ok_or_else(missing)?);
    }
    let sealed = blocking(move || Ok(incoming.seal()?)).await?;
    expected.check(sealed.size, &sealed.md5, &sealed.checksums)?;
    Ok(sealed)
}

async fn batch(body: &mut StreamingBlob) -> S3Result<(Vec<Bytes>, bool)> {
    let (mut batch, mut size) = (Vec::new(), 0);
    while size < BATCH {
        match timeout(PAUSE, body.next()).await {
            Ok(Some(Ok(chunk))) => {
                size += chunk.len();
                batch.push(chunk);
            }
            Ok(Some(Err(error))) => return Err(broken(&error)),
            Ok(None) => return Ok((batch, true)),
            Err(_) => return Err(S3ErrorCode::RequestTimeout.into()),
        }
    }
    Ok((batch, false))
}

async fn written(mut incoming: Incoming, batch: Vec<Bytes>) -> Result<Incoming, Fault> {
    blocking(move || {
        batch.iter().try_for_each(|chunk| incoming.write(chunk))?;
        Ok(incoming)
    })
    .await
}

/// s3s keeps the types of these errors to itself, so their text decides.
fn broken(error: &StdError) -> S3Error {
    let text = error.to_string();
    if text.contains("SignatureMismatch") {
        S3ErrorCode::SignatureDoesNotMatch.into()
    } else if text.contains("Sha256Mismatch") {
        let mut error = answer(
            S3ErrorCode::Custom("XAmzContentSHA256Mismatch".into()),
            "The body does not match the x-amz-content-sha256 that came with it.",
        );
        error.set_status_code(hyper::StatusCode::BAD_REQUEST);
        error
    } else {
        tracing::debug!("an upload to the embedded object store broke: {text}");
        S3ErrorCode::IncompleteBody.into()
    }
}

#[cfg(test)]
mod tests {
    use super::own_encoding;

    #[test]
    fn the_encoding_of_the_request_is_not_the_object_s() {
        assert_eq!(own_encoding("aws-chunked"), None);
        assert_eq!(own_encoding("aws-chunked, gzip"), Some("gzip".to_owned()));
        assert_eq!(own_encoding("gzip,br"), Some("gzip,br".to_owned()));
    }
}
