//! Access control: signature version 4 with the keys of the store, no ignored options.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use hyper::HeaderMap;
use s3s::access::{S3Access, S3AccessContext};
use s3s::auth::{S3Auth, SecretKey};
use s3s::{S3ErrorCode, S3Result};
use subtle::ConstantTimeEq;

use super::admission::{AdmittedRequest, AuthMethod};
use super::credentials::S3Credentials;
use super::error::s3_error;
use super::operations::check_operation;
use super::query::DecodedQuery;

/// Authenticates requests with the current key pair or the previous one.
pub(super) struct StaticAuth(pub(super) S3Credentials);

#[async_trait]
impl S3Auth for StaticAuth {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        let known = self.0.valid_pairs().find(|(known, _)| access_key.as_bytes().ct_eq(known.as_bytes()).into());
        match known {
            Some((_, secret_key)) => Ok(SecretKey::from(secret_key.expose_secret())),
            None => Err(s3_error(S3ErrorCode::InvalidAccessKeyId, "The access key is not the one of this store.")),
        }
    }
}

/// Rejects unsigned requests and unsupported options. Unsigned reads of objects in public buckets are allowed.
pub(super) struct AccessPolicy(pub(super) Arc<BTreeSet<String>>);

#[async_trait]
impl S3Access for AccessPolicy {
    async fn check(&self, cx: &mut S3AccessContext<'_>) -> S3Result<()> {
        let Some(admitted) = cx.extensions_mut().get::<AdmittedRequest>().cloned() else {
            return Err(S3ErrorCode::InternalError.into());
        };
        let keyless = admitted.auth == AuthMethod::Keyless;
        // s3s must have verified the signature that the rules know of.
        if keyless != cx.credentials().is_none() || (keyless && !self.is_public_read(cx, &admitted.query)) {
            return Err(s3_error(S3ErrorCode::AccessDenied, "The request must be signed."));
        }
        check_signed_headers(&admitted, cx.headers())?;
        check_operation(cx.s3_op().name(), &admitted.query, cx.headers(), admitted.auth)?;
        check_versions(&admitted.query)
    }
}

impl AccessPolicy {
    /// The headers of the response must be those of the object. An unsigned request must not choose them.
    fn is_public_read(&self, cx: &S3AccessContext<'_>, query: &DecodedQuery) -> bool {
        let reads = matches!(cx.s3_op().name(), "GetObject" | "HeadObject");
        let plain = query.names().all(|name| !name.to_ascii_lowercase().starts_with("response-"));
        reads && plain && cx.s3_path().get_bucket_name().is_some_and(|bucket| self.0.contains(bucket))
    }
}

/// Rejects S3 headers that the signature does not cover. The signer did not allow them.
fn check_signed_headers(admitted: &AdmittedRequest, headers: &HeaderMap) -> S3Result<()> {
    // These two are part of what is signed, also where they are not listed.
    let covered: &[&str] = match admitted.auth {
        AuthMethod::Keyless => return Ok(()),
        AuthMethod::Header => &["x-amz-content-sha256", "x-amz-date"],
        AuthMethod::Presigned => &["x-amz-content-sha256"],
    };
    let added = headers.keys().map(hyper::header::HeaderName::as_str).find(|name| {
        name.starts_with("x-amz-")
            && !covered.contains(name)
            && !admitted.signed_headers.iter().any(|signed| signed == name)
    });
    match added {
        None => Ok(()),
        Some(name) => Err(s3_error(S3ErrorCode::AccessDenied, format!("The header {name} was not signed."))),
    }
}

fn check_versions(query: &DecodedQuery) -> S3Result<()> {
    match query.get("versionId") {
        // Without versions, the only version of an object is called null.
        Some(version) if version != "null" => {
            Err(s3_error(S3ErrorCode::NoSuchVersion, "This store keeps no versions."))
        }
        _ => Ok(()),
    }
}
