//! Deletes everything under a prefix, such as what a crashed attempt left behind.

use aws_sdk_s3::Client;
use aws_sdk_s3::types::EncodingType;
use futures::{StreamExt, TryStreamExt, stream};

use super::{ObjectStore, sdk_error};
use crate::codes;
use afterload_core::error::{Error, Result};
use afterload_core::object_names::decode_key;

const MAX_PARALLEL_DELETES: usize = 8;

pub(super) async fn delete_prefix(objects: &ObjectStore, client: &Client, bucket: &str, prefix: &str) -> Result<u64> {
    if prefix.is_empty() {
        return Err(Error::new(codes::PREFIX_EMPTY, "an empty prefix would delete the whole bucket"));
    }
    abort_unfinished_uploads(client, bucket, prefix).await?;
    let mut deleted = 0;
    loop {
        // Always list the first page, because the loop deletes all objects that it lists.
        let request = client.list_objects_v2().bucket(bucket).prefix(prefix).encoding_type(EncodingType::Url);
        let page = request.send().await.map_err(|error| sdk_error::object_error("listing", bucket, prefix, error))?;
        let encoded = page.encoding_type().is_some();
        let keys: Vec<String> = page
            .contents()
            .iter()
            .filter_map(|object| object.key())
            .map(|key| if encoded { decode_key(key) } else { key.to_owned() })
            .collect();
        if keys.is_empty() {
            return Ok(deleted);
        }
        deleted += keys.len() as u64;
        // Delete keys one by one: a batch puts the keys into XML, which cannot represent all of them.
        let deletions =
            stream::iter(keys.into_iter().map(|key| async move { objects.delete_object(bucket, &key).await }));
        deletions.buffer_unordered(MAX_PARALLEL_DELETES).try_collect::<()>().await?;
        if page.is_truncated() != Some(true) {
            return Ok(deleted);
        }
    }
}

async fn abort_unfinished_uploads(client: &Client, bucket: &str, prefix: &str) -> Result<()> {
    let listed = client.list_multipart_uploads().bucket(bucket).prefix(prefix).send().await;
    let listed = match listed.map_err(|error| sdk_error::object_error("listing", bucket, prefix, error)) {
        Ok(listed) => listed,
        // Some stores cannot list unfinished uploads. They clean up by themselves.
        Err(error) if error.code() == codes::OBJECT_STORE_ERROR => return Ok(()),
        Err(error) => return Err(error),
    };
    for upload in listed.uploads() {
        let (Some(key), Some(id)) = (upload.key(), upload.upload_id()) else { continue };
        if let Err(error) = client.abort_multipart_upload().bucket(bucket).key(key).upload_id(id).send().await {
            let error = sdk_error::object_error("giving up", bucket, key, error);
            if error.code() != codes::OBJECT_NOT_FOUND {
                return Err(error);
            }
        }
    }
    Ok(())
}
