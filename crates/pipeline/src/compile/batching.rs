//! Compiles `debounce`, `max_wait` and `batch` of a trigger.

use super::super::ast::{BatchAst, TriggerAst};
use super::super::plan::TriggerBatching;
use super::Diagnostics;
use afterload_core::units::HumanDuration;
use afterload_spanned_yaml::YamlNode;

const SECOND_MS: i64 = 1_000;
const DAY_MS: i64 = 86_400 * SECOND_MS;
/// How many times its `debounce` the first event waits, unless `max_wait` sets it.
const DEFAULT_MAX_WAIT_FACTOR: i64 = 10;

/// True if the events of the trigger share runs, so that `event.items` exists.
pub fn is_batched(node: &YamlNode) -> bool {
    node.get("debounce").is_some() || node.get("batch").is_some()
}

/// Compiles how the events of an s3 or event trigger share runs.
pub fn compile_batching(node: &YamlNode, raw: &TriggerAst, faults: &mut Diagnostics) -> Option<TriggerBatching> {
    let span = |path: &[&str]| node.closest_node(path).span;
    if raw.debounce.is_some() && raw.batch.is_some() {
        let hint = "`debounce` waits for a quiet moment, `batch` for a number of events or a time";
        faults.report_invalid(span(&["batch"]), "a trigger has either `debounce` or `batch`", hint);
    }
    if raw.max_wait.is_some() && node.get("debounce").is_none() {
        let hint = "a batch waits no longer than its `within`";
        faults.report_invalid(span(&["max_wait"]), "`max_wait` needs `debounce`", hint);
    }
    if let Some(quiet) = raw.debounce {
        let quiet_ms = quiet.as_millis();
        if !(SECOND_MS..=DAY_MS).contains(&quiet_ms) {
            faults.report_invalid(span(&["debounce"]), "`debounce` must be from 1s to 1d", "");
        }
        let default_ms = quiet_ms.saturating_mul(DEFAULT_MAX_WAIT_FACTOR);
        let max_wait_ms = raw.max_wait.map_or(default_ms, HumanDuration::as_millis);
        if raw.max_wait.is_some() && !(quiet_ms..=DEFAULT_MAX_WAIT_FACTOR * DAY_MS).contains(&max_wait_ms) {
            let message = format!("`max_wait` must be from {quiet}, the time of `debounce`, to 10d");
            faults.report_invalid(span(&["max_wait"]), message, "");
        }
        return Some(TriggerBatching::Debounce { quiet_ms, max_wait_ms });
    }
    let BatchAst { size, within } = raw.batch.as_ref()?;
    if !(1..=TriggerBatching::MAX_EVENTS).contains(size) {
        faults.report_invalid(span(&["batch", "size"]), "`size` must be from 1 to 1000", "");
    }
    if !(SECOND_MS..=DAY_MS).contains(&within.as_millis()) {
        faults.report_invalid(span(&["batch", "within"]), "`within` must be from 1s to 1d", "");
    }
    Some(TriggerBatching::Batch { size: *size, within_ms: within.as_millis() })
}
