//! The response to an outgoing request.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::Response;
use reqwest::header::{HeaderMap, HeaderName, SET_COOKIE};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout_at};

use super::{errors, retry_after};
use crate::codes;
use afterload_core::clock::UnixMillis;
use afterload_core::error::{Error, Result};
use afterload_core::units::ByteSize;

/// A response with any status. Its body is read within the timeout of the request.
pub struct EgressResponse {
    pub(super) response: Response,
    /// The request, for messages.
    pub(super) request_label: String,
    pub(super) limits: ResponseLimits,
    /// When the response came.
    pub(super) received_at: UnixMillis,
}

/// The limits of one response.
#[derive(Clone, Copy)]
pub(super) struct ResponseLimits {
    /// The timeout of the request, for messages.
    pub timeout: Duration,
    /// When the timeout ends.
    pub deadline: Instant,
    /// The largest body that is read into memory.
    pub max_body: ByteSize,
}

impl EgressResponse {
    /// The status, such as 200.
    pub fn status_code(&self) -> u16 {
        self.response.status().as_u16()
    }

    /// The first header of this name, if it is text.
    pub fn header_text(&self, name: &str) -> Option<&str> {
        self.response.headers().get(name).and_then(|value| std::str::from_utf8(value.as_bytes()).ok())
    }

    /// All headers that are text, with names in lower case; values of one name are joined with commas. Cookies are left
    /// out, because they are secrets.
    pub fn text_headers(&self) -> Vec<(String, String)> {
        fn join_values(headers: &HeaderMap, name: &str) -> String {
            let values = headers.get_all(name).iter().filter_map(|value| std::str::from_utf8(value.as_bytes()).ok());
            values.collect::<Vec<_>>().join(", ")
        }
        let headers = self.response.headers();
        let names = headers.keys().filter(|name| **name != SET_COOKIE).map(HeaderName::as_str);
        names.map(|name| (name.to_owned(), join_values(headers, name))).collect()
    }

    /// The length of the body, if the server declares it. 0 for a response without a body, whatever its headers
    /// declare.
    pub fn content_length(&self) -> Option<u64> {
        self.response.content_length()
    }

    /// Reads the next chunk of the body; `None` at its end. The caller limits the size.
    ///
    /// # Errors
    /// `http_timeout`, `http_broken`
    pub async fn next_chunk(&mut self) -> Result<Option<Bytes>> {
        match timeout_at(self.limits.deadline, self.response.chunk()).await {
            Ok(read) => read.map_err(|error| errors::from_reqwest(&error, &self.request_label)),
            Err(_) => Err(errors::call_timed_out(&self.request_label, self.limits.timeout)),
        }
    }

    /// Reads the body, up to `limits.http.body`. The client asks for an uncompressed body and decompresses nothing, so
    /// that a small body cannot grow.
    ///
    /// # Errors
    /// `http_body_too_large`, `http_timeout`, `http_broken`
    pub async fn read_bytes(mut self) -> Result<Bytes> {
        let most = self.limits.max_body.0;
        if self.content_length().is_some_and(|length| length > most) {
            return Err(self.too_large_error(most));
        }
        let mut body = BytesMut::new();
        while let Some(bytes) = self.next_chunk().await? {
            if (body.len() + bytes.len()) as u64 > most {
                return Err(self.too_large_error(most));
            }
            body.extend_from_slice(&bytes);
        }
        Ok(body.freeze())
    }

    /// Reads the body as JSON.
    ///
    /// # Errors
    /// `http_answer_invalid`, and the errors of [`Self::read_bytes`].
    pub async fn read_json<T: DeserializeOwned>(self) -> Result<T> {
        let shown = self.request_label.clone();
        serde_json::from_slice(&self.read_bytes().await?).map_err(|error| {
            // Only the position: the message of serde may quote the body.
            let place = format!("line {} column {}", error.line(), error.column());
            let message = format!("the answer to `{shown}` is not the JSON that was expected, at {place}");
            Error::new(codes::HTTP_ANSWER_INVALID, message)
        })
    }

    /// The error for a body above the caller's limit.
    pub fn too_large_error(&self, most: u64) -> Error {
        errors::body_too_large(&self.request_label, most)
    }

    /// Returns the response if its status is 2xx.
    ///
    /// # Errors
    /// See [`Self::status_error`].
    pub fn error_for_status(self) -> Result<Self> {
        if self.response.status().is_success() { Ok(self) } else { Err(self.status_error()) }
    }

    /// The error for an unexpected status. `http_rate_limited` and `http_server_error` are transient and carry the
    /// server's `Retry-After`. `http_refused` (any other 4xx) is transient only for 408 and 425.
    /// `http_unexpected_status` is permanent.
    pub fn status_error(&self) -> Error {
        let wait =
            self.header_text("retry-after").and_then(|text| retry_after::parse_retry_after(text, self.received_at));
        errors::unexpected_status(self.response.status(), &self.request_label, wait)
    }
}
