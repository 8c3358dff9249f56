//! Sends a webhook per recipient. Its id stays the same for the recipient.

use serde_json::json;

use super::fields::WebhookSpec;
use super::per_recipient::{self, DeliveryError};
use super::recipients::recipient_key_text;
use super::templates::{RecipientContext, TemplatePart};
use crate::codes;
use afterload_core::error::{Error, ErrorCode, Result};
use afterload_egress::{EgressClient, EgressRequest, EgressResponse, RESERVED_HEADERS, WebhookSigner};
use afterload_pipeline::ExprContext;
use afterload_step_api::StepContext;
use afterload_target_db::Recipient;

/// Errors of the server as a whole, independent of the request.
const SERVER_ERROR_CODES: [ErrorCode; 5] =
    [codes::EGRESS_BLOCKED, codes::HTTP_BROKEN, codes::HTTP_RATE_LIMITED, codes::HTTP_TIMEOUT, codes::HTTP_UNREACHABLE];
/// Statuses of an unavailable server. Another status, such as 500, may depend on the request.
const UNAVAILABLE_STATUSES: [u64; 3] = [502, 503, 504];

/// Delivers webhooks.
pub struct WebhookChannel {
    http: EgressClient,
    key: String,
    personal: RecipientContext,
    url: TemplatePart,
    headers: Vec<(String, TemplatePart)>,
    json: TemplatePart,
    signed: bool,
    hops: u32,
    /// True if all recipients share one server.
    one_server: bool,
}

impl WebhookChannel {
    /// Resolves the parts that are the same for all recipients.
    pub fn new(ctx: &StepContext, http: &EgressClient, hook: WebhookSpec) -> Self {
        let WebhookSpec { url, headers, json, sign } = hook;
        let headers =
            headers.into_iter().filter(|(name, _)| !RESERVED_HEADERS.contains(&name.to_ascii_lowercase().as_str()));
        let headers: Vec<_> = headers.map(|(name, value)| (name, TemplatePart::new(json!(value)))).collect();
        let (url, json) = (TemplatePart::new(json!(url)), TemplatePart::new(json));
        // The parts are the scheme, an empty string, the host, and the path.
        let one_server = !url.is_personal() || url.common_prefix(&ctx.expr_context).splitn(4, '/').count() == 4;
        Self {
            http: http.clone(),
            key: ctx.step.key.clone(),
            personal: RecipientContext::new(
                &ctx.expr_context,
                headers.iter().map(|(_, value)| value).chain([&url, &json]),
            ),
            signed: sign.is_some(),
            hops: ctx.run.next_hops(),
            one_server,
            url,
            headers,
            json,
        }
    }

    fn build_request(&self, scope: &ExprContext, id: &str) -> Result<EgressRequest, DeliveryError> {
        let mut request =
            EgressRequest::post(&self.url.resolve_url(scope)?).map_err(|error| self.url.classify_error(error))?;
        for (name, value) in &self.headers {
            request =
                request.with_header(name, &value.resolve_text(scope)?).map_err(|error| value.classify_error(error))?;
        }
        request = request.with_json(&self.json.resolve_value(scope)?).with_hops(self.hops);
        for name in ["idempotency-key", "webhook-id"] {
            request = request.with_header(name, id).map_err(DeliveryError::Channel)?;
        }
        match self.signed {
            true => request
                .with_webhook_signature(self.http.webhook_signer(), id, self.http.clock().now())
                .map_err(DeliveryError::Channel),
            false => Ok(request),
        }
    }

    fn classify_error(&self, error: Error) -> DeliveryError {
        let status = error.details().and_then(|facts| facts["status"].as_u64());
        let of_the_server = SERVER_ERROR_CODES.contains(&error.code())
            || status.is_some_and(|status| UNAVAILABLE_STATUSES.contains(&status));
        match error.code() {
            // Without an HTTP client no recipient can be notified.
            codes::HTTP_CLIENT_FAILED => DeliveryError::Channel(error),
            _ if of_the_server && self.one_server => DeliveryError::Channel(error),
            _ => DeliveryError::Recipient(error),
        }
    }
}

impl per_recipient::DeliveryChannel for WebhookChannel {
    async fn deliver_to(&self, person: &Recipient, reason: &'static str) -> Result<(), DeliveryError> {
        let scope = self.personal.for_recipient(person, reason)?;
        let id = WebhookSigner::message_id(&format!("{}/{}", self.key, recipient_key_text(person)));
        let request = self.build_request(&scope, &id)?;
        let answer = self
            .http
            .send(request)
            .await
            .and_then(EgressResponse::error_for_status)
            .map_err(|error| self.classify_error(error))?;
        // The content does not matter, but a connection can be reused only after its response is read.
        drop(answer.read_bytes().await);
        Ok(())
    }
}
