//! `wait`: for a time, until a moment, or for an event, without holding a worker.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use afterload_core::clock;
use afterload_core::error::{Error, Result};
use afterload_core::units::{Duration, is_event};
use afterload_pipeline::{Check, Dynamic};
use afterload_step_api::{Context, Step, Suspension};

/// Waits for a time, until a moment, or until the application tells of an event (`POST /v1/events/NAME`). No worker is
/// held meanwhile, and a restart changes nothing.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Wait {
    /// How long to wait.
    #[serde(default, rename = "for")]
    duration: Option<Dynamic<Duration>>,
    /// Until when to wait, such as `2030-01-31T08:00:00Z`; what has passed is not waited for.
    #[serde(default)]
    until: Option<Dynamic<String>>,
    /// The name of the event to wait for. One that came after the run was accepted counts, too.
    #[serde(default)]
    event: Option<String>,
    /// Fields of the event and what they must be; `order.id` looks into an object. Numbers and their text are the same.
    #[serde(default, rename = "match")]
    matches: Map<String, Value>,
    /// How long to wait for the event; without it for ever.
    #[serde(default)]
    timeout: Option<Dynamic<Duration>>,
}

/// What the wait came to.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Outputs {
    /// Whether the event did not come in time; false for waits without an event.
    timed_out: bool,
    /// What the event said; null without one.
    event: Option<Value>,
}

impl Step for Wait {
    const KIND: &'static str = "wait";
    const EXAMPLE: &'static str =
        "event: order.accepted\nmatch: { order_id: \"${{ params.order_id }}\" }\ntimeout: 2m\n";
    type Outputs = Outputs;
    type Deps = ();

    fn check(&self, check: &mut Check<'_>) {
        let ways: Vec<_> = ["for", "until", "event"].into_iter().filter(|way| check.written(&[way])).collect();
        match ways[..] {
            [] => check.problem(&[], "a wait needs one of `for`, `until` and `event`", ""),
            [_] => {}
            [_, second, ..] => {
                check.problem(&[second], "a wait has only one of `for`, `until` and `event`", "use several steps");
            }
        }
        for field in ["match", "timeout"] {
            if check.written(&[field]) && !check.written(&["event"]) {
                check.problem(&[field], format!("`{field}` has a meaning only with `event`"), "");
            }
        }
        if let Some(name) = self.event.as_ref().filter(|name| !is_event(name)) {
            let hint = "letters, digits, `.`, `_` and `-`, such as `order.accepted`; it cannot hold an expression";
            check.problem(&["event"], format!("`{name}` is not a name for an event"), hint);
        }
        if let Some(text) = self.until.as_ref().and_then(Dynamic::known)
            && clock::parse_rfc3339(text).is_none()
        {
            check.problem(&["until"], format!("`{text}` is not a time"), "write it as `2030-01-31T08:00:00Z`");
        }
    }

    async fn run(self, ctx: Context, (): ()) -> Result<Outputs> {
        let waits_for_event = self.event.is_some();
        if let Some(slept) = &ctx.slept {
            let time_is_up = slept.until.is_some_and(|until| clock::now() >= until);
            if slept.event.is_some() || time_is_up {
                return Ok(Outputs { timed_out: waits_for_event && slept.event.is_none(), event: slept.event.clone() });
            }
        }
        let wait = match (self.duration, self.timeout) {
            (Some(wait), _) | (None, Some(wait)) => Some(wait.value()?),
            (None, None) => None,
        };
        let until = match self.until {
            Some(text) => {
                let text = text.value()?;
                Some(clock::parse_rfc3339(&text).ok_or_else(|| {
                    Error::permanent("with_invalid", format!("`{text}` is not a time"))
                        .hint("write it as `2030-01-31T08:00:00Z`")
                })?)
            }
            None => wait.map(|wait| clock::now().saturating_add(wait.millis())),
        };
        // What began before a crash goes on; it does not begin anew.
        let until = ctx.slept.as_ref().map_or(until, |slept| slept.until);
        if until.is_some_and(|until| until <= clock::now()) {
            return Ok(Outputs { timed_out: waits_for_event, event: None });
        }
        Err(ctx.suspend(Suspension { until, event: self.event.map(|name| (name, self.matches)) }))
    }
}
