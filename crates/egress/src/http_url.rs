//! Addresses that can be called, and how they are shown.

use url::Url;

use crate::codes;
use afterload_core::error::{Error, Result};

/// The longest address, in bytes.
const MAX_URL_BYTES: usize = 8192;

/// The address in a text: absolute, `http` or `https`, without a user and a password. Whether it may be called is only
/// known when it is.
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

/// The same for one that has been read.
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

/// An address as errors and logs show it: scheme, host and port. The rest of many addresses is a secret.
pub fn display_origin(url: &Url) -> String {
    url.origin().ascii_serialization()
}
