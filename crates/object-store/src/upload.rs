//! Writing objects of any size in bounded memory: one request while the object fits one part, a multipart upload beyond.

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{Builder, RequestChecksumCalculation, StalledStreamProtectionConfig};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use super::SkipMd5;
use super::gathered::{Gathered, Pieces};
use super::stores::{Store, Way, timeouts};
use super::{Stored, fault, unquoted};
use afterload_core::error::{Error, Result};

const PART: usize = 8 << 20;
const LARGEST_PART: usize = 1 << 30;
const IN_FLIGHT: usize = 2;

/// The size of part `number` (from 1). S3 takes at most 10,000 parts, so they double every 800: up to 6 GB all are
/// equal (R2 wants that), and 10,000 of them hold more than the 5 TiB that an object may have.
fn part_size(number: i32) -> usize {
    let doublings = (number - 1) / 800;
    PART.saturating_mul(1 << doublings).min(LARGEST_PART)
}

/// What is kept with an object.
#[derive(Clone, Debug)]
pub struct Headers {
    /// The media type.
    pub content_type: String,
    /// How long others may keep it.
    pub cache_control: Option<String>,
}

impl From<&str> for Headers {
    /// Nothing but the media type.
    fn from(content_type: &str) -> Self {
        Self { content_type: content_type.to_owned(), cache_control: None }
    }
}

/// An object that is being written; a multipart upload once it is larger than one part. Dropped before
/// [`Upload::finish`], it is aborted.
pub struct Upload {
    target: Target,
    headers: Headers,
    gathered: Gathered,
    size: u64,
    multipart: Option<Multipart>,
}

/// Where an object is written.
#[derive(Clone)]
pub(super) struct Target {
    client: Client,
    way: Way,
    /// Whether they are the service's own.
    ours: bool,
    bucket: String,
    key: String,
}

struct Multipart {
    target: Target,
    id: String,
    sending: JoinSet<Result<CompletedPart>>,
    sent: Vec<CompletedPart>,
    number: i32,
    done: bool,
}

impl Upload {
    pub(super) fn new(store: &Store, bucket: &str, key: &str, headers: Headers) -> Self {
        let target = Target::new(store, bucket, key);
        let gathered = Gathered::new(target.way == Way::Within);
        Self { target, headers, gathered, size: 0, multipart: None }
    }

    /// Says that the bytes are what the service itself has made. The embedded store then names their parts by less than an MD5,
    /// which takes a tenth of the time of a report; others can make different bytes with such a name.
    #[must_use]
    pub fn ours(mut self) -> Self {
        self.target.ours = true;
        self
    }

    /// Bytes written so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Adds bytes; waits while the store is slower than the writer.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn write(&mut self, mut bytes: Bytes) -> Result<()> {
        self.size += bytes.len() as u64;
        while !bytes.is_empty() {
            let number = self.multipart.as_ref().map_or(1, |multipart| multipart.number);
            let room = part_size(number) - self.gathered.len();
            if room == 0 {
                self.send_part().await?;
                continue;
            }
            self.gathered.push(bytes.split_to(room.min(bytes.len())));
        }
        Ok(())
    }

    /// Makes the object whole and visible.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn finish(mut self) -> Result<Stored> {
        if self.multipart.is_none() {
            let Self { target, headers, mut gathered, .. } = self;
            return target.put(&headers, gathered.take(0).whole()).await;
        }
        if self.gathered.len() > 0 {
            self.send_part().await?;
        }
        let Self { target, headers, size, multipart, .. } = self;
        let Some(mut multipart) = multipart else { unreachable!("checked above") };
        let (etag, version) = multipart.complete().await?;
        Ok(Stored { bucket: target.bucket, key: target.key, version, etag, size, content_type: headers.content_type })
    }

    async fn send_part(&mut self) -> Result<()> {
        let multipart = match &mut self.multipart {
            Some(multipart) => multipart,
            none => none.insert(Multipart::create(&self.target, &self.headers).await?),
        };
        multipart.room().await?;
        let next = part_size(multipart.number + 1);
        multipart.send(self.gathered.take(next));
        Ok(())
    }
}

impl Multipart {
    async fn create(target: &Target, headers: &Headers) -> Result<Self> {
        let Target { client, bucket, key, .. } = target;
        let request = client.create_multipart_upload().bucket(bucket).key(key).content_type(&headers.content_type);
        let answer = request.set_cache_control(headers.cache_control.clone()).send().await;
        let output = answer.map_err(|error| fault::at("starting to write", bucket, key, error))?;
        let id = output.upload_id.ok_or_else(|| {
            Error::permanent(
                "object_store_error",
                format!("the store gave no upload id for `{key}` in bucket `{bucket}`"),
            )
        })?;
        let target = target.clone();
        Ok(Self { target, id, sending: JoinSet::new(), sent: Vec::new(), number: 1, done: false })
    }

    /// Waits until one more part may be on the way.
    async fn room(&mut self) -> Result<()> {
        while self.sending.len() >= IN_FLIGHT {
            self.one_sent().await?;
        }
        Ok(())
    }

    async fn one_sent(&mut self) -> Result<()> {
        match self.sending.join_next().await {
            Some(Ok(part)) => self.sent.push(part?),
            Some(Err(error)) => {
                return Err(Error::transient("object_store_error", format!("a part was lost: {error}")));
            }
            None => {}
        }
        Ok(())
    }

    fn send(&mut self, bytes: Pieces) {
        let number = self.number;
        self.number += 1;
        let (Target { client, way, ours, bucket, key }, id) = (self.target.clone(), self.id.clone());
        self.sending.spawn(async move {
            let mut adapted = Builder::new().timeout_config(timeouts(bytes.len()));
            if way == Way::Within {
                // Nothing changes them on the way, and no checksum of a part is one of the object. They stand still only while
                // the disk does.
                adapted = adapted
                    .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
                    .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
            }
            let request = client.upload_part().bucket(&bucket).key(&key).upload_id(id).part_number(number);
            let request = request.body(bytes.body()).customize().config_override(adapted);
            let request = if way.is_sealed() { request.disable_payload_signing() } else { request };
            let marked = request.mutate_request(move |request| {
                if ours {
                    request.add_extension(SkipMd5);
                }
            });
            let answer = marked.send().await;
            let output = answer.map_err(|error| fault::at("writing", &bucket, &key, error))?;
            // What the store says of the part goes back with the list of parts: some want their checksums there.
            Ok(CompletedPart::builder()
                .part_number(number)
                .set_e_tag(output.e_tag)
                .set_checksum_crc32(output.checksum_crc32)
                .set_checksum_crc32_c(output.checksum_crc32_c)
                .set_checksum_crc64_nvme(output.checksum_crc64_nvme)
                .set_checksum_sha1(output.checksum_sha1)
                .set_checksum_sha256(output.checksum_sha256)
                .build())
        });
    }

    async fn complete(&mut self) -> Result<(String, Option<String>)> {
        while !self.sending.is_empty() {
            self.one_sent().await?;
        }
        self.sent.sort_by_key(CompletedPart::part_number);
        let parts = CompletedMultipartUpload::builder().set_parts(Some(std::mem::take(&mut self.sent))).build();
        let Target { client, bucket, key, .. } = &self.target;
        let request = client.complete_multipart_upload().bucket(bucket).key(key).upload_id(&self.id);
        let output = request.multipart_upload(parts).send().await;
        let output = output.map_err(|error| fault::at("finishing", bucket, key, error))?;
        self.done = true;
        Ok((unquoted(output.e_tag()), output.version_id))
    }
}

impl Drop for Multipart {
    fn drop(&mut self) {
        let Ok(runtime) = Handle::try_current() else { return };
        if self.done {
            return;
        }
        let (Target { client, bucket, key, .. }, id) = (self.target.clone(), std::mem::take(&mut self.id));
        let mut sending = std::mem::take(&mut self.sending);
        runtime.spawn(async move {
            // A part that arrives after the abort would stay there for ever.
            sending.shutdown().await;
            let answer = client.abort_multipart_upload().bucket(&bucket).key(&key).upload_id(id).send().await;
            if let Err(error) = answer {
                let error = fault::at("giving up", &bucket, &key, error);
                if error.code() != "object_not_found" {
                    tracing::warn!(error.code = error.code(), "an unfinished upload was left in the store: {error}");
                }
            }
        });
    }
}

impl Target {
    pub(super) fn new(store: &Store, bucket: &str, key: &str) -> Self {
        let (bucket, key) = (bucket.to_owned(), key.to_owned());
        Self { client: store.client.clone(), way: store.way, ours: false, bucket, key }
    }

    /// One PutObject.
    pub(super) async fn put(self, headers: &Headers, bytes: Bytes) -> Result<Stored> {
        let Self { client, way, bucket, key, .. } = self;
        let size = bytes.len();
        let patience = Builder::new().timeout_config(timeouts(size));
        let request = client.put_object().bucket(&bucket).key(&key).content_type(&headers.content_type);
        let request = request.set_cache_control(headers.cache_control.clone()).body(ByteStream::from(bytes));
        let request = request.customize().config_override(patience);
        let request = if way.is_sealed() { request.disable_payload_signing() } else { request };
        let output = request.send().await.map_err(|error| fault::at("writing", &bucket, &key, error))?;
        Ok(Stored {
            etag: unquoted(output.e_tag()),
            size: size as u64,
            content_type: headers.content_type.clone(),
            version: output.version_id,
            bucket,
            key,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{PART, part_size};

    #[test]
    fn ten_thousand_parts_hold_the_largest_object() {
        assert_eq!((part_size(1), part_size(800), part_size(801)), (PART, PART, 2 * PART));
        let sum = |parts| (1..=parts).map(|number| part_size(number) as u64).sum::<u64>();
        assert!(sum(800) > 5 << 30, "5 GiB go in equal parts");
        assert!(sum(10_000) > 5 << 40);
    }
}
