//! `http.request`: sends a request to another service.

mod call;
mod fields;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use fields::{ExpectedStatus, HttpMethod};

use afterload_core::error::Result;
use afterload_core::file::File;
use afterload_core::units::{ByteSize, HumanDuration};
use afterload_egress::{EgressClient, RequestHeaders, SignatureScheme, check_request_target};
use afterload_pipeline::{EncodedField, Templated, Validator};
use afterload_step_api::{Step, StepContext};

/// Calls another service. Promise: at least once, with the same `Idempotency-Key` each time; a call that is known to have
/// succeeded is not repeated, its answer was recorded (but for one with `save`, whose file goes with its attempt).
///
/// Only the public internet is called, and what `http.allow` in the configuration names. No answer is asked for or read
/// compressed. An answer of 429 or 5xx and a connection that breaks are tried again, after `Retry-After` if that is said.
/// Its progress counts `bytes` when it saves.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpRequest {
    /// The method; default `GET`, with a body `POST`.
    #[serde(default)]
    pub method: Option<HttpMethod>,
    /// The address, `https://…` or `http://…`. Values in its path and query are percent-encoded. Up to three redirects are followed; another origin than the first is told
    /// no header but harmless ones.
    pub url: Templated<String>,
    /// More headers, such as `Authorization: "Bearer ${{ secrets.TOKEN }}"`.
    #[serde(default)]
    pub headers: RequestHeaders,
    /// Fields added to the query of the address, each a value or a list of them; those that are `none` are left out.
    #[serde(default)]
    pub query: Map<String, Value>,
    /// The body as text.
    #[serde(default)]
    pub body: Option<Templated<String>>,
    /// The body as JSON.
    #[serde(default)]
    pub json: Option<Value>,
    /// The body as the fields of a form, written as `query` is.
    #[serde(default)]
    pub form: Option<Map<String, Value>>,
    /// Which status is a success: `2xx`, `204`, or a list such as `[200, 404]`; default `2xx`. A redirect that is
    /// expected is not followed.
    #[serde(default)]
    pub expect: ExpectedStatus,
    /// How the receiver can tell that the call is ours. Signed calls follow no redirect.
    #[serde(default)]
    pub sign: Option<SignatureScheme>,
    /// The name of a file that the body is saved to, of whatever size up to `max_size`, instead of `text` and `json`.
    #[serde(default)]
    pub save: Option<Templated<String>>,
    /// The most bytes that are saved; default `1gb`.
    #[serde(default)]
    pub max_size: Option<ByteSize>,
    /// How long the call may take in all, at most `1d`; default `limits.http.total` (30 s), with `save` `10m`.
    #[serde(default)]
    pub timeout: Option<Templated<HumanDuration>>,
}

/// What later steps can name.
#[derive(Debug, Serialize, JsonSchema)]
pub struct HttpRequestOutputs {
    /// The status of the answer, such as 200.
    pub status: u16,
    /// The headers of the answer with small letters, without cookies.
    pub headers: BTreeMap<String, String>,
    /// The body, if it is JSON and was not saved; at most `limits.http.body` (1 MiB).
    pub json: Option<Value>,
    /// The body, if it is text in its `charset` (default UTF-8) and was not saved; at most `limits.http.body` (1 MiB).
    pub text: Option<String>,
    /// The file, with `save`.
    pub file: Option<File>,
}

impl Step for HttpRequest {
    const KIND: &'static str = "http.request";
    const EXAMPLE: &'static str = r#"
url: https://api.example.com/v1/orders
headers: { Authorization: "Bearer ${{ secrets.SHOP_TOKEN }}" }
json: { email: "${{ params.email }}", paid: true }
expect: [201, 409]
timeout: 10s
"#;
    const MAKES_FILES: bool = true;
    const ENCODED_FIELDS: &'static [EncodedField] = &[EncodedField::url(&["url"])];
    type Outputs = HttpRequestOutputs;
    type Deps = EgressClient;

    fn check(&self, check: &mut Validator<'_>) {
        check_request_target(check, &[], &self.url, &self.headers);
        let bodies: Vec<_> = ["body", "json", "form"].into_iter().filter(|name| check.is_present(&[name])).collect();
        if let [first, second, ..] = bodies[..] {
            let message = format!("`{first}` and `{second}` exclude each other");
            check.report_invalid(&[second], message, "a request has one body");
        }
        if check.is_present(&["max_size"]) && !check.is_present(&["save"]) {
            check.report_invalid(
                &["max_size"],
                "`max_size` has a meaning only with `save`",
                "without it, `limits.http.body` (1 MiB) is the limit",
            );
        }
        if let Some(timeout) = self.timeout.as_ref().and_then(Templated::as_literal)
            && call::check_timeout(*timeout).is_err()
        {
            check.report_invalid(&["timeout"], call::TIMEOUT_RANGE_ERROR, call::TIMEOUT_HINT);
        }
    }

    fn always_makes_files(&self) -> bool {
        self.save.is_some()
    }

    fn certain_post(&self) -> Option<String> {
        let has_body = self.body.is_some() || self.json.is_some() || self.form.is_some();
        let posts = matches!(self.method, Some(HttpMethod::Post)) || self.method.is_none() && has_body;
        self.url.as_literal().filter(|_| posts).cloned()
    }

    async fn run(self, ctx: StepContext, http: EgressClient) -> Result<HttpRequestOutputs> {
        call::HttpCall::new(self, &ctx)?.send_once(&ctx, &http).await
    }
}

#[cfg(test)]
mod tests {
    use super::HttpRequest;
    use afterload_pipeline::ValidationContext;
    use afterload_spanned_yaml as yaml;
    use afterload_step_api::describe;

    fn found(text: &str) -> Vec<String> {
        let with = yaml::parse(text).unwrap();
        let problems = describe::<HttpRequest>().validate(&with, &ValidationContext::default());
        problems
            .iter()
            .map(|problem| format!("{}:{} {}", problem.span.line, problem.span.col, problem.message))
            .collect()
    }

    #[test]
    fn every_error_is_reported_at_its_span() {
        let text = "url: ftp://x\nmethod: get\nheaders: { Idempotency-Key: x, a b: y, Host: z }\nquery: [1]\nbody: x\n\
                    json: { a: 1 }\nexpect: [200, abc]\nsign: hmac\nmax_size: 2mb\ntimeout: 2d\nnope: 1\n";
        insta::assert_snapshot!(found(text).join("\n"), @r"
        1:6 the address begins with `ftp:`
        2:9 unknown value `get`
        3:29 `Idempotency-Key` is a header that the service sets itself
        3:37 `a b` is not a name for a header
        3:46 `Host` is a header that the service sets itself
        4:8 expected a map, found a list
        6:7 `body` and `json` exclude each other
        7:9 expected a status such as `200` or `2xx`, or a list of them, found `abc` in it
        8:7 unknown value `hmac`
        9:11 `max_size` has a meaning only with `save`
        10:10 `timeout` must be more than nothing and at most `1d`
        11:1 unknown field `nope`
        ");
        let fine = "url: '${{ params.url }}'\nmethod: DELETE\nheaders: { X: '${{ secrets.token }}' }\nexpect: [2xx, 404]\n\
                    sign: standard-webhooks\nsave: x.bin\nmax_size: 2mb\ntimeout: 1h\n";
        assert_eq!(found(fine), Vec::<String>::new());
    }

    #[test]
    fn value_cannot_name_the_host_unless_it_is_marked() {
        for url in ["https://${{ params.host }}/x", "https://a.example${{ params.host }}/x", "${{ params.host }}/x"] {
            let found = found(&format!("url: \"{url}\"\n"));
            assert!(
                found.len() == 1 && found[0].contains("`params.host`") && found[0].contains("scheme or host"),
                "{found:?}"
            );
        }
        for url in
            ["https://${{ params.host | safe_url }}/x", "${{ params.url }}", "https://a.example/${{ params.id }}"]
        {
            assert_eq!(found(&format!("url: \"{url}\"\n")), Vec::<String>::new());
        }
    }
}
