//! Lists the objects of a bucket.

use aws_sdk_s3::Client;
use aws_sdk_s3::types::EncodingType;

use super::{sdk_error, unquote_etag};
use afterload_core::clock::UnixMillis;
use afterload_core::error::Result;
use afterload_core::object_names::decode_key;

/// An object in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedObject {
    /// The key.
    pub key: String,
    /// The ETag, without quotes.
    pub etag: String,
    /// The size in bytes.
    pub size: u64,
    /// When the object was written. For a multipart upload, this is the time when it began.
    pub modified_at: UnixMillis,
}

/// A page of a list.
#[derive(Clone, Debug, Default)]
pub struct ObjectPage {
    /// At most 1,000 objects.
    pub objects: Vec<ListedObject>,
    /// Where the next page begins, if there is one.
    pub next: Option<String>,
}

pub(super) async fn list_page(client: &Client, bucket: &str, prefix: &str, from: Option<String>) -> Result<ObjectPage> {
    // XML cannot represent all keys, so ask for encoded ones. Not all stores support it.
    let request = client.list_objects_v2().bucket(bucket).prefix(prefix).encoding_type(EncodingType::Url);
    let output = request.set_continuation_token(from).send().await;
    let output = output.map_err(|error| sdk_error::object_error("listing", bucket, prefix, error))?;
    let encoded = output.encoding_type().is_some();
    let objects = output.contents().iter().filter_map(|object| {
        let key = object.key()?;
        Some(ListedObject {
            key: if encoded { decode_key(key) } else { key.to_owned() },
            etag: unquote_etag(object.e_tag()),
            size: object.size().and_then(|size| size.try_into().ok()).unwrap_or_default(),
            modified_at: object.last_modified().and_then(|time| time.to_millis().ok()).unwrap_or_default(),
        })
    });
    let objects = objects.collect();
    let next = output.next_continuation_token.filter(|_| output.is_truncated == Some(true));
    Ok(ObjectPage { objects, next })
}
