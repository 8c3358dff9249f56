//! Reads objects from any byte on, and resumes after a broken connection.

use std::time::Duration;

use async_stream::try_stream;
use aws_sdk_s3::Client;
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream;

use super::{File, ObjectBody, ObjectMeta, sdk_error, unquote_etag};
use crate::codes;
use afterload_core::error::{Error, Result};

/// The maximum of attempts in a row that bring no bytes.
const MAX_RESUME_ATTEMPTS: u32 = 5;

/// An object to read, pinned to one state by its ETag or version.
struct DownloadSource {
    client: Client,
    bucket: String,
    key: String,
    version: Option<String>,
    etag: String,
}

impl DownloadSource {
    async fn get_from(&self, from: u64) -> Result<GetObjectOutput> {
        let request = self.client.get_object().bucket(&self.bucket).key(&self.key);
        let request = request.set_version_id(self.version.clone());
        let request = request.set_if_match((!self.etag.is_empty()).then(|| format!("\"{}\"", self.etag)));
        let request = request.set_range((from > 0).then(|| format!("bytes={from}-")));
        request.send().await.map_err(|error| sdk_error::object_error("reading", &self.bucket, &self.key, error))
    }

    fn object_meta(&self, output: &GetObjectOutput) -> ObjectMeta {
        ObjectMeta {
            bucket: self.bucket.clone(),
            key: self.key.clone(),
            version: output.version_id().map(str::to_owned),
            etag: unquote_etag(output.e_tag()),
            size: total_size(output),
            content_type: output.content_type().unwrap_or_default().to_owned(),
        }
    }
}

/// The size of the whole object. A ranged response names it after the slash (`bytes 5-9/10`).
fn total_size(output: &GetObjectOutput) -> u64 {
    let whole = output.content_range().and_then(|range| range.rsplit('/').next()).and_then(|size| size.parse().ok());
    whole.unwrap_or_else(|| output.content_length().and_then(|length| length.try_into().ok()).unwrap_or_default())
}

pub(super) async fn open_download(client: Client, file: &File, from: u64) -> Result<ObjectBody> {
    let File { bucket, key, version, etag, .. } = file;
    let (bucket, key, version, etag) = (bucket.clone(), key.clone(), version.clone(), etag.clone());
    let mut source = DownloadSource { client, bucket, key, version, etag };
    // A range cannot begin at the end of the object. So ask for the byte before `from`, too, and skip it. An empty
    // object has no such byte.
    let first = match from {
        0 => source.get_from(0).await?,
        from => source.get_from(from - 1).await?,
    };
    let stored = source.object_meta(&first);
    source.etag.clone_from(&stored.etag);
    let size = stored.size;
    Ok(ObjectBody {
        meta: stored,
        stream: resumable_stream(source, first, from.saturating_sub(1), size).skip_bytes(from.min(1)).boxed(),
    })
}

/// The bytes from `at` to `size`. After a break it opens the object again at the same byte. The ETag ensures that it
/// is the same object.
fn resumable_stream(
    source: DownloadSource,
    first: GetObjectOutput,
    mut at: u64,
    size: u64,
) -> impl stream::Stream<Item = Result<Bytes>> {
    try_stream! {
        let mut body = first.body;
        let mut fruitless = 0;
        loop {
            let error = match body.next().await {
                Some(Ok(bytes)) => {
                    at += bytes.len() as u64;
                    fruitless = 0;
                    yield bytes;
                    continue;
                }
                None if at >= size => break,
                None => Error::new(codes::OBJECT_STORE_UNAVAILABLE, "the connection to the store broke: it ended early"),
                Some(Err(error)) => sdk_error::stream_error(&error),
            };
            // An error after all bytes means that their checksum is wrong. Another read cannot fix that.
            if at >= size {
                Err(error.context(format!("reading `{}` in bucket `{}`", source.key, source.bucket)))?;
                break;
            }
            body = reopen_download(&source, at, &mut fruitless, error).await?.body;
        }
    }
}

async fn reopen_download(
    source: &DownloadSource,
    at: u64,
    fruitless: &mut u32,
    mut error: Error,
) -> Result<GetObjectOutput> {
    while *fruitless < MAX_RESUME_ATTEMPTS && error.is_transient() {
        *fruitless += 1;
        tracing::debug!(object.key = source.key, object.byte = at, "a download was interrupted; resuming it: {error}");
        tokio::time::sleep(Duration::from_millis(50 << *fruitless)).await;
        match source.get_from(at).await {
            Ok(output) => return Ok(output),
            Err(next) => error = next,
        }
    }
    Err(error.context(format!("reading `{}` in bucket `{}` from byte {at} on", source.key, source.bucket)))
}

trait SkipBytes: stream::Stream<Item = Result<Bytes>> + Sized {
    /// Skips the first `count` bytes.
    fn skip_bytes(self, mut count: u64) -> impl stream::Stream<Item = Result<Bytes>> {
        self.filter_map(move |item| {
            let item = item.map(|mut bytes| {
                let left_out = count.min(bytes.len() as u64);
                count -= left_out;
                bytes.split_off(left_out as usize)
            });
            std::future::ready(match &item {
                Ok(bytes) if bytes.is_empty() => None,
                _ => Some(item),
            })
        })
    }
}

impl<S: stream::Stream<Item = Result<Bytes>>> SkipBytes for S {}
