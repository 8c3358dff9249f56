//! The steps of a run, as its page shows them.

use serde_json::Value;

use super::shared::{ErrorText, MAX_TEXT_CHARS};
use crate::numbers::grouped;
use crate::status::Chip;
use crate::times::{Moment, duration, took};
use afterload_core::clock::UnixMillis;
use afterload_core::text::shorten_text;
use afterload_engine::StepView;

pub(super) struct StepRow {
    pub id: String,
    pub uses: String,
    /// The section, if it is not `steps`.
    pub section: Option<&'static str>,
    pub chip: Chip,
    pub attempts: Option<String>,
    pub took: Option<String>,
    pub started: Option<Moment>,
    /// What it waits for.
    pub waits: Option<WaitText>,
    pub progress: Option<ProgressText>,
    pub error: Option<ErrorText>,
    pub outputs: Vec<NamedValue>,
}

pub(super) struct WaitText {
    pub what: &'static str,
    pub moment: Moment,
}

/// How far a step is.
pub(super) struct ProgressText {
    /// 0 to 100.
    pub percent: Option<String>,
    pub text: String,
}

/// An output or a param.
pub(super) struct NamedValue {
    pub name: String,
    pub value: String,
}

/// The row of a step.
pub(super) fn step_row(step: &StepView, now: UnixMillis) -> StepRow {
    let section = match step.section.as_str() {
        "on_success" => Some("on success"),
        "on_failure" => Some("on failure"),
        "finally" => Some("finally"),
        _ => None,
    };
    let waits = [
        ("next attempt", &step.retry_at),
        ("starts", &step.starts_at),
        ("resumes at the latest", &step.suspended_until),
    ];
    let waits = waits
        .into_iter()
        .find_map(|(what, time)| time.as_deref().map(|time| WaitText { what, moment: Moment::of_text(time, now) }));
    StepRow {
        id: step.id.clone(),
        uses: step.uses.clone(),
        section,
        chip: Chip::new(step.status),
        attempts: (step.attempt > 1).then(|| format!("attempt {}", step.attempt)),
        took: took(step.started_at.as_deref(), step.finished_at.as_deref(), now),
        started: step.started_at.as_deref().map(|time| Moment::of_text(time, now)),
        waits,
        progress: step.progress.as_ref().map(|progress| progress_text(progress, step.finished_at.is_some())),
        error: step.error.as_ref().map(|error| ErrorText::new(error, MAX_TEXT_CHARS)),
        outputs: step.outputs.as_ref().map(named_values).unwrap_or_default(),
    }
}

/// Describes how far a step is: `1,200 of 5,000 rows · 300 rows/s · 12 s left · 3 rejected`. One that has ended needs no bar
/// and no time.
pub(super) fn progress_text(progress: &Value, has_ended: bool) -> ProgressText {
    let number = |name: &str| progress[name].as_f64().map(|number| grouped(number as i64));
    let unit = progress["unit"].as_str().unwrap_or_default();
    let done = number("done").unwrap_or_else(|| "0".into());
    let mut parts = vec![match number("total") {
        Some(total) => format!("{done} of {total} {unit}"),
        None => format!("{done} {unit}"),
    }];
    parts.extend(number("rate").map(|rate| format!("{rate} {unit}/s")));
    let left = progress["eta_seconds"].as_i64().filter(|_| !has_ended);
    let left = left.map(|seconds| duration(seconds.saturating_mul(1_000)));
    parts.extend(left.map(|left| format!("{left} left")));
    for (name, count) in progress["counts"].as_object().into_iter().flatten() {
        parts.extend(count.as_i64().map(|count| format!("{} {name}", grouped(count))));
    }
    let message = progress["message"].as_str().map(|text| shorten_text(text, MAX_TEXT_CHARS).into_owned());
    parts.extend(message);
    ProgressText {
        percent: progress["percent"].as_f64().filter(|_| !has_ended).map(|percent| format!("{percent}")),
        text: parts.join(" · ").trim().to_owned(),
    }
}

/// The fields of an object, each as a short text.
pub(super) fn named_values(object: &Value) -> Vec<NamedValue> {
    let field = |(name, value): (&String, &Value)| NamedValue { name: name.clone(), value: value_text(value) };
    object.as_object().into_iter().flatten().map(field).collect()
}

fn value_text(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        // A file shows its name. Where it lies is in its link.
        Value::Object(file) if file.contains_key("artifact_id") || file.contains_key("bucket") => {
            file.get("name").and_then(Value::as_str).unwrap_or("a file").to_owned()
        }
        Value::Number(number) => number.as_i64().map_or_else(|| number.to_string(), grouped),
        other => other.to_string(),
    };
    shorten_text(&text, MAX_TEXT_CHARS).into_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn progress_is_shown_in_one_line() {
        let progress = json!({
            "done": 1200, "total": 5000, "unit": "rows", "percent": 24.0, "rate": 300.4, "eta_seconds": 12, "message": null,
            "counts": { "rejected": 3 },
        });
        let shown = progress_text(&progress, false);
        assert_eq!(shown.text, "1,200 of 5,000 rows · 300 rows/s · 12 s left · 3 rejected");
        assert_eq!(shown.percent.as_deref(), Some("24"));
        let ended = progress_text(&progress, true);
        assert_eq!((ended.text.as_str(), ended.percent), ("1,200 of 5,000 rows · 300 rows/s · 3 rejected", None));
        assert_eq!(progress_text(&json!({}), false).text, "0");
    }

    #[test]
    fn values_are_short_whatever_they_hold() {
        let long = "\u{202e}<b>".repeat(10_000);
        let values =
            named_values(&json!({ "text": long, "rows": 1_000_000, "file": { "bucket": "b", "name": "a.csv" } }));
        assert!(values[0].value.chars().count() <= MAX_TEXT_CHARS + 1);
        assert_eq!((values[1].value.as_str(), values[2].value.as_str()), ("1,000,000", "a.csv"));
    }
}
