//! What to send.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use reqwest::Method;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;
use url::Url;

use super::target::{parse_url, shown};
use super::{MOST_REDIRECTS, Webhooks};
use afterload_core::clock;
use afterload_core::error::{Error, Result};

/// Headers that belong to the connection, or that say what is asked for on the level below.
const RESERVED: [&str; 12] = [
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
pub struct Request {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    pub(super) timeout: Option<Duration>,
    pub(super) redirects: usize,
}

impl Request {
    /// A request without a body.
    ///
    /// # Errors
    /// `http_url_invalid`
    pub fn new(method: Method, url: &str) -> Result<Self> {
        let (url, headers) = (parse_url(url)?, HeaderMap::new());
        Ok(Self { method, url, headers, body: Bytes::new(), timeout: None, redirects: MOST_REDIRECTS })
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
    pub fn header(mut self, name: &str, value: &str) -> Result<Self> {
        let name = header_name(name)?;
        let value = HeaderValue::from_str(value).map_err(|_| {
            Error::permanent("http_header_invalid", format!("the value of the header `{name}` cannot be sent"))
                .hint("a header is one line without control characters")
        })?;
        self.headers.insert(name, value);
        Ok(self)
    }

    /// The query, added to that of the address.
    #[must_use]
    pub fn query<'a>(mut self, pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut pairs = pairs.into_iter().peekable();
        if pairs.peek().is_some() {
            self.url.query_pairs_mut().extend_pairs(pairs);
        }
        self
    }

    /// The body. Its type is sent unless a header `Content-Type` has been added.
    #[must_use]
    pub fn body(mut self, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self.headers.entry(CONTENT_TYPE).or_insert(HeaderValue::from_static(content_type));
        self
    }

    /// The body as JSON.
    #[must_use]
    pub fn json(self, body: &Value) -> Self {
        self.body("application/json", body.to_string())
    }

    /// How long all of it may take, redirects and the answer's body included; default `limits.http.total`.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Takes a redirect as the answer rather than following it.
    #[must_use]
    pub fn without_redirects(mut self) -> Self {
        self.redirects = 0;
        self
    }

    /// Signs it as a Standard Webhook with the time of now. The id is that of the message, the same for every attempt to
    /// deliver it. Call it last, and for every attempt anew. Webhooks do not follow redirects.
    ///
    /// # Errors
    /// `http_header_invalid` for an id that is not one line of ASCII.
    pub fn signed(self, webhooks: &Webhooks, id: &str) -> Result<Self> {
        let timestamp = clock::now() / 1000;
        let signature = webhooks.sign(id, timestamp, &self.body);
        let signed = self.header("webhook-id", id)?.header("webhook-timestamp", &timestamp.to_string())?;
        Ok(signed.header("webhook-signature", &signature)?.without_redirects())
    }

    /// What it is, for people.
    pub(super) fn shown(&self) -> String {
        format!("{} {}", self.method, shown(&self.url))
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown())
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
pub fn header_name(name: &str) -> Result<HeaderName> {
    let invalid = |why: &str| Error::permanent("http_header_invalid", format!("`{name}` {why}"));
    let known = HeaderName::try_from(name).map_err(|_| invalid("is not a name for a header"))?;
    match RESERVED.contains(&known.as_str()) {
        true => Err(invalid("is a header that the service sets itself")),
        false => Ok(known),
    }
}
