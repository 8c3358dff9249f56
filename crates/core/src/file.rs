//! The one representation of a file: in parameters, outputs and the API.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A file in the store, in the one shape that it has everywhere: parameters, outputs, the API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(expecting = "a file such as `${{ … }}`")]
pub struct File {
    /// The artifact, if afterload owns the file.
    #[serde(default)]
    pub artifact_id: Option<String>,
    /// The bucket.
    pub bucket: String,
    /// The key, opaque.
    pub key: String,
    /// The version, where the bucket keeps versions.
    #[serde(default)]
    pub version: Option<String>,
    /// The ETag, without quotes.
    #[serde(default)]
    pub etag: String,
    /// The name for people.
    pub name: String,
    /// Bytes.
    #[serde(default)]
    pub size: u64,
    /// The media type.
    #[serde(default)]
    pub content_type: String,
    /// Where the API hands it out.
    #[serde(default)]
    pub url: Option<String>,
}

/// What tells one file from every other: the place of the object, its state, and the artifact.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileIdentity {
    /// The bucket.
    pub bucket: String,
    /// The key.
    pub key: String,
    /// The version, where the bucket keeps versions.
    pub version: Option<String>,
    /// The ETag, without quotes.
    pub etag: String,
    /// The artifact, if afterload owns the file.
    pub artifact_id: Option<String>,
}

impl From<&File> for FileIdentity {
    fn from(file: &File) -> Self {
        let File { artifact_id, bucket, key, version, etag, .. } = file.clone();
        Self { bucket, key, version, etag, artifact_id }
    }
}

impl FileIdentity {
    /// The identity that a [`File`] has when it is read from these fields; `None` if they hold no file.
    pub fn from_fields(fields: &Map<String, Value>) -> Option<Self> {
        let optional = |name: &str| match fields.get(name) {
            None | Some(Value::Null) => Some(None),
            Some(Value::String(text)) => Some(Some(text.clone())),
            Some(_) => None,
        };
        Some(Self {
            bucket: optional("bucket")??,
            key: optional("key")??,
            version: optional("version")?,
            etag: optional("etag")?.unwrap_or_default(),
            artifact_id: optional("artifact_id")?,
        })
    }
}
