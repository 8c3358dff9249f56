//! The keys of the store: two pairs at once while they are rotated.

use std::time::Duration;

use afterload::config::ObjectsConfig;
use afterload_core::clock::Clock;
use afterload_object_store::ObjectStore;
use afterload_s3_server::{EmbeddedStore, S3Credentials, forget_previous_credentials, rotate_credentials};
use aws_sdk_s3::error::ProvideErrorMetadata;
use bytes::Bytes;

use super::support::{BUCKET, Store, sdk, serve};

async fn refusal(endpoint: &str, credentials: &S3Credentials) -> Option<String> {
    let client = sdk(endpoint, &credentials.access_key, credentials.secret_key.expose_secret());
    let error = client.list_buckets().send().await.err()?;
    Some(error.code().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn rotated_keys_are_valid_beside_the_new_ones() {
    let store = Store::start().await;
    let first = store.credentials.clone();
    let old_url = store.objects.presign_put(BUCKET, "old", "text/csv", 1, Duration::from_secs(600)).await.unwrap();
    let second = rotate_credentials(store.dir.path()).unwrap();
    let restart = async |credentials: &S3Credentials| {
        let again =
            EmbeddedStore::open(&store.dir.path().join("objects"), credentials.clone(), Clock::system()).unwrap();
        let endpoint = serve(&again, &store.stop).await;
        let access = again.access(endpoint.clone());
        let objects = ObjectStore::connect(&ObjectsConfig::default(), Some(access)).await.unwrap();
        (endpoint, objects)
    };
    let (endpoint, objects) = restart(&second).await;
    assert_eq!(refusal(&endpoint, &first).await, None, "the old key");
    assert_eq!(refusal(&endpoint, &second).await, None, "the new key");
    let new_url = objects.presign_put(BUCKET, "new", "text/csv", 1, Duration::from_secs(600)).await.unwrap();
    assert!(new_url.contains(&second.access_key) && !new_url.contains(&first.access_key), "{new_url}");
    objects.put_object(BUCKET, "k", "text/plain", Bytes::from_static(b"x")).await.unwrap();

    let third = rotate_credentials(store.dir.path()).unwrap();
    let (endpoint, _) = restart(&third).await;
    assert_eq!(refusal(&endpoint, &first).await.as_deref(), Some("InvalidAccessKeyId"));
    assert_eq!((refusal(&endpoint, &second).await, refusal(&endpoint, &third).await), (None, None));
    let mixed = S3Credentials { secret_key: second.secret_key.clone(), ..third.clone() };
    assert_eq!(refusal(&endpoint, &mixed).await.as_deref(), Some("SignatureDoesNotMatch"));
    let put = crate::support::http_client()
        .put(old_url.replace(&store.endpoint, &endpoint))
        .header("content-type", "text/csv");
    let answer = put.body("x").send().await.unwrap().text().await.unwrap();
    assert!(answer.contains("<Code>InvalidAccessKeyId</Code>"), "addresses of an ended key end with it: {answer}");

    let alone = forget_previous_credentials(store.dir.path()).unwrap();
    let (endpoint, _) = restart(&alone).await;
    assert_eq!(refusal(&endpoint, &second).await.as_deref(), Some("InvalidAccessKeyId"));
    assert_eq!(refusal(&endpoint, &alone).await, None);
}
