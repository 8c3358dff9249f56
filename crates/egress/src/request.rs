//! What to send.

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
use afterload_core::clock;
use afterload_core::error::{Error, Result};

/// Headers that belong to the connection, or that say what is asked for on the level below.
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

/// A request that [`super::Http::send`] sends.
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
    /// A request without a body.
    ///
    /// # Errors
    /// `http_url_invalid`
    pub fn new(method: Method, url: &str) -> Result<Self> {
        let (url, headers) = (parse_url(url)?, HeaderMap::new());
        Ok(Self { method, url, headers, body: Bytes::new(), timeout: None, max_redirects: MAX_REDIRECTS })
    }

    /// Asks for something.
    ///
    /// # Errors
    /// `http_url_invalid`
    pub fn get(url: &str) -> Result<Self> {
        Self::new(Method::GET, url)
    }

    /// Hands something over.
    ///
    /// # Errors
    /// `http_url_invalid`
    pub fn post(url: &str) -> Result<Self> {
        Self::new(Method::POST, url)
    }

    /// Adds a header; one of the same name is replaced. Secrets are safe here: nothing shows a header's value, and it is
    /// not sent to another origin after a redirect.
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

    /// The query, added to that of the address.
    #[must_use]
    pub fn with_query<'a>(mut self, pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut pairs = pairs.into_iter().peekable();
        if pairs.peek().is_some() {
            self.url.query_pairs_mut().extend_pairs(pairs);
        }
        self
    }

    /// The body. Its type is sent unless a header `Content-Type` has been added.
    #[must_use]
    pub fn with_body(mut self, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self.headers.entry(CONTENT_TYPE).or_insert(HeaderValue::from_static(content_type));
        self
    }

    /// The body as JSON.
    #[must_use]
    pub fn with_json(self, body: &Value) -> Self {
        self.with_body("application/json", body.to_string())
    }

    /// How long all of it may take, redirects and the answer's body included; default `limits.http.total`.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Takes a redirect as the answer rather than following it.
    #[must_use]
    pub fn without_redirects(mut self) -> Self {
        self.max_redirects = 0;
        self
    }

    /// Signs it as a Standard Webhook with the time of now. The id is that of the message, the same for every attempt to
    /// deliver it. Call it last, and for every attempt anew. Webhooks do not follow redirects.
    ///
    /// # Errors
    /// `http_header_invalid` for an id that is not one line of ASCII.
    pub fn with_webhook_signature(self, webhooks: &WebhookSigner, id: &str) -> Result<Self> {
        let timestamp = clock::now_millis() / 1000;
        let signature = webhooks.sign_message(id, timestamp, &self.body);
        let signed = self.with_header("webhook-id", id)?.with_header("webhook-timestamp", &timestamp.to_string())?;
        Ok(signed.with_header("webhook-signature", &signature)?.without_redirects())
    }

    /// What it is, for people.
    pub(super) fn method_and_origin(&self) -> String {
        format!("{} {}", self.method, display_origin(&self.url))
    }
}

impl fmt::Debug for EgressRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.method_and_origin())
    }
}

/// Fields as the body of a form, or as a query.
pub fn encode_form(fields: &[(String, String)]) -> String {
    url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish()
}

/// The name of a header that may be set.
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
