//! Files in S3: one client for the embedded endpoint and for all other object stores.

pub mod codes;
mod config;
mod delete_prefix;
mod download;
mod head;
mod list;
mod part_buffer;
mod sdk_error;
mod store_clients;
mod upload;
mod upload_memory;

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_s3::presigning::PresigningConfig;
use bytes::Bytes;
use futures::stream::BoxStream;

use afterload_core::error::{Error, Result};
use afterload_core::file::File;

pub use config::{BucketConfig, ObjectStoreConfig, ObjectsConfig, RequestChecksumMode};
pub use head::{OBJECT_ID_HEADER, ObjectHead};
pub use list::{ListedObject, ObjectPage};
pub use sdk_error::shortage_response_code;
pub use store_clients::{AnyPartSize, EmbeddedEndpoint, SkipMd5};
pub use upload::{ObjectHeaders, ObjectUpload};

use head::ObjectIdReader;
use store_clients::StoreClients;

/// The longest lifetime of a presigned URL that S3 allows.
const MAX_PRESIGNED_LIFETIME: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// The metadata of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectMeta {
    /// The bucket.
    pub bucket: String,
    /// The key.
    pub key: String,
    /// The version, if the bucket keeps versions.
    pub version: Option<String>,
    /// The ETag, without quotes.
    pub etag: String,
    /// The size in bytes.
    pub size: u64,
    /// The media type.
    pub content_type: String,
}

impl ObjectMeta {
    /// Converts to a file with a name for people.
    pub fn into_file(self, artifact_id: Option<String>, name: String, url: Option<String>) -> File {
        let Self { bucket, key, version, etag, size, content_type } = self;
        File { artifact_id, bucket, key, version, etag, name, size, content_type, url }
    }
}

/// All object stores behind one handle. Cheap to clone.
#[derive(Clone)]
pub struct ObjectStore(Arc<StoreClients>);

/// An object that is being read.
pub struct ObjectBody {
    /// The metadata of the object.
    pub meta: ObjectMeta,
    /// The bytes. A broken connection resumes where it broke, as long as the object is the same.
    pub stream: BoxStream<'static, Result<Bytes>>,
}

impl ObjectStore {
    /// Creates the clients of all configured object stores and sends nothing yet. Buckets that name no store are in
    /// the embedded one, if there is one.
    ///
    /// # Errors
    /// `config_invalid` for a bucket whose store is not defined, or a store with half a key pair.
    pub async fn connect(config: &ObjectsConfig, embedded: Option<EmbeddedEndpoint>) -> Result<Self> {
        Ok(Self(Arc::new(StoreClients::connect(config, embedded).await?)))
    }

    /// Starts to write an object.
    ///
    /// # Errors
    /// `bucket_not_configured` if no store holds the bucket.
    pub async fn start_upload(
        &self,
        bucket: &str,
        key: &str,
        headers: impl Into<ObjectHeaders>,
    ) -> Result<ObjectUpload> {
        Ok(ObjectUpload::new(self.0.store_for_bucket(bucket)?, bucket, key, headers.into()))
    }

    /// Writes a small object in one request.
    pub async fn put_object(&self, bucket: &str, key: &str, content_type: &str, bytes: Bytes) -> Result<ObjectMeta> {
        let size = bytes.len();
        upload::UploadTarget::new(self.0.store_for_bucket(bucket)?, bucket, key)
            .put_object(&content_type.into(), bytes.into(), size)
            .await
    }

    /// Reads an object from byte `from` on. Its ETag or version must still match `file`.
    ///
    /// # Errors
    /// `object_not_found`, `object_changed`, or an error of the store.
    pub async fn open_object(&self, file: &File, from: u64) -> Result<ObjectBody> {
        download::open_download(self.0.bucket_client(&file.bucket)?.clone(), file, from).await
    }

    /// Reads the metadata of an object.
    ///
    /// # Errors
    /// `object_not_found`, or an error of the store.
    pub async fn head_object(&self, bucket: &str, key: &str) -> Result<ObjectMeta> {
        Ok(self.head_version(bucket, key, None).await?.meta)
    }

    /// Reads the metadata of one version of an object, and what tells its writes apart.
    ///
    /// # Errors
    /// `object_not_found`, or an error of the store.
    pub async fn head_version(&self, bucket: &str, key: &str, version: Option<&str>) -> Result<ObjectHead> {
        let request = self.0.bucket_client(bucket)?.head_object().bucket(bucket).key(key);
        let object_id = ObjectIdReader::default();
        let request = request.set_version_id(version.map(str::to_owned)).customize().interceptor(object_id.clone());
        match request.send().await {
            Ok(output) => Ok(ObjectHead::from_output(bucket, key, output, object_id.take_id())),
            Err(error) => {
                let error = sdk_error::object_error("looking up", bucket, key, error);
                // The response to HEAD has no body, so only a second request tells whether the bucket or the object is
                // missing.
                let missing = error.code() == codes::OBJECT_NOT_FOUND;
                Err(if missing { self.missing_bucket_error(bucket).await.unwrap_or(error) } else { error })
            }
        }
    }

    /// The error for a missing bucket; `None` if the bucket exists.
    async fn missing_bucket_error(&self, bucket: &str) -> Option<Error> {
        let answer = self.0.bucket_client(bucket).ok()?.head_bucket().bucket(bucket).send().await;
        let error = answer.err().map(|error| sdk_error::bucket_error("looking up", bucket, error));
        error.filter(|error| error.code() == codes::OBJECT_NOT_FOUND)
    }

    /// Deletes an object. A missing object counts as deleted.
    pub async fn delete_object(&self, bucket: &str, key: &str) -> Result<()> {
        match self.0.bucket_client(bucket)?.delete_object().bucket(bucket).key(key).send().await {
            Ok(_) => Ok(()),
            Err(error) => match sdk_error::object_error("deleting", bucket, key, error) {
                gone if gone.code() == codes::OBJECT_NOT_FOUND => Ok(()),
                error => Err(error),
            },
        }
    }

    /// Deletes all objects and aborts all unfinished uploads whose keys start with `prefix`, such as what a crashed
    /// attempt left behind. Returns how many objects it deleted.
    ///
    /// # Errors
    /// `prefix_empty`, because an empty prefix would empty the bucket, or an error of the store.
    pub async fn delete_prefix(&self, bucket: &str, prefix: &str) -> Result<u64> {
        delete_prefix::delete_prefix(self, self.0.bucket_client(bucket)?, bucket, prefix).await
    }

    /// Lists one page of the objects whose keys start with `prefix`, in the order of their keys. `from` is the `next`
    /// of the page before.
    pub async fn list_objects(&self, bucket: &str, prefix: &str, from: Option<String>) -> Result<ObjectPage> {
        list::list_page(self.0.bucket_client(bucket)?, bucket, prefix, from).await
    }

    /// Returns a presigned URL for a direct upload. Until it expires, its holder may create one object of exactly this
    /// size and type, with the header `If-None-Match: *`, so that nothing replaces what was sent. S3 allows a week at
    /// most.
    ///
    /// # Errors
    /// `object_store_error` for another lifetime, `bucket_not_configured`, or an error of the credentials.
    pub async fn presign_put(
        &self,
        bucket: &str,
        key: &str,
        content_type: &str,
        size: u64,
        expires: Duration,
    ) -> Result<String> {
        if !(1..=MAX_PRESIGNED_LIFETIME.as_secs()).contains(&expires.as_secs()) {
            let message = format!("a presigned address is valid for a second to a week, not for {expires:?}");
            return Err(Error::new(codes::OBJECT_STORE_ERROR, message));
        }
        let failed = |error: &dyn std::error::Error| Error::new(codes::OBJECT_STORE_ERROR, error.to_string());
        let config = PresigningConfig::expires_in(expires).map_err(|error| failed(&error))?;
        let request = self.0.presign_client(bucket)?.put_object().bucket(bucket).key(key).content_type(content_type);
        let size = i64::try_from(size).unwrap_or(i64::MAX);
        let presigned = request.content_length(size).if_none_match("*").presigned(config).await;
        let presigned = presigned.map_err(|error| sdk_error::object_error("presigning", bucket, key, error))?;
        Ok(presigned.uri().to_owned())
    }

    /// Returns true if the bucket is in the embedded store.
    pub fn is_embedded(&self, bucket: &str) -> bool {
        self.0.is_embedded(bucket)
    }

    /// The public URL of an object in a public bucket; `None` if it is not known.
    pub fn public_url(&self, bucket: &str, key: &str) -> Option<String> {
        self.0.public_url(bucket, key)
    }

    /// Creates the bucket if it does not exist.
    pub async fn ensure_bucket(&self, bucket: &str) -> Result<()> {
        self.0.ensure_bucket(bucket).await
    }
}

fn unquote_etag(etag: Option<&str>) -> String {
    etag.unwrap_or_default().trim_matches('"').to_owned()
}
