//! What is told of an object, and the `event` that expressions see.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use afterload_core::clock::{self, UnixMillis};
use afterload_core::file::File;
use afterload_core::object_names;
use afterload_object_store::ObjectMeta;

/// An object that was created, as somebody tells. What is not known is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObjectCreated {
    /// The bucket.
    pub bucket: String,
    /// The key; where senders do not agree on how to write one, what it may be, likeliest first.
    pub keys: Vec<String>,
    /// The version, where the bucket keeps versions.
    pub version: Option<String>,
    /// The ETag, without quotes.
    pub etag: String,
    /// Bytes.
    pub size: Option<u64>,
    /// When, if it is known.
    pub at: Option<UnixMillis>,
}

/// Names one state of one object: by its version, else by ETag and size. The same bytes under the same key are the same
/// object then, also if they were written twice.
pub fn object_identity(bucket: &str, key: &str, version: Option<&str>, etag: &str, size: u64) -> String {
    let mut all = Sha256::new();
    for part in [bucket, key] {
        all.update((part.len() as u64).to_be_bytes());
        all.update(part);
    }
    match version {
        Some(version) => all.update(format!("v:{version}")),
        None => all.update(format!("e:{etag}:{size}")),
    }
    hex::encode(all.finalize())
}

impl ObjectCreated {
    /// The identity under one of the keys, as far as it is known without asking the store.
    pub fn identity_for_key(&self, key: &str) -> Option<String> {
        let known = self.version.is_some() || (!self.etag.is_empty() && self.size.is_some());
        let size = self.size.unwrap_or_default();
        known.then(|| object_identity(&self.bucket, key, self.version.as_deref(), &self.etag, size))
    }

    /// What is known of the object if the store does not say.
    pub fn to_object_meta(&self, key: &str) -> ObjectMeta {
        ObjectMeta {
            bucket: self.bucket.clone(),
            key: key.to_owned(),
            version: self.version.clone(),
            etag: self.etag.clone(),
            size: self.size.unwrap_or_default(),
            content_type: String::new(),
        }
    }
}

/// What consoles write for an empty folder.
pub fn is_folder_marker(key: &str, size: Option<u64>) -> bool {
    key.ends_with('/') && size.is_none_or(|size| size == 0)
}

/// The `event` of an s3 trigger. The shape is frozen: `pipeline` checks its names.
pub fn s3_event(stored: ObjectMeta, at: Option<UnixMillis>) -> Value {
    let name = object_names::sanitize_file_name(&stored.key, "file");
    let mut file: File = stored.into_file(None, name, None);
    file.content_type = object_names::resolve_content_type(Some(&file.content_type), &file.name);
    json!({
        "type": "s3",
        "bucket": file.bucket,
        "key": file.key,
        "version": file.version,
        "etag": file.etag,
        "size": file.size,
        "name": file.name,
        "content_type": file.content_type,
        "time": clock::format_rfc3339(at.unwrap_or_else(clock::now_millis)),
        "file": file,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_known_by_its_version_or_its_content() {
        let all = [
            object_identity("b", "k", None, "e", 1),
            object_identity("b", "k", None, "e", 2),
            object_identity("b", "k", None, "f", 1),
            object_identity("b", "k", Some("e:1"), "e", 1),
            object_identity("bk", "", None, "e", 1),
        ];
        let different: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(different.len(), all.len());
        assert_eq!(object_identity("b", "k", Some("v"), "e", 1), object_identity("b", "k", Some("v"), "", 0));
    }
}
