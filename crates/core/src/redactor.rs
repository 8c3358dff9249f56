//! Removes secrets from errors, responses and outputs. A step that rejects a value quotes it, a server echoes it, and a
//! database returns it; the value may be a secret.

use std::sync::Arc;

use serde_json::Value;

use crate::error::Error;
use crate::secret::Secret;

/// Shorter secrets are not removed: they would match everywhere.
const MIN_REDACTED_BYTES: usize = 4;
/// The minimum for responses. Shorter texts match ordinary words there by chance.
const MIN_RESPONSE_REDACTED_BYTES: usize = 8;
/// Errors quote at most this many characters of a long text.
const QUOTED_PREFIX_CHARS: usize = 40;

/// The secrets to remove, in every form in which errors and responses quote them.
#[derive(Clone)]
pub struct Redactor(Arc<[String]>);

impl Redactor {
    /// Creates a redactor for these secrets.
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a Secret>) -> Self {
        let mut texts: Vec<String> = secrets
            .into_iter()
            .map(Secret::expose_secret)
            .flat_map(secret_variants)
            .filter(|text| text.len() >= MIN_REDACTED_BYTES)
            .collect();
        // Longest first: a secret that contains another one is replaced as a whole.
        texts.sort_by(|one, other| other.len().cmp(&one.len()).then(one.cmp(other)));
        texts.dedup();
        Self(texts.into())
    }

    /// Removes the secrets from an error.
    pub fn redact_error(&self, error: Error) -> Error {
        error.map_text(|text| replace_secrets(&self.0, text))
    }

    /// Removes the secrets from the text of a response, except those shorter than 8 bytes.
    pub fn redact_text(&self, text: &str) -> String {
        let long = self.0.partition_point(|hidden| hidden.len() >= MIN_RESPONSE_REDACTED_BYTES);
        replace_secrets(&self.0[..long], text)
    }

    /// Whether [`Self::redact_json`] would change the value.
    pub fn finds_secret(&self, value: &Value) -> bool {
        match value {
            Value::String(text) => self.redact_text(text) != *text,
            Value::Array(items) => items.iter().any(|item| self.finds_secret(item)),
            Value::Object(fields) => {
                fields.iter().any(|(name, field)| self.redact_text(name) != *name || self.finds_secret(field))
            }
            _ => false,
        }
    }

    /// Removes the secrets from all strings of a JSON response.
    pub fn redact_json(&self, value: Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.redact_text(&text)),
            Value::Array(items) => items.into_iter().map(|item| self.redact_json(item)).collect(),
            Value::Object(fields) => {
                fields.into_iter().map(|(name, field)| (self.redact_text(&name), self.redact_json(field))).collect()
            }
            other => other,
        }
    }
}

/// Replaces each secret with stars.
fn replace_secrets(hidden: &[String], text: &str) -> String {
    hidden
        .iter()
        .filter(|hidden| text.contains(*hidden))
        .fold(text.to_owned(), |text, hidden| text.replace(hidden, "***"))
}

/// All forms of a secret: unchanged, on one line, and each line of a text of several lines. Each of these also as JSON
/// and URLs escape it, and its prefix.
fn secret_variants(secret: &str) -> Vec<String> {
    let words = secret.split_whitespace().collect::<Vec<_>>().join(" ");
    let lines = secret.lines().map(|line| line.trim().to_owned());
    let mut shapes: Vec<String> = lines.chain([secret.to_owned(), words]).collect();
    for whole in shapes.clone() {
        shapes.push(whole.to_lowercase());
        // Escaped once for JSON, twice for JSON within JSON, and for the parts of a URL.
        let quoted = json_escaped(&whole);
        shapes.extend([self::json_escaped(&quoted), quoted]);
        shapes.extend(url::form_urlencoded::byte_serialize(whole.as_bytes()).map(str::to_owned).reduce(|a, b| a + &b));
        shapes.push(crate::percent::percent_encode(&whole));
        if let Ok(mut url) = url::Url::parse("http://x/") {
            url.set_path(&whole);
            url.set_query(Some(&whole));
            shapes.extend([&url.path()[1..], url.query().unwrap_or_default()].map(str::to_owned));
        }
        shapes.push(whole.chars().take(QUOTED_PREFIX_CHARS).collect());
    }
    shapes
}

/// Escapes a text for JSON, without the surrounding quotes.
fn json_escaped(text: &str) -> String {
    let json = Value::from(text).to_string();
    json.strip_prefix('"').and_then(|json| json.strip_suffix('"')).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::error::ErrorCode;

    const TEST_FAILED: ErrorCode = ErrorCode::permanent("test_failed", "The test makes it fail");

    #[test]
    fn errors_do_not_quote_secrets() {
        let key = "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7\n-----END KEY-----\n";
        let secrets = [("KEY", key), ("PIN", "12"), ("WORD", "open sesame")];
        let secrets = secrets.map(|(_, value)| Secret::new(value));
        let hidden = Redactor::new(&secrets);
        let error =
            Error::new(TEST_FAILED, "`open sesame` and `-----BEGIN KEY----- MIIEvQIBADANBgkqhkiG9w0BAQEFAA` of 12");
        let error =
            hidden.redact_error(error.with_hint("not `OPEN`").with_details(json!([{ "given": "open sesame" }])));
        assert!(error.message().starts_with("`***` and `***"), "{error}");
        assert!(error.message().ends_with(" of 12") && !error.message().contains("BEGIN"), "{error}");
        assert_eq!(error.details(), Some(&json!([{ "given": "***" }])));
    }

    #[test]
    fn responses_do_not_echo_secrets_in_any_escaping() {
        let secrets = [("TOKEN", "a \"b\" + c/d"), ("USER", "acme")];
        let secrets = secrets.map(|(_, value)| Secret::new(value));
        let hidden = Redactor::new(&secrets);
        assert_eq!(hidden.redact_text("a@acme.example"), "a@acme.example", "a short one stands there by chance");
        assert_eq!(hidden.redact_error(Error::new(TEST_FAILED, "`acme`")).message(), "`***`");
        let echo =
            json!({ "a \"b\" + c/d": ["x a \"b\" + c/d x", 1, null, { "raw": "{\"k\":\"a \\\"b\\\" + c/d\"}" }] });
        let clean = json!({ "***": ["x *** x", 1, null, { "raw": "{\"k\":\"***\"}" }] });
        assert_eq!(hidden.redact_json(echo.clone()), clean);
        assert!(hidden.finds_secret(&echo) && !hidden.finds_secret(&clean));
        assert_eq!(hidden.redact_text(&echo.to_string()), clean.to_string());
        for url in ["/x/a%20%22b%22%20+%20c/d/", "/?k=a+%22b%22+%2B+c%2Fd&l", "/?k=a%20%22b%22%20+%20c/d"] {
            assert!(
                hidden.redact_text(url).contains("***") && !hidden.redact_text(url).contains("%22"),
                "{url}: {}",
                hidden.redact_text(url)
            );
        }
    }
}
