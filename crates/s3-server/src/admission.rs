//! Admission: reads who sends a request, and rejects before its body is read what no rule needs to look at further.

use std::sync::Arc;

use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{HeaderMap, Method, Uri};
use s3s::{S3Error, S3ErrorCode, S3Result};

use super::error::s3_error;
use super::query::DecodedQuery;

/// The longest lifetime of a presigned URL, as in S3: seven days.
const MAX_PRESIGNED_SECONDS: u64 = 7 * 24 * 60 * 60;
/// The query parameters of a presigned URL.
const PRESIGNED_PARAMETERS: [&str; 6] =
    ["X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Date", "X-Amz-Expires", "X-Amz-SignedHeaders", "X-Amz-Signature"];
/// boto3 and the AWS CLI presign with version 2 in regions that once had it, unless they are told otherwise.
const OLD_SIGNATURE_TEXT: &str = "Sign the request with AWS signature version 4. In boto3: \
    Config(signature_version=\"s3v4\"). In the AWS CLI: aws configure set default.s3.signature_version s3v4. \
    Or set the region that `afterload key s3` prints.";
const SIGNATURE_ALGORITHM: &[u8] = b"AWS4-HMAC-SHA256";

/// Where a request carries its signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AuthMethod {
    /// Nowhere.
    Keyless,
    /// In the `Authorization` header: the sender holds the key pair.
    Header,
    /// In the query: the sender holds one URL.
    Presigned,
}

/// An admitted request, as all rules see it. It travels in the extensions of the request.
#[derive(Clone, Debug)]
pub(super) struct AdmittedRequest {
    pub(super) query: Arc<DecodedQuery>,
    pub(super) auth: AuthMethod,
    /// The names of the signed headers. Only lower case counts: s3s finds no other.
    pub(super) signed_headers: Vec<String>,
}

/// Decodes the query, replaces it by its canonical form, and rejects requests that are wrong whatever they ask for.
pub(super) fn admit_request(parts: &mut Parts) -> S3Result<AdmittedRequest> {
    reject_unsupported_signing(parts)?;
    let query = DecodedQuery::parse(parts.uri.query().unwrap_or_default())?;
    let auth = detect_auth_method(&query, &parts.headers)?;
    let signed_headers = match auth {
        AuthMethod::Keyless => String::new(),
        AuthMethod::Header => {
            check_region(authorization_field(&parts.headers, "Credential="))?;
            authorization_field(&parts.headers, "SignedHeaders=").to_owned()
        }
        AuthMethod::Presigned => {
            check_presigned_request(&query, &parts.headers)?;
            check_region(query.get("X-Amz-Credential").unwrap_or_default())?;
            query.get("X-Amz-SignedHeaders").unwrap_or_default().to_owned()
        }
    };
    let mut signed_headers: Vec<String> = signed_headers.split(';').map(str::to_owned).collect();
    if auth == AuthMethod::Presigned {
        signed_headers.extend(add_query_headers(&query, &mut parts.headers)?);
    }
    parts.uri = replace_query(&parts.uri, &query)?;
    Ok(AdmittedRequest { query: Arc::new(query), auth, signed_headers })
}

/// A form upload would be read into memory before its signature is checked. Other signatures than version 4 cover
/// neither the body nor most headers.
fn reject_unsupported_signing(parts: &Parts) -> S3Result<()> {
    let is_form = |value: &HeaderValue| {
        let form = b"multipart/form-data";
        let value = value.as_bytes().trim_ascii_start();
        value.get(..form.len()).is_some_and(|start| start.eq_ignore_ascii_case(form))
    };
    if parts.method == Method::POST && parts.headers.get_all(CONTENT_TYPE).iter().any(is_form) {
        return Err(not_implemented_error("Uploads by HTML form"));
    }
    let mut authorizations = parts.headers.get_all(AUTHORIZATION).iter();
    if authorizations.next().is_some_and(|value| !value.as_bytes().starts_with(SIGNATURE_ALGORITHM)) {
        return Err(s3_error(S3ErrorCode::AccessDenied, OLD_SIGNATURE_TEXT));
    }
    match authorizations.next() {
        Some(_) => Err(s3_error(S3ErrorCode::InvalidArgument, "The request has two Authorization headers.")),
        None => Ok(()),
    }
}

/// A query with any credential makes a request presigned, whatever its spelling, so that no rule for presigned requests
/// can be evaded.
fn detect_auth_method(query: &DecodedQuery, headers: &HeaderMap) -> S3Result<AuthMethod> {
    if query.names().any(|name| ["Signature", "AWSAccessKeyId"].iter().any(|old| name.eq_ignore_ascii_case(old))) {
        return Err(s3_error(S3ErrorCode::AccessDenied, OLD_SIGNATURE_TEXT));
    }
    let presigned = query.names().any(is_presigned_parameter);
    match (presigned, headers.contains_key(AUTHORIZATION)) {
        (true, true) => {
            Err(s3_error(S3ErrorCode::InvalidArgument, "Sign the request in its query or in its header, not in both."))
        }
        (true, false) => Ok(AuthMethod::Presigned),
        (false, true) => Ok(AuthMethod::Header),
        (false, false) => Ok(AuthMethod::Keyless),
    }
}

fn is_presigned_parameter(name: &str) -> bool {
    PRESIGNED_PARAMETERS.iter().any(|known| name.eq_ignore_ascii_case(known))
}

fn check_presigned_request(query: &DecodedQuery, headers: &HeaderMap) -> S3Result<()> {
    let invalid = |message: &'static str| s3_error(S3ErrorCode::AuthorizationQueryParametersError, message);
    let exact = PRESIGNED_PARAMETERS.iter().all(|name| query.get(name).is_some());
    if !exact || query.names().filter(|name| is_presigned_parameter(name)).count() != PRESIGNED_PARAMETERS.len() {
        return Err(invalid(
            "A presigned address has X-Amz-Algorithm, X-Amz-Credential, X-Amz-Date, X-Amz-Expires, \
             X-Amz-SignedHeaders and X-Amz-Signature, in this spelling.",
        ));
    }
    // `parse` accepts a sign, which others may not.
    let expires = query.get("X-Amz-Expires").filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let expires = expires.and_then(|text| text.parse::<u64>().ok());
    if !expires.is_some_and(|seconds| (1..=MAX_PRESIGNED_SECONDS).contains(&seconds)) {
        return Err(invalid("X-Amz-Expires is a number of seconds from 1 to 604800, which is a week."));
    }
    // Its holder may write one object, and a copy would read any other.
    let mut names = headers.keys().map(HeaderName::as_str).chain(query.names());
    match names.any(is_copy_source) {
        true => Err(s3_error(S3ErrorCode::AccessDenied, "A presigned request cannot copy.")),
        false => Ok(()),
    }
}

/// Adds the S3 headers that stand in a presigned query, and returns their names. Some SDKs sign metadata, ACLs and
/// checksums there, and S3 reads them as headers. The signature covers the query.
fn add_query_headers(query: &DecodedQuery, headers: &mut HeaderMap) -> S3Result<Vec<String>> {
    let mut names = Vec::new();
    let own = |name: &str| is_presigned_parameter(name) || name.eq_ignore_ascii_case("X-Amz-Security-Token");
    for (name, value) in query.iter().filter(|(name, _)| is_s3_header(name) && !own(name)) {
        let name = name.to_ascii_lowercase();
        let header = HeaderName::from_bytes(name.as_bytes()).ok().zip(HeaderValue::from_str(value).ok());
        let Some((header, value)) = header else {
            return Err(s3_error(S3ErrorCode::InvalidArgument, "A header among the query parameters is not valid."));
        };
        if headers.insert(header, value).is_some() {
            let message = "A header is given in the query and again with the request.";
            return Err(s3_error(S3ErrorCode::InvalidArgument, message));
        }
        names.push(name);
    }
    Ok(names)
}

/// Whether the name is one of S3's own headers, in any case.
pub(super) fn is_s3_header(name: &str) -> bool {
    starts_with_ignore_case(name, "x-amz-")
}

fn starts_with_ignore_case(name: &str, prefix: &str) -> bool {
    name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

/// Whether a header or parameter belongs to `x-amz-copy-source`.
fn is_copy_source(name: &str) -> bool {
    starts_with_ignore_case(name, "x-amz-copy-source")
}

/// The value of a field of the `Authorization` header, such as `SignedHeaders=`.
fn authorization_field<'a>(headers: &'a HeaderMap, field: &str) -> &'a str {
    let header = headers.get(AUTHORIZATION).and_then(|value| std::str::from_utf8(value.as_bytes()).ok());
    let value = header.and_then(|header| header.split_once(field)).map(|(_, value)| value);
    value.and_then(|value| value.split(',').next()).unwrap_or_default().trim()
}

/// Any region is fine, but s3cmd without one signs for `US`, which is none. It reads the right one from this error.
fn check_region(credential: &str) -> S3Result<()> {
    let is_region = |text: &str| {
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    // The key comes first, and may have slashes of its own.
    match credential.rsplit('/').nth(2) {
        Some(region) if !is_region(region) => {
            let message = "The region of the signature is wrong; expecting 'us-east-1'.";
            Err(s3_error(S3ErrorCode::AuthorizationHeaderMalformed, message))
        }
        _ => Ok(()),
    }
}

fn replace_query(uri: &Uri, query: &DecodedQuery) -> S3Result<Uri> {
    let mut parts = uri.clone().into_parts();
    let path = match query.to_canonical_string() {
        query if query.is_empty() => uri.path().to_owned(),
        query => format!("{}?{query}", uri.path()),
    };
    let invalid = || s3_error(S3ErrorCode::InvalidURI, "The address is too long or not valid.");
    parts.path_and_query = Some(path.parse().map_err(|_| invalid())?);
    Uri::from_parts(parts).map_err(|_| invalid())
}

pub(super) fn not_implemented_error(what: &str) -> S3Error {
    s3_error(S3ErrorCode::NotImplemented, format!("{what}: not implemented by this store."))
}

#[cfg(test)]
mod tests {
    use hyper::Request;
    use proptest::prelude::*;

    use super::super::query::tests::encode_randomly;
    use super::*;

    const PRESIGNED: [(&str, &str); 6] = [
        ("X-Amz-Algorithm", "AWS4-HMAC-SHA256"),
        ("X-Amz-Credential", "key/20260101/us-east-1/s3/aws4_request"),
        ("X-Amz-Date", "20260101T000000Z"),
        ("X-Amz-Expires", "60"),
        ("X-Amz-SignedHeaders", "content-type;host"),
        ("X-Amz-Signature", "0"),
    ];

    fn admit(query: &str, headers: &[(&str, &str)]) -> Result<(AdmittedRequest, Parts), S3ErrorCode> {
        let request =
            headers.iter().fold(Request::post(format!("/bucket/a%20key?{query}")), |request, (name, value)| {
                request.header(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap())
            });
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        let admitted = admit_request(&mut parts).map_err(|error| error.code().clone())?;
        Ok((admitted, parts))
    }

    fn join_query(parameters: &[(&str, &str)], encode: impl Fn(&str) -> String) -> String {
        let pairs: Vec<_> =
            parameters.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value))).collect();
        pairs.join("&")
    }

    fn code_of(query: &str, headers: &[(&str, &str)]) -> Option<S3ErrorCode> {
        admit(query, headers).err()
    }

    #[test]
    fn the_rest_of_the_server_sees_the_canonical_query() {
        let (admitted, parts) = admit("pre%66ix=a+b&uploads", &[]).unwrap();
        assert_eq!(parts.uri.to_string(), "/bucket/a%20key?prefix=a%20b&uploads=");
        assert_eq!((admitted.query.get("prefix"), admitted.auth), (Some("a b"), AuthMethod::Keyless));
        assert_eq!(admit("", &[]).unwrap().1.uri.to_string(), "/bucket/a%20key");
    }

    #[test]
    fn the_signature_stands_in_one_place() {
        let signed = "AWS4-HMAC-SHA256 Credential=a/b, SignedHeaders=host;x-amz-date, Signature=0";
        let (admitted, _) = admit("a=1", &[("authorization", signed)]).unwrap();
        assert_eq!(
            (admitted.auth, &*admitted.signed_headers),
            (AuthMethod::Header, &["host".to_owned(), "x-amz-date".to_owned()][..])
        );
        let query = join_query(&PRESIGNED, str::to_owned);
        let (admitted, _) = admit(&query, &[]).unwrap();
        assert_eq!(admitted.auth, AuthMethod::Presigned);
        assert_eq!(admitted.signed_headers, ["content-type", "host"]);
        assert_eq!(code_of(&query, &[("authorization", signed)]), Some(S3ErrorCode::InvalidArgument));
        assert_eq!(
            code_of("", &[("authorization", signed), ("authorization", signed)]),
            Some(S3ErrorCode::InvalidArgument)
        );
        for other in ["AWS a:b", "Basic a", "aws4-hmac-sha256 a", "AWS4-ECDSA-P256-SHA256 a", "AWS a:\u{fc}", ""] {
            assert_eq!(code_of("", &[("authorization", other)]), Some(S3ErrorCode::AccessDenied), "{other}");
        }
    }

    #[test]
    fn signature_needs_a_region() {
        for (region, expected) in [
            ("local", None),
            ("eu-west-3", None),
            ("US", Some(S3ErrorCode::AuthorizationHeaderMalformed)),
            ("", Some(S3ErrorCode::AuthorizationHeaderMalformed)),
        ] {
            let scope = format!("key/20260101/{region}/s3/aws4_request");
            let signed = format!("AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=0");
            assert_eq!(code_of("", &[("authorization", &signed)]), expected, "{region}");
            let mut parameters = PRESIGNED;
            parameters[1].1 = &scope;
            assert_eq!(code_of(&join_query(&parameters, str::to_owned), &[]), expected, "{region}");
        }
    }

    #[test]
    fn headers_in_a_presigned_query_are_read_once() {
        let mut parameters = PRESIGNED.to_vec();
        parameters.extend([("X-Amz-Meta-A", "b"), ("x-amz-acl", "private"), ("X-Amz-Security-Token", "c")]);
        let query = join_query(&parameters, str::to_owned);
        let (admitted, parts) = admit(&query, &[]).unwrap();
        assert_eq!(parts.headers["x-amz-meta-a"], "b");
        assert_eq!(parts.headers["x-amz-acl"], "private");
        assert!(!parts.headers.contains_key("x-amz-security-token") && !parts.headers.contains_key("x-amz-date"));
        for name in ["x-amz-meta-a", "x-amz-acl"] {
            assert!(admitted.signed_headers.iter().any(|signed| signed == name), "{name}");
        }
        assert_eq!(code_of(&query, &[("x-amz-meta-a", "c")]), Some(S3ErrorCode::InvalidArgument));
        // Without a signature, nobody vouches for the query.
        assert!(!admit("x-amz-meta-a=b", &[]).unwrap().1.headers.contains_key("x-amz-meta-a"));
    }

    #[test]
    fn forms_are_rejected_in_any_spelling() {
        for form in
            ["multipart/form-data", "Multipart/Form-Data; boundary=x", "multipart/form-data; boundary=\"\u{fc}\""]
        {
            let headers = [("content-type", "text/plain"), ("content-type", form)];
            assert_eq!(code_of("", &headers), Some(S3ErrorCode::NotImplemented), "{form}");
        }
    }

    #[test]
    fn lifetimes_are_a_second_to_a_week() {
        let with_lifetime = |lifetime| {
            let mut parameters = PRESIGNED;
            parameters[3].1 = lifetime;
            code_of(&join_query(&parameters, |text| encode_randomly(text, &[2])), &[])
        };
        for valid in ["1", "604800", "0060"] {
            assert_eq!(with_lifetime(valid), None, "{valid}");
        }
        for invalid in ["0", "000", "604801", "-1", "+1", "1.5", "1e2", " 1", "", "\u{661}", "18446744073709551617"] {
            let expected = Some(S3ErrorCode::AuthorizationQueryParametersError);
            assert_eq!(with_lifetime(invalid), expected, "{invalid}");
        }
    }

    proptest! {
        /// Encodings of names and values never change which rule applies.
        #[test]
        fn rules_apply_to_every_spelling(
            choices in prop::collection::vec(any::<u8>(), 1..60),
            (added, expected) in prop::sample::select(vec![
                (("a", "b"), None),
                (("x-amz-meta-a", "b"), None),
                (("X-Amz-Security-Token", "b"), None),
                (("x-amz-copy-source", "/private/secret"), Some(S3ErrorCode::AccessDenied)),
                (("X-AMZ-Copy-Source-Range", "bytes=0-1"), Some(S3ErrorCode::AccessDenied)),
                (("Signature", "x"), Some(S3ErrorCode::AccessDenied)),
                (("awsaccesskeyid", "x"), Some(S3ErrorCode::AccessDenied)),
                (("X-Amz-Expires", "1"), Some(S3ErrorCode::InvalidURI)),
                (("x-amz-expires", "1"), Some(S3ErrorCode::AuthorizationQueryParametersError)),
                (("X-AMZ-SIGNATURE", "1"), Some(S3ErrorCode::AuthorizationQueryParametersError)),
            ]),
            at in 0..7_usize,
        ) {
            let mut parameters = PRESIGNED.to_vec();
            parameters.insert(at, added);
            let query = join_query(&parameters, |text| encode_randomly(text, &choices));
            prop_assert_eq!(code_of(&query, &[]), expected);
        }

        #[test]
        fn lost_credentials_never_make_a_request_keyless(lost in 0..6_usize, choices in prop::collection::vec(any::<u8>(), 1..60)) {
            let mut parameters = PRESIGNED.to_vec();
            parameters.remove(lost);
            let query = join_query(&parameters, |text| encode_randomly(text, &choices));
            prop_assert_eq!(code_of(&query, &[]), Some(S3ErrorCode::AuthorizationQueryParametersError));
        }
    }
}
