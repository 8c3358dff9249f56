//! Telling of the end of a run those who asked for it: a Standard Webhook, sent until the receiver takes it.

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
use afterload_core::clock::{self, UnixMillis};
use afterload_core::error::{Error, Result};
use afterload_core::redactor::Redactor;
use afterload_egress::{EgressClient, EgressRequest, EgressResponse, WebhookSigner};
use afterload_state::{Db, NotificationRecord, NotificationStatus};

/// How often it is looked for what is due; a run that ends in this process is told of at once.
const NOTIFICATION_POLL_INTERVAL: Duration = Duration::from_secs(1);
/// How many are sent at the same time, so that a few receivers that hang do not hold up the others.
const MAX_PARALLEL_NOTIFICATIONS: usize = 32;
/// How long an attempt may take.
const NOTIFICATION_TIMEOUT: Duration = Duration::from_secs(30);
/// Longer than an attempt takes, whatever the receiver does.
const NOTIFICATION_LEASE: Duration = Duration::from_secs(60);
/// The pause after the first attempt; it doubles with each.
const NOTIFICATION_MIN_RETRY_DELAY: Duration = Duration::from_secs(2);
const NOTIFICATION_MAX_RETRY_DELAY: Duration = Duration::from_secs(2 * 3600);
/// So long after the end of the run nobody tries any more.
const NOTIFICATION_MAX_AGE: Duration = Duration::from_secs(24 * 3600);
/// The receiver wants no more of it.
const UNSUBSCRIBED_STATUS: u64 = 410;

/// What comes after an attempt that failed; `None`: nothing.
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
    // Half of it is left to chance, so that those who failed together do not come again together.
    let pause = pause.mul_f64(0.5 + random / 2.0).max(error.retry_after().unwrap_or_default());
    let next = now + pause.as_millis() as i64;
    (next < since + NOTIFICATION_MAX_AGE.as_millis() as i64).then_some(next)
}

/// Tells those who asked for it of the end of runs.
#[derive(Clone)]
pub(crate) struct RunNotifier {
    pub(crate) db: Db,
    pub(crate) config: Arc<EngineConfig>,
    pub(crate) http: EgressClient,
    pub(crate) redactor: Redactor,
    /// Notified when a run has ended here whose end somebody wants to know.
    pub(crate) due: Arc<Notify>,
}

/// Sends what is due until `stop`. What is under way then is broken off, and sent again by whoever comes next.
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
            Err(error) => warn!(error.code = error.code().name(), "notifications could not be looked for: {error}"),
        }
    }
}

/// One attempt. That its outcome cannot be written is survived: the lease ends, and it is made again.
async fn attempt_notification(notifier: RunNotifier, due: NotificationRecord) {
    let settled = match notifier.deliver_notification(&due).await {
        Ok(false) => return,
        Ok(true) => {
            info!(run.id = due.run_id, attempts = due.attempts, "told of the end of the run");
            notifier.db.notifications().record_attempt(&due, NotificationStatus::Sent, None, None).await
        }
        Err(error) => {
            let error = notifier.redactor.redact_error(error);
            let next_at = next_attempt_at(
                due.attempts,
                due.since.unwrap_or(0),
                clock::now_millis(),
                &error,
                rand::rng().random::<f64>(),
            );
            let code = error.code().name();
            let status = match next_at {
                Some(_) => {
                    info!(run.id = due.run_id, error.code = code, "telling of the end of the run failed: {error}");
                    NotificationStatus::Pending
                }
                None => {
                    warn!(
                        run.id = due.run_id,
                        error.code = code,
                        "nobody could be told of the end of the run: {error}"
                    );
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
    /// False: there is nothing to tell, the run goes on.
    async fn deliver_notification(&self, due: &NotificationRecord) -> Result<bool> {
        let view = RunView::read(&self.db, &due.run_id, &self.config.base_url).await?;
        let Some(view) = view.filter(RunView::is_final) else { return Ok(false) };
        let id = WebhookSigner::message_id(&format!("{}/{}", due.run_id, due.since.unwrap_or(0)));
        let event = format!("run.{}", view.status);
        let body = json!({ "type": event, "timestamp": view.finished_at, "data": view });
        let request = EgressRequest::post(&due.url)?
            .with_json(&body)
            .with_timeout(NOTIFICATION_TIMEOUT)
            .with_webhook_signature(self.http.webhook_signer(), &id)?;
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
    fn pauses_double_up_to_two_hours() {
        let error = Error::new(codes::HTTP_SERVER_ERROR, "x");
        let pauses: Vec<_> = [1, 2, 3, 11, 13, 14, 99].map(|attempts| after(attempts, &error).unwrap() / SECOND).into();
        assert_eq!(pauses, [2, 4, 8, 2048, 7200, 7200, 7200]);
        assert_eq!(next_attempt_at(1, 0, 0, &error, 0.0), Some(SECOND), "chance takes away half at most");
        let asked = error.with_retry_after(Duration::from_secs(600));
        assert_eq!((after(1, &asked), after(13, &asked)), (Some(600 * SECOND), Some(7200 * SECOND)));
    }

    #[test]
    fn a_day_of_trying_is_enough() {
        let error = Error::new(codes::HTTP_REFUSED, "x").with_details(json!({ "status": 404 }));
        let (mut now, mut attempts) = (0, 1);
        while let Some(at) = next_attempt_at(attempts, 0, now, &error, 1.0) {
            (now, attempts) = (at, attempts + 1);
        }
        assert!((20 * 3600 * SECOND..24 * 3600 * SECOND).contains(&now), "{now}");
        assert_eq!(attempts, 23);
    }

    #[test]
    fn what_cannot_be_or_is_not_wanted_is_not_tried_again() {
        for code in [codes::EGRESS_BLOCKED, codes::HTTP_URL_INVALID] {
            assert_eq!(after(1, &Error::new(code, "x")), None);
        }
        assert_eq!(after(1, &Error::new(codes::HTTP_REFUSED, "x").with_details(json!({ "status": 410 }))), None);
    }
}
