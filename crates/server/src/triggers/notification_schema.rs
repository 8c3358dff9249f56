//! The bodies of S3 event notifications, for the description of the API. `notification_body` reads them.

use schemars::JsonSchema;

use super::notification_body::{EventBridgeEvent, S3EventRecord};

/// The body of a notification, for its description.
#[derive(JsonSchema)]
#[schemars(untagged)]
pub enum S3NotificationBody {
    /// From the store.
    Records(S3Notification),
    /// What AWS sends when notifications are enabled.
    Test(S3TestEvent),
    /// The same through SNS.
    Sns(SnsMessage),
    /// From EventBridge.
    EventBridge(EventBridgeEvent),
    /// Any of them in messages of SQS.
    Sqs(SqsMessages),
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
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its schema is used")]
pub struct S3Notification {
    #[schemars(rename = "Records")]
    records: Vec<S3EventRecord>,
}

/// A message of SNS.
#[derive(JsonSchema)]
#[schemars(untagged)]
pub enum SnsMessage {
    /// It carries a notification.
    Notification {
        /// `Notification`
        #[schemars(rename = "Type", extend("const" = "Notification"))]
        kind: String,
        /// A notification of S3, as text.
        #[schemars(rename = "Message")]
        message: String,
    },
    /// It asks to confirm a subscription.
    Subscription {
        /// `SubscriptionConfirmation`
        #[schemars(rename = "Type", extend("const" = "SubscriptionConfirmation"))]
        kind: String,
        /// The topic.
        #[schemars(rename = "TopicArn")]
        topic_arn: String,
        /// The URL that confirms it.
        #[schemars(rename = "SubscribeURL")]
        subscribe_url: String,
    },
    /// A subscription has ended.
    Unsubscription {
        /// `UnsubscribeConfirmation`
        #[schemars(rename = "Type", extend("const" = "UnsubscribeConfirmation"))]
        kind: String,
    },
}

/// Messages of SQS, as its API returns them. The `Records` of Lambda with a `body` each are understood, too.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its schema is used")]
pub struct SqsMessages {
    #[schemars(rename = "Messages")]
    messages: Vec<SqsMessage>,
}

/// One of them.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its schema is used")]
pub struct SqsMessage {
    /// A notification, as text.
    #[schemars(rename = "Body")]
    body: String,
}
