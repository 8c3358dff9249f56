//! The response to an outgoing request.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::Response;
use reqwest::header::{HeaderMap, HeaderName, SET_COOKIE};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout_at};

use super::body_text::{decode_body, decode_body_lossily};
use super::{errors, retry_after};
use crate::codes;
use afterload_core::clock::UnixMillis;
use afterload_core::error::{Error, Result};
use afterload_core::redactor::Redactor;
use afterload_core::units::ByteSize;

/// How much of a path and of a body an error shows.
const MAX_QUOTED_CHARS: usize = 200;
/// How much of a body is read for an error.
const MAX_ERROR_BODY_BYTES: usize = 16 * 1024;
/// A secret that is cut off at the end of what was read is not recognized. It is at most this long.
const MAX_CUT_SECRET_CHARS: usize = 4096;

/// A response with any status. Its body is read within the timeout of the request.
pub struct EgressResponse {
    pub(super) response: Response,
    /// The request, for messages.
    pub(super) request_label: String,
    pub(super) limits: ResponseLimits,
    /// When the response came.
    pub(super) received_at: UnixMillis,
    /// Removes secrets from what errors show of the response.
    pub(super) redactor: Redactor,
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
        // A server that always has bytes ready would never let the timer fire.
        if Instant::now() >= self.limits.deadline {
            return Err(errors::call_timed_out(&self.request_label, self.limits.timeout));
        }
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

    /// Reads the body as text: by its byte order mark, else by the `charset` of its type, else as UTF-8. `None` if it is
    /// not such text.
    ///
    /// # Errors
    /// See [`Self::read_bytes`].
    pub async fn read_text(self) -> Result<Option<String>> {
        let content_type = self.content_type();
        Ok(decode_body(&self.read_bytes().await?, &content_type))
    }

    fn content_type(&self) -> String {
        self.header_text("content-type").unwrap_or_default().to_owned()
    }

    /// Reads the body as JSON.
    ///
    /// # Errors
    /// `http_answer_invalid`, and the errors of [`Self::read_bytes`].
    pub async fn read_json<T: DeserializeOwned>(self) -> Result<T> {
        let (shown, content_type) = (self.request_label.clone(), self.content_type());
        let text = decode_body(&self.read_bytes().await?, &content_type).unwrap_or_default();
        serde_json::from_str(&text).map_err(|error| {
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
        self.build_status_error("")
    }

    fn build_status_error(&self, answer: &str) -> Error {
        let wait =
            self.header_text("retry-after").and_then(|text| retry_after::parse_retry_after(text, self.received_at));
        errors::unexpected_status(self.response.status(), &self.request_label, answer, wait)
    }

    /// Same as [`Self::status_error`], and shows the path and the beginning of the body, without secrets. For calls whose
    /// path and answer may be shown to those who see the run.
    pub async fn into_status_error(mut self) -> Error {
        let path = escape_beginning(&self.redactor.redact_text(self.response.url().path()), MAX_QUOTED_CHARS);
        let (body, is_cut) = self.read_beginning().await;
        let text = self.redactor.redact_text(&decode_body_lossily(&body, &self.content_type()));
        let unsafe_chars = if is_cut { MAX_CUT_SECRET_CHARS } else { 0 };
        let text = escape_beginning(&text, text.chars().count().saturating_sub(unsafe_chars).min(MAX_QUOTED_CHARS));
        let body = if text.is_empty() { String::new() } else { format!(", body `{text}`") };
        self.build_status_error(&format!(": path `{path}`{body}"))
    }

    /// Reads the beginning of the body, as far as it comes. True if there may be more.
    async fn read_beginning(&mut self) -> (BytesMut, bool) {
        let mut body = BytesMut::new();
        while body.len() < MAX_ERROR_BODY_BYTES {
            match self.next_chunk().await {
                Ok(Some(bytes)) => body.extend_from_slice(&bytes),
                Ok(None) => return (body, false),
                Err(_) => break,
            }
        }
        (body, true)
    }
}

/// Shows the beginning of a text on one line.
fn escape_beginning(text: &str, max_chars: usize) -> String {
    let mut shown = String::new();
    for character in text.chars().take(max_chars) {
        if character.is_control() {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    if text.chars().nth(max_chars).is_some() {
        shown.push('…');
    }
    shown
}
