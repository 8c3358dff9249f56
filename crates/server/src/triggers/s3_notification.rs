//! Event notifications of S3 stores by webhook: AWS (also through SNS, SQS and EventBridge), MinIO, Ceph and compatible
//! stores.

use schemars::JsonSchema;
use serde::Serialize;

use super::Triggers;
use super::accept::is_retryable;
use super::notification_body::{ParsedNotification, SnsSubscription, parse_notification};
use crate::codes;
use afterload_core::error::{Error, Result};

/// The result of a notification.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct NotificationResult {
    /// The runs that it started, all committed.
    pub started: Vec<String>,
    /// The runs that start later, for several objects: their trigger has `debounce` or `batch`. The objects are on disk.
    pub batched: Vec<String>,
    /// How often a pipeline had already had the object.
    pub known: usize,
    /// The number of records that start no run: no trigger matches, or the object is gone.
    pub ignored: usize,
    /// A subscription that has to be confirmed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subscription: Option<SnsSubscription>,
}

impl Triggers {
    /// Handles the body of a webhook. Every run that it starts is committed when this returns; records without a
    /// matching trigger are ignored.
    ///
    /// # Errors
    /// `notification_invalid`, `notification_unknown`, or an error after which the sender has to repeat the whole
    /// notification.
    pub async fn receive_notification(&self, body: &[u8]) -> Result<NotificationResult> {
        let ParsedNotification { created, others, subscription } = parse_notification(body)?;
        if let Some(SnsSubscription { topic, confirm }) = &subscription {
            tracing::warn!(topic, confirm, "an SNS topic asks for a subscription; open the URL to confirm it");
        }
        let mut received = NotificationResult { ignored: others, subscription, ..NotificationResult::default() };
        let targets = self.0.live_s3_triggers().await?;
        for created in created {
            match self.0.accept_object(&targets, &created).await {
                Ok(accepted) if accepted.is_ignored() => received.ignored += 1,
                Ok(accepted) => {
                    received.started.extend(accepted.started);
                    // Several objects may share a run.
                    let new: Vec<_> =
                        accepted.batched.into_iter().filter(|run| !received.batched.contains(run)).collect();
                    received.batched.extend(new);
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
