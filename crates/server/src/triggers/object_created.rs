//! A created object, and the `event` that expressions see.

use serde_json::json;
use sha2::{Digest, Sha256};

use super::trigger_event::TriggerEvent;
use afterload_core::clock::{self, UnixMillis};
use afterload_core::file::File;
use afterload_core::object_names;
use afterload_object_store::ObjectMeta;

/// A created object, as a source reports it. Unknown fields are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObjectCreated {
    /// The bucket.
    pub bucket: String,
    /// The possible keys, most likely first: senders encode keys in different ways.
    pub keys: Vec<String>,
    /// The version, in a versioned bucket.
    pub version: Option<String>,
    /// The ETag, without quotes.
    pub etag: String,
    /// The size in bytes.
    pub size: Option<u64>,
    /// The time of creation, if the source reports it.
    pub at: Option<UnixMillis>,
}

/// Identifies one version of an object: by its version id, else by ETag and size. Without version ids, the same bytes
/// written twice under one key are the same object.
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
    /// The identity under one of the keys, if the event alone determines it.
    pub fn identity_for_key(&self, key: &str) -> Option<String> {
        let is_unique = self.version.is_some() || (!self.etag.is_empty() && self.size.is_some());
        let size = self.size.unwrap_or_default();
        is_unique.then(|| object_identity(&self.bucket, key, self.version.as_deref(), &self.etag, size))
    }

    /// The metadata from the event, for an object whose metadata the store does not return.
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

/// True for the empty object that S3 consoles create for a folder.
pub fn is_folder_marker(key: &str, size: Option<u64>) -> bool {
    key.ends_with('/') && size.is_none_or(|size| size == 0)
}

/// The `event` of an s3 trigger. `pipeline` validates the names of its fields, so the shape is fixed.
pub fn s3_event(stored: ObjectMeta, at: UnixMillis) -> TriggerEvent {
    let name = object_names::sanitize_file_name(&stored.key, "file");
    let mut file: File = stored.into_file(None, name, None);
    file.content_type = object_names::resolve_content_type(Some(&file.content_type), &file.name);
    let data = json!({
        "type": "s3",
        "bucket": file.bucket,
        "key": file.key,
        "version": file.version,
        "etag": file.etag,
        "size": file.size,
        "name": file.name,
        "content_type": file.content_type,
        "time": clock::format_rfc3339(at),
        "file": file,
    });
    TriggerEvent { data, object: Some(file) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_identified_by_its_version_or_content() {
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
