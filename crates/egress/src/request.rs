//! An outgoing request.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use reqwest::Method;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;
use url::Url;

use super::http_url::{display_origin, parse_url};
use super::{MAX_REDIRECTS, WebhookSigner};
use crate::codes;
use afterload_core::clock::UnixMillis;
use afterload_core::error::{Error, Result};

/// Headers that belong to the connection or to the transfer, so callers cannot set them.
const CONNECTION_HEADERS: [&str; 12] = [
    "accept-encoding",
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// The header that names how many runs came before a run that the request starts.
pub const HOPS_HEADER: &str = "afterload-hops";

/// A request for [`super::EgressClient::send`].
#[derive(Clone)]
pub struct EgressRequest {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    pub(super) timeout: Option<Duration>,
    pub(super) max_redirects: usize,
}

impl EgressRequest {
    /// Creates a request without a body.
    ///
    /// # Errors
    /// `http_url_invalid`
    pub fn new(method: Method, url: &str) -> Result<Self> {
        let (url, headers) = (parse_url(url)?, HeaderMap::new());
        Ok(Self { method, url, headers, body: Bytes::new(), timeout: None, max_redirects: MAX_REDIRECTS })
    }

    /// Creates a GET request.
    ///
    /// # Errors
    /// `http_url_invalid`
    pub fn get(url: &str) -> Result<Self> {
        Self::new(Method::GET, url)
    }

    /// Creates a POST request.
    ///
    /// # Errors
    /// `http_url_invalid`
    pub fn post(url: &str) -> Result<Self> {
        Self::new(Method::POST, url)
    }

    /// Sets a header and replaces one of the same name. Its value may be a secret: it is never displayed, and a
    /// redirect does not send it to another origin.
    ///
    /// # Errors
    /// `http_header_invalid`, which does not quote the value.
    pub fn with_header(mut self, name: &str, value: &str) -> Result<Self> {
        let name = parse_header_name(name)?;
        let value = HeaderValue::from_str(value).map_err(|_| {
            Error::new(codes::HTTP_HEADER_INVALID, format!("the value of the header `{name}` cannot be sent"))
                .with_hint("a header is one line without control characters")
        })?;
        self.headers.insert(name, value);
        Ok(self)
    }

    /// Names how many runs came before a run that the request starts, should it come back to this service.
    #[must_use]
    pub fn with_hops(mut self, hops: u32) -> Self {
        self.headers.insert(HeaderName::from_static(HOPS_HEADER), HeaderValue::from(hops));
        self
    }

    /// Appends to the query of the URL.
    #[must_use]
    pub fn with_query<'a>(mut self, pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut pairs = pairs.into_iter().peekable();
        if pairs.peek().is_some() {
            self.url.query_pairs_mut().extend_pairs(pairs);
        }
        self
    }

    /// Sets the body. Its type is sent unless a `Content-Type` header is set.
    #[must_use]
    pub fn with_body(mut self, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self.headers.entry(CONTENT_TYPE).or_insert(HeaderValue::from_static(content_type));
        self
    }

    /// Sets the body to JSON.
    #[must_use]
    pub fn with_json(self, body: &Value) -> Self {
        self.with_body("application/json", body.to_string())
    }

    /// Limits the total time, including redirects and the body of the response; default `limits.http.total`.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Returns a redirect as the response instead of following it.
    #[must_use]
    pub fn without_redirects(mut self) -> Self {
        self.max_redirects = 0;
        self
    }

    /// Signs the request as a Standard Webhook at the time `now`. `id` is the message id, the same for every
    /// attempt to deliver it. Call this last, and again for every attempt. Webhooks do not follow redirects.
    ///
    /// # Errors
    /// `http_header_invalid` for an id that is not one line of ASCII.
    pub fn with_webhook_signature(self, webhooks: &WebhookSigner, id: &str, now: UnixMillis) -> Result<Self> {
        let timestamp = now / 1000;
        let signature = webhooks.sign_message(id, timestamp, &self.body);
        let signed = self.with_header("webhook-id", id)?.with_header("webhook-timestamp", &timestamp.to_string())?;
        Ok(signed.with_header("webhook-signature", &signature)?.without_redirects())
    }

    /// Names the request in messages.
    pub(super) fn method_and_origin(&self) -> String {
        format!("{} {}", self.method, display_origin(&self.url))
    }
}

impl fmt::Debug for EgressRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.method_and_origin())
    }
}

/// Encodes fields as a form body or a query.
pub fn encode_form(fields: &[(String, String)]) -> String {
    url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish()
}

/// Parses the name of a header that callers may set.
///
/// # Errors
/// `http_header_invalid`
pub fn parse_header_name(name: &str) -> Result<HeaderName> {
    let invalid = |why: &str| Error::new(codes::HTTP_HEADER_INVALID, format!("`{name}` {why}"));
    let known = HeaderName::try_from(name).map_err(|_| invalid("is not a name for a header"))?;
    match CONNECTION_HEADERS.contains(&known.as_str()) {
        true => Err(invalid("is a header that the service sets itself")),
        false => Ok(known),
    }
}
