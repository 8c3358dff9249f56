//! The bodies of S3 event notifications, in all envelopes.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::object_created::ObjectCreated;
use crate::codes;
use crate::whole_number;
use afterload_core::clock;
use afterload_core::error::{Error, Result};
use afterload_core::object_names::decode_key;

/// How many envelopes and lists may be around a record.
const MAX_NESTING: usize = 10;

/// What happened to one object.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct S3EventRecord {
    #[schemars(length(min = 1))]
    event_name: String,
    #[serde(default)]
    event_source: String,
    event_time: Option<String>,
    s3: S3EventEntity,
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
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SnsEnvelope {
    /// `Notification`, `SubscriptionConfirmation` or `UnsubscribeConfirmation`.
    #[serde(rename = "Type")]
    kind: String,
    /// A notification of S3, as text.
    #[serde(default)]
    message: String,
    #[serde(default)]
    topic_arn: String,
    #[serde(default, rename = "SubscribeURL")]
    subscribe_url: Option<String>,
}

/// An event of EventBridge.
#[derive(Deserialize, JsonSchema)]
pub struct EventBridgeEvent {
    /// `aws.s3`
    #[schemars(extend("const" = "aws.s3"))]
    source: String,
    /// Such as `Object Created`.
    #[serde(rename = "detail-type")]
    detail_type: String,
    time: Option<String>,
    detail: EventBridgeDetail,
}

/// What happened to which object.
#[derive(Deserialize, JsonSchema)]
struct EventBridgeDetail {
    bucket: S3EventBucket,
    object: EventBridgeObject,
}

/// Its key, not encoded, and its state.
#[derive(Deserialize, JsonSchema)]
struct EventBridgeObject {
    key: String,
    #[serde(default, deserialize_with = "whole_number::deserialize_optional_u64")]
    size: Option<u64>,
    #[serde(default)]
    etag: Option<String>,
    #[serde(default, rename = "version-id")]
    version_id: Option<String>,
}

/// An SNS subscription to confirm. Anyone can send one, so the service never opens the URL; a person has to check it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct SnsSubscription {
    /// The topic.
    pub topic: String,
    /// The URL that confirms it.
    pub confirm: String,
}

/// The content of a body.
#[derive(Debug, Default, PartialEq)]
pub struct ParsedNotification {
    /// The created objects.
    pub created: Vec<ObjectCreated>,
    /// The number of events of other kinds.
    pub others: usize,
    /// A subscription that has to be confirmed.
    pub subscription: Option<SnsSubscription>,
}

/// Unwraps a body. An empty one and a test of the connection hold nothing.
///
/// # Errors
/// `notification_invalid` for a body that is no JSON, and `notification_unknown` for any content that is no event of
/// S3: its sender must not take it for delivered.
pub fn parse_notification(body: &[u8]) -> Result<ParsedNotification> {
    let mut parsed = ParsedNotification::default();
    if !body.trim_ascii().is_empty() {
        let body = serde_json::from_slice(body).map_err(|error| invalid_error(&error))?;
        parsed.read_value(body, MAX_NESTING)?;
    }
    Ok(parsed)
}

impl ParsedNotification {
    fn read_value(&mut self, value: Value, nesting: usize) -> Result<()> {
        let Some(nesting) = nesting.checked_sub(1) else {
            return Err(unknown_error("it has too many envelopes"));
        };
        match value {
            Value::Array(items) if !items.is_empty() => self.read_list(items, nesting),
            Value::Object(fields) => self.read_fields(fields, nesting),
            _ => Err(unknown_error("it is no object")),
        }
    }

    fn read_list(&mut self, items: Vec<Value>, nesting: usize) -> Result<()> {
        items.into_iter().try_for_each(|item| self.read_value(item, nesting))
    }

    fn read_text(&mut self, text: &str, nesting: usize) -> Result<()> {
        self.read_value(serde_json::from_str(text).map_err(|error| invalid_error(&error))?, nesting)
    }

    fn read_fields(&mut self, mut fields: Map<String, Value>, nesting: usize) -> Result<()> {
        // The test event that AWS sends when notifications are enabled.
        if fields.get("Event").is_some_and(|event| event == "s3:TestEvent") {
            return Ok(());
        }
        // S3 and Lambda send `Records`, and the API of SQS `Messages`.
        for name in ["Records", "Messages"] {
            match fields.remove(name) {
                None => {}
                Some(Value::Array(items)) => return self.read_list(items, nesting),
                Some(_) => return Err(unknown_error(&format!("its `{name}` are no list"))),
            }
        }
        if fields.contains_key("s3") {
            return self.add_record(parse_fields(fields)?);
        }
        if fields.contains_key("detail-type") {
            return self.add_event(parse_fields(fields)?);
        }
        // Messages of SQS have a body, and those that SNS sends to Lambda an inner message.
        for name in ["body", "Body", "Sns"] {
            match fields.remove(name) {
                None => {}
                Some(Value::String(text)) => return self.read_text(&text, nesting),
                Some(value) => return self.read_value(value, nesting),
            }
        }
        match fields.contains_key("Type") {
            true => self.read_sns(parse_fields(fields)?, nesting),
            false => Err(unknown_error("it has no `Records`")),
        }
    }

    fn read_sns(&mut self, envelope: SnsEnvelope, nesting: usize) -> Result<()> {
        match (envelope.kind.as_str(), envelope.subscribe_url) {
            ("SubscriptionConfirmation", Some(confirm)) => {
                let confirm = confirm.chars().filter(|c| !c.is_control()).take(2000).collect();
                self.subscription = Some(SnsSubscription { topic: envelope.topic_arn, confirm });
                Ok(())
            }
            ("UnsubscribeConfirmation", _) => Ok(()),
            ("Notification", _) => self.read_text(&envelope.message, nesting),
            _ => Err(unknown_error("it is neither a notification nor an envelope of SNS")),
        }
    }

    fn add_record(&mut self, record: S3EventRecord) -> Result<()> {
        let name = record.event_name.strip_prefix("s3:").unwrap_or(&record.event_name);
        if record.event_name.is_empty() {
            return Err(unknown_error("a record has no `eventName`"));
        }
        if !name.starts_with("ObjectCreated:") {
            self.others += 1;
            return Ok(());
        }
        let S3EventEntity { bucket, object } = record.s3;
        self.created.push(ObjectCreated {
            bucket: bucket.name,
            keys: candidate_keys(&object.key, record.event_source == "ceph:s3"),
            version: non_empty_text(object.version_id),
            etag: unquote_etag(object.e_tag),
            size: object.size,
            at: record.event_time.as_deref().and_then(clock::parse_rfc3339),
        });
        Ok(())
    }

    fn add_event(&mut self, event: EventBridgeEvent) -> Result<()> {
        if event.source != "aws.s3" {
            return Err(unknown_error("its `source` is not `aws.s3`"));
        }
        if event.detail_type != "Object Created" {
            self.others += 1;
            return Ok(());
        }
        let EventBridgeDetail { bucket, object } = event.detail;
        self.created.push(ObjectCreated {
            bucket: bucket.name,
            keys: vec![object.key],
            version: non_empty_text(object.version_id),
            etag: unquote_etag(object.etag),
            size: object.size,
            at: event.time.as_deref().and_then(clock::parse_rfc3339),
        });
        Ok(())
    }
}

fn parse_fields<T: serde::de::DeserializeOwned>(fields: Map<String, Value>) -> Result<T> {
    serde_json::from_value(Value::Object(fields)).map_err(|error| unknown_error(&error.to_string()))
}

fn non_empty_text(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty() && text != "null")
}

fn unquote_etag(etag: Option<String>) -> String {
    non_empty_text(etag).map(|etag| etag.trim_matches('"').to_owned()).unwrap_or_default()
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

fn invalid_error(error: &serde_json::Error) -> Error {
    Error::new(codes::NOTIFICATION_INVALID, format!("the body is no S3 event notification: {error}"))
}

fn unknown_error(why: &str) -> Error {
    Error::new(codes::NOTIFICATION_UNKNOWN, format!("the body is no S3 event notification: {why}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(body: &Value) -> Result<ParsedNotification> {
        parse_notification(body.to_string().as_bytes())
    }

    fn event(detail_type: &str) -> Value {
        json!({
            "version": "0", "id": "17793124-05d4", "detail-type": detail_type, "source": "aws.s3",
            "account": "1", "time": "2026-05-01T10:00:00Z", "region": "eu-west-3", "resources": [],
            "detail": {
                "version": "0", "bucket": { "name": "uploads" }, "reason": "PutObject",
                "object": { "key": "in/a+b%2B.csv", "size": 3, "etag": "abc", "version-id": "v1", "sequencer": "0" },
            },
        })
    }

    #[test]
    fn events_of_eventbridge_have_plain_keys() {
        let created = parse(&event("Object Created")).unwrap().created.remove(0);
        assert_eq!((created.bucket.as_str(), &*created.keys), ("uploads", &["in/a+b%2B.csv".to_owned()][..]));
        assert_eq!((created.version.as_deref(), created.etag.as_str(), created.size), (Some("v1"), "abc", Some(3)));
        assert_eq!(created.at, clock::parse_rfc3339("2026-05-01T10:00:00Z"));
        assert_eq!(parse(&event("Object Deleted")).unwrap().others, 1);
        let mut foreign = event("Object Created");
        foreign["source"] = "aws.ec2".into();
        assert_eq!(parse(&foreign).unwrap_err().code(), codes::NOTIFICATION_UNKNOWN);
    }

    #[test]
    fn envelopes_are_unwrapped_in_any_order() {
        let plain = parse(&event("Object Created")).unwrap();
        let text = event("Object Created").to_string();
        let sns = json!({ "Type": "Notification", "MessageId": "1", "TopicArn": "t", "Message": text }).to_string();
        for body in [
            json!([event("Object Created")]),
            json!({ "Records": [{ "messageId": "1", "eventSource": "aws:sqs", "body": text }] }),
            json!({ "Messages": [{ "MessageId": "1", "ReceiptHandle": "r", "Body": text }] }),
            json!({ "messageId": "1", "body": event("Object Created") }),
            json!([{ "messageId": "1", "eventSource": "aws:sqs", "body": sns }]),
            json!({ "Records": [{ "EventSource": "aws:sns", "Sns": { "Type": "Notification", "Message": text } }] }),
        ] {
            assert_eq!(parse(&body).unwrap(), plain, "{body}");
        }
        let two = json!({ "Messages": [{ "Body": text }, { "Body": sns }] });
        assert_eq!(parse(&two).unwrap().created.len(), 2);
        let test = json!({ "Messages": [{ "Body": "{\"Event\": \"s3:TestEvent\"}" }] });
        assert_eq!(parse(&test).unwrap(), ParsedNotification::default());
    }

    #[test]
    fn unknown_content_is_an_error_at_every_depth() {
        let endless = (0..MAX_NESTING).fold(event("Object Created"), |inner, _| json!({ "body": inner }));
        for body in [
            json!({}),
            json!([]),
            json!(1),
            json!({ "Records": [{}] }),
            json!({ "Records": [{ "eventName": "INSERT", "dynamodb": {} }] }),
            json!({ "Records": [event("Object Created"), { "body": "{}" }] }),
            json!({ "Messages": [{ "Body": "1" }] }),
            json!({ "detail-type": "Object Created", "source": "aws.s3", "detail": {} }),
            json!({ "Type": "Other" }),
            endless,
        ] {
            assert_eq!(parse(&body).unwrap_err().code(), codes::NOTIFICATION_UNKNOWN, "{body}");
        }
        assert_eq!(parse_notification(b"no JSON").unwrap_err().code(), codes::NOTIFICATION_INVALID);
        assert_eq!(parse_notification(b" ").unwrap(), ParsedNotification::default());
    }
}
