//! The clients of the configured object stores, and which store holds each bucket.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_config::{BehaviorVersion, Region};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    Builder, Credentials, RequestChecksumCalculation, ResponseChecksumValidation, SharedHttpClient,
    StalledStreamProtectionConfig,
};
use aws_sdk_s3::types::{BucketLocationConstraint, CreateBucketConfiguration};

use super::config::{ObjectStoreConfig, ObjectsConfig, RequestChecksumMode};
use super::sdk_error;
use super::upload_memory::UploadMemory;
use crate::codes;
use afterload_core::error::{Error, Result};
use afterload_core::secret::Secret;

const DEFAULT_STORE_REGION: &str = "us-east-1";

/// How this process reaches the embedded object store.
#[derive(Clone, Debug)]
pub struct EmbeddedEndpoint {
    /// The HTTP client that passes requests to the store without a socket.
    pub http: SharedHttpClient,
    /// The address in these requests. Nothing listens there.
    pub endpoint: String,
    /// The address for others, such as `http://127.0.0.1:9000`.
    pub public_endpoint: String,
    /// The access key.
    pub access_key: Secret,
    /// The secret key that goes with it.
    pub secret_key: Secret,
}

/// Marks a request whose bytes the service itself has produced. Nothing compares the ETag of such a part with its MD5,
/// so a store in the same process may skip the MD5. The mark cannot come through a socket.
#[derive(Clone, Copy, Debug)]
pub struct SkipMd5;

/// Marks the completion of an upload by the service itself, whose parts are small where memory was short. The mark
/// cannot come through a socket.
#[derive(Clone, Copy, Debug)]
pub struct AnyPartSize;

/// The clients of one object store.
pub(super) struct StoreClient {
    pub(super) client: Client,
    pub(super) transport: StoreTransport,
    /// Presigns URLs for browsers.
    presigner: Client,
    region: String,
    /// The address in public URLs.
    public_endpoint: Option<String>,
    pub(super) upload_memory: UploadMemory,
}

/// How requests reach an object store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StoreTransport {
    /// Others on the network could change them.
    Plain,
    /// Encrypted, with checksums.
    Tls,
    /// Within the process.
    InProcess,
}

impl StoreTransport {
    /// Returns true if nobody can change a body on its way unnoticed. A signature of the body then protects nothing,
    /// and it costs a hash of all bytes.
    pub(super) fn is_tamper_proof(self) -> bool {
        self != Self::Plain
    }

    /// A store counts as `Tls` only if requests use TLS and carry checksums. Without an endpoint and keys, the
    /// environment may name an address of any kind.
    fn for_store(store: &ObjectStoreConfig) -> Self {
        let encrypted = match &store.endpoint {
            Some(endpoint) => endpoint.get(..6).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https:")),
            None => store.access_key.is_some(),
        };
        match encrypted && store.checksums == RequestChecksumMode::WhenSupported {
            true => Self::Tls,
            false => Self::Plain,
        }
    }
}

/// All object stores, and which store holds each bucket.
pub(super) struct StoreClients {
    embedded: Option<StoreClient>,
    named: BTreeMap<String, StoreClient>,
    buckets: BTreeMap<String, String>,
    public_urls: BTreeMap<String, String>,
}

impl StoreClients {
    pub(super) async fn connect(config: &ObjectsConfig, embedded: Option<EmbeddedEndpoint>) -> Result<Self> {
        let mut named = BTreeMap::new();
        for (name, store) in &config.stores {
            named.insert(name.clone(), build_store_client(name, store, None).await?);
        }
        let (mut buckets, mut public_urls) = (BTreeMap::new(), BTreeMap::new());
        for (bucket, place) in &config.buckets {
            public_urls.extend(place.public_url.clone().map(|url| (bucket.clone(), url)));
            let Some(store) = &place.store else { continue };
            if !named.contains_key(store) {
                let message = format!("bucket `{bucket}` names the store `{store}`, which is not defined");
                let known: Vec<_> = named.keys().map(|name| format!("`{name}`")).collect();
                let hint = match known.is_empty() {
                    true => "define it under `objects.stores`".to_owned(),
                    false => format!("the stores under `objects.stores` are {}", known.join(", ")),
                };
                return Err(Error::new(codes::CONFIG_INVALID, message).with_hint(hint));
            }
            buckets.insert(bucket.clone(), store.clone());
        }
        let embedded = match embedded {
            Some(EmbeddedEndpoint { http, endpoint, public_endpoint, access_key, secret_key }) => {
                let config = ObjectStoreConfig {
                    endpoint: Some(endpoint),
                    public_endpoint: Some(public_endpoint),
                    access_key: Some(access_key),
                    secret_key: Some(secret_key),
                    path_style: true,
                    ..ObjectStoreConfig::default()
                };
                Some(build_store_client("embedded", &config, Some(http)).await?)
            }
            None => None,
        };
        Ok(Self { embedded, named, buckets, public_urls })
    }

    pub(super) fn store_for_bucket(&self, bucket: &str) -> Result<&StoreClient> {
        let store = match self.buckets.get(bucket) {
            Some(name) => self.named.get(name),
            None => self.embedded.as_ref(),
        };
        store.ok_or_else(|| {
            Error::new(codes::BUCKET_NOT_CONFIGURED, format!("no store is configured for bucket `{bucket}`"))
        })
    }

    pub(super) fn is_embedded(&self, bucket: &str) -> bool {
        !self.buckets.contains_key(bucket) && self.embedded.is_some()
    }

    pub(super) fn public_url(&self, bucket: &str, key: &str) -> Option<String> {
        let base = match self.public_urls.get(bucket) {
            Some(url) => url.clone(),
            None => format!(
                "{}/{bucket}",
                self.store_for_bucket(bucket).ok()?.public_endpoint.as_deref()?.trim_end_matches('/')
            ),
        };
        let mut url = url::Url::parse(&base).ok()?;
        url.path_segments_mut().ok()?.pop_if_empty().extend(key.split('/'));
        Some(url.into())
    }

    pub(super) fn presign_client(&self, bucket: &str) -> Result<&Client> {
        self.store_for_bucket(bucket).map(|store| &store.presigner)
    }

    pub(super) fn bucket_client(&self, bucket: &str) -> Result<&Client> {
        self.store_for_bucket(bucket).map(|store| &store.client)
    }

    pub(super) async fn ensure_bucket(&self, bucket: &str) -> Result<()> {
        let StoreClient { client, region, .. } = self.store_for_bucket(bucket)?;
        let missing = match client.head_bucket().bucket(bucket).send().await {
            Ok(_) => return Ok(()),
            Err(error) => sdk_error::bucket_error("looking up", bucket, error),
        };
        if missing.code() != codes::OBJECT_NOT_FOUND {
            return Err(missing);
        }
        // AWS refuses its own default region as a location constraint.
        let place = (region != DEFAULT_STORE_REGION).then(|| {
            CreateBucketConfiguration::builder().location_constraint(BucketLocationConstraint::from(&**region)).build()
        });
        match client.create_bucket().bucket(bucket).set_create_bucket_configuration(place).send().await {
            Ok(_) => Ok(()),
            // Another process has created the bucket meanwhile.
            Err(error)
                if error.as_service_error().is_some_and(
                    aws_sdk_s3::operation::create_bucket::CreateBucketError::is_bucket_already_owned_by_you,
                ) =>
            {
                Ok(())
            }
            Err(error) => Err(sdk_error::bucket_error("creating", bucket, error)),
        }
    }
}

async fn build_store_client(
    name: &str,
    store: &ObjectStoreConfig,
    http: Option<SharedHttpClient>,
) -> Result<StoreClient> {
    let region = store.region.clone().unwrap_or_else(|| DEFAULT_STORE_REGION.to_owned());
    let builder = match (&store.access_key, &store.secret_key) {
        // Use only the configured keys: no environment, no profile, no metadata service.
        (Some(access), Some(secret)) => Builder::new()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(region.clone()))
            .credentials_provider(Credentials::new(
                access.expose_secret(),
                secret.expose_secret(),
                None,
                None,
                "afterload",
            )),
        (None, None) => {
            let shared = aws_config::defaults(BehaviorVersion::latest()).region(Region::new(region.clone()));
            Builder::from(&shared.load().await)
        }
        _ => {
            let message = format!("the store `{name}` has only one of `access_key` and `secret_key`");
            return Err(Error::new(codes::CONFIG_INVALID, message)
                .with_hint("give both, or none to use the AWS credential chain"));
        }
    };
    let (sent, checked) = match store.checksums {
        RequestChecksumMode::WhenSupported => {
            (RequestChecksumCalculation::WhenSupported, ResponseChecksumValidation::WhenSupported)
        }
        RequestChecksumMode::WhenRequired => {
            (RequestChecksumCalculation::WhenRequired, ResponseChecksumValidation::WhenRequired)
        }
    };
    let mut builder = builder
        .force_path_style(store.path_style)
        .request_checksum_calculation(sent)
        .response_checksum_validation(checked)
        .retry_config(RetryConfig::standard().with_max_attempts(4).with_initial_backoff(Duration::from_millis(200)))
        .timeout_config(request_timeouts(0))
        .stalled_stream_protection(
            StalledStreamProtectionConfig::enabled().grace_period(Duration::from_secs(20)).build(),
        );
    if let Some(endpoint) = &store.endpoint {
        builder = builder.endpoint_url(endpoint);
    }
    let way = if http.is_some() { StoreTransport::InProcess } else { StoreTransport::for_store(store) };
    builder.set_http_client(http);
    let config = builder.build();
    // A presigned request cannot sign the checksum of bytes that do not exist yet.
    let mut presigning = config.to_builder().request_checksum_calculation(RequestChecksumCalculation::WhenRequired);
    if let Some(endpoint) = &store.public_endpoint {
        presigning = presigning.endpoint_url(endpoint);
    }
    let (client, presigner) = (Client::from_conf(config), Client::from_conf(presigning.build()));
    let address = store.public_endpoint.clone().or_else(|| store.endpoint.clone());
    let upload_memory = UploadMemory::default();
    Ok(StoreClient { client, transport: way, presigner, region, public_endpoint: address, upload_memory })
}

/// The timeouts of one attempt. The read timeout of the SDK spans from the first byte sent to the first byte of the
/// response. So a request with a body gets the time that a slow line (64 KiB/s) needs for it. The stalled stream
/// protection notices a dead line much earlier.
pub(super) fn request_timeouts(body: usize) -> TimeoutConfig {
    let sending = Duration::from_secs(body as u64 / (64 << 10));
    TimeoutConfig::builder()
        .connect_timeout(Duration::from_secs(5))
        .read_timeout(Duration::from_secs(60) + sending)
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payload_signing_is_off_only_over_checked_tls() {
        let keys = || Some(Secret::new("key"));
        let at = |endpoint: Option<&str>, keys: Option<Secret>| ObjectStoreConfig {
            endpoint: endpoint.map(str::to_owned),
            access_key: keys.clone(),
            secret_key: keys,
            ..ObjectStoreConfig::default()
        };
        assert_eq!(StoreTransport::for_store(&at(Some("HTTPS://s3.example.com"), keys())), StoreTransport::Tls);
        assert_eq!(StoreTransport::for_store(&at(None, keys())), StoreTransport::Tls);
        assert_eq!(
            StoreTransport::for_store(&at(Some("http://minio:9000"), keys())),
            StoreTransport::Plain,
            "anybody on the way"
        );
        assert_eq!(StoreTransport::for_store(&at(None, None)), StoreTransport::Plain, "the environment may name http");
        let unchecked = ObjectStoreConfig { checksums: RequestChecksumMode::WhenRequired, ..at(None, keys()) };
        assert_eq!(StoreTransport::for_store(&unchecked), StoreTransport::Plain, "the signature is all there is");
    }
}
