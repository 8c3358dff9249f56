//! The one representation of a file: in parameters, outputs and the API.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
