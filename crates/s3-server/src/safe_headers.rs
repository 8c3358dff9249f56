//! Response headers that keep browsers from running what somebody has uploaded, on the origin of the store.

use hyper::header::{
    CONTENT_DISPOSITION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderMap, HeaderValue, X_CONTENT_TYPE_OPTIONS,
};
use s3s::HttpResponse;

use super::admission::AuthMethod;

/// No script, no form, no origin of its own, nothing loaded. Pages may still embed the object.
const SANDBOX_POLICY: HeaderValue = HeaderValue::from_static("sandbox; default-src 'none'");
/// Types that browsers show without running anything.
const PASSIVE_TYPES: [&str; 4] = ["audio", "font", "image", "video"];

/// Adds the headers for requests that a browser may send: those without the `Authorization` header. The signer of a
/// presigned URL may choose how its object is shown; anybody can write the URL of a keyless request.
pub(super) fn add_safe_headers(auth: AuthMethod, response: &mut HttpResponse) {
    let shows_object = response.status().is_success();
    let headers = response.headers_mut();
    if auth != AuthMethod::Header {
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    }
    if auth == AuthMethod::Keyless {
        headers.insert(CONTENT_SECURITY_POLICY, SANDBOX_POLICY);
        if shows_object && !has_passive_type(headers) && !is_attachment(headers) {
            headers.insert(CONTENT_DISPOSITION, HeaderValue::from_static("attachment"));
        }
    }
}

/// SVG and other XML (`+xml`) can hold scripts. Browsers take the last type of a list, so a comma is never safe.
fn has_passive_type(headers: &HeaderMap) -> bool {
    let text = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let Some((kind, subtype)) = essence.split_once('/') else { return false };
    let is_plain =
        !subtype.is_empty() && subtype.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte));
    PASSIVE_TYPES.contains(&kind) && is_plain && !subtype.starts_with("svg") && !text.contains(',')
}

/// Whether the object is to be saved anyway, so that its own file name can stay.
fn is_attachment(headers: &HeaderMap) -> bool {
    let disposition = headers.get(CONTENT_DISPOSITION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    disposition.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("attachment"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disposition(content_type: &'static str, stored: Option<&'static str>) -> Option<String> {
        let mut response = HttpResponse::new(s3s::Body::empty());
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        let stored = stored.map(|stored| (CONTENT_DISPOSITION, HeaderValue::from_static(stored)));
        response.headers_mut().extend(stored);
        add_safe_headers(AuthMethod::Keyless, &mut response);
        Some(response.headers().get(CONTENT_DISPOSITION)?.to_str().unwrap().to_owned())
    }

    #[test]
    fn only_passive_types_are_shown() {
        for shown in [
            "image/png",
            "Image/JPEG",
            "audio/mpeg",
            "video/mp4; codecs=\"a\"",
            "font/woff2",
            "image/vnd.microsoft.icon",
        ] {
            assert_eq!(disposition(shown, None), None, "{shown}");
            assert_eq!(disposition(shown, Some("inline")).as_deref(), Some("inline"), "{shown}");
        }
        for saved in [
            "",
            "text/html",
            "application/pdf",
            "image",
            "image/",
            "image/svg+xml",
            "IMAGE/SVG",
            "image/anything+xml",
            "image/png,text/html",
            "image/png;a=\"b\",text/html",
            "imagex/png",
        ] {
            assert_eq!(disposition(saved, None).as_deref(), Some("attachment"), "{saved}");
            assert_eq!(disposition(saved, Some("inline; filename=a.html")).as_deref(), Some("attachment"), "{saved}");
        }
        let named = "Attachment; filename=\"a.html\"";
        assert_eq!(disposition("text/html", Some(named)).as_deref(), Some(named), "the name of the object stays");
    }
}
