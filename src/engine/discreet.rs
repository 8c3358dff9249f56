//! What errors of steps must not say: a step that refuses a value quotes it, and the value may be a secret.

use crate::config::{Config, Secret};
use crate::error::Error;

/// Texts shorter than this hide nothing, and would be found everywhere.
const SHORTEST: usize = 4;
/// Errors quote no more than the beginning of a long text.
const BEGINNING: usize = 40;

/// The secrets of the configuration, in the shapes in which errors quote them.
pub(super) struct Hidden(Vec<String>);

impl Hidden {
    /// Hides what this configuration keeps secret.
    pub(super) fn new(config: &Config) -> Self {
        let smtp = config.mail.smtp.as_ref().and_then(|smtp| smtp.password.as_ref());
        let secrets = config.secrets.values().chain(smtp).chain(&config.secret_key).map(Secret::reveal);
        let mut texts: Vec<String> = secrets.flat_map(shapes).filter(|text| text.len() >= SHORTEST).collect();
        // The longest first: a text that holds another goes as a whole.
        texts.sort_by_key(|text| std::cmp::Reverse(text.len()));
        texts.dedup();
        Self(texts)
    }

    /// The error without them.
    pub(super) fn from(&self, error: Error) -> Error {
        error.reworded(|text| self.0.iter().fold(text.to_owned(), |text, hidden| text.replace(hidden, "***")))
    }
}

/// As it is, as it is on one line, and each of its lines, for that is how a text of many lines is quoted; and the
/// beginning of each of these.
fn shapes(secret: &str) -> Vec<String> {
    let words = secret.split_whitespace().collect::<Vec<_>>().join(" ");
    let lines = secret.lines().map(|line| line.trim().to_owned());
    let mut shapes: Vec<String> = lines.chain([secret.to_owned(), words]).collect();
    for whole in shapes.clone() {
        shapes.push(whole.to_lowercase());
        shapes.push(whole.chars().take(BEGINNING).collect());
    }
    shapes
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn errors_do_not_quote_secrets() {
        let key = "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7\n-----END KEY-----\n";
        let secrets = [("KEY", key), ("PIN", "12"), ("WORD", "open sesame")];
        let secrets = secrets.map(|(name, value)| (name.to_owned(), Secret::new(value)));
        let hidden = Hidden::new(&Config { secrets: secrets.into(), ..Config::default() });
        let error =
            Error::permanent("x", "`open sesame` and `-----BEGIN KEY----- MIIEvQIBADANBgkqhkiG9w0BAQEFAA` of 12");
        let error = hidden.from(error.hint("not `OPEN`").details(json!([{ "given": "open sesame" }])));
        assert!(error.message().starts_with("`***` and `***"), "{error}");
        assert!(error.message().ends_with(" of 12") && !error.message().contains("BEGIN"), "{error}");
        assert_eq!(error.facts(), Some(&json!([{ "given": "***" }])));
    }
}
