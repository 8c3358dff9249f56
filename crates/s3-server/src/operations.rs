//! The supported operations, with the query parameters and headers that each understands. Every other parameter and
//! S3 header asks for a feature that the store lacks. Such a request is refused: S3 names many operations by a
//! parameter alone, so a dropped one turns the request into another operation.

use hyper::HeaderMap;
use s3s::{S3Error, S3Result};

use super::admission::{AuthMethod, is_s3_header, not_implemented_error};
use super::query::DecodedQuery;

/// An operation, under the name that s3s gives it.
struct Operation {
    name: &'static str,
    /// The names of its parameters.
    parameters: &'static [&'static str],
    /// Its headers that begin with `x-amz-`.
    headers: &'static [&'static str],
}

/// The parameters of signatures and SDKs, which every operation takes.
const COMMON_PARAMETERS: [&str; 8] = [
    "X-Amz-Algorithm",
    "X-Amz-Credential",
    "X-Amz-Date",
    "X-Amz-Expires",
    "X-Amz-Security-Token",
    "X-Amz-SignedHeaders",
    "X-Amz-Signature",
    "x-id",
];
/// The headers of signatures, bodies and SDKs, which every operation takes.
const COMMON_HEADERS: [&str; 15] = [
    "x-amz-api-version",
    "x-amz-cf-id",
    "x-amz-checksum-crc32",
    "x-amz-checksum-crc32c",
    "x-amz-checksum-crc64nvme",
    "x-amz-checksum-sha1",
    "x-amz-checksum-sha256",
    "x-amz-content-sha256",
    "x-amz-date",
    "x-amz-decoded-content-length",
    "x-amz-request-payer",
    "x-amz-sdk-checksum-algorithm",
    "x-amz-security-token",
    "x-amz-trailer",
    "x-amz-user-agent",
];
const METADATA_PREFIX: &str = "x-amz-meta-";

const READ_PARAMETERS: &[&str] = &[
    "response-cache-control",
    "response-content-disposition",
    "response-content-encoding",
    "response-content-language",
    "response-content-type",
    "response-expires",
    "versionId",
];
const PART_PARAMETERS: &[&str] = &["partNumber", "uploadId"];
const READ_HEADERS: &[&str] = &["x-amz-checksum-mode"];
const LIST_HEADERS: &[&str] = &["x-amz-optional-object-attributes"];
const DELETE_HEADERS: &[&str] = &["x-amz-bypass-governance-retention"];
const PUT_HEADERS: &[&str] = &[
    METADATA_PREFIX,
    "x-amz-acl",
    "x-amz-object-lock-legal-hold",
    "x-amz-server-side-encryption",
    "x-amz-storage-class",
    "x-amz-tagging",
];
const CREATE_UPLOAD_HEADERS: &[&str] = &[
    METADATA_PREFIX,
    "x-amz-acl",
    "x-amz-checksum-algorithm",
    "x-amz-checksum-type",
    "x-amz-object-lock-legal-hold",
    "x-amz-server-side-encryption",
    "x-amz-storage-class",
    "x-amz-tagging",
];
const COPY_HEADERS: &[&str] = &[
    METADATA_PREFIX,
    "x-amz-acl",
    "x-amz-checksum-algorithm",
    "x-amz-copy-source",
    "x-amz-copy-source-if-match",
    "x-amz-copy-source-if-modified-since",
    "x-amz-copy-source-if-none-match",
    "x-amz-copy-source-if-unmodified-since",
    "x-amz-metadata-directive",
    "x-amz-object-annotation-directive",
    "x-amz-object-lock-legal-hold",
    "x-amz-server-side-encryption",
    "x-amz-storage-class",
    "x-amz-tagging",
    "x-amz-tagging-directive",
];
const COPY_PART_HEADERS: &[&str] = &[
    "x-amz-copy-source",
    "x-amz-copy-source-if-match",
    "x-amz-copy-source-if-modified-since",
    "x-amz-copy-source-if-none-match",
    "x-amz-copy-source-if-unmodified-since",
    "x-amz-copy-source-range",
];
const CREATE_BUCKET_HEADERS: &[&str] =
    &["x-amz-acl", "x-amz-bucket-namespace", "x-amz-bucket-object-lock-enabled", "x-amz-object-ownership"];

const fn define_operation(
    name: &'static str,
    parameters: &'static [&'static str],
    headers: &'static [&'static str],
) -> Operation {
    Operation { name, parameters, headers }
}

/// The operations of `api`.
const OPERATIONS: [Operation; 21] = [
    define_operation("AbortMultipartUpload", &["uploadId"], &[]),
    define_operation("CompleteMultipartUpload", &["uploadId"], &["x-amz-checksum-type", "x-amz-mp-object-size"]),
    define_operation("CopyObject", &[], COPY_HEADERS),
    define_operation("CreateBucket", &[], CREATE_BUCKET_HEADERS),
    define_operation("CreateMultipartUpload", &["uploads"], CREATE_UPLOAD_HEADERS),
    define_operation("DeleteBucket", &[], &[]),
    define_operation("DeleteObject", &["versionId"], DELETE_HEADERS),
    define_operation("DeleteObjects", &["delete"], DELETE_HEADERS),
    define_operation("GetBucketLocation", &["location"], &[]),
    define_operation("GetObject", READ_PARAMETERS, READ_HEADERS),
    define_operation("GetObjectTagging", &["tagging", "versionId"], &[]),
    define_operation("HeadBucket", &[], &[]),
    define_operation("HeadObject", READ_PARAMETERS, READ_HEADERS),
    define_operation("ListBuckets", &["continuation-token", "max-buckets", "prefix"], &[]),
    define_operation(
        "ListMultipartUploads",
        &["delimiter", "encoding-type", "key-marker", "max-uploads", "prefix", "upload-id-marker", "uploads"],
        &[],
    ),
    define_operation("ListObjects", &["delimiter", "encoding-type", "marker", "max-keys", "prefix"], LIST_HEADERS),
    define_operation(
        "ListObjectsV2",
        &[
            "continuation-token",
            "delimiter",
            "encoding-type",
            "fetch-owner",
            "list-type",
            "max-keys",
            "prefix",
            "start-after",
        ],
        LIST_HEADERS,
    ),
    define_operation("ListParts", &["max-parts", "part-number-marker", "uploadId"], &[]),
    define_operation("PutObject", &[], PUT_HEADERS),
    define_operation("UploadPart", PART_PARAMETERS, &[]),
    define_operation("UploadPartCopy", PART_PARAMETERS, COPY_PART_HEADERS),
];

/// Headers for features that the store lacks, with the values that mean the same as no header. Libraries send many of
/// them by default.
const HARMLESS_VALUES: [(&str, &[&str]); 9] = [
    ("x-amz-acl", &["private", "bucket-owner-full-control"]),
    ("x-amz-bucket-namespace", &["global"]),
    ("x-amz-bucket-object-lock-enabled", &["false"]),
    ("x-amz-object-lock-legal-hold", &["OFF"]),
    ("x-amz-object-ownership", &["BucketOwnerEnforced"]),
    ("x-amz-server-side-encryption", &["AES256"]),
    ("x-amz-storage-class", &["STANDARD"]),
    ("x-amz-tagging", &[""]),
    ("x-amz-tagging-directive", &["COPY", "REPLACE"]),
];

/// Refuses a request whose operation, parameters or headers the store does not implement. Keyless requests read public
/// pages, whose addresses may have parameters of their own, such as `?v=2`. The headers in a presigned query are among
/// `headers` too.
pub(super) fn check_operation(name: &str, query: &DecodedQuery, headers: &HeaderMap, auth: AuthMethod) -> S3Result<()> {
    let Some(operation) = OPERATIONS.iter().find(|operation| operation.name == name) else {
        return Err(not_implemented_error(&format!("The operation {name}")));
    };
    for (parameter, value) in query.iter() {
        let known = COMMON_PARAMETERS.iter().chain(operation.parameters).any(|known| *known == parameter);
        let allowed = match auth {
            AuthMethod::Keyless => is_page_parameter(parameter, value),
            AuthMethod::Presigned => is_s3_header(parameter),
            AuthMethod::Header => false,
        };
        if !known && !allowed {
            return Err(unknown_parameter_error(operation, parameter));
        }
    }
    for (header, value) in headers.iter().filter(|(header, _)| header.as_str().starts_with("x-amz-")) {
        check_header(operation, header.as_str(), value.as_bytes())?;
    }
    Ok(())
}

fn check_header(operation: &Operation, header: &str, value: &[u8]) -> S3Result<()> {
    let mut known = COMMON_HEADERS.iter().chain(operation.headers);
    let is_metadata = header.starts_with(METADATA_PREFIX) && operation.headers.contains(&METADATA_PREFIX);
    if !is_metadata && !known.any(|known| *known == header) {
        return Err(not_implemented_error(&format!("The header {header} of {}", operation.name)));
    }
    match HARMLESS_VALUES.iter().find(|(name, _)| *name == header) {
        Some((_, harmless)) if !harmless.iter().any(|harmless| harmless.as_bytes() == value) => {
            let harmless: Vec<_> = harmless.iter().map(|value| format!("`{value}`")).collect();
            let hint = format!("The header {header} (leave it out, or send {})", harmless.join(" or "));
            Err(not_implemented_error(&hint))
        }
        _ => Ok(()),
    }
}

/// A parameter of the page, and not of S3: it has a value, and S3's own prefix is not on it. S3 names operations by
/// parameters without a value.
fn is_page_parameter(name: &str, value: &str) -> bool {
    !value.is_empty() && !name.eq_ignore_ascii_case("partNumber") && !is_s3_header(name)
}

fn unknown_parameter_error(operation: &Operation, parameter: &str) -> S3Error {
    let shown: String = parameter.chars().filter(|c| !c.is_control()).take(100).collect();
    not_implemented_error(&format!("The query parameter `{shown}` of {}", operation.name))
}

#[cfg(test)]
mod tests {
    use hyper::header::{HeaderName, HeaderValue};

    use super::*;

    fn is_supported(name: &str, query: &str, headers: &[(&'static str, &'static str)], auth: AuthMethod) -> bool {
        let query = DecodedQuery::parse(query).unwrap();
        let headers = headers
            .iter()
            .map(|&(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect();
        check_operation(name, &query, &headers, auth).is_ok()
    }

    #[test]
    fn unknown_subresources_are_not_implemented() {
        for (name, query) in [
            ("PutObject", "encryption"),
            ("PutObject", "annotation=&annotationName=a"),
            ("PutObject", "renameObject"),
            ("PutObject", "uploadId=a"),
            ("DeleteBucket", "metadataConfiguration"),
            ("DeleteObject", "annotation"),
            ("ListObjects", "abac"),
            ("ListObjects", "future"),
            ("GetObject", "partNumber=1"),
            ("PutObjectAcl", "acl"),
            ("ListBuckets", "max-directory-buckets=1"),
        ] {
            assert!(!is_supported(name, query, &[], AuthMethod::Header), "{name} {query}");
        }
        for (name, query) in [
            ("PutObject", "x-id=PutObject&X-Amz-Signature=0"),
            ("ListObjectsV2", "list-type=2&prefix=a&encoding-type=url"),
            ("GetObject", "versionId=null&response-expires=0"),
            ("UploadPart", "partNumber=1&uploadId=a"),
        ] {
            assert!(is_supported(name, query, &[], AuthMethod::Header), "{name} {query}");
        }
    }

    #[test]
    fn public_pages_may_have_parameters_of_their_own() {
        for (query, expected) in [
            ("v=1", true),
            ("utm_source=a", true),
            ("annotation", false),
            ("partNumber=1", false),
            ("x-amz-b=1", false),
        ] {
            assert_eq!(is_supported("GetObject", query, &[], AuthMethod::Keyless), expected, "{query}");
            assert!(!is_supported("GetObject", query, &[], AuthMethod::Header), "{query}");
        }
    }

    #[test]
    fn headers_without_effect_are_accepted_and_others_are_not() {
        for (name, header, expected) in [
            ("PutObject", ("x-amz-acl", "private"), true),
            ("PutObject", ("x-amz-acl", "bucket-owner-full-control"), true),
            ("PutObject", ("x-amz-acl", "public-read"), false),
            ("PutObject", ("x-amz-storage-class", "STANDARD"), true),
            ("PutObject", ("x-amz-storage-class", "GLACIER"), false),
            ("PutObject", ("x-amz-server-side-encryption", "AES256"), true),
            ("PutObject", ("x-amz-server-side-encryption", "aws:kms"), false),
            ("PutObject", ("x-amz-server-side-encryption-customer-key", "a"), false),
            ("PutObject", ("x-amz-tagging", ""), true),
            ("PutObject", ("x-amz-tagging", "a=b"), false),
            ("PutObject", ("x-amz-meta-a", "b"), true),
            ("PutObject", ("x-amz-rename-source", "/b/k"), false),
            ("PutObject", ("x-amz-write-offset-bytes", "3"), false),
            ("PutObject", ("x-amz-copy-source-range", "bytes=0-1"), false),
            ("PutObject", ("x-amz-checksum-xxhash64", "a"), false),
            ("DeleteObject", ("x-amz-if-match-size", "3"), false),
            ("GetObject", ("x-amz-copy-source", "/b/k"), false),
            ("GetObject", ("content-type", "a"), true),
        ] {
            assert_eq!(is_supported(name, "", &[header], AuthMethod::Header), expected, "{name} {header:?}");
        }
    }
}
