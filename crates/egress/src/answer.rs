//! What came back.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::Response;
use reqwest::header::{HeaderMap, HeaderName, SET_COOKIE};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout_at};

use super::{fault, retry_after};
use afterload_core::error::{Error, Result};
use afterload_core::units::ByteSize;

/// An answer, whatever its status. Its body is read within the time of the request.
pub struct Answer {
    pub(super) response: Response,
    /// The request, for people.
    pub(super) shown: String,
    pub(super) within: Within,
}

/// What an answer may cost.
#[derive(Clone, Copy)]
pub(super) struct Within {
    /// The time of the request, for people.
    pub timeout: Duration,
    /// When it is over.
    pub deadline: Instant,
    /// The largest body that is read into memory.
    pub body: ByteSize,
}

impl Answer {
    /// The status, such as 200.
    pub fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    /// The first header of this name, if it is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.response.headers().get(name).and_then(|value| std::str::from_utf8(value.as_bytes()).ok())
    }

    /// All headers that are text, with small letters; those of one name are joined by a comma. Cookies are left out: they
    /// are secrets of who sent them.
    pub fn headers(&self) -> Vec<(String, String)> {
        fn joined(headers: &HeaderMap, name: &str) -> String {
            let values = headers.get_all(name).iter().filter_map(|value| std::str::from_utf8(value.as_bytes()).ok());
            values.collect::<Vec<_>>().join(", ")
        }
        let headers = self.response.headers();
        let names = headers.keys().filter(|name| **name != SET_COOKIE).map(HeaderName::as_str);
        names.map(|name| (name.to_owned(), joined(headers, name))).collect()
    }

    /// How many bytes the body has, if that is said; 0 where there is none, whatever the headers say of the one that
    /// another method would bring.
    pub fn length(&self) -> Option<u64> {
        self.response.content_length()
    }

    /// The next piece of the body; `None` at its end. There is no limit here: count the bytes.
    ///
    /// # Errors
    /// `http_timeout`, `http_broken`
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        match timeout_at(self.within.deadline, self.response.chunk()).await {
            Ok(read) => read.map_err(|error| fault::of(&error, &self.shown)),
            Err(_) => Err(fault::timeout(&self.shown, self.within.timeout)),
        }
    }

    /// The body, if it is not larger than `limits.http.body`. It is as it was sent: we ask for one that is not compressed and decompress
    /// nothing, so that no few bytes become many.
    ///
    /// # Errors
    /// `http_body_too_large`, `http_timeout`, `http_broken`
    pub async fn bytes(mut self) -> Result<Bytes> {
        let most = self.within.body.0;
        if self.length().is_some_and(|length| length > most) {
            return Err(self.too_large(most));
        }
        let mut body = BytesMut::new();
        while let Some(bytes) = self.chunk().await? {
            if (body.len() + bytes.len()) as u64 > most {
                return Err(self.too_large(most));
            }
            body.extend_from_slice(&bytes);
        }
        Ok(body.freeze())
    }

    /// The body, read as JSON.
    ///
    /// # Errors
    /// `http_answer_invalid`, and those of [`Answer::bytes`].
    pub async fn json<T: DeserializeOwned>(self) -> Result<T> {
        let shown = self.shown.clone();
        serde_json::from_slice(&self.bytes().await?).map_err(|error| {
            // Its position alone: the text may quote the body.
            let place = format!("line {} column {}", error.line(), error.column());
            let message = format!("the answer to `{shown}` is not the JSON that was expected, at {place}");
            Error::permanent("http_answer_invalid", message)
        })
    }

    /// The error for a body of more bytes than somebody wants.
    pub fn too_large(&self, most: u64) -> Error {
        fault::too_large(&self.shown, most)
    }

    /// The answer, if its status is 2xx.
    ///
    /// # Errors
    /// Those of [`Answer::unexpected`].
    pub fn success(self) -> Result<Self> {
        if self.response.status().is_success() { Ok(self) } else { Err(self.unexpected()) }
    }

    /// The error for an answer whose status is not what was wanted: `http_rate_limited` and `http_server_error` are
    /// transient and hold how long the server asks to wait; `http_refused` (another 4xx) is transient only for 408 and 425,
    /// with which a server asks for the same again; `http_unexpected_status` is permanent.
    pub fn unexpected(&self) -> Error {
        let wait = self.header("retry-after").and_then(retry_after::parse);
        fault::status(self.response.status(), &self.shown, wait)
    }
}
