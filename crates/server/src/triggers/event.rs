//! What is told of an object, and the `event` that expressions see.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use afterload_core::clock::{self, Millis};
use afterload_core::file::File;
use afterload_core::object_names as names;
use afterload_object_store::Stored;

/// An object that was created, as somebody tells. What is not known is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
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
    pub at: Option<Millis>,
}

/// Names one state of one object: by its version, else by ETag and size. The same bytes under the same key are the same
/// object then, also if they were written twice.
pub fn identity(bucket: &str, key: &str, version: Option<&str>, etag: &str, size: u64) -> String {
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

impl Told {
    /// The identity under one of the keys, as far as it is known without asking the store.
    pub fn identity(&self, key: &str) -> Option<String> {
        let known = self.version.is_some() || (!self.etag.is_empty() && self.size.is_some());
        let size = self.size.unwrap_or_default();
        known.then(|| identity(&self.bucket, key, self.version.as_deref(), &self.etag, size))
    }

    /// What is known of the object if the store does not say.
    pub fn stored(&self, key: &str) -> Stored {
        Stored {
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
pub fn is_folder(key: &str, size: Option<u64>) -> bool {
    key.ends_with('/') && size.is_none_or(|size| size == 0)
}

/// The `event` of an s3 trigger. The shape is frozen: `pipeline` checks its names.
pub fn event(stored: Stored, at: Option<Millis>) -> Value {
    let name = names::clean(&stored.key, "file");
    let mut file: File = stored.into_file(None, name, None);
    file.content_type = names::content_type(Some(&file.content_type), &file.name);
    json!({
        "type": "s3",
        "bucket": file.bucket,
        "key": file.key,
        "version": file.version,
        "etag": file.etag,
        "size": file.size,
        "name": file.name,
        "content_type": file.content_type,
        "time": clock::rfc3339(at.unwrap_or_else(clock::now)),
        "file": file,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_known_by_its_version_or_its_content() {
        let all = [
            identity("b", "k", None, "e", 1),
            identity("b", "k", None, "e", 2),
            identity("b", "k", None, "f", 1),
            identity("b", "k", Some("e:1"), "e", 1),
            identity("bk", "", None, "e", 1),
        ];
        let different: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(different.len(), all.len());
        assert_eq!(identity("b", "k", Some("v"), "e", 1), identity("b", "k", Some("v"), "", 0));
    }
}
