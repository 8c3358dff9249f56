//! The settings of object stores and buckets.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use afterload_core::secret::Secret;
use afterload_core::units::listen_address;

/// Where files are kept. A bucket that names no store lies in the embedded one.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ObjectsConfig {
    /// Where the embedded S3 endpoint listens; when the port is taken, a free one is used.
    #[serde(deserialize_with = "listen_address")]
    pub listen: SocketAddr,
    /// S3 stores by name.
    pub stores: BTreeMap<String, ObjectStoreConfig>,
    /// Buckets and the store that holds each.
    pub buckets: BTreeMap<String, BucketConfig>,
    /// The bucket of uploads and results.
    pub artifacts: String,
}

impl Default for ObjectsConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 9000)),
            stores: BTreeMap::new(),
            buckets: BTreeMap::new(),
            artifacts: "artifacts".into(),
        }
    }
}

/// An S3 store: AWS, MinIO, SeaweedFS, R2, Garage, Ceph.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ObjectStoreConfig {
    /// The address of the store; absent for AWS.
    pub endpoint: Option<String>,
    /// The address at which browsers reach the store, for direct uploads; default `endpoint`.
    pub public_endpoint: Option<String>,
    /// The region; default `us-east-1`.
    pub region: Option<String>,
    /// The access key; absent: the AWS credential chain (environment, profile, instance role).
    pub access_key: Option<Secret>,
    /// The secret key that goes with it.
    pub secret_key: Option<Secret>,
    /// `http://host/bucket/key` rather than `http://bucket.host/key`; what most stores but AWS want.
    pub path_style: bool,
    /// When request checksums are sent; some stores refuse the SDK's streamed ones.
    pub checksums: RequestChecksumMode,
}

/// When request checksums are sent to a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RequestChecksumMode {
    /// With every upload.
    #[default]
    WhenSupported,
    /// Only where the operation requires one (Garage and Ceph need this).
    WhenRequired,
}

/// Where a bucket lies.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BucketConfig {
    /// The name of a store under `objects.stores`; default the embedded store.
    pub store: Option<String>,
    /// Whether anybody may read its objects from the embedded store, such as thumbnails that a site serves. Other stores
    /// have settings of their own for that.
    pub public: bool,
    /// Where the world finds its objects, such as `https://cdn.example.com`; default the store's endpoint and the bucket.
    pub public_url: Option<String>,
}

impl ObjectsConfig {
    /// The name of the store that holds a bucket; `None` means the embedded store.
    pub fn store_for_bucket(&self, bucket: &str) -> Option<&str> {
        self.buckets.get(bucket)?.store.as_deref()
    }
}
