//! Event notifications of S3 stores by webhook: AWS (also through SNS), MinIO, Ceph and compatible stores.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Triggers;
use super::accept::is_retryable;
use super::object_created::ObjectCreated;
use crate::codes;
use crate::whole_number;
use afterload_core::clock::{self, UnixMillis};
use afterload_core::error::{Error, Result};
use afterload_core::object_names::decode_key;

/// The result of a notification.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct NotificationResult {
    /// The runs that it started, all committed.
    pub started: Vec<String>,
    /// How often a pipeline had already had the object.
    pub known: usize,
    /// The number of records that start no run: no trigger matches, or the object is gone.
    pub ignored: usize,
    /// A subscription that has to be confirmed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subscription: Option<SnsSubscription>,
}

/// An SNS subscription to confirm. Anyone can send one, so the service never opens the URL; a person has to check it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct SnsSubscription {
    /// The topic.
    pub topic: String,
    /// The URL that confirms it.
    pub confirm: String,
}

/// The body of a notification, for its description.
#[derive(JsonSchema)]
#[schemars(untagged)]
pub enum S3NotificationBody {
    /// From the store.
    Records(S3Notification),
    /// What AWS sends when notifications are enabled.
    Test(S3TestEvent),
    /// The same through SNS.
    Sns(SnsEnvelope),
}

/// A test of the connection.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its schema is used")]
pub struct S3TestEvent {
    /// `s3:TestEvent`
    #[schemars(rename = "Event", extend("const" = "s3:TestEvent"))]
    event: String,
}

/// What happened to objects.
#[derive(Deserialize, JsonSchema)]
pub struct S3Notification {
    #[serde(rename = "Records")]
    records: Vec<S3EventRecord>,
}

/// What happened to one object.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct S3EventRecord {
    #[serde(default)]
    event_name: String,
    #[serde(default)]
    event_source: String,
    event_time: Option<String>,
    s3: Option<S3EventEntity>,
}

/// The object.
#[derive(Deserialize, JsonSchema)]
struct S3EventEntity {
    bucket: S3EventBucket,
    object: S3EventObject,
}

/// Its bucket.
#[derive(Deserialize, JsonSchema)]
struct S3EventBucket {
    name: String,
}

/// Its key and state.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct S3EventObject {
    key: String,
    #[serde(default, deserialize_with = "whole_number::deserialize_optional_u64")]
    size: Option<u64>,
    #[serde(default, alias = "etag")]
    e_tag: Option<String>,
    #[serde(default)]
    version_id: Option<String>,
}

/// The SNS message around the notification.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "PascalCase")]
pub struct SnsEnvelope {
    /// `Notification`, `SubscriptionConfirmation` or `UnsubscribeConfirmation`.
    #[serde(rename = "Type")]
    #[schemars(extend("enum" = ["Notification", "SubscriptionConfirmation", "UnsubscribeConfirmation"]))]
    kind: String,
    /// A notification of S3, as text.
    #[serde(default)]
    message: String,
    #[serde(default)]
    topic_arn: String,
    #[serde(default, rename = "SubscribeURL")]
    subscribe_url: Option<String>,
}

/// The content of a body.
#[derive(Debug, PartialEq)]
enum ParsedNotification {
    Objects { created: Vec<ObjectCreated>, others: usize },
    Confirm(SnsSubscription),
    Empty,
}

impl Triggers {
    /// Handles the body of a webhook. Every run that it starts is committed when this returns; records without a
    /// matching trigger are ignored.
    ///
    /// # Errors
    /// `notification_invalid`, or an error after which the sender has to repeat the whole notification.
    pub async fn receive_notification(&self, body: &[u8]) -> Result<NotificationResult> {
        let (created, others) = match parse_notification(body)? {
            ParsedNotification::Empty => return Ok(NotificationResult::default()),
            ParsedNotification::Confirm(subscription) => {
                let SnsSubscription { topic, confirm } = &subscription;
                tracing::warn!(topic, confirm, "an SNS topic asks for a subscription; open the URL to confirm it");
                return Ok(NotificationResult { subscription: Some(subscription), ..NotificationResult::default() });
            }
            ParsedNotification::Objects { created, others } => (created, others),
        };
        let mut received = NotificationResult { ignored: others, ..NotificationResult::default() };
        let targets = self.0.live_s3_triggers().await?;
        for created in created {
            match self.0.accept_object(&targets, &created).await {
                Ok(accepted) if accepted.started.is_empty() && accepted.duplicates == 0 => received.ignored += 1,
                Ok(accepted) => {
                    received.started.extend(accepted.started);
                    received.known += accepted.duplicates;
                }
                // The sender repeats the whole notification. Dedup keys skip the objects that have their runs already.
                Err(error) if is_retryable(&error) => {
                    return Err(Error::new(codes::HOOK_UNAVAILABLE, error.message()));
                }
                Err(error) => {
                    tracing::error!(error.code = error.code().name(), "a new object starts no run: {error}");
                    received.ignored += 1;
                }
            }
        }
        Ok(received)
    }
}

fn parse_notification(body: &[u8]) -> Result<ParsedNotification> {
    if body.trim_ascii().is_empty() {
        return Ok(ParsedNotification::Empty);
    }
    let body: Value = serde_json::from_slice(body).map_err(|error| notification_error(&error.to_string()))?;
    if body.get("Records").is_some() {
        return parse_records(body);
    }
    // The test event that AWS sends when notifications are enabled.
    if body.get("Event").is_some_and(|event| event == "s3:TestEvent") {
        return Ok(ParsedNotification::Empty);
    }
    let Ok(envelope) = serde_json::from_value::<SnsEnvelope>(body) else {
        return Err(notification_error("it has no `Records`"));
    };
    match (envelope.kind.as_str(), envelope.subscribe_url) {
        ("SubscriptionConfirmation", Some(confirm)) => {
            let confirm = confirm.chars().filter(|c| !c.is_control()).take(2000).collect();
            Ok(ParsedNotification::Confirm(SnsSubscription { topic: envelope.topic_arn, confirm }))
        }
        ("UnsubscribeConfirmation", _) => Ok(ParsedNotification::Empty),
        ("Notification", _) => {
            let message: Value =
                serde_json::from_str(&envelope.message).map_err(|error| notification_error(&error.to_string()))?;
            match message.get("Event").is_some_and(|event| event == "s3:TestEvent") {
                true => Ok(ParsedNotification::Empty),
                false => parse_records(message),
            }
        }
        _ => Err(notification_error("it is neither a notification nor an envelope of SNS")),
    }
}

fn parse_records(body: Value) -> Result<ParsedNotification> {
    let notification: S3Notification =
        serde_json::from_value(body).map_err(|error| notification_error(&error.to_string()))?;
    let all = notification.records.len();
    let created: Vec<ObjectCreated> = notification.records.into_iter().filter_map(object_created_from_record).collect();
    Ok(ParsedNotification::Objects { others: all - created.len(), created })
}

fn object_created_from_record(record: S3EventRecord) -> Option<ObjectCreated> {
    let name = record.event_name.strip_prefix("s3:").unwrap_or(&record.event_name);
    let S3EventEntity { bucket, object } = record.s3.filter(|_| name.starts_with("ObjectCreated:"))?;
    let text = |text: Option<String>| text.filter(|text| !text.is_empty() && text != "null");
    Some(ObjectCreated {
        bucket: bucket.name,
        keys: candidate_keys(&object.key, record.event_source == "ceph:s3"),
        version: text(object.version_id),
        etag: text(object.e_tag).map(|etag| etag.trim_matches('"').to_owned()).unwrap_or_default(),
        size: object.size,
        at: record.event_time.as_deref().and_then(parse_event_time),
    })
}

/// AWS, MinIO and most others encode keys like forms. Some versions of Ceph send them unencoded. The store decides
/// which key exists.
fn candidate_keys(key: &str, raw_first: bool) -> Vec<String> {
    let mut keys = vec![decode_key(key)];
    if keys[0] != key {
        keys.push(key.to_owned());
    }
    if raw_first {
        keys.reverse();
    }
    keys
}

fn parse_event_time(text: &str) -> Option<UnixMillis> {
    clock::parse_rfc3339(text)
}

fn notification_error(why: &str) -> Error {
    Error::new(codes::NOTIFICATION_INVALID, format!("the body is no S3 event notification: {why}"))
}
