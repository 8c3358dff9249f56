//! Presigned requests: what their signer allowed, in whatever spelling they come.

use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::RequestChecksumCalculation;
use aws_sdk_s3::presigning::PresigningConfig;
use bytes::Bytes;
use reqwest::{Method, StatusCode};

use super::support::{BUCKET, Store};

const SECRET: &[u8] = b"secret";
const PRESIGNED_NAMES: [&str; 6] =
    ["X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Date", "X-Amz-Expires", "X-Amz-SignedHeaders", "X-Amz-Signature"];

fn for_a_minute() -> PresigningConfig {
    PresigningConfig::expires_in(Duration::from_secs(60)).unwrap()
}

/// The addresses that mean the same: each name in plain letters, with its hyphens encoded, and with every byte encoded.
fn spellings(url: &str, names: &[&str]) -> Vec<String> {
    let encode_all = |name: &str| name.bytes().map(|byte| format!("%{byte:02x}")).collect::<String>();
    let mut spellings = vec![url.to_owned()];
    for name in names {
        spellings.push(url.replace(&format!("{name}="), &format!("{}=", name.replace('-', "%2D"))));
        spellings.push(url.replace(&format!("{name}="), &format!("{}=", encode_all(name))));
    }
    let all = names
        .iter()
        .fold(url.to_owned(), |url, name| url.replace(&format!("{name}="), &format!("{}=", encode_all(name))));
    spellings.push(all);
    spellings
}

async fn store_with_secret() -> Store {
    let store = Store::start().await;
    store.objects.ensure_bucket("private").await.unwrap();
    store.objects.put_object("private", "secret.csv", "text/csv", Bytes::from_static(SECRET)).await.unwrap();
    store
}

#[tokio::test]
async fn presigned_put_cannot_copy_in_any_spelling() {
    let store = store_with_secret().await;
    let config = store.sdk().config().to_builder();
    let sdk = Client::from_conf(config.request_checksum_calculation(RequestChecksumCalculation::WhenRequired).build());
    let put = sdk.put_object().bucket(BUCKET).key("k").content_length(4).presigned(for_a_minute()).await.unwrap();
    let upload = sdk.create_multipart_upload().bucket(BUCKET).key("k").send().await.unwrap();
    let part = sdk.upload_part().bucket(BUCKET).key("k").upload_id(upload.upload_id().unwrap()).part_number(1);
    let part = part.content_length(4).presigned(for_a_minute()).await.unwrap();
    let http = crate::support::http_client();
    for url in [put.uri(), part.uri()].iter().flat_map(|url| spellings(url, &PRESIGNED_NAMES)) {
        for name in ["x-amz-copy-source", "X-Amz-Copy-Source"] {
            let copy = http.put(&url).header(name, "/private/secret.csv").body("mine").send().await.unwrap();
            assert_eq!(copy.status(), StatusCode::FORBIDDEN, "{url}");
        }
        let range = http.put(&url).header("x-amz-copy-source-range", "bytes=0-1").body("mine").send().await.unwrap();
        assert_eq!(range.status(), StatusCode::FORBIDDEN, "{url}");
        let metadata = http.put(&url).header("x-amz-meta-added", "1").body("mine").send().await.unwrap();
        assert_eq!(metadata.status(), StatusCode::FORBIDDEN, "{url}");
        let in_query = format!("{url}&x-amz-copy-source=%2Fprivate%2Fsecret.csv");
        assert_eq!(http.put(in_query).body("mine").send().await.unwrap().status(), StatusCode::FORBIDDEN, "{url}");
    }
    assert!(store.objects.head_object(BUCKET, "k").await.is_err(), "nothing was written");
    for url in spellings(put.uri(), &PRESIGNED_NAMES) {
        assert_eq!(http.put(&url).body("mine").send().await.unwrap().status(), StatusCode::OK, "{url}");
    }
}

#[tokio::test]
async fn credentials_in_the_query_are_complete_unique_and_alone() {
    let store = store_with_secret().await;
    let get = store.sdk().get_object().bucket("private").key("secret.csv").presigned(for_a_minute()).await.unwrap();
    let url = get.uri();
    let http = crate::support::http_client();
    assert_eq!(http.get(url).send().await.unwrap().bytes().await.unwrap(), SECRET);
    let status = |request: reqwest::RequestBuilder| async move { request.send().await.unwrap().status().as_u16() };
    let both = http.get(url).header("authorization", "AWS4-HMAC-SHA256 Credential=x");
    assert_eq!(status(both).await, 400);
    for name in PRESIGNED_NAMES {
        let lower = url.replace(&format!("{name}="), &format!("{}=", name.to_lowercase()));
        assert_eq!(status(http.get(lower)).await, 400, "{name}");
        for again in [name.to_owned(), name.replace('-', "%2d"), name.to_uppercase()] {
            assert_eq!(status(http.get(format!("{url}&{again}=x"))).await, 400, "{again}");
        }
    }
    for lifetime in ["0", "-1", "+60", "604801", "99999999999999999999", "", "1e3", "60s", "%31%30%30%30%30%30%30"] {
        let changed = url.replace("X-Amz-Expires=60", &format!("X-Amz-Expires={lifetime}"));
        assert_ne!(changed, url);
        let answer = http.get(changed).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 400, "{lifetime}");
        let text = answer.text().await.unwrap();
        assert!(text.contains("<Code>AuthorizationQueryParametersError</Code>"), "{lifetime}: {text}");
    }
    assert_eq!(status(http.get(url.replace("X-Amz-Expires=60", "X-Amz-Expires=604800"))).await, 403, "not signed so");
}

#[tokio::test]
async fn addresses_are_valid_for_a_second_to_a_week() {
    let store = Store::start().await;
    for seconds in [0, 7 * 24 * 3600 + 1] {
        let presigned = store.objects.presign_put(BUCKET, "k", "text/csv", 1, Duration::from_secs(seconds)).await;
        assert_eq!(presigned.unwrap_err().code().name(), "object_store_error", "{seconds}");
    }
    let url = store.objects.presign_put(BUCKET, "k", "text/csv", 1, Duration::from_secs(7 * 24 * 3600)).await.unwrap();
    let put = || crate::support::http_client().put(&url).header("content-type", "text/csv").body("x");
    assert_eq!(put().send().await.unwrap().status(), StatusCode::FORBIDDEN, "the condition is signed");
    let create = || put().header("if-none-match", "*").send();
    assert_eq!(create().await.unwrap().status(), StatusCode::OK);
    assert_eq!(create().await.unwrap().status(), StatusCode::PRECONDITION_FAILED, "an address creates one object");
}

/// The same query, however it is spelled, gets the same answer.
#[tokio::test]
async fn spelling_changes_no_answer() {
    let store = store_with_secret().await;
    store.objects.ensure_bucket("public").await.unwrap();
    store.objects.put_object("public", "page", "text/html", Bytes::from_static(b"<p>")).await.unwrap();
    let http = crate::support::http_client();
    let cases = [
        (Method::GET, "public/page", "v", "1", 200),
        (Method::GET, "public/page", "response-content-type", "text/html", 403),
        (Method::GET, "public/page", "Response-Content-Type", "text/html", 403),
        (Method::HEAD, "public/page", "response-content-disposition", "inline", 403),
        (Method::GET, "public/page", "tagging", "", 403),
        (Method::GET, "public/page", "uploadId", "x", 403),
        (Method::GET, "public/page", "versionId", "null", 200),
        (Method::GET, "public/page", "versionId", "other", 404),
        (Method::GET, "public/page", "partNumber", "1", 501),
        (Method::GET, "public/page", "x-amz-acl", "public-read", 501),
        (Method::GET, "public/page", "X-Amz-Signature", "0", 400),
        (Method::GET, "public/page", "x-amz-credential", "a", 400),
        (Method::GET, "public/page", "AWSAccessKeyId", "a", 403),
        (Method::GET, "public/page", "signature", "a", 403),
        (Method::GET, "public", "list-type", "2", 403),
        (Method::GET, "private/secret.csv", "v", "1", 403),
        (Method::PUT, "public/page", "x-amz-copy-source", "/private/secret.csv", 403),
    ];
    let encoders: [fn(usize) -> bool; 4] = [|_| false, |_| true, |at| at % 2 == 0, |at| at % 3 == 1];
    for (method, path, name, value, expected) in cases {
        for encoder in encoders {
            let encode = |text: &str| -> String {
                let byte = |(at, byte): (usize, u8)| match encoder(at) || !byte.is_ascii_alphanumeric() {
                    true => format!("%{byte:02X}"),
                    false => char::from(byte).to_string(),
                };
                text.bytes().enumerate().map(byte).collect()
            };
            let path: Vec<_> = path.split('/').map(encode).collect();
            let url = format!("{}/{}?{}={}", store.endpoint, path.join("/"), encode(name), encode(value));
            let answer = http.request(method.clone(), &url).send().await.unwrap();
            assert_eq!(answer.status().as_u16(), expected, "{method} {url}");
        }
    }
    for query in ["a=1&a=2", "a=1&%61=2", "%ff=1", "a=%FF", "a=%", "%zz=1"] {
        let answer = http.get(format!("{}/public/page?{query}", store.endpoint)).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 400, "{query}");
        assert!(answer.text().await.unwrap().contains("<Code>InvalidURI</Code>"), "{query}");
    }
}
