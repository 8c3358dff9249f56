//! Adds a message to every error response. s3s often sends only a code.

use s3s::{Body, HttpResponse};

use super::error::INTERNAL_ERROR_TEXT;

const ERROR_TEXTS: &[(&str, &str)] = &[
    ("AccessDenied", "Access is denied."),
    ("AuthorizationQueryParametersError", "The signature in the query is not complete."),
    ("BadDigest", "The body does not have the checksum that came with it."),
    ("BucketAlreadyOwnedByYou", "The bucket is there already."),
    ("BucketNotEmpty", "The bucket is not empty."),
    ("EntityTooLarge", "The object is larger than this store takes."),
    ("EntityTooSmall", "Every part but the last has at least 5 MiB."),
    ("IncompleteBody", "The body ended early."),
    ("InternalError", INTERNAL_ERROR_TEXT),
    ("InvalidArgument", "An argument is not valid."),
    ("InvalidBucketName", "A bucket is named by 3 to 63 lower-case letters, digits, hyphens and dots."),
    ("InvalidDigest", "The checksum cannot be read."),
    ("InvalidPart", "A part is missing or is another one."),
    ("InvalidPartOrder", "The parts are not listed in the order of their numbers."),
    ("InvalidRange", "The range lies outside of the object."),
    ("InvalidRequest", "The request is not valid."),
    ("InvalidURI", "The path names neither a bucket nor an object."),
    ("KeyTooLongError", "A key has at most 1,024 bytes."),
    ("MalformedXML", "The body is not the XML that was expected."),
    ("MetadataTooLarge", "The metadata has more than 2 KiB."),
    ("MethodNotAllowed", "The method is not allowed here."),
    ("NoSuchBucket", "There is no such bucket."),
    ("NoSuchKey", "There is no such object."),
    ("NoSuchUpload", "There is no such upload: it was completed or given up."),
    ("NoSuchVersion", "There is no such version."),
    ("NotImplemented", "This is not implemented by this store."),
    ("PreconditionFailed", "A condition of the request does not hold."),
    ("RequestTimeout", "The body did not arrive in time."),
    ("SignatureDoesNotMatch", "The signature is not the one of this request; check the secret key."),
];
/// The region of the store. Signatures for other regions are valid, too.
pub(super) const STORE_REGION: &str = "us-east-1";
const DEFAULT_ERROR_TEXT: &str = "The store refuses the request.";

/// Adds a message to an error response that has none. s3s creates many errors before our code sees the request, so only
/// the response covers all of them.
pub(super) fn add_error_text(response: HttpResponse) -> HttpResponse {
    let refused = response.status().is_client_error() || response.status().is_server_error();
    let text = response.body().bytes().filter(|_| refused);
    let completed = text.and_then(|bytes| {
        let xml = std::str::from_utf8(&bytes).ok()?;
        let explained = insert_error_text(xml);
        insert_region(explained.as_deref().unwrap_or(xml)).or(explained)
    });
    let Some(text) = completed else { return response };
    let (mut parts, _) = response.into_parts();
    parts.headers.remove(hyper::header::CONTENT_LENGTH);
    HttpResponse::from_parts(parts, Body::from(text))
}

/// The code of an error response.
pub(super) fn error_code(xml: &str) -> Option<&str> {
    Some(xml.split_once("<Code>")?.1.split_once("</Code>")?.0)
}

/// Whether the fault behind an error response is in the log already, with its reason.
pub(super) fn is_logged_fault(xml: &str) -> bool {
    xml.contains(&format!("<Message>{INTERNAL_ERROR_TEXT}</Message>"))
}

/// Returns `None` if the response needs no message.
fn insert_error_text(xml: &str) -> Option<String> {
    let (before, rest) = xml.split_once("<Code>")?;
    let (code, after) = rest.split_once("</Code>")?;
    if xml.contains("<Message>") {
        return None;
    }
    let sentence =
        ERROR_TEXTS.iter().find(|(known, _)| *known == code).map_or(DEFAULT_ERROR_TEXT, |(_, sentence)| sentence);
    Some(format!("{before}<Code>{code}</Code><Message>{sentence}</Message>{after}"))
}

/// Clients without a region, such as s3cmd, read it here and try again.
fn insert_region(xml: &str) -> Option<String> {
    let malformed = error_code(xml)? == "AuthorizationHeaderMalformed";
    malformed.then(|| xml.replacen("</Error>", &format!("<Region>{STORE_REGION}</Region></Error>"), 1))
}

#[cfg(test)]
mod tests {
    use super::{insert_error_text, insert_region};

    #[test]
    fn wrong_region_is_answered_with_the_right_one() {
        let told = insert_region("<Error><Code>AuthorizationHeaderMalformed</Code><Message>a</Message></Error>");
        assert!(told.unwrap().ends_with("<Message>a</Message><Region>us-east-1</Region></Error>"));
        assert_eq!(insert_region("<Error><Code>AccessDenied</Code></Error>"), None);
    }

    #[test]
    fn message_is_added_if_missing() {
        let told = insert_error_text("<Error><Code>NoSuchBucket</Code></Error>").unwrap();
        assert_eq!(told, "<Error><Code>NoSuchBucket</Code><Message>There is no such bucket.</Message></Error>");
        assert!(
            insert_error_text("<Error><Code>New</Code></Error>").unwrap().contains("The store refuses the request.")
        );
        assert_eq!(insert_error_text("<Error><Code>NoSuchKey</Code><Message>Ours.</Message></Error>"), None);
        assert_eq!(insert_error_text(""), None);
    }
}
