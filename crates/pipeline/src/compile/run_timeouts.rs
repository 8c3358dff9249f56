//! Checks `timeout` and `queue_timeout` of a pipeline.

use super::super::plan::Section;
use super::{Diagnostics, list_items};
use afterload_core::units::HumanDuration;
use afterload_spanned_yaml::{self as yaml, YamlNode};

/// A year, in milliseconds.
const MAX_RUN_TIMEOUT_MS: i64 = 365 * 86_400_000;

/// Checks both limits, and warns of other limits that they make void.
pub fn check_run_timeouts(
    root: &YamlNode,
    timeout: Option<HumanDuration>,
    queue_timeout: Option<HumanDuration>,
    faults: &mut Diagnostics,
) {
    for (field, limit) in [("timeout", timeout), ("queue_timeout", queue_timeout)] {
        if limit.is_some_and(|limit| !(1..=MAX_RUN_TIMEOUT_MS).contains(&limit.as_millis())) {
            let message = format!("`{field}` must be more than 0 and at most 365d");
            faults.report_invalid(root.closest_node(&[field]).span, message, "");
        }
    }
    let Some(timeout) = timeout else { return };
    if queue_timeout.is_some_and(|queue_timeout| queue_timeout.as_millis() >= timeout.as_millis()) {
        let message = format!("`queue_timeout` never passes: the `timeout` of the run is {timeout}");
        let span = root.closest_node(&["queue_timeout"]).span;
        faults.report_warning(span, message, "lower `queue_timeout`, or raise the `timeout` of the run");
    }
    let defaults = root.get("defaults");
    // `on_failure` and `finally` also run after the timeout of the run.
    let steps = [Section::Main, Section::OnSuccess].into_iter();
    let steps = steps.flat_map(|section| list_items(root.get(section.field_name())));
    for node in defaults.into_iter().chain(steps).filter_map(|step| step.get("timeout")) {
        let Ok(limit) = yaml::read::<HumanDuration>(node) else { continue };
        if limit.as_millis() > timeout.as_millis() {
            let message = format!("the run may take only {timeout}, so that this `timeout` of {limit} never passes");
            faults.report_warning(node.span, message, "lower it, or raise the `timeout` of the run");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The errors and the warnings, each with its line.
    fn findings(text: &str) -> (Vec<String>, Vec<String>) {
        let root = yaml::parse(text).expect("valid YAML");
        let read = |field: &str| root.get(field).and_then(|node| yaml::read::<HumanDuration>(node).ok());
        let mut faults = Diagnostics { problems: Vec::new(), warnings: Vec::new() };
        check_run_timeouts(&root, read("timeout"), read("queue_timeout"), &mut faults);
        let texts = |found: Vec<yaml::Diagnostic>| -> Vec<String> {
            found.into_iter().map(|one| format!("{}: {}", one.span.line, one.message)).collect()
        };
        (texts(faults.problems), texts(faults.warnings))
    }

    #[test]
    fn limits_that_never_pass_are_warned_of() {
        let text = "timeout: 10m\nqueue_timeout: 10m\ndefaults: { timeout: 1h }\nsteps:\n  - { id: a, timeout: 10m }\n  \
                    - { id: b, timeout: 20m }\non_success:\n  - { id: c, timeout: 11m }\non_failure:\n  - { id: d, timeout: 1h }\n";
        let warnings = [
            "2: `queue_timeout` never passes: the `timeout` of the run is 10m",
            "3: the run may take only 10m, so that this `timeout` of 1h never passes",
            "6: the run may take only 10m, so that this `timeout` of 20m never passes",
            "8: the run may take only 10m, so that this `timeout` of 11m never passes",
        ];
        assert_eq!(findings(text), (vec![], warnings.map(str::to_owned).to_vec()));
        assert_eq!(findings("queue_timeout: 1h\nsteps: [{ id: a, timeout: 2h }]\n"), (vec![], vec![]));
    }

    #[test]
    fn limits_have_a_range() {
        let problems = [
            "1: `timeout` must be more than 0 and at most 365d",
            "2: `queue_timeout` must be more than 0 and at most 365d",
        ];
        assert_eq!(findings("timeout: 0s\nqueue_timeout: 366d\n").0, problems);
    }
}
