//! URLs of outgoing calls, and how they are displayed.

use url::Url;

use crate::codes;
use afterload_core::error::{Error, Result};

const MAX_URL_BYTES: usize = 8192;

/// Parses an absolute `http` or `https` URL without user and password. Whether it may be called is checked at the call.
///
/// # Errors
/// `http_url_invalid`; it does not quote the text, which may hold a secret.
pub fn parse_url(text: &str) -> Result<Url> {
    let invalid = |why: &str| Error::new(codes::HTTP_URL_INVALID, format!("the address {why}"));
    if text.len() > MAX_URL_BYTES {
        return Err(invalid(&format!("has more than {MAX_URL_BYTES} bytes")));
    }
    let url = Url::parse(text).map_err(|error| invalid(&format!("is not a URL: {error}")))?;
    check_url(url)
}

/// Same as [`parse_url`], for a URL that is already parsed.
pub(super) fn check_url(mut url: Url) -> Result<Url> {
    let invalid = |why: &str| Error::new(codes::HTTP_URL_INVALID, format!("the address {why}"));
    if !matches!(url.scheme(), "http" | "https") {
        return Err(invalid(&format!("begins with `{}:`", url.scheme())).with_hint("write `https://` or `http://`"));
    }
    if url.host().is_none() {
        return Err(invalid("names no host"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(invalid("holds a user or a password").with_hint("send an `Authorization` header instead"));
    }
    url.set_fragment(None);
    Ok(url)
}

/// A URL as errors and logs show it: scheme, host and port. The rest may contain a secret.
pub fn display_origin(url: &Url) -> String {
    url.origin().ascii_serialization()
}
