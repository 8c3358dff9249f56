//! A created object, and the `event` that expressions see.

use serde_json::json;
use sha2::{Digest, Sha256};

use super::trigger_event::TriggerEvent;
use afterload_core::clock::{self, UnixMillis};
use afterload_core::file::File;
use afterload_core::object_names;
use afterload_object_store::{ObjectHead, ObjectMeta};

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

/// What tells one write of a key from the others, in the order of preference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectWrite<'a> {
    /// The version, in a versioned bucket.
    Version(&'a str),
    /// The id that the embedded store gives to each write.
    ObjectId(&'a str),
    /// What every store shows. Lists and HEAD requests agree on the time to the second.
    Shown { etag: &'a str, size: u64, modified_at: Option<UnixMillis> },
}

impl<'a> ObjectWrite<'a> {
    /// The write behind the response to a HEAD request.
    pub fn from_head(head: &'a ObjectHead) -> Self {
        let ObjectHead { meta, object_id, modified_at, .. } = head;
        match (&meta.version, object_id) {
            (Some(version), _) => Self::Version(version),
            (None, Some(id)) => Self::ObjectId(id),
            (None, None) => Self::Shown { etag: &meta.etag, size: meta.size, modified_at: *modified_at },
        }
    }
}

/// Identifies one write of an object.
pub fn object_identity(bucket: &str, key: &str, write: ObjectWrite<'_>) -> String {
    let mut all = Sha256::new();
    for part in [bucket, key] {
        all.update((part.len() as u64).to_be_bytes());
        all.update(part);
    }
    match write {
        ObjectWrite::Version(version) => all.update(format!("v:{version}")),
        ObjectWrite::ObjectId(id) => all.update(format!("i:{id}")),
        ObjectWrite::Shown { etag, size, modified_at } => {
            let second = modified_at.map(|at| at.div_euclid(1000).to_string()).unwrap_or_default();
            all.update(format!("e:{etag}:{size}:{second}"));
        }
    }
    hex::encode(all.finalize())
}

impl ObjectCreated {
    /// The identity under one of the keys, if the event alone determines it: only a version does.
    pub fn identity_for_key(&self, key: &str) -> Option<String> {
        let version = self.version.as_deref()?;
        Some(object_identity(&self.bucket, key, ObjectWrite::Version(version)))
    }

    /// The metadata from the event, for an object whose metadata the store does not return.
    pub fn to_object_head(&self, key: &str) -> ObjectHead {
        let meta = ObjectMeta {
            bucket: self.bucket.clone(),
            key: key.to_owned(),
            version: self.version.clone(),
            etag: self.etag.clone(),
            size: self.size.unwrap_or_default(),
            content_type: String::new(),
        };
        // Events and lists report different times for one object.
        ObjectHead { meta, object_id: None, modified_at: None, hops: 0 }
    }
}

/// True for the empty object that S3 consoles create for a folder.
pub fn is_folder_marker(key: &str, size: Option<u64>) -> bool {
    key.ends_with('/') && size.is_none_or(|size| size == 0)
}

/// The `event` of an s3 trigger. `pipeline` validates the names of its fields, so the shape is fixed.
pub fn s3_event(stored: ObjectHead, at: UnixMillis) -> TriggerEvent {
    let ObjectHead { meta, hops, .. } = stored;
    let name = object_names::sanitize_file_name(&meta.key, "file");
    let mut file: File = meta.into_file(None, name, None);
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
    TriggerEvent { data, object: Some(file), hops }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(etag: &str, size: u64, modified_at: UnixMillis) -> ObjectWrite<'_> {
        ObjectWrite::Shown { etag, size, modified_at: Some(modified_at) }
    }

    #[test]
    fn every_write_has_its_own_identity() {
        let all = [
            object_identity("b", "k", shown("e", 1, 1000)),
            object_identity("b", "k", shown("e", 2, 1000)),
            object_identity("b", "k", shown("f", 1, 1000)),
            object_identity("b", "k", shown("e", 1, 2000)),
            object_identity("b", "k", ObjectWrite::Shown { etag: "e", size: 1, modified_at: None }),
            object_identity("b", "k", ObjectWrite::Version("e:1:1")),
            object_identity("b", "k", ObjectWrite::ObjectId("e:1:1")),
            object_identity("bk", "", shown("e", 1, 1000)),
        ];
        let different: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(different.len(), all.len());
        // Lists of some stores show fractions of a second, and HEAD requests do not.
        assert_eq!(object_identity("b", "k", shown("e", 1, 1999)), all[0]);
    }

    #[test]
    fn version_comes_before_object_id_and_etag() {
        let created = ObjectCreated { etag: "e".into(), size: Some(1), ..ObjectCreated::default() };
        let mut head = created.to_object_head("k");
        assert_eq!(ObjectWrite::from_head(&head), ObjectWrite::Shown { etag: "e", size: 1, modified_at: None });
        head.object_id = Some("i".into());
        assert_eq!(ObjectWrite::from_head(&head), ObjectWrite::ObjectId("i"));
        head.meta.version = Some("v".into());
        assert_eq!(ObjectWrite::from_head(&head), ObjectWrite::Version("v"));
        assert_eq!(created.identity_for_key("k"), None);
    }
}
