//! What came back.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::Response;
use reqwest::header::{HeaderMap, HeaderName, SET_COOKIE};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout_at};

use super::{errors, retry_after};
use afterload_core::error::{Error, Result};
use afterload_core::units::ByteSize;

/// An answer, whatever its status. Its body is read within the time of the request.
pub struct EgressResponse {
    pub(super) response: Response,
    /// The request, for people.
    pub(super) request_label: String,
    pub(super) limits: ResponseLimits,
}

/// What an answer may cost.
#[derive(Clone, Copy)]
pub(super) struct ResponseLimits {
    /// The time of the request, for people.
    pub timeout: Duration,
    /// When it is over.
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

    /// All headers that are text, with small letters; those of one name are joined by a comma. Cookies are left out: they
    /// are secrets of who sent them.
    pub fn text_headers(&self) -> Vec<(String, String)> {
        fn join_values(headers: &HeaderMap, name: &str) -> String {
            let values = headers.get_all(name).iter().filter_map(|value| std::str::from_utf8(value.as_bytes()).ok());
            values.collect::<Vec<_>>().join(", ")
        }
        let headers = self.response.headers();
        let names = headers.keys().filter(|name| **name != SET_COOKIE).map(HeaderName::as_str);
        names.map(|name| (name.to_owned(), join_values(headers, name))).collect()
    }

    /// How many bytes the body has, if that is said; 0 where there is none, whatever the headers say of the one that
    /// another method would bring.
    pub fn content_length(&self) -> Option<u64> {
        self.response.content_length()
    }

    /// The next piece of the body; `None` at its end. There is no limit here: count the bytes.
    ///
    /// # Errors
    /// `http_timeout`, `http_broken`
    pub async fn next_chunk(&mut self) -> Result<Option<Bytes>> {
        match timeout_at(self.limits.deadline, self.response.chunk()).await {
            Ok(read) => read.map_err(|error| errors::from_reqwest(&error, &self.request_label)),
            Err(_) => Err(errors::call_timed_out(&self.request_label, self.limits.timeout)),
        }
    }

    /// The body, if it is not larger than `limits.http.body`. It is as it was sent: we ask for one that is not compressed and decompress
    /// nothing, so that no few bytes become many.
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
            // Its position alone: the text may quote the body.
            let place = format!("line {} column {}", error.line(), error.column());
            let message = format!("the answer to `{shown}` is not the JSON that was expected, at {place}");
            Error::permanent("http_answer_invalid", message)
        })
    }

    /// The error for a body of more bytes than somebody wants.
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

    /// The error for an answer whose status is not what was wanted: `http_rate_limited` and `http_server_error` are
    /// transient and hold how long the server asks to wait; `http_refused` (another 4xx) is transient only for 408 and 425,
    /// with which a server asks for the same again; `http_unexpected_status` is permanent.
    pub fn status_error(&self) -> Error {
        let wait = self.header_text("retry-after").and_then(retry_after::parse_retry_after);
        errors::unexpected_status(self.response.status(), &self.request_label, wait)
    }
}
