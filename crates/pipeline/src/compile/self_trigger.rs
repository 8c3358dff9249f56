//! Rejects a pipeline whose output would start the pipeline again, because it would never end.

use super::super::plan::{S3Trigger, Section, Trigger};
use super::super::run_effect::KeyShape;
use super::run_effects::output_key_template;
use super::{Diagnostics, list_items};
use crate::codes;
use afterload_spanned_yaml::{Diagnostic, YamlNode};

/// Rejects an `output` that matches, or may match, an s3 trigger of the same pipeline.
pub fn check_self_trigger(root: &YamlNode, triggers: &[Trigger], faults: &mut Diagnostics) {
    let steps = Section::ALL.into_iter().flat_map(|section| list_items(root.get(section.field_name())));
    for output in steps.filter_map(|step| step.get("output")) {
        let Some(bucket) = output.get("bucket").and_then(YamlNode::as_str) else { continue };
        let key = KeyShape::from_template(&output_key_template(root, output));
        let mut triggers = triggers.iter().filter_map(Trigger::as_s3);
        let may_start = |trigger: &&S3Trigger| {
            may_equal(bucket, &trigger.bucket) && key.may_match(&trigger.prefix, &trigger.suffix)
        };
        if let Some(S3Trigger { bucket, prefix, suffix, .. }) = triggers.find(may_start) {
            let message =
                format!("what the step writes may start the pipeline again: `s3://{bucket}/{prefix}*{suffix}`");
            let hint = "write to another bucket, or under a prefix that the trigger does not have";
            let problem = Diagnostic::new(codes::TRIGGER_LOOP, output.closest_node(&["key"]).span, message);
            faults.problems.push(problem.with_hint(hint));
        }
    }
}

/// True if the template of a bucket may give this name. A bucket cannot hold an expression, but this is reported
/// elsewhere.
fn may_equal(template: &str, name: &str) -> bool {
    match template.split_once("${{") {
        None => template == name,
        Some((head, rest)) => {
            name.starts_with(head) && name.ends_with(rest.rsplit_once("}}").map_or("", |(_, tail)| tail))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::may_equal;

    #[test]
    fn bucket_with_an_expression_may_be_any_that_fits() {
        assert!(may_equal("uploads", "uploads") && !may_equal("public", "uploads"));
        assert!(may_equal("${{ event.bucket }}", "uploads") && !may_equal("public-${{ run.id }}", "uploads"));
    }
}
