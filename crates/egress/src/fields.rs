//! Fields of step kinds that make HTTP calls: URL, headers, signature.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{HOPS_HEADER, parse_header_name, parse_url};
use afterload_pipeline::{Templated, Validator, check_url_template};

/// Headers that the service sets itself, because they are the same for every attempt. In lower case.
pub const RESERVED_HEADERS: [&str; 5] =
    [HOPS_HEADER, "idempotency-key", "webhook-id", "webhook-timestamp", "webhook-signature"];

/// Headers by name.
pub type RequestHeaders = BTreeMap<String, Templated<String>>;

/// Checks what is known of the URL before the step runs, and the header names of a call at `at`.
pub fn check_request_target(check: &mut Validator<'_>, at: &[&str], url: &Templated<String>, headers: &RequestHeaders) {
    let checked = match url {
        Templated::Value(url) => parse_url(url).map(drop),
        Templated::Expression(text) => check_url_template(text),
    };
    if let Err(error) = checked {
        check.report_invalid(&[at, &["url"]].concat(), error.message(), error.hint_text().unwrap_or_default());
    }
    for name in headers.keys() {
        let place = [at, &["headers", name]].concat();
        if RESERVED_HEADERS.contains(&name.to_ascii_lowercase().as_str()) {
            let hint = "it is the same for every attempt; write `sign: standard-webhooks` for those of webhooks";
            check.report_invalid(&place, format!("`{name}` is a header that the service sets itself"), hint);
        } else if let Err(error) = parse_header_name(name) {
            check.report_invalid(&place, error.message(), "");
        }
    }
}

/// How a call is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SignatureScheme {
    /// With `webhook-id`, `webhook-timestamp` and `webhook-signature`; `afterload key webhook` prints the secret.
    StandardWebhooks,
}
