//! Rejects a pipeline whose output would start the pipeline again, because it would never end.

use super::super::ast::ends_with_ignore_case;
use super::super::plan::{OutputTarget, S3Trigger, Section, Trigger};
use super::{Diagnostics, list_items};
use afterload_spanned_yaml::YamlNode;

/// Rejects an `output` that matches, or may match, an s3 trigger of the same pipeline.
pub fn check_self_trigger(root: &YamlNode, triggers: &[Trigger], faults: &mut Diagnostics) {
    let steps = Section::ALL.into_iter().flat_map(|section| list_items(root.get(section.field_name())));
    let name = root.get("name").and_then(YamlNode::as_str).unwrap_or_default();
    for output in steps.filter_map(|step| step.get("output")) {
        let Some(bucket) = output.get("bucket").and_then(YamlNode::as_str) else { continue };
        let key = output.get("key").and_then(YamlNode::as_str).unwrap_or(OutputTarget::DEFAULT_KEY);
        let key = key.replace("${{ run.pipeline }}", name);
        for trigger in triggers.iter().filter_map(Trigger::as_s3) {
            if may_equal(bucket, &trigger.bucket) && may_match(&key, trigger) {
                let S3Trigger { bucket, prefix, suffix, .. } = trigger;
                let message =
                    format!("what the step writes may start the pipeline again: `s3://{bucket}/{prefix}*{suffix}`");
                let hint = "write to another bucket, or under a prefix that the trigger does not have";
                faults.report_invalid(output.closest_node(&["key"]).span, message, hint);
                break;
            }
        }
    }
}

/// Returns the text before the first expression and after the last one; `None` if there is no expression.
fn literal_ends(text: &str) -> Option<(&str, &str)> {
    let (head, rest) = text.split_once("${{")?;
    Some((head, rest.rsplit_once("}}").map_or("", |(_, tail)| tail)))
}

fn may_equal(template: &str, name: &str) -> bool {
    match literal_ends(template) {
        None => template == name,
        Some((head, tail)) => name.starts_with(head) && name.ends_with(tail),
    }
}

fn may_match(key: &str, trigger: &S3Trigger) -> bool {
    let S3Trigger { prefix, suffix, .. } = trigger;
    match literal_ends(key) {
        None => key.starts_with(prefix.as_str()) && suffix.matches_key(key),
        Some((head, tail)) => {
            let starts = head.starts_with(prefix.as_str()) || prefix.starts_with(head);
            let ends = |suffix: &String| ends_with_ignore_case(tail, suffix) || ends_with_ignore_case(suffix, tail);
            starts && suffix.alternatives().iter().any(ends)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::ast::KeySuffix;
    use super::*;

    #[test]
    fn output_that_may_match_own_trigger_is_rejected() {
        let trigger = |prefix: &str, suffix: &str| S3Trigger {
            bucket: "uploads".into(),
            prefix: prefix.into(),
            suffix: KeySuffix::AnyOf(vec![".never".into(), suffix.into()]),
            poll_ms: None,
            with: serde_json::Map::new(),
        };
        for (key, prefix, suffix, expected) in [
            ("in/a.jpg", "in/", "", true),
            ("in/a.jpg", "in/", ".png", false),
            ("in/a.jpg", "in/", ".JPG", true),
            ("in/${{ run.id }}.JPG", "in/", "a.jpg", true),
            ("in/${{ run.id }}.jpg", "in/", ".jpg", true),
            ("in/${{ run.id }}.jpg", "in/", ".png", false),
            ("in/${{ run.id }}", "in/", ".png", true),
            ("thumbs/${{ run.id }}.jpg", "in/", "", false),
            ("${{ params.folder }}/a.jpg", "in/", "", true),
            ("i${{ params.rest }}", "in/", "", true),
            ("out/a", "", "", true),
        ] {
            assert_eq!(may_match(key, &trigger(prefix, suffix)), expected, "{key} {prefix} {suffix}");
        }
        assert!(may_equal("uploads", "uploads") && !may_equal("public", "uploads"));
        assert!(may_equal("${{ event.bucket }}", "uploads") && !may_equal("public-${{ run.id }}", "uploads"));
    }
}
