//! Schedules: each tick starts one run, no matter how many processes check the schedule.

use crate::codes;
use afterload_core::failpoint;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use super::TriggerDeps;
use afterload_core::clock::{UnixMillis, format_rfc3339};
use afterload_core::error::Result;
use afterload_engine::{DedupKey, LivePlan};
use afterload_pipeline::{CatchUp, CronSchedule, CronTrigger, Trigger};

/// The source of the dedup keys of cron ticks.
pub const CRON_SOURCE: &str = "cron";
const CRON_POLL_INTERVAL: Duration = Duration::from_millis(500);
/// How late a tick still counts as on time.
const ON_TIME_TOLERANCE_MS: UnixMillis = 60_000;
/// The maximum number of missed ticks that get a run; older ones are skipped.
const MAX_MISSED_TICKS: usize = 1000;

pub async fn run_cron(inner: Arc<TriggerDeps>, stop: CancellationToken) {
    let mut tick = tokio::time::interval(CRON_POLL_INTERVAL);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let check = async {
            tick.tick().await;
            inner.fire_due_schedules().await
        };
        tokio::select! {
            () = stop.cancelled() => return,
            checked = check => if let Err(error) = checked {
                tracing::warn!(error.code = error.code().name(), "checking the schedules failed: {error}");
            }
        }
    }
}

/// The id of a schedule. A changed schedule is a new one without missed ticks.
fn schedule_id(pipeline: &str, trigger: &CronTrigger) -> String {
    let text = format!("{pipeline}\n{}\n{}", trigger.schedule, trigger.timezone);
    hex::encode(Sha256::digest(text))
}

impl TriggerDeps {
    async fn fire_due_schedules(&self) -> Result<()> {
        let (now, mut known) = (self.engine.db().now(), Vec::new());
        for live in self.engine.list_live_plans().await? {
            for trigger in live.plan.triggers.iter().filter_map(Trigger::as_cron) {
                self.fire_schedule(&live, trigger, now).await?;
                known.push(schedule_id(&live.plan.name, trigger));
            }
        }
        self.engine.db().schedules().retain(&known).await
    }

    async fn fire_schedule(&self, live: &LivePlan, trigger: &CronTrigger, now: UnixMillis) -> Result<()> {
        // The schedule was validated when the pipeline was published.
        let Ok(schedule) = CronSchedule::parse(&trigger.schedule, &trigger.timezone) else { return Ok(()) };
        let (id, db) = (schedule_id(&live.plan.name, trigger), self.engine.db());
        let reached = db.schedules().load_cursor(&id, live.published_at.min(now)).await?;
        let due = due_ticks(&schedule, trigger.catch_up, reached, now);
        for moment in &due {
            let dedup_key = DedupKey { source: CRON_SOURCE, key: format!("{id}/{moment}"), fingerprint: None };
            match self
                .start_run(&live.plan.name, &trigger.with, &cron_event(&schedule, trigger, *moment).into(), dedup_key)
                .await
            {
                Ok(_) => failpoint!("cron.begun"),
                Err(error) if error.code() == codes::PIPELINE_NOT_FOUND => {}
                Err(error) => return Err(error),
            }
        }
        // The cursor moves after the runs are committed. A crash in between repeats the ticks, and their dedup keys
        // prevent a second run.
        if schedule.next_after(reached).is_some_and(|next| next <= now) {
            db.schedules().advance_cursor(&id, now).await?;
            failpoint!("cron.reached");
        }
        Ok(())
    }
}

/// The fields of `event`. The `pipeline` crate knows their names, to check expressions.
fn cron_event(schedule: &CronSchedule, trigger: &CronTrigger, moment: UnixMillis) -> Value {
    let local = schedule.to_local_time(moment);
    json!({
        "type": "cron",
        "time": format_rfc3339(moment),
        "date": local.as_ref().map(|local| &local.date),
        "local_time": local.as_ref().map(|local| &local.time),
        "schedule": trigger.schedule,
        "timezone": trigger.timezone,
    })
}

/// The ticks after `reached` that start a run now.
fn due_ticks(schedule: &CronSchedule, catch_up: CatchUp, reached: UnixMillis, now: UnixMillis) -> Vec<UnixMillis> {
    let mut moments = Vec::new();
    let mut time = reached;
    while let Some(next) = schedule.next_after(time).filter(|next| *next <= now) {
        moments.push(next);
        time = next;
        // Keep the latest ticks only.
        if moments.len() > MAX_MISSED_TICKS {
            moments.remove(0);
        }
    }
    let on_time = |moment: &UnixMillis| *moment > now - ON_TIME_TOLERANCE_MS;
    match catch_up {
        CatchUp::All => moments,
        CatchUp::None => moments.into_iter().filter(on_time).collect(),
        CatchUp::Last => {
            let last_missed = moments.iter().rev().find(|moment| !on_time(moment)).copied();
            // A tick on time replaces the missed ones before it.
            let timely: Vec<_> = moments.into_iter().filter(on_time).collect();
            if timely.is_empty() { last_missed.into_iter().collect() } else { timely }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use afterload_core::clock::parse_rfc3339;
    use afterload_pipeline::CRON_EVENT_FIELDS;

    use super::*;

    #[test]
    fn catch_up_decides_which_missed_ticks_run() {
        let schedule = CronSchedule::parse("0 * * * *", "UTC").expect("a schedule");
        let hour: UnixMillis = 3_600_000;
        // Down from 00:30 to 05:30. Then: back at 05:00:30, when the tick of 05:00 is still on time.
        let cases = [
            (CatchUp::None, 5 * hour + 1_800_000, vec![]),
            (CatchUp::Last, 5 * hour + 1_800_000, vec![5 * hour]),
            (CatchUp::All, 5 * hour + 1_800_000, (1..=5).map(|hours| hours * hour).collect()),
            (CatchUp::None, 5 * hour + 30_000, vec![5 * hour]),
            (CatchUp::Last, 5 * hour + 30_000, vec![5 * hour]),
        ];
        for (catch_up, now, expected) in cases {
            assert_eq!(due_ticks(&schedule, catch_up, 1_800_000, now), expected, "{catch_up:?} at {now}");
        }
    }

    #[test]
    fn event_names_the_date_of_the_zone() {
        let trigger = CronTrigger {
            schedule: "0 0 * * *".into(),
            timezone: "Europe/Paris".into(),
            catch_up: CatchUp::None,
            with: serde_json::Map::new(),
        };
        let schedule = CronSchedule::parse(&trigger.schedule, &trigger.timezone).expect("a schedule");
        let midnight = schedule.next_after(parse_rfc3339("2026-06-30T12:00:00Z").expect("a time")).expect("a tick");
        let expected = json!({
            "type": "cron",
            "time": "2026-06-30T22:00:00.000Z",
            "date": "2026-07-01",
            "local_time": "2026-07-01T00:00:00+02:00",
            "schedule": "0 0 * * *",
            "timezone": "Europe/Paris",
        });
        let event = cron_event(&schedule, &trigger, midnight);
        assert_eq!(event, expected);
        // Expressions are checked against these names.
        let names: BTreeSet<_> = event.as_object().expect("fields").keys().map(String::as_str).collect();
        assert_eq!(names, BTreeSet::from(CRON_EVENT_FIELDS));
    }

    #[test]
    fn the_number_of_missed_ticks_is_limited() {
        let schedule = CronSchedule::parse("* * * * *", "UTC").expect("a schedule");
        assert_eq!(due_ticks(&schedule, CatchUp::All, 0, 2_000 * 60_000).len(), MAX_MISSED_TICKS);
    }
}
