//! Fields of step kinds that call others: the address, the headers, the signature.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{header_name, parse_url};
use afterload_pipeline::{Check, Dynamic};

/// Headers that are the same for every attempt, and therefore nobody else's to set; in small letters.
pub const OURS: [&str; 4] = ["idempotency-key", "webhook-id", "webhook-timestamp", "webhook-signature"];

/// Headers by name.
pub type Headers = BTreeMap<String, Dynamic<String>>;

/// A call below `at` has an address that can be called, as far as that is known, and headers that may be set.
pub fn check_target(check: &mut Check<'_>, at: &[&str], url: &Dynamic<String>, headers: &Headers) {
    if let Some(Err(error)) = url.known().map(|url| parse_url(url)) {
        check.problem(&[at, &["url"]].concat(), error.message(), error.hint_text().unwrap_or_default());
    }
    for name in headers.keys() {
        let place = [at, &["headers", name]].concat();
        if OURS.contains(&name.to_ascii_lowercase().as_str()) {
            let hint = "it is the same for every attempt; write `sign: standard-webhooks` for those of webhooks";
            check.problem(&place, format!("`{name}` is a header that the service sets itself"), hint);
        } else if let Err(error) = header_name(name) {
            check.problem(&place, error.message(), "");
        }
    }
}

/// How a call is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Sign {
    /// With `webhook-id`, `webhook-timestamp` and `webhook-signature`; `afterload key webhook` prints the secret.
    StandardWebhooks,
}
