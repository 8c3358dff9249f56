//! The requests that the endpoint rejects, sent as raw bytes where no client would send them.

use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;

use super::support::{BUCKET, Store, all, files, sdk};

#[tokio::test]
async fn keys_are_opaque() {
    let store = Store::start().await;
    let long = "ü".repeat(512);
    let keys = [
        "a//b",
        "//",
        "/",
        "../x",
        "../../../../etc/passwd",
        "./.",
        "a/../b",
        "%2B",
        "%2F..%2F",
        "+",
        "+ +",
        " a  b ",
        "a+b c%20d",
        "new\nline",
        "x\r\n\ty",
        "\u{1}\u{1f}",
        "?a=b&c#d",
        "<&>\"'",
        "&lt;",
        "日本語/😀",
        "CON",
        "\\..\\x",
        ".",
        "..",
        "~",
        &long,
    ];
    for (number, key) in keys.iter().enumerate() {
        let bytes = Bytes::from(number.to_string());
        store.objects.put_object(BUCKET, key, "text/plain", bytes.clone()).await.unwrap();
        let stored = store.objects.head_object(BUCKET, key).await.unwrap();
        let body = store.objects.open_object(&stored.into_file(None, String::new(), None), 0).await.unwrap();
        assert_eq!(all(body).await, bytes, "{key:?}");
    }
    let events = store.embedded.events_after(0, 100).await.unwrap();
    let seen: Vec<&str> = events.iter().map(|event| &*event.key).collect();
    assert_eq!(seen, keys, "every key arrived as it was sent");
    // Every object is stored in a file named by an id, and nothing else was created in the folder.
    assert_eq!(store.bodies().len(), keys.len());
    let top: Vec<_> = files(store.dir.path()).iter().map(|path| path.file_name().unwrap().to_owned()).collect();
    assert_eq!(top.len(), 2, "{top:?}");
    for key in keys {
        store.objects.delete_object(BUCKET, key).await.unwrap();
    }
    store.until_bodies(0).await;

    let too_long = store.sdk().put_object().bucket(BUCKET).key(format!("{long}x")).send().await.unwrap_err();
    assert_eq!(too_long.code(), Some("KeyTooLongError"));
    store.objects.put_object(BUCKET, "nul\0key", "text/plain", Bytes::new()).await.unwrap();
    store.objects.head_object(BUCKET, "nul\0key").await.unwrap();
    assert_eq!(store.objects.head_object(BUCKET, "nul").await.unwrap_err().code().name(), "object_not_found");
}

#[tokio::test]
async fn unsigned_and_forged_requests_are_rejected() {
    let store = Store::start().await;
    let (access, secret) = (&*store.credentials.access_key, store.credentials.secret_key.expose_secret());
    let cases = [(access, "wrong", "SignatureDoesNotMatch"), ("AKIAWRONG", secret, "InvalidAccessKeyId")];
    for (access, secret, expected) in cases {
        let error = sdk(&store.endpoint, access, secret).list_buckets().send().await.unwrap_err();
        assert_eq!(error.raw_response().unwrap().status().as_u16(), 403);
        assert_eq!(error.code(), Some(expected));
    }
    let http = crate::support::http_client();
    for (method, path) in
        [("GET", ""), ("GET", "uploads"), ("GET", "uploads/k"), ("PUT", "uploads/k"), ("DELETE", "uploads/k")]
    {
        let request = http.request(method.parse().unwrap(), format!("{}/{path}", store.endpoint));
        let answer = request.body("x").send().await.unwrap();
        assert_eq!(answer.status(), 403, "{method} {path}");
        assert!(answer.text().await.unwrap().contains("<Code>AccessDenied</Code>"));
    }
    let old = http.get(format!("{}/uploads", store.endpoint)).header("authorization", format!("AWS {access}:c2ln"));
    assert_eq!(old.send().await.unwrap().status(), 403);
    let query = format!("{}/uploads/k?AWSAccessKeyId={access}&Signature=x&Expires=9999999999", store.endpoint);
    assert_eq!(http.get(query).send().await.unwrap().status(), 403);
    assert!(store.bodies().is_empty());
}

#[tokio::test]
async fn every_error_has_a_body() {
    let store = Store::start().await;
    let sdk = store.sdk();
    store.objects.put_object(BUCKET, "k", "", Bytes::from_static(b"x")).await.unwrap();
    let stranger = super::support::sdk(&store.endpoint, &store.credentials.access_key, "wrong");
    let got = [
        ("NoSuchBucket", sdk.get_object().bucket("nobucket").key("k").send().await.unwrap_err()),
        ("NoSuchKey", sdk.get_object().bucket(BUCKET).key("none").send().await.unwrap_err()),
        ("InvalidRange", sdk.get_object().bucket(BUCKET).key("k").range("bytes=9-").send().await.unwrap_err()),
        ("InvalidBucketName", sdk.get_object().bucket("UPPER").key("k").send().await.unwrap_err()),
        ("KeyTooLongError", sdk.get_object().bucket(BUCKET).key("k".repeat(1025)).send().await.unwrap_err()),
        ("SignatureDoesNotMatch", stranger.get_object().bucket(BUCKET).key("k").send().await.unwrap_err()),
    ];
    for (code, error) in got {
        assert_eq!(error.code(), Some(code));
        let message = error.message().unwrap_or_default();
        assert!(message.ends_with('.') && message.len() > 20, "{code}: `{message}`");
    }
    let full = sdk.delete_bucket().bucket(BUCKET).send().await.unwrap_err();
    assert_eq!((full.code(), full.message()), (Some("BucketNotEmpty"), Some("The bucket is not empty.")));
}

/// A response that is sent before the body is read must still reach the client.
#[tokio::test(flavor = "multi_thread")]
async fn errors_reach_clients_that_are_still_sending() {
    let store = Store::start().await;
    let wrong = sdk(&store.endpoint, &store.credentials.access_key, "wrong");
    for _ in 0..5 {
        let put = wrong.put_object().bucket(BUCKET).key("k").body(ByteStream::from(vec![0; 8 << 20]));
        assert_eq!(put.send().await.unwrap_err().code(), Some("SignatureDoesNotMatch"));
    }
    let put = store.objects.put_object("nobucket", "k", "", Bytes::from(vec![0; 8 << 20])).await;
    assert_eq!(put.unwrap_err().code().name(), "object_not_found");
}

#[tokio::test]
async fn unsupported_features_are_rejected_not_ignored() {
    let store = Store::start().await;
    let sdk = store.sdk();
    let put = || sdk.put_object().bucket(BUCKET).key("k").body(ByteStream::from_static(b"x"));
    let refused = [
        put().acl(aws_sdk_s3::types::ObjectCannedAcl::PublicRead).send().await.unwrap_err(),
        put().tagging("a=b").send().await.unwrap_err(),
        put().storage_class(aws_sdk_s3::types::StorageClass::Glacier).send().await.unwrap_err(),
        put().server_side_encryption(aws_sdk_s3::types::ServerSideEncryption::AwsKms).send().await.unwrap_err(),
    ];
    for error in refused {
        assert_eq!(error.code(), Some("NotImplemented"));
    }
    let versions = sdk.get_bucket_versioning().bucket(BUCKET).send().await.unwrap_err();
    assert_eq!(versions.code(), Some("NotImplemented"));
    // A form upload is read into memory before its signature is verified, so it is rejected at once.
    let form = crate::support::http_client().post(format!("{}/uploads", store.endpoint));
    let form = form.header("content-type", "multipart/form-data; boundary=x").body("--x--").send().await.unwrap();
    assert_eq!(form.status(), 501);
    assert!(store.bodies().is_empty());
}

#[tokio::test]
async fn corrupt_bodies_are_rejected() {
    let store = Store::start().await;
    let sdk = store.sdk();
    let put = || sdk.put_object().bucket(BUCKET).key("k").body(ByteStream::from_static(b"test"));
    let wrong = [
        put().content_md5("AAAAAAAAAAAAAAAAAAAAAA==").send().await.unwrap_err(),
        put().checksum_crc32("AAAAAA==").send().await.unwrap_err(),
        put().checksum_crc32_c("AAAAAA==").send().await.unwrap_err(),
        put().checksum_crc64_nvme("AAAAAAAAAAA=").send().await.unwrap_err(),
        put().checksum_sha1("AAAAAAAAAAAAAAAAAAAAAAAAAAA=").send().await.unwrap_err(),
        put().checksum_sha256("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=").send().await.unwrap_err(),
    ];
    for error in wrong {
        assert_eq!(error.code(), Some("BadDigest"), "{error:?}");
    }
    let part = sdk.create_multipart_upload().bucket(BUCKET).key("k").send().await.unwrap();
    let part = sdk.upload_part().bucket(BUCKET).key("k").upload_id(part.upload_id().unwrap()).part_number(1);
    let part = part.checksum_crc32("AAAAAA==").body(ByteStream::from_static(b"test")).send().await.unwrap_err();
    assert_eq!(part.code(), Some("BadDigest"));
    assert!(store.bodies().is_empty());
    let right = put().checksum_sha256("n4bQgYhMfWWaL+qgxVrQFaO/TxsrC4Is0V1sFbDwCgg=").send().await.unwrap();
    assert_eq!(right.checksum_sha256(), Some("n4bQgYhMfWWaL+qgxVrQFaO/TxsrC4Is0V1sFbDwCgg="));
}

#[tokio::test]
async fn bucket_names_are_validated() {
    let store = Store::start().await;
    for name in ["ab", "Upper", "under_score", "192.168.0.1", "-dash", "dash-", "two..dots", "..", "xn--puny"] {
        let error = store.sdk().create_bucket().bucket(name).send().await;
        assert!(error.is_err(), "{name}");
    }
    store.sdk().create_bucket().bucket("a.good-name.1").send().await.unwrap();
    assert_eq!(files(store.dir.path()).len(), 2);
}
