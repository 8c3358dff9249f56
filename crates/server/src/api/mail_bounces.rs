//! `POST /v1/mail/bounces`: reports about mails that came back, and complaints.

use std::collections::BTreeMap;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use ulid::Ulid;

use super::ApiState;
use super::auth::Caller;
use super::client_address::ClientAddress;
use super::extract::{self, StrictQuery};
use super::problem::Problem;
use super::scopes::{ApiKeyScope, missing_scope};
use crate::codes;
use afterload_core::error::Result;
use afterload_core::keyring::TokenPurpose;
use afterload_core::text::refuse_nul_in_json;
use afterload_mailer::{BounceKind, ParsedBounces, is_topic_validation, parse_provider_report, parse_report_message};
use afterload_state::{SuppressionReason, SuppressionRecord};

/// The id from which the token of this webhook is derived.
pub const MAIL_WEBHOOK: &str = "mail";

/// The query of the webhook.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct BounceTokenQuery {
    /// The token that `afterload key hook --mail` prints, instead of an API key.
    token: Option<String>,
}

/// The webhook of a provider.
#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "only its schema is used")]
pub(super) enum ProviderReport {
    /// One event: Amazon SES, plain or in a message of SNS; Postmark; Mailgun.
    Event(Map<String, Value>),
    /// Several events: SendGrid, and lists of the others.
    Events(Vec<Map<String, Value>>),
}

/// A whole message, as a mail server sends it (`message/rfc822`, or its body as `multipart/report`): a delivery status
/// notification or an abuse report.
pub(super) struct ReportMessage;

impl JsonSchema for ReportMessage {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ReportMessage".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({})
    }
}

/// What a report did.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct BounceResult {
    /// The number of addresses that receive no mails from now on.
    suppressed: u64,
    /// The number of failures that may end, or that lie in the mail. They are only counted.
    transient: u64,
    /// The number of events that say something else.
    ignored: u64,
    /// A subscription of SNS that a person has to confirm.
    #[serde(skip_serializing_if = "Option::is_none")]
    confirmation: Option<SubscriptionView>,
}

/// A subscription of SNS that a person has to confirm.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct SubscriptionView {
    /// The topic.
    topic: String,
    /// The URL that confirms it.
    confirm: String,
}

/// Responds with 200 once every address is suppressed. After any other status the sender repeats the report.
pub(super) async fn receive_bounces(
    State(app): State<ApiState>,
    StrictQuery(query): StrictQuery<BounceTokenQuery>,
    client: ClientAddress,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<BounceResult>, Problem> {
    match &query.token {
        Some(token) if app.keyring().verify_token(TokenPurpose::MailBounces, MAIL_WEBHOOK, token) => {}
        Some(_) => {
            return Err(Problem::new(codes::TOKEN_INVALID, "the token is not the one of this webhook")
                .with_hint("`afterload key hook --mail` prints the address with its token"));
        }
        None => {
            if !Caller::from_headers(&app, client, &headers).await?.can_report_bounces() {
                return Err(missing_scope(&ApiKeyScope::BouncesWrite).into());
            }
        }
    }
    let body = extract::read_body(body, app.config().max_body).await?;
    let parsed = parse_report(&headers, &body)?;
    let records = suppression_records(&app, &parsed);
    let suppressed = app.db().mail_suppressions().insert(&records).await?;
    for report in &parsed.reports {
        app.engine().metrics().count_bounce(report.kind.as_str());
    }
    let transient = parsed.reports.iter().filter(|report| report.kind == BounceKind::Transient).count() as u64;
    if suppressed > 0 {
        tracing::info!(suppressed, transient, "mails came back");
    }
    if let Some(confirmation) = &parsed.confirmation {
        tracing::warn!(
            topic = confirmation.topic,
            url = confirmation.url,
            "a topic of Amazon SNS asks for bounces: open the URL if it is yours"
        );
    }
    let confirmation = parsed
        .confirmation
        .map(|confirmation| SubscriptionView { topic: confirmation.topic, confirm: confirmation.url });
    Ok(Json(BounceResult { suppressed, transient, ignored: parsed.ignored, confirmation }))
}

/// Reads a report by its media type, or by its content where the type says nothing: SNS sends JSON as text, and mail servers
/// may not name a type at all.
fn parse_report(headers: &HeaderMap, body: &[u8]) -> Result<ParsedBounces> {
    let start = body.trim_ascii_start();
    let is_of_provider = start.starts_with(b"{") || start.starts_with(b"[") || is_topic_validation(body);
    match extract::media_type(headers).as_deref() {
        // The header of the request is the one of the message.
        Some("multipart/report") => {
            let media = headers.get(CONTENT_TYPE).map(axum::http::HeaderValue::as_bytes).unwrap_or_default();
            parse_report_message(&[&b"Content-Type: "[..], media, b"\r\n\r\n", body].concat())
        }
        Some("message/rfc822" | "message/global") => parse_report_message(body),
        Some(media) if media != "application/json" && !is_of_provider => parse_report_message(body),
        _ => {
            refuse_nul_in_json("the body", body)?;
            parse_provider_report(body)
        }
    }
}

/// The addresses to suppress, each once. A complaint says more than a bounce.
fn suppression_records(app: &ApiState, parsed: &ParsedBounces) -> Vec<SuppressionRecord> {
    let mut reports = BTreeMap::new();
    for report in &parsed.reports {
        let reason = match report.kind {
            BounceKind::Permanent => SuppressionReason::Bounced,
            BounceKind::Complaint => SuppressionReason::Complained,
            BounceKind::Transient => continue,
        };
        let known = reports.entry(report.address.as_str()).or_insert((reason, report.detail.as_str()));
        if reason == SuppressionReason::Complained {
            *known = (reason, report.detail.as_str());
        }
    }
    let created_at = app.db().now();
    let to_record = |(address, (reason, detail)): (&str, (SuppressionReason, &str))| SuppressionRecord {
        id: Ulid::generate().to_string(),
        list: SuppressionRecord::EVERY_LIST.to_owned(),
        address: address.to_owned(),
        reason,
        detail: (!detail.is_empty()).then(|| detail.to_owned()),
        run_id: None,
        created_at,
    };
    reports.into_iter().map(to_record).collect()
}
