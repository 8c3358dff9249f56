//! `wait`: suspends a run for a duration, until a time, or until an event. It holds no worker.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::codes;
use afterload_core::clock;
use afterload_core::error::{Error, Result};
use afterload_core::units::{HumanDuration, is_event_name};
use afterload_pipeline::{Templated, Validator};
use afterload_step_api::{Step, StepContext, SuspendRequest};

/// Waits for a time, until a moment, or until the application tells of an event (`POST /v1/events/NAME`). No worker is
/// held meanwhile, and a restart changes nothing.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WaitStep {
    /// How long to wait.
    #[serde(default, rename = "for")]
    duration: Option<Templated<HumanDuration>>,
    /// Until when to wait, such as `2030-01-31T08:00:00Z`; what has passed is not waited for.
    #[serde(default)]
    until: Option<Templated<String>>,
    /// The name of the event to wait for. One that came after the run was accepted counts, too.
    #[serde(default)]
    event: Option<String>,
    /// Fields of the event and what they must be; `order.id` looks into an object. Numbers and their text are the same.
    #[serde(default, rename = "match")]
    matches: Map<String, Value>,
    /// How long to wait for the event; without it for ever.
    #[serde(default)]
    timeout: Option<Templated<HumanDuration>>,
}

/// What the wait came to.
#[derive(Debug, Serialize, JsonSchema)]
pub struct WaitOutputs {
    /// Whether the event did not come in time; false for waits without an event.
    timed_out: bool,
    /// What the event said; null without one.
    event: Option<Value>,
}

impl Step for WaitStep {
    const KIND: &'static str = "wait";
    const EXAMPLE: &'static str =
        "event: order.accepted\nmatch: { order_id: \"${{ params.order_id }}\" }\ntimeout: 2m\n";
    type Outputs = WaitOutputs;
    type Deps = ();

    fn check(&self, check: &mut Validator<'_>) {
        let ways: Vec<_> = ["for", "until", "event"].into_iter().filter(|way| check.is_present(&[way])).collect();
        match ways[..] {
            [] => check.report_invalid(&[], "a wait needs one of `for`, `until` and `event`", ""),
            [_] => {}
            [_, second, ..] => {
                check.report_invalid(
                    &[second],
                    "a wait has only one of `for`, `until` and `event`",
                    "use several steps",
                );
            }
        }
        for field in ["match", "timeout"] {
            if check.is_present(&[field]) && !check.is_present(&["event"]) {
                check.report_invalid(&[field], format!("`{field}` has a meaning only with `event`"), "");
            }
        }
        if let Some(name) = self.event.as_ref().filter(|name| !is_event_name(name)) {
            let hint = "letters, digits, `.`, `_` and `-`, such as `order.accepted`; it cannot hold an expression";
            check.report_invalid(&["event"], format!("`{name}` is not a name for an event"), hint);
        }
        if let Some(text) = self.until.as_ref().and_then(Templated::as_literal)
            && clock::parse_rfc3339(text).is_none()
        {
            check.report_invalid(&["until"], format!("`{text}` is not a time"), "write it as `2030-01-31T08:00:00Z`");
        }
    }

    async fn run(self, ctx: StepContext, (): ()) -> Result<WaitOutputs> {
        let waits_for_event = self.event.is_some();
        if let Some(slept) = &ctx.resumed {
            let time_is_up = slept.until.is_some_and(|until| ctx.clock.now() >= until);
            if slept.event.is_some() || time_is_up {
                return Ok(WaitOutputs {
                    timed_out: waits_for_event && slept.event.is_none(),
                    event: slept.event.clone(),
                });
            }
        }
        let wait = match (self.duration, self.timeout) {
            (Some(wait), _) | (None, Some(wait)) => Some(wait.into_value()?),
            (None, None) => None,
        };
        let until = match self.until {
            Some(text) => {
                let text = text.into_value()?;
                Some(clock::parse_rfc3339(&text).ok_or_else(|| {
                    Error::new(codes::WITH_INVALID, format!("`{text}` is not a time"))
                        .with_hint("write it as `2030-01-31T08:00:00Z`")
                })?)
            }
            None => wait.map(|wait| ctx.clock.now().saturating_add(wait.as_millis())),
        };
        // After a crash the wait keeps its first deadline.
        let until = ctx.resumed.as_ref().map_or(until, |slept| slept.until);
        if until.is_some_and(|until| until <= ctx.clock.now()) {
            return Ok(WaitOutputs { timed_out: waits_for_event, event: None });
        }
        Err(ctx.suspend_step(SuspendRequest { until, event: self.event.map(|name| (name, self.matches)) }))
    }
}
