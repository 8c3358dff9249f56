//! Sends the request of `http.request` with a stable idempotency key, and turns the response into outputs.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::fields::field_pairs;
use super::{ExpectedStatus, HttpMethod, HttpRequest, HttpRequestOutputs};
use crate::codes;
use afterload_core::decimal::parse_exact_json;
use afterload_core::error::{Error, Result};
use afterload_core::file::File;
use afterload_core::redactor::Redactor;
use afterload_core::units::{self, ByteSize};
use afterload_egress::{EgressClient, EgressRequest, EgressResponse, RESERVED_HEADERS, WebhookSigner, encode_form};
use afterload_pipeline::Templated;
use afterload_step_api::{EffectState, ProgressUpdate, StepContext};

/// The default timeout of a request whose response is saved.
const DEFAULT_SAVE_TIMEOUT: Duration = Duration::from_secs(600);
const MAX_REQUEST_TIMEOUT: Duration = Duration::from_secs(86_400);
const DEFAULT_MAX_SAVE_SIZE: ByteSize = ByteSize(1 << 30);
/// A step sends one request, so one key is enough.
const CALL_EFFECT_KEY: &str = "call";
/// A longer media type is replaced by `application/octet-stream`.
const MAX_MEDIA_TYPE_BYTES: usize = 200;

pub(super) const TIMEOUT_RANGE_ERROR: &str = "`timeout` must be more than nothing and at most `1d`";
pub(super) const TIMEOUT_HINT: &str = "write a duration such as `10s`";

pub(super) fn check_timeout(said: units::HumanDuration) -> Result<Duration> {
    let fits = !said.0.is_zero() && said.0 <= MAX_REQUEST_TIMEOUT;
    if fits { Ok(said.0) } else { Err(Error::new(codes::WITH_INVALID, TIMEOUT_RANGE_ERROR).with_hint(TIMEOUT_HINT)) }
}

/// A request that is ready to send.
pub(super) struct HttpCall {
    request: EgressRequest,
    expect: ExpectedStatus,
    signed: bool,
    save: Option<(String, ByteSize)>,
}

/// The record of a successful request.
#[derive(Serialize, Deserialize)]
struct RecordedResponse {
    status: u16,
    headers: BTreeMap<String, String>,
    text: Option<String>,
}

impl HttpCall {
    pub(super) fn new(step: HttpRequest, ctx: &StepContext) -> Result<Self> {
        let body = build_body(step.body, step.json, step.form)?;
        let method = step.method.unwrap_or(if body.is_some() { HttpMethod::Post } else { HttpMethod::Get });
        let mut request = EgressRequest::new(method.into(), &step.url.into_value()?)?;
        for (name, value) in step.headers {
            if !RESERVED_HEADERS.contains(&name.to_ascii_lowercase().as_str()) {
                request = request.with_header(&name, &value.into_value()?)?;
            }
        }
        let query = field_pairs("query", step.query)?;
        request = request.with_query(query.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        if let Some((content_type, body)) = body {
            request = request.with_body(content_type, body);
        }
        let save = step.save.map(Templated::into_value).transpose()?;
        let timeout = step.timeout.map(|said| check_timeout(said.into_value()?)).transpose()?;
        if let Some(timeout) = timeout.or(save.is_some().then_some(DEFAULT_SAVE_TIMEOUT)) {
            request = request.with_timeout(timeout);
        }
        if step.expect.accepts_redirects() {
            request = request.without_redirects();
        }
        Ok(Self {
            request: request.with_hops(ctx.run.next_hops()).with_header("idempotency-key", &ctx.step.key)?,
            expect: step.expect,
            signed: step.sign.is_some(),
            save: save.map(|name| (name, step.max_size.unwrap_or(DEFAULT_MAX_SAVE_SIZE))),
        })
    }

    /// Sends the request, unless the effect log shows that an earlier attempt succeeded.
    pub(super) async fn send_once(self, ctx: &StepContext, http: &EgressClient) -> Result<HttpRequestOutputs> {
        let hidden = http.redactor();
        if let Some((name, most)) = &self.save {
            let answer = self.send_request(ctx, http).await?;
            let (status, headers) = (answer.status_code(), redacted_headers(&answer, hidden));
            let file = save_body(answer, name, *most, ctx).await?;
            return Ok(HttpRequestOutputs { status, headers, json: None, text: None, file: Some(file) });
        }
        if let EffectState::Done(detail) = ctx.effect_log.begin_effect(CALL_EFFECT_KEY).await? {
            let recorded: RecordedResponse = serde_json::from_value(detail)
                .map_err(|error| Error::new(codes::EFFECT_UNREADABLE, format!("the recorded answer: {error}")))?;
            return Ok(recorded.into_outputs(hidden));
        }
        let answer = self.send_request(ctx, http).await?;
        let (status, headers) = (answer.status_code(), redacted_headers(&answer, hidden));
        let text = ctx.unless_aborted(answer.read_text()).await?;
        let recorded = RecordedResponse { status, headers, text: text.map(|text| hidden.redact_text(&text)) };
        ctx.effect_log.mark_done(CALL_EFFECT_KEY, json!(recorded)).await?;
        Ok(recorded.into_outputs(hidden))
    }

    async fn send_request(&self, ctx: &StepContext, http: &EgressClient) -> Result<EgressResponse> {
        let mut request = self.request.clone();
        if self.signed {
            let id = WebhookSigner::message_id(&ctx.step.key);
            request = request.with_webhook_signature(http.webhook_signer(), &id, ctx.clock.now())?;
        }
        let answer = ctx.unless_aborted(http.send(request)).await?;
        match self.expect.accepts_status(answer.status_code()) {
            true => Ok(answer),
            false => {
                let refusal = async { Err(answer.into_status_error().await) };
                let hint = "`expect` says which statuses are a success";
                ctx.unless_aborted(refusal).await.map_err(|error| error.with_hint(hint))
            }
        }
    }
}

impl RecordedResponse {
    fn into_outputs(self, hidden: &Redactor) -> HttpRequestOutputs {
        let Self { status, headers, text } = self;
        // A body is not JSON if it is not text, or if the server compressed it without being asked.
        let json = text.as_deref().and_then(|text| parse_exact_json::<serde_json::Value>(text).ok());
        HttpRequestOutputs { status, headers, json: json.map(|json| hidden.redact_json(json)), text, file: None }
    }
}

/// Returns the body and its media type.
fn build_body(
    body: Option<Templated<String>>,
    json: Option<serde_json::Value>,
    form: Option<serde_json::Map<String, serde_json::Value>>,
) -> Result<Option<(&'static str, Bytes)>> {
    Ok(match (body, json, form) {
        (Some(text), ..) => Some(("text/plain; charset=utf-8", text.into_value()?.into())),
        (None, Some(json), _) => Some(("application/json", json.to_string().into())),
        (None, None, Some(form)) => {
            let form = encode_form(&field_pairs("form", form)?);
            Some(("application/x-www-form-urlencoded", form.into()))
        }
        (None, None, None) => None,
    })
}

fn redacted_headers(answer: &EgressResponse, hidden: &Redactor) -> BTreeMap<String, String> {
    answer.text_headers().into_iter().map(|(name, value)| (name, hidden.redact_text(&value))).collect()
}

/// Streams the body to a file of the step.
async fn save_body(mut answer: EgressResponse, name: &str, most: ByteSize, ctx: &StepContext) -> Result<File> {
    let total = answer.content_length();
    if total.is_some_and(|total| total > most.0) {
        return Err(answer.too_large_error(most.0));
    }
    let media = answer.header_text("content-type").unwrap_or_default().trim();
    let fits = media.contains('/')
        && media.len() <= MAX_MEDIA_TYPE_BYTES
        && media.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    let media = if fits { media.to_owned() } else { "application/octet-stream".to_owned() };
    let mut file = ctx.files.create(name, &media).await?;
    let mut done = 0;
    while let Some(bytes) = next_chunk_unless_stopped(&mut answer, ctx).await? {
        done += bytes.len() as u64;
        if done > most.0 {
            return Err(answer.too_large_error(most.0));
        }
        file.write(bytes).await?;
        ctx.progress.report_committed(ProgressUpdate {
            done,
            total,
            unit: "bytes".into(),
            ..ProgressUpdate::default()
        });
    }
    file.finish().await
}

/// A server that sends nothing must not hold a step that should stop.
async fn next_chunk_unless_stopped(answer: &mut EgressResponse, ctx: &StepContext) -> Result<Option<Bytes>> {
    match ctx.stop.run_until_cancelled(answer.next_chunk()).await {
        Some(read) => read,
        None => ctx.check_stopped().map(|()| None),
    }
}
