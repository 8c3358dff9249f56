//! Access control: one key pair, signature version 4, no ignored options.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use hyper::{HeaderMap, Method, Request};
use s3s::access::{S3Access, S3AccessContext};
use s3s::auth::{S3Auth, SecretKey};
use s3s::{S3Error, S3ErrorCode, S3Result};
use subtle::ConstantTimeEq;

use super::credentials::S3Credentials;
use super::error::s3_error;

/// Authenticates requests with one key pair.
pub(super) struct StaticAuth(pub(super) S3Credentials);

#[async_trait]
impl S3Auth for StaticAuth {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        match access_key.as_bytes().ct_eq(self.0.access_key.as_bytes()).into() {
            true => Ok(SecretKey::from(self.0.secret_key.expose_secret())),
            false => Err(s3_error(S3ErrorCode::InvalidAccessKeyId, "The access key is not the one of this store.")),
        }
    }
}

/// Rejects unsigned requests and unsupported options. Unsigned reads of objects in public buckets are allowed.
pub(super) struct AccessPolicy(pub(super) Arc<BTreeSet<String>>);

#[async_trait]
impl S3Access for AccessPolicy {
    async fn check(&self, cx: &mut S3AccessContext<'_>) -> S3Result<()> {
        if cx.credentials().is_none() && !self.is_public_read(cx) {
            return Err(s3_error(S3ErrorCode::AccessDenied, "The request must be signed."));
        }
        check_signed_headers(cx.uri().query().unwrap_or_default(), cx.headers())?;
        check_supported(cx.method(), cx.uri().query().unwrap_or_default(), cx.headers())
    }
}

impl AccessPolicy {
    /// The headers of the response must be those of the object. An unsigned request must not choose them.
    fn is_public_read(&self, cx: &S3AccessContext<'_>) -> bool {
        let reads = matches!(cx.s3_op().name(), "GetObject" | "HeadObject");
        let plain =
            query_parameters(cx.uri().query().unwrap_or_default()).all(|(name, _)| !name.starts_with("response-"));
        reads && plain && cx.s3_path().get_bucket_name().is_some_and(|bucket| self.0.contains(bucket))
    }
}

/// Rejects S3 headers that a presigned URL does not cover. Its signer did not allow them.
fn check_signed_headers(query: &str, headers: &HeaderMap) -> S3Result<()> {
    let Some((_, signed)) = query_parameters(query).find(|(name, _)| *name == "X-Amz-SignedHeaders") else {
        return Ok(());
    };
    let signed = signed.to_ascii_lowercase().replace("%3b", ";");
    let added = headers.keys().map(hyper::header::HeaderName::as_str).find(|name| {
        name.starts_with("x-amz-") && *name != "x-amz-content-sha256" && !signed.split(';').any(|known| known == *name)
    });
    match added {
        None => Ok(()),
        Some(name) => Err(s3_error(S3ErrorCode::AccessDenied, format!("The header {name} was not signed."))),
    }
}

/// Rejects requests before their body is read. A form upload would be read into memory before its signature is checked.
/// Version 2 signatures cover neither the body nor most headers.
pub(super) fn reject_before_body<B>(request: &Request<B>) -> Option<S3Error> {
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let form = header("content-type").trim_start().to_ascii_lowercase().starts_with("multipart/form-data");
    if request.method() == Method::POST && form {
        return Some(not_implemented_error("Uploads by HTML form"));
    }
    let query = request.uri().query().unwrap_or_default();
    let old_query = query_parameters(query).any(|(name, _)| name == "Signature" || name == "AWSAccessKeyId");
    if old_query || header("authorization").trim_start().starts_with("AWS ") {
        return Some(s3_error(S3ErrorCode::AccessDenied, "Sign the request with AWS signature version 4."));
    }
    None
}

/// Headers for features that the server lacks, with the values that are equal to no header.
const UNSUPPORTED_HEADERS: [(&str, &[&str]); 11] = [
    ("x-amz-acl", &["private", "bucket-owner-full-control"]),
    ("x-amz-bucket-object-lock-enabled", &["false"]),
    ("x-amz-expected-bucket-owner", &[]),
    ("x-amz-mfa", &[]),
    ("x-amz-object-lock-legal-hold", &["OFF"]),
    ("x-amz-object-lock-mode", &[]),
    ("x-amz-object-lock-retain-until-date", &[]),
    ("x-amz-storage-class", &["STANDARD"]),
    ("x-amz-tagging", &[]),
    ("x-amz-website-redirect-location", &[]),
    ("x-amz-write-offset-bytes", &[]),
];
const UNSUPPORTED_HEADER_PREFIXES: [&str; 2] = ["x-amz-grant-", "x-amz-server-side-encryption"];

fn check_supported(method: &Method, query: &str, headers: &HeaderMap) -> S3Result<()> {
    for (name, value) in headers {
        let name = name.as_str();
        let listed = UNSUPPORTED_HEADERS.iter().find(|(refused, _)| *refused == name);
        let harmless = listed.is_some_and(|(_, values)| values.iter().any(|harmless| value == harmless));
        let misplaced = name.starts_with("x-amz-copy-source") && method != Method::PUT;
        let refused =
            listed.is_some() || misplaced || UNSUPPORTED_HEADER_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
        if refused && !harmless {
            return Err(not_implemented_error(&format!("The header {name}")));
        }
    }
    for (name, value) in query_parameters(query) {
        match name {
            // Without versions, the only version of an object is called null.
            "versionId" if value != "null" => {
                return Err(s3_error(S3ErrorCode::NoSuchVersion, "This store keeps no versions."));
            }
            "partNumber" if method == Method::GET || method == Method::HEAD => {
                return Err(not_implemented_error("Reading by part number"));
            }
            _ => {}
        }
    }
    Ok(())
}

fn query_parameters(query: &str) -> impl Iterator<Item = (&str, &str)> {
    query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

fn not_implemented_error(what: &str) -> S3Error {
    s3_error(S3ErrorCode::NotImplemented, format!("{what}: not implemented by this store."))
}
