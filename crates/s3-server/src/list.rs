//! ListObjects, versions 1 and 2.

use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use s3s::dto::{
    CommonPrefix, ETag, EncodingType, ListObjectsInput, ListObjectsOutput, ListObjectsV2Input, ListObjectsV2Output,
    Object, ObjectStorageClass, Owner,
};
use s3s::{S3ErrorCode, S3Request, S3Response, S3Result};

use super::S3Backend;
use super::error::s3_error;
use super::get::to_timestamp;
use super::index::list::{self, KeyPage, KeyQuery, KeyRow, after_key, after_prefix, common_prefix};

const MAX_LIST_ENTRIES: i32 = 1000;
const OWNER_NAME: &str = "afterload";

/// The owner of all buckets and objects.
pub(super) fn store_owner() -> Owner {
    Owner { display_name: Some(OWNER_NAME.to_owned()), id: Some(OWNER_NAME.to_owned()) }
}

/// The encoding of keys in XML, which cannot represent every character.
#[derive(Clone, Copy)]
pub(super) enum KeyEncoding {
    Plain,
    Url,
}

impl KeyEncoding {
    pub(super) fn from_encoding_type(encoding: Option<&EncodingType>) -> S3Result<Self> {
        match encoding.map(EncodingType::as_str) {
            None => Ok(Self::Plain),
            Some(EncodingType::URL) => Ok(Self::Url),
            Some(_) => Err(s3_error(S3ErrorCode::InvalidArgument, "The only encoding type is url.")),
        }
    }

    pub(super) fn encode_key(self, name: &str) -> String {
        match self {
            Self::Plain => name.to_owned(),
            Self::Url => name.bytes().fold(String::with_capacity(name.len()), |mut text, byte| {
                match byte {
                    b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => {
                        text.push(byte.into());
                    }
                    other => text.push_str(&format!("%{other:02X}")),
                }
                text
            }),
        }
    }

    fn encode_common_prefixes(self, names: Vec<String>) -> Option<Vec<CommonPrefix>> {
        let prefixes = names.into_iter().map(|name| CommonPrefix { prefix: Some(self.encode_key(&name)) });
        Some(prefixes.collect())
    }

    fn encode_objects(self, rows: Vec<KeyRow>, owner: Option<Owner>) -> Option<Vec<Object>> {
        let objects = rows.into_iter().map(|row| Object {
            key: Some(self.encode_key(&row.key)),
            e_tag: Some(ETag::Strong(row.etag)),
            size: Some(row.size as i64),
            last_modified: Some(to_timestamp(row.modified_at)),
            storage_class: Some(ObjectStorageClass::from_static(ObjectStorageClass::STANDARD)),
            owner: owner.clone(),
            ..Default::default()
        });
        Some(objects.collect())
    }
}

/// The requested number of entries, at most 1,000.
pub(super) fn parse_max_entries(asked: Option<i32>) -> S3Result<i32> {
    match asked {
        Some(negative) if negative < 0 => {
            Err(s3_error(S3ErrorCode::InvalidArgument, "The number of entries cannot be negative."))
        }
        asked => Ok(asked.unwrap_or(MAX_LIST_ENTRIES).min(MAX_LIST_ENTRIES)),
    }
}

pub(super) async fn list_objects_v1(
    store: &Arc<S3Backend>,
    request: S3Request<ListObjectsInput>,
) -> S3Result<S3Response<ListObjectsOutput>> {
    let ListObjectsInput { bucket, delimiter, encoding_type, marker, max_keys, prefix, .. } = request.input;
    let names = KeyEncoding::from_encoding_type(encoding_type.as_ref())?;
    let max = parse_max_entries(max_keys)?;
    let wanted = KeyQuery {
        bucket: bucket.clone(),
        prefix: prefix.clone().unwrap_or_default(),
        delimiter: delimiter.clone().unwrap_or_default(),
        from: marker.as_deref().map(|marker| after_marker(marker, &prefix, &delimiter)).unwrap_or_default(),
        max_entries: usize::try_from(max).unwrap_or_default(),
    };
    let KeyPage { rows, prefixes, next, last_entry: last } =
        store.read_index(move |sql| list::list_keys(sql, &wanted)).await?;
    Ok(S3Response::new(ListObjectsOutput {
        name: Some(bucket),
        prefix: Some(names.encode_key(prefix.as_deref().unwrap_or_default())),
        marker: Some(names.encode_key(marker.as_deref().unwrap_or_default())),
        max_keys: Some(max),
        is_truncated: Some(next.is_some()),
        next_marker: next.is_some().then(|| names.encode_key(&last)),
        delimiter: delimiter.map(|delimiter| names.encode_key(&delimiter)),
        encoding_type,
        contents: names.encode_objects(rows, Some(store_owner())),
        common_prefixes: names.encode_common_prefixes(prefixes),
        ..Default::default()
    }))
}

/// A marker that is a common prefix skips all keys with this prefix.
fn after_marker(marker: &str, prefix: &Option<String>, delimiter: &Option<String>) -> Vec<u8> {
    let (prefix, delimiter) = (prefix.as_deref().unwrap_or_default(), delimiter.as_deref().unwrap_or_default());
    match common_prefix(marker, prefix, delimiter) {
        Some(fold) if fold == marker => after_prefix(marker.as_bytes()).unwrap_or_else(|| after_key(marker)),
        _ => after_key(marker),
    }
}

pub(super) async fn list_objects_v2(
    store: &Arc<S3Backend>,
    request: S3Request<ListObjectsV2Input>,
) -> S3Result<S3Response<ListObjectsV2Output>> {
    let ListObjectsV2Input { bucket, continuation_token, delimiter, encoding_type, max_keys, prefix, .. } =
        request.input;
    let start_after = request.input.start_after;
    let names = KeyEncoding::from_encoding_type(encoding_type.as_ref())?;
    let max = parse_max_entries(max_keys)?;
    let from = match (&continuation_token, &start_after) {
        (Some(token), _) => BASE64_URL_SAFE_NO_PAD
            .decode(token)
            .map_err(|_| s3_error(S3ErrorCode::InvalidArgument, "The continuation token is not one of ours."))?,
        (None, Some(start_after)) => after_marker(start_after, &prefix, &delimiter),
        (None, None) => Vec::new(),
    };
    let wanted = KeyQuery {
        bucket: bucket.clone(),
        prefix: prefix.clone().unwrap_or_default(),
        delimiter: delimiter.clone().unwrap_or_default(),
        from,
        max_entries: usize::try_from(max).unwrap_or_default(),
    };
    let KeyPage { rows, prefixes, next, .. } = store.read_index(move |sql| list::list_keys(sql, &wanted)).await?;
    let count = rows.len() + prefixes.len();
    let owner = request.input.fetch_owner.unwrap_or_default().then(store_owner);
    Ok(S3Response::new(ListObjectsV2Output {
        name: Some(bucket),
        prefix: Some(names.encode_key(prefix.as_deref().unwrap_or_default())),
        max_keys: Some(max),
        key_count: i32::try_from(count).ok(),
        continuation_token,
        is_truncated: Some(next.is_some()),
        next_continuation_token: next.map(|next| BASE64_URL_SAFE_NO_PAD.encode(next)),
        delimiter: delimiter.map(|delimiter| names.encode_key(&delimiter)),
        start_after: start_after.map(|start| names.encode_key(&start)),
        encoding_type,
        contents: names.encode_objects(rows, owner),
        common_prefixes: names.encode_common_prefixes(prefixes),
        ..Default::default()
    }))
}
