//! What errors and answers from outside must not say: a step that refuses a value quotes it, a server echoes it, and the
//! value may be a secret.

use std::sync::Arc;

use serde_json::Value;

use crate::error::Error;
use crate::secret::Secret;

/// Texts shorter than this hide nothing, and would be found everywhere.
const MIN_REDACTED_BYTES: usize = 4;
/// In answers, which people work with, shorter ones are words that stand there by chance.
const MIN_RESPONSE_REDACTED_BYTES: usize = 8;
/// Errors quote no more than the beginning of a long text.
const QUOTED_PREFIX_CHARS: usize = 40;

/// The secrets to remove, in the shapes in which errors and answers quote them.
#[derive(Clone)]
pub struct Redactor(Arc<[String]>);

impl Redactor {
    /// Removes these secrets.
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a Secret>) -> Self {
        let mut texts: Vec<String> = secrets
            .into_iter()
            .map(Secret::expose_secret)
            .flat_map(secret_variants)
            .filter(|text| text.len() >= MIN_REDACTED_BYTES)
            .collect();
        // The longest first: a text that holds another goes as a whole.
        texts.sort_by(|one, other| other.len().cmp(&one.len()).then(one.cmp(other)));
        texts.dedup();
        Self(texts.into())
    }

    /// The error without them.
    pub fn redact_error(&self, error: Error) -> Error {
        error.map_text(|text| replace_secrets(&self.0, text))
    }

    /// The text of an answer without them, but for those of less than 8 bytes.
    pub fn redact_text(&self, text: &str) -> String {
        let long = self.0.partition_point(|hidden| hidden.len() >= MIN_RESPONSE_REDACTED_BYTES);
        replace_secrets(&self.0[..long], text)
    }

    /// The value of an answer with none of these in its texts.
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

/// The text with stars for what is hidden.
fn replace_secrets(hidden: &[String], text: &str) -> String {
    hidden
        .iter()
        .filter(|hidden| text.contains(*hidden))
        .fold(text.to_owned(), |text, hidden| text.replace(hidden, "***"))
}

/// As it is, as it is on one line, and each of its lines, for that is how a text of many lines is quoted; each of these as
/// JSON and addresses write it; and the beginning of each.
fn secret_variants(secret: &str) -> Vec<String> {
    let words = secret.split_whitespace().collect::<Vec<_>>().join(" ");
    let lines = secret.lines().map(|line| line.trim().to_owned());
    let mut shapes: Vec<String> = lines.chain([secret.to_owned(), words]).collect();
    for whole in shapes.clone() {
        shapes.push(whole.to_lowercase());
        // As it stands in JSON, in JSON within JSON, and in the parts of an address.
        let quoted = json_escaped(&whole);
        shapes.extend([self::json_escaped(&quoted), quoted]);
        shapes.extend(url::form_urlencoded::byte_serialize(whole.as_bytes()).map(str::to_owned).reduce(|a, b| a + &b));
        if let Ok(mut url) = url::Url::parse("http://x/") {
            url.set_path(&whole);
            url.set_query(Some(&whole));
            shapes.extend([&url.path()[1..], url.query().unwrap_or_default()].map(str::to_owned));
        }
        shapes.push(whole.chars().take(QUOTED_PREFIX_CHARS).collect());
    }
    shapes
}

/// A text as JSON, without the quotes around it.
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
    fn answers_do_not_echo_secrets_in_any_writing() {
        let secrets = [("TOKEN", "a \"b\" + c/d"), ("USER", "acme")];
        let secrets = secrets.map(|(_, value)| Secret::new(value));
        let hidden = Redactor::new(&secrets);
        assert_eq!(hidden.redact_text("a@acme.example"), "a@acme.example", "a short one stands there by chance");
        assert_eq!(hidden.redact_error(Error::new(TEST_FAILED, "`acme`")).message(), "`***`");
        let echo =
            json!({ "a \"b\" + c/d": ["x a \"b\" + c/d x", 1, null, { "raw": "{\"k\":\"a \\\"b\\\" + c/d\"}" }] });
        let clean = json!({ "***": ["x *** x", 1, null, { "raw": "{\"k\":\"***\"}" }] });
        assert_eq!(hidden.redact_json(echo.clone()), clean);
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
