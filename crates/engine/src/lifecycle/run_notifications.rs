//! Notifies a URL about the end of a run: a Standard Webhook, retried until the receiver accepts it.

use crate::codes;
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use serde_json::json;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::EngineConfig;
use crate::run_errors::error_to_json;
use crate::run_view::RunView;
use afterload_core::clock::UnixMillis;
use afterload_core::error::{Error, Result};
use afterload_core::redactor::Redactor;
use afterload_egress::{EgressClient, EgressRequest, EgressResponse, WebhookSigner};
use afterload_state::{Db, NotificationRecord, NotificationStatus};

/// How often due notifications are polled. The end of a run in this process triggers a poll at once.
const NOTIFICATION_POLL_INTERVAL: Duration = Duration::from_secs(1);
/// The maximum number of parallel requests, so that a few slow receivers do not block the others.
const MAX_PARALLEL_NOTIFICATIONS: usize = 32;
/// The timeout of one attempt.
const NOTIFICATION_TIMEOUT: Duration = Duration::from_secs(30);
/// The lease of a notification. It is longer than any attempt can take.
const NOTIFICATION_LEASE: Duration = Duration::from_secs(60);
/// The pause after the first attempt; it doubles with each further attempt.
const NOTIFICATION_MIN_RETRY_DELAY: Duration = Duration::from_secs(2);
const NOTIFICATION_MAX_RETRY_DELAY: Duration = Duration::from_secs(2 * 3600);
/// Attempts stop this long after the end of the run.
const NOTIFICATION_MAX_AGE: Duration = Duration::from_secs(24 * 3600);
/// HTTP 410 Gone: the receiver wants no more notifications.
const UNSUBSCRIBED_STATUS: u64 = 410;

/// When to try again after a failed attempt; `None`: never.
fn next_attempt_at(
    attempts: u32,
    since: UnixMillis,
    now: UnixMillis,
    error: &Error,
    random: f64,
) -> Option<UnixMillis> {
    let gone = error.details().is_some_and(|facts| facts["status"] == UNSUBSCRIBED_STATUS);
    if gone || [codes::EGRESS_BLOCKED, codes::HTTP_URL_INVALID].contains(&error.code()) {
        return None;
    }
    let pause = NOTIFICATION_MIN_RETRY_DELAY
        .saturating_mul(1 << attempts.saturating_sub(1).min(20))
        .min(NOTIFICATION_MAX_RETRY_DELAY);
    // Half of the pause is random, so that notifications that failed together are not retried together.
    let pause = pause.mul_f64(0.5 + random / 2.0).max(error.retry_after().unwrap_or_default());
    let next = now + pause.as_millis() as i64;
    (next < since + NOTIFICATION_MAX_AGE.as_millis() as i64).then_some(next)
}

#[derive(Clone)]
pub(crate) struct RunNotifier {
    pub(crate) db: Db,
    pub(crate) config: Arc<EngineConfig>,
    pub(crate) http: EgressClient,
    pub(crate) redactor: Redactor,
    /// Notified when a run with a notification ends in this process.
    pub(crate) due: Arc<Notify>,
}

/// Sends due notifications until `stop`. Interrupted requests are sent again after their lease ends.
pub(crate) async fn send_due_notifications(notifier: RunNotifier, stop: CancellationToken) {
    let mut sending = JoinSet::new();
    let mut tick = tokio::time::interval(NOTIFICATION_POLL_INTERVAL);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
            () = notifier.due.notified() => {}
            Some(_) = sending.join_next() => {}
        }
        while sending.try_join_next().is_some() {}
        let free = MAX_PARALLEL_NOTIFICATIONS - sending.len();
        if free == 0 {
            continue;
        }
        match notifier.db.notifications().claim(NOTIFICATION_LEASE, free as u32).await {
            Ok(due) => due.into_iter().for_each(|due| drop(sending.spawn(attempt_notification(notifier.clone(), due)))),
            Err(error) => warn!(error.code = error.code().name(), "reading due notifications failed: {error}"),
        }
    }
}

/// One attempt. If its outcome cannot be stored, the lease ends and the notification is sent again.
async fn attempt_notification(notifier: RunNotifier, due: NotificationRecord) {
    let settled = match notifier.deliver_notification(&due).await {
        Ok(false) => return,
        Ok(true) => {
            info!(run.id = due.run_id, attempts = due.attempts, "run notification sent");
            notifier.db.notifications().record_attempt(&due, NotificationStatus::Sent, None, None).await
        }
        Err(error) => {
            let error = notifier.redactor.redact_error(error);
            let next_at = next_attempt_at(
                due.attempts,
                due.since.unwrap_or(0),
                notifier.db.now(),
                &error,
                rand::rng().random::<f64>(),
            );
            let code = error.code().name();
            let status = match next_at {
                Some(_) => {
                    info!(run.id = due.run_id, error.code = code, "run notification failed; retrying: {error}");
                    NotificationStatus::Pending
                }
                None => {
                    warn!(run.id = due.run_id, error.code = code, "run notification failed: {error}");
                    NotificationStatus::Failed
                }
            };
            notifier.db.notifications().record_attempt(&due, status, next_at, Some(&error_to_json(&error))).await
        }
    };
    if let Err(error) = settled {
        warn!(
            run.id = due.run_id,
            error.code = error.code().name(),
            "the state of a notification was not stored: {error}"
        );
    }
}

impl RunNotifier {
    /// Returns false if the run is active again, so that there is nothing to send.
    async fn deliver_notification(&self, due: &NotificationRecord) -> Result<bool> {
        let view = RunView::read(&self.db, &due.run_id, &self.config.base_url).await?;
        let Some(view) = view.filter(RunView::is_final) else { return Ok(false) };
        // The id is the same for all attempts, so that the receiver can deduplicate.
        let id = WebhookSigner::message_id(&format!("{}/{}", due.run_id, due.since.unwrap_or(0)));
        let event = format!("run.{}", view.status);
        let hops = view.hops.saturating_add(1);
        let body = json!({ "type": event, "timestamp": view.finished_at, "data": view });
        let request = EgressRequest::post(&due.url)?
            .with_json(&body)
            .with_hops(hops)
            .with_timeout(NOTIFICATION_TIMEOUT)
            .with_webhook_signature(self.http.webhook_signer(), &id, self.db.now())?;
        self.http.send(request).await.and_then(EgressResponse::error_for_status)?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1000;

    fn after(attempts: u32, error: &Error) -> Option<i64> {
        next_attempt_at(attempts, 0, 0, error, 1.0)
    }

    #[test]
    fn retry_delay_doubles_up_to_two_hours_and_respects_retry_after() {
        let error = Error::new(codes::HTTP_SERVER_ERROR, "x");
        let pauses: Vec<_> = [1, 2, 3, 11, 13, 14, 99].map(|attempts| after(attempts, &error).unwrap() / SECOND).into();
        assert_eq!(pauses, [2, 4, 8, 2048, 7200, 7200, 7200]);
        assert_eq!(next_attempt_at(1, 0, 0, &error, 0.0), Some(SECOND), "chance takes away half at most");
        let asked = error.with_retry_after(Duration::from_secs(600));
        assert_eq!((after(1, &asked), after(13, &asked)), (Some(600 * SECOND), Some(7200 * SECOND)));
    }

    #[test]
    fn retries_end_after_a_day() {
        let error = Error::new(codes::HTTP_REFUSED, "x").with_details(json!({ "status": 404 }));
        let (mut now, mut attempts) = (0, 1);
        while let Some(at) = next_attempt_at(attempts, 0, now, &error, 1.0) {
            (now, attempts) = (at, attempts + 1);
        }
        assert!((20 * 3600 * SECOND..24 * 3600 * SECOND).contains(&now), "{now}");
        assert_eq!(attempts, 23);
    }

    #[test]
    fn blocked_invalid_and_gone_urls_are_not_retried() {
        for code in [codes::EGRESS_BLOCKED, codes::HTTP_URL_INVALID] {
            assert_eq!(after(1, &Error::new(code, "x")), None);
        }
        assert_eq!(after(1, &Error::new(codes::HTTP_REFUSED, "x").with_details(json!({ "status": 410 }))), None);
    }
}
