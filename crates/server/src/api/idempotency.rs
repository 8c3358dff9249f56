//! `Idempotency-Key`: a repeated request gets the same response and starts no second run.

use axum::http::HeaderMap;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::codes;
use afterload_core::error::{Error, Result};
use afterload_engine::DedupKey;

/// The source of the dedup keys of calls. Forgotten after a day.
pub(super) const IDEMPOTENCY_SOURCE: &str = DedupKey::IDEMPOTENCY_KEY_SOURCE;
const IDEMPOTENCY_HEADER: &str = "idempotency-key";
const MAX_IDEMPOTENCY_KEY_CHARS: usize = 255;

/// Between the hash of a request and the id of its API key.
const KEY_ID_SEPARATOR: char = '.';

/// How a request relates to an earlier one with the same idempotency key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RepeatedRequest {
    /// The same request with the same API key.
    Same,
    /// The same request with another API key.
    OfOtherKey,
    /// Another request.
    Different,
}

impl RepeatedRequest {
    /// Compares the stored fingerprint with that of this request.
    pub(super) fn from_fingerprints(stored: Option<&str>, own: Option<&str>) -> Self {
        let hash = |fingerprint: Option<&str>| {
            fingerprint.and_then(|text| text.split(KEY_ID_SEPARATOR).next().map(str::to_owned))
        };
        match (stored == own, hash(stored) == hash(own)) {
            (true, _) => Self::Same,
            (false, true) => Self::OfOtherKey,
            (false, false) => Self::Different,
        }
    }
}

/// A hash of the content of a request, without parts that differ between attempts.
pub(super) struct RequestFingerprint(Sha256);

impl RequestFingerprint {
    pub(super) fn new() -> Self {
        Self(Sha256::new())
    }

    /// Adds one value.
    pub(super) fn add_value(&mut self, bytes: &[u8]) {
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    /// Adds a part of a value. [`Self::add_value`] ends it.
    pub(super) fn add_bytes(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Adds parameters, in any order.
    pub(super) fn add_params(&mut self, params: &Map<String, Value>) {
        self.add_value(sort_keys(&Value::Object(params.clone())).to_string().as_bytes());
    }

    /// The fingerprint to store, with the id of the API key.
    pub(super) fn finish(self, api_key_id: &str) -> String {
        format!("{}{KEY_ID_SEPARATOR}{api_key_id}", hex::encode(self.0.finalize()))
    }
}

fn sort_keys(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().map(|(name, value)| (name.clone(), sort_keys(value))).collect();
            fields.sort_by(|(one, _), (other, _)| one.cmp(other));
            Value::Object(fields.into_iter().collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(sort_keys).collect()),
        other => other.clone(),
    }
}

/// The idempotency key of a request, if it has one.
///
/// # Errors
/// `header_invalid`
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>> {
    let Some(value) = headers.get(IDEMPOTENCY_HEADER) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default().trim();
    // The draft standard writes it as a quoted string; most clients do not.
    let text = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(text);
    match text.is_empty() || text.len() > MAX_IDEMPOTENCY_KEY_CHARS || !text.bytes().all(|byte| byte.is_ascii_graphic())
    {
        true => Err(Error::new(codes::HEADER_INVALID, "the header `Idempotency-Key` cannot be used")
            .with_hint(format!("send 1 to {MAX_IDEMPOTENCY_KEY_CHARS} visible ASCII characters, such as a UUID"))),
        false => Ok(Some(text.to_owned())),
    }
}

/// The error for a key that was used with another request.
pub(super) fn idempotency_key_reused() -> Error {
    Error::new(codes::IDEMPOTENCY_KEY_REUSED, "the `Idempotency-Key` came with another request before")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fingerprint(params: Value) -> String {
        let mut fingerprint = RequestFingerprint::new();
        fingerprint.add_params(params.as_object().expect("an object"));
        fingerprint.finish("key")
    }

    #[test]
    fn a_fingerprint_depends_on_values_and_not_on_their_order() {
        let one = fingerprint(json!({ "a": 1, "b": { "c": [1, 2], "d": null } }));
        assert_eq!(one, fingerprint(json!({ "b": { "d": null, "c": [1, 2] }, "a": 1 })));
        assert_ne!(one, fingerprint(json!({ "b": { "d": null, "c": [2, 1] }, "a": 1 })));
    }

    #[test]
    fn a_repeated_request_is_known_by_its_content_and_its_key() {
        let compare = |stored, own| RepeatedRequest::from_fingerprints(Some(stored), Some(own));
        assert_eq!(compare("aa.key", "aa.key"), RepeatedRequest::Same);
        assert_eq!(compare("aa.key", "aa.other"), RepeatedRequest::OfOtherKey);
        assert_eq!(compare("aa", "aa.key"), RepeatedRequest::OfOtherKey, "of an earlier version");
        assert_eq!(compare("aa.key", "ab.key"), RepeatedRequest::Different);
        assert_eq!(RepeatedRequest::from_fingerprints(None, Some("aa.key")), RepeatedRequest::Different);
    }

    #[test]
    fn idempotency_keys_are_visible_ascii() {
        let with = |value: &[u8]| {
            let mut headers = HeaderMap::new();
            headers.insert(IDEMPOTENCY_HEADER, axum::http::HeaderValue::from_bytes(value).expect("a header"));
            idempotency_key(&headers)
        };
        assert_eq!(idempotency_key(&HeaderMap::new()).expect("none"), None);
        assert_eq!(with(b"abc-1").expect("a key").as_deref(), Some("abc-1"));
        assert_eq!(with(b"\"quoted\"").expect("a key").as_deref(), Some("quoted"));
        for bad in [&b""[..], b"two words", "\u{fc}".as_bytes(), &[b'x'; 256]] {
            assert_eq!(with(bad).expect_err("refused").code(), codes::HEADER_INVALID);
        }
    }
}
