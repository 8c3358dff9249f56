//! Writes objects of any size in bounded memory: one request if the object fits into one part, else a multipart
//! upload.

use std::collections::HashMap;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{Builder, RequestChecksumCalculation, StalledStreamProtectionConfig};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use super::part_buffer::PartBuffer;
use super::store_clients::{StoreClient, StoreTransport, request_timeouts};
use super::upload_memory::UploadMemory;
use super::{AnyPartSize, ObjectMeta, SkipMd5, sdk_error, unquote_etag};
use crate::codes;
use afterload_core::error::{Error, Result, Retryability};

const FIRST_PART_BYTES: usize = 8 << 20;
const MAX_PART_BYTES: usize = 1 << 30;
const MAX_PARTS_IN_FLIGHT: usize = 2;
/// While memory is short, a part is sent to the embedded store once it has this share of its size.
const EARLY_PART_SHARE: usize = 8;

/// The size of part `number` (from 1). S3 takes at most 10,000 parts, so the size doubles every 800 parts. Up to 6 GB
/// all parts have the same size, as R2 requires. 10,000 parts hold more than the 5 TiB that an object may have.
fn part_size(number: i32) -> usize {
    let doublings = (number - 1) / 800;
    FIRST_PART_BYTES.saturating_mul(1 << doublings).min(MAX_PART_BYTES)
}

/// The headers that are stored with an object.
#[derive(Clone, Debug)]
pub struct ObjectHeaders {
    /// The media type.
    pub content_type: String,
    /// The `Cache-Control` header: how long caches may keep the object.
    pub cache_control: Option<String>,
    /// How many runs came before a run that the object starts; 0: none did.
    pub hops: u32,
}

impl ObjectHeaders {
    /// The name of the hops among the metadata of an object, after `x-amz-meta-`.
    pub(super) const HOPS_METADATA: &str = "afterload-hops";

    /// The metadata of the object. Without hops it has none.
    fn to_metadata(&self) -> Option<HashMap<String, String>> {
        (self.hops > 0).then(|| HashMap::from([(Self::HOPS_METADATA.to_owned(), self.hops.to_string())]))
    }
}

impl From<&str> for ObjectHeaders {
    /// Sets only the media type.
    fn from(content_type: &str) -> Self {
        Self { content_type: content_type.to_owned(), cache_control: None, hops: 0 }
    }
}

/// An object that is being written. It becomes a multipart upload once it is larger than one part. A drop before
/// [`ObjectUpload::finish`] aborts it.
pub struct ObjectUpload {
    target: UploadTarget,
    headers: ObjectHeaders,
    part_buffer: PartBuffer,
    memory: UploadMemory,
    size: u64,
    multipart: Option<MultipartWriter>,
}

/// Where an object is written.
#[derive(Clone)]
pub(super) struct UploadTarget {
    client: Client,
    transport: StoreTransport,
    /// Whether the service itself has produced the bytes.
    trusted: bool,
    bucket: String,
    key: String,
}

struct MultipartWriter {
    target: UploadTarget,
    upload_id: String,
    sending: JoinSet<Result<CompletedPart>>,
    sent: Vec<CompletedPart>,
    next_part_number: i32,
    done: bool,
}

impl ObjectUpload {
    pub(super) fn new(store: &StoreClient, bucket: &str, key: &str, headers: ObjectHeaders) -> Self {
        let target = UploadTarget::new(store, bucket, key);
        let memory = store.upload_memory.clone();
        let part_buffer = PartBuffer::new(target.transport == StoreTransport::InProcess, &memory);
        Self { target, headers, part_buffer, memory, size: 0, multipart: None }
    }

    /// Marks the bytes as produced by the service itself. The embedded store then uses ETags that cost less than an
    /// MD5, which takes a tenth of the time of a report. Bytes of others need the MD5: such an ETag can be forged.
    #[must_use]
    pub fn trusted(mut self) -> Self {
        self.target.trusted = true;
        self
    }

    /// The number of bytes written so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Adds bytes. Waits while the store is slower than the writer.
    pub async fn write(&mut self, mut bytes: Bytes) -> Result<()> {
        self.size += bytes.len() as u64;
        while !bytes.is_empty() {
            let number = self.multipart.as_ref().map_or(1, |multipart| multipart.next_part_number);
            let room = part_size(number) - self.part_buffer.len();
            if room == 0 {
                self.send_part().await?;
                continue;
            }
            self.part_buffer.push(bytes.split_to(room.min(bytes.len())));
            if self.memory.is_short(part_size(number)) {
                self.free_memory(part_size(number) / EARLY_PART_SHARE).await?;
            }
        }
        Ok(())
    }

    /// Sends a part that is not full yet, and waits until nothing is in flight. Only the embedded store takes small
    /// parts.
    async fn free_memory(&mut self, early_part_size: usize) -> Result<()> {
        if self.target.transport == StoreTransport::InProcess && self.part_buffer.len() >= early_part_size {
            self.send_part().await?;
        }
        match &mut self.multipart {
            Some(multipart) => multipart.join_parts(0).await,
            None => Ok(()),
        }
    }

    /// Completes the object, which makes it visible.
    pub async fn finish(mut self) -> Result<ObjectMeta> {
        if self.multipart.is_none() {
            let Self { target, headers, mut part_buffer, .. } = self;
            let (part, _held) = part_buffer.take_part(0);
            let size = part.len();
            return target.put_object(&headers, part.into_byte_stream(), size).await;
        }
        if self.part_buffer.len() > 0 {
            self.send_part().await?;
        }
        let Self { target, headers, size, multipart, .. } = self;
        let Some(mut multipart) = multipart else { unreachable!("checked above") };
        let (etag, version) = multipart.complete_upload().await?;
        Ok(ObjectMeta {
            bucket: target.bucket,
            key: target.key,
            version,
            etag,
            size,
            content_type: headers.content_type,
        })
    }

    async fn send_part(&mut self) -> Result<()> {
        let multipart = match &mut self.multipart {
            Some(multipart) => multipart,
            none => none.insert(MultipartWriter::create(&self.target, &self.headers).await?),
        };
        multipart.join_parts(MAX_PARTS_IN_FLIGHT - 1).await?;
        let next = part_size(multipart.next_part_number + 1);
        let next = if self.memory.is_short(next) { 0 } else { next };
        multipart.spawn_part(&mut self.part_buffer, next);
        Ok(())
    }
}

impl MultipartWriter {
    async fn create(target: &UploadTarget, headers: &ObjectHeaders) -> Result<Self> {
        let UploadTarget { client, bucket, key, .. } = target;
        let request = client.create_multipart_upload().bucket(bucket).key(key).content_type(&headers.content_type);
        let request = request.set_cache_control(headers.cache_control.clone());
        let answer = request.set_metadata(headers.to_metadata()).send().await;
        let output = answer.map_err(|error| sdk_error::object_error("starting to write", bucket, key, error))?;
        let id = output.upload_id.ok_or_else(|| {
            Error::new(
                codes::OBJECT_STORE_ERROR,
                format!("the store gave no upload id for `{key}` in bucket `{bucket}`"),
            )
        })?;
        let target = target.clone();
        Ok(Self { target, upload_id: id, sending: JoinSet::new(), sent: Vec::new(), next_part_number: 1, done: false })
    }

    /// Waits until at most so many parts are in flight.
    async fn join_parts(&mut self, left: usize) -> Result<()> {
        while self.sending.len() > left {
            self.join_part().await?;
        }
        Ok(())
    }

    async fn join_part(&mut self) -> Result<()> {
        match self.sending.join_next().await {
            Some(Ok(part)) => self.sent.push(part?),
            Some(Err(error)) => {
                return Err(Error::new(codes::OBJECT_STORE_ERROR, format!("a part was lost: {error}"))
                    .with_retryability(Retryability::Transient));
            }
            None => {}
        }
        Ok(())
    }

    /// Sends what is buffered as the next part, and reserves room for `next` bytes.
    fn spawn_part(&mut self, buffer: &mut PartBuffer, next: usize) {
        let number = self.next_part_number;
        self.next_part_number += 1;
        let (UploadTarget { client, transport: way, trusted: ours, bucket, key }, id) =
            (self.target.clone(), self.upload_id.clone());
        let (bytes, held) = buffer.take_part(next);
        self.sending.spawn(async move {
            let _held = held;
            let adapted = request_config(way, bytes.len());
            let request = client.upload_part().bucket(&bucket).key(&key).upload_id(id).part_number(number);
            let request = request.body(bytes.into_byte_stream()).customize().config_override(adapted);
            let request = if way.is_tamper_proof() { request.disable_payload_signing() } else { request };
            let marked = request.mutate_request(move |request| {
                if ours {
                    request.add_extension(SkipMd5);
                }
            });
            let answer = marked.send().await;
            let output = answer.map_err(|error| sdk_error::object_error("writing", &bucket, &key, error))?;
            // The list of parts repeats the ETag and checksums that the store returned, because some stores require
            // them there.
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

    async fn complete_upload(&mut self) -> Result<(String, Option<String>)> {
        self.join_parts(0).await?;
        // Parts can finish in any order, but the list must be sorted by number.
        self.sent.sort_by_key(CompletedPart::part_number);
        let parts = CompletedMultipartUpload::builder().set_parts(Some(std::mem::take(&mut self.sent))).build();
        let UploadTarget { client, bucket, key, .. } = &self.target;
        let request = client.complete_multipart_upload().bucket(bucket).key(key).upload_id(&self.upload_id);
        let request = request.multipart_upload(parts).customize();
        let request = request.mutate_request(|request| {
            request.add_extension(AnyPartSize);
        });
        let output = request.send().await;
        let output = output.map_err(|error| sdk_error::object_error("finishing", bucket, key, error))?;
        self.done = true;
        Ok((unquote_etag(output.e_tag()), output.version_id))
    }
}

impl Drop for MultipartWriter {
    fn drop(&mut self) {
        let Ok(runtime) = Handle::try_current() else { return };
        if self.done {
            return;
        }
        let (UploadTarget { client, bucket, key, .. }, id) = (self.target.clone(), std::mem::take(&mut self.upload_id));
        let mut sending = std::mem::take(&mut self.sending);
        runtime.spawn(async move {
            // A part that arrives after the abort would stay in the store.
            sending.shutdown().await;
            let answer = client.abort_multipart_upload().bucket(&bucket).key(&key).upload_id(id).send().await;
            if let Err(error) = answer {
                let error = sdk_error::object_error("giving up", &bucket, &key, error);
                if error.code() != codes::OBJECT_NOT_FOUND {
                    tracing::warn!(
                        error.code = error.code().name(),
                        "cannot abort an unfinished upload; its parts stay in the store: {error}"
                    );
                }
            }
        });
    }
}

impl UploadTarget {
    pub(super) fn new(store: &StoreClient, bucket: &str, key: &str) -> Self {
        let (bucket, key) = (bucket.to_owned(), key.to_owned());
        Self { client: store.client.clone(), transport: store.transport, trusted: false, bucket, key }
    }

    /// Sends one `PutObject` request.
    pub(super) async fn put_object(
        self,
        headers: &ObjectHeaders,
        bytes: ByteStream,
        size: usize,
    ) -> Result<ObjectMeta> {
        let Self { client, transport: way, bucket, key, .. } = self;
        let request = client.put_object().bucket(&bucket).key(&key).content_type(&headers.content_type);
        let request = request.set_cache_control(headers.cache_control.clone());
        let request = request.set_metadata(headers.to_metadata()).body(bytes);
        let request = request.customize().config_override(request_config(way, size));
        let request = if way.is_tamper_proof() { request.disable_payload_signing() } else { request };
        let output = request.send().await.map_err(|error| sdk_error::object_error("writing", &bucket, &key, error))?;
        Ok(ObjectMeta {
            etag: unquote_etag(output.e_tag()),
            size: size as u64,
            content_type: headers.content_type.clone(),
            version: output.version_id,
            bucket,
            key,
        })
    }
}

/// The settings of a request with a body of this size.
fn request_config(transport: StoreTransport, size: usize) -> Builder {
    let config = Builder::new().timeout_config(request_timeouts(size));
    match transport {
        // Nothing changes bytes within the process, and the checksum of a part is no checksum of the object. The stream
        // stalls only while the disk does.
        StoreTransport::InProcess => config
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled()),
        StoreTransport::Plain | StoreTransport::Tls => config,
    }
}

#[cfg(test)]
mod tests {
    use super::{FIRST_PART_BYTES, part_size};

    #[test]
    fn ten_thousand_parts_hold_the_largest_object() {
        assert_eq!(
            (part_size(1), part_size(800), part_size(801)),
            (FIRST_PART_BYTES, FIRST_PART_BYTES, 2 * FIRST_PART_BYTES)
        );
        let sum = |parts| (1..=parts).map(|number| part_size(number) as u64).sum::<u64>();
        assert!(sum(800) > 5 << 30, "5 GiB go in equal parts");
        assert!(sum(10_000) > 5 << 40);
    }
}
